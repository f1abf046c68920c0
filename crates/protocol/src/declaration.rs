//! A feed as declared in the configuration.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use neurobridge_core::{address, positions::TimeFormat, secret::Secret};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    backfill::BackfillList,
    notation::{
        Answer, Conditions, FeedPath, MessageTemplate, Paths, QueryValues, Rewind, TimeField, texts_schema,
    },
};

/// A declared feed: the opening of a connection, its heartbeat, and the meaning of its frames.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Declaration {
    /// Address of the feed, unless the source has one: `wss://host[:port][/path]`, or `ws://` without TLS.
    #[serde(default)]
    #[schemars(extend("format" = address::SCHEMA_FORMAT))]
    pub url: Option<String>,
    /// Tokens and passwords, by name. `{secret.NAME}` in a header, a query parameter or a message is replaced by the
    /// secret.
    #[serde(default)]
    pub secrets: BTreeMap<String, SecretSource>,
    /// Additions to the request that opens the connection.
    #[serde(default)]
    pub request: Request,
    /// The steps after the WebSocket handshake, in order: messages to send, and answers to wait for.
    #[serde(default)]
    pub open: Vec<OpeningStep>,
    /// The proof that the connection is alive: pings, their answers, and time limits.
    #[serde(default)]
    pub heartbeat: Heartbeat,
    /// Path of an array with several events in one frame; `$` if the frame itself is the array. The rules are then applied to
    /// each element, and only elements are events.
    #[serde(default)]
    pub events: Option<FeedPath>,
    /// The meaning of a frame, or of each element of `events`: the first rule that matches decides.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// The fields of an event.
    #[serde(default)]
    pub event: EventFields,
    /// The position from which the next connection continues.
    #[serde(default)]
    pub resume: Option<Resume>,
    /// The messages that acknowledge stored events to the feed.
    #[serde(default)]
    pub ack: Option<Acknowledgement>,
    /// The list of past events from which the events of gaps are fetched.
    #[serde(default)]
    pub backfill: Option<BackfillList>,
    /// Whether binary frames contain JSON, like text frames. Otherwise binary frames are ignored.
    #[serde(default)]
    pub binary: bool,
    /// Age at which the connection is replaced: less than the age at which the server closes it.
    #[serde(default, with = "neurobridge_core::units::optional_duration")]
    #[schemars(with = "Option<neurobridge_core::units::DurationText>")]
    pub max_age: Option<Duration>,
}

/// The source of a secret: exactly one of the keys is required.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SecretSource {
    /// The secret itself.
    pub value: Option<Secret>,
    /// A file with the secret as its only line, read at every connection.
    pub file: Option<PathBuf>,
    /// The name of an environment variable with the secret.
    pub variable: Option<String>,
}

/// Additions to the request that opens the connection.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Request {
    /// Headers, by name.
    #[schemars(schema_with = "texts_schema")]
    pub headers: BTreeMap<String, String>,
    /// Query parameters, by name; a list repeats the parameter.
    pub query: BTreeMap<String, QueryValues>,
    /// Sub-protocols to offer, the preferred one first.
    pub subprotocols: Vec<String>,
}

/// A step after the WebSocket handshake: `send`, `until`, or both.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OpeningStep {
    /// The message to send: a table for JSON, a text for plain text. Without `send`, the step only waits for `until`.
    #[serde(default)]
    pub send: Option<MessageTemplate>,
    /// The answer that completes the step. Without `until`, the next step follows at once.
    #[serde(default)]
    pub until: Option<Conditions>,
    /// The answer that refuses the connection, such as one to a wrong token or an invalid request. Tested after `until`.
    #[serde(default)]
    pub refused: Option<Conditions>,
    /// Path of the reason in an answer that matches `refused`.
    #[serde(default)]
    pub refused_text: Option<FeedPath>,
    /// Path of the request id in the answer: the number that replaced `{request_id}` in `send`. An answer with another number
    /// belongs to another request.
    #[serde(default)]
    pub answer_id: Option<FeedPath>,
    /// Time limit for the answer. After the limit the connection is replaced.
    #[serde(default = "ten_seconds", with = "neurobridge_core::units::duration")]
    #[schemars(with = "neurobridge_core::units::DurationText")]
    pub timeout: Duration,
}

