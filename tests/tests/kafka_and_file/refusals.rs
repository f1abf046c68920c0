//! Operations that Kafka refuses (a client without permission, an oversize event), and a topic whose number of partitions
//! changes.

use super::*;

use std::path::Path;

use neurobridge_tests::certificates::Certificates;
use neurobridge_tests::http::get_any;
use neurobridge_tests::kafka::{Grant, Listener};
use neurobridge_tests::status::{SinkState, Status};

#[test]
fn revoked_permission_delays_but_loses_no_event() {
    let dir = Scratch::new("permission").unwrap();
    let certificates = Certificates::generate(&dir.join("certificates")).unwrap();
    let options = KafkaOptions {
        secure: Some(certificates.secure_kafka(&[])),
        authorizer: true,
        ..KafkaOptions::default()
    };
    let Some(kafka) = own_kafka(options) else {
        return;
    };
    KafkaAdmin::new(&kafka.bootstrap())
        .unwrap()
        .create_topic("entries", 3, &[])
        .unwrap();
    let grant = Grant {
        principal: "User:CN=client",
        topic: "entries",
        operations: &["Write", "DescribeConfigs"],
    };
    kafka.grant(grant).unwrap();
    let platform = Platform::start(&dir, &["--rate", "500"]).unwrap();
    let own = config(
        &platform.url(),
        &kafka.bootstrap_of(Listener::MutualTls),
        "entries",
    );
    let quoted = |path: &Path| format!("{path:?}");
    let tls = format!(
        "[sinks.kafka.tls]\nca_file = {}\ncert_file = {}\nkey_file = {}\n",
        quoted(&certificates.ca),
        quoted(&certificates.client_cert),
        quoted(&certificates.client_key)
    );
    let bridge = Bridge::start(&dir, &(own + &tls)).unwrap();
    let wait =
        |what: &str, condition: &dyn Fn(&Status) -> bool| bridge.wait(what, DELIVERY, condition).unwrap();

    wait("events to flow", &|status| status.delivered("kafka") > 500);
    kafka.revoke(grant).unwrap();
    let down = wait("the sink to report a reason", &|status| {
        let kafka = &status.sink("kafka");
        let names = |reason: &str| reason.contains("entries") && reason.contains("Write");
        kafka.state == SinkState::Down && kafka.reason.as_deref().is_some_and(names)
    });
    let (code, body) = get_any(bridge.address(), "/readyz").unwrap();
    assert!(code == 503 && body.contains("sinks.kafka"), "{code}: {body}");
    let reached = furthest(&down) + 1000;
    let meanwhile = wait("the file sink to continue", &|status| {
        status.delivered("archive") >= reached
    });
    assert_eq!(meanwhile.sink("kafka").ledger.dead_lettered, 0);
    assert!(meanwhile.sink("kafka").lag_events >= 1000, "{meanwhile:#}");
    let unauthorised = bridge.metric("neurobridge_sink_errors_total", &["kind=\"unauthorised\""]);
    assert!(unauthorised.unwrap() >= 1.0);

    kafka.grant(grant).unwrap();
    let target = furthest(&meanwhile);
    let up = wait("Kafka to catch up", &|status| {
        status.delivered("kafka") > target && status.sink("kafka").state == SinkState::Up
    });
    assert_eq!(up.sink("kafka").ledger.dead_lettered, 0);
    let (in_file, in_kafka) = finish(bridge, platform, &kafka.bootstrap(), "entries");
    assert_eq!(in_file.sent, in_kafka.sent);
}

