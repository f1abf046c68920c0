//! The intake: encodes frames as records, filters, redacts, deduplicates, and stores them.
//!
//! The [`Encoder`] does everything that needs no knowledge of other events, in the task that reads the socket. The rest
//! is one task for all sources, because they share the deduplication window, and the spool has one writer. This task receives
//! all waiting batches and appends them to the spool. While the spool blocks, the channel of batches fills and the
//! listeners stop reading. When all listeners have ended, the task stores the remaining batches and ends.

mod dedupe;
mod encode;
mod newest;
mod numbers;
mod order;

use std::{
    io,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, stream::FuturesOrdered};
use jiff::{SignedDuration, Timestamp};
use neurobridge_core::{
    clock,
    dead_letter::{DeadLetterSummary, DeadLetters, RecentDeadLetters},
    delivery::Backoff,
    histogram::Histogram,
    identity,
    ledger::{SourceLedger, SourceOutcome},
    record::{Batch, IntakeDecision},
};
use neurobridge_listener::StoredPosition;
use neurobridge_spool::{AppendError, ResumeValue, Spool};
use tokio::{sync::mpsc, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

pub(crate) use self::dedupe::ANY_BODY;
use self::dedupe::{DeduplicationWindow, Novelty};
use self::encode::Progress;
pub(crate) use self::encode::{Encoded, Encoder, Rules, order_of};
use self::newest::load_newest;
use self::order::Orders;

/// The smallest capacity of the channel between listeners and intake, in batches, one for each wake-up of a socket. When it is
/// full, the listeners stop reading their sockets.
const MIN_CHANNEL_CAPACITY: usize = 4;
/// The largest number of batches that are appended together, with one sync.
const MAX_MERGED_BATCHES: usize = 128;
/// The largest size of batches that are appended together. A larger batch is appended alone, in its own buffer: merging
/// would copy it.
const MAX_MERGED_BYTES: usize = 64 << 10;
/// The largest number of concurrent appends to a spool on disk: while the spool syncs some, the next ones are prepared, and then
/// synced together. Twice the number at which the spool syncs without waiting for more. A spool in memory has one append at a
/// time: it has no sync to save, and appends that wait for space would use memory beyond the limit of the spool.
pub(crate) const CONCURRENT_APPENDS_ON_DISK: usize = 16;
/// The number of events of earlier runs that are loaded if an earlier run has not filled all gaps: fetched events are compared
/// with them. Loading takes a second, or some seconds on a busy machine.
pub(crate) const KNOWN_EVENTS: usize = 262_144;
/// The number of events of earlier runs that are always loaded, to compare fetched events with them.
const MIN_KNOWN_EVENTS: usize = 65_536;
/// The largest difference between the times of batches from different sources. A larger difference is a step of the clock,
/// now or in an earlier run.
const MAX_DISORDER: SignedDuration = SignedDuration::from_secs(10);

/// Returns the capacity of the channel between listeners and intake: each source has room for a batch. With less room, small
/// batches of other sources would interrupt the reading of a source.
pub(crate) fn channel_capacity(sources: usize) -> usize {
    sources.max(MIN_CHANNEL_CAPACITY)
}

/// The options of the intake.
pub(crate) struct Options {
    /// The size of the deduplication window, in events.
    pub(crate) window_events: usize,
    /// The number of events of earlier runs with which fetched events are compared, at least [`MIN_KNOWN_EVENTS`].
    pub(crate) known_events: usize,
    /// Cancelled when the known events are loaded. Events of the feed are stored meanwhile.
    pub(crate) known_events_loaded: CancellationToken,
    pub(crate) dead_letters: Arc<dyn DeadLetters>,
    /// The largest number of concurrent appends.
    pub(crate) concurrent_appends: usize,
}

/// The intake's handle of a source. Each batch carries one, so that sources can be added and removed while the intake runs.
pub(crate) struct IntakeSource {
    pub(crate) name: Arc<str>,
    pub(crate) ledger: Arc<SourceLedger>,
    pub(crate) stats: Arc<IntakeStats>,
    /// Passes the stored events to the connection.
    pub(crate) stored: Arc<StoredPosition>,
}

/// The intake's counters for a source, in addition to its ledger.
#[derive(Debug, Default)]
pub(crate) struct IntakeStats {
    /// Events with a known identity and a different body.
    pub(crate) id_conflicts: AtomicU64,
    /// Events that were fetched after a gap and stored.
    pub(crate) backfilled: AtomicU64,
    /// Attempts to fetch events that failed.
    pub(crate) backfill_failures: AtomicU64,
    /// The time from `created` to receipt, measured for one event of each wake-up of the socket.
    pub(crate) event_age: Histogram,
    newest_dead_letters: Mutex<RecentDeadLetters>,
    last_event_id: Mutex<String>,
}

impl IntakeSource {
    /// Creates the handle of a source without events.
    pub(crate) fn new(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            ledger: Arc::default(),
            stats: Arc::default(),
            stored: Arc::default(),
        }
    }
}

