//! Publishes the dead letters of rejected events, or stores them outside of the sink.

use super::Window;
use crate::{
    dead_letter::DeadLetter,
    delivery::{
        commit_mode::CommitMode,
        redacted,
        refusals::{Body, missing},
    },
    event::Sequence,
    sink::{DeadLetterSink, FaultKind, PublishError, Rejection, RejectionReason, SinkFault},
};

impl<M: CommitMode> Window<M> {
    /// Publishes the dead letters to their destination. Returns false if the limit on messages in flight is reached.
    pub(super) fn publish_dead_letters(&mut self, sink: &mut dyn DeadLetterSink) -> Result<bool, SinkFault> {
        while let Some((sequence, rejection, body)) = self.next_dead_letter() {
            self.consecutive
                .check(sequence, rejection, self.refusals.dead_lettering())?;
            let mut json = String::new();
            self.write_dead_letter(sequence, rejection, body, &mut json)?;
            match sink.publish_dead_letter(&DeadLetter {
                sequence,
                json: &json,
            }) {
                Ok(()) => {
                    self.refusals.dead_letter_published(sequence);
                    self.outstanding.published_dead_letter();
                }
                Err(PublishError::Full) => return Ok(false),
                Err(PublishError::Rejected(refusal)) => {
                    self.refusals.dead_letter_rejected(sequence, &refusal)?
                }
                Err(PublishError::Fault(fault)) => return Err(fault),
            }
        }
        Ok(true)
    }

    pub(super) fn next_dead_letter(&self) -> Option<(Sequence, &Rejection, Body)> {
        self.refusals.rejected_before(self.inbox.position()).next()
    }

    /// Returns whether dead letters have to be stored.
    pub(in crate::delivery) fn has_dead_letters(&self) -> bool {
        self.next_dead_letter().is_some()
    }

    /// Stores dead letters outside of the sink.
    pub(in crate::delivery) async fn store_dead_letters(&mut self) -> Result<(), SinkFault> {
        let mut lines = String::new();
        let mut stored: Vec<(Sequence, RejectionReason)> = Vec::new();
        for (sequence, rejection, body) in self.refusals.rejected_before(self.inbox.position()) {
            self.consecutive
                .check(sequence, rejection, stored.iter().copied())?;
            self.write_dead_letter(sequence, rejection, body, &mut lines)?;
            lines.push('\n');
            stored.push((sequence, rejection.reason));
        }
        self.options.dead_letters.store(&lines).await.map_err(|error| {
            let reason = format!("dead letters cannot be stored: {error}; free space or fix the disk");
            SinkFault::new(FaultKind::Disk, reason)
        })?;
        for (sequence, reason) in stored {
            self.refusals.dead_letter_stored(sequence, reason, M::ROLLS_BACK);
            self.settle_as_dead_letter(sequence, reason);
        }
        Ok(())
    }

    fn write_dead_letter(
        &self,
        sequence: Sequence,
        rejection: &Rejection,
        body: Body,
        out: &mut String,
    ) -> Result<(), SinkFault> {
        let event = self.inbox.find(sequence).ok_or_else(|| missing(sequence))?;
        redacted::write_dead_letter(&self.options, &event, rejection, body, out);
        Ok(())
    }
}
