//! The events between the reader and the cursor: published, retried, dead-lettered, settled, committed.

mod dead_lettering;

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use tracing::info;

use super::{
    DeliveryOptions,
    commit_mode::CommitMode,
    dead_letters::ConsecutiveDeadLetters,
    inbox::Inbox,
    outstanding::Outstanding,
    progress::Progress,
    redacted::publish_redacted,
    refusals::{Refusals, Refused, missing},
};
use crate::{
    clock,
    event::Sequence,
    event_buf::EventBuf,
    identity::SpoolId,
    ledger::Settlement,
    reader::{Cursor, Reader, SkipReason},
    record::{self, SealedBatch},
    sink::{
        Ack, Connected, FaultKind, Outcome, PublishError, RejectionReason, Sink, SinkFault, TransactionState,
    },
};

/// The next step of the delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Read more events: all that were read are published.
    Read,
    /// Wait for outcomes.
    Wait,
}

/// The decision about the event at the publishing position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Publish,
    /// The event does not have to be published.
    Skip,
    /// The event has to wait: the transaction is due, or this event or another one has to be published alone.
    Wait,
}

/// The events that were read and are not yet committed.
pub(super) struct Window<M> {
    options: DeliveryOptions,
    progress: Arc<Progress>,
    cursor: Cursor,
    inbox: Inbox,
    outstanding: Outstanding,
    refusals: Refusals,
    consecutive: ConsecutiveDeadLetters,
    mode: M,
    /// [`Connected::acks_are_cumulative`] of the last connection.
    acks_are_cumulative: bool,
}

impl<M: CommitMode> Window<M> {
    pub(super) fn new(options: DeliveryOptions, cursor: Cursor, progress: Arc<Progress>) -> Self {
        Self {
            progress,
            inbox: Inbox::new(cursor.next),
            outstanding: Outstanding::new(&cursor),
            refusals: Refusals::default(),
            consecutive: ConsecutiveDeadLetters::new(options.max_dead_letters_in_a_row),
            mode: M::default(),
            acks_are_cumulative: false,
            cursor,
            options,
        }
    }

    pub(super) const fn options(&self) -> &DeliveryOptions {
        &self.options
    }

    pub(super) const fn spool(&self) -> SpoolId {
        self.options.spool
    }

    pub(super) const fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// Returns the sequence of the first event that is not settled.
    pub(super) const fn settled_up_to(&self) -> Sequence {
        self.outstanding.next()
    }

    pub(super) const fn in_flight(&self) -> u64 {
        self.outstanding.in_flight()
    }

    /// Returns whether all events that were read are part of the settled prefix.
    pub(super) fn is_empty(&self) -> bool {
        self.outstanding.is_empty() && self.inbox.unpublished().is_none()
    }

    /// Returns whether a message was published since the last call.
    pub(super) const fn take_unflushed(&mut self) -> bool {
        self.outstanding.take_unflushed()
    }

    /// Returns whether the open transaction has to be aborted.
    pub(super) fn must_abort(&self) -> bool {
        self.mode.must_abort()
    }

    /// Adds a batch from the reader. To be called only after [`Step::Read`].
    pub(super) fn take(&mut self, batch: SealedBatch) {
        self.inbox.add(batch);
    }

    /// Adds events that the log no longer contains.
    pub(super) fn skip(&mut self, from: Sequence, events: u64, reason: SkipReason) {
        let settlement = match reason {
            SkipReason::Dropped => Settlement::Dropped,
            SkipReason::Damaged => Settlement::Damaged,
        };
        self.outstanding.skip(from, events, settlement);
    }

    /// Discards all unsettled (with transactions: uncommitted) events. Returns the sequence at which reading restarts.
    pub(super) fn restart(&mut self) -> Sequence {
        if M::ROLLS_BACK {
            self.mode.roll_back();
            self.outstanding.reset(&self.cursor);
            self.refusals.roll_back();
            self.consecutive.roll_back();
        } else {
            self.refusals.clear();
        }
        let next = self.outstanding.restart();
        self.inbox.restart(next);
        next
    }

