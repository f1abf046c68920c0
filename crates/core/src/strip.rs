//! Removes the pictures from an event that is too large.

use crate::{
    envelope::{self, Kind},
    event::Event,
    json::{Scanner, Span},
};

/// An event without its pictures.
#[derive(Debug, Default)]
pub struct Stripped {
    frame: String,
    /// The keys whose values were removed, separated by commas.
    pub fields: String,
}

impl Stripped {
    /// Replaces each value of the entry whose key ends with `_image` by `null`. `None` if there is no such
    /// value.
    ///
    /// Such a value is the URL of a picture, or *assumed* the picture itself in base64.
    pub fn of(event: &Event<'_>) -> Option<Self> {
        let data = event.data();
        let offset = event.envelope.span(envelope::Field::Data).start as usize;
        let mut spans: Vec<Span> = Vec::new();
        let mut fields: Vec<String> = Vec::new();
        Scanner::new(data)
            .and_then(|mut scanner| {
                scanner.object(|scanner, key| {
                    let name = key.name();
                    let value = scanner.value()?;
                    if name.ends_with("_image") && value.of(data).is_some_and(|value| value != "null") {
                        spans.push(value);
                        // A duplicate key is listed once.
                        if !fields.iter().any(|field| *field == name) {
                            fields.push(name.into_owned());
                        }
                    }
                    Ok(())
                })
            })
            .ok()?;
        if spans.is_empty() {
            return None;
        }
        let mut frame = String::with_capacity(event.frame.len().min(4096));
        let mut copied = 0;
        for span in spans {
            frame.push_str(&event.frame[copied..offset + span.start as usize]);
            frame.push_str("null");
            copied = offset + span.end as usize;
        }
        frame.push_str(&event.frame[copied..]);
        Some(Self {
            frame,
            fields: fields.join(","),
        })
    }

    /// Returns the stripped event. `None` only for an invalid frame, which stripping never produces.
    pub fn event<'a>(&'a self, original: &Event<'a>) -> Option<Event<'a>> {
        match envelope::read(&self.frame) {
            Ok(Kind::Event(envelope)) => Some(Event {
                envelope,
                frame: &self.frame,
                ..*original
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::Sequence;

    fn event(frame: &str) -> Event<'_> {
        let Ok(Kind::Event(envelope)) = envelope::read(frame) else {
            panic!("no event: {frame}")
        };
        Event {
            sequence: Sequence::FIRST,
            received_at: jiff::Timestamp::UNIX_EPOCH,
            source: "main",
            conflict: None,
            envelope,
            frame,
        }
    }

    #[test]
    fn stripped_pictures_are_null_and_listed() {
        let frame = r#" {"id":1,"face_image":"stays: not in the entry","data":{"pid":"p","face_image":"AAAA","full_\u0069mage" : "B\"B" ,"initial_face_image":null,"x":{"face_image":"stays"},"face_image":"CC"}, "more":2}"#;
        let event = event(frame);
        let stripped = Stripped::of(&event).unwrap();
        insta::assert_snapshot!(stripped.event(&event).unwrap().frame, @r#" {"id":1,"face_image":"stays: not in the entry","data":{"pid":"p","face_image":null,"full_\u0069mage" : null ,"initial_face_image":null,"x":{"face_image":"stays"},"face_image":null}, "more":2}"#);
        assert_eq!(stripped.fields, "face_image,full_image");
    }

    #[test]
    fn event_without_pictures_is_not_stripped() {
        for frame in [r#"{"data":{}}"#, r#"{"data":{"face_image":null,"images":"a"}}"#] {
            assert!(Stripped::of(&event(frame)).is_none(), "{frame}");
        }
    }

    proptest! {
        #[test]
        fn stripped_event_is_otherwise_unchanged(
            members in proptest::collection::vec(("[a-z]{0,3}(_image)?", "(null|1|\"[a-z]{0,9}\"|\\{\"face_image\":\\[2\\]\\})"), 0..6)
        ) {
            let body: Vec<String> = members.iter().map(|(key, value)| format!("\"{key}\": {value}")).collect();
            let frame = format!("{{\"id\":3,\"data\": {{{}}}}}", body.join(" ,"));
            let event = event(&frame);
            if let Some(stripped) = Stripped::of(&event) {
                let event = stripped.event(&event).unwrap();
                let mut expected: serde_json::Value = serde_json::from_str(&frame).unwrap();
                for (key, value) in expected["data"].as_object_mut().unwrap() {
                    if key.ends_with("_image") {
                        *value = serde_json::Value::Null;
                    }
                }
                prop_assert_eq!(serde_json::from_str::<serde_json::Value>(event.frame).unwrap(), expected);
            } else {
                prop_assert!(members.iter().all(|(key, value)| !key.ends_with("_image") || value == "null"));
            }
        }
    }
}
