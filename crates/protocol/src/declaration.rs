//! A feed as declared in the configuration.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use neurobridge_core::{address, positions::TimeFormat, secret::Secret};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::notation::{
    Answer, FeedPath, MessageText, Paths, QueryValues, Rewind, TimeField, When, texts_schema,
};

/// A declared feed: how to open a connection, how to keep it alive, and what its frames mean.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Declaration {
    /// Address of the feed, unless the source has one: `wss://host[:port][/path]`, or `ws://` without TLS.
    #[serde(default)]
    #[schemars(extend("format" = address::SCHEMA_FORMAT))]
    pub url: Option<String>,
    /// Tokens and passwords, by name. `{secret.NAME}` in a header, a query parameter or a message stands for the secret.
    #[serde(default)]
    pub secrets: BTreeMap<String, SecretSource>,
    /// Additions to the request that opens the connection.
    #[serde(default)]
    pub request: Request,
    /// The steps after the connection was opened, in order: messages to send, and answers to wait for.
    #[serde(default)]
    pub open: Vec<OpeningStep>,
    /// How the connection proves that it is alive.
    #[serde(default)]
    pub heartbeat: Heartbeat,
    /// Path of an array with many events in one frame; `$` if the frame itself is the array. Then each element is judged by
    /// the rules, and only elements are events.
    #[serde(default)]
    pub events: Option<FeedPath>,
    /// The meaning of a frame, or of each element of `events`: the first rule that matches decides.
    pub rules: Vec<Rule>,
    /// The fields of an event.
    #[serde(default)]
    pub event: EventFields,
    /// How the next connection continues after the last event of this one.
    #[serde(default)]
    pub resume: Option<Resume>,
    /// The messages that tell the feed which events are stored.
    #[serde(default)]
    pub ack: Option<Acknowledgement>,
    /// Whether binary frames contain JSON as text frames do. Without it they are ignored.
    #[serde(default)]
    pub binary: bool,
    /// Age at which a connection is replaced, before the server closes it.
    #[serde(default, with = "neurobridge_core::units::optional_duration")]
    #[schemars(with = "Option<neurobridge_core::units::DurationText>")]
    pub max_age: Option<Duration>,
}

/// A secret: exactly one of the keys is required.
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

/// A step after the connection was opened: `send`, `until`, or both.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OpeningStep {
    /// The message to send: a table for JSON, a text for plain text. Without it, the step waits for the server.
    #[serde(default)]
    pub send: Option<MessageText>,
    /// The answer that completes the step. Without it, the next step follows at once.
    #[serde(default)]
    pub until: Option<When>,
    /// An answer that refuses the connection: the token is wrong, or the request is invalid. Tested after `until`.
    #[serde(default)]
    pub refused: Option<When>,
    /// Path of the reason in a refusal.
    #[serde(default)]
    pub refused_text: Option<FeedPath>,
    /// Path in the answer of the number that `{request_id}` stands for in `send`. An answer with another one belongs to
    /// another request.
    #[serde(default)]
    pub answer_id: Option<FeedPath>,
    /// Time limit for the answer. Then the connection is replaced.
    #[serde(default = "ten_seconds", with = "neurobridge_core::units::duration")]
    #[schemars(with = "neurobridge_core::units::DurationText")]
    pub timeout: Duration,
}

/// How the connection proves that it is alive. Any frame does, unless there is an `answer`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Heartbeat {
    /// The message to send as a ping: a table for JSON, a text for plain text.
    pub send: Option<MessageText>,
    /// Whether to send WebSocket pings. A server answers them, or violates the standard.
    pub websocket: bool,
    /// The answer to a ping: conditions on a JSON answer, or a text for plain text.
    pub answer: Option<Answer>,
    /// Time between two pings.
    #[serde(with = "neurobridge_core::units::duration")]
    #[schemars(with = "neurobridge_core::units::DurationText")]
    pub interval: Duration,
    /// Time limit for the answer to a ping. Then the connection counts as dead and is replaced.
    #[serde(with = "neurobridge_core::units::duration")]
    #[schemars(with = "neurobridge_core::units::DurationText")]
    pub timeout: Duration,
    /// Longest time without a frame. Then the connection counts as dead and is replaced.
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

/// A rule: which frames, or elements of `events`, it is about and what they mean.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Conditions on fields, by path; all must hold. Without `when` and `frame`, the rule matches everything.
    #[serde(default)]
    pub when: Option<When>,
    /// The whole frame as plain text, instead of `when`: `frame = "ping"`.
    #[serde(default)]
    pub frame: Option<String>,
    /// The meaning.
    pub is: Meaning,
    /// Path of the reason of an error. Without it, the whole message is shown.
    #[serde(default)]
    pub text: Option<FeedPath>,
    /// The reply to send, for `is = "reply"`: a table for JSON, a text for plain text.
    #[serde(default)]
    pub send: Option<MessageText>,
}

/// The meaning of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
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
}

/// The fields of an event, by their paths.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EventFields {
    /// The identity: a path, or a list of paths whose values together are unique. An event that arrives twice is published
    /// once. Without it, every event is new.
    pub id: Option<Paths>,
    /// The time of the event: the path of a time in RFC 3339, or `{ path = "…", unit = "ms" }` for an epoch.
    pub time: Option<TimeField>,
    /// The path of the kind of event, from which the type of a CloudEvent is made.
    #[serde(rename = "type")]
    pub kind: Option<FeedPath>,
    /// The text before the kind in the type of a CloudEvent, such as `com.example.`.
    pub type_prefix: Option<String>,
    /// The key: events with the same key stay in order. A path, or a list of paths.
    pub key: Option<Paths>,
    /// The path of the part that is published. The whole event by default.
    pub body: Option<FeedPath>,
}

/// How the next connection continues after the last event that is stored.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resume {
    /// Path of the value in an event.
    pub value: FeedPath,
    /// The query parameter that gets the value.
    pub query: String,
    /// The unit of the value, if it is a time.
    #[serde(default)]
    pub unit: Option<TimeFormat>,
    /// What to subtract from the value, so that nothing is missing where the feed is not exact: a time such as `"5s"` for a
    /// value with a `unit`, otherwise a number. Events that are sent again are removed as duplicates.
    #[serde(default)]
    pub rewind: Option<Rewind>,
}

/// The messages that tell the feed which events are stored. Each is sent after its events are durable.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Acknowledgement {
    /// Path of the value in an event that names it in the acknowledgement.
    pub value: FeedPath,
    /// The message: `{value}` stands for the value as text, `{value:json}` as the feed wrote it, and `{values:json}` for the
    /// list of the values of several events.
    pub send: MessageText,
    /// Whether one message acknowledges all events before it, so that only the last one is named.
    #[serde(default)]
    pub cumulative: bool,
    /// Largest number of values in `{values:json}`.
    #[serde(default = "hundred")]
    pub max_batch: u32,
}

const fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

const fn hundred() -> u32 {
    100
}
