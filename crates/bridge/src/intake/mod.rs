//! From frames to records: encodes, filters, redacts, drops what was seen already, and stores.
//!
//! What can be done with an event alone is done by the [`Encoder`], in the task that reads the socket. The rest is one
//! task for all sources, because they share the memory of what was seen, and the spool has one writer. It waits for
//! batches, then takes all that wait; it waits for the spool, and while it does, the channel of batches fills and the
//! listeners stop reading. When all listeners are gone it stores what is left and ends.

mod dedupe;
mod encode;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesOrdered};
use jiff::{SignedDuration, Timestamp};
use neurobridge_core::{
    clock,
    dead_letter::{DeadLetters, Newest, Notice},
    delivery::Backoff,
    histogram::Histogram,
    identity,
    ledger::{SourceLedger, SourceOutcome},
    record::{Batch, Fate},
};
use neurobridge_spool::{AppendError, Spool};
use tokio::{sync::mpsc, time::sleep};
use tracing::{debug, error};

use self::dedupe::{Seeing, Seen};
pub(crate) use self::encode::{Encoded, Encoder, Rules};
use crate::spool;

/// Wake-ups of sockets between the listeners and the intake. When it is full the listeners stop reading their sockets.
pub(crate) const CHANNEL: usize = 4;
/// How many of them are stored together at most: one append, one sync, for all that waited.
const TOGETHER: usize = 16;
/// And how many bytes. More than that goes alone, in the buffer in which it came: putting it behind others would be
/// copying it.
const TOGETHER_BYTES: usize = 64 << 10;
/// So many appends are on their way at once into a spool on disk: while it syncs one, the next are made, and then synced
/// together. In memory nothing is gained by it, and those that wait for room would be held beside what is in the spool.
pub(crate) const AT_ONCE_ON_DISK: usize = 8;
/// Batches of different sources come out of order by less. A larger difference is a step of the clock, now or in an earlier run.
const OUT_OF_ORDER: SignedDuration = SignedDuration::from_secs(10);

/// What the intake needs.
pub(crate) struct Options {
    /// Events remembered for telling duplicates.
    pub(crate) remembered_events: usize,
    pub(crate) dead_letters: Arc<dyn DeadLetters>,
    /// How many appends are on their way at once.
    pub(crate) appends_at_once: usize,
}

/// A source as the intake knows it.
#[derive(Clone)]
pub(crate) struct IntakeSource {
    pub(crate) name: Arc<str>,
    pub(crate) ledger: Arc<SourceLedger>,
    pub(crate) stats: Arc<IntakeStats>,
}

/// What the intake counts for a source beside its ledger.
#[derive(Debug, Default)]
pub(crate) struct IntakeStats {
    /// Events of a known identity with another body.
    pub(crate) id_conflicts: AtomicU64,
    /// From `created` to receipt; of one event of each wake-up of the socket.
    pub(crate) event_age: Histogram,
    newest_dead_letters: Mutex<Newest>,
}

impl IntakeStats {
    /// The newest dead letters of the source.
    pub(crate) fn newest_dead_letters(&self) -> Newest {
        self.newest().clone()
    }

    fn dead_letter(&self, reason: &'static str) {
        self.newest().push(Notice {
            at: clock::now(),
            reason,
            sequence: None,
        });
    }

    fn newest(&self) -> std::sync::MutexGuard<'_, Newest> {
        // Nothing within the lock can panic half-way through an update.
        self.newest_dead_letters
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stores what the sources read until all listeners are gone. Batches name their source by its place in `sources`.
///
/// # Errors
/// The spool takes no more.
pub(crate) async fn run(
    options: Options,
    sources: Vec<IntakeSource>,
    spool: Spool,
    mut batches: mpsc::Receiver<Encoded>,
) -> Result<(), AppendError> {
    let at_once = options.appends_at_once;
    let mut seen = Seen::new(options.remembered_events);
    // Events that come again after a restart are duplicates still. Meanwhile batches wait in the channel.
    let (known, newest) = spool::newest(&spool, options.remembered_events).await;
    for event in known {
        seen.see(event.identity, event.body);
    }
    let mut intake = Intake::new(sources, seen, newest, options.dead_letters);
    let mut waiting = Vec::with_capacity(TOGETHER);
    let mut appends = FuturesOrdered::new();
    loop {
        // What is pushed here is handed to the spool when the appends are looked at next: first of all, and in order.
        tokio::select! {
            biased;
            Some(appended) = appends.next() => intake.settle(appended?),
            received = batches.recv_many(&mut waiting, TOGETHER), if appends.len() < at_once => {
                if received == 0 {
                    break;
                }
                while !waiting.is_empty() {
                    let count = together(&waiting);
                    let mut records = Batch::default();
                    for batch in waiting.drain(..count) {
                        records.append(intake.admit(batch));
                    }
                    let records = records.fitted();
                    intake.store_letters().await;
                    let tallies = intake.take_tallies();
                    let spool = &spool;
                    appends.push_back(async move { spool.append(records).await.map(|_| tallies) });
                    while appends.len() >= at_once {
                        if let Some(appended) = appends.next().await {
                            intake.settle(appended?);
                        }
                    }
                }
            }
        }
    }
    while let Some(appended) = appends.next().await {
        intake.settle(appended?);
    }
    Ok(())
}

/// How many of the batches that wait are stored together; one at least.
fn together(waiting: &[Encoded]) -> usize {
    let mut bytes = 0;
    let fits = |batch: &&Encoded| {
        bytes += batch.records.len();
        bytes <= TOGETHER_BYTES
    };
    waiting.iter().take_while(fits).count().max(1)
}

struct Intake {
    dead_letters: Arc<dyn DeadLetters>,
    sources: Vec<IntakeSource>,
    seen: Seen,
    tallies: Vec<Tally>,
    /// The last time of receipt. Batches of several sources are put into its order; after a step of the clock back, it goes back.
    newest: Timestamp,
    /// Of the records at hand.
    fates: Vec<Fate>,
    letters: String,
}

/// What became of a source's events in the batch at hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    stored: u64,
    filtered: u64,
    duplicate: u64,
    dead_lettered: u64,
}

