//! Removes the pictures from an event that is too large.

use crate::{
    event::Event,
    event_buf::EventBuf,
    json::{Scanner, Span},
};

/// An event without its pictures.
#[derive(Debug, Default)]
pub struct Stripped {
    changed: EventBuf,
    /// The keys whose values were removed, separated by commas.
    pub fields: String,
}

impl Stripped {
    /// Replaces each value of the body whose key ends with `_image` by `null`. `None` if there is no such
    /// value.
    ///
    /// Such a value is the URL of a picture, or *assumed* the picture itself in base64.
    pub fn of(event: &Event<'_>) -> Option<Self> {
        let body = event.body();
        let offset = event.positions.body().start;
        let mut stripped = Self::default();
        let mut fields: Vec<String> = Vec::new();
        Scanner::new(body)
            .and_then(|mut scanner| {
                scanner.object(|scanner, key| {
                    let name = key.name();
                    let value = scanner.value()?;
                    if name.ends_with("_image") && value.of(body).is_some_and(|value| value != "null") {
                        let value = Span {
                            start: offset + value.start,
                            end: offset + value.end,
                        };
                        stripped
                            .changed
                            .replace(event.frame, value, |out| out.push_str("null"));
                        // A duplicate key is listed once.
                        if !fields.iter().any(|field| *field == name) {
                            fields.push(name.into_owned());
                        }
                    }
                    Ok(())
                })
            })
            .ok()?;
        if fields.is_empty() {
            return None;
        }
        stripped.changed.finish(event).ok()?;
        stripped.fields = fields.join(",");
        Some(stripped)
    }

    /// Returns the stripped event.
    pub fn event<'a>(&'a self, original: &Event<'a>) -> Event<'a> {
        self.changed.event(original)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::event;

    #[test]
    fn stripped_pictures_are_null_and_listed() {
        let frame = r#" {"id":1,"face_image":"stays: not in the entry","data":{"pid":"p","face_image":"AAAA","full_\u0069mage" : "B\"B" ,"initial_face_image":null,"x":{"face_image":"stays"},"face_image":"CC"}, "more":2}"#;
        let event = event(frame);
        let stripped = Stripped::of(&event).unwrap();
        insta::assert_snapshot!(stripped.event(&event).frame, @r#" {"id":1,"face_image":"stays: not in the entry","data":{"pid":"p","face_image":null,"full_\u0069mage" : null ,"initial_face_image":null,"x":{"face_image":"stays"},"face_image":null}, "more":2}"#);
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
                let event = stripped.event(&event);
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