impl IntakeStats {
    /// Returns the newest dead letters of the source.
    pub(crate) fn newest_dead_letters(&self) -> RecentDeadLetters {
        self.lock_newest_dead_letters().clone()
    }

    /// Returns the id of the last event of the feed, which the ledger counts already.
    pub(crate) fn last_event_id(&self) -> Option<String> {
        let id = self.last_event_id.lock().unwrap_or_else(PoisonError::into_inner);
        (!id.is_empty()).then(|| id.clone())
    }

    fn set_last_event_id(&self, id: &str) {
        let mut last = self.last_event_id.lock().unwrap_or_else(PoisonError::into_inner);
        last.clear();
        last.push_str(id);
    }

    fn record_dead_letter(&self, reason: &'static str) {
        self.lock_newest_dead_letters().push(DeadLetterSummary {
            at: clock::now(),
            reason,
            sequence: None,
        });
    }

    fn lock_newest_dead_letters(&self) -> std::sync::MutexGuard<'_, RecentDeadLetters> {
        // No code under this lock can panic in the middle of an update.
        self.newest_dead_letters
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stores the batches of all sources until the last sender of batches is dropped.
///
/// # Errors
/// Returns an error if the spool has failed.
pub(crate) async fn run(
    options: Options,
    spool: Spool,
    mut batches: mpsc::Receiver<Encoded>,
) -> Result<(), AppendError> {
    let concurrent = options.concurrent_appends;
    let mut window = DeduplicationWindow::new(options.window_events);
    // Events that are received again after a restart are duplicates too. Batches wait in the channel meanwhile.
    let (recent, latest_receipt) = load_newest(&spool, options.window_events.max(MIN_KNOWN_EVENTS)).await;
    for event in &recent[recent.len().saturating_sub(options.window_events)..] {
        window.insert(event.identity, event.body);
    }
    let mut intake = Intake::new(window, latest_receipt, options.dead_letters);
    intake.orders.add_known(&recent);
    let known = load_newest(&spool, options.known_events);
    let mut known = pin!(known.fuse());
    let mut waiting = Vec::with_capacity(MAX_MERGED_BATCHES);
    let mut appends = FuturesOrdered::new();
    loop {
        // An append starts when it is first polled: `biased` polls the appends first, and in order.
        tokio::select! {
            biased;
            Some(appended) = appends.next() => Intake::settle(appended?),
            (events, _) = &mut known => {
                intake.orders.add_known(&events);
                options.known_events_loaded.cancel();
            }
            received = batches.recv_many(&mut waiting, MAX_MERGED_BATCHES), if appends.len() < concurrent => {
                if received == 0 {
                    break;
                }
                while !waiting.is_empty() {
                    let count = mergeable(&waiting);
                    let mut records = Batch::default();
                    let mut progress = Vec::with_capacity(count);
                    let mut resume = Vec::new();
                    for mut batch in waiting.drain(..count) {
                        resume.extend(batch.progress.resume.clone().map(|value| ResumeValue {
                            source: Arc::clone(&batch.source.name),
                            value,
                        }));
                        progress.push((Arc::clone(&batch.source), std::mem::take(&mut batch.progress)));
                        records.append(intake.admit(batch));
                    }
                    let records = records.fitted();
                    intake.store_dead_letters().await;
                    let appended = Appended {
                        tallies: std::mem::take(&mut intake.tallies),
                        progress,
                    };
                    let spool = &spool;
                    appends.push_back(async move { spool.append_resuming(records, resume).await.map(|_| appended) });
                    while appends.len() >= concurrent {
                        if let Some(appended) = appends.next().await {
                            Intake::settle(appended?);
                        }
                    }
                }
            }
        }
    }
    while let Some(appended) = appends.next().await {
        Intake::settle(appended?);
    }
    Ok(())
}

/// Returns the number of waiting batches to append together, at least one.
fn mergeable(waiting: &[Encoded]) -> usize {
    let mut bytes = 0;
    let fits = |batch: &&Encoded| {
        bytes += batch.records.len();
        bytes <= MAX_MERGED_BYTES
    };
    waiting.iter().take_while(fits).count().max(1)
}

struct Intake {
    dead_letters: Arc<dyn DeadLetters>,
    window: DeduplicationWindow,
    orders: Orders,
    /// The counts since the last append.
    tallies: Tallies,
    /// The latest time of receipt. Records are stored with increasing times, also across sources; only a step of the
    /// clock moves it back.
    latest_receipt: Timestamp,
    /// The decisions of the records of the present batch.
    decisions: Vec<IntakeDecision>,
    dead_letter_lines: String,
}

/// The result of an append.
struct Appended {
    tallies: Tallies,
    /// What to report to the feeds, in the order of the batches.
    progress: Vec<(Arc<IntakeSource>, Progress)>,
}

/// The number of a source's events by outcome, for one append.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    stored: u64,
    filtered: u64,
    duplicate: u64,
    dead_lettered: u64,
}

