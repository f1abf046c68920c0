//! `neurobridge spool`: lists, verifies and replays the stored events.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::anyhow;
use jiff::Timestamp;
use neurobridge_core::{event::Sequence, foreign_text, ledger::SinkCounts, units::ByteSize};
use neurobridge_spool::{
    SpoolConfig,
    inspect::{self, Listing, VerifyReport},
};

use serde::Serialize;

use super::{print, print_json};
use crate::{
    config::{self, Config},
    exit::{Exit, Failure, OrExit},
    table::Table,
};

/// Lists the spool of a configuration, also while a bridge runs. Changes nothing.
///
/// # Errors
/// Fails when the spool cannot be read.
pub(super) fn ls(config: Option<&Path>, json: bool) -> Result<Exit, Failure> {
    let config = config::load(config).or_exit(Exit::Config)?.config;
    let listing = inspect::list(&folder(&config)?).or_exit(Exit::Disk)?;
    if json {
        print_json(&ListingDocument::of(&listing))?;
    } else {
        print(list(&listing))?;
    }
    Ok(Exit::Ok)
}

/// The output of `spool ls --json`, a stable interface.
#[derive(Serialize)]
struct ListingDocument<'a> {
    /// The id of the spool; `None` if its file is missing or damaged.
    spool: Option<String>,
    segments: Vec<SegmentDocument<'a>>,
    cursors: Vec<CursorDocument<'a>>,
    /// `None` if the spool has no file with resume values.
    resume: Option<ResumeDocument<'a>>,
}

#[derive(Serialize)]
struct SegmentDocument<'a> {
    file: &'a Path,
    first: Sequence,
    received_at: Option<Timestamp>,
    bytes: u64,
}

#[derive(Serialize)]
struct CursorDocument<'a> {
    sink: &'a str,
    /// The next event to deliver. `None` if the cursor is missing or damaged, like `first` and `counts`.
    next: Option<Sequence>,
    first: Option<Sequence>,
    counts: Option<&'a SinkCounts>,
    damage: Option<&'a str>,
}

#[derive(Serialize)]
struct ResumeDocument<'a> {
    /// `None` if the file is damaged.
    next: Option<Sequence>,
    /// The resume value of each source, as JSON text.
    values: BTreeMap<&'a str, &'a str>,
    damage: Option<&'a str>,
}

impl<'a> ListingDocument<'a> {
    fn of(listing: &'a Listing) -> Self {
        let segments = listing.segments.iter().map(|segment| SegmentDocument {
            file: &segment.path,
            first: segment.first,
            received_at: segment.begins_at,
            bytes: segment.size_bytes,
        });
        let cursors = listing.cursors.iter().map(|state| {
            let cursor = state.cursor.as_ref();
            CursorDocument {
                sink: &state.reader,
                next: cursor.map(|cursor| cursor.next),
                first: cursor.map(|cursor| cursor.first),
                counts: cursor.map(|cursor| &cursor.counts),
                damage: state.damage.as_deref(),
            }
        });
        Self {
            spool: listing.id.map(|id| id.to_string()),
            segments: segments.collect(),
            cursors: cursors.collect(),
            resume: listing.resume.as_ref().map(|resume| ResumeDocument {
                next: resume.next,
                values: resume
                    .values
                    .iter()
                    .map(|(source, value)| (&**source, &**value))
                    .collect(),
                damage: resume.damage.as_deref(),
            }),
        }
    }
}

/// Verifies the spool of a configuration, also while a bridge runs. Changes nothing.
///
/// # Errors
/// Fails when the spool cannot be read or is damaged.
pub(super) fn verify(config: Option<&Path>) -> Result<Exit, Failure> {
    let config = config::load(config).or_exit(Exit::Config)?.config;
    let folder = folder(&config)?;
    let mut progress = Progress::start();
    let report = inspect::verify_with_progress(&folder, |read, all| progress.update(read, all));
    drop(progress);
    let report = report.or_exit(Exit::Disk)?;
    print(findings(&report))?;
    Ok(if report.findings.is_empty() {
        Exit::Ok
    } else {
        Exit::Disk
    })
}

/// A progress line, which is overwritten on a terminal and removed at the end. Without a terminal, nothing is written.
struct Progress {
    is_terminal: bool,
    written_at: Instant,
    has_written: bool,
}

impl Progress {
    /// The time between two updates. A verification that ends earlier shows no progress.
    const INTERVAL: Duration = Duration::from_millis(200);

    fn start() -> Self {
        Self {
            is_terminal: io::stderr().is_terminal(),
            written_at: Instant::now(),
            has_written: false,
        }
    }

