//! The Kafka sink with topics that are created, missing, deleted or have a lower size limit, and during outages of
//! the broker.

use neurobridge_core::{
    sink::{FaultKind, RejectionReason},
    sink_config::{Format, OversizeAction},
};
use neurobridge_sink_kafka::{DeadLetterConfig, KafkaConfig};
use neurobridge_tests::{
    kafka::{Kafka, KafkaOptions, admin::KafkaAdmin},
    poll::Patience,
    shared::{kafka_bootstrap, own_kafka},
};

use super::support::{
    Delivery, LIMIT, assert_complete_and_in_order, blocking, connect, frame, records, topic, tried,
};

fn config(bootstrap: &str, topic: &str) -> KafkaConfig {
    let mut config = KafkaConfig::new(bootstrap);
    config.topic = topic.parse().unwrap();
    config
}

fn faults(snapshot: &neurobridge_core::delivery::ProgressSnapshot, kind: FaultKind) -> u64 {
    snapshot.faults.get(kind)
}

#[tokio::test(flavor = "multi_thread")]
async fn topic_is_created_only_if_configured() {
    // A broker that creates topics automatically would use its own defaults, which nobody configured.
    let options = KafkaOptions::default().property("auto.create.topics.enable", "true");
    let Some(kafka) = blocking(move || own_kafka(options)).await else {
        return;
    };
    let bootstrap = kafka.bootstrap();
    let topic = topic("made");
    let mut config = config(&bootstrap, &topic);
    let fault = connect(config.clone()).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Missing, "{fault}");
    assert!(fault.reason.contains("create = true"), "{fault}");
    let admin = KafkaAdmin::new(&bootstrap).unwrap();

    config.create = true;
    config.partitions = Some(5);
    config.replicas = Some(3);
    let fault = connect(config.clone()).await.unwrap_err();
    assert!(
        fault.reason.contains("Invalid replication factor") && fault.reason.contains("3 replicas"),
        "{fault}"
    );

    config.replicas = Some(1);
    config.dead_letter = Some(DeadLetterConfig {
        topic: Some(format!("{topic}.dead")),
        path: None,
    });
    // A trial creates nothing, and reports what would be created.
    for _ in 0..2 {
        assert_eq!(
            tried(config.clone()).await.unwrap(),
            [&topic, &format!("{topic}.dead")].map(|name| format!(
                "the topic \"{name}\" does not exist; the bridge creates the topic when it starts"
            ))
        );
    }
    let mut delivery = Delivery::start(config.clone());
    delivery.append_many(100).await;
    delivery.finish().await;
    assert_eq!(tried(config).await.unwrap(), [""; 0]);
    assert_eq!(admin.leaders(&topic), 5);
    assert_eq!(admin.leaders(&format!("{topic}.dead")), 5);
    assert_complete_and_in_order(&records(&bootstrap, &topic).await, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn templated_topics_are_created_on_first_use() {
    let Some(bootstrap) = blocking(kafka_bootstrap).await else {
        return;
    };
    let prefix = topic("template");
    let mut config = config(&bootstrap, &format!("{prefix}.{{space.id}}"));
    (config.create, config.partitions, config.replicas) = (true, Some(2), Some(1));
    let mut delivery = Delivery::start(config);
    for id in 1..=90 {
        let space = ["a", "b/c", "ü"][id % 3];
        delivery
            .append(&format!(
                r#"{{"id":{id},"data":{{"id":{id},"pid":"p","space":{{"id":"{space}"}}}}}}"#
            ))
            .await;
    }
    let ending = delivery.finish().await;
    assert_eq!(
        (ending.snapshot.cursor.counts.delivered, ending.dead_letters.len()),
        (90, 0)
    );
    for name in ["a", "b_c", "_"] {
        assert_eq!(records(&bootstrap, &format!("{prefix}.{name}")).await.len(), 30);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_new_topics_need_one_connection() {
    const TOPICS: u64 = 200;
    const EVENTS: u64 = 3 * TOPICS;
    let Some(bootstrap) = blocking(kafka_bootstrap).await else {
        return;
    };
    let prefix = topic("many");
    let mut config = config(&bootstrap, &format!("{prefix}.{{space.id}}"));
    (config.create, config.partitions, config.replicas) = (true, Some(1), Some(1));
    let mut delivery = Delivery::start(config);
    for id in 1..=EVENTS {
        let space = id % TOPICS;
        let frame = format!(r#"{{"id":{id},"data":{{"id":{id},"pid":"p","space":{{"id":"{space}"}}}}}}"#);
        delivery.append(&frame).await;
    }
    let ending = delivery.finish().await;
    let snapshot = ending.snapshot;
    assert_eq!(
        (snapshot.cursor.counts.delivered, ending.dead_letters.len()),
        (EVENTS, 0)
    );
    // Each new connection of the sink follows a fault or replaces the client.
    assert_eq!((snapshot.client_replacements, snapshot.faults.total()), (0, 0));
    let admin = KafkaAdmin::new(&bootstrap).unwrap();
    let names: Vec<_> = (0..TOPICS).map(|space| format!("{prefix}.{space}")).collect();
    let leaders = blocking(move || names.iter().map(|name| admin.leaders(name)).collect::<Vec<_>>()).await;
    assert_eq!(leaders, vec![1; usize::try_from(TOPICS).unwrap()]);
    assert_eq!(records(&bootstrap, &format!("{prefix}.7")).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_wait_while_the_topic_is_deleted() {
    let Some(bootstrap) = blocking(kafka_bootstrap).await else {
        return;
    };
    let admin = KafkaAdmin::new(&bootstrap).unwrap();
    let topic = topic("deleted");
    admin.create_topic(&topic, 1, &[]).unwrap();
    let mut delivery = Delivery::start(config(&bootstrap, &topic));
    delivery.append_many(100).await;
    delivery.until_settled().await;

    blocking({
        let topic = topic.clone();
        move || admin.delete_topic(&topic).unwrap()
    })
    .await;
    for id in 101..=300 {
        delivery.append(&frame(id)).await;
    }
    let snapshot = delivery
        .until("the missing topic", |snapshot| {
            faults(snapshot, FaultKind::Missing) > 0
        })
        .await;
    assert_eq!(snapshot.cursor.counts.dead_lettered, 0);

    let admin = KafkaAdmin::new(&bootstrap).unwrap();
    admin.create_topic(&topic, 1, &[]).unwrap();
    let ending = delivery.finish().await;
    assert_eq!(
        (ending.snapshot.cursor.counts.delivered, ending.dead_letters.len()),
        (300, 0)
    );
    let ids: Vec<u64> = records(&bootstrap, &topic)
        .await
        .iter()
        .map(|record| {
            serde_json::from_slice::<serde_json::Value>(record.value.as_ref().unwrap()).unwrap()["id"]
                .as_u64()
                .unwrap()
        })
        .collect();
    // All events published after the deletion, in order.
    assert_eq!(ids, (101..=300).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn event_over_topic_limit_is_stripped_or_dead_lettered() {
    let Some(bootstrap) = blocking(kafka_bootstrap).await else {
        return;
    };
    let admin = KafkaAdmin::new(&bootstrap).unwrap();
    for (word, oversize) in [
        ("narrow", OversizeAction::DeadLetter),
        ("stripped", OversizeAction::Strip),
    ] {
        let topic = topic(word);
        admin
            .create_topic(&topic, 1, &[("max.message.bytes", "5000")])
            .unwrap();
        let dead = format!("{topic}.dead");
        admin.create_topic(&dead, 1, &[]).unwrap();
        let mut config = config(&bootstrap, &topic);
        config.format = Format::Raw;
        config.oversize = oversize;
        config.compression = neurobridge_sink_kafka::Compression::None;
        config.dead_letter = Some(DeadLetterConfig {
            topic: Some(dead.clone()),
            path: None,
        });
        let mut delivery = Delivery::start(config);
        for id in 1..=200_u64 {
            // Many events that fill batches, some that fit exactly, and some that do not fit.
            let picture = "A".repeat(match id % 50 {
                0 => 6_000,
                1 => 4_700,
                _ => 600,
            });
            delivery
                .append(&format!(
                    r#"{{"id":{id},"data":{{"id":{id},"pid":"p","face_image":"{picture}"}}}}"#
                ))
                .await;
        }
        let ending = delivery.finish().await;
        let counts = ending.snapshot.cursor.counts;
        let found = records(&bootstrap, &topic).await;
        if oversize == OversizeAction::Strip {
            assert_eq!((counts.delivered, counts.dead_lettered), (200, 0));
            assert_complete_and_in_order(&found, 200);
            let stripped: Vec<_> = found
                .iter()
                .filter_map(|record| record.header("neurobridge_strippedfields"))
                .collect();
            assert_eq!(stripped, ["face_image"; 4]);
        } else {
            assert_eq!((counts.delivered, counts.dead_lettered), (196, 4));
            assert_eq!(found.len(), 196);
            assert_eq!(ending.snapshot.dead_letters.get(RejectionReason::TooLarge), 4);
            let dead_letters = records(&bootstrap, &dead).await;
            assert_eq!(dead_letters.len(), 4);
            let dead_letter: serde_json::Value =
                serde_json::from_slice(dead_letters[0].value.as_ref().unwrap()).unwrap();
            assert_eq!(
                (
                    dead_letter["reason"].as_str(),
                    dead_letter["event"]["id"].as_u64()
                ),
                (Some("too_large"), Some(50))
            );
        }
        // The sink knew the limit from the start, so no batch was rejected.
        assert_eq!((ending.snapshot.resent, ending.snapshot.faults.total()), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lowered_limit_loses_no_event() {
    let Some(bootstrap) = blocking(kafka_bootstrap).await else {
        return;
    };
    let admin = KafkaAdmin::new(&bootstrap).unwrap();
    let topic = topic("lowered");
    admin.create_topic(&topic, 1, &[]).unwrap();
    let mut config = config(&bootstrap, &topic);
    config.format = Format::Raw;
    config.compression = neurobridge_sink_kafka::Compression::None;
    let mut delivery = Delivery::start(config);
    delivery.append_many(10).await;
    delivery.until_settled().await;
    admin
        .configure_topic(&topic, &[("max.message.bytes", "3000")])
        .unwrap();
    let padding = "x".repeat(600);
    for id in 11..=60_u64 {
        delivery
            .append(&format!(
                r#"{{"id":{id},"data":{{"id":{id},"pid":"p","x":"{padding}"}}}}"#
            ))
            .await;
    }
    let large = "x".repeat(4_000);
    delivery
        .append(&format!(
            r#"{{"id":61,"data":{{"id":61,"pid":"p","x":"{large}"}}}}"#
        ))
        .await;
    let ending = delivery.finish().await;
    let counts = ending.snapshot.cursor.counts;
    assert_eq!((counts.delivered, counts.dead_lettered), (60, 1));
    // Only this event became a dead letter: the other events of the rejected batches were published again alone.
    assert!(
        ending.dead_letters[0].contains("\"length\":40"),
        "{:?}",
        ending.dead_letters
    );
    let ids: std::collections::BTreeSet<_> = records(&bootstrap, &topic)
        .await
        .iter()
        .map(|record| record.value.clone())
        .collect();
    assert_eq!(ids.len(), 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn lowered_limit_is_read_after_the_first_rejection() {
    let Some(bootstrap) = blocking(kafka_bootstrap).await else {
        return;
    };
    let admin = KafkaAdmin::new(&bootstrap).unwrap();
    let topic = topic("read.again");
    admin.create_topic(&topic, 1, &[]).unwrap();
    let mut config = config(&bootstrap, &topic);
    config.compression = neurobridge_sink_kafka::Compression::None;
    let mut delivery = Delivery::start(config);
    delivery.append_many(1).await;
    delivery.until_settled().await;
    admin
        .configure_topic(&topic, &[("max.message.bytes", "3000")])
        .unwrap();
    let large = "x".repeat(4_000);
    let mut patience = Patience::new("the refusal by the new limit", LIMIT);
    // The broker rejects the first event; the sink then rejects events before sending.
    while !delivery
        .dead_letters()
        .iter()
        .any(|dead_letter| dead_letter.contains("expected at most 3000"))
    {
        let checked = patience.check();
        checked.unwrap_or_else(|error| panic!("{error:#}: {:?}", delivery.dead_letters().last()));
        delivery
            .append(&format!(r#"{{"id":1,"data":{{"pid":"p","x":"{large}"}}}}"#))
            .await;
        // An event that fits, so that the dead letters are not consecutive.
        delivery.append(&frame(2)).await;
        delivery.until_settled().await;
    }
    assert!(
        delivery.dead_letters()[0].contains("rejects a message"),
        "{:?}",
        delivery.dead_letters()[0]
    );
    let ending = delivery.finish().await;
    // The sink has replaced its producer without a fault, so the delivery is not affected.
    assert_eq!(ending.snapshot.faults.total(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_killed_or_frozen_broker_loses_no_event() {
    let Some(mut kafka) = blocking(|| own_kafka(KafkaOptions::default())).await else {
        return;
    };
    let bootstrap = kafka.bootstrap();
    let topic = topic("broken");
    KafkaAdmin::new(&bootstrap)
        .unwrap()
        .create_topic(&topic, 3, &[])
        .unwrap();
    let mut delivery = Delivery::start(config(&bootstrap, &topic));
    let faults: [fn(&mut Kafka); 3] = [
        |kafka| {
            kafka.stop().unwrap();
            kafka.start_again().unwrap();
        },
        |kafka| {
            kafka.kill().unwrap();
            kafka.start_again().unwrap();
        },
        |kafka| {
            kafka.freeze().unwrap();
            kafka.thaw().unwrap();
        },
    ];
    for cause_fault in faults {
        delivery.append_many(500).await;
        kafka = blocking(move || {
            cause_fault(&mut kafka);
            kafka
        })
        .await;
        delivery.append_many(500).await;
    }
    let ending = delivery.finish().await;
    assert_eq!(
        (ending.snapshot.cursor.counts.delivered, ending.dead_letters.len()),
        (3_000, 0)
    );
    // librdkafka continues by itself: no fault, no event resent by the sink, and therefore no duplicate.
    assert_eq!(ending.snapshot.resent, 0);
    let found = records(&bootstrap, &topic).await;
    assert_eq!(found.len(), 3_000);
    assert_complete_and_in_order(&found, 3_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn broker_outage_is_reported_until_it_recovers() {
    let Some(mut kafka) = blocking(|| own_kafka(KafkaOptions::default())).await else {
        return;
    };
    let bootstrap = kafka.bootstrap();
    let topic = topic("away");
    KafkaAdmin::new(&bootstrap)
        .unwrap()
        .create_topic(&topic, 1, &[])
        .unwrap();
    let mut delivery = Delivery::start(config(&bootstrap, &topic));
    delivery.append_many(10).await;
    delivery.until_settled().await;
    kafka.kill().unwrap();
    delivery.append_many(10).await;
    let snapshot = delivery
        .until("the fault", |snapshot| snapshot.reason.is_some())
        .await;
    assert!(
        snapshot
            .reason
            .unwrap()
            .contains("no Kafka broker can be reached")
    );
    let kafka = blocking(move || {
        kafka.start_again().unwrap();
        kafka
    })
    .await;
    delivery.until_settled().await;
    delivery
        .until("the reason to be cleared", |snapshot| snapshot.reason.is_none())
        .await;
    delivery.finish().await;
    drop(kafka);
}
