//! Tests what a member of a cluster publishes in each role.

use tokio::sync::watch;

use super::*;

type Lease = watch::Sender<Option<Instant>>;

const DEAD: &str = "dead";

fn lasting() -> Option<Instant> {
    Some(Instant::now() + LIMIT)
}

/// Returns a member that is connected as the leader or as a follower.
async fn member(kafka: &Kafka, is_leader: bool) -> (Lease, KafkaSink) {
    let config = kafka.config();
    connected_member(kafka, config, is_leader).await
}

async fn connected_member(kafka: &Kafka, mut config: KafkaConfig, is_leader: bool) -> (Lease, KafkaSink) {
    kafka.cluster.create_topic(DEAD, 1, 1).unwrap();
    config.dead_letter = Some(crate::DeadLetterConfig {
        topic: Some(DEAD.into()),
        path: None,
    });
    let (lease, receiver) = watch::channel(is_leader.then(lasting).flatten());
    let mut sink = KafkaSink::new("kafka", config).as_member(Lead::new(receiver));
    connect(&mut sink).await.unwrap();
    (lease, sink)
}

fn send(sink: &mut KafkaSink, number: u64) -> Result<(), PublishError> {
    sink.publish(&event(number, &frame(number)), &Bytes::new())
}

fn send_dead_letter(sink: &mut KafkaSink, number: u64) -> Result<(), PublishError> {
    sink.publish_dead_letter(&DeadLetter {
        sequence: Sequence::new(number).unwrap(),
        json: "{}",
    })
}

async fn next(sink: &mut KafkaSink, acks: &mut Vec<Ack>) -> AfterOutcomes {
    timeout(LIMIT, sink.outcomes(acks))
        .await
        .expect("an answer within the limit")
        .unwrap()
}

#[tokio::test]
async fn follower_publishes_no_dead_letter_before_it_leads() {
    let kafka = Kafka::start(1);
    let (lease, mut sink) = member(&kafka, false).await;
    assert!(matches!(send_dead_letter(&mut sink, 1), Err(PublishError::Full)));
    lease.send_replace(lasting());
    assert!(matches!(send_dead_letter(&mut sink, 1), Err(PublishError::Full)));
    assert_eq!(next(&mut sink, &mut Vec::new()).await, AfterOutcomes::Reconnect);
    connect(&mut sink).await.unwrap();
    send_dead_letter(&mut sink, 1).unwrap();
    assert_eq!(
        outcome_words(&outcomes(&mut sink, 1).await.unwrap()),
        ["delivered"]
    );
    lease.send_replace(None);
    assert!(matches!(send_dead_letter(&mut sink, 2), Err(PublishError::Full)));
    assert_eq!(kafka.records(DEAD, 1)[&0].len(), 1);
}

#[tokio::test]
async fn former_leader_waits_for_its_records_and_then_follows() {
    let kafka = Kafka::start(1);
    let (lease, mut sink) = member(&kafka, true).await;
    kafka.cluster.broker_down(-1).unwrap();
    send(&mut sink, 1).unwrap();
    lease.send_replace(None);
    assert!(matches!(send(&mut sink, 2), Err(PublishError::Full)));
    // One is in flight: a sink that waits for its broker is no follower, and its client may be replaced.
    assert!(!sink.status().is_follower);
    kafka.cluster.broker_up(-1).unwrap();
    let mut acks = Vec::new();
    while acks.is_empty() {
        assert_eq!(next(&mut sink, &mut acks).await, AfterOutcomes::Continue);
    }
    assert_eq!(outcome_words(&acks), ["delivered"]);
    assert!(sink.status().is_follower);
    // Nothing is in flight, but a former leader expects no events before it has connected again.
    assert!(matches!(send(&mut sink, 2), Err(PublishError::Full)));
    lease.send_replace(lasting());
    assert!(matches!(send(&mut sink, 2), Err(PublishError::Full)));
    assert_eq!(next(&mut sink, &mut acks).await, AfterOutcomes::Reconnect);
    lease.send_replace(None);
    connect(&mut sink).await.unwrap();
    send(&mut sink, 2).unwrap();
    assert_eq!(kafka.ids(1), [1]);
}

#[tokio::test]
async fn follower_without_a_broker_is_unavailable() {
    let kafka = Kafka::start(1);
    let (_lease, sink) = member(&kafka, false).await;
    assert_eq!(sink.status().unavailable, None);
    kafka.cluster.broker_down(-1).unwrap();
    wait_until("the reason", || sink.status().unavailable.is_some()).await;
    let fault = sink.status().unavailable.unwrap();
    assert_eq!(fault.kind, FaultKind::Unreachable, "{fault}");
    kafka.cluster.broker_up(-1).unwrap();
    wait_until("the end of the fault", || sink.status().unavailable.is_none()).await;
}

#[tokio::test]
async fn former_leader_completes_its_open_transaction() {
    let kafka = Kafka::start(1);
    kafka.cluster.create_topic("cursors", 1, 1).unwrap();
    let mut config = kafka.config();
    config.delivery = Delivery::ExactlyOnce;
    config.transaction = Some(crate::TransactionConfig {
        id: Some("id".into()),
        cursor_topic: "cursors".into(),
        interval: LIMIT,
        ..crate::TransactionConfig::default()
    });
    let (lease, mut sink) = connected_member(&kafka, config, true).await;
    send(&mut sink, 1).unwrap();
    lease.send_replace(None);
    assert!(matches!(send(&mut sink, 2), Err(PublishError::Full)));
    assert_eq!(Transactions::state(&sink), TransactionState::Due);
    // The dead letter of an earlier event: the transaction cannot be committed without it.
    send_dead_letter(&mut sink, 3).unwrap();
    outcomes(&mut sink, 2).await.unwrap();
    sink.commit(&first_cursor()).await.unwrap();
    assert_eq!(Transactions::state(&sink), TransactionState::Closed);
    assert!(matches!(send_dead_letter(&mut sink, 4), Err(PublishError::Full)));
    assert_eq!(next(&mut sink, &mut Vec::new()).await, AfterOutcomes::Reconnect);
}
