//! Tests of the configuration errors of declarations.

use crate::{Declaration, Interpreter};

const RULES: &str = "[[rules]]\nwhen = { type = \"x\" }\nis = \"event\"\n";

/// Returns the errors of a declaration, one in each line.
fn errors(head: &str, tail: &str) -> String {
    let text = format!("{head}\n{RULES}{tail}");
    let declaration: Declaration = toml::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
    match Interpreter::new(declaration, &[]) {
        Ok(_) => String::new(),
        Err(errors) => errors
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n"),
    }
}

#[test]
fn each_error_is_explained_at_its_key() {
    for (head, tail, expected) in [
        ("", "", ""),
        (
            "url = \"https://h\"",
            "",
            "url: found the scheme https://, expected wss://host",
        ),
        (
            "url = \"wss://u:hunter2@h\"",
            "",
            "url: found a user or password in the URL, expected wss://",
        ),
        (
            "secrets = { a = {} }",
            "",
            "secrets.a: missing: expected one of the keys \"file\"",
        ),
        (
            "secrets = { a = { file = \"f\", variable = \"V\" } }",
            "",
            "secrets.a: found several sources, expected one",
        ),
        (
            "secrets = { a = { value = \" \" } }",
            "",
            "secrets.a.value: found an empty secret",
        ),
        (
            "secrets = { \"a b\" = { file = \"f\" } }",
            "",
            "secrets.a b: found the name \"a b\", expected letters",
        ),
        (
            "secrets = { token = { file = \"f\" } }\nrequest = { headers = { A = \"{secret.tokn}\" } }",
            "",
            "request.headers.A: found {secret.tokn}, an unknown secret (did you mean \"token\"?), expected",
        ),
        (
            "request = { headers = { \"a b\" = \"x\" } }",
            "",
            "request.headers.a b: found an invalid header name",
        ),
        (
            "request = { headers = { Sec-WebSocket-Protocol = \"x\" } }",
            "",
            "request.headers.Sec-WebSocket-Protocol: found \"Sec-WebSocket-Protocol\", expected \"request.subprotocols\" instead",
        ),
        (
            "request = { headers = { A = \"x\\ny\" } }",
            "",
            "request.headers.A: found a control character",
        ),
        (
            "request = { query = { a = \"{request_id}\" } }",
            "",
            "request.query.a: found {request_id}, which is valid only in messages",
        ),
        (
            "request = { subprotocols = [\"a b\"] }",
            "",
            "request.subprotocols.0: found \"a b\", expected the name",
        ),
        (
            "open = [{}]",
            "",
            "open.0.until: missing: expected a message to send",
        ),
        (
            "open = [{ send = \"x\", refused = { a = 1 } }]",
            "",
            "open.0.refused: found without \"until\", expected the answer",
        ),
        (
            "open = [{ until = { a = 1 }, refused_text = \"b\" }]",
            "",
            "open.0.refused_text: found without \"refused\", expected",
        ),
        (
            "open = [{ send = { id = 1 }, until = { a = 1 }, answer_id = \"id\" }]",
            "",
            "open.0.answer_id: found without a request id, expected {request_id} in \"send\"",
        ),
        (
            "open = [{ until = { a = 1 }, timeout = \"1ms\" }]",
            "",
            "open.0.timeout: found \"1ms\", expected \"10ms\" to \"1d\"",
        ),
        (
            "heartbeat = { send = \"x\", websocket = true }",
            "",
            "heartbeat.websocket: found together with \"send\"",
        ),
        (
            "heartbeat = { answer = \"x\" }",
            "",
            "heartbeat.answer: found without \"send\", expected",
        ),
        (
            "heartbeat = { send = { id = \"{value}\" } }",
            "",
            "heartbeat.send: found {value}, which is valid only in \"ack.send\"",
        ),
        (
            "",
            "[[rules]]\nis = \"ignore\"\n[[rules]]\nis = \"alive\"",
            "rules.2: unreachable: rules.1 matches everything",
        ),
        (
            "",
            "[[rules]]\nwhen = { a = 1 }\nframe = \"x\"\nis = \"alive\"",
            "rules.1.frame: found together with \"when\"",
        ),
        (
            "",
            "[[rules]]\nframe = \"x\"\nis = \"event\"",
            "rules.1.frame: found in a rule for events, expected \"when\"",
        ),
        (
            "",
            "[[rules]]\nis = \"ignore\"\ntext = \"x\"",
            "rules.1.text: found in a rule without an error",
        ),
        (
            "",
            "[[rules]]\nis = \"reply\"",
            "rules.1.send: missing: expected the reply",
        ),
        (
            "",
            "[[rules]]\nis = \"alive\"\nsend = \"x\"",
            "rules.1.send: found in a rule without a reply",
        ),
        (
            "",
            "[event]\nid = [\"a\",\"b\",\"c\",\"d\",\"e\",\"f\",\"g\",\"h\",\"i\",\"j\",\"k\",\"l\",\"m\",\"n\",\"o\",\"p\",\"q\"]",
            "event.id: found 17 paths, expected 4 or fewer",
        ),
        (
            "",
            "[resume]\nvalue = \"t\"\nquery = \"cursor\"\nrewind = \"5s\"",
            "resume.unit: missing: a rewind by a time needs the unit of the value, expected one of \"rfc3339\", \"s\"",
        ),
        (
            "request = { query = { cursor = 1 } }",
            "[resume]\nvalue = \"t\"\nquery = \"cursor\"",
            "resume.query: found \"cursor\", which \"request.query\" also contains",
        ),
        (
            "",
            "[ack]\nvalue = \"id\"\nsend = { a = 1 }",
            "ack.send: found no value of the event, expected",
        ),
        (
            "",
            "[ack]\nvalue = \"id\"\nsend = { a = \"{values:json}\" }\ncumulative = true",
            "ack.cumulative: found together with {values:json}, expected {value}",
        ),
        (
            "",
            "[ack]\nvalue = \"id\"\nsend = \"{value}\"\nmax_batch = 0",
            "ack.max_batch: found 0, expected 1 to 10000",
        ),
        (
            "max_age = \"1s\"",
            "",
            "max_age: found \"1s\", expected \"1m\" to \"30d\"",
        ),
    ] {
        let found = errors(head, tail);
        assert!(!found.contains("hunter2"), "{found}");
        assert!(
            found.starts_with(expected) && found.is_empty() == expected.is_empty() && !found.contains('\n'),
            "{head} {tail}: {found}"
        );
    }
}

