//! Fetches the events of gaps, and reports the gaps that cannot be filled to the sinks.
//!
//! A gap ends with the authentication of a connection. From then on the events of the feed wait for at most
//! `backfill.hold`, while the events of the gap are read from the platform's list and stored: then the order of each key is
//! complete. Later ones are marked as late. The list is read once more some seconds later, because an event that was
//! recognised while the connection was opened may be in neither. The outcome is recorded only when all of it is stored.

pub(crate) mod report;

use std::{sync::Arc, sync::atomic::Ordering, time::Duration};

use anyhow::anyhow;
use jiff::{SignedDuration, Timestamp};
use neurobridge_core::{backoff::Backoff, clock, event::Origin, ledger::SourceLedger, neuroio::Frames};
use neurobridge_listener::{
    BackfillConfig, Batcher, FeedEvent, GapEnded, MalformedReason, Received, SourceConfig,
};
use neurobridge_platform::{Client, Entries, Missed, Outcome, StopReason, Window, sentence};
use tokio::{
    sync::mpsc,
    task::spawn_blocking,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    config::Config,
    feed::joined,
    history::{Gap, PARTLY, RECOVERED, UNRECOVERED},
    intake::{Encoded, Encoder, IntakeSource},
    state::State,
};

/// The time from the authentication of a connection until an event that was recognised before it is in the list of the
/// platform, or sent on the connection.
const SETTLED_AFTER: Duration = Duration::from_secs(3);
/// The largest distance in ids by which an event may be received after a later one. Events that are read twice are dropped
/// as duplicates.
const ID_OVERLAP: u64 = 100;
/// The smallest deduplication window that recognises the events of the overlap.
const MIN_WINDOW: usize = 10 * ID_OVERLAP as usize;
/// The delays between attempts.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The interval at which the fetched events are checked for being stored.
const STORED_INTERVAL: Duration = Duration::from_millis(5);

/// Fetches the events of the gaps of one source.
pub(crate) struct Filler {
    settings: Preparation,
    source: Arc<IntakeSource>,
    ends: mpsc::Receiver<GapEnded>,
    encoder: Encoder,
    batches: mpsc::Sender<Encoded>,
    started: Timestamp,
    /// Cancelled when the gaps of a replaced source are to be filled.
    take_over: Option<CancellationToken>,
}

/// What a filler needs of the configuration.
pub(crate) struct Preparation {
    /// `None` if the events cannot be fetched, so that each gap is only reported.
    entries: Option<Entries>,
    config: BackfillConfig,
    /// Whether gaps that are not filled become events.
    reports: bool,
    frames: Frames,
    /// The number of ids by which the list overlaps what was received; 0 if the deduplication window is too small.
    id_overlap: u64,
}

impl Preparation {
    /// Returns what the filler of a source needs; `None` if the gaps of the source are neither filled nor reported. Reads the TLS
    /// files.
    ///
    /// # Errors
    /// Returns an error if a file cannot be read.
    pub(crate) async fn new(source: &SourceConfig, config: &Config) -> anyhow::Result<Option<Self>> {
        if !source.fills_gaps() {
            return Ok(None);
        }
        Ok(Some(Self {
            entries: entries(source).await?,
            config: source.backfill.clone(),
            reports: source.reports_gaps(),
            frames: Frames::new(&config.named_fields()),
            id_overlap: if config.deduplicate.max_events >= MIN_WINDOW {
                ID_OVERLAP
            } else {
                0
            },
        }))
    }

    /// Returns the longest time for which the events of the feed wait.
    pub(crate) fn hold(&self) -> Duration {
        self.entries.as_ref().map_or(Duration::ZERO, |_| self.config.hold)
    }
}

/// Returns the reader of the list of a platform; `None` if the configuration of the source has none. Blocks while it reads the
/// TLS files.
///
/// # Errors
/// Returns the key and the error of its configuration.
pub(crate) async fn entries(source: &SourceConfig) -> anyhow::Result<Option<Entries>> {
    let Some(url) = source.backfill_address().map(str::to_owned) else {
        return Ok(None);
    };
    let source = source.clone();
    let made = spawn_blocking(move || Client::new(&source, &url).map(|client| Entries::new(client, &source)));
    joined(made.await)
        .map(Some)
        .map_err(|(key, error)| anyhow!("{key}: {error}"))
}

/// The result of fetching the events of gaps.
struct Filled {
    /// Why not all events were fetched.
    reason: Option<StopReason>,
    /// Whether some events were fetched.
    is_partial: bool,
    /// The number of events that were stored.
    stored: u64,
    /// The largest id.
    last_id: Option<u64>,
}

impl Filler {
    pub(crate) fn new(
        settings: Preparation,
        source: Arc<IntakeSource>,
        ends: mpsc::Receiver<GapEnded>,
        encoder: Encoder,
        batches: mpsc::Sender<Encoded>,
    ) -> Self {
        Self {
            settings,
            source,
            ends,
            encoder,
            batches,
            started: clock::now(),
            take_over: None,
        }
    }

