//! The states of refused events.
//!
//! An event is *refused* if its outcome is neither `Delivered` nor `Duplicate`. Its next states depend on the outcome:
//!
//! ```text
//! outcome                states
//! RetryAlone, Deferred   Retrying ─(published alone)─► delivered, or rejected
//! Rejected               Rejected ─► DeadLettering ─► DeadLettered   the sink stores dead letters itself
//!                        Rejected ─► Stored                          the dead letter is stored outside of the sink
//! ```

use std::collections::BTreeMap;

use crate::{
    event::Sequence,
    sink::{FaultKind, Outcome, Rejection, RejectionReason, SinkFault},
};

/// Whether a dead letter contains its event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Whole,
    /// The destination of dead letters has rejected the event too.
    Omitted,
}

/// The state of a refused event.
#[derive(Clone, Debug)]
pub(super) enum Refused {
    /// The event has to be published again, alone.
    Retrying,
    /// The dead letter has to be stored.
    Rejected(Rejection, Body),
    /// The dead letter is in flight.
    DeadLettering(Rejection, Body),
    /// The dead letter is acknowledged, as a part of the open transaction.
    DeadLettered(Rejection, Body),
    /// The dead letter is stored outside of the sink, so it remains when a transaction is rolled back.
    Stored(RejectionReason),
}

/// The refused events that are not yet settled or committed.
#[derive(Default)]
pub(super) struct Refusals {
    states: BTreeMap<Sequence, Refused>,
    /// The retried event that is in flight.
    alone: Option<Sequence>,
}

impl Refusals {
    pub(super) fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    pub(super) fn get(&self, sequence: Sequence) -> Option<&Refused> {
        self.states.get(&sequence)
    }

    /// Returns whether an event that has to be published alone is in flight. Nothing else may be published meanwhile.
    pub(super) const fn has_lone_event(&self) -> bool {
        self.alone.is_some()
    }

    /// Returns the first event that has to be published alone.
    pub(super) fn first_retry(&self) -> Option<Sequence> {
        let mut states = self.states.iter();
        states
            .find(|(_, state)| matches!(state, Refused::Retrying))
            .map(|(sequence, _)| *sequence)
    }

    /// Records that an event was published. Until the outcome of an event that has to be alone, no other may be published.
    pub(super) fn published(&mut self, sequence: Sequence) {
        if matches!(self.get(sequence), Some(Refused::Retrying)) {
            self.alone = Some(sequence);
        }
    }

    /// Returns the events before `position` whose dead letters have to be stored.
    pub(super) fn rejected_before(
        &self,
        position: Sequence,
    ) -> impl Iterator<Item = (Sequence, &Rejection, Body)> {
        let states = self.states.range(..position);
        states.filter_map(|(sequence, state)| match state {
            Refused::Rejected(rejection, body) => Some((*sequence, rejection, *body)),
            _ => None,
        })
    }

    /// Returns whether a dead letter has to be stored or is in flight.
    pub(super) fn has_open_dead_letters(&self) -> bool {
        let mut states = self.states.values();
        states.any(|state| matches!(state, Refused::Rejected(..) | Refused::DeadLettering(..)))
    }

    /// Returns the events whose dead letters are in flight, with the reasons.
    pub(super) fn dead_lettering(&self) -> impl Iterator<Item = (Sequence, RejectionReason)> {
        self.states.iter().filter_map(|(sequence, state)| match state {
            Refused::DeadLettering(rejection, _) => Some((*sequence, rejection.reason)),
            _ => None,
        })
    }

    /// Records the rejection of an event.
    pub(super) fn reject(&mut self, sequence: Sequence, rejection: Rejection) {
        self.states
            .insert(sequence, Refused::Rejected(rejection, Body::Whole));
    }