#[test]
fn declaration_without_events_is_refused() {
    let declaration: Declaration = toml::from_str("[[rules]]\nis = \"ignore\"").unwrap();
    let errors = Interpreter::new(declaration, &[]).unwrap_err();
    assert_eq!(
        errors[0].to_string(),
        "rules: found no rule for events, expected at least one with is = \"event\""
    );
}

#[test]
fn value_of_an_invalid_form_is_explained() {
    for (text, sentence) in [
        (
            "[event]\nid = []",
            "found an empty list, expected a path such as \"id\", or a list of paths",
        ),
        (
            "[event]\nid = \"a..b\"",
            "found \"a..b\", expected a path such as",
        ),
        (
            "[event]\ntime = 7",
            "found 7, expected the path of a time in RFC 3339, or { path",
        ),
        (
            "[event]\ntime = { path = \"ts\", unit = \"min\" }",
            "unknown variant `min`, expected one of `rfc3339`",
        ),
        (
            "[event]\nkind = \"x\"",
            "unknown field `kind`, expected one of `id`",
        ),
        ("events = \"$x\"", "found \"$x\", expected a path"),
        (
            "open = [{ send = 1 }]",
            "found 1, expected a table for a message in JSON, or a text",
        ),
        (
            "open = [{ until = {} }]",
            "found an empty table, expected at least one field",
        ),
        (
            "heartbeat = { send = \"x\", answer = [1] }",
            "found a list, expected conditions such as",
        ),
        (
            "resume = { value = \"t\", query = \"c\", rewind = -1 }",
            "found -1, expected a time such as \"5s\", or a whole number",
        ),
        (
            "request = { query = { a = { b = 1 } } }",
            "found a table, expected a text, or a list of texts",
        ),
        (
            "rules = [{ is = \"evnt\" }]",
            "unknown variant `evnt`, expected one of `event`",
        ),
    ] {
        let error = toml::from_str::<Declaration>(text).unwrap_err().to_string();
        assert!(error.contains(sentence), "{text}: {error}");
    }
}

#[test]
fn every_key_has_its_explanation_in_the_schema() {
    let schema = schemars::schema_for!(Declaration).to_value();
    let mut count = 0;
    let definitions = schema["$defs"].as_object().unwrap().values();
    for definition in definitions.chain([&schema]) {
        let Some(properties) = definition["properties"].as_object() else {
            continue;
        };
        for (key, property) in properties {
            count += 1;
            assert!(property["description"].is_string(), "{key}");
        }
    }
    assert!(count > 40, "{count}");
}
