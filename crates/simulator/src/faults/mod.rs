//! Faults as rules: a condition and a reaction.
//!
//! A rule is written as words between commas: one reaction and any number of conditions, in any order.
//!
#![doc = concat!("```text\n", include_str!("grammar.txt"), "```")]
//!
//! A rule without `every` is used once on a connection; without `times`, on each connection that meets its conditions. Several
//! rules that are due at once are used in the order in which they were given.
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

use std::time::Duration;

pub use self::parse::ParseFaultError;
pub(crate) use self::plan::{ConnectionFaults, Due, Plan};

/// The grammar of fault rules, for a help text.
pub const GRAMMAR: &str = include_str!("grammar.txt");

/// A fault rule: when it is used, and what then happens.
///
/// Its `Display` writes the text that `FromStr` reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultRule {
    reaction: Reaction,
    connection: Option<u64>,
    after: u64,
    times: Option<u64>,
    every: Option<Every>,
}

/// How long a rule rests after it was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Every {
    /// A time since it was last used on any connection, or was added.
    Time(Duration),
    /// A number of events on the same connection, counted from `after`, from the start, or from the last use.
    Events(u64),
}

/// What happens when a rule is used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reaction {
    /// Closes with this code, also one that RFC 6455 forbids, such as 102.
    Close {
        /// The close code.
        code: u16,
    },
    /// Answers `{"auth":"ok"}` and closes at once with this code.
    CloseAfterAuth {
        /// The close code.
        code: u16,
    },
    /// Ends the TCP connection in order, without a close frame; what was sent before arrives.
    Cut,
    /// Resets the TCP connection; what was sent shortly before may never arrive.
    Reset,
    /// Sends no more events; pings are answered.
    Silence,
    /// Answers no more pings, of the protocol or of WebSocket.
    NoPong,
    /// Answers pings with another value than `PONG`.
    WrongPong {
        /// The value instead.
        value: String,
    },
    /// Answers AUTH with an error and closes.
    RefuseToken {
        /// The text of the error.
        message: String,
    },
    /// Answers AUTH with another value than `ok` and closes.
    WrongAuth {
        /// The value instead.
        value: String,
    },
    /// Leaves AUTH without an answer; the connection stays open and silent.
    NoAuthAnswer,
    /// Answers the upgrade request with an HTTP status.
    Http {
        /// The status, 200 to 599.
        status: u16,
        /// Seconds for a `Retry-After` header.
        retry_after: Option<u64>,
    },
    /// Sends a binary frame.
    Binary,
    /// Sends a text frame that is not UTF-8.
    BadUtf8,
    /// Sends a text frame that is not JSON.
    BadJson,
    /// Sends a JSON object that is none of the four kinds.
    UnknownKind,
    /// Sends `{"error":…}`; the connection stays.
    Error {
        /// The text of the error.
        message: String,
    },
    /// Sends the next entry in a frame of this size.
    Huge {
        /// The size of the frame's payload.
        bytes: usize,
    },
    /// Keeps the TCP connection, writes nothing more and takes no notice of what comes.
    ///
    /// What comes is still taken off the socket, for that is the only way to see the client leave.
    HalfOpen,
    /// Lets the bytes trickle from here on; other connections do not wait for this one.
    Drip {
        /// Bytes a second, at least 1.
        bytes_per_second: u32,
    },
    /// Sends the entries before once more, byte for byte; one that was huge comes in its usual size.
    Duplicate {
        /// How many of them, at least 1.
        entries: u32,
    },
    /// Sends the last entry's id with another body.
    SameId,
    /// Sends the next two entries in reverse.
    OutOfOrder,
}

/// The part of a connection's life in which a reaction belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Upgrade,
    Authorisation,
    Events,
}

impl FaultRule {
    /// Makes a rule that is used on every connection, once, as soon as it can be.
    #[must_use]
    pub fn new(reaction: Reaction) -> Self {
        Self {
            reaction,
            connection: None,
            after: 0,
            times: None,
            every: None,
        }
    }

    /// Restricts the rule to the nth connection since the start, counted from 1. Every request for an upgrade counts, also a
    /// refused one.
    #[must_use]
    pub fn connection(mut self, number: u64) -> Self {
        self.connection = Some(number);
        self
    }

    /// Lets the rule wait for this many events on the connection. Means nothing for a reaction that comes before the first.
    #[must_use]
    pub fn after(mut self, events: u64) -> Self {
        self.after = events;
        self
    }

    /// Limits how often the rule is used, over all connections.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    /// Lets the rule be used again and again, with this rest between.
    #[must_use]
    pub fn every(mut self, every: Every) -> Self {
        self.every = Some(every);
        self
    }

    /// Gives what happens when the rule is used.
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
            | Self::CloseAfterAuth { .. } => Phase::Authorisation,
            _ => Phase::Events,
        }
    }

    /// Says how many events must have gone before, whatever `after` says.
    pub(crate) fn least_events(&self) -> u64 {
        match self {
            Self::Duplicate { .. } | Self::SameId => 1,
            _ => 0,
        }
    }
}
