//! The part of a sink that is a member of a cluster.
//!
//! A follower reads the committed records of its topic and settles its own copies of the events that others have published. A
//! takeover fences the last leader by the transactional id, reads the topic to its end, and settles what precedes it.

use std::{
    collections::BTreeMap,
    fmt, thread,
    time::{Duration, Instant},
};

use neurobridge_core::{
    connect::ConnectSteps,
    copies::{Copies, Identity, Place},
    event::Sequence,
    lead::Lead,
    sink::{Ack, FaultKind, Outcome, SinkFault},
};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::{BorrowedMessage, Headers},
    types::RDKafkaErrorCode as Code,
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::{cursors::passes, encode::IDENTITY, error, positions::Position, properties};

/// The number of records at the end of all partitions that a member without a stored position reads.
const LOOK_BACK: i64 = 1 << 17;
/// The bound on the records that the client has read in advance, in KiB.
const READ_AHEAD: &str = "8192";
/// The largest number of own events that wait for their records.
const MAX_EXPECTED: usize = 20_000;
/// The longest text to store with the cursor, in bytes. Below the limit of the spool.
const LONGEST_NOTE: usize = 7000;
/// The time limit of one poll.
const POLL: Duration = Duration::from_millis(100);
/// The interval for checking whether other producers have ended their transactions.
const OPEN_PAUSE: Duration = Duration::from_millis(50);
/// The time limit for one answer of a broker, and for reading without any progress.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// The largest number of records that are passed on together, and the number of such batches that may wait.
const MOST_TOGETHER: usize = 2000;
const BATCHES: usize = 4;

/// The lead of a member, and what it has read of the topic.
#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) lead: Lead,
    copies: Copies,
    /// The outcomes of events whose records were read before.
    known: Vec<Ack>,
    reader: Option<RecordReader>,
    text: String,
}

/// A record of the topic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    place: Place,
    /// `None` for a record of another program.
    identity: Option<Identity>,
}

/// The offsets from which the partitions of a topic are read.
pub(crate) type Offsets = BTreeMap<u32, u64>;

/// The text stored with the cursor.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    #[serde(flatten)]
    position: Option<Position>,
    /// The offsets from which the partitions have to be read after a restart.
    #[serde(default)]
    read: Offsets,
}

/// What becomes of an event that the delivery publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It has a record already; the outcome is among those that [`Membership::take_known`] returns.
    Stored,
    /// It is expected to have a record later.
    Expected,
    /// The limit of expected events is reached.
    Full,
    /// It is published.
    Publish,
}

impl Membership {
    pub(crate) fn new(lead: Lead) -> Self {
        Self {
            lead,
            copies: Copies::default(),
            known: Vec::new(),
            reader: None,
            text: String::new(),
        }
    }

    /// Returns the buffer for the text of an identity.
    pub(crate) const fn text(&mut self) -> &mut String {
        &mut self.text
    }

    /// Decides about the event whose identity is in [`text`](Self::text).
    pub(crate) fn turn(&mut self, sequence: Sequence, is_leading: bool) -> Turn {
        let identity = Identity::of(&self.text);
        let is_stored = if is_leading {
            self.copies.has(sequence, identity)
        } else if self.copies.expected() >= MAX_EXPECTED {
            return Turn::Full;
        } else {
            self.copies.expect(sequence, identity)
        };
        if is_stored {
            self.known.push(Ack {
                sequence,
                outcome: Outcome::Duplicate,
            });
            Turn::Stored
        } else if is_leading {
            Turn::Publish
        } else {
            Turn::Expected
        }
    }

    /// Moves the outcomes of events that have records already into `acks`. Returns whether there were any.
    pub(crate) fn take_known(&mut self, acks: &mut Vec<Ack>) -> bool {
        let has_any = !self.known.is_empty();
        acks.append(&mut self.known);
        has_any
    }

