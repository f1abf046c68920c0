//! The observable state of the tokens of a source, for `/status` and the metrics.

use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use neurobridge_core::{
    labels,
    labels::{Counts, Label},
};
use neurobridge_platform::RequestError;
use serde::Serialize;

labels! {
    /// The outcome of a request to the IAM interface, as a label of a metric.
    pub(crate) enum Outcome {
        /// A token was created.
        Created = "created",
        /// A token was deleted, or did not exist.
        Deleted = "deleted",
        /// The credential cannot be read, or has characters that no token has.
        CredentialUnreadable = "credential_unreadable",
        /// The platform does not accept the credential (401 or 403).
        Refused = "refused",
        /// The platform refused the request, for example because the limit of tokens is reached.
        Rejected = "rejected",
        /// The platform limits the requests (429).
        RateLimited = "rate_limited",
        /// The platform could not be reached, did not answer in time, or answered with a status of 500 or above.
        Unavailable = "unavailable",
        /// The answer cannot be used.
        InvalidAnswer = "invalid_answer",
    }
}

/// The number of requests by outcome.
pub(crate) type OutcomeCounts = Counts<Outcome, { Outcome::ALL.len() }>;

impl Outcome {
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
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    shown: Shown,
    outcomes: OutcomeCounts,
    file_errors: u64,
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
        self.lock().shown.clone()
    }

    pub(crate) fn outcomes(&self) -> OutcomeCounts {
        self.lock().outcomes
    }

    pub(crate) fn file_errors(&self) -> u64 {
        self.lock().file_errors
    }

    pub(super) fn set(&self, expires: Option<Timestamp>, renews: Option<Timestamp>, alive: usize) {
        let shown = &mut self.lock().shown;
        (shown.expires, shown.renews, shown.alive) = (expires, renews, alive);
    }

    pub(super) fn set_problem(&self, problem: Option<String>) {
        self.lock().shown.problem = problem;
    }

    pub(super) fn count(&self, outcome: Outcome) {
        self.lock().outcomes.add(outcome, 1);
    }

    pub(super) fn count_file_error(&self) {
        self.lock().file_errors += 1;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code under this lock can panic in the middle of an update.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
