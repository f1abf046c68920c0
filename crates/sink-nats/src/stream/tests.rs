use neurobridge_core::{epoch::Epochs, identity::SpoolId};

use super::*;

fn stream(changes: Value) -> Stream {
    let mut stream = json!({
        "config": {
            "name": "ENTRIES", "subjects": ["neuroio.>"], "retention": "limits", "discard": "old", "storage": "file",
            "max_msgs": -1, "max_bytes": -1, "max_msgs_per_subject": -1, "max_msg_size": -1, "num_replicas": 3,
            "duplicate_window": 120_000_000_000_u64,
        },
        "state": { "messages": 0, "first_seq": 1, "last_seq": 0 },
        "cluster": { "name": "c" },
    });
    for (key, value) in changes.as_object().unwrap() {
        stream["config"][key] = value.clone();
    }
    serde_json::from_value(stream).unwrap()
}

fn config() -> NatsConfig {
    NatsConfig::new("localhost", "ENTRIES")
}

#[test]
fn safe_stream_has_no_warnings() {
    let stream = stream(json!({}));
    stream.check(&config()).unwrap();
    assert_eq!(stream.warnings(&config()), [""; 0]);
}

#[test]
fn risky_settings_have_warnings() {
    let stream = stream(json!({
        "subjects": ["neuroio.entries.*.*.new"], "retention": "interest", "max_msgs": 5, "max_bytes": 6, "storage": "memory",
        "num_replicas": 1, "duplicate_window": 2_000_000_000, "persist_mode": "async",
    }));
    insta::assert_snapshot!(stream.warnings(&config()).join("\n"));
    let mut strict = config();
    strict.order = Some(Order::Strict);
    assert_eq!(
        stream.warnings(&strict).len() + 1,
        stream.warnings(&config()).len()
    );
}

#[test]
fn unsuitable_stream_is_rejected() {
    let mut strict = config();
    strict.order = Some(Order::Strict);
    strict.dead_letter = Some(crate::DeadLetterConfig {
        subject: Some("neuroio.dead".into()),
        path: None,
    });
    for (changes, config, word) in [
        (
            json!({ "subjects": ["other.>"] }),
            config(),
            "expected \"neuroio.entries.*.*.*\"",
        ),
        (json!({ "subjects": null }), config(), "among them"),
        (
            json!({ "subjects": null, "mirror": { "name": "ORIGIN" } }),
            config(),
            "is a mirror of \"ORIGIN\" and accepts no messages",
        ),
        (json!({ "sealed": true }), config(), "sealed"),
        (json!({ "no_ack": true }), config(), "acknowledges nothing"),
        (json!({}), strict, "dead letters"),
    ] {
        let fault = stream(changes).check(&config).unwrap_err();
        assert!(fault.reason.contains(word), "{fault}");
    }
}

#[test]
fn created_stream_has_the_subjects_of_the_template() {
    let mut stream = StreamConfig::new("ENTRIES");
    stream.create = true;
    stream.max_age = Some(Duration::from_secs(60));
    stream.replicas = Some(1);
    insta::assert_snapshot!(creation(&config(), &stream), @r#"{"discard":"old","duplicate_window":60000000000,"max_age":60000000000,"max_bytes":-1,"max_consumers":-1,"max_msgs":-1,"max_msgs_per_subject":-1,"name":"ENTRIES","num_replicas":1,"retention":"limits","storage":"file","subjects":["neuroio.entries.*.*.*"]}"#);
}

#[test]
fn own_message_is_recognised_by_its_header() {
    let (spool, epochs) = (SpoolId::from_bytes([0x11; 16]), Epochs::default());
    let sequence = |sink, headers: &[u8]| {
        let owner = Owner {
            sink,
            spool: &spool,
            epochs: &epochs,
        };
        own_event(headers, &owner).map(|own| own.sequence.get())
    };
    let headers = b"NATS/1.0\r\nNats-Msg-Id: main/7\r\nNeurobridge-Chain: nats/11111111-1111-1111-1111-111111111111/5:00000000000000000042\r\n\r\n";
    assert_eq!(sequence("nats", headers), Some(42));
    assert_eq!(sequence("other", headers), None);
    assert_eq!(sequence("nats", b"NATS/1.0\r\nNats-Msg-Id: main/7\r\n\r\n"), None);
}
