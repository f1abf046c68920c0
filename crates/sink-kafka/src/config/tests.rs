//! Tests the keys of the configuration, their defaults and their errors.

use schemars::schema_for;

use super::*;

fn read(json: serde_json::Value) -> Result<KafkaConfig, String> {
    serde_json::from_value(json).map_err(|error| error.to_string())
}

#[test]
fn defaults_are_as_documented() {
    let config = read(serde_json::json!({ "bootstrap_servers": "localhost:9092" })).unwrap();
    assert_eq!(
        format!("{config:?}"),
        format!("{:?}", KafkaConfig::new("localhost:9092"))
    );
    assert_eq!(config.check(), []);
    insta::assert_debug_snapshot!(config);
}

#[test]
fn all_keys_can_be_set() {
    let config = read(serde_json::json!({
        "bootstrap_servers": "a:1, b:2",
        "topic": "entries.{space.id}",
        "key": "{space.id}/{pid}",
        "format": "cloudevents_json",
        "compression": "zstd",
        "linger": "20ms",
        "max_queue_size": "32 MiB",
        "create": true,
        "partitions": 6,
        "replicas": 3,
        "oversize": "strip",
        "dead_letter": { "topic": "dead" },
        "tls": { "ca_file": "ca.pem", "cert_file": "c.pem", "key_file": "k.pem", "key_password": 7 },
        "sasl": { "mechanism": "scram_sha_512", "username": "bob", "password": true },
        "properties": { "socket.keepalive.enable": true, "socket.timeout.ms": 30000 },
    }))
    .unwrap();
    assert_eq!(config.check(), []);
    let sasl = config.sasl.as_ref().unwrap();
    assert_eq!(sasl.password.as_ref().unwrap().expose(), "true");
    assert_eq!(config.properties["socket.timeout.ms"].expose(), "30000");
}

#[test]
fn secrets_are_not_shown() {
    let config = read(serde_json::json!({
        "bootstrap_servers": "a:1",
        "tls": { "key_password": "hunter1" },
        "sasl": { "mechanism": "plain", "username": "bob", "password": "hunter2" },
        "properties": { "ssl.key.pem": "hunter3" },
    }))
    .unwrap();
    let shown = format!("{config:?} {}", serde_json::to_string(&config).unwrap());
    assert!(shown.contains("bob") && !shown.contains("hunter"), "{shown}");
    let sink = crate::KafkaSink::new("kafka", config);
    assert!(!format!("{sink:?}").contains("hunter"));
}

#[test]
fn all_errors_are_reported() {
    let config = read(serde_json::json!({
        "bootstrap_servers": " , ",
        "topic": "entries.{pid}",
        "linger": "1h",
        "max_queue_size": "10 KiB",
        "create": true,
        "partitions": 0,
        "dead_letter": { "topic": "a b", "path": null },
        "tls": { "cert_file": "c.pem", "key_password": "x", "key_password_file": "y" },
        "sasl": { "mechanism": "plain", "username": "" },
        "properties": { "acks": "1", "linger.ms": 1, "no.such": "hunter2" },
    }))
    .unwrap();
    let errors: Vec<String> = config
        .check()
        .iter()
        .map(|(key, message)| format!("{key}: {message}"))
        .collect();
    insta::assert_snapshot!(errors.join("\n"));
}

