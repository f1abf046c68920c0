//! Tests of the membership without a broker, and of the reader against librdkafka's mock cluster.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use neurobridge_core::{connect::ConnectSteps, copies::MessagePosition};
use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    mocking::MockCluster,
    producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer},
    types::{RDKafkaApiKey, RDKafkaRespErr as Resp},
};
use tokio::{sync::mpsc, sync::watch, time::timeout};

use super::{
    reader::{self, Limits},
    topic_to_read::{MAX_TOGETHER, Replicas},
    *,
};
use crate::{KafkaConfig, encode::IDENTITY, health::Health, properties};

/// The time limit of every wait: much longer than needed, so that no test fails on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
const TOPIC: &str = "events";

type Lease = watch::Sender<Option<tokio::time::Instant>>;
type Batches = mpsc::Sender<Result<Vec<Found>, SinkFault>>;

fn member() -> (Lease, Membership) {
    let (lease, receiver) = watch::channel(None);
    (lease, Membership::new(Lead::new(receiver)))
}

fn follower() -> (Lease, Membership, Batches) {
    let (lease, mut member) = member();
    let (batches, records) = mpsc::channel(BATCHES);
    member.connected(Role::Follower(RecordReader::of(records)));
    (lease, member, batches)
}

fn lasting() -> Option<tokio::time::Instant> {
    Some(tokio::time::Instant::now() + LIMIT)
}

fn publish(member: &mut Membership, number: u64) -> Result<bool, PublishError> {
    number.to_string().clone_into(member.text());
    member.must_publish(Sequence::new(number).unwrap())
}

fn found(number: u64) -> Found {
    Found {
        position: MessagePosition {
            partition: 0,
            offset: number,
        },
        identity: Some(Identity::of(&number.to_string())),
    }
}

#[tokio::test]
async fn follower_expects_events_and_a_leader_publishes_them() {
    let (lease, mut member) = member();
    assert!(matches!(publish(&mut member, 1), Err(PublishError::Fault(_))));
    assert!(!member.may_publish());

    drop(lease);
    let (lease, mut member, _batches) = follower();
    for is_held in [false, true] {
        lease.send_replace(is_held.then(lasting).flatten());
        assert!(matches!(publish(&mut member, 1), Ok(false)) && !member.may_publish());
        assert_eq!(member.copies.expected(), 1);
    }

    member.restart();
    member.read(vec![found(2)]);
    member.connected(Role::Leader);
    assert!(matches!(publish(&mut member, 1), Ok(true)) && member.may_publish());
    // A record that another member has stored.
    assert!(matches!(publish(&mut member, 2), Ok(false)));
    let mut acks = Vec::new();
    assert!(member.take_known(&mut acks) && acks == [duplicate(Sequence::new(2).unwrap())]);
    assert_eq!(member.copies.expected(), 0);
}

#[tokio::test]
async fn former_leader_neither_publishes_nor_expects() {
    let (lease, mut member) = member();
    lease.send_replace(lasting());
    member.connected(Role::Leader);
    assert!(matches!(publish(&mut member, 1), Ok(true)));
    lease.send_replace(None);
    assert!(matches!(publish(&mut member, 2), Err(PublishError::Full)));
    // Another member may have led meanwhile: only another connection reads what it has published.
    lease.send_replace(lasting());
    assert!(matches!(publish(&mut member, 2), Err(PublishError::Full)));
    assert!(!member.may_publish() && matches!(member.role(), Role::FormerLeader));
    assert_eq!(member.copies.expected(), 0);
    member.restart();
    member.connected(Role::Leader);
    assert!(matches!(publish(&mut member, 2), Ok(true)));
}

/// Returns the number of outcomes that arrive before nothing happens any more. The clock is paused.
async fn settled(member: &mut Membership) -> usize {
    let mut count = 0;
    let mut acks = Vec::new();
    while timeout(Duration::from_secs(1), member.outcomes(&mut acks))
        .await
        .is_ok_and(|read| read.is_ok())
    {
        count += acks.drain(..).count();
    }
    count
}

