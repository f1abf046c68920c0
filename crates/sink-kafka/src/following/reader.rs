//! Reads the committed records of a topic on a thread of its own, and detects when no record arrives although the topic has
//! further ones.
//!
//! librdkafka reports neither a broker that does not answer, nor a partition without a leader, nor an open transaction that hides
//! all later records: it waits. So the thread requests the end of each partition whose position has not advanced since the last
//! check, and compares it with the position. A topic without new records is no fault.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
    vec,
};

use neurobridge_core::{
    connect::ConnectSteps,
    lead::FOLLOWER_READ_INTERVAL,
    sink::{FaultKind, SinkFault},
};
use rdkafka::{
    ClientConfig, ClientContext,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::KafkaError,
    types::RDKafkaErrorCode as Code,
};
use tokio::sync::mpsc;

use super::topic_to_read::{BATCHES, Found, Offsets, Replicas, TopicToRead};
use crate::{background::Background, context::Context, properties::FETCH_WAIT, statistics};

/// The number of bytes with which a broker answers a request at once. Less than the maximum that it sends for one partition.
const FETCH_BYTES: &str = "524288";

/// The limits of a reader without progress.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The interval at which the positions are compared with the ends of the partitions.
    pub(super) check: Duration,
    /// The time limit of an answer, during which no record is received.
    pub(super) answer: Duration,
    /// The time without progress after which a fault is reported. Longer than the election of a partition leader.
    pub(super) stalled: Duration,
    /// The time without progress after which the reader ends, so that another client reads.
    pub(super) replaced: Duration,
    /// The time after which a transaction that hides records is reported.
    pub(super) open: Duration,
}

impl Limits {
    /// Returns the limits. `transaction`: the longest duration of a leader's transaction.
    pub(crate) fn new(transaction: Duration) -> Self {
        let stalled = Duration::from_secs(10);
        Self {
            check: Duration::from_secs(2),
            answer: Duration::from_secs(2),
            stalled,
            replaced: Duration::from_secs(30),
            open: stalled + transaction,
        }
    }
}

/// Reads the committed records of a topic on a thread of its own, which ends after the reader is dropped.
#[derive(Debug)]
pub(crate) struct RecordReader {
    records: mpsc::Receiver<Result<Vec<Found>, SinkFault>>,
    /// The received records that [`next`](Self::next) has not returned yet.
    batch: vec::IntoIter<Found>,
    state: Arc<State>,
}

/// The state of the thread, besides the records.
#[derive(Debug, Default)]
struct State {
    unavailable: Mutex<Option<SinkFault>>,
    #[cfg(test)]
    checks: std::sync::atomic::AtomicUsize,
}

impl RecordReader {
    /// Starts to read.
    pub(crate) fn start(
        topic_to_read: TopicToRead,
        offsets: &Offsets,
        limits: Limits,
    ) -> Result<Self, SinkFault> {
        let properties = properties(&topic_to_read, limits);
        let consumer = topic_to_read.consumer(&properties, &ConnectSteps::default())?;
        topic_to_read.assign(&consumer, offsets)?;
        let (sender, records) = mpsc::channel(BATCHES);
        let state = Arc::new(State::default());
        let reading = Reading {
            watch: Watch::new(offsets, limits),
            topic_to_read,
            consumer,
            state: Arc::clone(&state),
        };
        let thread = thread::Builder::new().name("kafka-read".into());
        let started = thread.spawn(move || reading.run(&sender));
        started.map_err(|error| {
            let reason = format!("cannot start a thread: {error}; raise the limit of threads or memory");
            SinkFault::new(FaultKind::Other, reason)
        })?;
        Ok(Self {
            records,
            batch: Vec::new().into_iter(),
            state,
        })
    }

    /// Waits until [`next`](Self::next) returns a record. Cancel-safe.
    pub(super) async fn ready(&mut self) -> Result<(), SinkFault> {
        while self.batch.len() == 0 {
            let ended = || {
                let reason = "the reader of the topic has stopped; connecting again";
                SinkFault::new(FaultKind::Other, reason)
            };
            self.batch = self.records.recv().await.ok_or_else(ended)??.into_iter();
        }
        Ok(())
    }

    /// Returns a record that was received.
    pub(super) fn next(&mut self) -> Option<Found> {
        self.batch.next()
    }

    /// Returns why nothing is received although the topic has further records.
    pub(super) fn unavailable(&self) -> Option<SinkFault> {
        lock(&self.state.unavailable).clone()
    }

