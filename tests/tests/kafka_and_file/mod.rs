//! Events delivered to a real Kafka and to a file at the same time: complete, in order and in the documented format, also after
//! faults of the broker.

mod cluster;
mod duplicates;
mod refusals;

use std::fs;
use std::time::Duration;

use neurobridge_tests::audit::{self, Audit};
use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::kafka::{Kafka, KafkaOptions, admin::KafkaAdmin, records::read_topic};
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::platform::Platform;
use neurobridge_tests::poll::wait_until;
use neurobridge_tests::shared::{kafka_bootstrap, own_kafka};
use neurobridge_tests::status::{SinkState, Status};
use nix::sys::signal::Signal;
use serde_json::Value;

/// The time limit of each wait: far longer than 100,000 events need on two busy cores.
const DELIVERY: Duration = Duration::from_secs(240);
const STOP: Duration = Duration::from_secs(120);

/// Causes a fault of a broker.
type CauseFault = fn(&mut Kafka);

fn config(url: &str, bootstrap: &str, topic: &str) -> String {
    format!(
        r#"
        [sources.main]
        url = "{url}"
        token = "t"

        [sinks.kafka]
        type = "kafka"
        bootstrap_servers = "{bootstrap}"
        topic = "{topic}"

        [sinks.archive]
        type = "file"
        path = "events.jsonl"
        # No rotation, so that the test reads a single file.
        max_size = "4 GiB"
        "#
    )
}

/// Returns the largest number of events that a sink has delivered.
fn furthest(status: &Status) -> u64 {
    status.delivered("kafka").max(status.delivered("archive"))
}

/// Stops both processes and audits both sinks against the sent events.
fn finish(bridge: Bridge, platform: Platform, bootstrap: &str, topic: &str) -> (Audit, Audit) {
    let file = bridge.data_dir().join("events.jsonl");
    let (status, log) = bridge.stop(Signal::SIGTERM, STOP).unwrap();
    assert!(status.success(), "{status}: {log}");
    let sent = audit::received(platform, &log, "main").unwrap();
    let lines = audit::structured(&fs::read_to_string(file).unwrap()).unwrap();
    let in_file = audit::audit(&sent, &[lines]).unwrap();
    let records = read_topic(bootstrap, topic, DELIVERY).unwrap();
    let in_kafka = audit::audit(&sent, &audit::kafka(&records, "main").unwrap()).unwrap();
    (in_file, in_kafka)
}

#[test]
fn hundred_thousand_events_arrive_in_order() {
    let Some(bootstrap) = kafka_bootstrap() else {
        return;
    };
    let dir = Scratch::new("hundred-thousand").unwrap();
    let topic = format!("hundred-thousand-{}", std::process::id());
    KafkaAdmin::new(&bootstrap)
        .unwrap()
        .create_topic(&topic, 3, &[])
        .unwrap();
    let platform = Platform::start(&dir, &["--count", "100000"]).unwrap();
    let bridge = Bridge::start(&dir, &config(&platform.url(), &bootstrap, &topic)).unwrap();
    bridge
        .wait("all events to be delivered", DELIVERY, |status| {
            status.delivered("kafka") == 100_000 && status.delivered("archive") == 100_000
        })
        .unwrap();
    let (in_file, in_kafka) = finish(bridge, platform, &bootstrap, &topic);
    assert_eq!(
        in_file,
        Audit {
            sent: 100_000,
            duplicates: 0
        }
    );
    assert_eq!(
        in_kafka,
        Audit {
            sent: 100_000,
            duplicates: 0
        }
    );
}

