//! The messages of NeuroIO's feed as types.

use std::{
    borrow::Cow,
    fmt,
    sync::{Arc, LazyLock},
    time::Duration,
};

use neurobridge_core::{event::FieldPath, json, path::Path, positions::PositionsBuf};
use neurobridge_protocol::MalformedReason;
use serde::{Deserialize, Serialize};

use crate::{received::Received, stats::DisconnectReason};

/// A message of an [`EventListener`](crate::EventListener): one of the platform's four kinds, or a change of
/// the connection.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Message {
    /// A connection is open and not authenticated yet.
    Connected,
    /// The token was accepted. Events follow.
    Authenticated,
    /// The platform answered a ping.
    Pong {
        /// The round-trip time, if it was measured.
        rtt: Option<Duration>,
    },
    /// The platform reports an error of the token or of a request.
    Error(PlatformError),
    /// An event: a face was recognised.
    Event(Event),
    /// A malformed text frame. The connection stays open.
    Malformed {
        /// The text.
        text: Arc<str>,
        /// Why the frame is malformed.
        reason: MalformedReason,
    },
    /// The connection ended. The listener reconnects by itself.
    Disconnected {
        /// The reason as a label.
        reason: DisconnectReason,
        /// The reason as a sentence.
        sentence: String,
    },
}

/// An error message of the platform, shortened to 200 characters, without the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlatformError {
    pub(crate) text: String,
}

impl PlatformError {
    /// Returns the text of the message; JSON if the platform sent another value than a string.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for PlatformError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for PlatformError {}

/// An event: the unchanged frame with the positions of its fields. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Event(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    frame: Box<str>,
    positions: PositionsBuf,
}

/// The paths of the fields for which [`Event`] has a method, without those that every projection contains (id, time, type, body).
static FIELDS: LazyLock<Fields> = LazyLock::new(|| {
    let path = |path| FieldPath::parse(path).expect("a constant path is valid");
    Fields {
        pid: path("pid"),
        source_id: path("source.id"),
        space_id: path("space.id"),
        face_image: path("face_image"),
        full_image: path("full_image"),
    }
});

struct Fields {
    pid: FieldPath,
    source_id: FieldPath,
    space_id: FieldPath,
    face_image: FieldPath,
    full_image: FieldPath,
}

/// Returns the fields of an entry whose positions the methods of [`Event`] use.
pub(crate) fn projected_fields() -> Vec<FieldPath> {
    let Fields {
        pid,
        source_id,
        space_id,
        face_image,
        full_image,
    } = &*FIELDS;
    [pid, source_id, space_id, face_image, full_image]
        .map(FieldPath::clone)
        .to_vec()
}

impl Event {
    /// Returns the whole frame, unchanged.
    pub fn as_str(&self) -> &str {
        &self.0.frame
    }