/// The counts of one append, by source. Most appends have batches of few sources, so that a search is cheap.
#[derive(Default)]
struct Tallies(Vec<(Arc<IntakeSource>, Tally)>);

impl Tallies {
    fn of(&mut self, source: &Arc<IntakeSource>) -> &mut Tally {
        let found = self.0.iter().position(|(known, _)| Arc::ptr_eq(known, source));
        let index = found.unwrap_or_else(|| {
            self.0.push((Arc::clone(source), Tally::default()));
            self.0.len() - 1
        });
        &mut self.0[index].1
    }
}

impl Intake {
    fn new(
        window: DeduplicationWindow,
        latest_receipt: Option<Timestamp>,
        dead_letters: Arc<dyn DeadLetters>,
    ) -> Self {
        Self {
            dead_letters,
            window,
            orders: Orders::default(),
            tallies: Tallies::default(),
            latest_receipt: latest_receipt.unwrap_or(Timestamp::MIN),
            decisions: Vec::new(),
            dead_letter_lines: String::new(),
        }
    }

    /// Deduplicates and counts the events of a batch. Returns the records to store.
    fn admit(&mut self, batch: Encoded) -> Batch {
        let Encoded {
            source,
            received_at,
            mut records,
            arrivals,
            dead_letter_lines,
            dead_lettered,
            progress: _,
            connection,
            origin,
        } = batch;
        if self.latest_receipt.duration_since(received_at) > MAX_DISORDER {
            self.latest_receipt = received_at;
        }
        self.latest_receipt = self.latest_receipt.max(received_at);
        let tally = self.tallies.of(&source);
        self.dead_letter_lines.push_str(&dead_letter_lines);
        tally.dead_lettered += dead_lettered;
        self.decisions.clear();
        let stored_before = tally.stored;
        let mut order = self.orders.of(&source.name, origin, connection);
        for arrival in arrivals {
            let novelty = match arrival.identity {
                Some(identity) => self.window.insert(identity, arrival.body),
                None => Novelty::New,
            };
            let conflict = match novelty {
                Novelty::Conflict => Some(identity::conflict_suffix(arrival.body)),
                Novelty::New | Novelty::Duplicate => None,
            };
            let is_known = novelty == Novelty::New && order.is_known(arrival.order);
            let decision = if is_known || novelty == Novelty::Duplicate {
                IntakeDecision::Drop
            } else {
                IntakeDecision::Keep {
                    conflict,
                    is_late: arrival.is_encoded && order.is_late(arrival.order),
                }
            };
            if let Some(suffix) = conflict {
                debug!(
                    source = %source.name,
                    suffix = format_args!("~{suffix:08x}"),
                    "event id repeated with another body"
                );
                source.stats.id_conflicts.fetch_add(1, Ordering::Relaxed);
            }
            // A filtered event does not count as stored: it may be fetched later, with another filter.
            order.add(arrival.order.filter(|_| arrival.is_encoded));
            match (decision, arrival.is_encoded) {
                (IntakeDecision::Drop, _) => tally.duplicate += 1,
                (_, true) => tally.stored += 1,
                (_, false) => tally.filtered += 1,
            }
            if arrival.is_encoded {
                self.decisions.push(decision);
            }
        }
        if origin.is_backfill() {
            let stored = tally.stored - stored_before;
            source.stats.backfilled.fetch_add(stored, Ordering::Relaxed);
        }
        if self.latest_receipt != received_at {
            records.set_received_at(self.latest_receipt);
        }
        // Usually all records are stored unchanged, and are not read here: they are in the cache of another core.
        if self
            .decisions
            .iter()
            .any(|decision| *decision != IntakeDecision::KEEP)
        {
            records.apply(self.decisions.drain(..));
        }
        records
    }

