use neurobridge_protocol::{Action, Interpreter};

use super::*;

fn service(text: &str, script: Option<&str>) -> Result<Service, FeedError> {
    let declaration: Declaration = toml::from_str(text).unwrap();
    let feed = DeclaredFeed {
        script: script.map(Script::parse).transpose()?.unwrap_or_default(),
        ..DeclaredFeed::new(declaration)
    };
    Service::new(
        feed,
        1,
        Duration::from_millis(1),
        Some(Timestamp::from_second(1_700_000_000).unwrap()),
    )
}

#[test]
fn sample_is_built_from_the_declaration() {
    let feed = r#"
        events = "data"
        rules = [{ when = { "$.arg.channel" = "trades", side = ["buy", "sell"] }, is = "event" }]
        event = { id = ["symbol", "n"], time = { path = "ts", unit = "ms" }, key = "symbol" }
    "#;
    let service = service(feed, None).unwrap();
    let frame = service.frame(7..=7);
    let value: serde_json::Value = serde_json::from_str(&frame).unwrap();
    assert_eq!(value["arg"]["channel"], "trades");
    assert_eq!(value["data"][0]["n"], "7");
    assert_eq!(value["data"][0]["ts"], 1_700_000_000_007_u64);
    assert!(value["data"][0]["symbol"].as_str().unwrap().starts_with("key-"));
}

/// Returns a service that resumes by time, with one event in its script.
fn resuming_service() -> Service {
    let feed = r#"
        rules = [{ when = { kind = "commit" }, is = "event" }]
        event = { id = ["did", "at"], time = { path = "at", unit = "us" }, key = "did" }
        resume = { value = "at", query = "cursor", unit = "us" }
    "#;
    let script = r#"{"kind":"commit","at":1725911162329308,"did":"did:plc:x","n":[1,2]}"#;
    service(feed, Some(script)).unwrap()
}

#[test]
fn generated_event_has_the_other_fields_of_its_sample() {
    let service = resuming_service();
    let frame = service.frame(3..=3);
    assert!(
        frame.starts_with(r#"{"kind":"commit","at":1700000000003000,"did":"did:plc:x-"#)
            && frame.ends_with(r#"","n":[1,2]}"#),
        "{frame}"
    );
}

#[test]
fn time_selects_the_last_event_that_is_not_later() {
    let service = resuming_service();
    let path = &service.declaration().resume.as_ref().unwrap().value;
    for (text, number) in [
        ("1700000000003000", 3),
        ("1700000000003999", 3),
        ("1700000000002999", 2),
        ("5", 0),
    ] {
        assert_eq!(service.events.number_of(path, text), Some(number), "{text}");
    }
    assert_eq!(service.events.number_of(path, "no"), None);
}

#[test]
fn unusable_declaration_or_script_is_an_error_with_reason() {
    let fixed = r#"
        rules = [{ when = { id = "x" }, is = "event" }]
        event = { id = "id" }
    "#;
    assert!(service(fixed, None).unwrap_err().to_string().contains("event.id"));
    let feed = r#"
        rules = [{ when = { kind = "a" }, is = "event" }]
        event = { id = "id" }
    "#;
    let error = service(feed, Some(r#"{"kind":"b"}"#)).unwrap_err();
    assert!(error.to_string().contains("line 1"), "{error}");
    let error = service(feed, Some(r#"{"kind":"a"}"#)).unwrap_err();
    assert!(error.to_string().contains("\"id\""), "{error}");
}

#[path = "../../../protocol/tests/random/generate.rs"]
#[allow(dead_code, reason = "frames are generated for another test")]
mod generate;

/// Completes the opening of a client, and returns the client.
fn opened(service: &Service) -> Interpreter {
    let mut client = Interpreter::new(service.declaration().clone(), &[]).unwrap();
    let mut sent = client.begin(Secrets::from([("s".to_owned(), "hunter2".into())]));
    for (index, step) in service.opening().iter().enumerate() {
        let mut id = None;
        if step.expects_message {
            let recognised = sent
                .iter()
                .position(|message| service.counterpart().opening(index, message.expose()).is_some());
            let message = sent.remove(recognised.expect("the message of the step"));
            id = service
                .counterpart()
                .opening(index, message.expose())
                .unwrap()
                .request_id;
        }
        let id = id.map(|id| id.to_string());
        if let Some(answer) = &step.answer {
            client.receive(&answer.with(id.as_deref()), &mut |action| {
                if let Action::Reply(message) = action {
                    sent.push(message);
                }
            });
        }
    }
    assert!(client.is_ready());
    client
}

fn meanings(client: &Interpreter, frame: &str) -> Vec<&'static str> {
    let mut meanings = Vec::new();
    client.clone().receive(frame, &mut |action| {
        meanings.push(match action {
            Action::Event(_) => "event",
            Action::Alive => "alive",
            Action::Reply(_) => "reply",
            Action::Error(_) => "error",
            _ => "another",
        });
    });
    meanings
}

proptest::proptest! {
    #[test]
    fn played_frames_have_their_declared_meanings(declaration in generate::declaration()) {
        let typed: Declaration = serde_json::from_value(declaration.clone()).unwrap();
        let start = Some(Timestamp::from_second(1_700_000_000).unwrap());
        // A declaration whose conditions contradict each other cannot be played, and `Service::new` returns an error.
        let Ok(service) = Service::new(DeclaredFeed::new(typed), 1, Duration::from_millis(1), start) else {
            return Ok(());
        };
        let client = opened(&service);
        for first in [1, 9, 30] {
            let last = service.frame_end(first, first + 20);
            let frame = service.frame(first..=last);
            let expected = vec!["event"; usize::try_from(last - first + 1).unwrap()];
            proptest::prop_assert_eq!(meanings(&client, &frame), expected, "{} {}", declaration, frame);
        }
        let error = service.error("no");
        for (frame, expected) in [
            (service.ping_answer(), "alive"),
            (service.alive(), "alive"),
            (service.ping(), "reply"),
            (error.as_deref(), "error"),
        ] {
            if let Some(frame) = frame {
                let found = meanings(&client, frame);
                proptest::prop_assert!(found.contains(&expected), "{}: {} is {:?}, not {}", declaration, frame, found, expected);
            }
        }
    }
}
