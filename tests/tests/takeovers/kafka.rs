//! Takeovers with a Kafka topic of three partitions and exactly-once delivery.

use std::collections::{BTreeMap, HashMap};

use neurobridge_core::{sink::FaultKind, sink_config::Format};
use neurobridge_sink_kafka::{Delivery as Guarantee, KafkaConfig, KafkaSink, TransactionConfig};
use neurobridge_tests::{kafka::records::Record, shared::kafka_bootstrap};
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};

use super::*;
use crate::kafka_sink::support::{LIMIT, blocking, records, topic};

fn exactly_once(bootstrap: &str, topic: &str, format: Format) -> KafkaConfig {
    let mut config = KafkaConfig::new(bootstrap);
    config.topic = topic.parse().unwrap();
    config.format = format;
    config.delivery = Guarantee::ExactlyOnce;
    config.transaction = Some(TransactionConfig {
        id: Some(topic.to_owned()),
        cursor_topic: format!("{topic}.cursors"),
        ..TransactionConfig::default()
    });
    (config.create, config.partitions, config.replicas) = (true, Some(3), Some(1));
    config
}

fn member(config: KafkaConfig) -> impl Fn(Lead) -> KafkaSink {
    move |lead| KafkaSink::new("kafka", config.clone()).as_member(lead)
}

/// Checks that the events 1 to `count` are stored once each, and in order for each person.
fn assert_once_and_in_order(records: &[Record], count: u64) {
    let mut copies = BTreeMap::new();
    let mut last = HashMap::new();
    for record in records {
        let value: serde_json::Value = serde_json::from_slice(record.value.as_ref().unwrap()).unwrap();
        let id = value["id"].as_u64().unwrap();
        *copies.entry(id).or_insert(0) += 1;
        let before = last.insert(record.key.clone(), id).unwrap_or(0);
        assert!(before < id, "{id} came after {before} of the same person");
    }
    let wanted: BTreeMap<u64, i32> = (1..=count).map(|id| (id, 1)).collect();
    assert!(
        copies == wanted,
        "{:?}",
        copies
            .iter()
            .filter(|(_, copies)| **copies > 1)
            .collect::<Vec<_>>()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_leaders_leave_each_event_once_and_in_order() {
    let Some(bootstrap) = blocking(kafka_bootstrap).await else {
        return;
    };
    let topic = topic("takeovers");
    let events = killed_leaders(member(exactly_once(&bootstrap, &topic, Format::Cloudevents))).await;
    assert_once_and_in_order(&records(&bootstrap, &topic).await, events);
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_records_are_recognised_by_their_header() {
    let Some(bootstrap) = blocking(kafka_bootstrap).await else {
        return;
    };
    let topic = topic("handed-over");
    let events = handed_over(member(exactly_once(&bootstrap, &topic, Format::Raw))).await;
    let all = records(&bootstrap, &topic).await;
    assert_once_and_in_order(&all, events);
    assert!(all.iter().all(|record| {
        record
            .header("neurobridge_identity")
            .is_some_and(|identity| identity.starts_with("main/"))
    }));
}

#[tokio::test(flavor = "multi_thread")]
async fn fenced_leader_follows() {
    let Some(bootstrap) = blocking(kafka_bootstrap).await else {
        return;
    };
    let topic = topic("fenced");
    let events = stale_leader(member(exactly_once(&bootstrap, &topic, Format::Cloudevents))).await;
    assert_once_and_in_order(&records(&bootstrap, &topic).await, events);
}

/// Returns a producer of another program with an open transaction.
fn open_transaction(bootstrap: &str, topic: &str) -> BaseProducer {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("transactional.id", format!("{topic}.foreign"))
        .create()
        .unwrap();
    producer.init_transactions(LIMIT).unwrap();
    producer.begin_transaction().unwrap();
    for partition in 0..3 {
        let record: BaseRecord<'_, str, str> = BaseRecord::to(topic).partition(partition).payload("{}");
        producer.send(record).unwrap();
    }
    producer.flush(LIMIT).unwrap();
    producer
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_that_hides_records_from_a_follower_is_reported() {
    let Some(bootstrap) = blocking(kafka_bootstrap).await else {
        return;
    };
    let topic = topic("hidden");
    let make = member(exactly_once(&bootstrap, &topic, Format::Cloudevents));
    let mut members = two(&make);
    members[0].lease.send_replace(lasting());
    append(&mut members, 0..2).await;
    let events = members[0].feed.appended();
    for member in &members {
        member.delivery().until_settled(events).await;
    }
    let producer = blocking({
        let (bootstrap, topic) = (bootstrap.clone(), topic.clone());
        move || open_transaction(&bootstrap, &topic)
    })
    .await;
    append(&mut members, 2..4).await;
    let follower = members[1].delivery();
    follower.until_down("open transaction").await;
    // The open transaction does not concern the leader, which only writes to the topic.
    members[0]
        .delivery()
        .until_settled(members[0].feed.appended())
        .await;
    blocking(move || producer.abort_transaction(LIMIT).unwrap()).await;
    let events = members[0].feed.appended();
    for member in &members {
        member.delivery().until_settled(events).await;
    }
    // The markers that Kafka stores at the end of a transaction do not count as records that were not received.
    let faults = members[1].delivery().now().faults;
    assert_eq!(faults.total(), faults.get(FaultKind::Unavailable));
    finish(members).await;
}
