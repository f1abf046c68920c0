//! 100,000 events of two sources with equal ids arrive in all sinks, complete, in order and unmodified.

use std::collections::HashSet;
use std::fs;

use neurobridge_tests::audit::{self, Arrived, Audit};
use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::kafka::{admin::KafkaAdmin, records::read_topic};
use neurobridge_tests::nats::NatsOptions;
use neurobridge_tests::nats::client::{Listener, read_stream};
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::platform::{Platform, Sent};
use neurobridge_tests::poll::wait_until;
use neurobridge_tests::shared::{kafka_bootstrap, own_nats};
use nix::sys::signal::Signal;

use super::{LIMIT, STREAM, settled, stream_sink};

const SOURCES: [&str; 2] = ["door", "gate"];
const SINKS: [&str; 5] = ["kafka", "stream", "envelopes", "core", "archive"];
const OF_EACH: usize = 50_000;
const ALL: usize = 2 * OF_EACH;

#[test]
fn all_sinks_store_every_event_of_two_sources() {
    let Some(bootstrap) = kafka_bootstrap() else {
        return;
    };
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let (dir, url) = (Scratch::new("all-sinks").unwrap(), nats.url());
    let topic = format!("all-sinks-{}", std::process::id());
    KafkaAdmin::new(&bootstrap)
        .unwrap()
        .create_topic(&topic, 3, &[])
        .unwrap();
    let folders = SOURCES.map(|name| Scratch::new(name).unwrap());
    let count = OF_EACH.to_string();
    let platforms = [0, 1].map(|number| {
        let seed = (number + 1).to_string();
        Platform::start(&folders[number], &["--count", &count, "--seed", &seed]).unwrap()
    });
    let listener = Listener::start(&url, "core.>").unwrap();
    let config = config(&platforms.each_ref().map(Platform::url), &bootstrap, &topic, &url);
    let bridge = Bridge::start(&dir, &config).unwrap();
    bridge
        .wait("all events to be delivered", LIMIT, |status| {
            SINKS.iter().all(|sink| settled(status, sink) == ALL as u64)
        })
        .unwrap();
    for (sink, gauge) in [
        ("kafka", "neurobridge_sink_client_round_trip_seconds"),
        ("kafka", "neurobridge_sink_client_queued_messages"),
        ("kafka", "neurobridge_sink_client_queued_bytes"),
        ("stream", "neurobridge_sink_client_round_trip_seconds"),
        ("core", "neurobridge_sink_client_queued_messages"),
    ] {
        let label = format!("sink=\"{sink}\"");
        wait_until(&format!("{gauge} of {sink}"), LIMIT, || {
            // A round trip takes time, and the queues are empty, because all messages are acknowledged.
            let value = bridge.metric(gauge, &[&label]);
            value.is_ok_and(|value| (value > 0.0) == gauge.ends_with("_seconds"))
        })
        .unwrap();
    }
    let file = bridge.data_dir().join("events.jsonl");
    let (status, log) = bridge.stop(Signal::SIGTERM, LIMIT).unwrap();
    assert!(status.success(), "{status}: {log}");
    let sent = platforms.map(|platform| platform.stop().unwrap());

    let records = read_topic(&bootstrap, &topic, LIMIT).unwrap();
    let stored = read_stream(&url, STREAM, LIMIT).unwrap();
    let envelopes = read_stream(&url, "ENVELOPES", LIMIT).unwrap();
    let received = listener.stop().unwrap();
    let lines = fs::read_to_string(file).unwrap();
    assert_eq!(
        [records.len(), stored.len(), envelopes.len(), received.len()],
        [ALL; 4]
    );
    for (name, sent) in SOURCES.iter().zip(&sent) {
        let source = format!("/neuroio/{name}");
        let mut of_source = records.clone();
        of_source.retain(|record| record.header("ce_source") == Some(&source));
        assert_whole(sent, &audit::kafka(&of_source, name).unwrap());

        let mut of_source = stored.clone();
        of_source.retain(|message| message.header("ce-source") == Some(&source));
        assert!(
            of_source
                .iter()
                .all(|message| message.header("Neurobridge-Chain").is_some())
        );
        assert_whole(sent, &[audit::nats_binary(&of_source, name, true).unwrap()]);

        let identities = format!("{name}/");
        let of_source = envelopes
            .iter()
            .filter(|message| {
                assert_eq!(
                    message.header("content-type"),
                    Some("application/cloudevents+json")
                );
                message
                    .header("Nats-Msg-Id")
                    .is_some_and(|id| id.starts_with(&identities))
            })
            .map(|message| std::str::from_utf8(&message.payload).unwrap());
        assert_whole(sent, &[structured(of_source, &source)]);
        assert_whole(sent, &[structured(lines.lines(), &source)]);

        // The frames do not name their source, but each source sends different frames.
        let frames: HashSet<&str> = sent.iter().map(|event| event.frame.as_str()).collect();
        let mut of_source = audit::nats_raw(&received, "core").unwrap();
        of_source.retain(|arrived| frames.contains(arrived.data.as_str()));
        let sent: Vec<Sent> = sent
            .iter()
            .map(|event| Sent {
                data: event.frame.clone(),
                ..event.clone()
            })
            .collect();
        assert_whole(&sent, &[of_source]);
    }
}

fn structured<'a>(lines: impl Iterator<Item = &'a str>, source: &str) -> Vec<Arrived> {
    let source = format!("\"source\":\"{source}\"");
    let lines: Vec<_> = lines.filter(|line| line.contains(&source)).collect();
    audit::structured(&lines.join("\n")).unwrap()
}

fn assert_whole(sent: &[Sent], lanes: &[Vec<Arrived>]) {
    let whole = Audit {
        sent: OF_EACH,
        duplicates: 0,
    };
    assert_eq!(audit::audit(sent, lanes).unwrap(), whole);
}

fn config(sources: &[String; 2], bootstrap: &str, topic: &str, nats: &str) -> String {
    let [door, gate] = sources;
    let stream = stream_sink("stream", nats, STREAM, "");
    let envelopes = stream_sink(
        "envelopes",
        nats,
        "ENVELOPES",
        "format = \"cloudevents_json\"\nsubject = \"envelopes.{space.id}\"",
    );
    format!(
        r#"
        drain_timeout = "60s"
        [sources.door]
        url = "{door}"
        token = "t"
        pong_timeout = "2m"
        [sources.gate]
        url = "{gate}"
        token = "t"
        pong_timeout = "2m"

        [sinks.kafka]
        type = "kafka"
        bootstrap_servers = "{bootstrap}"
        topic = "{topic}"

        {stream}
        {envelopes}

        [sinks.core]
        type = "nats"
        servers = ["{nats}"]
        mode = "core"
        format = "raw"
        subject = "core.{{space.id}}.{{source.id}}.{{result}}"

        [sinks.archive]
        type = "file"
        path = "events.jsonl"
        "#
    )
}
