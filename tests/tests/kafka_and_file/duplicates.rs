//! The meaning of `at_least_once`: an event may be delivered twice, and its identity shows that it is a duplicate.

use std::collections::HashMap;

use neurobridge_tests::{
    bridge::Bridge,
    kafka::{
        KafkaOptions,
        admin::KafkaAdmin,
        records::{Record, read_topic},
    },
    paths::Scratch,
    platform::Platform,
    shared::own_kafka,
};
use nix::sys::signal::Signal;

use super::{DELIVERY, STOP, config};

/// The largest number of kills. A kill duplicates events only if events were delivered after the cursor was last
/// saved, so the test repeats the kill until an event is duplicated.
const MOST_KILLS: u64 = 20;

#[test]
fn duplicate_event_has_the_same_identity() {
    let Some(kafka) = own_kafka(KafkaOptions::default()) else {
        return;
    };
    let bootstrap = kafka.bootstrap();
    KafkaAdmin::new(&bootstrap)
        .unwrap()
        .create_topic("entries", 3, &[])
        .unwrap();
    let dir = Scratch::new("twice").unwrap();
    let platform = Platform::start(&dir, &["--rate", "3000"]).unwrap();
    let config = format!(
        "{}\n[spool]\ntype = \"disk\"\n",
        config(&platform.url(), &bootstrap, "entries")
    );
    let mut seen = 0;
    let mut bridge = Bridge::start(&dir, &config).unwrap();
    for kill in 1..=MOST_KILLS {
        let status = bridge
            .wait("events in Kafka", DELIVERY, |status| {
                status.delivered("kafka") > seen + 500
            })
            .unwrap();
        seen = status.delivered("kafka");
        bridge.process().kill().unwrap();
        bridge = Bridge::start(&dir, &config).unwrap();
        bridge
            .wait("the events without an acknowledgement", DELIVERY, |status| {
                status.delivered("kafka") > seen + 500
            })
            .unwrap();
        let copies = copies(&read_topic(&bootstrap, "entries", DELIVERY).unwrap());
        let twice: Vec<_> = copies.values().filter(|copies| copies.len() > 1).collect();
        assert!(kill < MOST_KILLS || !twice.is_empty(), "no event was duplicated");
        for copies in &twice {
            for copy in &copies[1..] {
                // Apart from the position in the partition, a duplicate is identical: id, source, sequence, key and body.
                let first = &copies[0];
                assert_eq!(
                    (&copy.key, &copy.headers, &copy.value),
                    (&first.key, &first.headers, &first.value)
                );
                // An event without a key may be in any partition.
                assert!(copy.key.is_none() || copy.partition == first.partition);
            }
        }
        if !twice.is_empty() {
            break;
        }
    }
    let (status, log) = bridge.stop(Signal::SIGTERM, STOP).unwrap();
    assert!(status.success(), "{status}: {log}");
    drop(platform.stop().unwrap());
}

/// Groups the records by identity.
fn copies(records: &[Record]) -> HashMap<String, Vec<Record>> {
    let mut copies: HashMap<String, Vec<Record>> = HashMap::new();
    for record in records {
        let identity = format!(
            "{}/{}",
            record.header("ce_source").unwrap(),
            record.header("ce_id").unwrap()
        );
        copies.entry(identity).or_default().push(record.clone());
    }
    copies
}
