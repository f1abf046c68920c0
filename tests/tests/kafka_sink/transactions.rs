//! Transactions: rejected events within a transaction, and changes of the topics that transactions need.

use neurobridge_core::{delivery::SinkState, sink::FaultKind, sink_config::Format};
use neurobridge_sink_kafka::{
    Compression, DeadLetterConfig, Delivery as Guarantee, KafkaConfig, TransactionConfig,
};
use neurobridge_tests::{kafka::admin::KafkaAdmin, shared::kafka_bootstrap};

use super::support::{Delivery, assert_complete_and_in_order, blocking, connect, frame, records, topic};

/// Returns the configuration of a sink with topics of its own, which the sink creates.
fn config(bootstrap: &str, topic: &str) -> KafkaConfig {
    let mut config = KafkaConfig::new(bootstrap);
    config.topic = topic.parse().unwrap();
    config.delivery = Guarantee::ExactlyOnce;
    config.transaction = Some(TransactionConfig {
        id: Some(topic.to_owned()),
        cursor_topic: format!("{topic}.cursors"),
        ..TransactionConfig::default()
    });
    (config.create, config.partitions, config.replicas) = (true, Some(1), Some(1));
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn rejection_in_a_transaction_becomes_one_dead_letter() {
    let Some(bootstrap) = blocking(kafka_bootstrap).await else {
        return;
    };
    let topic = topic("refused");
    let dead = format!("{topic}.dead");
    let mut config = config(&bootstrap, &topic);
    config.format = Format::Raw;
    config.compression = Compression::None;
    config.dead_letter = Some(DeadLetterConfig {
        topic: Some(dead.clone()),
        path: None,
    });
    let mut delivery = Delivery::start(config);
    delivery.append_many(10).await;
    delivery.until_settled().await;
    // The sink detects this change only by the rejections.
    let admin = KafkaAdmin::new(&bootstrap).unwrap();
    admin
        .configure_topic(&topic, &[("max.message.bytes", "3000")])
        .unwrap();
    let padding = "x".repeat(600);
    for id in 11..=60_u64 {
        let text = if id == 30 {
            "x".repeat(4_000)
        } else {
            padding.clone()
        };
        delivery
            .append(&format!(
                r#"{{"id":{id},"data":{{"id":{id},"pid":"p","x":"{text}"}}}}"#
            ))
            .await;
    }
    let ending = delivery.finish().await;
    let counts = ending.snapshot.cursor.counts;
    assert_eq!((counts.delivered, counts.dead_lettered), (59, 1));
    let ids: Vec<u64> = records(&bootstrap, &topic)
        .await
        .iter()
        .map(|record| {
            serde_json::from_slice::<serde_json::Value>(record.value.as_ref().unwrap()).unwrap()["id"]
                .as_u64()
                .unwrap()
        })
        .collect();
    let wanted: Vec<u64> = (1..=60).filter(|id| *id != 30).collect();
    assert_eq!(ids, wanted, "each event once, in order");
    let dead_letters = records(&bootstrap, &dead).await;
    assert_eq!(dead_letters.len(), 1);
    let dead_letter: serde_json::Value =
        serde_json::from_slice(dead_letters[0].value.as_ref().unwrap()).unwrap();
    assert_eq!(dead_letter["sequence"], 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_topic_duplicates_no_event() {
    let Some(bootstrap) = blocking(kafka_bootstrap).await else {
        return;
    };
    let topic = topic("gone");
    let mut config = config(&bootstrap, &topic);
    config.create = false;
    (config.partitions, config.replicas) = (None, None);
    // Without the topic, and then without the topic of cursors, the sink does not connect.
    let fault = connect(config.clone()).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Missing, "{fault}");
    let admin = KafkaAdmin::new(&bootstrap).unwrap();
    admin.create_topic(&topic, 1, &[]).unwrap();
    let fault = connect(config.clone()).await.unwrap_err();
    assert!(
        fault.kind == FaultKind::Missing
            && fault.reason.contains(".cursors")
            && fault.reason.contains("cleanup.policy=compact"),
        "{fault}"
    );
    admin
        .create_topic(&format!("{topic}.cursors"), 1, &[("cleanup.policy", "compact")])
        .unwrap();
    let mut delivery = Delivery::start(config);
    delivery.append_many(100).await;
    delivery.until_settled().await;
    assert_complete_and_in_order(&records(&bootstrap, &topic).await, 100);
    // After the deletion, events wait until the topic is created again.
    admin.delete_topic(&topic).unwrap();
    for id in 101..=200 {
        delivery.append(&frame(id)).await;
    }
    delivery
        .until("the missing topic to be named", |snapshot| {
            let named = |reason: &String| reason.contains(&topic) && !reason.contains(".cursors");
            snapshot.state == SinkState::Down
                && snapshot.faults.get(FaultKind::Missing) > 0
                && snapshot.reason.as_ref().is_some_and(named)
        })
        .await;
    blocking({
        let (bootstrap, topic) = (bootstrap.clone(), topic.clone());
        move || {
            let admin = KafkaAdmin::new(&bootstrap).unwrap();
            neurobridge_tests::poll::wait_until("the topic to be recreated", super::support::LIMIT, || {
                admin.create_topic(&topic, 1, &[]).is_ok()
            })
            .unwrap();
        }
    })
    .await;
    let ending = delivery.finish().await;
    assert_eq!(ending.snapshot.cursor.counts.delivered, 200);
    let records: Vec<_> = records(&bootstrap, &topic).await;
    assert_eq!(records.len(), 100, "as many records as events after the deletion");
}