#[test]
fn oversize_event_is_stripped_or_dead_lettered() {
    const LARGE: usize = 3;
    const COUNT: usize = 1000;
    let Some(bootstrap) = kafka_bootstrap() else {
        return;
    };
    let dir = Scratch::new("too-large").unwrap();
    let admin = KafkaAdmin::new(&bootstrap).unwrap();
    let [stripped, refused] =
        ["stripped", "refused"].map(|word| format!("too-large-{word}-{}", std::process::id()));
    for topic in [&stripped, &refused] {
        admin
            .create_topic(topic, 1, &[("max.message.bytes", "5000")])
            .unwrap();
    }
    let huge = format!("huge=20KiB,after=100,every=100,times={LARGE}");
    let platform = Platform::start(&dir, &["--count", &COUNT.to_string(), "--fault", &huge]).unwrap();
    let config = format!(
        "[sources.main]\nurl = \"{}\"\ntoken = \"t\"\n\
         [sinks.stripped]\ntype = \"kafka\"\nbootstrap_servers = \"{bootstrap}\"\ntopic = \"{stripped}\"\noversize = \"strip\"\n\
         [sinks.refused]\ntype = \"kafka\"\nbootstrap_servers = \"{bootstrap}\"\ntopic = \"{refused}\"\noversize = \"dead_letter\"\n",
        platform.url()
    );
    let bridge = Bridge::start(&dir, &config).unwrap();
    let status = bridge
        .wait("all events to be settled", DELIVERY, |status| {
            let settled = |sink: &str| status.sink(sink).ledger.pending == 0;
            status.source("main").ledger.stored == COUNT as u64 && settled("stripped") && settled("refused")
        })
        .unwrap();
    assert_eq!(status.delivered("stripped"), COUNT as u64);
    let refused_ledger = &status.sink("refused").ledger;
    assert_eq!(refused_ledger.delivered, (COUNT - LARGE) as u64);
    assert_eq!(refused_ledger.dead_lettered, LARGE as u64);
    let labels = &["sink=\"refused\"", "reason=\"too_large\""];
    let counted = bridge.metric("neurobridge_sink_dead_letters_total", labels);
    assert_eq!(counted.unwrap(), LARGE as f64);
    let dead_letters = fs::read_to_string(bridge.data_dir().join("dead-letters.jsonl")).unwrap();
    let (ended, log) = bridge.stop(Signal::SIGTERM, STOP).unwrap();
    assert!(ended.success(), "{log}");
    let lines = log.lines().filter(|line| line.contains("dead letters stored"));
    let logged: Vec<u64> = lines
        .map(|line| {
            let expected = ["sink=\"refused\"", "reason=\"too_large\"", "dead-letters.jsonl"];
            assert!(expected.iter().all(|part| line.contains(part)), "{line}");
            let (_, number) = line.split_once("events=").unwrap();
            number.split_whitespace().next().unwrap().parse().unwrap()
        })
        .collect();
    assert_eq!(logged.iter().sum::<u64>(), LARGE as u64, "{log}");
    let sent = platform.stop().unwrap();
    let (large, usual): (Vec<_>, Vec<_>) = sent.iter().cloned().partition(|event| event.data.len() > 5000);
    assert_eq!(large.len(), LARGE);

    // The dead letters contain the whole events, and all other events are in the topic.
    let dead_letters: Vec<Value> = dead_letters
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(dead_letters.len(), LARGE);
    for (dead_letter, event) in dead_letters.iter().zip(&large) {
        assert_eq!(dead_letter["reason"], "too_large", "{dead_letter}");
        assert_eq!(dead_letter["sink"], "refused");
        assert_eq!(dead_letter["event"]["data"], parsed(&event.data));
    }
    let records = read_topic(&bootstrap, &refused, DELIVERY).unwrap();
    audit::audit(&usual, &audit::kafka(&records, "main").unwrap()).unwrap();

    // A stripped event has no pictures and names the removed fields; nothing else is changed.
    let records = read_topic(&bootstrap, &stripped, DELIVERY).unwrap();
    assert_eq!(records.len(), COUNT);
    for (record, event) in records.iter().zip(&sent) {
        let mut expected = parsed(&event.data);
        let fields = record.header("ce_strippedfields");
        assert_eq!(fields.is_some(), event.data.len() > 5000, "{:?}", event.id);
        for field in fields.into_iter().flat_map(|fields| fields.split(',')) {
            assert!(field.ends_with("_image") && !expected[field].is_null(), "{field}");
            expected[field] = Value::Null;
        }
        let value = record.value.as_deref().unwrap();
        assert_eq!(serde_json::from_slice::<Value>(value).unwrap(), expected);
    }
}

#[test]
fn added_partitions_are_reported() {
    let Some(bootstrap) = kafka_bootstrap() else {
        return;
    };
    let dir = Scratch::new("partitions").unwrap();
    let topic = format!("partitions-{}", std::process::id());
    let admin = KafkaAdmin::new(&bootstrap).unwrap();
    admin.create_topic(&topic, 1, &[]).unwrap();
    let platform = Platform::start(&dir, &["--rate", "100"]).unwrap();
    // The metadata is refreshed more often than the default of every five minutes.
    let config = config(&platform.url(), &bootstrap, &topic)
        + "[sinks.kafka.properties]\n\"topic.metadata.refresh.interval.ms\" = \"500\"\n";
    let bridge = Bridge::start(&dir, &config).unwrap();
    let wait =
        |what: &str, condition: &dyn Fn(&Status) -> bool| bridge.wait(what, DELIVERY, condition).unwrap();
    let before = wait("events to flow", &|status| status.delivered("kafka") > 10);
    assert!(before.sink("kafka").notice.is_none(), "{before:#}");
    admin.grow_topic(&topic, 3).unwrap();
    let status = wait("the notice", &|status| {
        status
            .sink("kafka")
            .notice
            .as_deref()
            .is_some_and(|notice| notice.contains(&topic) && notice.contains("3 partitions"))
    });
    assert_eq!(status.sink("kafka").state, SinkState::Up);
    let (ended, log) = bridge.stop(Signal::SIGTERM, STOP).unwrap();
    assert!(ended.success(), "{log}");
    let notices = log
        .lines()
        .filter(|line| line.contains("has more partitions than before"));
    assert_eq!(notices.count(), 1, "{log}");
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}
