//! A topic that a member of a cluster reads: the offsets at which reading begins, and reading to the end at a takeover.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use neurobridge_core::{
    connect::{ConnectStep, ConnectSteps},
    copies::{Identity, MessagePosition},
    sink::{FaultKind, SinkFault},
};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::{BorrowedMessage, Headers},
    types::RDKafkaErrorCode as Code,
};
use tokio::sync::mpsc;

use super::{partition_numbers, reader::ReaderContext};
use crate::{
    background::Background, cursors::is_retried_by_client, encode::IDENTITY, error, health::Health,
    producer::reporting, properties,
};

/// The number of records before the ends of the partitions, in total, that a member without resume offsets reads.
const LOOK_BACK: i64 = 1 << 17;
/// The bound on the records that the client reads in advance, in KiB.
const READ_AHEAD: &str = "8192";
/// The time limit of one poll.
const POLL: Duration = Duration::from_millis(100);
/// The interval for checking whether other producers have ended their transactions.
const OPEN_PAUSE: Duration = Duration::from_millis(50);
/// The time limit for one answer of a broker, and for reading without any progress.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// The largest number of records in a batch.
pub(super) const MAX_TOGETHER: usize = 2000;
/// The number of batches of records that may wait.
pub(crate) const BATCHES: usize = 4;

/// The offsets from which the partitions of a topic are read.
pub(crate) type Offsets = BTreeMap<u32, u64>;

/// The part of a topic that is to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unread {
    pub(crate) offsets: Offsets,
    /// The ends of the partitions, after the records of open transactions.
    pub(crate) ends: Offsets,
}

/// A record of the topic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(super) position: MessagePosition,
    /// `None` for a record of another program.
    pub(super) identity: Option<Identity>,
}

/// A topic to read, with the properties of the clients that read it.
#[derive(Clone)]
pub(crate) struct TopicToRead {
    pub(crate) client: ClientConfig,
    pub(crate) topic: String,
    pub(crate) partitions: usize,
    pub(crate) health: Arc<Health>,
}

/// The replicas from which records are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replicas {
    /// The leaders of the partitions: only they know the end.
    Leaders,
    /// Those next to this machine, if `client.rack` is set; otherwise the leaders. Such a replica may lag behind its leader.
    Nearest,
}

impl fmt::Debug for TopicToRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The client properties are left out: they contain secrets.
        f.debug_struct("TopicToRead")
            .field("topic", &self.topic)
            .field("partitions", &self.partitions)
            .finish_non_exhaustive()
    }
}

impl TopicToRead {
    pub(super) fn properties(&self, isolation: &str, replicas: Replicas) -> ClientConfig {
        let mut properties = properties::consumer(&self.client, isolation);
        properties
            .set("auto.offset.reset", "earliest")
            .set("queued.max.messages.kbytes", READ_AHEAD);
        if replicas == Replicas::Leaders {
            properties.remove("client.rack");
        }
        properties
    }

    pub(super) fn consumer(
        &self,
        properties: &ClientConfig,
        steps: &ConnectSteps,
    ) -> Result<Background<BaseConsumer<ReaderContext>>, SinkFault> {
        let (context, _) = reporting(&self.health, steps.clone());
        properties
            .create_with_context(ReaderContext::new(context, &self.topic))
            .map(Background::new)
            .map_err(|error| self.unreadable(&error))
    }

    /// Returns the part of the topic to read. A partition is read from its resume offset, and one that was added later from its
    /// beginning. Without any resume offsets, the last [`LOOK_BACK`] records are read. If a partition ends before its resume
    /// offset, all partitions are read from the beginning. Blocks.
    pub(crate) fn unread(&self, resume_offsets: &Offsets, steps: &ConnectSteps) -> Result<Unread, SinkFault> {
        steps.begin(
            ConnectStep::Cursor,
            format_args!("the ends of the topic \"{}\"", self.topic),
        );
        steps.advise("check the topic and the leaders of its partitions");
        // Uncommitted, because an open transaction may begin before a resume offset: the end of the committed records would
        // precede that offset, as in a recreated topic.
        let properties = self.properties("read_uncommitted", Replicas::Leaders);
        let consumer = self.consumer(&properties, steps)?;
        let look_back = LOOK_BACK / i64::try_from(self.partitions.max(1)).unwrap_or(i64::MAX);
        let mut ends = Vec::new();
        for partition in partition_numbers(self.partitions) {
            ends.push((partition, self.watermarks(&consumer, partition, ANSWER_LIMIT)?));
            steps.progress();
        }
        let ends_before = |(partition, (_, end)): &(u32, (i64, i64))| {
            resume_offsets
                .get(partition)
                .is_some_and(|next| *next > end.unsigned_abs())
        };
        // The topic was recreated or truncated, so the resume offsets of its other partitions are not valid any more either.
        let is_shorter = ends.iter().any(ends_before);
        let offsets = ends.iter().map(|&(partition, (first, end))| {
            let next = match resume_offsets.get(&partition) {
                Some(&next) if !is_shorter => next,
                None if resume_offsets.is_empty() => (end - look_back).max(first).unsigned_abs(),
                // In a recreated or truncated topic, or in a partition that was added later.
                _ => first.unsigned_abs(),
            };
            (partition, next)
        });
        Ok(Unread {
            offsets: offsets.collect(),
            ends: ends
                .iter()
                .map(|(partition, (_, end))| (*partition, end.unsigned_abs()))
                .collect(),
        })
    }

    /// Requests the first offset and the end of a partition from the leader of the partition.
    pub(super) fn watermarks(
        &self,
        consumer: &BaseConsumer<ReaderContext>,
        partition: u32,
        limit: Duration,
    ) -> Result<(i64, i64), SinkFault> {
        let partition = i32::try_from(partition).unwrap_or(i32::MAX);
        consumer
            .fetch_watermarks(&self.topic, partition, limit)
            .map_err(|error| self.unreadable(&error))
    }

