//! The events between the reader and the settled prefix.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use jiff::Timestamp;

use super::{
    Options,
    letters::Body,
    progress::Progress,
    transaction::{Pending, Turn},
};
use crate::{
    ack::AckTracker,
    clock,
    envelope::{self, Kind},
    event::{Event, Sequence},
    identity::SpoolId,
    ledger::Settlement,
    reader::{Cursor, Reader, Skipped},
    record::{self, SealedBatch},
    sink::{Ack, FaultKind, Outcome, PublishError, Rejection, RejectionReason, Sink, SinkFault},
};

/// How many bytes of batches may wait for outcomes before no more is read. More than a client keeps in flight, and bounded:
/// where a filter leaves most out, one event without an outcome would otherwise gather all that comes behind it.
const MOST_BYTES: usize = 16 << 20;

/// What the delivery may do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Read on: all that was read is published.
    Read,
    /// Wait for outcomes first.
    Wait,
}

/// The events that were read and are not yet part of the settled prefix.
///
/// Their batches are kept, sharing the log's bytes, because a refusal may come late and a dead letter needs the event.
pub(super) struct Window {
    pub(super) options: Options,
    pub(super) progress: Arc<Progress>,
    pub(super) tracker: AckTracker,
    pub(super) cursor: Cursor,
    batches: VecDeque<SealedBatch>,
    /// Bytes of `batches`.
    bytes: usize,
    /// How much of the last batch is published: an offset into its bytes. At its end: all.
    published: usize,
    /// The sequence of the first event behind that.
    unpublished_from: Sequence,
    /// The highest sequence ever published: what comes below it is sent again.
    highest: u64,
    resent: u64,
    /// Messages that the sink has and that have no outcome.
    pub(super) in_sink: u64,
    pub(super) unflushed: bool,
    /// Refused together with others, or not sent yet: each is sent once more alone. Without transactions until it has its
    /// outcome or the sink a fault; with them until the commit, as what is taken back may be refused again.
    pub(super) suspects: BTreeSet<Sequence>,
    /// The one of them that is on its way.
    pub(super) alone: Option<Sequence>,
    /// Refused for themselves, on their way into the dead letters.
    pub(super) rejected: VecDeque<(Sequence, Rejection, Body)>,
    /// Dead letters that the sink itself keeps, without an outcome yet.
    pub(super) lettered: BTreeMap<Sequence, (Rejection, Body)>,
    pub(super) dead_letters_in_a_row: u64,
    /// The highest sequence that was delivered: it ends the row of dead letters before it.
    pub(super) last_delivered: Option<Sequence>,
    /// Of a sink that publishes in transactions: what depends on the next commit.
    pub(super) pending: Option<Pending>,
}

