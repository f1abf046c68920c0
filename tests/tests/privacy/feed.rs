//! The feed of this test: events and other messages, with the secrets that must not appear anywhere.

use data_encoding::BASE64;
use serde_json::{Value, json};

use super::known::Known;
use super::platform::Step;

pub(crate) const NAME: &str = "Zoë Ångström-Müller";
pub(crate) const PERSON: &str = "5f0c3a77-9d1b-4e62-8a34-c1d2e3f4a5b6";
pub(crate) const TOKEN: &str = "tok-4Yq/8sHk2+VwPz0";
pub(crate) const PASSWORD: &str = "pässword-of-a-broker-0815";
pub(crate) const PROXY_PASSWORD: &str = "proxypassword0816";
pub(crate) const PSEUDONYM_KEY: &str = "f3a9c5e7d1b2408697a5b4c3d2e1f00112233445566778899aabbccddeeff00";
/// A value that is redacted for only one sink.
pub(crate) const MEMO: &str = "was seen with the dog of the neighbours";

/// The size of an event in bytes: larger than the limit of the topic and smaller than the limit of NATS.
pub(crate) const TOO_LARGE_FOR_THE_TOPIC: usize = 200_000;
pub(crate) const MAX_FRAME_BYTES: usize = 1 << 20;

/// Returns the bytes of a picture: pseudo-random, the same at each call.
pub(crate) fn picture() -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()
    };
    (0..500).flat_map(|_| next()).collect()
}

/// Returns the secrets that must not appear anywhere.
pub(crate) fn secrets() -> Vec<Known> {
    vec![
        // The picture as bytes; the search covers its base64 form.
        Known::new("the picture", picture()),
        Known::new("the name", NAME),
        Known::new("the person", PERSON),
        Known::new("the token", TOKEN),
        Known::new("the password of a broker", PASSWORD),
        Known::new("the password of a proxy", PROXY_PASSWORD),
        Known::new("the key of the pseudonyms", PSEUDONYM_KEY),
    ]
}

fn entry(id: u64) -> Value {
    let picture = BASE64.encode(&picture());
    json!({
        "id": id,
        "created": "2026-02-03T04:05:06.789Z",
        "result": "new",
        "pid": PERSON,
        "source": { "id": 7, "name": NAME },
        "space": { "id": 3, "name": NAME },
        "face_image": picture,
        "full_image": format!("data:image/jpeg;base64,{picture}"),
        "person": { "name": NAME, "initial_face_image": [picture, { "full_image": picture }] },
        "seen": [{ "pid": PERSON, "name": NAME }],
        "memo": MEMO,
    })
}

fn frame(id: u64, data: &Value) -> String {
    json!({ "id": id, "data": data }).to_string()
}

/// Returns events that the platform sends, and unusual ones that it could send.
pub(crate) fn events() -> Vec<String> {
    let mut large = entry(2);
    large["filler"] = "x".repeat(TOO_LARGE_FOR_THE_TOPIC).into();
    let escaped = frame(3, &entry(3))
        .replace("\"pid\"", r#""p\u0069d""#)
        .replace("\"name\"", r#""nam\u0065""#)
        .replace("ë", r"\u00eb")
        .replace("face_image", r"face\u005fimage");
    let mut other = entry(1);
    other["age"] = 40.into();
    let twice = frame(4, &entry(4)).replacen("\"data\":{", &format!("\"data\":{{\"pid\":\"{PERSON}\","), 1);
    let mut numbered = entry(5);
    numbered["pid"] = json!({ "is": PERSON });
    vec![
        frame(1, &entry(1)),
        frame(2, &large),
        escaped,
        // An event with the same id and another body.
        frame(1, &other),
        twice,
        frame(5, &numbered),
        // Events without an id, over several lines, and with additional fields outside the entry.
        json!({ "data": entry(6), "pid": PERSON, "meta": { "name": NAME } }).to_string(),
        serde_json::to_string_pretty(&json!({ "id": 7, "data": entry(7) })).unwrap(),
    ]
}

/// Returns messages that are not events; they become dead letters without their text.
pub(crate) fn no_events() -> Vec<String> {
    let whole = frame(8, &entry(8));
    vec![
        whole[..whole.len() - 2].to_owned(),
        format!("{whole}}}"),
        format!("{PERSON} {NAME}"),
        json!(NAME).to_string(),
        entry(9).to_string(),
        json!({ "id": 10, "data": [entry(10)] }).to_string(),
        json!({ "id": 11, "data": PERSON }).to_string(),
    ]
}

/// Returns the platform's steps for each successive connection.
pub(crate) fn scripts() -> Vec<Vec<Step>> {
    let text = |text: &str| Step::Text(text.to_owned());
    let authenticated = || text(r#"{"auth":"ok"}"#);
    let texts = |frames: Vec<String>| frames.into_iter().map(Step::Text);
    let mut good = vec![authenticated()];
    good.extend(texts(events()));
    good.push(Step::Close(format!("not with {TOKEN}")));
    let mut bad = vec![authenticated()];
    bad.extend(texts(no_events()));
    bad.push(Step::Binary(picture()));
    bad.push(Step::Text(
        json!({ "error": format!("what is {TOKEN}?"), "entry": entry(12) }).to_string(),
    ));
    bad.push(Step::Text(json!({ "PING": TOKEN }).to_string()));
    let mut no_text = format!("{PERSON}{NAME}").into_bytes();
    no_text.insert(50, 0xff);
    let mut too_large = entry(13);
    too_large["filler"] = "x".repeat(MAX_FRAME_BYTES).into();
    vec![
        vec![Step::Text(
            json!({ "error": format!("Invalid token {TOKEN}") }).to_string(),
        )],
        vec![Step::Text(
            json!({ "auth": format!("never, {TOKEN}") }).to_string(),
        )],
        good,
        bad,
        vec![authenticated(), Step::BrokenText(no_text)],
        vec![authenticated(), Step::Text(frame(13, &too_large))],
        vec![authenticated(), Step::Text(last())],
    ]
}

/// Returns the last event, which every later connection repeats.
pub(crate) fn last() -> String {
    frame(99, &entry(99))
}
