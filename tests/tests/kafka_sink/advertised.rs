//! A broker that advertises an unreachable address: the most common mistake with Kafka. Its metadata comes, and
//! then nothing else does.

use std::{
    fs,
    net::TcpListener,
    time::{Duration, Instant},
};

use neurobridge_core::{delivery::SinkState, sink::FaultKind};
use neurobridge_sink_kafka::{Delivery as Guarantee, KafkaConfig};
use neurobridge_tests::{
    kafka::{Kafka, KafkaOptions, admin::KafkaAdmin},
    shared::own_kafka,
};

use super::support::{Delivery, assert_complete_and_in_order, blocking, records, topic, tried};

/// Three times the limit of the sink for its leaders and the creation of a topic, so that a busy machine fails no test.
const REASON_LIMIT: Duration = Duration::from_secs(45);

/// Starts the broker again with other advertised listeners; without an address, with the right ones.
async fn advertise(mut kafka: Kafka, address: Option<String>) -> Kafka {
    const KEY: &str = "advertised.listeners=PLAINTEXT://";
    blocking(move || {
        kafka.stop().unwrap();
        let file = kafka.dir().join("server.properties");
        let mut text = fs::read_to_string(&file).unwrap();
        // The last line with a key wins; the first one is the right one.
        let end = text.match_indices(KEY).nth(1).map_or(text.len(), |(at, _)| at);
        text.truncate(end);
        if let Some(address) = address {
            text.push_str(&format!("advertised.listeners=PLAINTEXT://{address}\n"));
        }
        fs::write(&file, text).unwrap();
        kafka.start_again().unwrap();
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
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed_at = closed.local_addr().unwrap().to_string();
    drop(closed);
    // The system accepts connections for it; no program reads.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_at = silent.local_addr().unwrap().to_string();
    let wrong = [
        (closed_at, "connection refused"),
        (silent_at, "requests have no answer"),
        (
            "no-such-broker.invalid:9092".to_owned(),
            "no-such-broker.invalid:9092",
        ),
    ];
    for (address, why) in wrong {
        kafka = advertise(kafka, Some(address.clone())).await;
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
            assert!(snapshot.faults.iter().sum::<u64>() > 0);
            assert!(began.elapsed() < REASON_LIMIT, "{:?}", began.elapsed());
            println!("{:?}: {}", began.elapsed(), snapshot.reason.unwrap());
        }
    }
    let mut delivery = Delivery::start(config(&kafka, &topic));
    delivery.append_many(100).await;
    delivery
        .until("the outage", |snapshot| snapshot.state == SinkState::Down)
        .await;
    kafka = advertise(kafka, None).await;
    delivery.finish().await;
    assert_complete_and_in_order(&records(&kafka.bootstrap(), &topic).await, 100);
}
