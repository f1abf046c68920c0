//! The history of the bridge: changes of state and gaps, in one file in `data_dir`, kept across restarts and crashes.
//!
//! Each view of the bridge (`state.rs`) passes through [`History::observe`], which derives changes by comparing it with the
//! view before. So `/status`, the metrics and the history cannot disagree, and the parts of the bridge do not depend on
//! the history. A task takes a view twice a second and writes the new entries; neither the events nor the parts wait for it.

mod condition;
mod content;
mod entry;
mod entry_limiter;
mod facts;
mod pause;
mod recorder;
mod standby;
mod store;
mod watch;

#[cfg(test)]
mod fill_tests;
#[cfg(test)]
mod standby_tests;
#[cfg(test)]
mod tests;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    io,
    path::Path,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use neurobridge_core::clock;
use neurobridge_listener::Label;
use neurobridge_spool::SpoolStatus;
use tracing::{info, warn};

pub(crate) use self::{
    content::HistoryContent,
    entry::{Entry, Kind},
    recorder::{HistorySource, Recorder},
    store::{FileState, delete, read},
};
use self::{
    content::Line,
    facts::SourceFacts,
    store::{Found, Job, Writer},
    watch::Watch,
};
use crate::{
    config::Config,
    gaps::{CRASH, FILLING, Gap, LEFT_TO_LEADER, ProofOfLife, RECOVERED, SourceGaps, UNRECOVERED},
    view::{SinkView, SourceView},
};

/// The number of entries in `/status`.
const SHOWN_ENTRIES: usize = 40;
/// The number of gaps of a source in `/status`.
const SHOWN_GAPS: usize = 16;
/// The interval at which the proof of life is written.
const ALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// The time after a failed write until the next attempt.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// The largest number of lines that wait for a slow disk. If more lines wait, the whole file is written instead.
const MAX_UNWRITTEN: usize = 2000;

/// The history of a running bridge.
#[derive(Debug)]
pub(crate) struct History {
    inner: Mutex<Inner>,
    /// Locked by one write at a time, on a thread that may block.
    writer: Mutex<Writer>,
    write_errors: AtomicU64,
}

#[derive(Debug)]
struct Inner {
    content: HistoryContent,
    watch: Watch,
    /// Whether the file has to be written as a whole.
    needs_rewrite: bool,
    /// The last written proofs of life, and the time of that write.
    written_alive: (BTreeMap<String, ProofOfLife>, Option<Instant>),
    /// The time of the next attempt after an error.
    retry_at: Option<Instant>,
}

/// The history as shown by `/status` and the metrics.
#[derive(Debug, Default)]
pub(crate) struct HistoryView {
    /// The newest entries, the newest first.
    pub(crate) entries: Vec<Entry>,
    /// The time of the newest entry of each kind and part.
    pub(crate) newest: BTreeMap<(String, Cow<'static, str>), Timestamp>,
    /// Failed attempts to write the file.
    pub(crate) write_errors: u64,
}

impl History {
    /// Reads the history of a data folder and begins a new run of the bridge. `sources` are the names of the configured sources,
    /// each with whether the events of its gaps are fetched, or its gaps reported to the sinks. A file that cannot be used does
    /// not prevent the start: the file is kept under another name, and the log states the reason. Blocks.
    pub(crate) fn open(data_dir: &Path, sources: &[(&str, bool)]) -> Self {
        Self::open_with(data_dir, sources, Watch::begin)
    }

    /// As [`open`](Self::open), for a member of a cluster that does not connect while it follows.
    pub(crate) fn open_standby(data_dir: &Path, sources: &[(&str, bool)]) -> Self {
        Self::open_with(data_dir, sources, Watch::begin_standby)
    }

    fn open_with(
        data_dir: &Path,
        sources: &[(&str, bool)],
        begin: fn(&mut HistoryContent, &[(&str, bool)], Timestamp),
    ) -> Self {
        let found = read_or_set_aside(data_dir);
        let mut content = found.content;
        let now = clock::now();
        let is_first = found.state == FileState::Missing;
        let has_stopped = content.stopped.is_some();
        begin(&mut content, sources, now);
        let version = env!("CARGO_PKG_VERSION");
        let text = if has_stopped || is_first {
            format!("bridge started, version {version}")
        } else {
            format!("bridge started, version {version}; the last run ended without an orderly stop")
        };
        let entry = Entry::new(Kind::BridgeStarted, now, &text);
        content.add(if has_stopped || is_first {
            entry
        } else {
            entry.with_reason(CRASH)
        });
        Self {
            inner: Mutex::new(Inner {
                content,
                watch: Watch::default(),
                needs_rewrite: true,
                written_alive: (BTreeMap::new(), None),
                retry_at: None,
            }),
            writer: Mutex::new(Writer::new(data_dir.to_owned())),
            write_errors: AtomicU64::new(0),
        }
    }