    /// Publishes unpublished events and dead letters until the sink is full.
    pub(super) fn publish<S: Sink>(&mut self, sink: &mut S) -> Result<Step, SinkFault> {
        if !M::ROLLS_BACK && self.publish_retries(sink)? == Step::Wait {
            return Ok(Step::Wait);
        }
        let step = self.publish_unpublished(sink)?;
        self.report();
        // An event that has to be alone must not be in flight together with a dead letter, which could cause its refusal.
        if self.refusals.has_lone_event() {
            return Ok(Step::Wait);
        }
        if let Some(dead_letters) = sink.dead_letters()
            && !self.publish_dead_letters(dead_letters)?
        {
            return Ok(Step::Wait);
        }
        // Events that this call settled may have been the last ones before skipped events: then no wait is necessary.
        self.outstanding.advance();
        let is_full = self.inbox.is_full() && self.in_flight() > 0;
        if self.outstanding.must_wait() || is_full {
            return Ok(Step::Wait);
        }
        Ok(step)
    }

    /// Returns whether later events have to wait until the dead letter of a rejected event is stored.
    fn waits_for_dead_letters(&self) -> bool {
        self.acks_are_cumulative && !self.refusals.is_empty() && self.refusals.has_open_dead_letters()
    }

    /// Publishes the events that have to be alone, each one while nothing else is in flight.
    fn publish_retries<S: Sink>(&mut self, sink: &mut S) -> Result<Step, SinkFault> {
        while !self.waits_for_dead_letters()
            && let Some(sequence) = self.refusals.first_retry()
        {
            if self.in_flight() == 0 {
                let Some(event) = self.inbox.find(sequence) else {
                    return Err(missing(sequence));
                };
                match publish_redacted(
                    &self.options,
                    sink,
                    &event,
                    &Bytes::new(),
                    &mut EventBuf::default(),
                ) {
                    Ok(()) => {
                        self.outstanding.published(sequence);
                        self.refusals.published(sequence);
                    }
                    Err(PublishError::Rejected(rejection)) => self.refusals.reject(sequence, rejection),
                    Err(PublishError::Full) if sink.status().is_follower => return Ok(Step::Wait),
                    Err(PublishError::Full) => {
                        let reason = "the client's queue is full with nothing in flight";
                        return Err(SinkFault::new(FaultKind::Other, reason));
                    }
                    Err(PublishError::Fault(fault)) => return Err(fault),
                }
            }
            if self.in_flight() > 0 {
                return Ok(Step::Wait);
            }
        }
        Ok(Step::Read)
    }

    fn publish_unpublished<S: Sink>(&mut self, sink: &mut S) -> Result<Step, SinkFault> {
        let mut scratch = EventBuf::default();
        // A clone, which shares the bytes: events borrow from the batch while the window changes.
        let Some(batch) = self.inbox.unpublished().cloned() else {
            return Ok(Step::Read);
        };
        while let Some(rest) = batch
            .bytes()
            .get(self.inbox.offset()..)
            .filter(|rest| !rest.is_empty())
        {
            if self.waits_for_dead_letters() {
                return Ok(Step::Wait);
            }
            let sequence = self.inbox.position();
            let (event, length) = record::decode(rest, sequence).map_err(|error| {
                let reason = format!(
                    "the record of event {sequence} in the spool cannot be decoded: {error}; this is a bug"
                );
                SinkFault::fatal(FaultKind::Other, reason)
            })?;
            if self.outstanding.track(sequence, event.received_at) {
                match self.turn(sink, sequence) {
                    Turn::Skip => {}
                    Turn::Wait => return Ok(Step::Wait),
                    Turn::Publish if !self.options.filter.matches(&event) => {
                        self.outstanding.settle(sequence, Settlement::Filtered);
                    }
                    Turn::Publish => {
                        match publish_redacted(&self.options, sink, &event, batch.bytes(), &mut scratch) {
                            Ok(()) => {
                                self.outstanding.published(sequence);
                                if !self.refusals.is_empty() {
                                    self.refusals.published(sequence);
                                }
                            }
                            Err(PublishError::Full) => {
                                debug_assert!(
                                    self.in_flight() > 0 || sink.status().is_follower,
                                    "queue full with nothing in flight"
                                );
                                return Ok(Step::Wait);
                            }
                            Err(PublishError::Rejected(rejection)) => {
                                self.refusals.reject(sequence, rejection)
                            }
                            Err(PublishError::Fault(fault)) => return Err(fault),
                        }
                    }
                }
            }
            self.inbox.pass(length);
        }
        Ok(Step::Read)
    }

