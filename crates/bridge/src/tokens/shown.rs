//! The observable state of the tokens of a source, for `/status` and the metrics.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use jiff::Timestamp;
use neurobridge_platform::RequestError;
use serde::Serialize;

/// The outcome of a request to the IAM interface, as a label of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A token was created.
    Created,
    /// A token was deleted, or did not exist.
    Deleted,
    /// The credential cannot be read, or is no possible token.
    CredentialUnreadable,
    /// The platform does not accept the credential (401 or 403).
    Refused,
    /// The platform refused the request, for example because the limit of tokens is reached.
    Rejected,
    /// The platform limits the requests (429).
    RateLimited,
    /// The platform could not be reached, did not answer in time, or answered with a status of 500 or above.
    Unavailable,
    /// The answer cannot be used.
    InvalidAnswer,
}

impl Outcome {
    const ALL: [Self; 8] = [
        Self::Created,
        Self::Deleted,
        Self::CredentialUnreadable,
        Self::Refused,
        Self::Rejected,
        Self::RateLimited,
        Self::Unavailable,
        Self::InvalidAnswer,
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Deleted => "deleted",
            Self::CredentialUnreadable => "credential_unreadable",
            Self::Refused => "refused",
            Self::Rejected => "rejected",
            Self::RateLimited => "rate_limited",
            Self::Unavailable => "unavailable",
            Self::InvalidAnswer => "invalid_answer",
        }
    }

    /// Returns the outcome of a failed request.
    pub(crate) const fn of(error: &RequestError) -> Self {
        match error {
            RequestError::Token(_) | RequestError::TokenText => Self::CredentialUnreadable,
            RequestError::Unauthorised { .. } | RequestError::Status { status: 403, .. } => Self::Refused,
            RequestError::RateLimited { .. } => Self::RateLimited,
            RequestError::Status { status, .. } if *status < 500 => Self::Rejected,
            RequestError::Dial(_)
            | RequestError::Connection { .. }
            | RequestError::Timeout { .. }
            | RequestError::Status { .. } => Self::Unavailable,
            _ => Self::InvalidAnswer,
        }
    }
}

/// The state of the tokens of a source.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    shown: Mutex<Shown>,
    outcomes: [AtomicU64; Outcome::ALL.len()],
    file_errors: AtomicU64,
}

/// The state at one moment, in the shape of `/status`.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Shown {
    /// The time at which the current token expires, by the local clock; null without a temporary token.
    pub(crate) expires: Option<Timestamp>,
    /// The time of the next attempt to renew it, by the local clock; null if it does not expire.
    pub(crate) renews: Option<Timestamp>,
    /// The number of tokens that may be valid: the current one, and the old one until it is deleted.
    pub(crate) alive: usize,
    /// Why the last request failed; null after a success.
    pub(crate) problem: Option<String>,
}

impl Tokens {
    pub(crate) fn shown(&self) -> Shown {
        self.lock().clone()
    }

    /// Returns the number of requests by outcome.
    pub(crate) fn outcomes(&self) -> Vec<(&'static str, u64)> {
        let counts = self.outcomes.iter().map(|count| count.load(Relaxed));
        Outcome::ALL
            .into_iter()
            .map(Outcome::as_str)
            .zip(counts)
            .collect()
    }

    pub(crate) fn file_errors(&self) -> u64 {
        self.file_errors.load(Relaxed)
    }

    pub(super) fn set(&self, expires: Option<Timestamp>, renews: Option<Timestamp>, alive: usize) {
        let mut shown = self.lock();
        (shown.expires, shown.renews, shown.alive) = (expires, renews, alive);
    }

    pub(super) fn set_problem(&self, problem: Option<String>) {
        self.lock().problem = problem;
    }

    pub(super) fn count(&self, outcome: Outcome) {
        let counts = Outcome::ALL.iter().zip(&self.outcomes);
        for (_, count) in counts.filter(|(one, _)| **one == outcome) {
            count.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn count_file_error(&self) {
        self.file_errors.fetch_add(1, Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Shown> {
        // No code under this lock can panic in the middle of an update.
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
