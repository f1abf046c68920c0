//! Tests of the hash, with each type of sink that members share.
#![cfg(all(feature = "kafka", feature = "nats"))]

use std::fs;

use super::*;
use crate::config;

/// Returns the hash of a configuration, after these replacements in its text.
async fn hash(replacements: &[(&str, &str)]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    fs::write(&key, "a key of pseudonyms").unwrap();
    fs::write(dir.path().join("other"), "another key of them").unwrap();
    let mut text = format!(
        r#"
[sources.main]
url = "ws://one:1/"
token = "t"
[event]
pseudonymise = {{ fields = ["nickname"], key_file = "{}" }}
[spool]
type = "disk"
[sinks.kafka]
type = "kafka"
bootstrap_servers = "one:9092"
topic = "faces"
delivery = "exactly_once"
transaction = {{ id = "faces" }}
[sinks.stream]
type = "nats"
servers = ["nats://one:4222"]
subject = "faces.{{result}}"
order = "strict"
stream = {{ name = "FACES" }}
filter = {{ result = "new" }}
"#,
        key.display()
    );
    for (from, to) in replacements {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    let file = dir.path().join("neurobridge.toml");
    fs::write(&file, text).unwrap();
    let loaded = config::load(Some(&file)).unwrap_or_else(|report| panic!("{report}"));
    published_hash(&loaded.config).await.unwrap()
}

#[tokio::test]
async fn hash_stays_the_same_in_later_versions() {
    insta::assert_snapshot!(hash(&[]).await, @"3f5f782b62b461c21ef4cab323a1da89");
}

#[tokio::test]
async fn other_addresses_and_credentials_keep_the_hash() {
    let first = hash(&[]).await;
    assert_eq!(hash(&[("one:", "two:"), ("\"t\"", "\"u\"")]).await, first);
}

#[tokio::test]
async fn each_change_of_the_published_messages_changes_the_hash() {
    let first = hash(&[]).await;
    for (from, to) in [
        ("sources.main", "sources.side"),
        ("\"nickname\"", "\"alias\""),
        ("/key\"", "/other\""),
        ("topic = \"faces\"", "topic = \"people\""),
        (
            "delivery = \"exactly_once\"\ntransaction = { id = \"faces\" }",
            "delivery = \"at_least_once\"",
        ),
        ("id = \"faces\"", "id = \"people\""),
        ("faces.{result}", "faces.{space.id}"),
        ("strict", "relaxed"),
        ("FACES", "PEOPLE"),
        ("\"new\"", "\"exact\""),
        ("sinks.stream", "sinks.nats"),
    ] {
        assert_ne!(hash(&[(from, to)]).await, first, "{from} replaced by {to}");
    }
}