    /// Continues what the filler of another instance of the source has not filled when `authorised` is cancelled.
    pub(crate) fn taking_over(mut self, authorised: Option<CancellationToken>) -> Self {
        self.take_over = authorised;
        self
    }

    /// Fills the gaps of the source until `stop` is cancelled or the source ends. Gaps that are not filled by then are filled in
    /// the next run.
    pub(crate) async fn run(mut self, state: Arc<State>, stop: CancellationToken) {
        stop.run_until_cancelled(self.fill_gaps(&state)).await;
    }

    async fn fill_gaps(&mut self, state: &State) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut retry_at = None;
        // A failed attempt may have stored a part of the events.
        let mut stored_before = None;
        let mut next = None;
        loop {
            let hold = match next.take() {
                Some(ended) => Some(ended),
                None => match self.wait(retry_at.take()).await {
                    Some(hold) => hold,
                    None => return,
                },
            };
            // Derives the gap from the state of the source.
            drop(state.view());
            let gaps = state.history.filling(&self.source.name);
            if gaps.is_empty() {
                continue;
            }
            let counter = || self.source.stats.backfilled.load(Ordering::Relaxed);
            let before = *stored_before.get_or_insert_with(counter);
            let mut filled = match self.fill(&gaps, hold).await {
                Ok(filled) => filled,
                Err(ended) => {
                    next = Some(ended);
                    continue;
                }
            };
            filled.stored = self.source.stats.backfilled.load(Ordering::Relaxed) - before;
            let (gaps, others): (Vec<Gap>, Vec<Gap>) = match &filled.reason {
                Some(reason) if may_pass(reason) => gaps.into_iter().partition(|gap| self.is_given_up(gap)),
                _ => (gaps, Vec::new()),
            };
            if let Some(reason) = &filled.reason {
                let failures = &self.source.stats.backfill_failures;
                failures.fetch_add(1, Ordering::Relaxed);
                if !others.is_empty() {
                    let delay = backoff.next_delay();
                    warn!(
                        source = %self.source.name,
                        gaps = others.len(),
                        ?delay,
                        "missed events cannot be fetched: {}; retrying",
                        sentence(reason)
                    );
                    retry_at = Some(Instant::now() + delay);
                }
            }
            if retry_at.is_none() {
                backoff.reset();
            }
            if !gaps.is_empty() {
                stored_before = None;
                self.record(&gaps, &filled, state).await;
            }
        }
    }

    /// Waits until gaps are to be filled. Returns the end of a gap if that is the reason, and `None` if the source has ended.
    async fn wait(&mut self, retry_at: Option<Instant>) -> Option<Option<GapEnded>> {
        match (retry_at, self.take_over.take()) {
            (None, None) => self.ends.recv().await.map(Some),
            (_, Some(authorised)) => tokio::select! {
                biased;
                ended = self.ends.recv() => ended.map(Some),
                () = authorised.cancelled() => Some(None),
            },
            (Some(at), None) => tokio::select! {
                biased;
                ended = self.ends.recv() => ended.map(Some),
                () = sleep_until(at) => Some(None),
            },
        }
    }

    /// Returns whether a gap ended so long ago that no further attempt is made.
    fn is_given_up(&self, gap: &Gap) -> bool {
        let limit =
            SignedDuration::try_from(self.settings.config.give_up_after).unwrap_or(SignedDuration::MAX);
        gap.ended
            .is_none_or(|ended| clock::now().duration_since(ended) >= limit)
    }

    /// Fetches and stores the events of gaps. Returns when they are stored, or the end of a further gap, with which to start
    /// again.
    async fn fill(&mut self, gaps: &[Gap], hold: Option<GapEnded>) -> Result<Filled, GapEnded> {
        let mut window = self.window(gaps);
        let mut filled = self.fetch(&window, hold.as_ref()).await;
        drop(hold);
        if filled.reason.is_none() && self.settings.entries.is_some() {
            let is_partial = filled.is_partial;
            self.settle(gaps).await?;
            // What the first reading has found is not read again.
            let found = filled
                .last_id
                .map(|id| id.saturating_sub(self.settings.id_overlap));
            window.after = found.max(window.after).filter(|_| window.after.is_some());
            filled = self.fetch(&window, None).await;
            filled.is_partial |= is_partial;
        }
        self.stored().await;
        Ok(filled)
    }

    /// Waits until the events that precede the connection are in the list, or a further gap ends.
    async fn settle(&mut self, gaps: &[Gap]) -> Result<(), GapEnded> {
        let since = gaps.iter().filter_map(|gap| gap.ended).max();
        let age = since.map(|ended| clock::now().duration_since(ended));
        let age = age.and_then(|age| Duration::try_from(age).ok());
        let left = SETTLED_AFTER.saturating_sub(age.unwrap_or_default());
        tokio::select! {
            biased;
            // Disabled when the source has ended.
            Some(ended) = self.ends.recv() => return Err(ended),
            () = sleep(left) => {}
        }
        Ok(())
    }

    /// Returns the part of the list that covers gaps.
    fn window(&self, gaps: &[Gap]) -> Window {
        let now = clock::now();
        let after = gaps.iter().map(|gap| {
            let id: u64 = gap.last_event.as_deref()?.parse().ok()?;
            // After a restart the deduplication window may not have the events before the gap.
            let overlap = if gap.began < self.started {
                0
            } else {
                self.settings.id_overlap
            };
            Some(id.saturating_sub(overlap))
        });
        Window {
            // `None` is less than any id: if one is unknown, all gaps are read by time.
            after: after.min().flatten(),
            from: gaps.iter().map(|gap| gap.began).min().unwrap_or(now),
            to: gaps
                .iter()
                .map(|gap| gap.ended.unwrap_or(now))
                .max()
                .unwrap_or(now),
            overlap: self.settings.config.overlap,
        }
    }

    async fn fetch(&mut self, window: &Window, hold: Option<&GapEnded>) -> Filled {
        let mut filled = Filled {
            reason: None,
            is_partial: false,
            stored: 0,
            last_id: None,
        };
        let Some(mut entries) = self.settings.entries.take() else {
            return filled;
        };
        let (sender, mut pages) = mpsc::channel(1);
        let reading = async {
            let report = entries.fetch(window, &sender).await;
            drop(sender);
            report
        };
        let storing = async {
            let mut last_id = None;
            while let Some(page) = pages.recv().await {
                last_id = page.iter().map(|missed| missed.id).max().max(last_id);
                let is_late = !hold.is_some_and(GapEnded::is_holding);
                if !self.store(&page, is_late).await {
                    break;
                }
            }
            last_id
        };
        let (report, last_id) = tokio::join!(reading, storing);
        self.settings.entries = Some(entries);
        filled.last_id = last_id;
        filled.is_partial = report.entries > 0;
        filled.reason = match report.outcome {
            Outcome::Complete => None,
            Outcome::Partly(reason) | Outcome::Failed(reason) => Some(reason),
        };
        filled
    }

    /// Passes events to the intake. Returns false if the bridge is stopping.
    async fn store(&mut self, page: &[Missed], is_late: bool) -> bool {
        self.encoder.set_origin(if is_late {
            Origin::LateBackfill
        } else {
            Origin::Backfill
        });
        for missed in page {
            let text = &missed.frame;
            self.encoder.push(match self.settings.frames.event(text) {
                Some(positions) => Received::Event(FeedEvent::of_frame(text, positions)),
                None => Received::Malformed {
                    text,
                    reason: MalformedReason::UnknownKind,
                },
            });
        }
        let batch = self.encoder.take(clock::now());
        self.send(batch, page.len() as u64).await
    }

    async fn send(&self, batch: Encoded, events: u64) -> bool {
        let Ok(room) = self.batches.reserve().await else {
            return false;
        };
        // Without an await in between: what is counted is in the channel.
        self.source.ledger.receive(events);
        room.send(batch);
        true
    }

    /// Waits until the events that were sent are stored. The channel keeps their order, so that as many events are settled as
    /// were received by now.
    async fn stored(&self) {
        let ledger: &SourceLedger = &self.source.ledger;
        let received = ledger.counts().received;
        loop {
            let counts = ledger.counts();
            if counts.received - counts.in_flight >= received {
                return;
            }
            sleep(STORED_INTERVAL).await;
        }
    }

    /// Records the outcome of gaps, and reports those that are not filled.
    async fn record(&mut self, gaps: &[Gap], filled: &Filled, state: &State) {
        let reason = match &filled.reason {
            None if self.settings.entries.is_some() => None,
            None => Some("there is no list from which missed events can be fetched".to_owned()),
            Some(reason) => Some(sentence(reason)),
        };
        let (outcome, text) = match &reason {
            None => (
                RECOVERED,
                format!("missed events were fetched: {}", filled.stored),
            ),
            Some(reason) if filled.is_partial || filled.stored > 0 => (
                PARTLY,
                format!(
                    "only a part of the missed events was fetched, {}: {reason}",
                    filled.stored
                ),
            ),
            Some(reason) => (UNRECOVERED, format!("missed events were not fetched: {reason}")),
        };
        let name = &*self.source.name;
        match outcome {
            RECOVERED => info!(source = name, gaps = gaps.len(), "{text}"),
            _ => warn!(source = name, gaps = gaps.len(), "{text}"),
        }
        for (index, gap) in gaps.iter().enumerate() {
            // The events of several gaps are fetched together. They are counted with the first.
            let fetched = if index == 0 { filled.stored } else { 0 };
            if outcome != RECOVERED && self.settings.reports {
                let report = report::Report::new(gap, outcome, fetched, reason.as_deref());
                if !self.send(self.encoder.report(&report), 1).await {
                    return;
                }
                // Before the outcome: after a crash in between the report is made again, with the same id.
                self.stored().await;
            }
            state.history.filled(gap, outcome, fetched, &text);
        }
    }
}

/// Returns whether a later attempt may succeed.
const fn may_pass(reason: &StopReason) -> bool {
    matches!(reason, StopReason::Request(_) | StopReason::Delay { .. })
}
