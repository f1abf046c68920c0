//! What a sink has to be: a publisher of single events that tells later what became of each.
//!
//! All that sinks have in common (reading, filtering, tracking, dead letters, cursors, trying again) is
//! [`delivery`](crate::delivery)'s. A sink connects, publishes without waiting, reports outcomes, and says of every
//! error whose fault it is.

use std::{fmt, future::Future};

use bytes::Bytes;

use crate::{
    connect::ConnectSteps,
    dead_letter::DeadLetter,
    epoch::Epochs,
    event::{Event, Sequence},
    foreign_text,
    identity::SpoolId,
    reader::Cursor,
};

/// A sink. It is driven by one task; none of its calls overlap.
pub trait Sink: Send + 'static {
    /// Whether [`connect`](Self::connect) replaces a client that hangs. Then the delivery connects again when no event was
    /// settled for too long, and ends calls that take too long. Not for a sink whose unfinished work cannot be abandoned, as a
    /// write to a file.
    const REPLACES_CLIENT: bool = true;

    /// Connects, or connects anew after a fault, and checks that what it needs is there. What was in flight before
    /// is forgotten: no outcome of it may be reported any more. Warnings about what is legal and dangerous go to the log.
    ///
    /// `context.cursor` is the position at which delivery continues. The sink notes each step that waits for a server in
    /// `context.steps`: the reason of a sink that is not connected after some seconds is made of it, and an attempt without
    /// progress is dropped after a limit. Dropping the future leaves the sink disconnected.
    ///
    /// # Errors
    /// The service is not there or refuses: tried again with a growing delay, unless the fault is final.
    fn connect(&mut self, context: &ConnectContext<'_>)
    -> impl Future<Output = Result<(), SinkFault>> + Send;

    /// Sets the buffer that the following [`publish`](Self::publish) calls refer to, so that a client can take zero-copy
    /// slices of it. Redacted events lie outside of it.
    fn set_backing_buffer(&mut self, log: &Bytes) {
        let _ = log;
    }

    /// Hands an event to the client, which sends it in the background. Does not wait.
    ///
    /// # Errors
    /// See [`PublishError`]; the event was not taken.
    fn publish(&mut self, event: &Event<'_>) -> Result<(), PublishError>;

    /// As [`publish`](Self::publish), with a dead letter for the place that this sink keeps for them. Its outcome is
    /// reported under the letter's sequence. Only called when [`keeps_dead_letters`](Self::keeps_dead_letters).
    ///
    /// # Errors
    /// See [`PublishError`]; the letter was not taken.
    fn publish_dead_letter(&mut self, letter: &DeadLetter<'_>) -> Result<(), PublishError>;

    /// Whether this sink was configured to keep its dead letters itself (a topic, a subject).
    fn keeps_dead_letters(&self) -> bool;

    /// Whether the acknowledgement of an event also acknowledges all events before it. Then nothing is published after a
    /// rejected event until its dead letter is stored: after a crash in between, it would count as delivered.
    fn acks_are_cumulative(&self) -> bool {
        false
    }

    /// Called after a run of [`publish`](Self::publish) calls, before waiting: what was collected goes out now.
    ///
    /// # Errors
    /// The sink as a whole can't go on.
    fn flush(&mut self) -> impl Future<Output = Result<(), SinkFault>> + Send;

    /// Waits until something is known of what was published, and appends it. Safe to cancel: no outcome is lost.
    ///
    /// # Errors
    /// The sink as a whole can't go on: all that has no outcome is sent again after the next connect.
    fn outcomes(&mut self, acks: &mut Vec<Ack>) -> impl Future<Output = Result<(), SinkFault>> + Send;

    /// What to keep with the cursor at this moment: true for the events whose outcomes were told, and them alone.
    fn note(&self) -> Option<String> {
        None
    }

    /// Returns the status at this moment. Called regularly, also while nothing is published. Without a default: a sink that
    /// wraps another one cannot forget to pass it on.
    fn status(&self) -> SinkStatus;

    /// Returns whether all that was published and has no outcome has to be published again, in order and over the same
    /// connection: it was refused because of what stands before it. Nothing is in flight then, and no outcome of it is
    /// reported any more. Called after each call of [`outcomes`](Self::outcomes); the answer is given once.
    fn must_resend(&mut self) -> bool {
        false
    }

    /// How far the open transaction is, of a sink that publishes in transactions.
    ///
    /// Of such a sink nothing that it reports as delivered counts before [`commit`](Self::commit); an outcome tells only that
    /// the broker has it. It has then opened its transaction by itself with the first message, and
    /// [`outcomes`](Self::outcomes) returns, with nothing if need be, when the transaction has become due.
    fn transaction(&self) -> Transaction {
        Transaction::Unused
    }

    /// Commits all that was published since the last commit, and with it, all or nothing, this cursor. Only called when
    /// all of it has its outcome and a transaction is open.
    ///
    /// # Errors
    /// It may be committed or not: after the next connect, [`committed_cursor`](Self::committed_cursor) is the result.
    fn commit(&mut self, cursor: &Cursor) -> impl Future<Output = Result<(), SinkFault>> + Send {
        let _ = cursor;
        async { Ok(()) }
    }

    /// Takes back all that was published since the last commit; no outcome of it is reported after that.
    ///
    /// # Errors
    /// The sink as a whole can't go on.
    fn abort(&mut self) -> impl Future<Output = Result<(), SinkFault>> + Send {
        async { Ok(()) }
    }

    /// The cursor that was committed last, by this process or an earlier one, as it was found by
    /// [`connect`](Self::connect). `None`: there is none of this spool.
    fn committed_cursor(&self) -> Option<&Cursor> {
        None
    }

    /// Closes. All that was published has its outcome, or time has run out.
    fn close(&mut self) -> impl Future<Output = ()> + Send;
}

/// What a sink knows of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SinkStatus {
    /// The fault of a connection that broke while no call was waiting for it. Treated like the faults of the calls.
    pub broken: Option<SinkFault>,
    /// The reason for which published events are not acknowledged, while the client retries by itself, as librdkafka does. Logged
    /// and counted when it begins.
    pub unavailable: Option<SinkFault>,
    /// A sentence for the operator, although nothing is wrong now.
    pub notice: Option<String>,
    /// The events that the destination has lost after they were acknowledged, as far as the sink has noticed in this process:
    /// lines of a file that another program removed.
    pub lost: u64,
}

/// How far a transaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transaction {
    /// The sink has none: what it reports as delivered is.
    Unused,
    /// None is open.
    Closed,
    /// More may be published in it.
    Open,
    /// It is large or old enough: nothing more is to be published before it is committed, but what belongs to it.
    Due,
}

