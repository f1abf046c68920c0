//! `delivery = "exactly_once"`: the real bridge with a disk spool, the real Kafka, and a consumer with
//! `read_committed`. The consumer finds each event once and in order after any fault of the bridge or of Kafka.

mod support;

use neurobridge_tests::status::{SinkState, Status};
use neurobridge_tests::{
    bridge::Bridge,
    kafka::{KafkaOptions, admin::KafkaAdmin, records::read_topic},
    paths::Scratch,
    platform::Platform,
    poll::wait_until,
    shared::own_kafka,
};

use self::support::{LIMIT, audit, config, copy_files, finish, log_length, sequences_of, truncate_log};

const TOPIC: &str = "entries";

#[test]
fn kill_within_transactions_delivers_each_event_once() {
    let Some(kafka) = own_kafka(KafkaOptions::default()) else {
        return;
    };
    let dir = Scratch::new("exactly-once-kills").unwrap();
    let platform = Platform::start(&dir, &["--rate", "3000"]).unwrap();
    // With such a short interval, a transaction is always open or being committed.
    let config = config(&platform, &kafka.bootstrap(), "transaction.interval = \"100ms\"");
    let mut seen = 0;
    for kill in 0..5 {
        let mut bridge = Bridge::start(&dir, &config).unwrap();
        let target = seen + 2_000 + 777 * kill;
        let status = bridge
            .wait("events in Kafka", LIMIT, |status| {
                status.delivered("kafka") > target
            })
            .unwrap();
        seen = status.delivered("kafka");
        bridge.process().kill().unwrap();
    }
    let bridge = Bridge::start(&dir, &config).unwrap();
    bridge
        .wait("the events stored before the last kill", LIMIT, |status| {
            status.delivered("kafka") > seen + 5_000
        })
        .unwrap();
    let counts = finish(bridge);
    let sent = platform.stop().unwrap();
    audit(&kafka.bootstrap(), TOPIC, &sent, counts.delivered);
    assert_eq!(counts.stored, counts.delivered, "{counts:?}");
}

#[test]
fn committed_cursor_replaces_an_older_saved_cursor() {
    let Some(kafka) = own_kafka(KafkaOptions::default()) else {
        return;
    };
    let dir = Scratch::new("exactly-once-cursor").unwrap();
    let platform = Platform::start(&dir, &["--rate", "1000"]).unwrap();
    let config = config(&platform, &kafka.bootstrap(), "start = \"oldest\"");
    let bridge = Bridge::start(&dir, &config).unwrap();
    bridge
        .wait("events in Kafka", LIMIT, |status| {
            status.delivered("kafka") > 3_000
        })
        .unwrap();
    let cursors = bridge.data_dir().join("spool/cursors");
    let first = finish(bridge);
    // The removal of all cursor files simulates a power cut that lost the most recent cursors.
    assert!(cursors.exists(), "{}", cursors.display());
    std::fs::remove_dir_all(&cursors)
        .or_else(|_| std::fs::remove_file(&cursors))
        .unwrap();
    let bridge = Bridge::start(&dir, &config).unwrap();
    bridge
        .wait("more events in Kafka", LIMIT, |status| {
            status.delivered("kafka") > first.delivered + 1_000
        })
        .unwrap();
    let counts = finish(bridge);
    audit(
        &kafka.bootstrap(),
        TOPIC,
        &platform.stop().unwrap(),
        counts.delivered,
    );
}

