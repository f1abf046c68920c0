//! Reads the records of a topic.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use super::retry::{METADATA_TIMEOUT, code_of, is_temporary};
use crate::poll::{Patience, wait_for};

/// The longest time of one poll; the limit is checked between polls.
const POLL: Duration = Duration::from_millis(100);

/// The time without records after which a consumer is replaced, because a consumer that received metadata without brokers
/// may never connect again.
const SILENCE: Duration = Duration::from_secs(15);

/// A record as stored in a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The partition of the record.
    pub partition: i32,
    /// The offset in the partition.
    pub offset: i64,
    /// The timestamp in milliseconds since 1970: the time of the append for a topic with `LogAppendTime`, otherwise the producer's.
    pub timestamp: Option<i64>,
    /// The key, or `None` for a null key.
    pub key: Option<Vec<u8>>,
    /// The value, or `None` for a null value.
    pub value: Option<Vec<u8>>,
    /// The headers in their order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Record {
    /// Returns the value of the first header with this name as text, or `None` if it is missing or not UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(key, _)| key == name)?;
        std::str::from_utf8(value.as_deref()?).ok()
    }
}

/// Reads all current records of a topic, those of each partition in the order of their offsets.
///
/// Records of aborted transactions are omitted, as for every consumer with `read_committed`.
///
/// # Errors
/// Returns an error if the topic does not exist, or if no further record arrives within `limit` (see [`Patience`])
/// before the end.
pub fn read_topic(bootstrap: &str, topic: &str, limit: Duration) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    each_record(bootstrap, topic, limit, |record| {
        records.push(record);
        Ok(())
    })?;
    Ok(records)
}

/// Like [`read_topic`], for a topic that does not fit into memory: calls `visit` with each record.
///
/// # Errors
/// Returns an error in the same cases, and the errors of `visit`.
pub fn each_record(
    bootstrap: &str,
    topic: &str,
    limit: Duration,
    mut visit: impl FnMut(Record) -> Result<()>,
) -> Result<()> {
    let mut reader = Reader::open(bootstrap, topic, limit)?;
    while !reader.at_end() {
        if let Some(record) = reader.poll()? {
            visit(record)?;
        }
    }
    Ok(())
}

/// Reads a topic from its beginning until `count` records were read.
///
/// # Errors
/// Returns an error if the topic does not exist, or if no further record arrives within `limit` (see [`Patience`]).
pub fn await_records(bootstrap: &str, topic: &str, count: usize, limit: Duration) -> Result<Vec<Record>> {
    let mut reader = Reader::open(bootstrap, topic, limit)?;
    let mut records = Vec::new();
    while records.len() < count {
        records.extend(reader.poll()?);
    }
    Ok(records)
}

struct Reader {
    consumer: BaseConsumer,
    bootstrap: String,
    topic: String,
    /// The next offset of each partition.
    next: BTreeMap<i32, Offset>,
    /// The partitions that were read to their ends.
    ended: HashSet<i32>,
    /// The number of records read so far.
    read: u64,
    patience: Patience,
    /// The time of the last record or end of a partition.
    answered: Instant,
}

impl Reader {
    fn open(bootstrap: &str, topic: &str, limit: Duration) -> Result<Self> {
        let consumer = consumer(bootstrap)?;
        let partitions = partitions(&consumer, topic, limit)
            .with_context(|| format!("requesting the topic {topic} from {bootstrap}"))?;
        ensure!(!partitions.is_empty(), "the topic {topic} has no partitions");
        let reader = Self {
            consumer,
            bootstrap: bootstrap.to_owned(),
            topic: topic.to_owned(),
            next: partitions.into_iter().map(|id| (id, Offset::Beginning)).collect(),
            ended: HashSet::new(),
            read: 0,
            patience: Patience::new(format!("the records of {topic}"), limit),
            answered: Instant::now(),
        };
        reader.assign()?;
        Ok(reader)
    }

    fn assign(&self) -> Result<()> {
        let mut assignment = TopicPartitionList::new();
        for (partition, offset) in &self.next {
            assignment.add_partition_offset(&self.topic, *partition, *offset)?;
        }
        self.consumer
            .assign(&assignment)
            .with_context(|| format!("reading the topic {}", self.topic))
    }

    /// Returns the next record if one arrives within [`POLL`].
    fn poll(&mut self) -> Result<Option<Record>> {
        self.patience.observe((self.read, self.ended.len()));
        let checked = self.patience.check();
        checked.with_context(|| format!("{} records of {} were read", self.read, self.topic))?;
        if self.answered.elapsed() >= SILENCE {
            self.consumer = consumer(&self.bootstrap)?;
            self.assign()?;
            self.answered = Instant::now();
        }
        match self.consumer.poll(POLL) {
            Some(Ok(message)) => {
                self.answered = Instant::now();
                self.next
                    .insert(message.partition(), Offset::Offset(message.offset() + 1));
                self.ended.remove(&message.partition());
                self.read += 1;
                Ok(Some(to_record(&message)))
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                self.answered = Instant::now();
                self.ended.insert(partition);
                Ok(None)
            }
            // The client recovers from these errors by itself.
            Some(Err(error)) if is_temporary(code_of(&error)) => Ok(None),
            Some(Err(error)) => Err(error).with_context(|| format!("reading the topic {}", self.topic)),
            None => Ok(None),
        }
    }

    fn at_end(&self) -> bool {
        self.ended.len() == self.next.len()
    }
}

fn consumer(bootstrap: &str) -> Result<BaseConsumer> {
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "neurobridge-tests")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .create()
        .with_context(|| format!("creating a consumer of {bootstrap}"))
}

/// Returns the ids of a topic's partitions.
fn partitions(consumer: &BaseConsumer, topic: &str, limit: Duration) -> Result<Vec<i32>> {
    wait_for(&format!("the partitions of {topic}"), limit, || {
        let metadata = match consumer.fetch_metadata(Some(topic), METADATA_TIMEOUT) {
            Err(error) if is_temporary(code_of(&error)) => return Ok(None),
            metadata => metadata?,
        };
        let found = metadata
            .topics()
            .first()
            .context("the response lacks the topic")?;
        match found.error().map(RDKafkaErrorCode::from) {
            None => Ok(Some(found.partitions().iter().map(|found| found.id()).collect())),
            Some(code) if is_temporary(code) => Ok(None),
            Some(code) => bail!("the topic {topic} is not available: {code}"),
        }
    })
}

fn to_record(message: &BorrowedMessage<'_>) -> Record {
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    Record {
        partition: message.partition(),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: headers
            .map(|one| (one.key.to_owned(), one.value.map(<[u8]>::to_vec)))
            .collect(),
    }
}