    /// Prepares for another connection: every event without an outcome is read from the spool again.
    pub(crate) fn restart(&mut self) {
        self.reader = None;
        self.known.clear();
        self.copies.restart();
    }

    /// Sets the offsets at which reading begins.
    pub(crate) fn begin(&mut self, offsets: &Offsets) {
        for (&lane, &next) in offsets {
            self.copies.read_to(lane, next);
        }
    }

    /// Returns the offsets at which reading continues: in this process, otherwise those stored with the cursor.
    pub(crate) fn wanted(&self, note: Option<&str>, partitions: usize) -> Offsets {
        let stored = note.and_then(|note| serde_json::from_str::<Note>(note).ok());
        let stored = stored.map(|note| note.read).unwrap_or_default();
        let lanes = 0..u32::try_from(partitions).unwrap_or_default();
        lanes
            .filter_map(|lane| {
                let next = self.copies.next(lane).or_else(|| stored.get(&lane).copied())?;
                Some((lane, next))
            })
            .collect()
    }

    /// Begins to follow with a reader.
    pub(crate) fn follow(&mut self, reader: RecordReader) {
        self.reader = Some(reader);
    }

    /// Settles events by what others publish. Returns at the outcome of an event, or when the lease is held. Cancel-safe.
    pub(crate) async fn outcomes(&mut self, acks: &mut Vec<Ack>) -> Result<(), SinkFault> {
        let Some(reader) = &mut self.reader else {
            return Ok(());
        };
        if acks.is_empty() {
            // Only now: outcomes are lost if the connection ends before the delivery has taken them.
            self.copies.settled(self.copies.first_open());
        }
        while acks.is_empty() {
            tokio::select! {
                biased;
                () = self.lead.held() => return Ok(()),
                batch = reader.records.recv() => match batch {
                    Some(Ok(found)) => settle(&mut self.copies, found, acks),
                    Some(Err(fault)) => return Err(fault),
                    None => return Err(SinkFault::new(FaultKind::Other, "the reader of the topic has ended; it is started again")),
                },
            }
        }
        Ok(())
    }

    /// Settles events by the records that were read at a takeover.
    pub(crate) fn read(&mut self, found: Vec<Found>, ends: &Offsets) {
        settle(&mut self.copies, found, &mut Vec::new());
        self.begin(ends);
    }

    /// Records that the own records up to these offsets are acknowledged.
    pub(crate) fn acknowledged(&mut self, ends: &Offsets) {
        self.begin(ends);
        self.copies.settled(self.copies.first_open());
    }

    /// Records that the own records up to these offsets are committed, and that no event before `next` is read from the spool
    /// again.
    pub(crate) fn committed(&mut self, ends: &Offsets, next: Sequence) {
        self.begin(ends);
        self.copies.settled(next);
    }

    /// Returns the text to store with the cursor.
    pub(crate) fn note(&self, position: Option<Position>, partitions: usize) -> Option<String> {
        let lanes = 0..u32::try_from(partitions).unwrap_or_default();
        let read = lanes.filter_map(|lane| Some((lane, self.copies.resume(lane)?)));
        let note = Note {
            position,
            read: read.collect(),
        };
        let text = serde_json::to_string(&note).ok()?;
        // The cursor has no room for the offsets of hundreds of partitions: a restart then reads from some way before their ends.
        (text.len() <= LONGEST_NOTE).then_some(text)
    }
}

fn settle(copies: &mut Copies, found: Vec<Found>, acks: &mut Vec<Ack>) {
    for Found { place, identity } in found {
        match identity {
            None => copies.read_to(place.lane, place.offset + 1),
            Some(identity) => {
                if let Some(sequence) = copies.read(place, identity) {
                    acks.push(Ack {
                        sequence,
                        outcome: Outcome::Duplicate,
                    });
                }
            }
        }
    }
}