impl Window {
    pub(super) fn new(
        options: Options,
        cursor: Cursor,
        progress: Arc<Progress>,
        is_transactional: bool,
    ) -> Self {
        Self {
            options,
            progress,
            tracker: AckTracker::new(cursor.next, cursor.counts),
            cursor,
            batches: VecDeque::new(),
            bytes: 0,
            published: 0,
            unpublished_from: Sequence::FIRST,
            highest: 0,
            resent: 0,
            in_sink: 0,
            unflushed: false,
            suspects: BTreeSet::new(),
            alone: None,
            rejected: VecDeque::new(),
            lettered: BTreeMap::new(),
            dead_letters_in_a_row: 0,
            last_delivered: None,
            pending: is_transactional.then(Pending::default),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.options.name
    }

    pub(super) const fn spool(&self) -> SpoolId {
        self.options.spool
    }

    pub(super) const fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// The first event that has no outcome.
    pub(super) const fn settled_up_to(&self) -> Sequence {
        self.tracker.next()
    }

    pub(super) const fn in_sink(&self) -> u64 {
        self.in_sink
    }

    /// Whether all that was read is part of the settled prefix.
    pub(super) fn is_empty(&self) -> bool {
        self.tracker.is_empty() && self.unpublished().is_none()
    }

    pub(super) const fn published_since_flush(&mut self) -> bool {
        std::mem::replace(&mut self.unflushed, false)
    }

    /// Takes what the reader gave. Only to be called after [`Step::Read`].
    pub(super) fn take(&mut self, batch: SealedBatch) {
        debug_assert!(self.unpublished().is_none(), "read on before all was published");
        self.published = 0;
        self.unpublished_from = batch.first();
        self.bytes += batch.bytes().len();
        self.batches.push_back(batch);
    }

    pub(super) fn skip(&mut self, from: Sequence, events: u64, reason: Skipped) {
        let outcome = match reason {
            Skipped::Dropped => Settlement::Dropped,
            Skipped::Damaged => Settlement::Damaged,
        };
        self.tracker.skip(from, events, outcome);
    }

    /// Forgets all that has no outcome; the sequence from which it has to be read again.
    pub(super) fn restart(&mut self) -> Sequence {
        self.batches.clear();
        self.bytes = 0;
        self.published = 0;
        self.in_sink = 0;
        self.unflushed = false;
        self.alone = None;
        self.rejected.clear();
        self.lettered.clear();
        if self.pending.is_some() {
            self.roll_back();
        } else {
            self.suspects.clear();
        }
        self.tracker.rewind();
        self.tracker.next()
    }

    /// Publishes what was read and is not published, as far as the sink takes it.
    pub(super) fn publish<S: Sink>(&mut self, sink: &mut S) -> Result<Step, SinkFault> {
        // In a transaction each comes at its place.
        while self.pending.is_none()
            && !self.waits_for_letters(sink)
            && let Some(&sequence) = self.suspects.first()
        {
            self.publish_alone(sink, sequence)?;
            if self.in_sink > 0 {
                return Ok(Step::Wait);
            }
        }
        let step = self.publish_unpublished(sink)?;
        self.report();
        if self.pending.is_some() && self.alone.is_some() {
            // Not with a dead letter either, for whose sake it could be refused.
            return Ok(Step::Wait);
        }
        if sink.keeps_dead_letters() && !self.publish_dead_letters(sink)? {
            return Ok(Step::Wait);
        }
        // What was settled last may be all that it waits for.
        self.tracker.advance();
        if self.tracker.must_wait() || self.bytes >= MOST_BYTES && self.in_sink > 0 {
            return Ok(Step::Wait);
        }
        Ok(step)
    }

    /// Whether what comes behind a refused event has to wait until its dead letter is safe.
    fn waits_for_letters<S: Sink>(&self, sink: &S) -> bool {
        !(self.rejected.is_empty() && self.lettered.is_empty()) && sink.acks_are_cumulative()
    }

    fn publish_unpublished<S: Sink>(&mut self, sink: &mut S) -> Result<Step, SinkFault> {
        let mut scratch = String::new();
        // A handle on the same bytes: the events borrow from it while the window changes.
        let Some(batch) = self.unpublished().cloned() else {
            return Ok(Step::Read);
        };
        sink.set_backing_buffer(batch.bytes());
        while let Some(rest) = batch
            .bytes()
            .get(self.published..)
            .filter(|rest| !rest.is_empty())
        {
            if self.waits_for_letters(sink) {
                return Ok(Step::Wait);
            }
            let sequence = self.unpublished_from;
            let (event, length) = match record::decode(rest, sequence) {
                Ok(decoded) => decoded,
                Err(error) => {
                    let reason = format!("a record of the spool can't be read: {error}; this is a bug");
                    return Err(SinkFault::fatal(FaultKind::Other, reason));
                }
            };
            if self.tracker.track(sequence, event.received_at) {
                match self.turn(sink, sequence) {
                    Turn::Publish => {}
                    Turn::Wait => return Ok(Step::Wait),
                    Turn::Skip => {
                        self.published += length;
                        self.unpublished_from = sequence.next();
                        continue;
                    }
                }
                if self.options.filter.matches(&event) {
                    match publish_redacted(&self.options, sink, &event, &mut scratch) {
                        Ok(()) => {
                            self.in_sink += 1;
                            self.unflushed = true;
                            if sequence.get() <= self.highest {
                                self.resent += 1;
                            }
                            self.highest = self.highest.max(sequence.get());
                            if self.pending.is_some() && self.suspects.contains(&sequence) {
                                self.alone = Some(sequence);
                            }
                        }
                        Err(PublishError::Full) => {
                            debug_assert!(self.in_sink > 0, "full of nothing");
                            return Ok(Step::Wait);
                        }
                        Err(PublishError::Rejected(rejection)) => {
                            self.rejected.push_back((sequence, rejection, Body::Whole));
                        }
                        Err(PublishError::Fault(fault)) => return Err(fault),
                    }
                } else {
                    self.tracker.settle(sequence, Settlement::Filtered);
                }
            }
            self.published += length;
            self.unpublished_from = sequence.next();
        }
        Ok(Step::Read)
    }

    /// Takes what the sink has told: all of it, also behind something that is a fault.
    pub(super) fn settle(&mut self, acks: &mut Vec<Ack>) -> Result<(), SinkFault> {
        let now = clock::now();
        let mut run = (now, 0);
        let mut settled = Ok(());
        for ack in acks.drain(..) {
            match self.settle_one(ack) {
                // What was received together has one latency: one observation for the run of it.
                Ok(Some(received_at)) => {
                    if run.0 != received_at {
                        self.observe(run.0, now, run.1);
                        run = (received_at, 0);
                    }
                    run.1 += 1;
                }
                Ok(None) => {}
                Err(fault) => settled = settled.and(Err(fault)),
            }
        }
        self.observe(run.0, now, run.1);
        settled
    }

    /// Takes what became of one; when it was received, if the broker has it now.
    fn settle_one(&mut self, ack: Ack) -> Result<Option<Timestamp>, SinkFault> {
        self.in_sink = self.in_sink.saturating_sub(1);
        let Some(ack) = self.settle_refusal(ack)? else {
            return Ok(None);
        };
        if self.alone == Some(ack.sequence) {
            self.alone = None;
            let was_suspect = self.suspects.remove(&ack.sequence);
            if let Outcome::RetryAlone(rejection) = &ack.outcome
                && was_suspect
            {
                self.rejected
                    .push_back((ack.sequence, rejection.clone(), Body::Whole));
                return Ok(None);
            }
        }
        if let Some((rejection, body)) = self.lettered.remove(&ack.sequence) {
            self.settle_letter(ack, rejection, body)?;
            return Ok(None);
        }
        let settlement = match ack.outcome {
            Outcome::Delivered => Settlement::Delivered,
            Outcome::Duplicate => Settlement::Duplicate,
            Outcome::Rejected(rejection) => {
                self.rejected.push_back((ack.sequence, rejection, Body::Whole));
                return Ok(None);
            }
            Outcome::RetryAlone(_) | Outcome::Deferred => {
                self.suspects.insert(ack.sequence);
                return Ok(None);
            }
        };
        if self.last_delivered < Some(ack.sequence) {
            self.last_delivered = Some(ack.sequence);
            self.dead_letters_in_a_row = 0;
        }
        Ok(self.tracker.settle(ack.sequence, settlement))
    }

    /// Moves the cursor behind the settled prefix.
    pub(super) fn commit<S: Sink, R: Reader>(&mut self, sink: &S, reader: &mut R) {
        self.tracker.advance();
        self.forget_batches();
        if self.tracker.next() == self.cursor.next || !self.may_commit_alone(sink) {
            return;
        }
        self.cursor.next = self.tracker.next();
        self.cursor.counts = self.tracker.counts();
        self.cursor.note = sink.note();
        self.count_letters();
        reader.commit(&self.cursor);
        self.progress.set_cursor(&self.cursor);
        self.report();
    }

    /// Forgets the batches of the settled prefix: nothing can want their events any more.
    fn forget_batches(&mut self) {
        let next = self.tracker.next();
        while self.batches.front().is_some_and(|batch| batch.end() <= next) {
            if self.batches.len() == 1 && self.unpublished().is_some() {
                break;
            }
            if let Some(batch) = self.batches.pop_front() {
                self.bytes -= batch.bytes().len();
            }
        }
    }

    /// The last batch, unless all of it is published.
    fn unpublished(&self) -> Option<&SealedBatch> {
        self.batches
            .back()
            .filter(|batch| self.published < batch.bytes().len())
    }

    pub(super) fn report(&self) {
        self.progress.set_in_flight(self.in_sink, self.resent);
    }

    /// Sends a suspect when nothing else is on its way: what is refused then is refused for itself.
    fn publish_alone<S: Sink>(&mut self, sink: &mut S, sequence: Sequence) -> Result<(), SinkFault> {
        if self.in_sink > 0 || self.alone.is_some() {
            return Ok(());
        }
        let published = match self.find(sequence) {
            Some(event) => publish_redacted(&self.options, sink, &event, &mut String::new()),
            None => return Err(missing(sequence)),
        };
        match published {
            Ok(()) => {
                self.alone = Some(sequence);
                self.in_sink += 1;
                self.resent += 1;
                self.unflushed = true;
                Ok(())
            }
            Err(PublishError::Rejected(rejection)) => {
                self.suspects.remove(&sequence);
                self.rejected.push_back((sequence, rejection, Body::Whole));
                Ok(())
            }
            Err(PublishError::Full) => Err(SinkFault::new(
                FaultKind::Other,
                "the client's queue is full with nothing in flight",
            )),
            Err(PublishError::Fault(fault)) => Err(fault),
        }
    }

    /// An event that was read and is not settled.
    pub(super) fn find(&self, sequence: Sequence) -> Option<Event<'_>> {
        let batch = self
            .batches
            .iter()
            .find(|batch| batch.first() <= sequence && sequence < batch.end())?;
        batch
            .iter()
            .filter_map(Result::ok)
            .find(|event| event.sequence == sequence)
    }
}

fn publish_redacted<S: Sink>(
    options: &Options,
    sink: &mut S,
    event: &Event<'_>,
    scratch: &mut String,
) -> Result<(), PublishError> {
    if options.redaction.is_empty() {
        return sink.publish(event);
    }
    let event = redacted(options, event, scratch).map_err(PublishError::Rejected)?;
    sink.publish(&event)
}

/// The event as this sink may see it.
pub(super) fn redacted<'a>(
    options: &Options,
    event: &Event<'a>,
    scratch: &'a mut String,
) -> Result<Event<'a>, Rejection> {
    scratch.clear();
    if options.redaction.is_empty() || !options.redaction.apply(event.frame, scratch) {
        return Ok(*event);
    }
    match envelope::read(scratch) {
        Ok(Kind::Event(envelope)) => Ok(Event {
            envelope,
            frame: scratch,
            ..*event
        }),
        _ => Err(Rejection {
            reason: RejectionReason::Unrenderable,
            detail: "what is left after redaction is no event".to_owned(),
        }),
    }
}

pub(super) fn missing(sequence: Sequence) -> SinkFault {
    SinkFault::new(
        FaultKind::Other,
        format!("event {sequence} was refused and is not at hand; it is read again"),
    )
}