/// What a sink needs to connect.
#[derive(Clone, Copy, Debug)]
pub struct ConnectContext<'a> {
    /// The spool that numbers the events: part of ids and sequences.
    pub spool: SpoolId,
    /// Where delivery goes on.
    pub cursor: &'a Cursor,
    /// The runs of that spool: what the broker has of an earlier one counts only as far as the log still has it.
    pub epochs: &'a Epochs,
    /// Where the sink notes what it waits for.
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
    /// Stored, as safely as the sink's configuration asks for.
    Delivered,
    /// It was stored before.
    Duplicate,
    /// Refused for itself: no retry can help.
    Rejected(Rejection),
    /// Refused together with others, perhaps for another's sake: sent once more alone, and what is refused then is
    /// refused for itself.
    RetryAlone(Rejection),
    /// Not sent yet: something had to be found out first. It is to be published once more, at its place, and no number of
    /// times counts against it.
    Deferred,
}

/// Why one event was refused for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The kind, for metrics.
    pub reason: RejectionReason,
    /// A sentence: what was found, what was expected.
    pub detail: String,
}

/// Kinds of rejections. Few: they are a metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RejectionReason {
    /// Larger than the broker takes.
    TooLarge,
    /// The broker calls the record invalid.
    Invalid,
    /// No message can be made of it.
    Unrenderable,
    /// Its destination does not exist and cannot exist, or is configured not to be waited for.
    Unroutable,
    /// It has no key, and its destination requires one.
    MissingKey,
}

