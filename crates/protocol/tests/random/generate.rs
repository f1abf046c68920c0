//! Random declarations and frames from a small vocabulary, so that conditions often hold.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

pub(crate) fn scalar() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!("a"),
        json!("b/%"),
        json!("x\"ü"),
        json!(""),
        json!(1),
        json!(2),
        json!("2"),
        json!(u64::MAX),
        json!(1_769_860_800_250_i64),
        json!("1769860800250"),
        json!("2026-01-31T12:00:00Z"),
        json!(true),
    ])
}

fn key() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "data", "id", "type", "0"])
}

fn json_value() -> impl Strategy<Value = Value> {
    prop_oneof![6 => scalar(), 1 => Just(Value::Null)].prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            2 => prop::collection::btree_map(key().prop_map(str::to_owned), inner, 0..5)
                .prop_map(|keys| Value::Object(Map::from_iter(keys))),
        ]
    })
}

/// A frame: JSON, or a string with a text that is not JSON.
pub(crate) fn frame() -> impl Strategy<Value = Value> {
    let element = || prop::collection::vec(json_value(), 0..4).prop_map(Value::from);
    prop_oneof![
        1 => prop::sample::select(vec!["ping", "pong", "", "{", "[1,]", "7 7"]).prop_map(Value::from),
        3 => prop::collection::btree_map(key().prop_map(str::to_owned), json_value(), 0..5)
            .prop_map(|keys| Value::Object(Map::from_iter(keys))),
        2 => (json_value(), element()).prop_map(|(type_, data)| json!({ "type": type_, "data": data })),
        2 => element(),
        1 => json_value().prop_filter("a string is a text that is not JSON", |value| !value.is_string()),
    ]
}

fn path() -> impl Strategy<Value = String> {
    let steps = || prop::collection::vec(key(), 1..3).prop_map(|steps| steps.join("."));
    prop_oneof![
        4 => steps(),
        1 => steps().prop_map(|steps| format!("$.{steps}")),
        1 => Just("$".to_owned()),
    ]
}

fn paths() -> impl Strategy<Value = Value> {
    prop_oneof![
        path().prop_map(Value::from),
        prop::collection::vec(path(), 1..3).prop_map(Value::from),
    ]
}

fn when() -> impl Strategy<Value = Value> {
    let condition = prop_oneof![
        scalar(),
        prop::collection::vec(scalar(), 1..3).prop_map(Value::from),
        any::<bool>().prop_map(|is_present| json!({ "present": is_present })),
        scalar().prop_map(|value| json!({ "not": value })),
    ];
    prop::collection::btree_map(path(), condition, 1..3)
        .prop_map(|fields| Value::Object(Map::from_iter(fields)))
}

fn message() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!("ping"),
        json!("hello {secret.s} {request_id} { x }"),
        json!({ "op": "subscribe", "list": [1, null, "{x}"] }),
        json!({ "id": "{request_id}", "token": ["{secret.s}"] }),
        json!({ "id": "{request_id:json}" }),
        json!(["{secret.s:json}", "a \" {request_id}"]),
    ])
}

/// Returns a table of the entries that have a value.
fn table(entries: impl IntoIterator<Item = (&'static str, Option<Value>)>) -> Value {
    entries
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .collect::<Map<_, _>>()
        .into()
}

fn step() -> impl Strategy<Value = Value> {
    let answered = (
        prop::option::of(message()),
        when(),
        prop::option::of(when()),
        prop::option::of(path()),
        prop::option::of(path()),
    );
    prop_oneof![
        1 => message().prop_map(|send| json!({ "send": send })),
        3 => answered.prop_map(|(send, until, refused, text, id)| {
            let has_id = send.as_ref().is_some_and(|send| send.to_string().contains("{request_id"));
            table([
                ("send", send),
                ("until", Some(until)),
                ("refused_text", text.filter(|_| refused.is_some()).map(Value::from)),
                ("refused", refused),
                ("answer_id", id.filter(|_| has_id).map(Value::from)),
            ])
        }),
    ]
}

fn heartbeat() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({})),
        Just(json!({ "websocket": true })),
        message().prop_map(|send| json!({ "send": send, "answer": "pong" })),
        (message(), when()).prop_map(|(send, answer)| json!({ "send": send, "answer": answer })),
    ]
}

fn rule() -> impl Strategy<Value = Value> {
    let meaning = prop_oneof![
        3 => Just(("event", None, None)),
        1 => Just(("ignore", None, None)),
        1 => Just(("alive", None, None)),
        2 => prop::option::of(path()).prop_map(|text| ("error", text.map(Value::from), None)),
        1 => prop::option::of(path()).prop_map(|text| ("end", text.map(Value::from), None)),
        1 => message().prop_map(|send| ("reply", None, Some(send))),
    ];
    (
        meaning,
        when(),
        prop::sample::select(vec!["ping", "pong", "{"]),
        any::<bool>(),
    )
        .prop_map(|((is, text, send), when, frame, is_plain)| {
            let is_plain = is_plain && is != "event";
            table([
                ("is", Some(is.into())),
                ("text", text),
                ("send", send),
                ("when", Some(when).filter(|_| !is_plain)),
                ("frame", Some(frame.into()).filter(|_| is_plain)),
            ])
        })
}

fn event() -> impl Strategy<Value = Value> {
    let unit = prop::sample::select(vec!["rfc3339", "s", "ms", "us", "ns"]);
    let time = (path(), unit).prop_map(|(path, unit)| json!({ "path": path, "unit": unit }));
    let fields = (
        prop::option::of(paths()),
        prop::option::of(prop_oneof![path().prop_map(Value::from), time]),
        prop::option::of(path()),
        prop::option::of(paths()),
        prop::option::of(path()),
    );
    fields.prop_map(|(id, time, kind, key, body)| {
        table([
            ("id", id),
            ("time", time),
            ("type", kind.map(Value::from)),
            ("key", key),
            ("body", body.map(Value::from)),
        ])
    })
}

fn ack() -> impl Strategy<Value = Value> {
    let form = prop::sample::select(vec![
        json!({ "send": { "ack": "{value:json}" } }),
        json!({ "send": "ack {value}", "cumulative": true }),
        json!({ "send": { "ids": "{values:json}", "n": "{request_id:json}" }, "max_batch": 2 }),
    ]);
    (path(), form).prop_map(|(path, mut form)| {
        form["value"] = path.into();
        form
    })
}

/// A valid declaration.
pub(crate) fn declaration() -> impl Strategy<Value = Value> {
    let events = prop::option::of(prop::sample::select(vec!["$", "data", "a.data", "$.data"]));
    let resume = path().prop_map(|value| json!({ "value": value, "query": "cursor" }));
    (
        events,
        prop::collection::vec(step(), 0..3),
        heartbeat(),
        prop::collection::vec(rule(), 0..4),
        any::<bool>(),
        event(),
        prop::option::of(resume),
        prop::option::of(ack()),
    )
        .prop_map(
            |(events, open, heartbeat, mut rules, adds_catch_all, event, resume, ack)| {
                let has_event = rules.iter().any(|rule| rule["is"] == "event");
                if adds_catch_all || !has_event {
                    rules.push(json!({ "is": if has_event { "ignore" } else { "event" } }));
                }
                table([
                    ("secrets", Some(json!({ "s": { "variable": "S" } }))),
                    ("events", events.map(Value::from)),
                    ("open", Some(open.into())),
                    ("heartbeat", Some(heartbeat)),
                    ("rules", Some(rules.into())),
                    ("event", Some(event)),
                    ("resume", resume),
                    ("ack", ack),
                ])
            },
        )
}
