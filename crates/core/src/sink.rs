//! The `Sink` trait: publishes events and reports the outcome of each one asynchronously.
//!
//! Everything that sinks have in common (reading, filters, dead letters, cursors, retries) is done by
//! [`delivery`](crate::delivery). A sink connects, publishes without waiting, reports outcomes, and decides whether an error
//! is the fault of one event or of the sink.

use std::{fmt, future::Future, pin::Pin, time::Duration};

use bytes::Bytes;

use crate::{
    connect::ConnectSteps,
    copies::CopyCounts,
    dead_letter::DeadLetter,
    epoch::Epochs,
    event::{Event, Sequence},
    foreign_text,
    identity::SpoolId,
    labels,
    labels::{Counts, Label},
    reader::Cursor,
    recreation::{FileChanges, Recreations},
};

/// A sink: publishes events and reports the outcome of each one asynchronously. One task drives it; no two calls overlap.
///
/// What only some sinks can do is returned as an object: [`dead_letters`](Self::dead_letters) and
/// [`transactions`](Self::transactions). No method has a default, so that a sink that wraps another one cannot forget to
/// forward a method.
pub trait Sink: Send + 'static {
    /// Whether [`connect`](Self::connect) replaces a client that hangs. If true, the delivery connects again when no event
    /// was settled for too long, and drops calls that take too long. False for a sink whose unfinished work cannot be
    /// abandoned, such as a write to a file.
    const REPLACES_CLIENT: bool;

    /// Connects, or reconnects after a fault, and checks that the destination exists. No outcome of an event that was in
    /// flight before is reported any more. Legal but risky settings are logged as warnings.
    ///
    /// The sink notes each step that waits for a server in `context.steps`. If the sink is not connected after some seconds,
    /// the delivery reports the last step as the reason, and it drops an attempt without progress after a time limit.
    /// Dropping the future leaves the sink disconnected.
    ///
    /// # Errors
    /// The service is unreachable or refuses the connection. The delivery retries with a growing delay, unless the fault is
    /// final.
    fn connect(
        &mut self,
        context: &ConnectContext<'_>,
    ) -> impl Future<Output = Result<Connected, SinkFault>> + Send;

    /// Passes an event to the client, which sends it in the background. Does not wait.
    ///
    /// `buffer` is the buffer that holds the event, so that a client can take zero-copy slices of it. A redacted or retried
    /// event lies outside of it.
    ///
    /// # Errors
    /// See [`PublishError`]; the event was not published.
    fn publish(&mut self, event: &Event<'_>, buffer: &Bytes) -> Result<(), PublishError>;

    /// Sends the events that [`publish`](Self::publish) has collected. Called after a run of `publish` calls.
    ///
    /// # Errors
    /// The sink as a whole is unavailable.
    fn flush(&mut self) -> impl Future<Output = Result<(), SinkFault>> + Send;

    /// Waits until the outcome of at least one published event is known, and appends all known outcomes. Cancel-safe: no
    /// outcome is lost. May return without an outcome.
    ///
    /// # Errors
    /// The sink as a whole is unavailable: every event without an outcome is published again after the next connect.
    fn outcomes(
        &mut self,
        acks: &mut Vec<Ack>,
    ) -> impl Future<Output = Result<AfterOutcomes, SinkFault>> + Send;

    /// Returns text that is stored with the cursor and passed to the next [`connect`](Self::connect), such as a position in a
    /// file. It describes the destination after all events whose outcomes were reported, and after no others.
    fn cursor_note(&self) -> Option<String>;

    /// Returns the present status. Called regularly, also while nothing is published.
    fn status(&self) -> SinkStatus;

    /// Returns the destination's own place for dead letters (a topic, a subject). `None` if none is configured: then dead
    /// letters are stored in a file. The answer is the same at every call.
    fn dead_letters(&mut self) -> Option<&mut dyn DeadLetterSink>;

    /// Returns the transactions of a sink that publishes in transactions. The answer is the same at every call.
    fn transactions(&mut self) -> Option<&mut dyn Transactions>;

    /// Closes the connection. Every published event has its outcome, or no time is left to wait for one.
    fn close(&mut self) -> impl Future<Output = ()> + Send;
}

/// The capability of a sink to store dead letters in its destination.
pub trait DeadLetterSink: Send {
    /// Publishes a dead letter, as [`Sink::publish`] does an event. Its outcome is reported under the letter's sequence.
    ///
    /// # Errors
    /// See [`PublishError`]; the dead letter was not published.
    fn publish_dead_letter(&mut self, dead_letter: &DeadLetter<'_>) -> Result<(), PublishError>;
}

/// The capability of a sink to publish in transactions.
///
/// The outcome [`Delivered`](Outcome::Delivered) of such a sink is final only with the [`commit`](Self::commit). The sink
/// opens a transaction with the first message after a commit, and [`Sink::outcomes`] returns, without an outcome if
/// necessary, when the transaction is due.
pub trait Transactions: Send {
    /// Returns the state of the transaction.
    fn state(&self) -> TransactionState;