    /// Returns the id of the frame, *assumed* to equal the entry's id.
    pub fn id(&self) -> Option<Cow<'_, str>> {
        self.0.positions.positions().id(&self.0.frame)
    }

    /// Returns `data`, the entry, as JSON text of the frame.
    pub fn data(&self) -> &str {
        let body = self.0.positions.positions().body();
        body.of(&self.0.frame).unwrap_or("{}")
    }

    /// Returns the result of the recognition: `new`, `exact` and so on.
    pub fn result(&self) -> Option<Cow<'_, str>> {
        json::text(self.0.positions.positions().kind().of(&self.0.frame)?)
    }

    /// Returns the id of the person.
    pub fn pid(&self) -> Option<Cow<'_, str>> {
        self.text(&FIELDS.pid)
    }

    /// Returns the time at which the entry was created, ISO 8601.
    pub fn created(&self) -> Option<Cow<'_, str>> {
        json::text(self.0.positions.positions().time().of(&self.0.frame)?)
    }

    /// Returns the id of the camera or upload.
    pub fn source_id(&self) -> Option<Cow<'_, str>> {
        self.text(&FIELDS.source_id)
    }

    /// Returns the id of the tenant's space.
    pub fn space_id(&self) -> Option<Cow<'_, str>> {
        self.text(&FIELDS.space_id)
    }

    /// Returns the picture of the face: a URL, *assumed* sometimes the picture itself in base64.
    pub fn face_image(&self) -> Option<Cow<'_, str>> {
        self.text(&FIELDS.face_image)
    }

    /// Returns the whole picture, in the form of [`Event::face_image`].
    pub fn full_image(&self) -> Option<Cow<'_, str>> {
        self.text(&FIELDS.full_image)
    }

    /// Returns any field of the entry as JSON text, by a path such as `mood` or `source.name`; `None` if it is missing.
    /// Scans the entry from its start, unless the field has a method of its own: use [`Event::entry`] for more than one or two
    /// fields.
    pub fn field(&self, path: &str) -> Option<&str> {
        Path::parse(path)?.of(self.data())
    }

    /// Parses the entry with all its documented fields.
    ///
    /// # Errors
    /// A field has another type than documented.
    pub fn entry(&self) -> serde_json::Result<Entry> {
        serde_json::from_str(self.data())
    }

    fn text(&self, field: &FieldPath) -> Option<Cow<'_, str>> {
        json::text(self.raw(field)?)
    }

    fn raw(&self, field: &FieldPath) -> Option<&str> {
        field.locate(self.0.positions.positions(), &self.0.frame)
    }
}

impl Message {
    pub(crate) fn new(received: Received<'_>) -> Self {
        match received {
            Received::Event(event) => Self::Event(Event(Arc::new(Inner {
                frame: event.text.into(),
                positions: event.positions.into(),
            }))),
            Received::Malformed { text, reason } => Self::Malformed {
                text: text.into(),
                reason,
            },
        }
    }
}

/// An entry as documented by the platform. Every field may be missing or null; undocumented fields are in
/// `other`, so that nothing is lost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Entry {
    /// The entry's id.
    pub id: Option<i64>,
    /// The time of creation, ISO 8601.
    pub created: Option<String>,
    /// The result of the recognition.
    pub result: Option<Recognition>,
    /// The id of the person.
    pub pid: Option<String>,
    /// The time at which the person was created, ISO 8601.
    pub pid_created: Option<String>,
    /// The camera or upload.
    pub source: Option<Named>,
    /// The tenant's space.
    pub space: Option<Named>,
    /// The age in years.
    pub age: Option<i64>,
    /// The sex: 0 male, 1 female.
    pub sex: Option<i64>,
    /// The facial expression.
    pub mood: Option<Mood>,
    /// Whether the face is a living one.
    pub liveness: Option<Liveness>,
    /// The match score.
    pub confidence: Option<f64>,
    /// Size of the face, a measure of the picture's quality.
    pub facesize: Option<f64>,
    /// Exposure, a measure of the picture's quality.
    pub exposure: Option<f64>,
    /// The horizontal rotation of the face.
    pub pan: Option<f64>,
    /// The vertical rotation of the face.
    pub tilt: Option<f64>,
    /// The picture of the face: a URL, *assumed* sometimes base64.
    pub face_image: Option<String>,
    /// The whole picture.
    pub full_image: Option<String>,
    /// The picture of the face when the person was created.
    pub initial_face_image: Option<String>,
    /// The whole picture when the person was created.
    pub initial_full_image: Option<String>,
    /// All other fields.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

/// An object with an id and a name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Named {
    /// The id.
    pub id: Option<i64>,
    /// The name.
    pub name: Option<String>,
    /// All other fields.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

/// The result of recognising a face.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Recognition {
    /// A person who was not seen before.
    New,
    /// A person whose pictures were replaced by new ones.
    Reinit,
    /// This person, with certainty.
    Exact,
    /// This person, with high accuracy.
    Ha,
    /// The picture is not good enough for a result.
    Junk,
    /// No match.
    Nm,
    /// A face was detected, without recognition.
    Det,
    /// An undocumented value.
    #[serde(untagged)]
    Other(String),
}

