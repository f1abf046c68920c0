//! Fault rules. A rule has one reaction, which is the fault, and the conditions under which the fault is applied.
//!
//! The text form of a rule is a list of words separated by commas: one reaction and any number of conditions, in any
//! order.
//!
#![doc = concat!("```text\n", include_str!("grammar.txt"), "```")]
//!
//! A rule for the feed is applied once on each connection, unless it has `every`. A rule is applied on all connections and
//! REST requests that meet its conditions, unless it has `times`. If several rules are due at once, they are applied in
//! the order in which they were added.
//!
//! ```
//! use neurobridge_simulator::{FaultRule, Reaction};
//!
//! let rule: FaultRule = "close=1001,connection=1,after=500,times=2".parse()?;
//! assert_eq!(rule, FaultRule::new(Reaction::Close { code: 1001 }).connection(1).after(500).times(2));
//! # Ok::<(), neurobridge_simulator::ParseFaultError>(())
//! ```

mod parse;
mod plan;
mod rest;

use std::time::Duration;

pub use self::{parse::ParseFaultError, rest::RestFault};
pub(crate) use self::{
    parse::escaped,
    plan::{ConnectionFaults, Due, Plan},
};

/// The grammar of fault rules, for a help text.
pub const GRAMMAR: &str = include_str!("grammar.txt");

/// The text of a refusal, unless a rule or a script has another text.
pub(crate) const REFUSAL: &str = "invalid token";

/// The text of an error, unless a rule or a script has another text.
pub(crate) const ERROR: &str = "something went wrong";

/// A fault rule: conditions, and the reaction when they are met.
///
/// Its `Display` output can be parsed with `FromStr`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultRule {
    reaction: Reaction,
    connection: Option<u64>,
    request: Option<u64>,
    path: Option<String>,
    after: u64,
    times: Option<u64>,
    every: Option<Every>,
}

/// The interval between two applications of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Every {
    /// A time since the rule was last applied on any connection, or since it was added.
    Time(Duration),
    /// A number of events on the same connection, counted from `after` or from the last application.
    Events(u64),
}

/// The effect of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reaction {
    /// Closes the connection with this code, which may be invalid under RFC 6455, such as 102.
    Close {
        /// The close code.
        code: u16,
    },
    /// Answers `{"auth":"ok"}` and closes immediately with this code.
    CloseAfterAuth {
        /// The close code.
        code: u16,
    },
    /// Closes the TCP connection without a close frame; bytes that were sent before arrive.
    Cut,
    /// Resets the TCP connection; bytes that were sent shortly before may be lost.
    Reset,
    /// Sends no further events, and still answers pings.
    Silence,
    /// Stops answering pings: the ping messages of the feed and the ping frames of WebSocket.
    NoPong,
    /// Answers pings with a value other than `PONG`.
    WrongPong {
        /// The value in the answer.
        value: String,
    },
    /// Answers AUTH with an error and closes.
    RefuseToken {
        /// The text of the error.
        message: String,
    },
    /// Answers AUTH with a value other than `ok` and closes.
    WrongAuth {
        /// The value in the answer.
        value: String,
    },
    /// Answers AUTH, or the first message of a declared opening, after this time.
    LateAnswer {
        /// The time before the answer.
        delay: Duration,
    },
    /// Does not answer AUTH; the connection stays open and silent.
    NoAuthAnswer,
    /// Answers the upgrade request with an HTTP status.
    Http {
        /// The HTTP status, from 200 to 599.
        status: u16,
        /// The value of a `Retry-After` header in seconds.
        retry_after: Option<u64>,
    },
    /// Sends a binary frame.
    Binary,
    /// Sends a text frame that is not UTF-8.
    BadUtf8,
    /// Sends a text frame that is not JSON.
    BadJson,
    /// Sends a JSON object that is none of the four known message kinds.
    UnknownKind,
    /// Sends `{"error":…}` and keeps the connection open.
    Error {
        /// The text of the error.
        message: String,
    },
    /// Sends a frame with this text and keeps the connection open.
    Send {
        /// The text of the frame.
        text: String,
    },
    /// Sends the next entry in a frame of this size.
    Huge {
        /// The size of the frame's payload.
        bytes: usize,
    },
    /// Keeps the TCP connection open, but sends nothing and ignores all input.
    ///
    /// The input is still read from the socket, because only reading shows that the client has closed the connection.
    HalfOpen,
    /// Limits the sending speed from here on; other connections do not wait for this one.
    Drip {
        /// Bytes per second, at least 1.
        bytes_per_second: u32,
    },
    /// Sends the previous entries again, byte for byte; an entry that was sent in a huge frame is repeated in its usual
    /// size.
    Duplicate {
        /// The number of entries to repeat, at least 1.
        entries: u32,
    },
    /// Sends another entry with the id of the last one.
    SameId,
    /// Sends the next two entries in reverse order.
    OutOfOrder,
    /// Changes the answer to a REST request.
    Rest(RestFault),
}

/// The phase of a connection in which a reaction applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Upgrade,
    Authentication,
    Events,
    Rest,
}

impl FaultRule {
    /// Creates a rule that is applied once on every connection, as early as possible.
    #[must_use]
    pub fn new(reaction: Reaction) -> Self {
        Self {
            reaction,
            connection: None,
            request: None,
            path: None,
            after: 0,
            times: None,
            every: None,
        }
    }

    /// Restricts the rule to the nth connection since the start, counted from 1. Every upgrade request counts,
    /// including refused ones.
    #[must_use]
    pub fn connection(mut self, number: u64) -> Self {
        self.connection = Some(number);
        self
    }

    /// Restricts the rule to the nth REST request since the start, counted from 1. Has no effect on reactions of the
    /// feed.
    #[must_use]
    pub fn request(mut self, number: u64) -> Self {
        self.request = Some(number);
        self
    }

    /// Restricts the rule to REST requests whose path begins with this text. Has no effect on reactions of the feed.
    #[must_use]
    pub fn path(mut self, prefix: impl Into<String>) -> Self {
        self.path = Some(prefix.into());
        self
    }

    /// Delays the rule until this many events were sent on the connection. Has no effect on reactions before the first
    /// event and on reactions to REST requests.
    #[must_use]
    pub fn after(mut self, events: u64) -> Self {
        self.after = events;
        self
    }

    /// Limits how often the rule is applied, over all connections.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    /// Repeats the rule at this interval.
    #[must_use]
    pub fn every(mut self, every: Every) -> Self {
        self.every = Some(every);
        self
    }

    /// Returns the reaction of the rule.
    #[must_use]
    pub fn reaction(&self) -> &Reaction {
        &self.reaction
    }
}

impl Reaction {
    pub(crate) fn phase(&self) -> Phase {
        match self {
            Self::Http { .. } => Phase::Upgrade,
            Self::RefuseToken { .. }
            | Self::WrongAuth { .. }
            | Self::NoAuthAnswer
            | Self::LateAnswer { .. }
            | Self::CloseAfterAuth { .. } => Phase::Authentication,
            Self::Rest(_) => Phase::Rest,
            _ => Phase::Events,
        }
    }

    /// Returns the number of events that must be sent before the reaction, even with a smaller `after`.
    pub(crate) fn min_events(&self) -> u64 {
        match self {
            Self::Duplicate { .. } | Self::SameId => 1,
            _ => 0,
        }
    }
}
