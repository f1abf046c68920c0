//! Classifies text frames.

use std::borrow::Cow;

use neurobridge_core::{
    json::{JsonError, Span, text},
    neuroio::{self, Frames, Kind},
    positions::Positions,
};

use crate::error_fields;

/// The maximum number of bytes kept of a text of the platform: more than is searched for secrets, and so more
/// than is shown.
const MAX_KEPT_BYTES: usize = 16 * 1024;

/// A text frame as received, borrowed from the connection until the next frame is read.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// The text.
    pub text: &'a str,
    /// The classification.
    pub content: Content<'a>,
}

/// The classification of a frame that leaves the listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// An event, with the positions of its fields.
    Event(Positions<'a>),
    /// A malformed frame.
    Malformed(MalformedReason),
}

/// Why a frame is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MalformedReason {
    /// The text is not JSON.
    #[error("not JSON")]
    NotJson(#[source] JsonError),
    /// JSON, but neither an answer to a ping or to AUTH, nor an error, nor an event.
    #[error("unrecognised message, expected one of the keys PING, auth, error, or data with an object")]
    UnknownKind,
}

impl MalformedReason {
    /// Returns the label for metrics and dead letters.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotJson(_) => "not_json",
            Self::UnknownKind => "unknown_kind",
        }
    }
}

/// The meaning of a text frame: an event for the program, a control message for the connection, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Classified<'a> {
    /// The content to deliver.
    pub(crate) content: Option<Content<'a>>,
    /// The message for the connection.
    pub(crate) control: Option<Control>,
}

/// A control message of the platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    /// The answer to a ping: `Ok` for `PONG`, otherwise the answer.
    Pong(Result<(), Foreign>),
    /// The answer to AUTH: `Ok` for `ok`, otherwise the answer. *Assumed*: any answer but `ok` is a refusal.
    Auth(Result<(), Foreign>),
    /// An error of the platform.
    Error(Foreign),
}

/// A text of the platform, which may repeat a secret. Has no `Display`, because it is shown only by
/// [`SecretSet::clean`](neurobridge_core::secret::SecretSet::clean).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Foreign(pub(crate) String);

/// Classifies a text frame. Allocates only for rare kinds.
pub(crate) fn classify<'a>(frames: &'a mut Frames, frame: &str) -> Classified<'a> {
    let control = |control| match control {
        neuroio::Control::Ping(span) => Control::Pong(expect(frame, span, "PONG")),
        neuroio::Control::Auth(span) => Control::Auth(expect(frame, span, "ok")),
        neuroio::Control::Error(span) => Control::Error(foreign(frame, span)),
    };
    let malformed = |reason| Some(Content::Malformed(reason));
    match frames.read(frame) {
        Ok((Kind::Control(message), _)) => Classified {
            content: None,
            control: Some(control(message)),
        },
        Ok((Kind::Event(positions), beside)) => Classified {
            content: Some(Content::Event(positions)),
            control: beside.map(control),
        },
        Ok((Kind::Unknown, beside)) => Classified {
            content: malformed(MalformedReason::UnknownKind),
            control: beside.map(control),
        },
        Err(error) => Classified {
            content: malformed(MalformedReason::NotJson(error)),
            control: None,
        },
    }
}

fn expect(frame: &str, span: Span, word: &str) -> Result<(), Foreign> {
    let raw = span.of(frame).unwrap_or_default();
    if raw.starts_with('"') && text(raw).as_deref() == Some(word) {
        Ok(())
    } else {
        Err(foreign(frame, span))
    }
}

/// Returns a value for people: a string without quotes, an object without fields that may contain personal
/// data, any other value as written.
fn foreign(frame: &str, span: Span) -> Foreign {
    let raw = span.of(frame).unwrap_or_default();
    let whole = if raw.starts_with(['{', '[']) {
        Cow::Owned(error_fields::reduce(raw))
    } else {
        text(raw).unwrap_or(raw.into())
    };
    Foreign(whole[..whole.floor_char_boundary(MAX_KEPT_BYTES)].to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn classify(frame: &str) -> Classified<'static> {
        super::classify(Box::leak(Box::default()), frame)
    }

    fn control(frame: &str) -> Control {
        let Classified { content, control } = classify(frame);
        assert_eq!(content, None, "{frame}");
        control.expect("a control message")
    }

    fn content(frame: &str) -> Content<'static> {
        let Classified { content, control } = classify(frame);
        assert_eq!(control, None, "{frame}");
        content.expect("something to hand on")
    }

    fn refused(text: &str) -> Result<(), Foreign> {
        Err(Foreign(text.into()))
    }

    #[test]
    fn four_kinds_are_classified() {
        assert_eq!(control(r#"{"PING":"PONG"}"#), Control::Pong(Ok(())));
        assert_eq!(control(r#"{"PING":"PING"}"#), Control::Pong(refused("PING")));
        assert_eq!(control(r#"{"PING":null}"#), Control::Pong(refused("null")));
        assert_eq!(control(r#"{"auth":"ok"}"#), Control::Auth(Ok(())));
        assert_eq!(control(r#"{"auth":"\u006fk"}"#), Control::Auth(Ok(())));
        assert_eq!(control(r#"{"auth":"no"}"#), Control::Auth(refused("no")));
        assert_eq!(control(r#"{"auth":true}"#), Control::Auth(refused("true")));
        assert_eq!(
            control(r#"{"error":"Invalid\ntoken"}"#),
            Control::Error(Foreign("Invalid\ntoken".into()))
        );
        assert_eq!(
            control(r#"{"error":{"code":7}}"#),
            Control::Error(Foreign(r#"{"code":7}"#.into()))
        );
        let frame = r#"{"id":1,"data":{"result":"new"}}"#;
        assert!(matches!(content(frame), Content::Event(_)));
        assert_eq!(content("{}"), Content::Malformed(MalformedReason::UnknownKind));
        assert!(matches!(
            content("{"),
            Content::Malformed(MalformedReason::NotJson(_))
        ));
        let both = classify(r#"{"error":"blurred","data":{"result":"new"}}"#);
        assert!(matches!(both.content, Some(Content::Event(_))));
        assert_eq!(both.control, Some(Control::Error(Foreign("blurred".into()))));
    }

    #[test]
    fn stored_text_is_bounded() {
        let frame = format!(r#"{{"error":"{}"}}"#, "ü".repeat(100_000));
        let Control::Error(Foreign(text)) = control(&frame) else {
            panic!("an error");
        };
        assert_eq!(text.len(), MAX_KEPT_BYTES);
    }

    proptest! {
        #[test]
        fn any_text_has_a_classification(frame in any::<String>()) {
            let is_json = serde_json::from_str::<serde::de::IgnoredAny>(&frame).is_ok();
            let not_json = matches!(
                classify(&frame).content,
                Some(Content::Malformed(MalformedReason::NotJson(_)))
            );
            prop_assert_eq!(is_json, !not_json);
        }
    }
}
