//! From frames to records: drops what was seen already, filters, redacts, and stores.
//!
//! One task for all sources, because the spool has one writer. It waits for frames, then takes all that wait; it waits
//! for the spool, and while it does, the channel of frames fills and the listeners stop reading. When all listeners are
//! gone it stores what is left and ends.

mod dedupe;

use std::{
    borrow::Cow,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesOrdered};
use jiff::Timestamp;
use neurobridge_core::{
    dead_letter::{self, DeadLetters, Newest, Notice},
    delivery::Backoff,
    envelope::{self, Envelope, Field, Kind},
    event::{Event, Sequence},
    filter::Filter,
    histogram::Histogram,
    identity,
    ledger::{SourceLedger, SourceOutcome},
    record::{self, Batch},
    redact::Redaction,
};
use neurobridge_listener::{Content, Frame, FrameBatch};
use neurobridge_spool::{AppendError, Spool};
use tokio::{sync::mpsc, time::sleep};
use tracing::{debug, error};

use self::dedupe::{Seeing, Seen};
use crate::spool;

/// Wake-ups of sockets between the listeners and the intake. When it is full the listeners stop reading their sockets.
pub(crate) const CHANNEL: usize = 4;
/// How many of them are stored together at most: one append, one sync, for all that waited.
const TOGETHER: usize = 16;
/// And how many bytes, not counting the last one's: a few large allocations of one size are used again and again, where
/// ever larger ones of all sizes would each be kept by the allocator.
const TOGETHER_BYTES: usize = 256 << 10;
/// So many events are looked up together among those seen before.
const LOOK_AHEAD: usize = 32;
/// So many appends are on their way at once into a spool on disk: while it syncs one, the next are made, and then synced
/// together. In memory nothing is gained by it, and those that wait for room would be held beside what is in the spool.
pub(crate) const AT_ONCE_ON_DISK: usize = 4;