/// A facial expression.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the words are those of the protocol")]
#[non_exhaustive]
pub enum Mood {
    Neutral,
    Anger,
    Contempt,
    Disgust,
    Fear,
    Happiness,
    Sadness,
    Surprise,
    Nm,
    Det,
    /// An undocumented value.
    #[serde(untagged)]
    Other(String),
}

/// The result of the liveness check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Liveness {
    /// A living face.
    Passed,
    /// A picture of a face.
    Failed,
    /// Undetermined.
    Undetermined,
    /// An undocumented value.
    #[serde(untagged)]
    Other(String),
}

#[cfg(test)]
mod tests {
    use neurobridge_core::neuroio::Frames;
    use neurobridge_protocol::FeedEvent;

    use super::*;

    fn event(frame: &str) -> Event {
        let mut frames = Frames::default();
        let positions = frames.event(frame).expect("an event");
        match Message::new(Received::Event(FeedEvent::of_frame(frame, positions))) {
            Message::Event(event) => event,
            message => panic!("{message:?}"),
        }
    }

    #[test]
    fn field_is_looked_up_in_the_entry_not_in_the_frame() {
        let event = event(r#"{"id":1,"data":{"id":2,"feed":"f","groups":[{"name":"vip"}]}}"#);
        let fields = ["id", "feed", "groups.0.name"].map(|path| event.field(path));
        assert_eq!(fields, [Some("2"), Some("\"f\""), Some("\"vip\"")]);
    }

    #[test]
    fn fields_are_parsed_from_the_entry() {
        let event = event(
            r#"{"id":7,"data":{"result":"new","pid":"p","created":"2026-01-02T03:04:05Z","face_image":"http:\/\/x",
               "source":{"id":3},"space":{"id":"s"},"full_image":null,"n":{"face_image":1}}}"#,
        );
        assert_eq!(event.id().as_deref(), Some("7"));
        assert_eq!(event.result().as_deref(), Some("new"));
        assert_eq!(event.pid().as_deref(), Some("p"));
        assert_eq!(event.created().as_deref(), Some("2026-01-02T03:04:05Z"));
        assert_eq!(event.source_id().as_deref(), Some("3"));
        assert_eq!(event.space_id().as_deref(), Some("s"));
        assert_eq!(event.face_image().as_deref(), Some("http://x"));
        assert_eq!(event.full_image(), None);
        assert_eq!(event.field("n"), Some(r#"{"face_image":1}"#));
        assert_eq!(event.field("missing"), None);
        assert!(event.as_str().starts_with(r#"{"id":7"#) && event.data().starts_with(r#"{"result""#));
    }

    #[test]
    fn entry_keeps_undocumented_fields() {
        let data = r#"{"age":null,"confidence":81.5,"id":1,"liveness":"passed","mood":"bored","new_field":[1],"pid":"p","result":"ha","sex":1,"source":{"id":3,"name":"Door","zone":"A"}}"#;
        let entry = event(&format!(r#"{{"data":{data}}}"#)).entry().unwrap();
        assert_eq!(entry.result, Some(Recognition::Ha));
        assert_eq!(entry.mood, Some(Mood::Other("bored".into())));
        assert_eq!(entry.liveness, Some(Liveness::Passed));
        assert_eq!((entry.age, entry.confidence), (None, Some(81.5)));
        assert_eq!(entry.other["new_field"], serde_json::json!([1]));
        assert_eq!(entry.source.as_ref().unwrap().other["zone"], "A");
        let written = serde_json::to_value(&entry).unwrap();
        let read: Entry = serde_json::from_value(written).unwrap();
        assert_eq!(read, entry);
        assert!(event(r#"{"data":{"age":"old"}}"#).entry().is_err());
        assert_eq!(event(r#"{"data":{}}"#).entry().unwrap(), Entry::default());
    }
}
