//! One spool, all kinds of sinks at once, each at its own pace and with its own filter and redaction: Kafka, a JetStream
//! stream in strict order, core NATS, and a file.

mod complete;
mod crash;
mod outages;

use std::time::Duration;

use neurobridge_tests::platform::Sent;
use neurobridge_tests::status::Status;
use serde_json::Value;

/// Far more than anything here needs on two busy cores.
const LIMIT: Duration = Duration::from_secs(300);

const STREAM: &str = "ENTRIES";

/// A JetStream sink's tables: strict order, since it creates its stream; the window is the shortest that a server takes,
/// so that the order does not rest on it.
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

/// How many events a sink is through with, whatever became of them.
fn settled(status: &Status, sink: &str) -> u64 {
    let ledger = &status.sink(sink).ledger;
    ledger.stored - ledger.pending
}

/// What a sink with this filter and this redaction is to deliver of what was sent.
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

/// The very text, but null for the values of these fields. It knows only what the simulator writes: numbers, null, and
/// strings without a quote in them.
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
fn the_expectation_is_right_itself() {
    let json = r#"{"id":1,"data":{"pid":"a","full_image":"x","initial_full_image":"y","age":5}}"#;
    assert_eq!(
        without(json, &["full_image", "age"]),
        r#"{"id":1,"data":{"pid":"a","full_image":null,"initial_full_image":"y","age":null}}"#
    );
}
