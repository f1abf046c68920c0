//! Tests of the interpreter with small declarations.

use neurobridge_core::secret::Secret;

use super::*;

fn interpreter(text: &str) -> Interpreter {
    let text = format!("{text}\n[[rules]]\nwhen = {{ id = {{ present = true }} }}\nis = \"event\"\n");
    Interpreter::new(toml::from_str(&text).unwrap(), &[]).unwrap()
}

fn sent(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(Message::expose).collect()
}

fn actions(interpreter: &mut Interpreter, frame: &str) -> Vec<String> {
    let mut actions = Vec::new();
    interpreter.receive(frame, &mut |action| {
        actions.push(match action {
            Action::Event(event) => event.text.to_owned(),
            Action::Reply(message) => message.expose().to_owned(),
            other => format!("{other:?}"),
        });
    });
    actions
}

#[test]
fn request_contains_secrets_and_the_resume_value() {
    let interpreter = interpreter(
        "secrets = { key = { variable = \"KEY\" } }\nresume = { value = \"id\", query = \"since\", rewind = 1 }\n\
         [request]\nheaders = { Authorization = \"Bearer {secret.key}\" }\nquery = { key = \"{secret.key}\", x = [1, \"a b&c\"] }\n\
         subprotocols = [\"v1\"]",
    );
    let secrets = Secrets::from([("key".to_owned(), Secret::new("hunter2="))]);
    let request = interpreter.request(&secrets, Some("8"));
    assert_eq!(
        request.headers,
        [("Authorization".to_owned(), "Bearer hunter2=".to_owned())]
    );
    assert_eq!(request.query, "key=hunter2%3D&x=1&x=a%20b%26c&since=7");
    assert_eq!(request.subprotocols, ["v1"]);
    assert_eq!(
        interpreter.request(&secrets, None).query,
        "key=hunter2%3D&x=1&x=a%20b%26c"
    );
}

