//! What the platform says, typed.

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use neurobridge_core::{
    envelope::{Envelope, Field},
    json::{self, Scanner},
};
use serde::{Deserialize, Serialize};

use crate::{
    frame::{Content, Frame, MalformedReason},
    stats::DisconnectReason,
};

/// What an [`EventListener`](crate::EventListener) hears: the platform's four kinds of messages, and what becomes of
/// the connection.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Message {
    /// A connection is open; it is not authorised yet.
    Connected,
    /// The token was accepted. Events follow.
    Authorised,
    /// The connection is alive.
    Pong {
        /// How long the answer to a ping took, where that could be measured.
        rtt: Option<Duration>,
    },
    /// Something is wrong with the token, or with a request.
    Error(PlatformError),
    /// A face was seen.
    Event(Event),
    /// A text frame of no known kind. The connection stays.
    Malformed {
        /// The text.
        text: Arc<str>,
        /// Why it is none.
        reason: MalformedReason,
    },
    /// The connection ended. The next attempt follows by itself.
    Disconnected {
        /// One word for it.
        reason: DisconnectReason,
        /// A sentence for it.
        sentence: String,
    },
}

/// What the platform says is wrong: its own words, shortened to 200 characters, without the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlatformError {
    pub(crate) text: String,
}

impl PlatformError {
    /// The words; JSON, where the platform sent something else than a string.
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

/// An event: the frame as it came, and where its fields stand. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Event {
    // A copy: a slice of the socket's read buffer would pin all of it for as long as somebody keeps the event.
    frame: Arc<str>,
    envelope: Envelope,
}

impl Event {
    /// The whole frame, unchanged.
    pub fn as_str(&self) -> &str {
        &self.frame
    }

    /// The id of the frame, *assumed* to be the entry's id.
    pub fn id(&self) -> Option<Cow<'_, str>> {
        self.envelope.text(Field::Id, &self.frame)
    }

    /// `data`, the entry, as it is written: JSON.
    pub fn data(&self) -> &str {
        self.envelope.raw(Field::Data, &self.frame).unwrap_or("{}")
    }

    /// How the face was recognised: `new`, `exact` and so on.
    pub fn result(&self) -> Option<Cow<'_, str>> {
        self.envelope.text(Field::Result, &self.frame)
    }

    /// The person.
    pub fn pid(&self) -> Option<Cow<'_, str>> {
        self.envelope.text(Field::Pid, &self.frame)
    }

    /// When the entry was made, ISO 8601.
    pub fn created(&self) -> Option<Cow<'_, str>> {
        self.envelope.text(Field::Created, &self.frame)
    }

    /// The id of the camera or upload.
    pub fn source_id(&self) -> Option<Cow<'_, str>> {
        self.envelope.text(Field::SourceId, &self.frame)
    }

    /// The id of the tenant's space.
    pub fn space_id(&self) -> Option<Cow<'_, str>> {
        self.envelope.text(Field::SpaceId, &self.frame)
    }

    /// Where the picture of the face is: a URL, *assumed* sometimes the picture itself in base64.
    pub fn face_image(&self) -> Option<Cow<'_, str>> {
        json::text(self.field("face_image")?)
    }

    /// Where the whole picture is, as [`Event::face_image`].
    pub fn full_image(&self) -> Option<Cow<'_, str>> {
        json::text(self.field("full_image")?)
    }

    /// Any field of the entry, as it is written; `None` when it is not there. Reads the entry from its start: for more
    /// than one or two fields take [`Event::entry`].
    pub fn field(&self, name: &str) -> Option<&str> {
        let data = self.data();
        let mut scanner = Scanner::new(data).ok()?;
        let mut found = None;
        scanner
            .object(|scanner, key| {
                let value = scanner.value()?;
                if key.name() == name {
                    found = value.of(data);
                }
                Ok(())
            })
            .ok()?;
        found
    }

    /// The entry with all its documented fields.
    ///
    /// # Errors
    /// A field is of another type than documented.
    pub fn entry(&self) -> serde_json::Result<Entry> {
        serde_json::from_str(self.data())
    }
}

impl Message {
    pub(crate) fn of_frame(frame: &Frame) -> Self {
        let text = Arc::from(frame.text.as_str());
        match frame.content {
            Content::Event(envelope) => Self::Event(Event {
                frame: text,
                envelope,
            }),
            Content::Malformed(reason) => Self::Malformed { text, reason },
        }
    }
}

/// An entry, as the platform documents it. Every field may be missing or null; those that are not documented are in
/// `other`, so that nothing is lost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Entry {
    /// The entry's id.
    pub id: Option<i64>,
    /// When it was made, ISO 8601.
    pub created: Option<String>,
    /// How the face was recognised.
    pub result: Option<Recognition>,
    /// The person.
    pub pid: Option<String>,
    /// When the person was created, ISO 8601.
    pub pid_created: Option<String>,
    /// The camera or upload.
    pub source: Option<Named>,
    /// The tenant's space.
    pub space: Option<Named>,
    /// In years.
    pub age: Option<i64>,
    /// 0 male, 1 female.
    pub sex: Option<i64>,
    /// What the face expresses.
    pub mood: Option<Mood>,
    /// Whether it is a living face.
    pub liveness: Option<Liveness>,
    /// Match score.
    pub confidence: Option<f64>,
    /// Size of the face, a measure of the picture's quality.
    pub facesize: Option<f64>,
    /// Exposure, a measure of the picture's quality.
    pub exposure: Option<f64>,
    /// How far the face is turned aside.
    pub pan: Option<f64>,
    /// How far the face is turned up or down.
    pub tilt: Option<f64>,
    /// The face: a URL, *assumed* sometimes base64.
    pub face_image: Option<String>,
    /// The whole picture.
    pub full_image: Option<String>,
    /// The face when the person was created.
    pub initial_face_image: Option<String>,
    /// The whole picture when the person was created.
    pub initial_full_image: Option<String>,
    /// All other fields.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

/// Something with an id and a name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Named {
    /// Its id.
    pub id: Option<i64>,
    /// Its name.
    pub name: Option<String>,
    /// All other fields.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

/// How a face was recognised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Recognition {
    /// A person not seen before.
    New,
    /// A person whose pictures were begun anew.
    Reinit,
    /// Certainly this person.
    Exact,
    /// This person, with high accuracy.
    Ha,
    /// Not good enough to tell.
    Junk,
    /// No match.
    Nm,
    /// A face, no more.
    Det,
    /// A word that is not documented.
    #[serde(untagged)]
    Other(String),
}

/// What a face expresses.
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
    /// A word that is not documented.
    #[serde(untagged)]
    Other(String),
}

/// Whether a face is alive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Liveness {
    /// It is.
    Passed,
    /// It is a picture of one.
    Failed,
    /// Not to be told.
    Undetermined,
    /// A word that is not documented.
    #[serde(untagged)]
    Other(String),
}

#[cfg(test)]
mod tests {
    use neurobridge_core::envelope::FrameReader;

    use super::*;
    use crate::frame::classify;

    fn event(frame: &str) -> Event {
        let content = classify(&mut FrameReader::default(), frame)
            .content
            .expect("an event");
        let frame = Frame {
            text: frame.to_owned().into(),
            content,
        };
        match Message::of_frame(&frame) {
            Message::Event(event) => event,
            message => panic!("{message:?}"),
        }
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