    /// Records the refusal of a message, which is the event or its dead letter.
    ///
    /// # Errors
    /// Returns a fault if a dead letter was rejected although it did not contain its event.
    pub(super) fn refuse(&mut self, sequence: Sequence, outcome: Outcome) -> Result<(), SinkFault> {
        let was_alone = self.take_alone(sequence);
        let state = match (self.states.remove(&sequence), outcome) {
            (_, Outcome::Delivered | Outcome::Duplicate) => return Ok(()),
            (Some(Refused::DeadLettering(rejection, body)), Outcome::Deferred) => {
                Refused::Rejected(rejection, body)
            }
            (
                Some(Refused::DeadLettering(rejection, body)),
                Outcome::Rejected(refusal) | Outcome::RetryAlone(refusal),
            ) => {
                let without_event = without_event(body, &refusal);
                let state = Refused::Rejected(rejection, Body::Omitted);
                self.states.insert(sequence, state);
                return without_event.map(|_| ());
            }
            (_, Outcome::Rejected(rejection)) => Refused::Rejected(rejection, Body::Whole),
            (_, Outcome::RetryAlone(rejection)) if was_alone => Refused::Rejected(rejection, Body::Whole),
            (_, Outcome::RetryAlone(_) | Outcome::Deferred) => Refused::Retrying,
        };
        self.states.insert(sequence, state);
        Ok(())
    }

    /// Records the acknowledgement of a message. If the message was a dead letter, returns the reason of the rejection. With
    /// `keep` the state is kept until the commit.
    pub(super) fn accept(&mut self, sequence: Sequence, keep: bool) -> Option<RejectionReason> {
        if self.take_alone(sequence) {
            if !keep {
                self.states.remove(&sequence);
            }
            return None;
        }
        if !matches!(self.get(sequence), Some(Refused::DeadLettering(..))) {
            return None;
        }
        let Some(Refused::DeadLettering(rejection, body)) = self.states.remove(&sequence) else {
            return None;
        };
        let reason = rejection.reason;
        if keep {
            self.states
                .insert(sequence, Refused::DeadLettered(rejection, body));
        }
        Some(reason)
    }

    /// Records that the dead letter of an event was published.
    pub(super) fn dead_letter_published(&mut self, sequence: Sequence) {
        if let Some(Refused::Rejected(rejection, body)) = self.states.remove(&sequence) {
            self.states
                .insert(sequence, Refused::DeadLettering(rejection, body));
        }
    }

    /// Records that the sink refused to publish a dead letter.
    ///
    /// # Errors
    /// Returns a fault if the dead letter did not contain its event.
    pub(super) fn dead_letter_rejected(
        &mut self,
        sequence: Sequence,
        refusal: &Rejection,
    ) -> Result<(), SinkFault> {
        if let Some(Refused::Rejected(_, body)) = self.states.get_mut(&sequence) {
            *body = without_event(*body, refusal)?;
        }
        Ok(())
    }

    /// Records that the dead letter of an event is stored outside of the sink. With `keep` the state is kept until the commit.
    pub(super) fn dead_letter_stored(&mut self, sequence: Sequence, reason: RejectionReason, keep: bool) {
        if keep {
            self.states.insert(sequence, Refused::Stored(reason));
        } else {
            self.states.remove(&sequence);
        }
    }

    /// Removes the states of the events before the cursor.
    pub(super) fn committed(&mut self, next: Sequence) {
        if !self.states.is_empty() {
            self.states = self.states.split_off(&next);
        }
    }

    /// Removes all states: the refused events are published again like all others.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Removes the refusals that are not final, because another member of the cluster now decides about their events.
    pub(super) fn follow(&mut self) {
        self.alone = None;
        self.states.retain(|_, state| matches!(state, Refused::Stored(_)));
    }

    /// Rolls the transaction back, but keeps the refusals, which are applied when the events are published again.
    pub(super) fn roll_back(&mut self) {
        self.alone = None;
        for state in self.states.values_mut() {
            if let Refused::DeadLettering(rejection, body) | Refused::DeadLettered(rejection, body) = state {
                *state = Refused::Rejected(rejection.clone(), *body);
            }
        }
    }

    fn take_alone(&mut self, sequence: Sequence) -> bool {
        let was_alone = self.alone == Some(sequence);
        if was_alone {
            self.alone = None;
        }
        was_alone
    }
}

/// Removes the event from a dead letter that was rejected.
fn without_event(body: Body, refusal: &Rejection) -> Result<Body, SinkFault> {
    if body == Body::Whole {
        return Ok(Body::Omitted);
    }
    let reason = format!(
        "the destination for dead letters rejects a dead letter: {}; fix the destination; no event is lost meanwhile",
        refusal.detail
    );
    Err(SinkFault::new(FaultKind::Other, reason))
}

/// Returns the fault for a refused event whose body is not in memory any more.
pub(super) fn missing(sequence: Sequence) -> SinkFault {
    let reason = format!(
        "event {sequence} was rejected and is no longer in memory; the event is read again from the spool"
    );
    SinkFault::new(FaultKind::Other, reason)
}