/// A power cut may lose the end of a log that is not synced after each write, although Kafka has these events. After the cut, new
/// events get the same sequences, and the bridge is killed before it publishes them. At the next start, the bridge must not take
/// the new events for the delivered ones.
#[test]
fn power_cut_keeps_events_with_reused_sequences_apart() {
    let Some(mut kafka) = own_kafka(KafkaOptions::default()) else {
        return;
    };
    let dir = Scratch::new("exactly-once-cut").unwrap();
    let platform = Platform::start(&dir, &["--rate", "600"]).unwrap();
    let config = |source: &str| {
        config(&platform, &kafka.bootstrap(), "start = \"oldest\"")
            .replace("[sources.main]", &format!("[sources.{source}]"))
    };
    let (before, after) = (config("before"), config("after"));
    let in_kafka = |bridge: &Bridge, events| {
        let status = bridge.wait("events in Kafka", LIMIT, |status| {
            status.delivered("kafka") > events
        });
        status.unwrap().delivered("kafka")
    };
    let cursor_copy = dir.join("cursors");

    let mut bridge = Bridge::start(&dir, &before).unwrap();
    let spool = bridge.data_dir().join("spool");
    in_kafka(&bridge, 500);
    copy_files(&spool.join("cursors"), &cursor_copy);
    let length = log_length(&spool);
    let stored = bridge.status().unwrap().sink("kafka").ledger.stored;
    let delivered = in_kafka(&bridge, stored + 3_000);
    bridge.process().kill().unwrap();
    // The simulated power cut loses the cursors and events that were saved since. Kafka has about three thousand of these events.
    truncate_log(&spool, length);
    copy_files(&cursor_copy, &spool.join("cursors"));

    kafka.stop().unwrap();
    let mut bridge = Bridge::start(&dir, &after).unwrap();
    bridge
        .wait("events in the log", LIMIT, |status| {
            status.source("after").ledger.stored > 300
        })
        .unwrap();
    bridge.process().kill().unwrap();
    kafka.start_again().unwrap();

    let bridge = Bridge::start(&dir, &after).unwrap();
    in_kafka(&bridge, delivered);
    let counts = finish(bridge);
    assert_eq!(counts.stored, counts.delivered, "{counts:?}");
    let of = |source: &str| sequences_of(&kafka.bootstrap(), TOPIC, source);
    let mut new = of("after");
    wait_until("all events to be readable", LIMIT, || {
        new = of("after");
        new.last() == Some(&counts.stored)
    })
    .unwrap();
    let (first, old) = (new[0], of("before"));
    assert_eq!(new, (first..=counts.stored).collect::<Vec<_>>());
    let last = old.len() as u64;
    assert_eq!(old, (1..=last).collect::<Vec<_>>());
    assert!(
        first + 300 < last,
        "the sequences {first} to {last} were not reused"
    );
}

#[test]
fn broker_faults_duplicate_no_event() {
    let Some(mut kafka) = own_kafka(KafkaOptions::default()) else {
        return;
    };
    let dir = Scratch::new("exactly-once-broker").unwrap();
    let platform = Platform::start(&dir, &["--rate", "2000"]).unwrap();
    // The shortest transaction timeout: a broker that was frozen for longer aborts the transaction and reports
    // "fenced".
    let config = config(
        &platform,
        &kafka.bootstrap(),
        "transaction = { interval = \"200ms\", timeout = \"10s\" }",
    );
    let bridge = Bridge::start(&dir, &config).unwrap();
    let deliver_more_than = |beyond: u64| {
        let status = bridge
            .wait("a sink that is up and delivers", LIMIT, |status| {
                status.delivered("kafka") > beyond && status.sink("kafka").state == SinkState::Up
            })
            .unwrap();
        status.delivered("kafka")
    };
    let reached = deliver_more_than(2_000);
    kafka.kill().unwrap();
    kafka.start_again().unwrap();
    let reached = deliver_more_than(reached + 2_000);
    kafka.stop().unwrap();
    kafka.start_again().unwrap();
    let reached = deliver_more_than(reached + 2_000);
    kafka.freeze().unwrap();
    // The freeze hits a transaction or its commit, and exceeds the timeouts of both.
    bridge
        .wait("the sink to be down for a long time", LIMIT, |status| {
            let sink = &status.sink("kafka");
            sink.state == SinkState::Down && sink.lag_seconds > 30.0
        })
        .unwrap();
    kafka.thaw().unwrap();
    deliver_more_than(reached + 4_000);
    // Each outage is counted when it begins, whether or not it closes a connection.
    let faults = bridge
        .metric("neurobridge_sink_errors_total", &["sink=\"kafka\""])
        .unwrap();
    assert!(faults >= 2.0, "{faults}");
    let counts = finish(bridge);
    audit(
        &kafka.bootstrap(),
        TOPIC,
        &platform.stop().unwrap(),
        counts.delivered,
    );
}