    /// Records which configuration runs, and whether it differs from that of the last run.
    pub(crate) fn configuration_loaded(&self, file: Option<&Path>, config: &Config) {
        let fingerprint = config.fingerprint();
        let mut inner = self.lock();
        let kind = Kind::ConfigurationLoaded;
        let mut earlier = inner.content.newest_entries().into_iter();
        let before = earlier
            .find(|entry| entry.kind == kind.as_str())
            .and_then(|entry| entry.fingerprint.clone());
        let origin = file.map_or_else(|| "the environment".to_owned(), |file| file.display().to_string());
        let (sources, sinks) = (config.sources.len(), config.sinks.len());
        let text = format!("configuration loaded: {origin}, sources: {sources}, sinks: {sinks}");
        let mut entry = Entry::new(kind, clock::now(), &text);
        let since_last_run = before.map(|before| {
            if before == fingerprint {
                "unchanged"
            } else {
                "changed"
            }
        });
        if let Some(change) = since_last_run {
            entry = entry.with_reason(change);
        }
        info!(since_last_run, "{text}");
        entry.fingerprint = Some(fingerprint);
        inner.content.add(entry);
    }

    /// Records that the process runs.
    fn tick(&self) {
        self.lock().watch.tick(clock::now());
    }

    /// Compares a view with the one before, and adds the changes. Sets the gaps of each source.
    pub(crate) fn observe(
        &self,
        sources: &mut [SourceView],
        sinks: &[SinkView],
        spool: &SpoolStatus,
    ) -> HistoryView {
        let now = clock::now();
        let mut inner = self.lock();
        let Inner { content, watch, .. } = &mut *inner;
        watch.tick(now);
        for source in &mut *sources {
            watch.observe_source(&SourceFacts::of(source), content, now);
        }
        for sink in sinks {
            watch.reset_replaced_sink(&sink.name, sink.handle.number);
            watch.observe_sink(&sink.name, &sink.snapshot, content, now);
        }
        watch.observe_spool(spool, content, now);
        for source in sources {
            source.gaps = gaps_of(&source.name, content, watch, now);
            let since = known_since(&source.gaps.newest, first_connection(&source.name, content));
            source.gaps.known_since = since.or(source.snapshot.first_authenticated);
        }
        let mut newest = BTreeMap::new();
        for entry in content.entries.values() {
            let time = newest
                .entry((entry.part(), entry.kind.clone()))
                .or_insert(entry.newest());
            *time = entry.newest().max(*time);
        }
        HistoryView {
            entries: content
                .newest_entries()
                .into_iter()
                .take(SHOWN_ENTRIES)
                .cloned()
                .collect(),
            newest,
            write_errors: self.write_errors.load(Ordering::Relaxed),
        }
    }

    /// Returns the gaps of a source whose events are to be fetched, the oldest first.
    pub(crate) fn filling(&self, source: &str) -> Vec<Gap> {
        let inner = self.lock();
        let gaps = inner.content.gaps.values();
        gaps.filter(|gap| gap.source == source && gap.outcome == FILLING)
            .cloned()
            .collect()
    }

    /// Records that the events of a gap were fetched, or why not.
    pub(crate) fn filled(&self, gap: &Gap, outcome: &'static str, fetched: u64, text: &str) {
        let mut inner = self.lock();
        let Inner { content, watch, .. } = &mut *inner;
        let Some(filled) = content.fill_gap(gap, outcome, fetched) else {
            return;
        };
        if outcome != RECOVERED && outcome != LEFT_TO_LEADER {
            watch.count_lost_gap(filled);
        }
        let entry = Entry::new(Kind::GapFilled, clock::now(), text).of_source(&gap.source);
        inner.content.add(entry.with_reason(outcome).events(fetched));
    }

    /// Ends the gap of a source that was removed, since nothing will fill it.
    pub(crate) fn remove_source(&self, name: &str) {
        let mut inner = self.lock();
        let Inner { content, watch, .. } = &mut *inner;
        content.end_gap(name, clock::now(), UNRECOVERED);
        content.alive.remove(name);
        watch.remove_source(name);
    }

    /// Records an orderly stop.
    fn stopped(&self, reason: &str) {
        let now = clock::now();
        let mut inner = self.lock();
        let text = format!("bridge stopped: {reason}");
        inner.content.add(Entry::new(Kind::BridgeStopped, now, &text));
        inner.content.stopped = Some(now);
        inner.needs_rewrite = true;
        inner.retry_at = None;
    }