#[tokio::test(start_paused = true)]
async fn full_follower_stops_reading_until_own_events_arrive() {
    let (lease, mut member, batches) = follower();
    member.copies = Copies::with_limit(10);
    assert!(matches!(publish(&mut member, 100), Ok(false)));
    for batch in [1..=50, 51..=100] {
        batches.send(Ok(batch.map(found).collect())).await.unwrap();
    }
    assert_eq!(settled(&mut member).await, 0);
    assert_eq!(
        (member.copies.next(0), member.copies.counts().discarded_messages),
        (Some(11), 0)
    );
    let mut count = 0;
    for number in 1..100 {
        assert!(matches!(publish(&mut member, number), Ok(false)));
        let mut acks = Vec::new();
        member.take_known(&mut acks);
        count += acks.len() + settled(&mut member).await;
    }
    assert_eq!((count, member.copies.counts().discarded_messages), (100, 0));

    // Neither a takeover nor a follower without expected events stops reading.
    member.read((200..220).map(found).collect());
    assert_eq!(member.copies.counts().discarded_messages, 10);
    lease.send_replace(lasting());
    assert!(member.outcomes(&mut Vec::new()).await.is_ok());
}

struct Kafka {
    cluster: MockCluster<'static, DefaultProducerContext>,
    topic_to_read: TopicToRead,
}

impl Kafka {
    fn start(partitions: i32) -> Self {
        let cluster = MockCluster::new(2).unwrap();
        cluster.create_topic(TOPIC, partitions, 1).unwrap();
        let mut config = KafkaConfig::new(cluster.bootstrap_servers());
        config.properties.insert("client.rack".into(), "a".into());
        let topic_to_read = TopicToRead {
            client: properties::client(&config, "kafka").unwrap(),
            topic: TOPIC.to_owned(),
            partitions: usize::try_from(partitions).unwrap(),
            health: Arc::new(Health::new("kafka")),
        };
        Self {
            cluster,
            topic_to_read,
        }
    }

    /// Stores records with the identities of these numbers in the first partition.
    fn store(&self, numbers: std::ops::Range<u64>) {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", self.cluster.bootstrap_servers())
            .create()
            .unwrap();
        for number in numbers {
            let identity = number.to_string();
            let header = Header {
                key: IDENTITY,
                value: Some(&identity),
            };
            let record: BaseRecord<'_, str, str> = BaseRecord::to(TOPIC)
                .partition(0)
                .payload("x")
                .headers(OwnedHeaders::new().insert(header));
            producer.send(record).unwrap();
        }
        producer.flush(LIMIT).unwrap();
    }

    fn begin(&self) -> Offsets {
        self.topic_to_read
            .unread(&Offsets::new(), &ConnectSteps::default())
            .unwrap()
            .offsets
    }

