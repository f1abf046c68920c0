use neurobridge_core::{event::Sequence, sink_type::SinkConfig, strip::Stripped, testing};
use proptest::prelude::*;

use super::*;

fn event(sequence: u64, frame: &str) -> Event<'_> {
    Event {
        sequence: Sequence::new(sequence).unwrap(),
        received_at: "2026-01-02T03:04:06Z".parse().unwrap(),
        ..testing::event(frame)
    }
}

const FRAME: &str = r#"{"id":7,"data":{"id":7,"created":"2026-01-02T03:04:05Z","result":"new","pid":"2f1c","source":{"id":3,"name":"Tür"},"space":{"id":5,"name":"a b"},"face_image":"https://x/y.jpg","später":[1]}}"#;

fn spool() -> SpoolId {
    SpoolId::from_bytes([0x11; 16])
}

fn config(format: Format) -> NatsConfig {
    let mut config = NatsConfig::new("localhost", "ENTRIES");
    config.format = format;
    config
}

#[test]
fn event_is_encoded_in_each_format() {
    for (name, format) in [
        ("cloudevents", Format::Cloudevents),
        ("cloudevents_json", Format::CloudeventsJson),
        ("raw", Format::Raw),
    ] {
        insta::assert_snapshot!(name, config(format).preview(&event(42, FRAME), &spool()));
    }
}

#[test]
fn message_in_core_mode_has_no_message_id() {
    let mut config = config(Format::Raw);
    config.mode = Mode::Core;
    assert!(!config.preview(&event(42, FRAME), &spool()).contains(MESSAGE_ID));
}

#[test]
fn missing_fields_are_unknown_in_the_subject() {
    insta::assert_snapshot!(
        config(Format::Cloudevents).preview(&event(42, r#"{"data":{"result":null}}"#), &spool())
    );
}

#[test]
fn stripped_event_is_marked_in_each_format() {
    for (name, format) in [
        ("stripped_cloudevents", Format::Cloudevents),
        ("stripped_cloudevents_json", Format::CloudeventsJson),
        ("stripped_raw", Format::Raw),
    ] {
        let event = event(42, FRAME);
        let stripped = Stripped::of(&event).unwrap();
        let event = stripped.event(&event);
        let mut encoder = Encoder::new(&config(format));
        let message = encoder.encode(&event, &spool(), Some(&stripped.fields)).unwrap();
        insta::assert_snapshot!(name, message.describe());
    }
}

#[test]
fn ids_with_line_breaks_add_no_headers() {
    let frame = r#"{"id":"7\r\nNats-Rollup: all","data":{"result":"a\nb"}}"#;
    insta::assert_snapshot!(config(Format::Cloudevents).preview(&event(1, frame), &spool()));
}

#[test]
fn size_counts_the_bytes_on_the_wire() {
    let event = event(42, FRAME);
    let mut encoder = Encoder::new(&config(Format::Cloudevents));
    let message = encoder.encode(&event, &spool(), None).unwrap();
    let lines: usize = message.headers.lines().lines().map(|line| line.len() + 2).sum();
    assert_eq!(message.headers.size(), lines + "NATS/1.0\r\n\r\n".len());
}

#[test]
fn messages_that_would_close_the_connection_are_rejected() {
    let long = "y".repeat(2000);
    let frame = format!(r#"{{"id":1,"data":{{"space":{{"id":"{long}"}}}}}}"#);
    let rejection = Encoder::new(&config(Format::Raw))
        .encode(&event(1, &frame), &spool(), None)
        .unwrap_err();
    assert_eq!(rejection.reason, RejectionReason::Unroutable);

    let long = "y".repeat(70_000);
    let frame = format!(r#"{{"id":"{long}","data":{{}}}}"#);
    let rejection = Encoder::new(&config(Format::Raw))
        .encode(&event(1, &frame), &spool(), None)
        .unwrap_err();
    assert_eq!(rejection.reason, RejectionReason::TooLarge);
}

#[test]
fn dead_letter_has_its_own_id() {
    let rejected = DeadLetter {
        sequence: Sequence::new(42).unwrap(),
        json: "{}",
    };
    insta::assert_snapshot!(dead_letter("dead", &rejected, "nats", &spool(), Mode::Jetstream).describe(), @r"
    subject: dead
    Nats-Msg-Id: dead-letter/nats/11111111-1111-1111-1111-111111111111:42
    content-type: application/json

    {}
    ");
}

proptest! {
    #[test]
    fn rendered_subject_is_always_valid(value in any::<String>()) {
        let frame = serde_json::json!({ "id": value, "data": { "x": value, "result": value } }).to_string();
        let mut config = config(Format::Cloudevents);
        config.subject = "{x}.a-{x}.{id}".parse().unwrap();
        if let Ok(message) = Encoder::new(&config).encode(&event(1, &frame), &spool(), None) {
            prop_assert_eq!(subject::error_of(&message.subject, false), None);
            prop_assert!(subject::covers(&subject::pattern(&config.subject), &message.subject));
        }
    }
}
