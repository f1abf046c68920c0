//! Tests topics by template: existing, missing and impossible ones.

use super::*;
use crate::config::MissingTopic;

fn frame(id: u64, result: &str) -> String {
    format!(r#"{{"id":{id},"data":{{"id":{id},"result":"{result}","pid":"p"}}}}"#)
}

async fn templated(kafka: &Kafka, missing_topic: MissingTopic) -> KafkaSink {
    kafka.cluster.create_topic("x_a", 1, 1).unwrap();
    let mut config = kafka.config();
    config.topic = "{result}".parse().unwrap();
    config.missing_topic = missing_topic;
    assert_eq!(config.check(), []);
    connected(config).await
}

/// Publishes an event as the delivery does, again if its outcome is deferred, and returns the final outcome.
async fn outcome(sink: &mut KafkaSink, id: u64, result: &str) -> Result<Outcome, SinkFault> {
    let frame = frame(id, result);
    for _ in 0..2 {
        match sink.publish(&event(id, &frame), &Bytes::new()) {
            Ok(()) => {}
            Err(PublishError::Rejected(rejection)) => return Ok(Outcome::Rejected(rejection)),
            Err(other) => panic!("{other:?}"),
        }
        sink.flush().await?;
        match outcomes(sink, 1).await?.remove(0).outcome {
            Outcome::Deferred => {}
            outcome => return Ok(outcome),
        }
    }
    panic!("{id} was not sent twice")
}

fn unroutable(outcome: Outcome) -> String {
    match outcome {
        Outcome::Rejected(rejection) => {
            assert_eq!(rejection.reason, RejectionReason::Unroutable);
            rejection.detail
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn impossible_topic_rejects_only_its_events() {
    let kafka = Kafka::start(1);
    let mut sink = templated(&kafka, MissingTopic::Wait).await;
    // Twice, because the second event meets a topic already known as unroutable.
    for id in [1, 2] {
        let reason = unroutable(outcome(&mut sink, id, "x.a").await.unwrap());
        insta::allow_duplicates! {
            insta::assert_snapshot!(reason, @r#"the topic "x.a" cannot exist beside "x_a": Kafka treats "." and "_" in names as equal; rename one of the two topics"#);
        }
    }
    let reason = unroutable(outcome(&mut sink, 3, "__consumer_offsets").await.unwrap());
    insta::assert_snapshot!(reason, @r#"found the topic "__consumer_offsets", which is a topic of Kafka itself, expected a topic for events; change the template of the sink's topic"#);
    assert_eq!(outcome(&mut sink, 4, "x_a").await.unwrap(), Outcome::Delivered);
}

#[tokio::test]
async fn missing_topic_is_waited_for_or_makes_a_dead_letter() {
    let kafka = Kafka::start(1);
    let mut sink = templated(&kafka, MissingTopic::Wait).await;
    let fault = outcome(&mut sink, 1, "gone").await.unwrap_err();
    assert_eq!((fault.kind, fault.is_final), (FaultKind::Missing, false));
    insta::assert_snapshot!(fault.reason, @r#"event 1: the topic "gone" does not exist (Broker: Unknown topic or partition); create it, or set create = true with partitions and replicas, or set missing_topic = "dead_letter""#);

    let mut sink = templated_again(&kafka).await;
    let reason = unroutable(outcome(&mut sink, 1, "gone").await.unwrap());
    assert!(reason.contains("\"gone\" does not exist"), "{reason}");
    assert_eq!(outcome(&mut sink, 2, "x_a").await.unwrap(), Outcome::Delivered);
    // The clients that inspected the topics are reused for the next one.
    assert!(sink.connection.as_ref().unwrap().keeps_inspector());
}

async fn templated_again(kafka: &Kafka) -> KafkaSink {
    let mut config = kafka.config();
    config.topic = "{result}".parse().unwrap();
    config.missing_topic = MissingTopic::DeadLetter;
    connected(config).await
}
