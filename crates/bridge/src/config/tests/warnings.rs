//! Tests of warnings: unencrypted addresses, unknown fields, secrets in the file.

use super::*;

#[test]
fn unencrypted_address_is_risky_only_on_another_machine() {
    let is_risky = |url: &str| is_plain_remote(url, "ws");
    for url in [
        "ws://events.example.com/",
        "ws://10.0.0.1:80",
        "ws://localhost.example.com",
    ] {
        assert!(is_risky(url), "{url}");
    }
    for url in [
        "wss://events.example.com",
        "ws://localhost:1/",
        "ws://127.0.0.1:8765",
        "ws://[::1]:1/x",
    ] {
        assert!(!is_risky(url), "{url}");
    }
}

#[test]
fn unknown_field_is_reported_with_a_suggestion() {
    let filter = Filter::new([("resutl", ["new"]), ("space.id", ["1"]), ("feed", ["main"])]).unwrap();
    let mut found = Found {
        fields_are_known: true,
        origins: &BTreeMap::new(),
        warnings: Vec::new(),
    };
    found.of_filter("event", &filter);
    let message = "unknown field \"resutl\" (did you mean \"result\"?): events without it do not pass";
    assert_eq!(
        found.warnings,
        [Warning {
            key: "event.filter.resutl".to_owned(),
            origin: None,
            message: message.to_owned()
        }]
    );
}

#[test]
fn path_of_a_secret_file_is_not_a_secret() {
    assert!(is_secret("sources.main.token_from.credential"));
    assert!(is_secret("sources.main.token") && is_secret("sinks.kafka.sasl.password"));
    assert!(!is_secret("sources.main.token_file") && !is_secret("sinks.kafka.tls.key_file"));
}