    fn update(&mut self, read: u64, all: u64) {
        if self.is_terminal && self.written_at.elapsed() >= Self::INTERVAL {
            let size = |bytes: u64| ByteSize::from_mib(bytes.div_ceil(1 << 20));
            let percent = read.saturating_mul(100) / all.max(1);
            // A failed write is ignored, because the verification does not need the progress line.
            let _ = write!(
                io::stderr(),
                "\r{percent:>3} % checked, {} of {}\x1b[K",
                size(read),
                size(all)
            );
            self.written_at = Instant::now();
            self.has_written = true;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.has_written {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// Returns the folder of the spool on disk.
///
/// # Errors
/// Fails when the spool is in memory.
pub(super) fn folder(config: &Config) -> Result<PathBuf, Failure> {
    match &config.spool {
        SpoolConfig::Disk(disk) => Ok(config.data_dir.join(&disk.path)),
        _ => Err(Failure::new(
            Exit::Config,
            anyhow!("spool.type is \"memory\", expected \"disk\": a spool in memory has no files"),
        )),
    }
}

fn list(listing: &Listing) -> String {
    let mut segments = Table::new(["first", "received", "size", "file"]);
    for segment in &listing.segments {
        segments.row([
            segment.first.to_string(),
            segment
                .begins_at
                .map_or_else(|| "?".to_owned(), |time| time.to_string()),
            ByteSize::from_kib(segment.size_bytes.div_ceil(1024)).to_string(),
            segment.path.display().to_string(),
        ]);
    }
    let mut cursors = Table::new(["sink", "next", "since", "delivered", "other"]);
    for state in &listing.cursors {
        cursors.row(match &state.cursor {
            Some(cursor) => [
                state.reader.clone(),
                cursor.next.to_string(),
                cursor.first.to_string(),
                cursor.counts.delivered.to_string(),
                (cursor.counts.settled() - cursor.counts.delivered).to_string(),
            ],
            None => [
                state.reader.clone(),
                "damaged".to_owned(),
                String::new(),
                String::new(),
                String::new(),
            ],
        });
    }
    let resume = listing.resume.as_ref().map_or_else(String::new, |resume| {
        let mut values = Table::new(["source", "resumes after", "before record"]);
        let next = resume
            .next
            .map_or_else(|| "damaged".to_owned(), |next| next.to_string());
        if resume.next.is_none() {
            values.row([String::new(), String::new(), next.clone()]);
        }
        for (source, value) in &resume.values {
            // Like the `next` of a cursor: records from this sequence on may contain a newer value.
            values.row([source.to_string(), foreign_text::clean(value), next.clone()]);
        }
        format!("\n{values}")
    });
    let id = listing
        .id
        .map_or_else(|| "missing or damaged".to_owned(), |id| id.to_string());
    format!("spool {id}\n\n{segments}\n{cursors}{resume}")
}

fn findings(report: &VerifyReport) -> String {
    let range = report
        .range
        .map_or_else(String::new, |(first, last)| format!(", {first} to {last}"));
    let mut text = format!("{} intact events{range}\n", report.events);
    for finding in &report.findings {
        text.push_str(&format!(
            "{}, offset {}, event {}: {}\n",
            finding.path.display(),
            finding.offset,
            finding.from,
            finding.what
        ));
    }
    if !report.findings.is_empty() {
        text.push_str(
            "At its next start the bridge delivers the intact events, sets the damaged ones aside, and counts them.\n",
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use neurobridge_spool::inspect::ResumeFileState;

    use super::*;

    #[test]
    fn listing_shows_resume_values() {
        let value = |source: &str, value: &str| (source.into(), value.into());
        let mut listing = Listing {
            id: None,
            segments: Vec::new(),
            cursors: Vec::new(),
            resume: Some(ResumeFileState {
                next: Sequence::new(7),
                values: [value("a", "17"), value("b", "\"\u{202e}x\"")].into(),
                damage: None,
            }),
        };
        let text = list(&listing);
        assert!(text.contains("17") && text.contains("\"\\u{202e}x\""), "{text}");
        let json = serde_json::to_value(ListingDocument::of(&listing)).unwrap();
        assert_eq!(json["resume"]["next"], 7);
        assert_eq!(json["resume"]["values"]["a"], "17");
        listing.resume = Some(ResumeFileState {
            next: None,
            values: BTreeMap::new(),
            damage: Some("missing magic number".to_owned()),
        });
        assert!(list(&listing).contains("damaged"));
        listing.resume = None;
        assert!(!list(&listing).contains("resumes after"));
    }
}