#[test]
fn each_error_has_its_text() {
    let errors = |change: fn(&mut KafkaConfig)| {
        let mut config = KafkaConfig::new("a:1");
        change(&mut config);
        config
            .check()
            .iter()
            .map(|(key, message)| format!("{key}: {message}"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    let place = |topic: Option<&str>, path: Option<&str>| {
        Some(DeadLetterConfig {
            topic: topic.map(str::to_owned),
            path: path.map(PathBuf::from),
        })
    };
    let text = [
        errors(|config| config.topic = "a/b".parse().unwrap()),
        errors(|config| config.topic = "a {x}".parse().unwrap()),
        errors(|config| config.topic = "".parse().unwrap()),
        errors(|config| config.topic = "..".parse().unwrap()),
        errors(|config| config.partitions = Some(3)),
        errors(|config| config.create = true),
        errors(|config| {
            config.dead_letter = Some(DeadLetterConfig {
                topic: None,
                path: None,
            })
        }),
        errors(|config| {
            config.dead_letter = Some(DeadLetterConfig {
                topic: Some("neuroio.entries".into()),
                path: None,
            });
        }),
        errors(|config| {
            config.dead_letter = Some(DeadLetterConfig {
                topic: Some("d".into()),
                path: Some("d".into()),
            });
        }),
    ];
    insta::assert_snapshot!(text.join("\n"));
    let mut config = KafkaConfig::new("a:1");
    config.dead_letter = place(None, Some("dead.jsonl"));
    assert_eq!((config.check(), config.dead_letter_topic()), (vec![], None));
    config.dead_letter = place(Some("dead"), None);
    assert_eq!(
        (config.check(), config.dead_letter_topic()),
        (vec![], Some("dead"))
    );
}

#[test]
fn unknown_keys_are_rejected_and_the_schema_is_complete() {
    let error = read(serde_json::json!({ "bootstrap_servers": "a:1", "topics": "x" })).unwrap_err();
    assert!(
        error.contains("unknown field `topics`") && error.contains("`topic`"),
        "{error}"
    );
    let schema = serde_json::to_value(schema_for!(KafkaConfig)).unwrap();
    let properties = schema["properties"].as_object().unwrap();
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(properties.len(), 18);
    for (key, property) in properties {
        assert!(property["description"].is_string(), "{key}");
    }
}

#[test]
fn malformed_broker_addresses_are_errors_and_not_shown() {
    let wrong = |servers: &str| -> Option<String> {
        let errors = KafkaConfig::new(servers).check();
        let found = errors.into_iter().find(|(key, _)| key == "bootstrap_servers");
        found.map(|(_, message)| message)
    };
    for servers in [
        "h",
        "h:9092",
        "a-b.c_d:1, [::1]:65535,",
        "[2001:db8::1]",
        "127.0.0.1:9092",
        "b\u{fc}cher.example:9092",
    ] {
        assert_eq!(wrong(servers), None, "{servers}");
    }
    for servers in [
        "",
        " , ",
        "h:abc",
        "h:99999",
        "h:0",
        "h:",
        "h 9092",
        "kafka://h",
        ":9092",
        "::1",
        "h:1:2",
        "[::1",
        "[h]:1",
        "[::1]9092",
        "user:s3cret@h:1",
        "h\0:1",
        "s3cret/x@h",
    ] {
        let message = wrong(servers).unwrap_or_else(|| panic!("{servers:?} is accepted"));
        assert!(
            !message.contains("s3cret") && message.contains("expected host:port"),
            "{message}"
        );
    }
    // An address copied from a listener is rejected with a hint.
    let message = wrong("PLAINTEXT://host:9092").unwrap();
    assert!(
        message.contains("leave out PLAINTEXT://") && message.contains("expected host:port"),
        "{message}"
    );
    insta::assert_snapshot!(wrong("a:1, h:99999").unwrap(), @r#"found a port that is not between 1 and 65535 in address 2, expected host:port such as "localhost:9092""#);
}

#[test]
fn nul_characters_are_errors() {
    let mut config = KafkaConfig::new("h:1");
    config.sasl = Some(SaslConfig {
        mechanism: SaslMechanism::Plain,
        username: "a\0b".into(),
        password: Some(Secret::new("c\0d")),
        password_file: None,
    });
    config.properties.insert("client.id".into(), Secret::new("e\0f"));
    config.properties.insert("client\0rack".into(), Secret::new("g"));
    let keys: Vec<_> = config.check().into_iter().map(|(key, _)| key).collect();
    assert_eq!(
        keys,
        [
            "sasl.username",
            "sasl.password",
            "properties.client\u{fffd}rack",
            "properties.client.id"
        ]
    );
}

#[test]
fn internal_topic_and_useless_missing_topic_are_errors() {
    let mut config = KafkaConfig::new("h:1");
    config.topic = "__consumer_offsets".parse().unwrap();
    config.missing_topic = MissingTopic::DeadLetter;
    let keys: Vec<_> = config.check().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["missing_topic", "topic"]);
    config.topic = "entries.{result}".parse().unwrap();
    assert_eq!(config.check(), []);
    assert!(config.reserved("__transaction_state").is_some() && config.reserved("entries.new").is_none());
}
