//! Tests the sink with brokers that are unreachable or silent.

use super::*;

#[tokio::test]
async fn fault_of_an_unreachable_broker_names_its_address() {
    let mut config = KafkaConfig::new("127.0.0.1:1");
    config.properties.insert(
        "reconnect.backoff.ms".into(),
        neurobridge_core::secret::Secret::new("10"),
    );
    // A template names no topic to look up, but a broker still has to answer.
    for topic in ["events", "{result}"] {
        config.topic = topic.parse().unwrap();
        let mut sink = KafkaSink::new("kafka", config.clone());
        let fault = timeout(LIMIT, connect(&mut sink)).await.unwrap().unwrap_err();
        assert_eq!(fault.kind, FaultKind::Unreachable);
        assert!(
            fault.reason.contains("127.0.0.1:1") && fault.reason.contains("bootstrap_servers"),
            "{fault}"
        );
    }
}

#[tokio::test]
async fn fault_of_a_silent_broker_states_the_missing_answer() {
    // The listener accepts connections and never answers.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = KafkaConfig::new(listener.local_addr().unwrap().to_string());
    let mut sink = KafkaSink::new("kafka", config);
    let fault = timeout(LIMIT, connect(&mut sink)).await.unwrap().unwrap_err();
    assert!(
        matches!(fault.kind, FaultKind::Timeout | FaultKind::Unreachable),
        "{fault}"
    );
    assert!(
        fault.reason.contains("bootstrap_servers") && fault.reason.contains("answers within"),
        "{fault}"
    );
}

#[tokio::test]
async fn lost_broker_makes_the_sink_unavailable_without_a_fault() {
    let kafka = Kafka::start(1);
    let mut sink = connected(kafka.config()).await;
    sink.publish(&event(1, &frame(1)), &Bytes::new()).unwrap();
    outcomes(&mut sink, 1).await.unwrap();
    kafka.cluster.broker_down(-1).unwrap();
    wait_until("unavailable", || sink.unavailable().is_some()).await;
    let fault = sink.unavailable().unwrap();
    assert_eq!(fault.kind, FaultKind::Unreachable);
    assert!(fault.reason.contains("no Kafka broker can be reached"), "{fault}");
    let frames: Vec<_> = (2..=200).map(frame).collect();
    for (number, frame) in (2..).zip(&frames) {
        sink.publish(&event(number, frame), &Bytes::new()).unwrap();
    }
    kafka.cluster.broker_up(-1).unwrap();
    let acks = outcomes(&mut sink, 199).await.unwrap();
    assert!(acks.iter().all(|ack| ack.outcome == Outcome::Delivered));
    assert_eq!(sink.unavailable(), None);
    // The same producer has sent all events: in order, without duplicates.
    assert_eq!(kafka.ids(200), (1..=200).collect::<Vec<_>>());
}

#[tokio::test]
async fn silent_broker_makes_the_sink_unavailable() {
    let kafka = Kafka::start(1);
    let mut sink = connected(kafka.config()).await;
    tokio::time::pause();
    tokio::time::advance(STALLED_AFTER * 2).await;
    assert_eq!(sink.unavailable(), None, "nothing waits");
    kafka.cluster.broker_round_trip_time(-1, LIMIT).unwrap();
    sink.publish(&event(1, &frame(1)), &Bytes::new()).unwrap();
    tokio::time::advance(STALLED_AFTER).await;
    assert_eq!(sink.unavailable(), None);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(
        sink.unavailable()
            .unwrap()
            .reason
            .contains("no acknowledgement from Kafka for 11 seconds")
    );
}

#[tokio::test]
async fn connect_fails_while_too_many_clients_shut_down() {
    let kafka = Kafka::start(1);
    let mut sink = connected(kafka.config()).await;
    let hanging: Vec<_> = (0..MAX_CLIENTS).map(|_| sink.health.count_client()).collect();
    let fault = connect(&mut sink).await.unwrap_err();
    assert!(
        !fault.is_final && fault.reason.contains("have not shut down"),
        "{fault}"
    );
    drop(hanging);
    connect(&mut sink).await.unwrap();
    drop(sink.connection.take());
    // These clients include the ones that inspected topics.
    wait_until("all clients to end", || sink.health.clients() == 0).await;
}