    /// Decides what to do with the next event. After a rollback, the event may still have a refusal from before the rollback.
    fn turn<S: Sink>(&mut self, sink: &mut S, sequence: Sequence) -> Turn {
        if self.mode.must_wait(sink) || self.refusals.has_lone_event() {
            return Turn::Wait;
        }
        if self.refusals.is_empty() {
            return Turn::Publish;
        }
        match self.refusals.get(sequence) {
            None => Turn::Publish,
            Some(Refused::Retrying) if self.in_flight() > 0 => Turn::Wait,
            Some(Refused::Retrying) => Turn::Publish,
            // The dead letter is published once the position has passed the event.
            Some(Refused::Rejected(..) | Refused::DeadLettering(..) | Refused::DeadLettered(..)) => {
                Turn::Skip
            }
            Some(Refused::Stored(reason)) => {
                let reason = *reason;
                self.settle_as_dead_letter(sequence, reason);
                Turn::Skip
            }
        }
    }

    /// Applies the outcomes reported by the sink: all of them, also those after an outcome that leads to a fault.
    pub(super) fn settle(&mut self, acks: &mut Vec<Ack>) -> Result<(), SinkFault> {
        let now = clock::now();
        let mut run = (now, 0);
        let mut settled = Ok(());
        for ack in acks.drain(..) {
            match self.settle_one(ack) {
                // Events with the same time of receipt have the same latency, and are observed together.
                Ok(Some(received_at)) => {
                    if run.0 != received_at {
                        self.mode.acknowledged(&self.progress, run.0, now, run.1);
                        run = (received_at, 0);
                    }
                    run.1 += 1;
                }
                Ok(None) => {}
                Err(fault) => settled = settled.and(Err(fault)),
            }
        }
        self.mode.acknowledged(&self.progress, run.0, now, run.1);
        settled
    }

    /// Applies one outcome. Returns the time of receipt if the outcome acknowledges an event.
    fn settle_one(&mut self, ack: Ack) -> Result<Option<Timestamp>, SinkFault> {
        self.outstanding.answered();
        let Ack { sequence, outcome } = ack;
        let settlement = match outcome {
            Outcome::Delivered => Settlement::Delivered,
            Outcome::Duplicate => Settlement::Duplicate,
            // Later events may have been published: everything is rolled back and published again in order.
            Outcome::Deferred if M::ROLLS_BACK => {
                self.mode.refused();
                return Ok(None);
            }
            outcome => {
                self.mode.refused();
                return self.refusals.refuse(sequence, outcome).map(|()| None);
            }
        };
        if !self.refusals.is_empty()
            && let Some(reason) = self.refusals.accept(sequence, M::ROLLS_BACK)
        {
            self.settle_as_dead_letter(sequence, reason);
            return Ok(None);
        }
        self.consecutive.delivered(sequence);
        Ok(self.outstanding.settle(sequence, settlement))
    }