impl Intake {
    fn new(
        sources: Vec<IntakeSource>,
        seen: Seen,
        newest: Option<Timestamp>,
        dead_letters: Arc<dyn DeadLetters>,
    ) -> Self {
        Self {
            dead_letters,
            tallies: vec![Tally::default(); sources.len()],
            sources,
            seen,
            newest: newest.unwrap_or(Timestamp::MIN),
            fates: Vec::new(),
            letters: String::new(),
        }
    }

    /// Decides what becomes of each event of a batch, and counts it; what is left are the records to store.
    fn admit(&mut self, batch: Encoded) -> Batch {
        let Encoded {
            source,
            received_at,
            mut records,
            arrivals,
            letters,
            dead_lettered,
        } = batch;
        if self.newest.duration_since(received_at) > OUT_OF_ORDER {
            self.newest = received_at;
        }
        self.newest = self.newest.max(received_at);
        let source_name = &*self.sources[source].name;
        let stats = &self.sources[source].stats;
        let tally = &mut self.tallies[source];
        self.letters.push_str(&letters);
        tally.dead_lettered += dead_lettered;
        self.fates.clear();
        for arrival in arrivals {
            let seeing = match arrival.identity {
                Some(identity) => self.seen.see(identity, arrival.body),
                None => Seeing::New,
            };
            let fate = match seeing {
                Seeing::New => Fate::Keep,
                Seeing::Duplicate => Fate::Drop,
                Seeing::Conflict => {
                    let suffix = identity::conflict_suffix(arrival.body);
                    debug!(
                        source = source_name,
                        suffix = format_args!("~{suffix:08x}"),
                        "event id repeated with another body"
                    );
                    stats.id_conflicts.fetch_add(1, Ordering::Relaxed);
                    Fate::KeepAsConflict(suffix)
                }
            };
            match (fate, arrival.is_encoded) {
                (Fate::Drop, _) => tally.duplicate += 1,
                (_, true) => tally.stored += 1,
                (_, false) => tally.filtered += 1,
            }
            if arrival.is_encoded {
                self.fates.push(fate);
            }
        }
        if self.newest != received_at {
            records.set_received_at(self.newest);
        }
        // Mostly nothing is to be done, and this core does not look at the records, which another one wrote.
        if self.fates.iter().any(|fate| *fate != Fate::Keep) {
            records.apply(self.fates.drain(..));
        }
        records
    }

    /// Stores the dead letters before the events behind them are called stored. Tries until it works: the feed waits
    /// meanwhile, and nothing is lost uncounted.
    async fn store_letters(&mut self) {
        if self.letters.is_empty() {
            return;
        }
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));
        while let Err(error) = self.dead_letters.store(&self.letters).await {
            let delay = backoff.next_delay();
            error!(%error, ?delay, "cannot store dead letters; the feed is blocked until there is space or the disk is fixed");
            sleep(delay).await;
        }
        self.letters.clear();
    }

    /// What became of the events of the batch that was just encoded, by source.
    fn take_tallies(&mut self) -> Vec<Tally> {
        let none = vec![Tally::default(); self.sources.len()];
        std::mem::replace(&mut self.tallies, none)
    }

    /// Counts what became of a batch's events, once it is stored.
    fn settle(&self, tallies: Vec<Tally>) {
        for (source, tally) in self.sources.iter().zip(tallies) {
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

#[cfg(test)]
mod tests;
