//! A full spool, because a sink delivers nothing: either the feed is blocked or the oldest events are dropped. Both are
//! counted, and both end without intervention.
//!
//! The sink is a Kafka sink whose topic does not exist yet.

use std::collections::HashSet;
use std::time::Duration;

use neurobridge_tests::audit;
use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::kafka::{admin::KafkaAdmin, records::read_topic};
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::platform::Platform;
use neurobridge_tests::shared::kafka_bootstrap;
use neurobridge_tests::status::{SinkState, SourceState, Status};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(120);
/// The number of events: twelve times as many as the spool can store.
const EVENTS: u64 = 20_000;

/// A bridge with a spool of 1 MiB and a Kafka sink without a topic.
struct Scene {
    platform: Platform,
    bridge: Bridge,
    bootstrap: String,
    topic: String,
    _dir: Scratch,
}

impl Scene {
    fn start(when_full: &str, events: u64) -> Option<Self> {
        let bootstrap = kafka_bootstrap()?;
        let dir = Scratch::new("full").unwrap();
        let topic = format!("full-{when_full}-{}", std::process::id());
        let platform = Platform::start(&dir, &["--count", &events.to_string()]).unwrap();
        let config = format!(
            r#"
            [sources.main]
            url = "{}"
            token = "t"
            ping_interval = "200ms"
            pong_timeout = "2s"

            [spool]
            max_size = "1 MiB"
            when_full = "{when_full}"

            [deduplicate]
            max_events = 1000

            [sinks.kafka]
            type = "kafka"
            bootstrap_servers = "{bootstrap}"
            topic = "{topic}"
            "#,
            platform.url()
        );
        let bridge = Bridge::start(&dir, &config).unwrap();
        Some(Self {
            platform,
            bridge,
            bootstrap,
            topic,
            _dir: dir,
        })
    }

    fn wait(&self, what: &str, condition: impl Fn(&Status) -> bool) -> Status {
        let status = self.bridge.wait(what, SOON, condition).unwrap();
        let spool = &status.spool;
        assert!(spool.size_bytes <= spool.limit_bytes, "{spool:?}");
        status
    }

    fn create_topic(&self) {
        let admin = KafkaAdmin::new(&self.bootstrap).unwrap();
        admin.create_topic(&self.topic, 3, &[]).unwrap();
    }

    fn metric(&self, name: &str) -> f64 {
        self.bridge.metric(name, &[]).unwrap()
    }
}

#[test]
fn full_spool_blocks_reading_until_space_is_free() {
    let Some(scene) = Scene::start("block", EVENTS) else {
        return;
    };
    let blocked = scene.wait("the spool to be full", |status| {
        status.source("main").state == SourceState::Blocked
    });
    assert!(blocked.source("main").reason.is_some(), "{blocked:#}");
    scene.wait("the sink to be down", |status| {
        status.sink("kafka").state == SinkState::Down
    });
    // Twice as long as the pong timeout: while the feed is blocked, pongs wait unread in the socket, after events, and the
    // timeout does not apply.
    let status = scene.wait("four seconds of a full spool", |_| {
        scene.metric("neurobridge_source_blocked_seconds_total") > 4.0
    });
    let received = status.source("main").ledger.received;
    assert!(received < EVENTS, "{received}");
    assert_eq!(status.source("main").state, SourceState::Blocked);

    scene.create_topic();
    let status = scene.wait("all events to be delivered", |status| {
        status.sink("kafka").ledger.delivered == EVENTS
    });
    assert_eq!(status.source("main").state, SourceState::Authenticated);
    assert_eq!(status.source("main").connections, 1);
    assert_eq!(status.sink("kafka").ledger.dead_lettered, 0);
    assert_eq!(scene.metric("neurobridge_source_gaps_total"), 0.0);
    assert_eq!(scene.metric("neurobridge_spool_dropped_events_total"), 0.0);

    let (ended, log) = scene.bridge.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(ended.success(), "{log}");
    assert!(log.contains("backpressure: the socket is not read"), "{log}");
    let sent = scene.platform.stop().unwrap();
    let records = read_topic(&scene.bootstrap, &scene.topic, SOON).unwrap();
    audit::audit(&sent, &audit::kafka(&records, "main").unwrap()).unwrap();
}

#[test]
fn drop_oldest_counts_each_dropped_event() {
    let Some(mut scene) = Scene::start("drop_oldest", 3 * EVENTS) else {
        return;
    };
    let stored = |status: &Status| status.source("main").ledger.stored;
    let peak_memory = |scene: &mut Scene| {
        let usage = scene.bridge.process().usage().unwrap();
        usage.peak_memory_bytes
    };
    scene.wait("a third of the events to be read", |status| {
        stored(status) >= EVENTS
    });
    let memory = peak_memory(&mut scene);
    // The feed is read completely, although nothing is delivered.
    let full = scene.wait("all events to be read", |status| stored(status) == 3 * EVENTS);
    assert_eq!(full.source("main").connections, 1);
    assert_eq!(full.sink("kafka").ledger.delivered, 0);
    let dropped_by_spool = scene.metric("neurobridge_spool_dropped_events_total");
    assert!(dropped_by_spool > 2.0 * EVENTS as f64, "{dropped_by_spool}");
    // 24 MB of events have passed through the bridge. The kernel counts pages per processor and adds them up
    // occasionally, so that even a peak may be reported a few pages lower than before.
    let grown = peak_memory(&mut scene).saturating_sub(memory);
    assert!(grown < 8 << 20, "{grown} bytes more than after a third");

    scene.create_topic();
    let status = scene.wait("the remaining events to be delivered", |status| {
        status.sink("kafka").ledger.pending == 0
    });
    let ledger = &status.sink("kafka").ledger;
    let dropped = ledger.dropped;
    // A few of the events that the spool dropped were in flight already.
    assert!(
        dropped > 2 * EVENTS && dropped as f64 <= dropped_by_spool,
        "{ledger:?}"
    );
    let labels = &["outcome=\"dropped\""];
    let counted = scene.bridge.metric("neurobridge_sink_events_total", labels);
    assert_eq!(counted.unwrap(), dropped as f64);
    let (ended, log) = scene.bridge.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(ended.success(), "{log}");
    assert!(
        log.lines()
            .any(|line| line.contains("WARN") && line.contains("dropped")),
        "the log must warn of the dropped events: {log}"
    );

    // All other events were delivered in order, including the newest.
    let sent = scene.platform.stop().unwrap();
    let records = read_topic(&scene.bootstrap, &scene.topic, SOON).unwrap();
    let lanes = audit::kafka(&records, "main").unwrap();
    let arrived: HashSet<u64> = lanes.iter().flatten().map(|event| event.id).collect();
    assert_eq!(arrived.len() as u64 + dropped, 3 * EVENTS);
    assert!(arrived.contains(&sent.last().unwrap().id));
    let rest: Vec<_> = sent
        .into_iter()
        .filter(|event| arrived.contains(&event.id))
        .collect();
    audit::audit(&rest, &lanes).unwrap();
}
