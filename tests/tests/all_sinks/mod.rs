//! One spool with all types of sinks at once, each with its own speed, filter and redaction: Kafka, a JetStream stream
//! in strict order, core NATS, and a file.

mod complete;
mod crash;
mod outages;

use std::time::Duration;

use neurobridge_tests::platform::Sent;
use neurobridge_tests::status::Status;
use serde_json::Value;

/// The time limit of each wait: far longer than any wait of these tests takes on two busy cores.
const LIMIT: Duration = Duration::from_secs(300);

const STREAM: &str = "ENTRIES";

/// Returns the tables of a JetStream sink in strict order that creates its stream. The duplicate window is the shortest
/// that a server accepts, so that the order cannot depend on the window.
fn stream_sink(name: &str, url: &str, stream: &str, more: &str) -> String {
    format!(
        r#"
        [sinks.{name}]
        type = "nats"
        servers = ["{url}"]
        {more}

        [sinks.{name}.stream]
        name = "{stream}"
        create = true
        max_age = "1h"
        replicas = 1
        duplicate_window = "100ms"
        "#
    )
}

/// Returns the number of events that a sink has settled, with any outcome.
fn settled(status: &Status, sink: &str) -> u64 {
    let ledger = &status.sink(sink).ledger;
    ledger.stored - ledger.pending
}

/// Returns the events that a sink with this filter and this redaction must deliver.
fn expected(sent: &[Sent], results: &[&str], redacted: &[&str]) -> Vec<Sent> {
    sent.iter()
        .filter(|event| {
            let entry: Value = serde_json::from_str(&event.data).unwrap();
            results.contains(&entry["result"].as_str().unwrap())
        })
        .map(|event| Sent {
            data: without(&event.data, redacted),
            frame: without(&event.frame, redacted),
            ..event.clone()
        })
        .collect()
}

/// Replaces the values of these fields with null in the text. Supports only the values that the simulator writes:
/// numbers, null, and strings without quotation marks.
fn without(json: &str, fields: &[&str]) -> String {
    let mut json = json.to_owned();
    for field in fields {
        let name = format!("\"{field}\":");
        let mut from = 0;
        while let Some(at) = json[from..].find(&name) {
            let start = from + at + name.len();
            let value = &json[start..];
            let length = match value.strip_prefix('"') {
                Some(text) => text.find('"').unwrap() + 2,
                None => value.find([',', '}']).unwrap(),
            };
            json.replace_range(start..start + length, "null");
            from = start;
        }
    }
    json
}

#[test]
fn expected_body_replaces_only_the_redacted_fields() {
    let json = r#"{"id":1,"data":{"pid":"a","full_image":"x","initial_full_image":"y","age":5}}"#;
    assert_eq!(
        without(json, &["full_image", "age"]),
        r#"{"id":1,"data":{"pid":"a","full_image":null,"initial_full_image":"y","age":null}}"#
    );
}
