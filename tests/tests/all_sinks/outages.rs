//! A server is missing, stopped, killed or frozen: its sink waits and catches up, and no other sink is affected.

use std::fs;

use neurobridge_tests::audit::{self, received};
use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::kafka::{KafkaOptions, admin::KafkaAdmin, records::read_topic};
use neurobridge_tests::nats::NatsOptions;
use neurobridge_tests::nats::client::{Listener, read_stream};
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::platform::Platform;
use neurobridge_tests::poll::wait_until;
use neurobridge_tests::shared::{own_kafka, own_nats};
use neurobridge_tests::status::{SinkState, Status};
use nix::sys::signal::Signal;

use super::{LIMIT, STREAM, expected, settled, stream_sink};

const SINKS: [&str; 4] = ["kafka", "stream", "core", "archive"];
/// The number of events of an outage: more than a NATS sink has in flight, so that some waiting events are only in the spool.
const OUTAGE_EVENTS: u64 = 8_000;

const PICTURES: [&str; 4] = [
    "face_image",
    "full_image",
    "initial_face_image",
    "initial_full_image",
];
const OF_KAFKA: [&str; 5] = ["new", "exact", "ha", "reinit", "junk"];
const OF_STREAM: [&str; 3] = ["new", "exact", "reinit"];
const OF_CORE: [&str; 4] = ["exact", "ha", "nm", "det"];
const OF_ARCHIVE: [&str; 3] = ["new", "exact", "ha"];

#[test]
fn outage_of_one_sink_delays_no_other() {
    let Some(mut kafka) = own_kafka(KafkaOptions::default()) else {
        return;
    };
    let Some(mut jetstream) = own_nats(NatsOptions::default()) else {
        return;
    };
    let mut core_nats = NatsOptions::default();
    core_nats.jetstream = false;
    let Some(mut core_nats) = own_nats(core_nats) else {
        return;
    };
    KafkaAdmin::new(&kafka.bootstrap())
        .unwrap()
        .create_topic("entries", 3, &[])
        .unwrap();
    let listener = Listener::start(&core_nats.url(), "neuroio.>").unwrap();
    // The stream's server is down when the bridge starts, and starts later.
    jetstream.kill().unwrap();
    let dir = Scratch::new("outages").unwrap();
    let platform = Platform::start(&dir, &["--rate", "3000"]).unwrap();
    let config = config(
        &platform.url(),
        &kafka.bootstrap(),
        &jetstream.url(),
        &core_nats.url(),
    );
    let bridge = Bridge::start(&dir, &config).unwrap();

    outage(&bridge, "stream", || jetstream.start_again().unwrap());
    jetstream.stop().unwrap();
    outage(&bridge, "stream", || jetstream.start_again().unwrap());
    jetstream.kill().unwrap();
    outage(&bridge, "stream", || jetstream.start_again().unwrap());
    jetstream.freeze().unwrap();
    outage(&bridge, "stream", || jetstream.thaw().unwrap());
    core_nats.freeze().unwrap();
    outage(&bridge, "core", || core_nats.thaw().unwrap());
    kafka.freeze().unwrap();
    outage(&bridge, "kafka", || kafka.thaw().unwrap());

    // The bridge is stopped while the platform still sends events, and waits for the events in flight.
    let file = bridge.data_dir().join("events.jsonl");
    let (status, log) = bridge.stop(Signal::SIGTERM, LIMIT).unwrap();
    assert!(status.success(), "{status}: {log}");
    let sent = received(platform, &log, "main").unwrap();

    let lines = audit::structured(&fs::read_to_string(file).unwrap()).unwrap();
    let redacted = [&PICTURES[..], &["pid"]].concat();
    let in_file = audit::audit(&expected(&sent, &OF_ARCHIVE, &redacted), &[lines]).unwrap();
    assert_eq!(in_file.duplicates, 0);

    let stored = read_stream(&jetstream.url(), STREAM, LIMIT).unwrap();
    let stored = audit::nats_binary(&stored, "main", true).unwrap();
    let of_stream = expected(&sent, &OF_STREAM, &["full_image", "confidence"]);
    let in_stream = audit::audit(&of_stream, &[stored]).unwrap();
    assert_eq!(in_stream.duplicates, 0, "strict order stores each event once");

    let records = read_topic(&kafka.bootstrap(), "entries", LIMIT).unwrap();
    let records = audit::kafka(&records, "main").unwrap();
    audit::audit(&expected(&sent, &OF_KAFKA, &PICTURES), &records).unwrap();

    let of_core = expected(&sent, &OF_CORE, &["age", "sex"]);
    wait_until("the last messages to be received", LIMIT, || {
        listener.count() >= of_core.len()
    })
    .unwrap();
    let received = audit::nats_binary(&listener.stop().unwrap(), "main", false).unwrap();
    audit::audit(&of_core, &[received]).unwrap();
}

/// Waits until the other sinks are far ahead of `sink`, whose server is down, restores the server, and waits until `sink` has
/// caught up.
fn outage(bridge: &Bridge, sink: &str, restore: impl FnOnce()) {
    let wait = |what: &str, condition: &dyn Fn(&Status) -> bool| bridge.wait(what, LIMIT, condition).unwrap();
    let others = SINKS.iter().filter(|other| **other != sink);
    let status = bridge.status().unwrap();
    let target = SINKS.iter().map(|sink| settled(&status, sink)).max().unwrap() + OUTAGE_EVENTS;
    let meanwhile = wait(
        &format!("the other sinks to continue without {sink}"),
        &|status| others.clone().all(|other| settled(status, other) >= target),
    );
    let lag = meanwhile.sink(sink).lag_events;
    assert!(lag > OUTAGE_EVENTS / 2, "{sink}: {meanwhile:#}");
    restore();
    wait(&format!("{sink} to catch up"), &|status| {
        settled(status, sink) >= target && status.sink(sink).state == SinkState::Up
    });
}

fn config(url: &str, bootstrap: &str, jetstream: &str, core_nats: &str) -> String {
    let stream = stream_sink(
        "stream",
        jetstream,
        STREAM,
        &format!("filter = {{ result = {OF_STREAM:?} }}\nredact = [\"full_image\", \"confidence\"]"),
    );
    format!(
        r#"
        drain_timeout = "60s"
        spool = {{ max_size = "512 MiB" }}
        [sources.main]
        url = "{url}"
        token = "t"
        # Exactly one connection, because a busy machine may delay pongs beyond the timeout.
        pong_timeout = "2m"

        [sinks.kafka]
        type = "kafka"
        bootstrap_servers = "{bootstrap}"
        topic = "entries"
        filter = {{ result = {OF_KAFKA:?} }}
        redact = ["*_image"]

        {stream}

        [sinks.core]
        type = "nats"
        servers = ["{core_nats}"]
        mode = "core"
        filter = {{ result = {OF_CORE:?} }}
        redact = ["age", "sex"]

        [sinks.archive]
        type = "file"
        path = "events.jsonl"
        # No rotation, so that the test reads a single file.
        max_size = "4 GiB"
        filter = {{ result = {OF_ARCHIVE:?} }}
        redact = ["*_image", "pid"]
        "#
    )
}
