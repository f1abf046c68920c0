//! How large a message may be.

use neurobridge_core::sink::{PublishError, Rejection, RejectionReason};

use crate::in_flight::Role;

/// How large events and dead letters may be. They go into different streams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    event: Limit,
    letter: Limit,
}

#[derive(Clone, Copy, Debug)]
struct Limit {
    /// With headers.
    bytes: usize,
    whose: &'static str,
}

impl Limits {
    /// Of a server, and of the stream that keeps the events, if that has one.
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
            letter: of_server,
        }
    }

    /// Whether a message of so many bytes, with its headers, may be sent.
    ///
    /// # Errors
    /// It is too large.
    pub(crate) fn check(&self, size: usize, role: Role) -> Result<(), PublishError> {
        let limit = match role {
            Role::Letter => self.letter,
            Role::Chained { .. } | Role::Free => self.event,
        };
        if size > limit.bytes {
            return Err(PublishError::Rejected(Rejection {
                reason: RejectionReason::TooLarge,
                detail: format!(
                    "found a message of {size} bytes with its headers, expected at most {}, {}; raise it, or set oversize = \"strip\"",
                    limit.bytes, limit.whose
                ),
            }));
        }
        Ok(())
    }
}