/// Reads the committed records of a topic on a thread of its own, which ends after this is dropped.
#[derive(Debug)]
pub(crate) struct RecordReader {
    records: mpsc::Receiver<Result<Vec<Found>, SinkFault>>,
}

/// A topic to read, with the properties of the client.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) client: ClientConfig,
    pub(crate) topic: String,
    pub(crate) partitions: usize,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The client properties are left out: they contain secrets.
        f.debug_struct("Source")
            .field("topic", &self.topic)
            .field("partitions", &self.partitions)
            .finish_non_exhaustive()
    }
}

impl Source {
    fn consumer(&self, isolation: &str) -> Result<BaseConsumer, SinkFault> {
        properties::consumer(&self.client, isolation)
            .set("auto.offset.reset", "earliest")
            .set("queued.max.messages.kbytes", READ_AHEAD)
            .create()
            .map_err(|error| self.unreadable(&error))
    }

    /// Returns the offsets at which reading begins: the wanted ones, or some way before the end for partitions without one. Those
    /// of a topic that ends earlier are replaced by the first ones. Blocks.
    pub(crate) fn begin(&self, wanted: &Offsets) -> Result<Offsets, SinkFault> {
        let consumer = self.consumer("read_committed")?;
        let mut offsets = Offsets::new();
        let look_back = LOOK_BACK / i64::try_from(self.partitions.max(1)).unwrap_or(i64::MAX);
        for lane in 0..u32::try_from(self.partitions).unwrap_or_default() {
            let (first, end) = self.watermarks(&consumer, lane)?;
            let next = match wanted.get(&lane) {
                Some(&next) if next <= end.unsigned_abs() => next,
                Some(_) => first.unsigned_abs(),
                None if wanted.is_empty() => (end - look_back).max(first).unsigned_abs(),
                // A partition that was added later.
                None => first.unsigned_abs(),
            };
            offsets.insert(lane, next);
        }
        Ok(offsets)
    }

    fn watermarks(&self, consumer: &BaseConsumer, lane: u32) -> Result<(i64, i64), SinkFault> {
        let lane = i32::try_from(lane).unwrap_or(i32::MAX);
        consumer
            .fetch_watermarks(&self.topic, lane, ANSWER_LIMIT)
            .map_err(|error| self.unreadable(&error))
    }

    /// Starts to read.
    pub(crate) fn start(self, offsets: Offsets) -> Result<RecordReader, SinkFault> {
        let consumer = self.consumer("read_committed")?;
        self.assign(&consumer, &offsets)?;
        let (sender, records) = mpsc::channel(BATCHES);
        let thread = thread::Builder::new().name("kafka-read".into());
        let started = thread.spawn(move || {
            while !sender.is_closed() {
                let batch = self.poll(&consumer, &mut |_| {});
                let is_fault = batch.is_err();
                let is_empty = batch.as_ref().is_ok_and(Vec::is_empty);
                if !is_empty && sender.blocking_send(batch).is_err() || is_fault {
                    return;
                }
            }
        });
        started.map(|_| RecordReader { records }).map_err(|error| {
            let reason = format!("cannot start a thread: {error}; raise the limit of threads or memory");
            SinkFault::new(FaultKind::Other, reason)
        })
    }

    fn assign(&self, consumer: &BaseConsumer, offsets: &Offsets) -> Result<(), SinkFault> {
        let mut assignment = TopicPartitionList::new();
        for (&lane, &next) in offsets {
            let lane = i32::try_from(lane).unwrap_or(i32::MAX);
            let next = Offset::Offset(i64::try_from(next).unwrap_or(i64::MAX));
            assignment
                .add_partition_offset(&self.topic, lane, next)
                .map_err(|error| self.unreadable(&error))?;
        }
        consumer
            .assign(&assignment)
            .map_err(|error| self.unreadable(&error))
    }