    pub(super) fn assign(
        &self,
        consumer: &BaseConsumer<ReaderContext>,
        offsets: &Offsets,
    ) -> Result<(), SinkFault> {
        let mut assignment = TopicPartitionList::new();
        for (&partition, &next) in offsets {
            let partition = i32::try_from(partition).unwrap_or(i32::MAX);
            let next = Offset::Offset(i64::try_from(next).unwrap_or(i64::MAX));
            assignment
                .add_partition_offset(&self.topic, partition, next)
                .map_err(|error| self.unreadable(&error))?;
        }
        consumer
            .assign(&assignment)
            .map_err(|error| self.unreadable(&error))
    }

    /// Returns the records that arrive within a poll. `ended` is called for each partition whose end is reached.
    pub(super) fn poll(
        &self,
        consumer: &BaseConsumer<ReaderContext>,
        ended: &mut dyn FnMut(u32),
    ) -> Result<Vec<Found>, SinkFault> {
        let mut found = Vec::new();
        let mut wait = POLL;
        while found.len() < MAX_TOGETHER {
            match consumer.poll(wait) {
                Some(Ok(message)) => found.push(Found::of(&message)),
                Some(Err(KafkaError::PartitionEOF(partition))) => ended(partition.unsigned_abs()),
                Some(Err(error)) if !is_retried_by_client(&error) => return Err(self.unreadable(&error)),
                Some(Err(_)) => {}
                None => break,
            }
            wait = Duration::ZERO;
        }
        Ok(found)
    }

    /// Reads all records from `offsets` to the present end of the topic, sends them to `batches`, and returns the ends. Open
    /// transactions of other producers hide later records, so this method waits for their end for at most `limit`. Blocks.
    pub(crate) fn read_to_end(
        &self,
        offsets: &Offsets,
        limit: Duration,
        steps: &ConnectSteps,
        batches: &mpsc::Sender<Vec<Found>>,
    ) -> Result<Offsets, SinkFault> {
        let consumer = |isolation| self.consumer(&self.properties(isolation, Replicas::Leaders), steps);
        let (all, committed) = (consumer("read_uncommitted")?, consumer("read_committed")?);
        let mut ends = Offsets::new();
        for &partition in offsets.keys() {
            let (_, end) = self.watermarks(&all, partition, ANSWER_LIMIT)?;
            self.wait_for(&committed, partition, end, limit, steps)?;
            ends.insert(partition, end.unsigned_abs());
        }
        let mut open = offsets.clone();
        open.retain(|partition, next| ends.get(partition).is_some_and(|end| *next < *end));
        if open.is_empty() {
            return Ok(ends);
        }
        // Assigned only now, so that the ends that the consumer reports are later than those above.
        self.assign(&committed, &open)?;
        let mut deadline = Instant::now() + ANSWER_LIMIT;
        while !open.is_empty() {
            let found = self.poll(&committed, &mut |partition| {
                open.remove(&partition);
            })?;
            for Found { position, .. } in &found {
                // If a program writes all the time, the client may report the end late or never.
                if ends
                    .get(&position.partition)
                    .is_some_and(|end| position.offset + 1 >= *end)
                {
                    open.remove(&position.partition);
                }
            }
            if !found.is_empty() {
                if batches.blocking_send(found).is_err() {
                    return Err(SinkFault::not_connected());
                }
                deadline = Instant::now() + ANSWER_LIMIT;
                steps.progress();
            } else if Instant::now() >= deadline {
                return Err(self.unreadable(&KafkaError::MessageConsumption(Code::OperationTimedOut)));
            }
        }
        Ok(ends)
    }

    /// Waits until all records of a partition before `end` are committed or aborted.
    fn wait_for(
        &self,
        consumer: &BaseConsumer<ReaderContext>,
        partition: u32,
        end: i64,
        limit: Duration,
        steps: &ConnectSteps,
    ) -> Result<(), SinkFault> {
        let deadline = Instant::now() + limit;
        while self.watermarks(consumer, partition, ANSWER_LIMIT)?.1 < end {
            if Instant::now() >= deadline {
                return Err(self.hidden(&format!(
                    "expected the transaction to end within {limit:?}; waiting again"
                )));
            }
            steps.progress();
            // No event of the client announces the end of a transaction; the end has to be requested again.
            thread::sleep(OPEN_PAUSE);
        }
        Ok(())
    }

    /// Creates the fault for records that an open transaction hides. `advice`: what to do.
    pub(super) fn hidden(&self, advice: &str) -> SinkFault {
        let reason = format!(
            "in the topic \"{}\" an open transaction of another producer hides records of this cluster; {advice}",
            self.topic
        );
        SinkFault::new(FaultKind::Unavailable, reason)
    }

    fn unreadable(&self, error: &KafkaError) -> SinkFault {
        let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
        let SinkFault { kind, reason, .. } =
            error::fault(code, Some(&self.topic), "reading the records of other members");
        let rights = match kind {
            FaultKind::Unauthorised => "; a member of a cluster also needs Read on the topic",
            _ => "",
        };
        SinkFault::new(kind, format!("{reason}{rights}"))
    }
}

impl Found {
    fn of(message: &BorrowedMessage<'_>) -> Self {
        let identity = message.headers().and_then(|headers| {
            let header = headers.iter().find(|header| header.key == IDENTITY)?;
            std::str::from_utf8(header.value?).ok()
        });
        Self {
            position: MessagePosition {
                partition: message.partition().unsigned_abs(),
                offset: message.offset().unsigned_abs(),
            },
            identity: identity.map(Identity::of),
        }
    }
}
