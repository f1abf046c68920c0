//! Applies the answers of a stream to the messages in flight.

use std::sync::Arc;

use async_nats::StatusCode;
use neurobridge_core::{
    foreign_text,
    sink::{Ack, FaultKind, Outcome, Rejection, SinkFault},
};

use super::Connection;
use crate::{
    backend::{Answer, Backend},
    error::{self, Blame},
    in_flight::{Role, Sent},
};

impl Connection {
    /// Applies an answer of the stream, or in core mode an echo, and appends the outcomes that it determines.
    pub(super) fn apply_answer(
        &mut self,
        reply: &async_nats::Message,
        acks: &mut Vec<Ack>,
    ) -> Result<(), SinkFault> {
        let number = reply
            .subject
            .strip_prefix(self.inbox.as_str())
            .and_then(|number| number.parse().ok());
        let Some(number) = number else {
            return Err(SinkFault::new(
                FaultKind::Other,
                format!(
                    "unexpected answer on the subject \"{}\"; unacknowledged events are sent again",
                    reply.subject
                ),
            ));
        };
        match &self.backend {
            Backend::Stream { name, usual, .. } => {
                let name = Arc::clone(name);
                let answer = match usual.place(&reply.payload) {
                    Some(seq) => Answer::stored(&name, seq),
                    None if reply.status == Some(StatusCode::NO_RESPONDERS) => {
                        return match self.in_flight.get(number) {
                            Some(sent) => Err(self.no_responders(*sent)),
                            None => Ok(()),
                        };
                    }
                    None => answer(reply)?,
                };
                self.take_answer(number, answer, &name, acks)
            }
            Backend::Core(_) => self.take_echo(number, reply, acks),
        }
    }

    fn no_responders(&self, sent: Sent) -> SinkFault {
        match &self.dead_letter_subject {
            Some(subject) if sent.role == Role::DeadLetter => {
                error::no_responders("the dead letter of event", sent.sequence, subject)
            }
            _ => error::no_responders("event", sent.sequence, &self.pattern),
        }
    }

    /// Returns the subject of the message with this number if the message is a dead letter, which is stored in another stream
    /// than events.
    fn dead_letter_subject_of(&self, number: u64) -> Option<&str> {
        let sent = self.in_flight.get(number)?;
        self.dead_letter_subject
            .as_deref()
            .filter(|_| sent.role == Role::DeadLetter)
    }

    /// Processes an echo, which proves that the server has processed all messages sent before it.
    fn take_echo(
        &mut self,
        number: u64,
        reply: &async_nats::Message,
        acks: &mut Vec<Ack>,
    ) -> Result<(), SinkFault> {
        let accepted = match &mut self.backend {
            Backend::Core(echoes) => echoes.receive(reply, number),
            Backend::Stream { .. } => None,
        };
        let Some(accepted) = accepted else {
            return Ok(());
        };
        if let Some(fault) = self.events.fault() {
            return Err(fault);
        }
        self.in_flight.take_before(
            accepted,
            |_| true,
            |sent| {
                acks.push(Ack {
                    sequence: sent.sequence,
                    outcome: Outcome::Delivered,
                });
            },
        );
        if self.in_flight.len() == 0
            && let Backend::Core(echoes) = &mut self.backend
        {
            echoes.end();
        }
        self.flush()
    }

    fn take_answer(
        &mut self,
        number: u64,
        answer: Answer<'_>,
        stream: &str,
        acks: &mut Vec<Ack>,
    ) -> Result<(), SinkFault> {
        if let Some(error) = answer.error {
            return match error::blame(&error) {
                Blame::Message(reason) => {
                    if let Some(sent) = self.in_flight.take(number) {
                        acks.push(Ack {
                            sequence: sent.sequence,
                            outcome: Outcome::Rejected(Rejection {
                                reason,
                                detail: format!(
                                    "{} (error {})",
                                    foreign_text::clean(&error.description),
                                    error.err_code
                                ),
                            }),
                        });
                    }
                    Ok(())
                }
                Blame::Order | Blame::SameId if self.takes_refusal(number) => Ok(()),
                // The event is published once more alone; its outcome is known then.
                Blame::SameId if self.backend.chain().is_none() => {
                    if let Some(sent) = self.in_flight.take(number) {
                        acks.push(Ack {
                            sequence: sent.sequence,
                            outcome: Outcome::Deferred,
                        });
                    }
                    Ok(())
                }
                Blame::Sink(_) | Blame::Order | Blame::SameId => {
                    Err(match self.dead_letter_subject_of(number) {
                        Some(subject) => error::of_dead_letter(&error, subject),
                        None => error::fault(&error, stream),
                    })
                }
            };
        }
        let Some(sent) = self.in_flight.take(number) else {
            return Ok(());
        };
        self.round_trip = Some(self.last_answer.saturating_duration_since(sent.at));
        if answer.stream != stream && sent.role != Role::DeadLetter {
            return Err(SinkFault::new(
                FaultKind::Missing,
                format!(
                    "the stream \"{}\" has stored an event instead of the stream \"{stream}\"; configure only one stream with \
                     the subjects of this sink",
                    answer.stream
                ),
            ));
        }
        if !answer.duplicate && sent.role != Role::DeadLetter {
            let next = self.in_flight.next_number();
            self.places.stored(number, sent.after, answer.seq, next);
            self.stored_in_cluster(answer.seq);
        }
        let outcome = if answer.duplicate {
            Outcome::Duplicate
        } else {
            Outcome::Delivered
        };
        if let Role::Chained { place } = sent.role
            && let Backend::Stream {
                chain: Some((chain, recovery)),
                ..
            } = &mut self.backend
        {
            if answer.duplicate {
                recovery.duplicate();
                chain.passed_over(place);
            } else if answer.seq == place {
                recovery.stored(place);
                chain.stored();
                if chain.acks_are_cumulative() {
                    // The stream stores a message of the chain only after its predecessor, so acknowledgements of earlier
                    // messages were lost.
                    self.in_flight.take_before(
                        number,
                        |earlier| earlier.role.is_chained(),
                        |earlier| {
                            acks.push(Ack {
                                sequence: earlier.sequence,
                                outcome: Outcome::Delivered,
                            });
                        },
                    );
                }
            } else {
                return Err(error::misplaced(stream, place, answer.seq));
            }
        }
        acks.push(Ack {
            sequence: sent.sequence,
            outcome,
        });
        Ok(())
    }

    /// Handles the rejection of a chained message that was caused by an earlier message. Returns false if the message is not
    /// part of the chain, or if the chain cannot be continued over this connection.
    fn takes_refusal(&mut self, number: u64) -> bool {
        let Some(&sent) = self.in_flight.get(number) else {
            return true;
        };
        let Some(recovery) = self.backend.recovery_mut().filter(|_| sent.role.is_chained()) else {
            return false;
        };
        if !recovery.refused(sent.sequence) {
            return false;
        }
        // Removed without an outcome: the event is sent again when the chain continues.
        self.in_flight.take(number);
        true
    }
}

/// Parses the answer of a stream.
fn answer(reply: &async_nats::Message) -> Result<Answer<'_>, SinkFault> {
    serde_json::from_slice(&reply.payload).map_err(|error| {
        SinkFault::new(
            FaultKind::Other,
            format!("cannot read an answer of JetStream: {error}; unacknowledged events are sent again"),
        )
    })
}