    fn read(&self) -> RecordReader {
        let limits = Limits {
            check: Duration::from_millis(200),
            answer: Duration::from_secs(3),
            stalled: Duration::from_millis(600),
            replaced: LIMIT,
            open: LIMIT,
        };
        RecordReader::start(self.topic_to_read.clone(), &self.begin(), limits).unwrap()
    }
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        // The state of the reader's thread has no event that a test could wait for.
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn follower_requests_records_together_unless_configured() {
    let kafka = Kafka::start(1);
    let mut topic_to_read = kafka.topic_to_read.clone();
    let wait = |topic_to_read: &TopicToRead| {
        let properties = reader::properties(topic_to_read, Limits::new(Duration::ZERO));
        let value = |name| properties.get(name).map(str::to_owned);
        (value("fetch.wait.max.ms"), value("fetch.min.bytes"))
    };
    assert_eq!(
        wait(&topic_to_read),
        (Some("100".to_owned()), Some("524288".to_owned()))
    );
    topic_to_read.client.set("fetch.wait.max.ms", "7");
    assert_eq!(wait(&topic_to_read).0.as_deref(), Some("7"));
}

#[tokio::test]
async fn records_of_a_takeover_are_read_in_bounded_batches() {
    let kafka = Kafka::start(1);
    let count = 20_000;
    kafka.store(0..count);
    let (sender, mut batches) = mpsc::channel(BATCHES);
    let (topic_to_read, observed) = (kafka.topic_to_read.clone(), sender.clone());
    let reading = std::thread::spawn(move || {
        let offsets = Offsets::from([(0, 0)]);
        topic_to_read.read_to_end(&offsets, LIMIT, &ConnectSteps::default(), &sender)
    });
    // Nothing is received: reading stops.
    wait_until("the full channel", || observed.capacity() == 0);
    drop(observed);
    assert!(!reading.is_finished());
    let mut read = 0;
    while let Some(batch) = batches.recv().await {
        assert!(batch.len() <= MAX_TOGETHER);
        read += batch.len() as u64;
    }
    assert_eq!(read, count);
    assert_eq!(reading.join().unwrap(), Ok(Offsets::from([(0, count)])));
}

#[test]
fn topic_without_new_records_is_no_fault() {
    let kafka = Kafka::start(3);
    kafka.store(0..10);
    let reader = kafka.read();
    wait_until("ten checks", || reader.checks() > 10);
    assert_eq!(reader.unavailable(), None);
}

#[test]
fn partition_whose_leader_does_not_answer_is_reported() {
    let kafka = Kafka::start(3);
    for partition in 0..3 {
        let leader = if partition == 1 { 2 } else { 1 };
        kafka
            .cluster
            .partition_leader(TOPIC, partition, Some(leader))
            .unwrap();
    }
    let reader = kafka.read();
    wait_until("a check", || reader.checks() > 0);
    kafka.cluster.broker_down(2).unwrap();
    wait_until("the reason", || reader.unavailable().is_some());
    // Another broker answers, so the state of the brokers does not contain the reason.
    assert_eq!(kafka.topic_to_read.health.unreachable(), None);
    let fault = reader.unavailable().unwrap();
    assert!(fault.reason.contains(TOPIC), "{fault}");
    kafka.cluster.broker_up(2).unwrap();
    wait_until("the end of the fault", || reader.unavailable().is_none());
}

#[test]
fn records_that_are_not_received_are_reported() {
    let kafka = Kafka::start(1);
    let reader = kafka.read();
    wait_until("a check", || reader.checks() > 0);
    let errors = vec![Resp::RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR; 10_000];
    kafka.cluster.request_errors(RDKafkaApiKey::Fetch, &errors);
    kafka.store(0..10);
    wait_until("the reason", || {
        let reason = reader.unavailable().map(|fault| fault.reason).unwrap_or_default();
        reason.contains("partition 0 was read to offset 0 and ends at 10")
    });
    kafka.cluster.clear_request_errors(RDKafkaApiKey::Fetch);
    wait_until("the end of the fault", || reader.unavailable().is_none());
}

#[test]
fn only_leaders_of_partitions_are_read_to_the_end() {
    let topic_to_read = Kafka::start(1).topic_to_read;
    let rack = |replicas| {
        let properties = topic_to_read.properties("read_committed", replicas);
        properties.get("client.rack").map(str::to_owned)
    };
    assert_eq!(rack(Replicas::Leaders), None);
    assert_eq!(rack(Replicas::Nearest).as_deref(), Some("a"));
}

#[test]
fn shorter_topic_is_read_from_its_beginning() {
    let (_lease, mut member) = member();
    let from = |next| Unread {
        offsets: Offsets::from([(0, next)]),
        ends: Offsets::from([(0, 500)]),
    };
    member.begin(&from(500));
    member.begin(&from(500));
    assert_eq!(member.resume_offsets(None, 1), Offsets::from([(0, 500)]));
    member.begin(&from(3));
    assert_eq!(member.resume_offsets(None, 1), Offsets::from([(0, 3)]));
}

#[test]
fn topic_with_one_shorter_partition_is_read_from_its_beginning() {
    let kafka = Kafka::start(2);
    kafka.store(0..3);
    let begin = |resume_offsets: &[(u32, u64)]| {
        let resume_offsets = resume_offsets.iter().copied().collect();
        kafka
            .topic_to_read
            .unread(&resume_offsets, &ConnectSteps::default())
            .unwrap()
    };
    let unread = |first| Unread {
        offsets: Offsets::from([(0, first), (1, 0)]),
        ends: Offsets::from([(0, 3), (1, 0)]),
    };
    assert_eq!(begin(&[(0, 2), (1, 0)]), unread(2));
    assert_eq!(begin(&[(0, 2), (1, 5)]), unread(0));
}
