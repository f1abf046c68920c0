//! Tests the sink against librdkafka's mock cluster.

mod delivery;
mod kafka;
mod member;
mod routes;
mod unavailable;

use std::collections::BTreeMap;

use neurobridge_core::{
    connect::ConnectSteps,
    epoch::Epochs,
    event::Sequence,
    reader::Cursor,
    sink::{Outcome, RejectionReason},
    sink_config::OversizeAction,
};
use rdkafka::types::RDKafkaRespErr as Resp;
use tokio::time::Instant;

use self::kafka::{Kafka, TOPIC, frame, id};
use super::*;
use crate::encode::tests::event;

/// The time limit of every wait: much longer than needed, so that no test fails on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

fn first_cursor() -> Cursor {
    Cursor::starting_at(Sequence::FIRST)
}

async fn connect(sink: &mut KafkaSink) -> Result<(), SinkFault> {
    let cursor = first_cursor();
    sink.connect(&ConnectContext {
        spool: SpoolId::from_bytes([7; 16]),
        cursor: &cursor,
        epochs: &Epochs::default(),
        steps: &ConnectSteps::default(),
    })
    .await
    .map(|_| ())
}

async fn connected(config: KafkaConfig) -> KafkaSink {
    let mut sink = KafkaSink::new("kafka", config);
    connect(&mut sink).await.unwrap();
    sink
}

/// Waits for the outcomes of `count` events.
async fn outcomes(sink: &mut KafkaSink, count: usize) -> Result<Vec<Ack>, SinkFault> {
    let mut acks = Vec::new();
    while acks.len() < count {
        let _ = timeout(LIMIT, sink.outcomes(&mut acks))
            .await
            .expect("outcomes within the limit")?;
    }
    Ok(acks)
}

/// Waits for the next fault.
async fn fault(sink: &mut KafkaSink) -> SinkFault {
    outcomes(sink, usize::MAX).await.unwrap_err()
}

async fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn outcome_words(acks: &[Ack]) -> Vec<&'static str> {
    acks.iter()
        .map(|ack| match &ack.outcome {
            Outcome::Delivered => "delivered",
            Outcome::Duplicate => "duplicate",
            Outcome::Rejected(_) => "rejected",
            Outcome::RetryAlone(_) => "retry alone",
            Outcome::Deferred => "deferred",
        })
        .collect()
}

#[tokio::test]
async fn events_are_delivered_and_each_has_one_outcome() {
    let kafka = Kafka::start(4);
    let mut sink = connected(kafka.config()).await;
    let frames: Vec<_> = (1..=500).map(frame).collect();
    for (number, frame) in (1..).zip(&frames) {
        sink.publish(&event(number, frame), &Bytes::new()).unwrap();
    }
    let mut acks = outcomes(&mut sink, 500).await.unwrap();
    acks.sort_by_key(|ack| ack.sequence);
    let sequences: Vec<u64> = acks.iter().map(|ack| ack.sequence.get()).collect();
    assert_eq!(sequences, (1..=500).collect::<Vec<_>>());
    assert!(acks.iter().all(|ack| ack.outcome == Outcome::Delivered));
    assert_eq!(sink.unavailable(), None);
    // All events of a person are in one partition, in order.
    let records = kafka.records(TOPIC, 500);
    let mut partition_of = BTreeMap::new();
    for (partition, values) in records {
        let ids: Vec<u64> = values.iter().map(|value| id(value)).collect();
        assert!(ids.is_sorted());
        for id in ids {
            assert_eq!(*partition_of.entry(id % 5).or_insert(partition), partition);
        }
    }
    sink.close().await;
}