impl RejectionReason {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::TooLarge,
        Self::Invalid,
        Self::Unrenderable,
        Self::Unroutable,
        Self::MissingKey,
    ];

    /// As in metrics and dead letters.
    pub const fn label(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Invalid => "invalid",
            Self::Unrenderable => "unrenderable",
            Self::Unroutable => "unroutable",
            Self::MissingKey => "missing_key",
        }
    }

    /// Whether the event itself is known to be the cause, so that any number of them says nothing about the sink: these do not
    /// count for the bound on dead letters in a row.
    pub const fn is_certain(self) -> bool {
        match self {
            Self::Unroutable | Self::MissingKey => true,
            Self::TooLarge | Self::Invalid | Self::Unrenderable => false,
        }
    }
}

/// Why an event was not taken.
#[derive(Debug)]
pub enum PublishError {
    /// As much is in flight as may be: wait for outcomes, then try again.
    Full,
    /// It is the event's own fault.
    Rejected(Rejection),
    /// It is the sink's.
    Fault(SinkFault),
}

/// The longest reason of a fault, in characters. Longer than all sentences of our own with the paths in them.
const MAX_REASON_CHARS: usize = 2000;

/// Why a sink as a whole can't go on. Nothing is dead-lettered for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkFault {
    /// The kind, for metrics.
    pub kind: FaultKind,
    /// A sentence for people: what was found, what was expected, where, what to do. The constructors escape what is unsafe
    /// to show.
    pub reason: String,
    /// Never tried again until the program is restarted: another try would do harm.
    pub is_final: bool,
}

impl SinkFault {
    /// One that passes, perhaps.
    pub fn new(kind: FaultKind, reason: impl Into<String>) -> Self {
        Self {
            kind,
            reason: shown(reason.into()),
            is_final: false,
        }
    }

    /// One after which this sink stops until the program is restarted.
    pub fn fatal(kind: FaultKind, reason: impl Into<String>) -> Self {
        Self {
            kind,
            reason: shown(reason.into()),
            is_final: true,
        }
    }
}

/// Returns a reason as it may be shown: it quotes the answers of brokers.
fn shown(reason: String) -> String {
    foreign_text::clean_to(&reason, MAX_REASON_CHARS)
}

impl fmt::Display for SinkFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for SinkFault {}

/// Kinds of faults. Few: they are a metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// Nobody answers.
    Unreachable,
    /// Who we are, or that we may, is not accepted.
    Unauthorised,
    /// The topic or stream is not there.
    Missing,
    /// It is there and takes nothing now: full, no leader, too few replicas.
    Unavailable,
    /// Another instance has taken this one's place.
    Fenced,
    /// No acknowledgement came in time.
    Timeout,
    /// A disk says no.
    Disk,
    /// More dead letters in a row than allowed.
    TooManyDeadLetters,
    /// All else.
    Other,
}

impl FaultKind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Unreachable,
        Self::Unauthorised,
        Self::Missing,
        Self::Unavailable,
        Self::Fenced,
        Self::Timeout,
        Self::Disk,
        Self::TooManyDeadLetters,
        Self::Other,
    ];

    /// As in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Unauthorised => "unauthorised",
            Self::Missing => "missing",
            Self::Unavailable => "unavailable",
            Self::Fenced => "fenced",
            Self::Timeout => "timeout",
            Self::Disk => "disk",
            Self::TooManyDeadLetters => "too_many_dead_letters",
            Self::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_bounded_safe_line() {
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
