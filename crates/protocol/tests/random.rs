//! Compares the interpreter with a slow reference interpreter over parsed JSON, for random declarations and frames.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod random {
    pub(crate) mod generate;
    pub(crate) mod reference;
}

use neurobridge_core::secret::Secret;
use neurobridge_protocol::{Action, Declaration, Interpreter, MalformedReason, Message, Ping, Secrets};
use proptest::prelude::*;
use random::{generate, reference::Reference};
use serde_json::{Value, json};

/// Returns a text of the feed without insignificant white space.
fn canonical(text: &str) -> String {
    serde_json::from_str::<Value>(text).map_or_else(|_| text.to_owned(), |value| value.to_string())
}

fn sent(message: &Message) -> Value {
    json!({ "send": canonical(message.expose()) })
}

/// Returns an action in the notation of the reference.
fn described(action: &Action<'_>) -> Value {
    let value = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    match action {
        Action::Event(event) => json!({
            "event": value(event.text),
            "unit": value(event.unit.of(event.text).unwrap()),
            "id": event.id(),
            "key": event.key(),
            "time": event.time().map(|time| time.as_nanosecond().to_string()),
            "kind": event.kind(),
            "body": value(event.body()),
            "resume": event.resume.map(value),
            "ack": event.ack.map(value),
        }),
        Action::UnexpectedAnswer(text) => panic!("a declared feed has no unexpected answer: {text}"),
        Action::Alive => json!("alive"),
        Action::Ready => json!("ready"),
        Action::Ignore => json!("ignore"),
        Action::Refused(text) => json!({ "refused": canonical(text) }),
        Action::Error(text) => json!({ "error": canonical(text) }),
        Action::Ended(text) => json!({ "ended": canonical(text) }),
        Action::Reply(message) => sent(message),
        Action::Malformed(text, MalformedReason::NotJson(_)) => json!({ "not_json": text }),
        Action::Malformed(text, _) => json!({ "no_rule": value(text) }),
    }
}

proptest! {
    #[test]
    fn interpreter_agrees_with_the_reference(
        declaration in generate::declaration(),
        frames in prop::collection::vec((generate::frame(), any::<bool>()), 1..12),
        acks in prop::collection::vec(generate::scalar(), 0..5),
    ) {
        let typed: Declaration = serde_json::from_value(declaration.clone()).unwrap();
        let mut interpreter = match Interpreter::new(typed, &[]) {
            Ok(interpreter) => interpreter,
            Err(errors) => panic!("{declaration}: {errors:?}"),
        };
        let mut reference = Reference::new(&declaration);
        for _ in 0..2 {
            let secrets = Secrets::from([("s".to_owned(), Secret::new("hunter2"))]);
            let begun: Vec<Value> = interpreter.begin(secrets).iter().map(sent).collect();
            prop_assert_eq!(begun, reference.begin(), "{}", declaration);
            for (frame, is_pretty) in &frames {
                let text = match frame {
                    Value::String(text) => text.clone(),
                    json if *is_pretty => serde_json::to_string_pretty(json).unwrap(),
                    json => json.to_string(),
                };
                let mut found = Vec::new();
                interpreter.receive(&text, &mut |action| found.push(described(&action)));
                prop_assert_eq!(found, reference.receive(&text), "{} {}", declaration, text);
                prop_assert_eq!(interpreter.is_ready(), reference.is_ready());
                prop_assert_eq!(interpreter.deadline().map(|(step, _)| step), reference.step());
            }
            let ping = match interpreter.ping() {
                Some(Ping::Message(message)) => Some(sent(&message)),
                Some(Ping::WebSocket) => Some(json!("websocket")),
                None => None,
            };
            prop_assert_eq!(ping, reference.ping());
            let raw: Vec<String> = acks.iter().map(Value::to_string).collect();
            let raw: Vec<&str> = raw.iter().map(String::as_str).collect();
            let acknowledged: Vec<Value> = interpreter.acknowledge(&raw).iter().map(sent).collect();
            prop_assert_eq!(acknowledged, reference.acknowledge(&acks), "{}", declaration);
        }
    }

    #[test]
    fn any_text_results_in_an_action_or_completes_a_step(declaration in generate::declaration(), frames in prop::collection::vec(any::<String>(), 8)) {
        let typed: Declaration = serde_json::from_value(declaration).unwrap();
        let mut interpreter = Interpreter::new(typed, &[]).unwrap();
        interpreter.begin(Secrets::new());
        for frame in frames {
            let (mut count, step) = (0, interpreter.deadline());
            interpreter.receive(&frame, &mut |_| count += 1);
            // An answer that completes one of several opening steps may require no action.
            prop_assert!(count > 0 || interpreter.deadline() != step, "{}", frame);
        }
    }

    #[test]
    fn invalid_declaration_has_errors_with_expected_values(text in r#"(\[(event|resume|ack|request|heartbeat)\]\n)?((id|send|value|until|query|events|url|rewind) = ("\{?[a-z.:]*\}?"|7|\[\]|\{ a = "\$" \})\n){0,3}\[\[rules\]\]\nis = "(event|reply|ignore)"\n"#) {
        if let Ok(declaration) = toml::from_str::<Declaration>(&text)
            && let Err(errors) = Interpreter::new(declaration, &[])
        {
            prop_assert!(errors.iter().all(|error| error.to_string().contains("expected")), "{:?}", errors);
        }
    }
}