    /// Settles an event whose dead letter is stored.
    fn settle_as_dead_letter(&mut self, sequence: Sequence, reason: RejectionReason) {
        self.outstanding.settle(sequence, Settlement::DeadLettered);
        self.consecutive.dead_lettered(sequence, reason);
        self.mode.dead_lettered(&self.progress, sequence, reason);
    }

    /// Moves the cursor to the end of the settled prefix, unless a transaction has to commit it.
    pub(super) fn commit<S: Sink, R: Reader>(&mut self, sink: &mut S, reader: &mut R) {
        let next = self.outstanding.advance();
        self.inbox.remove_settled(next);
        if next != self.cursor.next && self.mode.may_move_cursor(sink) {
            self.cursor.next = next;
            self.cursor.counts = self.outstanding.counts();
            self.cursor.note = sink.cursor_note();
            self.cursor_moved(reader);
        }
    }

    /// Returns the cursor to commit with the open transaction, if the commit is due. `is_last`: no more events follow.
    pub(super) fn cursor_to_commit(
        &mut self,
        transaction: TransactionState,
        is_last: bool,
    ) -> Option<Cursor> {
        let is_due = match transaction {
            TransactionState::Due => true,
            TransactionState::Open => is_last,
            TransactionState::Closed => false,
        };
        let is_complete = self.in_flight() == 0 && !self.has_dead_letters() && !self.must_abort();
        // Events are published in order and all are settled, so the settled prefix ends at the publishing position.
        (is_due && is_complete).then(|| Cursor {
            next: self.outstanding.advance(),
            counts: self.outstanding.counts(),
            ..self.cursor.clone()
        })
    }

    /// Applies a cursor that was committed with a transaction.
    pub(super) fn committed<R: Reader>(&mut self, cursor: Cursor, reader: &mut R) {
        self.cursor = cursor;
        self.cursor_moved(reader);
        self.mode.committed(&self.progress);
    }

    /// Takes over the properties of a new connection.
    pub(super) fn connected<R: Reader>(&mut self, connected: Connected, reader: &mut R) {
        self.acks_are_cumulative = connected.acks_are_cumulative;
        self.adopt(connected.committed_cursor, reader);
    }

    /// Removes the refusals that are not final: while this member of a cluster follows, another one publishes these events, or
    /// stores their dead letters.
    pub(super) fn follow(&mut self) {
        self.refusals.follow();
    }

    /// See [`Connected::acks_are_cumulative`].
    pub(super) const fn set_acks_are_cumulative(&mut self, acks_are_cumulative: bool) {
        self.acks_are_cumulative = acks_are_cumulative;
    }

    /// Continues at the broker's committed cursor if that is ahead of the local cursor: then the last commit, or the response to
    /// it, was not recorded locally. The counts are adopted too: the process that committed the events has counted them.
    fn adopt<R: Reader>(&mut self, committed: Option<Cursor>, reader: &mut R) {
        let is_usable = |committed: &Cursor| {
            let is_balanced = committed.counts.settled() == committed.next.since(committed.first);
            committed.next > self.cursor.next && is_balanced
        };
        let Some(committed) = committed.filter(is_usable) else {
            return;
        };
        info!(
            sink = self.options.name,
            from = self.cursor.next.get(),
            next = committed.next.get(),
            "continuing at the cursor that was committed with the events"
        );
        self.outstanding.reset(&committed);
        self.inbox.restart(committed.next);
        reader.rewind(committed.next);
        self.cursor = committed;
        self.cursor_moved(reader);
    }

    fn cursor_moved<R: Reader>(&mut self, reader: &mut R) {
        let next = self.cursor.next;
        if M::ROLLS_BACK {
            self.refusals.committed(next);
            self.consecutive.commit();
        }
        self.mode.cursor_moved(&self.progress, next);
        reader.commit(&self.cursor);
        self.progress.set_cursor(&self.cursor);
        self.report();
    }

    fn report(&self) {
        let resent = self.outstanding.resent();
        self.progress.set_in_flight(self.in_flight(), resent);
    }
}