/// What the intake needs.
pub(crate) struct Options {
    pub(crate) filter: Filter,
    pub(crate) redaction: Redaction,
    /// Events remembered for telling duplicates.
    pub(crate) remembered_events: usize,
    pub(crate) dead_letters: Arc<dyn DeadLetters>,
    /// Frames that can't be parsed are kept whole: only where no sink and no setting redacts anything.
    pub(crate) keep_malformed: bool,
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
            at: Timestamp::now(),
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

/// Turns frames into records until all listeners are gone.
///
/// # Errors
/// The spool takes no more.
pub(crate) async fn run(
    options: Options,
    sources: Vec<IntakeSource>,
    spool: Spool,
    mut frames: mpsc::Receiver<FrameBatch>,
) -> Result<(), AppendError> {
    let at_once = options.appends_at_once;
    let mut seen = Seen::new(options.remembered_events);
    // Events that come again after a restart are duplicates still. Meanwhile frames wait in the channel.
    let (known, newest) = spool::newest(&spool, options.remembered_events).await;
    for event in known {
        seen.see(event.identity, event.body);
    }
    let mut intake = Intake {
        seen,
        tallies: vec![Tally::default(); sources.len()],
        options,
        sources,
        newest: newest.unwrap_or(Timestamp::MIN),
        identities: Vec::with_capacity(LOOK_AHEAD),
        redacted: String::new(),
        letters: String::new(),
    };
    let mut waiting = Vec::with_capacity(TOGETHER);
    let mut appends = FuturesOrdered::new();
    loop {
        // What is pushed here is handed to the spool when the appends are looked at next: first of all, and in order.
        tokio::select! {
            biased;
            Some(appended) = appends.next() => intake.settle(appended?),
            received = frames.recv_many(&mut waiting, TOGETHER), if appends.len() < at_once => {
                if received == 0 {
                    break;
                }
                while !waiting.is_empty() {
                    let count = together(&waiting);
                    let batch = intake.encode(&waiting[..count]);
                    // Here the slices of the sockets' read buffers end.
                    waiting.drain(..count);
                    intake.store_letters().await;
                    let tallies = intake.take_tallies();
                    let spool = &spool;
                    appends.push_back(async move { spool.append(batch).await.map(|_| tallies) });
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
fn together(waiting: &[FrameBatch]) -> usize {
    let mut bytes = 0;
    let fits = |batch: &&FrameBatch| {
        let fits = bytes < TOGETHER_BYTES;
        bytes += batch.frames.iter().map(|frame| frame.text.len()).sum::<usize>();
        fits
    };
    waiting.iter().take_while(fits).count()
}

struct Intake {
    options: Options,
    sources: Vec<IntakeSource>,
    seen: Seen,
    tallies: Vec<Tally>,
    /// The latest time of receipt: the log's times never run backwards, whatever the clock and the sources do.
    newest: Timestamp,
    /// Of the events at hand; `None` of one without an id.
    identities: Vec<Option<u128>>,
    redacted: String,
    letters: String,
}

/// What became of a source's events in the batch at hand.
#[derive(Clone, Copy, Default)]
struct Tally {
    stored: u64,
    filtered: u64,
    duplicate: u64,
    dead_lettered: u64,
}

impl Intake {
    fn encode(&mut self, waiting: &[FrameBatch]) -> Batch {
        let size = waiting
            .iter()
            .flat_map(|batch| {
                batch
                    .frames
                    .iter()
                    .map(|frame| record::length_of(&batch.source, &frame.text))
            })
            .sum();
        let mut records = Batch::with_capacity(size);
        for batch in waiting {
            self.newest = self.newest.max(batch.received_at);
            let Some(index) = self.sources.iter().position(|source| source.name == batch.source) else {
                error!(
                    source = &*batch.source,
                    "frames of an unknown source; this is a bug"
                );
                continue;
            };
            self.observe_age(index, batch);
            for frames in batch.frames.chunks(LOOK_AHEAD) {
                self.identify(index, frames);
                for (nth, frame) in frames.iter().enumerate() {
                    self.encode_frame(index, frame, self.identities[nth], &mut records);
                }
            }
        }
        records
    }

    /// Finds out who the events are, before what is known of them is looked at.
    fn identify(&mut self, index: usize, frames: &[Frame]) {
        let source = &self.sources[index].name;
        self.identities.clear();
        self.identities.extend(frames.iter().map(|frame| {
            let Content::Event(envelope) = &frame.content else {
                return None;
            };
            let id = envelope.text(Field::Id, &frame.text)?;
            Some(identity::identity_hash(source, &id))
        }));
        self.seen.look_ahead(self.identities.iter().flatten().copied());
    }

    fn encode_frame(&mut self, index: usize, frame: &Frame, identity: Option<u128>, records: &mut Batch) {
        let source = &self.sources[index];
        let text = frame.text.as_str();
        let envelope = match &frame.content {
            Content::Event(envelope) => *envelope,
            Content::Malformed(reason) => {
                let detail = detail(reason);
                let keep = self.options.keep_malformed;
                let label = reason.as_str();
                dead_letter::write_frame(
                    &source.name,
                    self.newest,
                    label,
                    &detail,
                    text,
                    keep,
                    &mut self.letters,
                );
                self.letters.push('\n');
                self.tallies[index].dead_lettered += 1;
                source.stats.dead_letter(label);
                return;
            }
        };
        let event = Event {
            sequence: Sequence::FIRST,
            received_at: self.newest,
            source: &source.name,
            conflict: None,
            envelope,
            frame: text,
        };
        let mut conflict = None;
        let redacted = self.options.redaction.apply(text, &mut self.redacted);
        let redacted = redacted.then(|| envelope::read(&self.redacted));
        // An event without an id is never a duplicate.
        if let Some(identity) = identity {
            // As it is stored: with that it is compared after a restart.
            let body = identity::body_hash(match &redacted {
                Some(Ok(Kind::Event(envelope))) => {
                    envelope.raw(Field::Data, &self.redacted).unwrap_or("null")
                }
                _ => event.data(),
            });
            match self.seen.see(identity, body) {
                Seeing::New => {}
                Seeing::Duplicate => {
                    self.tallies[index].duplicate += 1;
                    return;
                }
                Seeing::Conflict => {
                    let id = event.text(Field::Id);
                    debug!(
                        source = &*source.name,
                        id = id.as_deref(),
                        "an event of this id came before with another body"
                    );
                    source.stats.id_conflicts.fetch_add(1, Ordering::Relaxed);
                    conflict = Some(identity::conflict_suffix(body));
                }
            }
        }
        if !self.options.filter.matches(&event) {
            self.tallies[index].filtered += 1;
            return;
        }
        let event = match redacted {
            None => Event { conflict, ..event },
            Some(Ok(Kind::Event(envelope))) => Event {
                conflict,
                envelope,
                frame: &self.redacted,
                ..event
            },
            Some(_) => {
                let (reason, detail) = ("unrenderable", "what is left after redaction is no event");
                dead_letter::write_frame(
                    &source.name,
                    self.newest,
                    reason,
                    detail,
                    text,
                    false,
                    &mut self.letters,
                );
                self.letters.push('\n');
                self.tallies[index].dead_lettered += 1;
                source.stats.dead_letter(reason);
                return;
            }
        };
        records.push(&event);
        self.tallies[index].stored += 1;
    }

    fn observe_age(&self, index: usize, batch: &FrameBatch) {
        let Some(Frame {
            text,
            content: Content::Event(envelope),
        }) = batch.frames.first()
        else {
            return;
        };
        if let Some(created) = created(envelope, text) {
            let age = batch.received_at.as_microsecond() - created.as_microsecond();
            self.sources[index].stats.event_age.observe(age as f64 / 1e6);
        }
    }

    /// Stores the dead letters before the events behind them are called stored. Tries until it works: the feed waits
    /// meanwhile, and nothing is lost uncounted.
    async fn store_letters(&mut self) {
        if self.letters.is_empty() {
            return;
        }
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));
        while let Err(error) = self.options.dead_letters.store(&self.letters).await {
            let delay = backoff.next_delay();
            error!(%error, ?delay, "dead letters can't be stored; the feed waits. Make room or mend the disk");
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

/// An error with its causes, in one line.
fn detail(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn created(envelope: &Envelope, frame: &str) -> Option<Timestamp> {
    let created: Cow<'_, str> = envelope.text(Field::Created, frame)?;
    neurobridge_core::cloudevents::timestamp(&created)
}
