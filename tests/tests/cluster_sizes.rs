//! A single bridge becomes a cluster of two and a single bridge again, by the steps of `docs/operations.md`.

use std::time::Duration;

use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::cluster::cluster_table;
use neurobridge_tests::kafka::records::read_topic;
use neurobridge_tests::nats::{NatsOptions, client::read_stream};
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::platform::Platform;
use neurobridge_tests::poll::wait_for;
use neurobridge_tests::shared::{kafka_bootstrap, own_nats};
use neurobridge_tests::sinks::KafkaAndStream;
use neurobridge_tests::status::Status;
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(120);
const EVENTS: u64 = 16_000;

fn stop(bridge: Bridge) {
    let (status, log) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(status.success(), "{log}");
}

/// Waits until the bridge has published 100 more events.
fn wait_until_publishing(bridge: &Bridge) {
    let before = bridge.status().unwrap().delivered("stream");
    let publishes = |status: &Status| status.delivered("stream") > before + 100;
    bridge.wait("a bridge that publishes", SOON, publishes).unwrap();
}

fn wait_until_joined(bridge: &Bridge) {
    let has_joined = |status: &Status| {
        let cluster = status.cluster.as_ref();
        status.source("main").ledger.stored > 0
            && cluster.is_some_and(|cluster| cluster.join_state == "joined")
    };
    bridge.wait("a member", SOON, has_joined).unwrap();
}

#[test]
fn second_bridge_joins_and_leaves_without_duplicates() {
    let (Some(bootstrap), Some(nats)) = (kafka_bootstrap(), own_nats(NatsOptions::default())) else {
        return;
    };
    let (first_dir, second_dir) = (
        Scratch::new("grows-first").unwrap(),
        Scratch::new("grows-second").unwrap(),
    );
    let topic = format!("grows-{}", std::process::id());
    let count = EVENTS.to_string();
    let platform = Platform::start(&first_dir, &["--rate", "200", "--count", &count]).unwrap();
    let alone = format!(
        r#"
[sources.main]
url = "{}"
token = "t"
backoff = {{ min = "20ms", max = "200ms" }}
[spool]
type = "disk"
{}"#,
        platform.url(),
        KafkaAndStream {
            bootstrap: &bootstrap,
            topic: &topic,
            nats: &nats.url(),
            stream: "FACES",
            subject: "faces.{result}",
        }
        .tables(),
    );
    let member = |name: &str| format!("{alone}{}", cluster_table("faces", name, &nats.url(), "5s"));

    let bridge = Bridge::start(&first_dir, &alone).unwrap();
    wait_until_publishing(&bridge);
    stop(bridge);
    let mut first = Bridge::start(&first_dir, &member("a")).unwrap();
    first.wait("a leader", SOON, Status::leads).unwrap();
    wait_until_publishing(&first);
    let second = Bridge::start(&second_dir, &member("b")).unwrap();
    wait_until_joined(&second);

    // Only the first bridge has the events that arrived before the second bridge joined. After the takeover, these events would
    // be published late.
    let is_nearly_settled = |status: &Status| status.sinks.values().all(|sink| sink.ledger.pending < 50);
    first
        .wait("a leader without a backlog", SOON, is_nearly_settled)
        .unwrap();
    wait_until_publishing(&first);
    first.process().kill().unwrap();
    second.wait("another leader", SOON, Status::leads).unwrap();
    wait_until_publishing(&second);
    first.start_again().unwrap();
    wait_until_joined(&first);

    stop(second);
    first.wait("the remaining leader", SOON, Status::leads).unwrap();
    wait_until_publishing(&first);
    stop(first);
    let bridge = Bridge::start(&first_dir, &alone).unwrap();
    wait_until_publishing(&bridge);

    let ids = wait_for("the last event in the stream", SOON, || {
        let messages = read_stream(&nats.url(), "FACES", SOON)?;
        let ids = messages
            .iter()
            .map(|message| message.header("ce-id").unwrap().parse());
        let ids: Vec<u64> = ids.collect::<Result<_, _>>()?;
        Ok((ids.last() == Some(&EVENTS)).then_some(ids))
    })
    .unwrap();
    let is_settled = |status: &Status| status.sinks.values().all(|sink| sink.ledger.pending == 0);
    bridge.wait("an empty spool", SOON, is_settled).unwrap();
    let wrong: Vec<_> = ids.windows(2).filter(|pair| pair[1] <= pair[0]).collect();
    assert!(
        wrong.is_empty(),
        "an event is twice, or late, in the stream: {wrong:?}"
    );
    // The events of the two restarts without another member are missed, because `backfill` is not configured.
    let breaks = ids.windows(2).filter(|pair| pair[1] != pair[0] + 1).count();
    assert!(breaks <= 2, "{breaks} gaps in the stream");
    let records = read_topic(&bootstrap, &topic, SOON).unwrap();
    let mut in_topic: Vec<u64> = records
        .iter()
        .map(|record| record.header("ce_id").unwrap().parse().unwrap())
        .collect();
    in_topic.sort_unstable();
    assert_eq!(in_topic, ids, "an event is twice in the topic, or missing there");
}