#[test]
fn answer_with_another_request_id_completes_no_step() {
    let mut interpreter = interpreter(
        "open = [{ send = { n = \"{request_id:json}\" } }, { send = { n = \"{request_id:json}\" }, until = { ok = true }, \
         refused = { ok = false }, answer_id = \"n\", timeout = \"3s\" }]",
    );
    assert_eq!(
        sent(&interpreter.begin(Secrets::new())),
        [r#"{"n":1}"#, r#"{"n":2}"#]
    );
    assert_eq!(interpreter.deadline(), Some((1, Duration::from_secs(3))));
    let malformed = actions(&mut interpreter, r#"{"n":1,"ok":true}"#);
    assert!(malformed[0].starts_with("Malformed"), "{malformed:?}");
    assert!(!interpreter.is_ready());
    assert_eq!(actions(&mut interpreter, r#"{"n":2,"ok":true}"#), ["Ready"]);
    assert!(interpreter.is_ready());
    assert_eq!(interpreter.deadline(), None);
    // Each connection counts its request ids from 1.
    assert_eq!(
        sent(&interpreter.begin(Secrets::new())),
        [r#"{"n":1}"#, r#"{"n":2}"#]
    );
    assert_eq!(
        actions(&mut interpreter, r#"{"n":"2","ok":false}"#),
        [r#"Refused("{\"n\":\"2\",\"ok\":false}")"#]
    );
}

#[test]
fn reply_during_the_opening_does_not_change_the_awaited_answer() {
    let mut interpreter = interpreter(
        "open = [{ send = { n = \"{request_id:json}\" }, until = { ok = true }, answer_id = \"n\" }]\n\
         [[rules]]\nwhen = { ask = true }\nis = \"reply\"\nsend = { n = \"{request_id:json}\" }",
    );
    assert_eq!(sent(&interpreter.begin(Secrets::new())), [r#"{"n":1}"#]);
    assert_eq!(actions(&mut interpreter, r#"{"ask":true}"#), [r#"{"n":2}"#]);
    assert_eq!(actions(&mut interpreter, r#"{"n":1,"ok":true}"#), ["Ready"]);
}

#[test]
fn frame_whose_events_need_too_much_memory_is_malformed() {
    let mut interpreter = interpreter("events = \"list\"");
    interpreter.begin(Secrets::new());
    let frame = |around: usize, count: usize| {
        let list = vec![r#"{"id":1}"#; count].join(",");
        format!(r#"{{"x":"{}","list":[{list}]}}"#, "y".repeat(around))
    };
    for (around, count, is_bounded) in [
        (1, 65_536, true),
        (1, 65_537, false),
        (1 << 20, 60, true),
        (1 << 20, 70, false),
    ] {
        let (mut events, mut malformed) = (0, 0);
        interpreter.receive(&frame(around, count), &mut |action| match action {
            Action::Event(_) => events += 1,
            Action::Malformed(_, MalformedReason::TooManyEvents) => malformed += 1,
            other => panic!("{other:?}"),
        });
        let expected = if is_bounded { (count, 0) } else { (0, 1) };
        assert_eq!(
            (events, malformed),
            expected,
            "{around} bytes around {count} elements"
        );
    }
}

#[test]
fn event_that_answers_a_step_is_delivered_after_ready() {
    let mut interpreter = interpreter("open = [{ until = { id = 1 } }]");
    assert!(interpreter.begin(Secrets::new()).is_empty());
    assert_eq!(actions(&mut interpreter, r#"{"id":7}"#), [r#"{"id":7}"#]);
    assert_eq!(actions(&mut interpreter, r#"{"id":1}"#), ["Ready", r#"{"id":1}"#]);
}

#[test]
fn each_element_of_an_array_is_an_event_with_its_own_frame() {
    let mut interpreter = interpreter("events = \"a.list\"");
    interpreter.begin(Secrets::new());
    assert_eq!(
        actions(&mut interpreter, r#"{"a":{"list":[ {"id":1} , {"id":2}]},"b":3}"#),
        [
            r#"{"a":{"list":[{"id":1}]},"b":3}"#,
            r#"{"a":{"list":[{"id":2}]},"b":3}"#
        ]
    );
    // With one element, the frame is not copied.
    let one = r#"{"a":{"list":[ {"id":1} ]}}"#;
    assert_eq!(actions(&mut interpreter, one), [one]);
    assert_eq!(actions(&mut interpreter, r#"{"a":{"list":[]}}"#), ["Ignore"]);
    // A frame without the array contains no event.
    assert!(actions(&mut interpreter, r#"{"id":1}"#)[0].starts_with("Malformed"));
}

#[test]
fn acknowledgements_name_one_event_or_several() {
    let ack = |form: &str| {
        let mut interpreter = interpreter(&format!("ack = {{ value = \"id\", {form} }}"));
        let messages = interpreter.acknowledge(&["1", "\"b\"", "3"]);
        sent(&messages).join(" ")
    };
    assert_eq!(
        ack("send = { ok = \"{value:json}\" }"),
        r#"{"ok":1} {"ok":"b"} {"ok":3}"#
    );
    assert_eq!(ack("send = \"ack {value}\", cumulative = true"), "ack 3");
    assert_eq!(
        ack("send = [\"{values:json}\"], max_batch = 2"),
        r#"[[1,"b"]] [[3]]"#
    );
    assert!(interpreter("").acknowledge(&["1"]).is_empty());
}

#[test]
fn long_error_text_is_truncated() {
    let rule = "[[rules]]\nwhen = { e = { present = true } }\nis = \"error\"\ntext = \"e\"";
    let mut interpreter = interpreter(rule);
    let frame = format!(r#"{{"e":"{}"}}"#, "ü".repeat(100_000));
    let mut lengths = Vec::new();
    interpreter.receive(&frame, &mut |action| {
        if let Action::Error(text) = action {
            lengths.push(text.len());
        }
    });
    assert_eq!(lengths, [MAX_TEXT_BYTES]);
}