/// The sink reads the limits of a topic before the first event of the topic, and different limits need a new connection.
/// Neither the new connection nor the death of a broker directly after a commit may lose an event.
#[test]
fn new_topics_of_events_lose_no_event() {
    // Events for twenty seconds, so that many follow the kill even if the sink starts late.
    const EVENTS: u64 = 20_000;
    const RESULTS: [&str; 7] = ["new", "exact", "ha", "reinit", "junk", "nm", "det"];
    let Some(mut kafka) = own_kafka(KafkaOptions::default()) else {
        return;
    };
    let admin = KafkaAdmin::new(&kafka.bootstrap()).unwrap();
    for result in &RESULTS[..3] {
        admin
            .create_topic(&format!("faces.{result}"), 1, &[("max.message.bytes", "3000000")])
            .unwrap();
    }
    let dir = Scratch::new("exactly-once-named").unwrap();
    let count = EVENTS.to_string();
    let platform = Platform::start(&dir, &["--rate", "1000", "--count", &count, "--hold"]).unwrap();
    let config = config(&platform, &kafka.bootstrap(), "start = \"oldest\"")
        .replace("topic = \"entries\"", "topic = \"faces.{result}\"");
    let bridge = Bridge::start(&dir, &config).unwrap();
    bridge
        .wait("events in Kafka", LIMIT, |status| {
            status.delivered("kafka") > 1_000
        })
        .unwrap();
    // The kill directly follows a commit. In partitions without a leader at that time, Kafka 4.3 leaves the transaction open until
    // the next commit in the same partition (KAFKA-20734). So the test needs events after the kill.
    kafka.kill().unwrap();
    kafka.start_again().unwrap();
    let status = bridge
        .wait("all events in Kafka", LIMIT, |status| {
            status.delivered("kafka") == EVENTS
        })
        .unwrap();
    assert_eq!(status.sink("kafka").ledger.dead_lettered, 0, "{status:#}");
    let counts = finish(bridge);
    assert_eq!(counts.stored, counts.delivered, "{counts:?}");
    // A transaction is committed before all of its partitions have recorded the commit, and consumers wait for these records.
    wait_until("all events to be readable", LIMIT, || {
        let in_topic = |result: &&str| read_topic(&kafka.bootstrap(), &format!("faces.{result}"), LIMIT);
        let found: usize = RESULTS.iter().map(|result| in_topic(result).unwrap().len()).sum();
        assert!(found as u64 <= counts.delivered, "{found} of {counts:?}");
        found as u64 == counts.delivered
    })
    .unwrap();
}

#[test]
fn second_instance_stops_the_first_with_a_reason() {
    let Some(kafka) = own_kafka(KafkaOptions::default()) else {
        return;
    };
    let dirs = [
        Scratch::new("exactly-once-first").unwrap(),
        Scratch::new("exactly-once-second").unwrap(),
    ];
    let platforms = [0, 1].map(|one: usize| Platform::start(&dirs[one], &["--rate", "500"]).unwrap());
    let start =
        |one: usize| Bridge::start(&dirs[one], &config(&platforms[one], &kafka.bootstrap(), "")).unwrap();
    let first = start(0);
    first
        .wait("events in Kafka", LIMIT, |status| status.delivered("kafka") > 500)
        .unwrap();
    let second = start(1);
    let has_reason = |status: &Status| {
        let sink = &status.sink("kafka");
        sink.state == SinkState::Down
            && sink.reason.as_deref().is_some_and(|reason| {
                reason.contains("another instance of this sink has taken over") && reason.contains("restart")
            })
    };
    let stopped = first
        .wait("the first bridge to stop its sink", LIMIT, has_reason)
        .unwrap();
    let status = second
        .wait("the second bridge to deliver", LIMIT, |status| {
            status.delivered("kafka") > 3_000 && status.sink("kafka").state == SinkState::Up
        })
        .unwrap();
    // The two bridges do not keep taking over from each other: the second was never down, and the first has not
    // reconnected.
    assert_eq!(status.sink("kafka").reason, None);
    let later = first.status().unwrap();
    assert!(has_reason(&later), "{later:#}");
    assert_eq!(later.delivered("kafka"), stopped.delivered("kafka"));
    let fenced = ["sink=\"kafka\"", "kind=\"fenced\""];
    assert!(first.metric("neurobridge_sink_errors_total", &fenced).unwrap() >= 1.0);
    // At most one interruption: the first bridge may have reconnected before it could detect the takeover by the second one.
    let interrupted = second
        .metric("neurobridge_sink_errors_total", &["sink=\"kafka\""])
        .unwrap();
    assert!(interrupted <= 1.0, "{interrupted}");
    finish(second);
}
