//! The protocol of NeuroIO's event feed, which is known from the platform's public clients.

use std::{borrow::Cow, time::Duration};

use neurobridge_core::{
    event::FieldPath,
    json::{Span, text},
    neuroio::{Control, Frames, ParsedFrame},
    secret::Secret,
};
use serde::Serialize;

use crate::{
    action::{Action, MalformedReason},
    error_fields,
    fields::FeedEvent,
    interpreter::MAX_TEXT_BYTES,
    protocol::Pings,
    text::{Message, Secrets},
};

/// The name of the API token among the secrets.
pub const TOKEN: &str = "token";
/// The ping message.
const PING: &str = r#"{"action":"PING"}"#;

/// NeuroIO's protocol and the state of its connection.
#[derive(Clone, Debug)]
pub struct Neuroio {
    frames: Frames,
    auth_timeout: Duration,
    pings: Pings,
    is_ready: bool,
}

impl Neuroio {
    /// Creates the protocol with its time limits. The positions of `fields`, which filters and templates name, are found in
    /// each event.
    pub fn new(
        auth_timeout: Duration,
        ping_interval: Duration,
        pong_timeout: Duration,
        fields: &[FieldPath],
    ) -> Self {
        Self {
            frames: Frames::new(fields),
            auth_timeout,
            pings: Pings {
                interval: Some(ping_interval),
                timeout: pong_timeout,
                idle_timeout: None,
                websocket: false,
                any_frame_answers: false,
            },
            is_ready: false,
        }
    }

    /// Starts a connection, and returns the AUTH message, which must be the first one.
    pub(crate) fn begin(&mut self, secrets: &Secrets) -> Message {
        self.is_ready = false;
        Message::new(auth(secrets.get(TOKEN).map_or("", Secret::expose)))
    }

    pub(crate) const fn skip_opening(&mut self) {
        self.is_ready = true;
    }

    pub(crate) const fn is_ready(&self) -> bool {
        self.is_ready
    }

    pub(crate) fn deadline(&self) -> Option<(usize, Duration)> {
        (!self.is_ready).then_some((0, self.auth_timeout))
    }

    pub(crate) const fn pings(&self) -> Pings {
        self.pings
    }

    pub(crate) fn ping() -> Message {
        Message::new(PING.to_owned())
    }

    /// Interprets a frame: an event, a control message, or both.
    #[inline]
    pub(crate) fn receive(&mut self, frame: &str, act: &mut dyn FnMut(Action<'_>)) {
        let control = match self.frames.read(frame) {
            Ok((ParsedFrame::Event(positions), beside)) => {
                act(Action::Event(FeedEvent::of_frame(frame, positions)));
                beside
            }
            Ok((ParsedFrame::Unknown, beside)) => {
                act(Action::Malformed(frame, MalformedReason::UnknownKind));
                beside
            }
            Ok((ParsedFrame::Control(control), _)) => Some(control),
            Err(error) => return act(Action::Malformed(frame, MalformedReason::NotJson(error))),
        };
        match control {
            None => {}
            Some(Control::Ping(span)) => act(match expect(frame, span, "PONG") {
                Ok(()) => Action::Alive,
                Err(answer) => Action::UnexpectedAnswer(answer),
            }),
            // Assumed: any answer but `ok` is a refusal.
            Some(Control::Auth(span)) => act(match expect(frame, span, "ok") {
                Ok(()) => {
                    self.is_ready = true;
                    Action::Ready
                }
                Err(answer) => Action::Refused(answer),
            }),
            Some(Control::Error(span)) => {
                let text = shown(frame, span);
                act(if self.is_ready {
                    Action::Error(text)
                } else {
                    Action::Refused(text)
                });
            }
        }
    }
}

fn auth(token: &str) -> String {
    #[derive(Serialize)]
    struct Auth<'a> {
        action: &'static str,
        data: Data<'a>,
    }
    #[derive(Serialize)]
    struct Data<'a> {
        token: &'a str,
    }
    let message = Auth {
        action: "AUTH",
        data: Data { token },
    };
    serde_json::to_string(&message).expect("serialising structs of strings cannot fail")
}

