//! The size limits of messages.

use neurobridge_core::sink::{PublishError, Rejection, RejectionReason};

use crate::in_flight::Role;

/// The size limits of events and of dead letters, which are stored in different streams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    event: Limit,
    dead_letter: Limit,
}

#[derive(Clone, Copy, Debug)]
struct Limit {
    /// The largest size including headers.
    bytes: usize,
    whose: &'static str,
}

impl Limits {
    /// Creates the limits from those of the server and of the events' stream, if it has one.
    pub(crate) fn new(max_payload: usize, max_message: Option<usize>) -> Self {
        let of_server = Limit {
            bytes: max_payload,
            whose: "the server's max_payload",
        };
        let of_stream = max_message
            .filter(|bytes| *bytes < max_payload)
            .map(|bytes| Limit {
                bytes,
                whose: "the stream's max_msg_size",
            });
        Self {
            event: of_stream.unwrap_or(of_server),
            dead_letter: of_server,
        }
    }

    /// Checks the size of a message including its headers.
    ///
    /// # Errors
    /// Returns a rejection if the message is too large.
    pub(crate) fn check(&self, size: usize, role: Role) -> Result<(), PublishError> {
        let limit = match role {
            Role::DeadLetter => self.dead_letter,
            Role::Chained { .. } | Role::Free => self.event,
        };
        if size > limit.bytes {
            return Err(PublishError::Rejected(Rejection {
                reason: RejectionReason::TooLarge,
                detail: format!(
                    "found a message of {size} bytes with its headers, expected at most {}, {}; raise this limit, or \
                     set oversize = \"strip\"",
                    limit.bytes, limit.whose
                ),
            }));
        }
        Ok(())
    }
}
