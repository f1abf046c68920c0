//! The steps of a connection attempt: recorded by a sink, read by its delivery while the attempt lasts.
//!
//! A client library can wait for a server without reporting an error. From the recorded steps, the delivery
//! reports what the attempt waits for, with the address and advice, and limits the time without progress.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    labels,
    labels::{Counts, Label},
    sink::{FaultKind, SinkFault},
};

/// The time after which a sink that is not connected counts as down.
const SLOW_AFTER: Duration = Duration::from_secs(5);

labels! {
    /// The steps of a connection attempt, in the order in which a sink performs them.
    #[derive(PartialOrd, Ord)]
    pub enum ConnectStep {
        /// Reads files and creates the client, without contacting a server.
        Prepare = "prepare",
        /// Resolves the name of a server.
        NameLookup = "name_lookup",
        /// Opens a connection to an address.
        Dial = "dial",
        /// Negotiates TLS.
        Tls = "tls",
        /// Authenticates.
        SignIn = "sign_in",
        /// Requests the members of the cluster.
        Metadata = "metadata",
        /// Requests a topic, its leaders and its limits, or creates it.
        Topic = "topic",
        /// Requests a stream, or creates it.
        Stream = "stream",
        /// Requests a producer id, or claims a transactional id.
        ProducerId = "producer_id",
        /// Reads the position that was committed last.
        Cursor = "cursor",
    }
}

/// Counts of connection attempts, by step.
pub type StepCounts = Counts<ConnectStep, { ConnectStep::ALL.len() }>;

impl ConnectStep {
    /// Returns the name of the step for a sentence.
    const fn words(self) -> &'static str {
        match self {
            Self::Prepare => "preparation",
            Self::NameLookup => "name look-up",
            Self::Dial => "dial",
            Self::Tls => "TLS handshake",
            Self::SignIn => "sign-in",
            Self::Metadata => "metadata request",
            Self::Topic => "topic request",
            Self::Stream => "stream request",
            Self::ProducerId => "producer id request",
            Self::Cursor => "cursor request",
        }
    }

    /// Returns the general advice for a step that does not complete. [`ConnectSteps::advise`] replaces it.
    const fn advice(self) -> &'static str {
        match self {
            Self::Prepare => "check the files named in the configuration",
            Self::NameLookup => "check the name, and the name server of this machine",
            Self::Dial => "check the address, the network and its firewalls, and that the server runs",
            Self::Tls => "check that the server expects TLS at this address, and its certificate",
            Self::SignIn => "check that the server runs and expects this kind of sign-in",
            Self::Metadata => "check that the server runs and that its cluster has a leader",
            Self::Topic => "check the topic and the leaders of its partitions",
            Self::Stream => "check the stream and its leader",
            Self::ProducerId => "check the coordinator of producer ids and transactions in the broker's log",
            Self::Cursor => "check the topic or stream that holds the committed cursor",
        }
    }

    const fn kind(self) -> FaultKind {
        match self {
            Self::NameLookup | Self::Dial => FaultKind::Unreachable,
            _ => FaultKind::Timeout,
        }
    }
}

/// The record of a connection attempt, written by a sink. Clones share the same record.
#[derive(Clone, Debug)]
pub struct ConnectSteps(Arc<Mutex<Notes>>);

#[derive(Debug)]
struct Notes {
    began: Instant,
    /// The time of the last progress: see [`ConnectSteps::begin`].
    progress: Instant,
    furthest: ConnectStep,
    step: ConnectStep,
    target: String,
    advice: Option<String>,
    error: Option<String>,
}

/// The description of a connection attempt that takes too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlowConnect {
    /// Step and target: constant while the attempt waits for the same answer.
    pub at: String,
    /// The fault with the reason, which contains the elapsed time.
    pub fault: SinkFault,
}

impl Default for ConnectSteps {
    fn default() -> Self {
        let now = Instant::now();
        Self(Arc::new(Mutex::new(Notes {
            began: now,
            progress: now,
            furthest: ConnectStep::Prepare,
            step: ConnectStep::Prepare,
            target: String::new(),
            advice: None,
            error: None,
        })))
    }
}