/// Checks that a value is the string `word`. The error is the value, as text to show.
fn expect(frame: &str, span: Span, word: &str) -> Result<(), String> {
    let raw = span.of(frame).unwrap_or_default();
    if raw.starts_with('"') && text(raw).as_deref() == Some(word) {
        Ok(())
    } else {
        Err(shown(frame, span))
    }
}

/// Returns a value for people: a string without quotes, an object without fields that may contain personal data, any other value
/// as written.
fn shown(frame: &str, span: Span) -> String {
    let raw = span.of(frame).unwrap_or_default();
    let whole = if raw.starts_with(['{', '[']) {
        Cow::Owned(error_fields::reduce(raw))
    } else {
        text(raw).unwrap_or(raw.into())
    };
    whole[..whole.floor_char_boundary(MAX_TEXT_BYTES)].to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn neuroio() -> Neuroio {
        let second = Duration::from_secs(1);
        Neuroio::new(second, second, second, &[])
    }

    /// Returns the actions of a frame, in a notation for tests.
    fn actions(neuroio: &mut Neuroio, frame: &str) -> Vec<String> {
        let mut actions = Vec::new();
        neuroio.receive(frame, &mut |action| {
            actions.push(match action {
                Action::Event(event) => format!("event {}", event.body()),
                Action::Malformed(_, reason) => reason.as_str().to_owned(),
                Action::UnexpectedAnswer(text) => format!("unexpected {text}"),
                Action::Refused(text) => format!("refused {text}"),
                Action::Error(text) => format!("error {text}"),
                action => format!("{action:?}"),
            });
        });
        actions
    }

    #[test]
    fn each_kind_of_frame_has_its_actions() {
        let mut neuroio = neuroio();
        for (frame, expected) in [
            (r#"{"error":"Invalid\ntoken"}"#, vec!["refused Invalid\ntoken"]),
            (r#"{"auth":"no"}"#, vec!["refused no"]),
            (r#"{"auth":true}"#, vec!["refused true"]),
            (r#"{"auth":"ok"}"#, vec!["Ready"]),
            (r#"{"auth":"\u006fk"}"#, vec!["Ready"]),
            (r#"{"PING":"PONG"}"#, vec!["Alive"]),
            (r#"{"PING":"PING"}"#, vec!["unexpected PING"]),
            (r#"{"PING":null}"#, vec!["unexpected null"]),
            (r#"{"error":{"code":7}}"#, vec![r#"error {"code":7}"#]),
            (r#"{"id":1,"data":{"a":1}}"#, vec![r#"event {"a":1}"#]),
            (
                r#"{"error":"blurred","data":{"a":1}}"#,
                vec![r#"event {"a":1}"#, "error blurred"],
            ),
            ("{}", vec!["unknown_kind"]),
            ("{", vec!["not_json"]),
        ] {
            assert_eq!(actions(&mut neuroio, frame), expected, "{frame}");
        }
        assert!(neuroio.is_ready());
        let first = neuroio.begin(&Secrets::from([(TOKEN.to_owned(), Secret::new("a\"b"))]));
        // As the platform's own clients send it.
        assert_eq!(first.expose(), r#"{"action":"AUTH","data":{"token":"a\"b"}}"#);
        assert!(!neuroio.is_ready());
    }

    #[test]
    fn long_error_text_is_truncated() {
        let frame = format!(r#"{{"error":"{}"}}"#, "ü".repeat(100_000));
        neuroio().receive(&frame, &mut |action| {
            let Action::Refused(text) = action else {
                panic!("{action:?}");
            };
            assert_eq!(text.len(), MAX_TEXT_BYTES);
        });
    }

    proptest! {
        #[test]
        fn any_text_has_an_action(frame in any::<String>()) {
            let is_json = serde_json::from_str::<serde::de::IgnoredAny>(&frame).is_ok();
            let actions = actions(&mut neuroio(), &frame);
            prop_assert!(!actions.is_empty());
            prop_assert_eq!(is_json, actions != ["not_json"]);
        }
    }
}
