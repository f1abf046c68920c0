//! Dead letters: what was refused for itself, on its way to where it is kept.

use super::window::{Window, missing, redacted};
use crate::{
    dead_letter::{self, DeadLetter},
    event::Sequence,
    sink::{Ack, FaultKind, Outcome, PublishError, Rejection, Sink, SinkFault},
};

/// Whether a dead letter carries its event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Whole,
    /// Even the place for dead letters refused it.
    LeftOut,
}

impl Window {
    /// Stores the dead letters for which the sink has no place of its own.
    pub(super) async fn store_dead_letters(&mut self) -> Result<(), SinkFault> {
        if self.rejected.is_empty() {
            return Ok(());
        }
        let mut lines = String::new();
        for index in 0..self.rejected.len() {
            let (sequence, rejection, body) = self.rejected[index].clone();
            let before = self.rejected.range(..index);
            let before = before.filter(|(_, rejection, _)| !rejection.reason.is_certain());
            let before = before.map(|(sequence, ..)| *sequence);
            self.check_letters_in_a_row(sequence, before, &rejection)?;
            self.write_letter(sequence, &rejection, body, &mut lines)?;
            lines.push('\n');
        }
        self.options.dead_letters.store(&lines).await.map_err(|error| {
            SinkFault::new(
                FaultKind::Disk,
                format!("dead letters can't be stored: {error}; make room or mend the disk"),
            )
        })?;
        for (sequence, rejection, _) in std::mem::take(&mut self.rejected) {
            self.stored_letter(sequence, rejection.reason);
        }
        Ok(())
    }

    /// Hands the dead letters to a sink that keeps them; false when it takes no more for now.
    pub(super) fn publish_dead_letters<S: Sink>(&mut self, sink: &mut S) -> Result<bool, SinkFault> {
        while let Some((sequence, rejection, body)) = self.rejected.front().cloned() {
            let lettered = self.lettered.iter();
            let lettered = lettered.filter(|(_, (rejection, _))| !rejection.reason.is_certain());
            self.check_letters_in_a_row(sequence, lettered.map(|(sequence, _)| *sequence), &rejection)?;
            let mut json = String::new();
            self.write_letter(sequence, &rejection, body, &mut json)?;
            match sink.publish_dead_letter(&DeadLetter {
                sequence,
                json: &json,
            }) {
                Ok(()) => {
                    self.rejected.pop_front();
                    self.lettered.insert(sequence, (rejection, body));
                    self.in_sink += 1;
                    self.unflushed = true;
                }
                Err(PublishError::Full) => return Ok(false),
                Err(PublishError::Rejected(refusal)) => self.shorten_letter(&refusal)?,
                Err(PublishError::Fault(fault)) => return Err(fault),
            }
        }
        Ok(true)
    }

    /// The first dead letter was refused where dead letters go: once more without its event, then no more.
    fn shorten_letter(&mut self, refusal: &Rejection) -> Result<(), SinkFault> {
        match self.rejected.front_mut() {
            Some((_, _, body @ Body::Whole)) => {
                *body = Body::LeftOut;
                Ok(())
            }
            _ => Err(letter_refused(refusal)),
        }
    }

    pub(super) fn settle_letter(
        &mut self,
        ack: Ack,
        rejection: Rejection,
        body: Body,
    ) -> Result<(), SinkFault> {
        match ack.outcome {
            Outcome::Delivered | Outcome::Duplicate => {
                self.settle_as_letter(ack.sequence, rejection.reason);
            }
            Outcome::Rejected(refusal) | Outcome::RetryAlone(refusal) => {
                if body == Body::LeftOut {
                    return Err(letter_refused(&refusal));
                }
                self.rejected.push_back((ack.sequence, rejection, Body::LeftOut));
            }
            Outcome::Deferred => self.rejected.push_back((ack.sequence, rejection, body)),
        }
        Ok(())
    }

    /// Whether one more dead letter may follow those that are settled and those that are `on_their_way`. They count when they
    /// are settled: what has to be tried again because there is no room for it is one letter still.
    fn check_letters_in_a_row(
        &self,
        sequence: Sequence,
        on_their_way: impl Iterator<Item = Sequence>,
        rejection: &Rejection,
    ) -> Result<(), SinkFault> {
        if rejection.reason.is_certain() || !self.is_in_the_row(sequence) {
            return Ok(());
        }
        let on_their_way = on_their_way.filter(|sequence| self.is_in_the_row(*sequence));
        let in_a_row = self.dead_letters_in_a_row + on_their_way.count() as u64;
        if in_a_row >= self.options.max_dead_letters_in_a_row {
            return Err(SinkFault::fatal(
                FaultKind::TooManyDeadLetters,
                format!(
                    "{in_a_row} events in a row were refused, the last one with \"{}\"; expected that to be the exception: \
                     mend the cause and restart, nothing more is put into the dead letters",
                    rejection.detail
                ),
            ));
        }
        Ok(())
    }

    /// Whether nothing was delivered behind this event, that is known.
    pub(super) fn is_in_the_row(&self, sequence: Sequence) -> bool {
        self.last_delivered < Some(sequence)
    }

    fn write_letter(
        &self,
        sequence: Sequence,
        rejection: &Rejection,
        body: Body,
        out: &mut String,
    ) -> Result<(), SinkFault> {
        let event = self.find(sequence).ok_or_else(|| missing(sequence))?;
        let mut scratch = String::new();
        // What this sink may not see, its dead letters may not hold. Where that can't be told, the event is left out.
        let redacted = redacted(&self.options, &event, &mut scratch);
        let whole = body == Body::Whole && redacted.is_ok();
        let event = redacted.unwrap_or(event);
        let reason = rejection.reason.label();
        dead_letter::write_event(
            &event,
            &self.options.spool,
            &self.options.name,
            reason,
            &rejection.detail,
            whole,
            out,
        );
        Ok(())
    }
}

pub(super) fn letter_refused(refusal: &Rejection) -> SinkFault {
    let reason = format!(
        "the place for dead letters refuses them: {}; mend it, nothing is lost meanwhile",
        refusal.detail
    );
    SinkFault::new(FaultKind::Other, reason)
}