    /// Commits everything that was published since the last commit and, atomically with it, this cursor. Only called while a
    /// transaction is open and every message of it has its outcome.
    ///
    /// # Errors
    /// It is unknown whether the transaction was committed: the next connect returns the
    /// [committed cursor](Connected::committed_cursor).
    fn commit<'a>(&'a mut self, cursor: &'a Cursor) -> SinkFuture<'a>;

    /// Aborts the transaction: everything that was published since the last commit is discarded, and no outcome of it is
    /// reported any more.
    ///
    /// # Errors
    /// The sink as a whole is unavailable.
    fn abort(&mut self) -> SinkFuture<'_>;
}

/// A boxed future of a capability. Its calls are few: one for each transaction.
pub type SinkFuture<'a> = Pin<Box<dyn Future<Output = Result<(), SinkFault>> + Send + 'a>>;

/// The state of the transaction of a sink that publishes in transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionState {
    /// No transaction is open.
    Closed,
    /// More messages may be published in the open transaction.
    Open,
    /// The open transaction is large or old enough to be committed. Until then, only dead letters of its events are published.
    Due,
}

/// Properties of a new connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    /// Whether the acknowledgement of an event also acknowledges all events before it. If true, no event is published after
    /// a rejected event until the dead letter is stored: otherwise the rejected event would count as delivered after a crash
    /// in between.
    pub acks_are_cumulative: bool,
    /// The cursor of the last committed transaction, of this process or an earlier one. `None` if the destination has no cursor
    /// of this spool, and for a sink without transactions.
    pub committed_cursor: Option<Cursor>,
}

/// How the delivery continues after [`Sink::outcomes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum AfterOutcomes {
    /// With the next events.
    Continue,
    /// Everything that was published and has no outcome is published again, in order and over the same connection: it was
    /// refused because of an earlier event. Nothing is in flight.
    Resend {
        /// As [`Connected::acks_are_cumulative`], from now on.
        acks_are_cumulative: bool,
    },
    /// With another connection, because the role of this member in its cluster has changed. This is no fault.
    Reconnect,
}

/// The present status of a sink.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SinkStatus {
    /// The fault of a connection that broke while no call was waiting for it. Treated like the faults of the calls.
    pub broken: Option<SinkFault>,
    /// The reason for which published events are not acknowledged, while the client retries by itself, as librdkafka does.
    /// Logged and counted when it begins.
    pub unavailable: Option<SinkFault>,
    /// A sentence for the operator about a condition that is not a fault now.
    pub notice: Option<String>,
    /// The changes that other programs made to the files of the sink, and the number of acknowledged events that were lost.
    pub file_changes: FileChanges,
    /// The destinations that were removed and recreated after events were delivered into them, as far as the sink has
    /// noticed in this process.
    pub recreations: Recreations,
    /// Measurements of the client library.
    pub client: ClientGauges,
    /// Whether the sink publishes nothing because another member of the cluster leads: it is no fault that events wait.
    /// [`Sink::outcomes`] is then called also while nothing is in flight.
    pub is_follower: bool,
    /// The counts of a member of a cluster.
    pub copies: CopyCounts,
}

/// Measurements of the client library of a sink; `None` for those that it does not provide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientGauges {
    /// The number of messages in the queues of the client, sent or not, that have no acknowledgement.
    pub queued_messages: Option<u64>,
    /// The size of these messages, in bytes.
    pub queued_bytes: Option<u64>,
    /// The round-trip time of a request to the server; with several servers, that of the slowest.
    pub round_trip: Option<Duration>,
}

/// The parameters of [`Sink::connect`].
#[derive(Clone, Copy, Debug)]
pub struct ConnectContext<'a> {
    /// The spool that numbers the events: part of ids and sequences.
    pub spool: SpoolId,
    /// The position at which delivery continues.
    pub cursor: &'a Cursor,
    /// The epochs of that spool. Records of an earlier epoch in the destination count as stored only as far as the spool
    /// still has them.
    pub epochs: &'a Epochs,
    /// The sink notes here which step it waits for.
    pub steps: &'a ConnectSteps,
}

/// The outcome of one published event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The event's position in the spool.
    pub sequence: Sequence,
    /// Its outcome.
    pub outcome: Outcome,
}

/// The result of publishing one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Stored, with the durability that the sink's configuration requires.
    Delivered,
    /// Already stored in the destination.
    Duplicate,
    /// Rejected because of the event itself: no retry can help.
    Rejected(Rejection),
    /// Refused together with others, possibly because of another event: published once more, alone. If it is refused again,
    /// the event itself is the cause.
    RetryAlone(Rejection),
    /// Not sent yet, because a look-up had to be finished first. The event is published again at its position, as often as
    /// necessary.
    Deferred,
}