    /// Returns a reader of batches from a test.
    #[cfg(test)]
    pub(super) fn of(records: mpsc::Receiver<Result<Vec<Found>, SinkFault>>) -> Self {
        Self {
            records,
            batch: Vec::new().into_iter(),
            state: Arc::default(),
        }
    }

    /// Returns the number of completed comparisons with the ends.
    #[cfg(test)]
    pub(super) fn checks(&self) -> usize {
        self.state.checks.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// Returns the properties of the client of a follower. Those of the configuration are retained.
pub(super) fn properties(topic_to_read: &TopicToRead, limits: Limits) -> ClientConfig {
    let mut properties = topic_to_read.properties("read_committed", Replicas::Nearest);
    properties.set("statistics.interval.ms", limits.check.as_millis().to_string());
    // A broker answers after this time, or earlier with this number of bytes.
    let together = [
        (FETCH_WAIT, FOLLOWER_READ_INTERVAL.as_millis().to_string()),
        ("fetch.min.bytes", FETCH_BYTES.to_owned()),
    ];
    for (name, value) in together {
        if topic_to_read.client.get(name).is_none() {
            properties.set(name, value);
        }
    }
    properties
}

/// The thread of a reader.
struct Reading {
    topic_to_read: TopicToRead,
    consumer: Background<BaseConsumer<ReaderContext>>,
    watch: Watch,
    state: Arc<State>,
}

impl Reading {
    fn run(mut self, sender: &mpsc::Sender<Result<Vec<Found>, SinkFault>>) {
        while !sender.is_closed() {
            let read = self.step(sender);
            if let Err(fault) = read {
                // The receiver may be gone, which ends this thread too.
                let _ = sender.blocking_send(Err(fault));
                return;
            }
        }
    }

    fn step(&mut self, sender: &mpsc::Sender<Result<Vec<Found>, SinkFault>>) -> Result<(), SinkFault> {
        let found = self.topic_to_read.poll(&self.consumer, &mut |_| {})?;
        if let Some(fault) = self.consumer.context().shared.take_fault() {
            return Err(fault);
        }
        if !found.is_empty() {
            self.watch.read(&found);
            let begin = Instant::now();
            // An error means that the receiver is gone, which `run` notices.
            let _ = sender.blocking_send(Ok(found));
            if begin.elapsed() >= self.watch.limits.check {
                self.watch.paused();
            }
        }
        if self.watch.is_due() {
            let unavailable = self.watch.check(&self.topic_to_read, &self.consumer)?;
            *lock(&self.state.unavailable) = unavailable;
            #[cfg(test)]
            self.state
                .checks
                .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Compares the positions of the reader with the ends of the partitions.
struct Watch {
    limits: Limits,
    partitions: BTreeMap<u32, PartitionState>,
    next_check: Instant,
}

/// A partition as it is read.
#[derive(Default)]
struct PartitionState {
    /// The offset after the last record.
    next: u64,
    /// The offset up to which the partition was read at the last check, records without an event included.
    position: u64,
    waits: Waits,
}

/// The times since which a partition makes no progress, by reason.
#[derive(Default)]
struct Waits {
    /// Its leader does not answer.
    unanswered: Option<Instant>,
    /// Committed records are not received.
    unreceived: Option<Instant>,
    /// An open transaction hides what follows.
    hidden: Option<Instant>,
}

impl Watch {
    fn new(offsets: &Offsets, limits: Limits) -> Self {
        let partition = |(partition, next): (&u32, &u64)| {
            let (next, position) = (*next, *next);
            let partition_state = PartitionState {
                next,
                position,
                ..PartitionState::default()
            };
            (*partition, partition_state)
        };
        Self {
            limits,
            partitions: offsets.iter().map(partition).collect(),
            next_check: Instant::now() + limits.check,
        }
    }

    fn is_due(&self) -> bool {
        Instant::now() >= self.next_check
    }

    fn read(&mut self, found: &[Found]) {
        for Found { position, .. } in found {
            if let Some(partition) = self.partitions.get_mut(&position.partition) {
                partition.next = partition.next.max(position.offset + 1);
            }
        }
    }

    /// Records that reading has waited for the receiver: the time without progress starts again at zero.
    fn paused(&mut self) {
        for partition in self.partitions.values_mut() {
            partition.waits = Waits::default();
        }
    }

    /// Returns the reason for which nothing is received, if it has lasted for long enough.
    ///
    /// # Errors
    /// The client has to be replaced: it has made no progress for too long, or does not read all partitions.
    fn check(
        &mut self,
        topic_to_read: &TopicToRead,
        consumer: &BaseConsumer<ReaderContext>,
    ) -> Result<Option<SinkFault>, SinkFault> {
        let known = lock(&consumer.context().seen).clone();
        if known.partition_count > topic_to_read.partitions {
            let reason = format!(
                "the topic \"{}\" has {} partitions, previously {}; all of them are read from now on",
                topic_to_read.topic, known.partition_count, topic_to_read.partitions
            );
            return Err(SinkFault::new(FaultKind::Other, reason));
        }
        let mut reason = None;
        for (number, partition) in &mut self.partitions {
            let seen = known.partitions.get(number).copied().unwrap_or_default();
            let position = partition.next.max(seen.end_reached);
            if position > partition.position {
                partition.waits = Waits::default();
                partition.position = position;
                continue;
            }
            match topic_to_read.watermarks(consumer, *number, self.limits.answer) {
                Ok((_, end)) => {
                    partition.waits.unanswered = None;
                    reason = reason.or(partition.compare(
                        topic_to_read,
                        *number,
                        end.unsigned_abs(),
                        seen.high,
                        self.limits,
                    )?);
                }
                Err(fault) => {
                    let since = *partition.waits.unanswered.get_or_insert_with(Instant::now);
                    if since.elapsed() >= self.limits.replaced {
                        return Err(fault);
                    }
                    let is_stalled = since.elapsed() >= self.limits.stalled;
                    reason = reason.or_else(|| is_stalled.then_some(fault));
                    // The next partitions may be readable, but are not checked: each further request without an answer would
                    // delay reading.
                    break;
                }
            }
        }
        self.next_check = Instant::now() + self.limits.check;
        Ok(reason)
    }
}

impl PartitionState {
    /// Compares the position of a partition with its ends, and returns the fault if records are missing for too long. `end`: the
    /// end of the committed records; `high`: the last known end of all records.
    ///
    /// # Errors
    /// The client has to be replaced: it has received no record for too long.
    fn compare(
        &mut self,
        topic_to_read: &TopicToRead,
        number: u32,
        end: u64,
        high: u64,
        limits: Limits,
    ) -> Result<Option<SinkFault>, SinkFault> {
        let since = |is_waiting: bool, since: &mut Option<Instant>| {
            if !is_waiting {
                *since = None;
                return Duration::ZERO;
            }
            since.get_or_insert_with(Instant::now).elapsed()
        };
        let unreceived = since(end > self.position, &mut self.waits.unreceived);
        let hidden = since(end <= self.position && high > end, &mut self.waits.hidden);
        if unreceived >= limits.stalled {
            let reason = format!(
                "no record of the topic \"{}\" was received for {} seconds although partition {number} was read to offset {} \
                 and ends at {end}; check the brokers and the network",
                topic_to_read.topic,
                unreceived.as_secs(),
                self.position
            );
            let fault = SinkFault::new(FaultKind::Timeout, reason);
            return if unreceived >= limits.replaced {
                Err(fault)
            } else {
                Ok(Some(fault))
            };
        }
        let is_long = hidden >= limits.open;
        Ok(is_long.then(|| topic_to_read.hidden("end the transaction, or wait until Kafka aborts it")))
    }
}

/// The context of a consumer: reports errors as the context of a producer does, and stores the last statistics.
pub(crate) struct ReaderContext {
    shared: Context,
    topic: String,
    seen: Mutex<statistics::Consumed>,
}

impl ReaderContext {
    pub(super) fn new(shared: Context, topic: &str) -> Self {
        Self {
            shared,
            topic: topic.to_owned(),
            seen: Mutex::default(),
        }
    }
}

impl ClientContext for ReaderContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.shared.log(level, facility, message);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        self.shared.stats_raw(statistics);
        if let Some(consumed) = statistics::Consumed::read(statistics, &self.topic) {
            *lock(&self.seen) = consumed;
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // The end of a partition is no error; the reader polls it.
        if error.rdkafka_error_code() != Some(Code::PartitionEOF) {
            self.shared.error(error, reason);
        }
    }
}

impl ConsumerContext for ReaderContext {}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code under these locks can panic halfway through an update, so a poisoned lock is still consistent.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