    /// Stores the dead letters before the events after them count as stored. Retries without limit: the feed is blocked
    /// meanwhile, so that no frame is lost without being counted.
    async fn store_dead_letters(&mut self) {
        if self.dead_letter_lines.is_empty() {
            return;
        }
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));
        while let Err(error) = self.dead_letters.store(&self.dead_letter_lines).await {
            let delay = backoff.next_delay();
            error!(%error, ?delay, "cannot store dead letters; the feed is blocked until there is space or the disk is fixed");
            sleep(delay).await;
        }
        self.dead_letter_lines.clear();
    }

    /// Adds the counts of an append to the ledgers, and reports its events to their feeds: all of them are stored, or were
    /// deliberately not stored.
    fn settle(appended: Appended) {
        for (source, mut progress) in appended.progress {
            if !progress.acks.is_empty() {
                source.stored.acknowledge(progress.connection, &mut progress.acks);
            }
            if let Some(value) = progress.resume {
                source.stored.set_resume(value);
            }
        }
        for (source, tally) in appended.tallies.0 {
            let Tally {
                stored,
                filtered,
                duplicate,
                dead_lettered,
            } = tally;
            for (outcome, events) in [
                (SourceOutcome::Stored, stored),
                (SourceOutcome::Filtered, filtered),
                (SourceOutcome::Duplicate, duplicate),
                (SourceOutcome::DeadLettered, dead_lettered),
            ] {
                if events > 0 {
                    source.ledger.settle(outcome, events);
                }
            }
        }
    }
}

/// Logs the number of dead letters, without their content, for commands that store none.
#[derive(Debug)]
pub(crate) struct LoggedDeadLetters;

impl DeadLetters for LoggedDeadLetters {
    fn store<'a>(&'a self, lines: &'a str) -> Pin<Box<dyn Future<Output = io::Result<()>> + Send + 'a>> {
        Box::pin(async move {
            warn!(frames = lines.lines().count(), "malformed frames discarded");
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests;
