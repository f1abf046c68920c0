//! A sink that publishes in transactions: what it has published counts when its transaction is committed, with the cursor
//! behind it as a part of it.
//!
//! Between two commits the tracker runs ahead of the cursor. What goes wrong meanwhile takes all back to the cursor: a
//! fault of the sink by its next connect, a refused message by an abort. Each event keeps its place in the order then: what
//! was refused together with others is sent alone when its turn comes, and what was refused alone becomes a dead letter.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tracing::info;

use super::{
    letters::{Body, letter_refused},
    window::Window,
};
use crate::{
    ack::AckTracker,
    clock,
    event::Sequence,
    ledger::Settlement,
    reader::{Cursor, Reader},
    sink::{Ack, Outcome, Rejection, RejectionReason, Sink, SinkFault, Transaction},
};

/// What depends on the next commit.
#[derive(Default)]
pub(super) struct Pending {
    /// What is known of events that can't be published. Bounded: an event has its dead letter before the commit.
    fates: BTreeMap<Sequence, Fate>,
    /// Something was refused: the transaction can't be committed.
    is_broken: bool,
    /// When what was received, for the latencies: known when the commit is.
    received: Vec<(Timestamp, u64)>,
    letters: Vec<(Sequence, RejectionReason)>,
    /// Dead letters in a row at the last commit.
    letters_in_a_row: u64,
}

/// What becomes of an event that was refused alone.
enum Fate {
    /// Its dead letter goes into the transaction.
    Letter(Rejection, Body),
    /// Its dead letter is stored outside of the transaction: once is enough.
    Stored(RejectionReason),
}

/// Whether an event is published now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Publish,
    /// It needs no publishing.
    Skip,
    /// Not now: the transaction is due, or it or another one has to be alone.
    Wait,
}