#[test]
fn broker_faults_lose_nothing_and_delay_no_other_sink() {
    let Some(mut kafka) = own_kafka(KafkaOptions::default()) else {
        return;
    };
    let bootstrap = kafka.bootstrap();
    KafkaAdmin::new(&bootstrap)
        .unwrap()
        .create_topic("entries", 3, &[])
        .unwrap();
    let dir = Scratch::new("broker-faults").unwrap();
    let platform = Platform::start(&dir, &["--rate", "2000"]).unwrap();
    let bridge = Bridge::start(&dir, &config(&platform.url(), &bootstrap, "entries")).unwrap();
    let wait =
        |what: &str, condition: &dyn Fn(&Status) -> bool| bridge.wait(what, DELIVERY, condition).unwrap();

    let start = |kafka: &mut Kafka| kafka.start_again().unwrap();
    let faults: [(&str, CauseFault); 3] = [
        ("stopped", |kafka| kafka.stop().unwrap()),
        ("killed", |kafka| kafka.kill().unwrap()),
        ("frozen", |kafka| kafka.freeze().unwrap()),
    ];
    for (fault, cause_fault) in faults {
        wait("events to flow", &|status| status.delivered("kafka") > 1000);
        cause_fault(&mut kafka);
        let reached = furthest(&bridge.status().unwrap()) + 3000;
        let meanwhile = wait("the file sink to continue", &|status| {
            status.delivered("archive") >= reached
        });
        assert!(
            meanwhile.sink("kafka").lag_events > 1000,
            "{fault}: {meanwhile:#}"
        );
        if fault == "frozen" {
            kafka.thaw().unwrap();
        } else {
            wait("the sink to report a reason", &|status| {
                let kafka = &status.sink("kafka");
                kafka.state == SinkState::Down
                    && kafka.reason.as_deref().is_some_and(|reason| reason.len() > 20)
            });
            start(&mut kafka);
        }
        let target = furthest(&meanwhile);
        wait("Kafka to catch up", &|status| {
            status.delivered("kafka") > target && status.sink("kafka").state == SinkState::Up
        });
    }
    let (in_file, in_kafka) = finish(bridge, platform, &bootstrap, "entries");
    assert_eq!(in_file.duplicates, 0);
    assert!(
        in_file.sent > 9_000 && in_kafka.sent == in_file.sent,
        "{in_file:?} {in_kafka:?}"
    );
}

#[test]
fn deleted_topic_holds_the_cursor_until_recreated() {
    let Some(bootstrap) = kafka_bootstrap() else {
        return;
    };
    let admin = KafkaAdmin::new(&bootstrap).unwrap();
    let topic = format!("deleted-{}", std::process::id());
    admin.create_topic(&topic, 1, &[]).unwrap();
    let dir = Scratch::new("deleted-topic").unwrap();
    let platform = Platform::start(&dir, &["--rate", "500"]).unwrap();
    // By default librdkafka waits 30 s before it reports a topic that existed before as missing.
    let config = config(&platform.url(), &bootstrap, &topic)
        + "[sinks.kafka.properties]\n\"topic.metadata.propagation.max.ms\" = \"1000\"\n";
    let bridge = Bridge::start(&dir, &config).unwrap();
    bridge
        .wait("events to flow", DELIVERY, |status| {
            status.delivered("kafka") > 100
        })
        .unwrap();
    admin.delete_topic(&topic).unwrap();
    let down = bridge
        .wait("the sink to name the topic", DELIVERY, |status| {
            let kafka = &status.sink("kafka");
            kafka.state == SinkState::Down
                && kafka
                    .reason
                    .as_deref()
                    .is_some_and(|reason| reason.contains(&topic))
        })
        .unwrap();
    let settled = down.delivered("kafka");
    wait_until("the topic to be deleted and recreated", DELIVERY, || {
        admin.create_topic(&topic, 1, &[]).is_ok()
    })
    .unwrap();
    let up = bridge
        .wait("the sink to continue", DELIVERY, |status| {
            status.sink("kafka").state == SinkState::Up && status.delivered("kafka") > settled + 1000
        })
        .unwrap();
    assert_eq!(up.sink("kafka").ledger.dead_lettered, 0);
    let (status, log) = bridge.stop(Signal::SIGTERM, STOP).unwrap();
    assert!(status.success(), "{status}: {log}");
    // The events settled before were deleted with the old topic; the new topic has all events after the cursor.
    let sent = audit::received(platform, &log, "main").unwrap();
    let records = read_topic(&bootstrap, &topic, DELIVERY).unwrap();
    let lanes = audit::kafka(&records, "main").unwrap();
    let first = lanes[0].first().unwrap().id;
    assert!(
        first <= settled + 1,
        "the new topic starts with {first}, but {settled} events were settled before"
    );
    let rest: Vec<_> = sent.into_iter().filter(|event| event.id >= first).collect();
    audit::audit(&rest, &lanes).unwrap();
}