/// The reason for which an event was rejected because of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The kind, for metrics.
    pub reason: RejectionReason,
    /// One sentence: what was found, what was expected.
    pub detail: String,
}

labels! {
    /// The kinds of rejections: values of a metric label.
    pub enum RejectionReason {
        /// Larger than the broker accepts.
        TooLarge = "too_large",
        /// The broker calls the record invalid.
        Invalid = "invalid",
        /// No message can be built from it.
        Unrenderable = "unrenderable",
        /// Its destination cannot exist, or does not exist and the sink is configured not to wait for it.
        Unroutable = "unroutable",
        /// It has no key, and its destination requires one.
        MissingKey = "missing_key",
    }
}

/// Counts of rejections.
pub type RejectionCounts = Counts<RejectionReason, { RejectionReason::ALL.len() }>;

impl RejectionReason {
    /// Returns whether the event itself is known to be the cause. Such rejections do not indicate a fault of the sink, and
    /// do not count for the limit on consecutive dead letters.
    pub const fn is_certain(self) -> bool {
        match self {
            Self::Unroutable | Self::MissingKey => true,
            Self::TooLarge | Self::Invalid | Self::Unrenderable => false,
        }
    }
}

/// Why an event was not published.
#[derive(Debug)]
pub enum PublishError {
    /// The limit on events in flight is reached, or another member of the cluster leads. The event is published again after
    /// further outcomes.
    Full,
    /// The event itself is the cause.
    Rejected(Rejection),
    /// The sink is unavailable.
    Fault(SinkFault),
}

/// The maximum length of a reason, in characters. Longer than every sentence that this program writes, including paths.
const MAX_REASON_CHARS: usize = 2000;

/// Why a sink as a whole is unavailable. No event becomes a dead letter because of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkFault {
    /// The kind, for metrics.
    pub kind: FaultKind,
    /// One sentence for the operator: what was found, what was expected, where, what to do. The constructors escape control
    /// characters.
    pub reason: String,
    /// Whether the sink stops until the program is restarted, because another attempt would do harm.
    pub is_final: bool,
}

impl SinkFault {
    /// Creates a fault that may be temporary: the delivery retries.
    pub fn new(kind: FaultKind, reason: impl Into<String>) -> Self {
        Self {
            kind,
            reason: shown(reason.into()),
            is_final: false,
        }
    }

    /// Creates the fault of a call before [`Sink::connect`], or after a failed one.
    pub fn not_connected() -> Self {
        Self::new(FaultKind::Other, "the sink is not connected yet")
    }

    /// Creates a fault after which the sink stops until the program is restarted.
    pub fn fatal(kind: FaultKind, reason: impl Into<String>) -> Self {
        Self {
            kind,
            reason: shown(reason.into()),
            is_final: true,
        }
    }
}

impl From<SinkFault> for PublishError {
    fn from(fault: SinkFault) -> Self {
        Self::Fault(fault)
    }
}

/// Returns a reason with escaped control characters and a bounded length: it may quote the answer of a broker.
fn shown(reason: String) -> String {
    foreign_text::clean_to(&reason, MAX_REASON_CHARS)
}

impl fmt::Display for SinkFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for SinkFault {}

labels! {
    /// The kinds of faults: values of a metric label.
    pub enum FaultKind {
        /// No server answers.
        Unreachable = "unreachable",
        /// Authentication or authorisation failed.
        Unauthorised = "unauthorised",
        /// The topic or stream does not exist.
        Missing = "missing",
        /// The topic or stream accepts no message now: full, no leader, too few replicas.
        Unavailable = "unavailable",
        /// Another instance has replaced this one.
        Fenced = "fenced",
        /// No acknowledgement arrived in time.
        Timeout = "timeout",
        /// A disk error.
        Disk = "disk",
        /// More consecutive dead letters than allowed.
        TooManyDeadLetters = "too_many_dead_letters",
        /// Any other fault.
        Other = "other",
    }
}

/// Counts of faults.
pub type FaultCounts = Counts<FaultKind, { FaultKind::ALL.len() }>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_is_one_bounded_escaped_line() {
        for make in [SinkFault::new, SinkFault::fatal] {
            let fault = make(
                FaultKind::Other,
                "refused: \u{1b}[2J\n\u{202e}".to_owned() + &"x".repeat(5000),
            );
            assert!(
                fault.reason.starts_with("refused: \\u{1b}[2J\\n\\u{202e}xx"),
                "{fault}"
            );
            assert_eq!(fault.reason.chars().count(), MAX_REASON_CHARS + 1);
        }
    }
}