impl Window {
    /// Whether all since the last commit has to be taken back.
    pub(super) fn must_abort(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.is_broken)
    }

    /// Whether the cursor may move without a transaction: over events of which none was published.
    pub(super) fn may_commit_alone<S: Sink>(&self, sink: &S) -> bool {
        self.pending.is_none() || sink.transaction() == Transaction::Closed
    }

    /// What to do with the next event.
    pub(super) fn turn<S: Sink>(&mut self, sink: &S, sequence: Sequence) -> Turn {
        let Some(pending) = &self.pending else {
            return Turn::Publish;
        };
        if sink.transaction() == Transaction::Due || self.alone.is_some() {
            return Turn::Wait;
        }
        match pending.fates.get(&sequence) {
            Some(Fate::Letter(rejection, body)) => {
                self.rejected.push_back((sequence, rejection.clone(), *body));
                Turn::Skip
            }
            Some(Fate::Stored(reason)) => {
                let reason = *reason;
                self.settle_as_letter(sequence, reason);
                Turn::Skip
            }
            None if self.suspects.contains(&sequence) && self.in_sink > 0 => Turn::Wait,
            None => Turn::Publish,
        }
    }

    /// Takes a refusal within a transaction, after which this can't be committed. Gives back all else.
    pub(super) fn settle_refusal(&mut self, ack: Ack) -> Result<Option<Ack>, SinkFault> {
        let Some(pending) = &mut self.pending else {
            return Ok(Some(ack));
        };
        let is_alone = self.alone == Some(ack.sequence);
        if is_alone {
            self.alone = None;
        }
        let (sequence, rejection, is_its_own) = match ack.outcome {
            Outcome::Delivered | Outcome::Duplicate => return Ok(Some(ack)),
            // What came behind it may have been sent. All is taken back, and published once more in order.
            Outcome::Deferred => {
                pending.is_broken = true;
                return Ok(None);
            }
            Outcome::Rejected(rejection) => (ack.sequence, rejection, true),
            Outcome::RetryAlone(rejection) => (ack.sequence, rejection, is_alone),
        };
        pending.is_broken = true;
        match self.lettered.remove(&sequence) {
            Some((_, Body::LeftOut)) => return Err(letter_refused(&rejection)),
            Some((reason, Body::Whole)) => {
                pending
                    .fates
                    .insert(sequence, Fate::Letter(reason, Body::LeftOut));
            }
            None if is_its_own => {
                self.suspects.remove(&sequence);
                pending
                    .fates
                    .insert(sequence, Fate::Letter(rejection, Body::Whole));
            }
            // Until the commit: should this one break again, it has to be alone again.
            None => drop(self.suspects.insert(sequence)),
        }
        Ok(None)
    }

    /// The cursor to commit, if that is to be done now. `is_last`: no more will come.
    pub(super) fn cursor_to_commit<S: Sink>(&mut self, sink: &S, is_last: bool) -> Option<Cursor> {
        let is_due = match sink.transaction() {
            Transaction::Due => true,
            Transaction::Open => is_last,
            Transaction::Closed | Transaction::Unused => false,
        };
        let is_complete = self.in_sink == 0 && self.rejected.is_empty() && !self.must_abort();
        // Published in order, and all of it settled: so the settled prefix ends where publishing stands.
        (is_due && is_complete).then(|| {
            self.tracker.advance();
            Cursor {
                next: self.tracker.next(),
                counts: self.tracker.counts(),
                ..self.cursor.clone()
            }
        })
    }

    /// Takes a cursor that was committed.
    pub(super) fn committed<R: Reader>(&mut self, cursor: Cursor, reader: &mut R) {
        self.move_to(cursor, reader);
        let Some(pending) = &mut self.pending else { return };
        let now = clock::now();
        for (received_at, events) in pending.received.drain(..) {
            self.progress.observe(received_at, now, events);
        }
        self.count_letters();
    }

    /// Counts the dead letters behind which the cursor has moved.
    pub(super) fn count_letters(&mut self) {
        let Some(pending) = &mut self.pending else { return };
        let next = self.cursor.next;
        // A later one was stored by an earlier attempt, while an event before it has no result yet.
        for (sequence, reason) in pending.letters.extract_if(.., |(sequence, _)| *sequence < next) {
            self.progress.dead_letter(sequence, reason);
        }
        pending.letters_in_a_row = self.dead_letters_in_a_row;
    }

    /// Goes on at the cursor that the broker has kept, if it is further than ours: the commit came through although its
    /// answer did not, or our own cursor is older than the last commit. What stands between was counted by the run that
    /// committed it, so the counts are taken over with the place.
    pub(super) fn adopt<R: Reader>(&mut self, kept: Option<&Cursor>, reader: &mut R) {
        let Some(kept) = kept.cloned() else { return };
        if kept.next <= self.cursor.next || kept.counts.settled() != kept.next.since(kept.first) {
            return;
        }
        info!(
            sink = self.name(),
            from = self.cursor.next.get(),
            next = kept.next.get(),
            "going on at the cursor that was committed with the events"
        );
        self.tracker = AckTracker::new(kept.next, kept.counts);
        reader.rewind(kept.next);
        self.move_to(kept, reader);
    }

    /// Takes all back to the cursor, but not what was found out about refused events.
    pub(super) fn roll_back(&mut self) {
        self.tracker = AckTracker::new(self.cursor.next, self.cursor.counts);
        if let Some(pending) = &mut self.pending {
            pending.is_broken = false;
            pending.received.clear();
            pending.letters.clear();
            self.dead_letters_in_a_row = pending.letters_in_a_row;
            self.last_delivered = None;
        }
    }

    /// Notes that `events` were received together and have reached the broker.
    pub(super) fn observe(&mut self, received_at: Timestamp, now: Timestamp, events: u64) {
        match &mut self.pending {
            Some(pending) if events > 0 => pending.received.push((received_at, events)),
            Some(_) => {}
            None => self.progress.observe(received_at, now, events),
        }
    }

    /// Settles an event whose dead letter is stored where no transaction reaches.
    pub(super) fn stored_letter(&mut self, sequence: Sequence, reason: RejectionReason) {
        if let Some(pending) = &mut self.pending {
            pending.fates.insert(sequence, Fate::Stored(reason));
        }
        self.settle_as_letter(sequence, reason);
    }

    /// Settles an event whose dead letter is where it belongs.
    pub(super) fn settle_as_letter(&mut self, sequence: Sequence, reason: RejectionReason) {
        self.tracker.settle(sequence, Settlement::DeadLettered);
        self.dead_letters_in_a_row += u64::from(!reason.is_certain() && self.is_in_the_row(sequence));
        match &mut self.pending {
            Some(pending) => pending.letters.push((sequence, reason)),
            None => self.progress.dead_letter(sequence, reason),
        }
    }

    fn move_to<R: Reader>(&mut self, cursor: Cursor, reader: &mut R) {
        self.cursor = cursor;
        self.suspects = self.suspects.split_off(&self.cursor.next);
        if let Some(pending) = &mut self.pending {
            pending.fates = pending.fates.split_off(&self.cursor.next);
        }
        reader.commit(&self.cursor);
        self.progress.set_cursor(&self.cursor);
        self.report();
    }
}