    /// Returns the next write, if one is due.
    fn job(&self, now: Instant) -> Option<Job> {
        let mut inner = self.lock();
        if inner.retry_at.is_some_and(|at| at > now) {
            return None;
        }
        let (alive, at) = &inner.written_alive;
        let is_due = at.is_none_or(|at| now.saturating_duration_since(at) >= ALIVE_INTERVAL);
        let writes_alive = is_due && *alive != inner.content.alive;
        if writes_alive {
            let alive = inner.content.alive.clone();
            inner.content.unwritten.push(Line::Alive(alive.clone()));
            inner.written_alive = (alive, Some(now));
        }
        if inner.needs_rewrite || inner.content.unwritten.len() > MAX_UNWRITTEN {
            inner.content.unwritten.clear();
            inner.needs_rewrite = false;
            return Some(Job::rewrite(&inner.content));
        }
        let lines = std::mem::take(&mut inner.content.unwritten);
        (!lines.is_empty()).then_some(Job::Append(lines))
    }

    /// Writes the new lines. Blocks.
    fn write(&self) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(job) = self.job(Instant::now()) else {
            return;
        };
        let result = writer.execute(&job);
        let mut inner = self.lock();
        match result {
            Ok(is_outdated) => {
                inner.needs_rewrite |= is_outdated;
                if inner.retry_at.take().is_some() {
                    info!("the history can be written again");
                }
            }
            Err(error) => {
                self.write_errors.fetch_add(1, Ordering::Relaxed);
                inner.needs_rewrite = true;
                if inner.retry_at.replace(Instant::now() + RETRY_AFTER).is_none() {
                    warn!(
                        %error,
                        "the history (history.ndjson in data_dir) cannot be written; retrying, events are not affected"
                    );
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code under this lock can panic in the middle of an update.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn gaps_of(source: &str, content: &HistoryContent, watch: &Watch, now: Timestamp) -> SourceGaps {
    let mut gaps = SourceGaps {
        ended: watch.ended(source),
        lost: watch.lost(source),
        alive: content.alive.get(source).cloned(),
        ..SourceGaps::default()
    };
    for gap in content.newest_gaps().filter(|gap| gap.source == source) {
        let seconds = gap.seconds_at(now);
        gaps.total_seconds += seconds;
        if gap.is_open() {
            gaps.open_seconds = Some(seconds);
        } else if gap.outcome == FILLING {
            gaps.filling += gap.gaps;
        } else {
            *gaps
                .totals
                .entry((gap.reason.clone(), gap.outcome.clone()))
                .or_default() += gap.gaps;
        }
        if gaps.newest.len() < SHOWN_GAPS {
            gaps.newest.push(gap.clone());
        }
    }
    gaps
}

/// Returns the time of the first connection of a source that is on record.
fn first_connection(source: &str, content: &HistoryContent) -> Option<Timestamp> {
    let is_connected = |entry: &&Entry| {
        entry.kind == Kind::SourceConnected.as_str() && entry.source.as_deref() == Some(source)
    };
    content.entries.values().find(is_connected).map(|entry| entry.at)
}

/// Returns the time since which a source was connected outside of its newest gaps: its first connection on record, or the start
/// of the oldest of these gaps, before which it was connected too. If the number of gaps is [`SHOWN_GAPS`], older ones may exist.
fn known_since(newest: &[Gap], first_connection: Option<Timestamp>) -> Option<Timestamp> {
    let oldest = newest.last().map(|gap| gap.began);
    if newest.len() >= SHOWN_GAPS {
        return oldest;
    }
    oldest.into_iter().chain(first_connection).min()
}

/// Reads the file; one that cannot be used is kept under another name.
fn read_or_set_aside(data_dir: &Path) -> Found {
    let kept = |aside: io::Result<std::path::PathBuf>| match aside {
        Ok(path) => format!("kept as {}", path.display()),
        Err(error) => format!("not kept: {error}"),
    };
    match read(data_dir) {
        Ok(found) => {
            match found.state {
                FileState::Newer(version) => {
                    // Outside of the log line, whose fields are evaluated only if the line is logged.
                    let file = kept(store::set_aside(data_dir));
                    warn!(
                        version,
                        file,
                        "the history was written by a newer version of neurobridge; a new one begins, and the time since the \
                         last run is not recorded as a gap"
                    );
                    return Found::default();
                }
                FileState::Read if found.damaged_lines > 0 => {
                    let file = kept(store::copy_aside(data_dir));
                    let lines = found.damaged_lines;
                    warn!(
                        lines,
                        file,
                        "the history is damaged; unreadable lines are skipped, and the damaged file is kept as a copy"
                    );
                }
                FileState::Read | FileState::Missing => {}
            }
            found
        }
        Err(error) => {
            let file = kept(store::set_aside(data_dir));
            warn!(
                %error,
                file,
                "the history cannot be read; a new one begins, and the time since the last run is not recorded as a gap"
            );
            Found::default()
        }
    }
}
