//! The events that the sink has refused, each in one state.
//!
//! An event is *refused* when its outcome is neither `Delivered` nor `Duplicate`. From there it goes one of two ways:
//!
//! ```text
//! RetryAlone, Deferred ─► Retrying ─(published alone)─► delivered, or rejected
//! Rejected ─► Rejected ─► DeadLettering ─► DeadLettered      the sink has a place for dead letters
//!             Rejected ─► Stored                             the dead letter is stored outside of the sink
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
    /// Even the place for dead letters has rejected it.
    LeftOut,
}

/// The state of a refused event.
#[derive(Clone, Debug)]
pub(super) enum Refused {
    /// Its next publication has to be alone.
    Retrying,
    /// Its dead letter has to be stored.
    Rejected(Rejection, Body),
    /// Its dead letter is in flight.
    DeadLettering(Rejection, Body),
    /// Its dead letter is acknowledged, as a part of the open transaction.
    DeadLettered(Rejection, Body),
    /// Its dead letter is stored outside of the sink, where no transaction takes it back.
    Stored(RejectionReason),
}

/// The refused events that matter until they are settled, or committed.
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

    /// Whether an event is in flight that nothing may be published beside.
    pub(super) const fn is_one_alone(&self) -> bool {
        self.alone.is_some()
    }

    /// The first event that has to be published alone.
    pub(super) fn first_retry(&self) -> Option<Sequence> {
        let mut states = self.states.iter();
        states
            .find(|(_, state)| matches!(state, Refused::Retrying))
            .map(|(sequence, _)| *sequence)
    }

    /// Notes that an event is in flight: alone, if it has to be.
    pub(super) fn published(&mut self, sequence: Sequence) {
        if matches!(self.get(sequence), Some(Refused::Retrying)) {
            self.alone = Some(sequence);
        }
    }

    /// The events before `position` whose dead letters have to be stored.
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

    /// Whether a dead letter has to be stored, or is in flight.
    pub(super) fn has_open_dead_letters(&self) -> bool {
        let mut states = self.states.values();
        states.any(|state| matches!(state, Refused::Rejected(..) | Refused::DeadLettering(..)))
    }

    /// The events whose dead letters are in flight, with the reasons.
    pub(super) fn dead_lettering(&self) -> impl Iterator<Item = (Sequence, RejectionReason)> {
        self.states.iter().filter_map(|(sequence, state)| match state {
            Refused::DeadLettering(rejection, _) => Some((*sequence, rejection.reason)),
            _ => None,
        })
    }

    /// Takes a rejection of an event itself.
    pub(super) fn reject(&mut self, sequence: Sequence, rejection: Rejection) {
        self.states
            .insert(sequence, Refused::Rejected(rejection, Body::Whole));
    }

    /// Takes the refusal of a message, which is the event or its dead letter.
    ///
    /// # Errors
    /// The dead letter was rejected although it did not contain its event.
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
                let state = Refused::Rejected(rejection, Body::LeftOut);
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

    /// Takes the acknowledgement of a message. Returns the reason when it was a dead letter. `keep`: until the commit.
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

    /// Notes that the sink has taken the dead letter of an event.
    pub(super) fn dead_letter_published(&mut self, sequence: Sequence) {
        if let Some(Refused::Rejected(rejection, body)) = self.states.remove(&sequence) {
            self.states
                .insert(sequence, Refused::DeadLettering(rejection, body));
        }
    }

    /// Takes the rejection of a dead letter that the sink has not taken.
    ///
    /// # Errors
    /// It did not contain its event.
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

    /// Notes that the dead letter of an event is stored outside of the sink. `keep`: until the commit.
    pub(super) fn dead_letter_stored(&mut self, sequence: Sequence, reason: RejectionReason, keep: bool) {
        if keep {
            self.states.insert(sequence, Refused::Stored(reason));
        } else {
            self.states.remove(&sequence);
        }
    }

    /// Forgets the events before the cursor.
    pub(super) fn committed(&mut self, next: Sequence) {
        if !self.states.is_empty() {
            self.states = self.states.split_off(&next);
        }
    }

    /// Forgets all: each event is published again with the others.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Takes the transaction back, but not what is known of the events: it is used at their turn.
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

/// Leaves the event out of its dead letter, which was rejected.
fn without_event(body: Body, refusal: &Rejection) -> Result<Body, SinkFault> {
    if body == Body::Whole {
        return Ok(Body::LeftOut);
    }
    let reason = format!(
        "the destination for dead letters rejects them: {}; fix it, no event is lost meanwhile",
        refusal.detail
    );
    Err(SinkFault::new(FaultKind::Other, reason))
}