#[tokio::test]
async fn partition_of_a_key_equals_the_java_client() {
    let kafka = Kafka::start(16);
    let mut sink = connected(kafka.config()).await;
    // From Kafka's own test of its partitioner's hash: murmur2("21") is -973932308, murmur2("foobar") -790332482.
    let java = |hash: i32| (hash & 0x7fff_ffff) % 16;
    for (number, key) in [(1, "21"), (2, "foobar")] {
        let frame = format!(r#"{{"id":{number},"data":{{"id":{number},"pid":"{key}"}}}}"#);
        sink.publish(&event(number, &frame), &Bytes::new()).unwrap();
    }
    outcomes(&mut sink, 2).await.unwrap();
    let found: BTreeMap<u64, i32> = kafka
        .records(TOPIC, 2)
        .into_iter()
        .flat_map(|(partition, values)| values.into_iter().map(move |value| (id(&value), partition)))
        .collect();
    assert_eq!(
        found,
        BTreeMap::from([(1, java(-973_932_308)), (2, java(-790_332_482))])
    );
}

#[tokio::test]
async fn full_queue_accepts_messages_after_a_delivery_report() {
    let kafka = Kafka::start(1);
    let mut config = kafka.config();
    config.max_queue_size = neurobridge_core::units::ByteSize::from_mib(1);
    let mut sink = connected(config).await;
    kafka.cluster.broker_down(-1).unwrap();
    let frame = format!(r#"{{"id":1,"data":{{"id":1,"x":"{}"}}}}"#, "x".repeat(100_000));
    let mut taken = 0;
    let refusal = loop {
        match sink.publish(&event(taken + 1, &frame), &Bytes::new()) {
            Ok(()) => taken += 1,
            Err(refusal) => break refusal,
        }
    };
    assert!(matches!(refusal, PublishError::Full), "{refusal:?}");
    // The limit on bytes applies, not the limit on messages: ten bodies are 1 MiB.
    assert_eq!(taken, 10);
    kafka.cluster.broker_up(-1).unwrap();
    // The queue accepts messages again once a quarter is free.
    let mut acks = outcomes(&mut sink, 3).await.unwrap();
    sink.publish(&event(11, &frame), &Bytes::new()).unwrap();
    acks.extend(outcomes(&mut sink, 11 - acks.len()).await.unwrap());
    assert_eq!(acks.len(), 11);
}

/// librdkafka frees the room of a message only after it has reported the outcome.
#[tokio::test]
async fn queue_with_nothing_in_flight_is_not_full() {
    let kafka = Kafka::start(1);
    let mut config = kafka.config();
    config.max_queue_size = neurobridge_core::units::ByteSize::from_mib(1);
    let mut sink = connected(config).await;
    let frame = format!(r#"{{"id":1,"data":{{"id":1,"x":"{}"}}}}"#, "x".repeat(900_000));
    for number in 1..=200 {
        sink.publish(&event(number, &frame), &Bytes::new()).unwrap();
        outcomes(&mut sink, 1).await.unwrap();
    }
}

#[tokio::test]
async fn oversize_batch_is_retried_alone_by_the_same_producer() {
    for (code, reason) in [
        (
            Resp::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE,
            RejectionReason::TooLarge,
        ),
        (Resp::RD_KAFKA_RESP_ERR_INVALID_RECORD, RejectionReason::Invalid),
    ] {
        let kafka = Kafka::start(1);
        let mut sink = connected(kafka.config()).await;
        kafka.fail_produce(&[code]);
        let frames: Vec<_> = (1..=3).map(frame).collect();
        for (number, frame) in (1..).zip(&frames) {
            sink.publish(&event(number, frame), &Bytes::new()).unwrap();
        }
        let acks = outcomes(&mut sink, 3).await.unwrap();
        for ack in &acks {
            if let Outcome::RetryAlone(rejection) = &ack.outcome {
                assert_eq!(rejection.reason, reason);
            }
        }
        assert!(outcome_words(&acks).contains(&"retry alone"), "{acks:?}");
        sink.publish(&event(4, &frame(4)), &Bytes::new()).unwrap();
        assert_eq!(
            outcome_words(&outcomes(&mut sink, 1).await.unwrap()),
            ["delivered"]
        );
    }
}

#[tokio::test]
async fn sink_fault_ends_the_producer_and_discards_its_queue() {
    for (code, kind) in [
        (
            Resp::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
            FaultKind::Unauthorised,
        ),
        (
            Resp::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED,
            FaultKind::Unauthorised,
        ),
        (Resp::RD_KAFKA_RESP_ERR_POLICY_VIOLATION, FaultKind::Other),
    ] {
        let kafka = Kafka::start(1);
        let mut sink = connected(kafka.config()).await;
        kafka.fail_produce(&[code]);
        sink.publish(&event(1, &frame(1)), &Bytes::new()).unwrap();
        let first = fault(&mut sink).await;
        assert_eq!(first.kind, kind, "{first}");
        assert!(!first.is_final && first.reason.contains(TOPIC), "{first}");
        connect(&mut sink).await.unwrap();
        // No report of the previous producer arrives any more.
        sink.publish(&event(2, &frame(2)), &Bytes::new()).unwrap();
        let acks = outcomes(&mut sink, 1).await.unwrap();
        assert_eq!(
            acks,
            [Ack {
                sequence: Sequence::new(2).unwrap(),
                outcome: Outcome::Delivered
            }]
        );
        assert_eq!(kafka.ids(1), [2]);
    }
}

#[tokio::test]
async fn fenced_producer_is_final() {
    let kafka = Kafka::start(1);
    let mut sink = connected(kafka.config()).await;
    kafka.fail_produce(&[Resp::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH]);
    sink.publish(&event(1, &frame(1)), &Bytes::new()).unwrap();
    let fault = fault(&mut sink).await;
    assert!(fault.is_final && fault.kind == FaultKind::Fenced, "{fault}");
}

#[tokio::test]
async fn fatal_error_is_detected_and_named() {
    let kafka = Kafka::start(1);
    let mut sink = connected(kafka.config()).await;
    sink.publish(&event(1, &frame(1)), &Bytes::new()).unwrap();
    outcomes(&mut sink, 1).await.unwrap();
    // With no other message in flight, only a lost message explains the error.
    kafka.fail_produce(&[Resp::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER]);
    sink.publish(&event(2, &frame(2)), &Bytes::new()).unwrap();
    let fault = fault(&mut sink).await;
    assert!(
        !fault.is_final && fault.reason.contains("out of order sequence number"),
        "{fault}"
    );
    connect(&mut sink).await.unwrap();
    sink.publish(&event(2, &frame(2)), &Bytes::new()).unwrap();
    outcomes(&mut sink, 1).await.unwrap();
    assert_eq!(kafka.ids(2), [1, 2]);
}

#[tokio::test]
async fn missing_topic_is_a_fault_and_is_not_created() {
    let kafka = Kafka::start(1);
    let mut config = kafka.config();
    config.topic = "not.there".parse().unwrap();
    let mut sink = KafkaSink::new("kafka", config);
    let fault = connect(&mut sink).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Missing);
    insta::assert_snapshot!(fault, @r#"the topic "not.there" does not exist (Broker: Unknown topic or partition); create it, or set create = true with partitions and replicas"#);
}

#[tokio::test]
async fn templated_topic_is_checked_before_its_first_use() {
    let kafka = Kafka::start(1);
    kafka.cluster.create_topic("e.new", 1, 1).unwrap();
    let mut config = kafka.config();
    config.topic = "e.{result}".parse().unwrap();
    let mut sink = connected(config).await;
    sink.publish(&event(1, &frame(1)), &Bytes::new()).unwrap();
    // No later event overtakes the event.
    assert!(matches!(
        sink.publish(&event(2, &frame(2)), &Bytes::new()),
        Err(PublishError::Full)
    ));
    sink.flush().await.unwrap();
    assert_eq!(
        outcome_words(&outcomes(&mut sink, 1).await.unwrap()),
        ["deferred"]
    );
    for number in 1..=2 {
        sink.publish(&event(number, &frame(number)), &Bytes::new())
            .unwrap();
    }
    assert_eq!(
        outcome_words(&outcomes(&mut sink, 2).await.unwrap()),
        ["delivered"; 2]
    );
    sink.publish(&event(3, r#"{"id":3,"data":{"result":"gone"}}"#), &Bytes::new())
        .unwrap();
    let fault = sink.flush().await.unwrap_err();
    assert!(
        fault.kind == FaultKind::Missing && fault.reason.contains("\"e.gone\""),
        "{fault}"
    );
}

#[tokio::test]
async fn close_waits_for_messages_in_flight_and_drop_does_not() {
    let kafka = Kafka::start(1);
    let mut config = kafka.config();
    config.linger = Duration::from_millis(300);
    let mut sink = connected(config.clone()).await;
    let frames: Vec<_> = (1..=100).map(frame).collect();
    for (number, frame) in (1..).zip(&frames) {
        sink.publish(&event(number, frame), &Bytes::new()).unwrap();
    }
    // The messages still linger: without a flush, closing would purge all of them.
    sink.close().await;
    assert_eq!(kafka.ids(100), (1..=100).collect::<Vec<_>>());

    let mut sink = connected(config).await;
    kafka.cluster.broker_down(-1).unwrap();
    sink.publish(&event(101, &frame(101)), &Bytes::new()).unwrap();
    let before = std::time::Instant::now();
    drop(sink);
    assert!(
        before.elapsed() < Duration::from_millis(90),
        "{:?}",
        before.elapsed()
    );
}

#[tokio::test]
async fn oversize_event_is_rejected_or_stripped_before_sending() {
    let kafka = Kafka::start(1);
    let picture = "A".repeat(1_100_000);
    let large = format!(r#"{{"id":1,"data":{{"id":1,"face_image":"{picture}"}}}}"#);
    let hopeless = format!(r#"{{"id":2,"data":{{"id":2,"face_image":"A","x":"{picture}"}}}}"#);
    let mut config = kafka.config();
    let rejected = |result: Result<(), PublishError>| match result {
        Err(PublishError::Rejected(rejection)) => rejection,
        other => panic!("{other:?}"),
    };

    let mut sink = connected(config.clone()).await;
    let rejection = rejected(sink.publish(&event(1, &large), &Bytes::new()));
    assert_eq!(rejection.reason, RejectionReason::TooLarge);
    insta::assert_snapshot!(rejection.detail, @r#"found a message of 1100358 bytes, expected at most 1048588 for the topic "neuroio.entries"; raise max.message.bytes of the topic, or set oversize = "strip""#);

    config.oversize = OversizeAction::Strip;
    let mut sink = connected(config).await;
    sink.publish(&event(1, &large), &Bytes::new()).unwrap();
    assert_eq!(
        outcome_words(&outcomes(&mut sink, 1).await.unwrap()),
        ["delivered"]
    );
    assert_eq!(kafka.records(TOPIC, 1)[&0], [r#"{"id":1,"face_image":null}"#]);
    rejected(sink.publish(&event(2, &hopeless), &Bytes::new()));
}

#[tokio::test]
async fn dead_letters_go_to_their_topic() {
    let kafka = Kafka::start(1);
    kafka.cluster.create_topic("dead", 1, 1).unwrap();
    let mut config = kafka.config();
    assert!(KafkaSink::new("kafka", config.clone()).dead_letters().is_none());
    config.dead_letter = Some(crate::DeadLetterConfig {
        topic: Some("dead".into()),
        path: None,
    });
    let mut sink = connected(config).await;
    assert!(sink.dead_letters().is_some());
    let dead_letter = DeadLetter {
        sequence: Sequence::new(9).unwrap(),
        json: r#"{"reason":"too_large"}"#,
    };
    sink.publish_dead_letter(&dead_letter).unwrap();
    let acks = outcomes(&mut sink, 1).await.unwrap();
    assert_eq!(
        (acks[0].sequence.get(), outcome_words(&acks)),
        (9, vec!["delivered"])
    );
    assert_eq!(kafka.records("dead", 1)[&0], [r#"{"reason":"too_large"}"#]);
}

#[tokio::test]
async fn outcomes_is_cancel_safe() {
    let kafka = Kafka::start(1);
    let mut sink = connected(kafka.config()).await;
    sink.publish(&event(1, &frame(1)), &Bytes::new()).unwrap();
    let mut acks = Vec::new();
    let deadline = Instant::now() + LIMIT;
    while acks.is_empty() {
        assert!(Instant::now() < deadline);
        // Each future is dropped after one poll.
        tokio::select! {
            biased;
            outcome = sink.outcomes(&mut acks) => assert_eq!(outcome.unwrap(), AfterOutcomes::Continue),
            () = tokio::task::yield_now() => {}
        }
    }
    assert_eq!(outcome_words(&acks), ["delivered"]);
}

#[tokio::test]
async fn statistics_of_librdkafka_are_parsed() {
    let kafka = Kafka::start(3);
    let mut sink = connected(kafka.config()).await;
    assert_eq!(sink.health.known_partitions(TOPIC), Some(3));
    // Simulates a topic that had fewer partitions before.
    sink.health.partitions(TOPIC, 2);
    sink.health.connection_failed("gone");
    sink.health.all_down("gone");
    sink.publish(&event(1, &frame(1)), &Bytes::new()).unwrap();
    wait_until("the statistics", || {
        sink.health.known_partitions(TOPIC) == Some(3)
    })
    .await;
    assert_eq!(sink.health.unreachable(), None);
}