    /// Returns the records that arrive within a poll. `ended` is called for each partition whose end is reached.
    fn poll(&self, consumer: &BaseConsumer, ended: &mut dyn FnMut(u32)) -> Result<Vec<Found>, SinkFault> {
        let mut found = Vec::new();
        let mut wait = POLL;
        while found.len() < MOST_TOGETHER {
            match consumer.poll(wait) {
                Some(Ok(message)) => found.push(Found::of(&message)),
                Some(Err(KafkaError::PartitionEOF(lane))) => ended(lane.unsigned_abs()),
                Some(Err(error)) if !passes(&error) => return Err(self.unreadable(&error)),
                Some(Err(_)) => {}
                None => break,
            }
            wait = Duration::ZERO;
        }
        Ok(found)
    }

    /// Reads all records from `offsets` to the present end of the topic, and returns them with the ends. Open transactions of other
    /// producers hide later records, so this waits for their end for at most `limit`. Blocks.
    pub(crate) fn read_to_end(
        &self,
        offsets: &Offsets,
        limit: Duration,
        steps: &ConnectSteps,
    ) -> Result<(Vec<Found>, Offsets), SinkFault> {
        let (all, committed) = (
            self.consumer("read_uncommitted")?,
            self.consumer("read_committed")?,
        );
        let mut ends = Offsets::new();
        for &lane in offsets.keys() {
            let (_, end) = self.watermarks(&all, lane)?;
            self.wait_for(&committed, lane, end, limit, steps)?;
            ends.insert(lane, end.unsigned_abs());
        }
        let mut open: Offsets = offsets
            .iter()
            .filter(|(lane, next)| ends.get(lane).is_some_and(|end| *next < end))
            .map(|(lane, next)| (*lane, *next))
            .collect();
        let mut found = Vec::new();
        if open.is_empty() {
            return Ok((found, ends));
        }
        // A new consumer, so that the ends that it reports are later than those above.
        self.assign(&committed, &open)?;
        let mut deadline = Instant::now() + ANSWER_LIMIT;
        while !open.is_empty() {
            let records = self.poll(&committed, &mut |lane| {
                open.remove(&lane);
            })?;
            if !records.is_empty() {
                deadline = Instant::now() + ANSWER_LIMIT;
                steps.progress();
            } else if Instant::now() >= deadline {
                return Err(self.unreadable(&KafkaError::MessageConsumption(Code::OperationTimedOut)));
            }
            found.extend(records);
        }
        Ok((found, ends))
    }

    fn wait_for(
        &self,
        consumer: &BaseConsumer,
        lane: u32,
        end: i64,
        limit: Duration,
        steps: &ConnectSteps,
    ) -> Result<(), SinkFault> {
        let deadline = Instant::now() + limit;
        while self.watermarks(consumer, lane)?.1 < end {
            if Instant::now() >= deadline {
                let reason = format!(
                    "in the topic \"{}\" an open transaction of another producer hides records of this cluster; expected its end \
                     within {limit:?}; waiting again",
                    self.topic
                );
                return Err(SinkFault::new(FaultKind::Unavailable, reason));
            }
            steps.progress();
            // No event of the client announces the end of a transaction; the position has to be asked for again.
            thread::sleep(OPEN_PAUSE);
        }
        Ok(())
    }

    fn unreadable(&self, error: &KafkaError) -> SinkFault {
        let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
        let SinkFault { kind, reason, .. } =
            error::fault(code, Some(&self.topic), "reading the records of other members");
        SinkFault::new(
            kind,
            format!("{reason}; a member of a cluster also needs Read on the topic"),
        )
    }
}

impl Found {
    fn of(message: &BorrowedMessage<'_>) -> Self {
        let identity = message.headers().and_then(|headers| {
            let header = headers.iter().find(|header| header.key == IDENTITY)?;
            std::str::from_utf8(header.value?).ok()
        });
        Self {
            place: Place {
                lane: message.partition().unsigned_abs(),
                offset: message.offset().unsigned_abs(),
            },
            identity: identity.map(Identity::of),
        }
    }
}