/// The proof that the connection is alive. Without `answer`, every frame is a proof.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Heartbeat {
    /// The message to send as a ping: a table for JSON, a text for plain text.
    pub send: Option<MessageTemplate>,
    /// Whether to send WebSocket pings, which every server has to answer with a pong (RFC 6455, 5.5.2).
    pub websocket: bool,
    /// The answer to a ping: conditions on a JSON answer, or a text for plain text.
    pub answer: Option<Answer>,
    /// Time between two pings.
    #[serde(with = "neurobridge_core::units::duration")]
    #[schemars(with = "neurobridge_core::units::DurationText")]
    pub interval: Duration,
    /// Time limit for the answer to a ping. After the limit the connection counts as dead and is replaced.
    #[serde(with = "neurobridge_core::units::duration")]
    #[schemars(with = "neurobridge_core::units::DurationText")]
    pub timeout: Duration,
    /// Time limit without any frame. After the limit the connection counts as dead and is replaced.
    #[serde(with = "neurobridge_core::units::optional_duration")]
    #[schemars(with = "Option<neurobridge_core::units::DurationText>")]
    pub idle_timeout: Option<Duration>,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self {
            send: None,
            websocket: false,
            answer: None,
            interval: Duration::from_secs(20),
            timeout: ten_seconds(),
            idle_timeout: None,
        }
    }
}

/// A rule: conditions on a frame, or on an element of `events`, and the meaning of those that match.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Conditions on fields, by path; all must hold. Without `when` and `frame`, the rule matches everything.
    #[serde(default)]
    pub when: Option<Conditions>,
    /// The whole frame as plain text, instead of `when`: `frame = "ping"`.
    #[serde(default)]
    pub frame: Option<String>,
    /// The meaning of a frame or element that matches.
    pub is: Meaning,
    /// Path of the text of an error or an end. Without `text`, the whole message is the text.
    #[serde(default)]
    pub text: Option<FeedPath>,
    /// The reply to send, for `is = "reply"`: a table for JSON, a text for plain text.
    #[serde(default)]
    pub send: Option<MessageTemplate>,
}

/// The meaning of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Meaning {
    /// An event.
    Event,
    /// A message without a meaning for the bridge.
    Ignore,
    /// A proof that the connection is alive.
    Alive,
    /// An error of the feed, which is logged and counted.
    Error,
    /// A message that expects a reply, such as a ping of the server.
    Reply,
    /// The end of the events on this connection, which is closed and opened again.
    End,
}

/// The fields of an event, by their paths.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EventFields {
    /// The identity: a path, or a list of paths whose values together are unique. An event that arrives twice is published
    /// once. Without `id`, no event counts as a duplicate.
    pub id: Option<Paths>,
    /// The time of the event: the path of a time in RFC 3339, or `{ path = "…", unit = "ms" }` for an epoch.
    pub time: Option<TimeField>,
    /// The path of the kind of event, the second part of the CloudEvents attribute `type`.
    #[serde(rename = "type")]
    pub kind: Option<FeedPath>,
    /// The CloudEvents attribute `source`. `/feeds/` and the name of the source by default.
    pub source: Option<String>,
    /// The first part of the CloudEvents attribute `type`, before the kind, such as `com.example.`. The name of the source and
    /// a dot by default. Without a dot at its end, it is the whole type of an event without a kind.
    pub type_prefix: Option<String>,
    /// The message key: events with the same key stay in order. A path, or a list of paths.
    pub key: Option<Paths>,
    /// The path of the part that is published. The whole event by default.
    pub body: Option<FeedPath>,
}

/// The position from which the next connection continues: that of the last stored event.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resume {
    /// Path of the value that is the position of an event in the feed.
    pub value: FeedPath,
    /// The query parameter for the value of the last event.
    pub query: String,
    /// The unit of the value, if it is a time.
    #[serde(default)]
    pub unit: Option<TimeFormat>,
    /// The amount subtracted from the value, for a feed whose position is imprecise, so that no event is missed: a time such
    /// as `"5s"` for a value with a `unit`, otherwise a number. Events that are sent again are removed as duplicates.
    #[serde(default)]
    pub rewind: Option<Rewind>,
}

/// The messages that acknowledge events to the feed. Each one is sent after its events are durable.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Acknowledgement {
    /// Path of the value that identifies an event in an acknowledgement.
    pub value: FeedPath,
    /// The acknowledgement to send. `{value}` is replaced by the value as text, `{value:json}` by the value as the feed wrote
    /// it, and `{values:json}` by the list of the values of several events.
    pub send: MessageTemplate,
    /// Whether an acknowledgement of an event includes all events before it, so that only the last event is acknowledged.
    #[serde(default)]
    pub cumulative: bool,
    /// Maximum number of values in `{values:json}`.
    #[serde(default = "hundred")]
    pub max_batch: u32,
}

const fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

const fn hundred() -> u32 {
    100
}
