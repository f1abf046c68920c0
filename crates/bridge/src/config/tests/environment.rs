//! Tests of keys from environment variables.

use serde_json::{Value, json};

use crate::config::{
    document::{Document, KeyOrigin},
    report::{Problem, Report},
    shape::Shape,
};

fn read(variables: &[(&str, &str)]) -> (Document, Report) {
    let schema = json!({ "type": "object", "properties": {
        "token": { "type": "string" },
        "max": { "type": "integer" },
        "names": { "type": "array", "items": { "type": "string" } },
        "proxy": { "type": ["string", "null"] },
        "tls": { "type": "object", "properties": { "key_file": { "type": "string" } } },
    } });
    let (mut document, mut report) = (Document::default(), Report::default());
    let variables = variables
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()));
    crate::config::environment::read(variables, &Shape::root(&schema), &mut document, &mut report);
    (document, report)
}

fn values(variables: &[(&str, &str)]) -> Value {
    Value::Object(read(variables).0.values)
}

#[test]
fn value_is_parsed_unless_the_key_expects_a_text() {
    for token in ["007", "true", "[x]", "{x}", " a ", "\"q\"", "1.50", ""] {
        assert_eq!(
            values(&[("NEUROBRIDGE__TOKEN", token)]),
            json!({ "token": token })
        );
    }
    assert_eq!(values(&[("NEUROBRIDGE__MAX", "7")]), json!({ "max": 7 }));
    assert_eq!(
        values(&[("NEUROBRIDGE__NAMES", "[a, b]")]),
        json!({ "names": ["a", "b"] })
    );
    assert_eq!(
        values(&[("NEUROBRIDGE__PROXY", "none")]),
        json!({ "proxy": "none" })
    );
}

#[test]
fn variables_of_kubernetes_are_ignored() {
    let (document, report) = read(&[
        ("NEUROBRIDGE_PORT", "tcp://10.0.0.1:9797"),
        ("NEUROBRIDGE_SERVICE_HOST", "10.0.0.1"),
        ("NEUROBRIDGE_PORT_9797_TCP_ADDR", "10.0.0.1"),
    ]);
    assert!(document.values.is_empty() && report.problems().is_empty());
}

#[test]
fn key_with_single_underscores_in_a_variable_is_reported() {
    let schema = crate::config::schema();
    let mut document = Document::default();
    let mut report = Report::default();
    let names = [
        "NEUROBRIDGE_SINKS_KAFKA_EU_BOOTSTRAP_SERVERS",
        "NEUROBRIDGE_SOURCES_MAIN_TOKEN",
        "NEUROBRIDGE_DATA_DIR",
        "neurobridge_http_listen",
        // Not reported: two variables that Kubernetes sets for other services, a table, a valid variable, and no key.
        "NEUROBRIDGE_HTTP_SERVICE_HOST",
        "NEUROBRIDGE_SINKS_PORT_9797_TCP_PROTO",
        "NEUROBRIDGE_SINKS",
        "NEUROBRIDGE__HTTP__LISTEN",
        "NEUROBRIDGE_",
    ];
    let variables = names.map(|name| (name.into(), "127.0.0.1:1".into()));
    crate::config::environment::read(variables, &Shape::root(&schema), &mut document, &mut report);
    let suggested = |problem: &Problem| problem.message.rsplit(' ').next().map(str::to_owned);
    let suggested: Vec<_> = report.problems().iter().filter_map(suggested).collect();
    assert_eq!(
        suggested,
        [
            "NEUROBRIDGE__DATA_DIR",
            "NEUROBRIDGE__SINKS__KAFKA_EU__BOOTSTRAP_SERVERS",
            "NEUROBRIDGE__SOURCES__MAIN__TOKEN",
            "NEUROBRIDGE__HTTP__LISTEN",
        ]
    );
    assert_eq!(
        Value::Object(document.values),
        json!({ "http": { "listen": "127.0.0.1:1" } })
    );
}

#[test]
fn variable_with_an_empty_key_is_an_error() {
    for name in ["NEUROBRIDGE__", "NEUROBRIDGE____TOKEN", "NEUROBRIDGE__TOKEN__"] {
        let (document, report) = read(&[(name, "x")]);
        assert!(document.values.is_empty());
        assert!(
            report
                .to_string()
                .contains(&format!("environment variable {name}")),
            "{report}"
        );
    }
}

#[test]
fn empty_file_path_in_a_variable_is_reported_with_its_name() {
    let (_, report) = read(&[("NEUROBRIDGE__TLS__KEY_FILE", "")]);
    let report = report.to_string();
    assert!(report.contains("tls.key_file: found an empty value"), "{report}");
    assert!(
        report.contains("environment variable NEUROBRIDGE__TLS__KEY_FILE"),
        "{report}"
    );
}

#[test]
fn array_in_a_variable_replaces_value_and_origins_of_the_file() {
    let schema = crate::config::schema();
    let shape = Shape::root(&schema);
    let text = "[event]\nredact = [\"a\", \"b\"]\n";
    let mut document = Document::parse("n.toml".as_ref(), text, &shape).unwrap();
    let variables = [("NEUROBRIDGE__EVENT__REDACT".into(), "[7]".into())];
    crate::config::environment::read(variables, &shape, &mut document, &mut Report::default());
    assert_eq!(
        Value::Object(document.values),
        json!({ "event": { "redact": [7] } })
    );
    let origins = document.key_origins.values();
    assert_eq!(
        origins
            .filter(|origin| matches!(origin, KeyOrigin::Variable(_)))
            .count(),
        1
    );
    assert_eq!(document.key_origins.len(), 2);
}