impl ConnectSteps {
    /// Records the beginning of a step. `target` is the address, topic or stream that has to answer, optionally
    /// with the origin of the address.
    ///
    /// A later step than all earlier ones is progress. The same step with another address is not: otherwise
    /// an attempt that tries many addresses in vain would have no limit.
    pub fn begin(&self, step: ConnectStep, target: impl fmt::Display) {
        let mut notes = self.lock();
        if step > notes.furthest {
            notes.furthest = step;
            notes.progress = Instant::now();
        }
        notes.step = step;
        notes.target = target.to_string();
        notes.advice = None;
    }

    /// Replaces the advice for the current step.
    pub fn advise(&self, advice: impl Into<String>) {
        self.lock().advice = Some(advice.into());
    }

    /// Records progress within the current step, for a step that may take long.
    pub fn progress(&self) {
        self.lock().progress = Instant::now();
    }

    /// Records the latest error of the client that did not end the attempt.
    pub fn client_error(&self, error: impl Into<String>) {
        self.lock().error = Some(error.into());
    }

    /// Returns the fault of an attempt that has lasted longer than five seconds, otherwise `None`.
    pub fn slow(&self) -> Option<SlowConnect> {
        let elapsed = self.lock().began.elapsed();
        (elapsed >= SLOW_AFTER).then(|| self.pending())
    }

    /// Returns the fault of an unfinished attempt, regardless of its duration.
    pub fn pending(&self) -> SlowConnect {
        let notes = self.lock();
        let at = if notes.target.is_empty() {
            notes.step.words().to_owned()
        } else {
            format!("{}, {}", notes.step.words(), notes.target)
        };
        let error = notes
            .error
            .as_ref()
            .map(|error| format!("; latest error of the client: {error}"))
            .unwrap_or_default();
        let seconds = notes.began.elapsed().as_secs();
        let advice = notes.advice.as_deref().unwrap_or(notes.step.advice());
        let reason = format!("not connected after {seconds} s, waiting at step: {at}{error}; {advice}");
        SlowConnect {
            at,
            fault: SinkFault::new(notes.step.kind(), reason),
        }
    }

    /// Returns the current step.
    pub(crate) fn step(&self) -> ConnectStep {
        self.lock().step
    }

    /// Returns the time since the last progress.
    pub(crate) fn without_progress(&self) -> Duration {
        self.lock().progress.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, Notes> {
        // Nothing within the lock can panic half-way through an update.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn slow_attempt_names_step_address_error_and_advice() {
        let steps = ConnectSteps::default();
        steps.begin(ConnectStep::Dial, "broker.example:9092");
        advance(Duration::from_secs(4)).await;
        assert_eq!(steps.slow(), None);
        advance(Duration::from_secs(2)).await;
        let SlowConnect { at, fault } = steps.slow().unwrap();
        assert_eq!(at, "dial, broker.example:9092");
        assert_eq!(fault.kind, FaultKind::Unreachable);
        insta::assert_snapshot!(fault, @"not connected after 6 s, waiting at step: dial, broker.example:9092; check the address, the network and its firewalls, and that the server runs");
        steps.client_error("connection reset");
        steps.begin(ConnectStep::Topic, "the topic \"a\"");
        steps.advise("fix advertised.listeners");
        let fault = steps.slow().unwrap().fault;
        assert_eq!(fault.kind, FaultKind::Timeout);
        insta::assert_snapshot!(fault, @r#"not connected after 6 s, waiting at step: topic request, the topic "a"; latest error of the client: connection reset; fix advertised.listeners"#);
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_later_step_is_progress() {
        let steps = ConnectSteps::default();
        let pause = Duration::from_secs(10);
        advance(pause).await;
        steps.begin(ConnectStep::Dial, "a");
        assert_eq!(steps.without_progress(), Duration::ZERO);
        advance(pause).await;
        steps.begin(ConnectStep::Dial, "b");
        steps.begin(ConnectStep::NameLookup, "c");
        assert_eq!(steps.without_progress(), pause);
        steps.begin(ConnectStep::Tls, "c");
        assert_eq!(steps.without_progress(), Duration::ZERO);
        advance(pause).await;
        steps.progress();
        assert_eq!(steps.without_progress(), Duration::ZERO);
    }

    #[test]
    fn steps_are_listed_in_order() {
        assert!(ConnectStep::ALL.is_sorted());
    }
}
