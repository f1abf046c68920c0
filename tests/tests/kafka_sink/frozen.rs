//! A single broker that its controller fences, so that the metadata lists no broker: intentionally, and by repeated
//! freezes that are shorter or longer than the session timeout of the broker.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use neurobridge_core::{delivery::SinkState, secret::Secret};
use neurobridge_sink_kafka::{Delivery as Guarantee, KafkaConfig, TransactionConfig};
use neurobridge_tests::{
    kafka::{Kafka, KafkaOptions, admin::KafkaAdmin, records::Record},
    poll::wait_until,
    shared::own_kafka,
};

use super::support::{Delivery, LIMIT, assert_complete_and_in_order, blocking, records, topic};

const ROUNDS: u64 = 3;
/// The durations of the freezes: slightly shorter and longer than the two seconds after which the controller fences a silent
/// broker.
const FREEZES_MS: [u64; 6] = [2_200, 2_900, 1_500, 2_500, 2_000, 2_700];
const EVENTS_BETWEEN: u64 = 50;

fn config(kafka: &Kafka, guarantee: Guarantee) -> KafkaConfig {
    let topic = topic("frozen");
    let mut config = KafkaConfig::new(kafka.bootstrap());
    config.topic = topic.parse().unwrap();
    config.delivery = guarantee;
    config.transaction = (guarantee == Guarantee::ExactlyOnce).then(|| TransactionConfig {
        id: Some(topic.clone()),
        cursor_topic: format!("{topic}.cursors"),
        ..TransactionConfig::default()
    });
    (config.create, config.partitions, config.replicas) = (true, Some(3), Some(1));
    config
}

fn ids(records: &[Record]) -> Vec<u64> {
    let id = |record: &Record| -> u64 {
        let value: serde_json::Value = serde_json::from_slice(record.value.as_ref().unwrap()).unwrap();
        value["id"].as_u64().unwrap()
    };
    records.iter().map(id).collect()
}

/// librdkafka may stop connecting when the metadata lists no broker (librdkafka's issue 5301). The delivery then
/// replaces the client.
#[tokio::test(flavor = "multi_thread")]
async fn repeatedly_fenced_broker_stops_no_sink() {
    let Some(mut kafka) = blocking(|| own_kafka(KafkaOptions::default())).await else {
        return;
    };
    let configs = [Guarantee::AtLeastOnce, Guarantee::ExactlyOnce].map(|one| config(&kafka, one));
    let topics = configs
        .each_ref()
        .map(|config| config.topic.constant().unwrap().to_owned());
    let mut deliveries = configs.map(Delivery::start);
    let mut events = 0;
    for _ in 0..ROUNDS {
        for freeze in FREEZES_MS {
            for delivery in &mut deliveries {
                delivery.append_many(EVENTS_BETWEEN).await;
            }
            events += EVENTS_BETWEEN;
            // The duration of the freeze is the input of the test, not a wait for a condition.
            kafka.freeze().unwrap();
            tokio::time::sleep(Duration::from_millis(freeze)).await;
            kafka.thaw().unwrap();
            tokio::time::sleep(Duration::from_millis(freeze / 5)).await;
        }
        for delivery in &deliveries {
            delivery.until_settled().await;
        }
    }
    for delivery in deliveries {
        let ending = delivery.finish().await;
        assert_eq!(ending.snapshot.cursor.counts.delivered, events);
        println!("{} clients were replaced", ending.snapshot.client_replacements);
    }
    let [at_least_once, exactly_once] = topics;
    assert_complete_and_in_order(&records(&kafka.bootstrap(), &at_least_once).await, events);
    let once = ids(&records(&kafka.bootstrap(), &exactly_once).await);
    assert_eq!(once.len() as u64, events, "each event once");
    assert_eq!(once.into_iter().collect::<BTreeSet<_>>(), (1..=events).collect());
}

/// An intentional fence causes the state that the freezes cause only by chance.
#[tokio::test(flavor = "multi_thread")]
async fn metadata_without_brokers_stops_no_sink() {
    let options = KafkaOptions {
        fenceable: true,
        ..KafkaOptions::default()
    };
    let Some(kafka) = blocking(|| own_kafka(options)).await else {
        return;
    };
    let configs = [Guarantee::AtLeastOnce, Guarantee::ExactlyOnce].map(|one| {
        let mut config = config(&kafka, one);
        let refresh = Secret::new("500");
        config
            .properties
            .insert("topic.metadata.refresh.interval.ms".into(), refresh);
        config
    });
    let exactly_once = configs[1].topic.constant().unwrap().to_owned();
    let mut deliveries = configs.map(Delivery::start);
    for delivery in &mut deliveries {
        delivery.append_many(EVENTS_BETWEEN).await;
        delivery.until_settled().await;
    }
    kafka.fence().unwrap();
    let bootstrap = kafka.bootstrap();
    blocking(move || {
        let admin = KafkaAdmin::new(&bootstrap).unwrap();
        wait_until("the metadata to list no broker", LIMIT, || {
            admin.brokers() == Some(0)
        })
        .unwrap();
    })
    .await;
    // On an open connection the broker still accepts events, until the client requests metadata.
    let mut events = EVENTS_BETWEEN;
    let deadline = Instant::now() + LIMIT;
    let is_down = |delivery: &Delivery| delivery.progress.snapshot().state == SinkState::Down;
    while !deliveries.iter().all(is_down) {
        assert!(Instant::now() < deadline, "the sinks are not down");
        for delivery in &mut deliveries {
            delivery.append_many(1).await;
        }
        events += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    kafka.unfence().unwrap();
    for delivery in deliveries {
        delivery.until_settled().await;
        let ending = delivery.finish().await;
        assert_eq!(ending.snapshot.cursor.counts.delivered, events);
        println!("{} clients were replaced", ending.snapshot.client_replacements);
    }
    let once = ids(&records(&kafka.bootstrap(), &exactly_once).await);
    assert_eq!(once.len() as u64, events, "each event once");
}
