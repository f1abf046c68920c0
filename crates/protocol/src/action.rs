//! The actions that frames require, and the requests and pings of a connection.

use neurobridge_core::json::JsonError;

use crate::{fields::FeedEvent, text::Message};

/// An action that a frame requires. One frame may require several.
#[derive(Clone, Debug)]
pub enum Action<'a> {
    /// An event.
    Event(FeedEvent<'a>),
    /// A proof that the connection is alive: an answer to a ping, or a message of the feed's own heartbeat.
    Alive,
    /// The opening is complete.
    Ready,
    /// The feed refused the connection, with its text, which may repeat a secret.
    Refused(String),
    /// An answer to a ping that differs from the expected one, with its text, which may repeat a secret.
    UnexpectedAnswer(String),
    /// An error of the feed, with its text, which may repeat a secret.
    Error(String),
    /// The feed sends no more events on this connection, with its text, which may repeat a secret.
    Ended(String),
    /// A message to send: a reply, or the next step of the opening.
    Reply(Message),
    /// A message without a meaning for the bridge.
    Ignore,
    /// A text that is not JSON, or a frame reduced to the one unit that no rule matches.
    Malformed(&'a str, MalformedReason),
}

/// The reason why a frame is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MalformedReason {
    /// The text is not JSON.
    #[error("not JSON")]
    NotJson(#[source] JsonError),
    /// JSON, but neither an answer to a ping or to AUTH, nor an error, nor an event of NeuroIO.
    #[error("unrecognised message, expected one of the keys PING, auth, error, or data with an object")]
    UnknownKind,
    /// No rule of the declaration matches the JSON.
    #[error("unrecognised message, no rule of the feed matches")]
    NoRule,
    /// A frame has so many events that storing each with the rest of the frame would need too much memory.
    #[error(
        "too many events in one frame, expected at most 65,536, and at most 64 MiB with the rest of the frame copied for each"
    )]
    TooManyEvents,
    /// A binary frame is not text in UTF-8.
    #[error("binary frame that is not UTF-8")]
    NotUtf8,
}

impl MalformedReason {
    /// Returns the label for metrics and dead letters.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotJson(_) => "not_json",
            Self::UnknownKind => "unknown_kind",
            Self::NoRule => "no_rule",
            Self::TooManyEvents => "too_many_events",
            Self::NotUtf8 => "not_utf8",
        }
    }
}

/// A ping to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ping {
    /// A message in a text frame.
    Message(Message),
    /// A WebSocket ping.
    WebSocket,
}

/// The request that opens a connection, with the secrets inserted.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ConnectionRequest {
    /// Headers in addition to those of the client.
    pub headers: Vec<(String, String)>,
    /// The percent-encoded query without `?`; empty if there are no parameters.
    pub query: String,
    /// Sub-protocols to offer.
    pub subprotocols: Vec<String>,
}
