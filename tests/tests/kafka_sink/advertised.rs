//! A broker that advertises an unreachable address: the most common configuration error with Kafka. The client
//! receives metadata, and every later connection fails.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use neurobridge_core::{delivery::SinkState, sink::FaultKind};
use neurobridge_sink_kafka::{Delivery as Guarantee, KafkaConfig};
use neurobridge_tests::{
    kafka::{Kafka, KafkaOptions, admin::KafkaAdmin},
    shared::own_kafka,
};

use super::support::{
    Delivery, advertise, assert_complete_and_in_order, blocking, closed_address, records, topic, tried,
};

/// The time limit of each wait: three times the limit of the sink for partition leaders and topic creation, so that no test
/// fails on a slow machine.
const REASON_LIMIT: Duration = Duration::from_secs(45);

async fn advertised(mut kafka: Kafka, address: Option<String>) -> Kafka {
    blocking(move || {
        advertise(&mut kafka, address.as_deref());
        kafka
    })
    .await
}

fn config(kafka: &Kafka, topic: &str) -> KafkaConfig {
    let mut config = KafkaConfig::new(kafka.bootstrap());
    config.topic = topic.parse().unwrap();
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_advertised_listener_is_named_in_seconds() {
    let Some(mut kafka) = blocking(|| own_kafka(KafkaOptions::default())).await else {
        return;
    };
    let topic = topic("advertised");
    KafkaAdmin::new(&kafka.bootstrap())
        .unwrap()
        .create_topic(&topic, 1, &[])
        .unwrap();
    // The system accepts connections, and no program reads from them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_at = silent.local_addr().unwrap().to_string();
    let wrong = [
        (closed_address(), "connection refused"),
        (silent_at, "requests have no answer"),
        (
            "no-such-broker.invalid:9092".to_owned(),
            "no-such-broker.invalid:9092",
        ),
    ];
    for (address, why) in wrong {
        kafka = advertised(kafka, Some(address.clone())).await;
        let is_named = |reason: &str| {
            reason.contains("broker 1 at ")
                && [&address, why, "advertised.listeners", &kafka.bootstrap()]
                    .iter()
                    .all(|part| reason.contains(*part))
        };
        let plain = config(&kafka, &topic);
        let templated = config(&kafka, &format!("{topic}.{{space.id}}"));
        let mut creating = config(&kafka, &format!("{topic}.new"));
        (creating.create, creating.partitions, creating.replicas) = (true, Some(1), Some(1));
        let mut exact = config(&kafka, &topic);
        exact.delivery = Guarantee::ExactlyOnce;
        let fault = tried(plain.clone()).await.unwrap_err();
        assert!(is_named(&fault.reason), "{fault}");
        assert_eq!(fault.kind, FaultKind::Unreachable, "{fault}");
        for config in [plain, templated, creating, exact] {
            let began = Instant::now();
            let delivery = Delivery::start(config);
            let snapshot = delivery
                .until("the reason", |snapshot| {
                    snapshot.reason.as_deref().is_some_and(is_named)
                })
                .await;
            assert_eq!(snapshot.state, SinkState::Down);
            assert!(snapshot.faults.total() > 0);
            assert!(began.elapsed() < REASON_LIMIT, "{:?}", began.elapsed());
            println!("{:?}: {}", began.elapsed(), snapshot.reason.unwrap());
        }
    }
    let mut delivery = Delivery::start(config(&kafka, &topic));
    delivery.append_many(100).await;
    delivery
        .until("the outage", |snapshot| snapshot.state == SinkState::Down)
        .await;
    kafka = advertised(kafka, None).await;
    delivery.finish().await;
    assert_complete_and_in_order(&records(&kafka.bootstrap(), &topic).await, 100);
}
