//! The cursor topic. Each transaction contains a record of this topic, with the cursor that is valid after the transaction.

use std::time::{Duration, Instant};

use neurobridge_core::{
    connect::{ConnectStep, ConnectSteps},
    epoch::{Epoch, Epochs},
    event::Sequence,
    identity::SpoolId,
    ledger::SinkCounts,
    reader::Cursor,
    sink::{FaultKind, SinkFault},
};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    types::RDKafkaErrorCode as Code,
};
use serde::{Deserialize, Serialize};

use crate::{background::Background, error, properties};

/// The partition of all cursors. It is fixed, because the partition of a key changes when partitions are added.
pub(crate) const PARTITION: i32 = 0;

/// The time limit for reading the whole topic, which is compacted and small.
const READ_LIMIT: Duration = Duration::from_secs(30);
/// The time limit of one poll.
const POLL: Duration = Duration::from_millis(100);
/// The interval for checking whether other producers have ended their transactions.
const OPEN_PAUSE: Duration = Duration::from_millis(50);

/// A cursor as it is stored in the topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CursorRecord {
    #[serde(skip)]
    id: String,
    /// The process that wrote the record. If it is another process than this one, the other one has taken over the
    /// transactional id.
    instance: String,
    /// The spool that has assigned the sequences; `epoch` is the incarnation of its log.
    spool: String,
    #[serde(default)]
    epoch: Epoch,
    first: u64,
    next: u64,
    counts: SinkCounts,
}

impl CursorRecord {
    pub(crate) fn new(id: &str, instance: &str, spool: SpoolId, epoch: Epoch, cursor: &Cursor) -> Self {
        Self {
            id: id.to_owned(),
            instance: instance.to_owned(),
            spool: spool.to_string(),
            epoch,
            first: cursor.first.get(),
            next: cursor.next.get(),
            counts: cursor.counts,
        }
    }

    /// Returns the transactional id, which is the record's key.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn is_of_instance(&self, instance: &str) -> bool {
        self.instance == instance
    }

    /// Returns the cursor, limited to the events that the log still contains, and the number of events counted as delivered that
    /// the log has lost; `None` if the cursor counts the sequences of another spool.
    pub(crate) fn of_spool(&self, spool: SpoolId, epochs: &Epochs) -> Option<(Cursor, u64)> {
        if self.spool != spool.to_string() {
            return None;
        }
        let cursor = Cursor {
            first: Sequence::new(self.first)?,
            next: Sequence::new(self.next)?,
            counts: self.counts,
            note: None,
        };
        Some(cursor.within(self.epoch, epochs))
    }

    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers and texts are JSON")
    }

    fn read(id: &str, json: &[u8]) -> Result<Self, serde_json::Error> {
        let mut record: Self = serde_json::from_slice(json)?;
        record.id = id.to_owned();
        Ok(record)
    }
}

/// Reads the cursor topic.
pub(crate) struct Cursors<'a> {
    pub(crate) client: &'a ClientConfig,
    pub(crate) topic: &'a str,
    pub(crate) steps: &'a ConnectSteps,
}

impl Cursors<'_> {
    /// Returns the last committed cursor of an id that is visible without waiting.
    pub(crate) fn find(&self, id: &str) -> Result<Option<CursorRecord>, SinkFault> {
        self.begin();
        let consumer = self.consumer("read_committed")?;
        self.last_of(&consumer, id)
    }

    /// Returns the last committed cursor of an id. Open transactions of other producers in the topic may hide it, so this method
    /// waits for their end for at most `limit`.
    pub(crate) fn find_all(&self, id: &str, limit: Duration) -> Result<Option<CursorRecord>, SinkFault> {
        self.begin();
        let all = self.consumer("read_uncommitted")?;
        let end = self.end(&all)?;
        let consumer = self.consumer("read_committed")?;
        let deadline = Instant::now() + limit;
        while self.end(&consumer)? < end {
            if Instant::now() >= deadline {
                let reason = format!(
                    "in the topic \"{}\" an open transaction of another sink hides the cursor of this sink; expected \
                     the transaction to end within {limit:?}; waiting again",
                    self.topic
                );
                return Err(SinkFault::new(FaultKind::Unavailable, reason));
            }
            // The wait is bounded by `limit`, which is longer than the time that an attempt may last without progress.
            self.steps.progress();
            std::thread::sleep(OPEN_PAUSE);
        }
        self.last_of(&consumer, id)
    }

    fn begin(&self) {
        self.steps
            .begin(ConnectStep::Cursor, format_args!("the topic \"{}\"", self.topic));
    }

    fn consumer(&self, isolation: &str) -> Result<Background<BaseConsumer>, SinkFault> {
        properties::consumer(self.client, isolation)
            .create()
            .map(Background::new)
            .map_err(|error| self.unreadable(&error))
    }

    fn end(&self, consumer: &BaseConsumer) -> Result<i64, SinkFault> {
        let (_, end) = consumer
            .fetch_watermarks(self.topic, PARTITION, READ_LIMIT)
            .map_err(|error| self.unreadable(&error))?;
        Ok(end)
    }

    fn last_of(&self, consumer: &BaseConsumer, id: &str) -> Result<Option<CursorRecord>, SinkFault> {
        let mut assignment = TopicPartitionList::new();
        assignment
            .add_partition_offset(self.topic, PARTITION, Offset::Beginning)
            .and_then(|()| consumer.assign(&assignment))
            .map_err(|error| self.unreadable(&error))?;
        let deadline = Instant::now() + READ_LIMIT;
        let mut last = None;
        loop {
            match consumer.poll(POLL) {
                Some(Ok(message)) if message.key() == Some(id.as_bytes()) => {
                    last = message
                        .payload()
                        .map(|value| CursorRecord::read(id, value))
                        .transpose()
                        .map_err(|error| self.not_a_cursor(id, message.offset(), &error))?;
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(last),
                Some(Err(error)) if !is_retried_by_client(&error) => return Err(self.unreadable(&error)),
                Some(Ok(_) | Err(_)) | None => {}
            }
            if Instant::now() >= deadline {
                return Err(self.unreadable(&KafkaError::MessageConsumption(Code::OperationTimedOut)));
            }
        }
    }

    fn unreadable(&self, error: &KafkaError) -> SinkFault {
        let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
        let fault = error::fault(code, Some(self.topic), "reading the cursor");
        let reason = match fault.kind {
            FaultKind::Unauthorised => format!(
                "{}; exactly_once also needs Read on the topic, and Describe and Write on the transactional id",
                fault.reason
            ),
            _ => fault.reason.clone(),
        };
        SinkFault { reason, ..fault }
    }

    fn not_a_cursor(&self, id: &str, offset: i64, error: &serde_json::Error) -> SinkFault {
        SinkFault::fatal(
            FaultKind::Other,
            format!(
                "the record with the key \"{id}\" at offset {offset} of the topic \"{}\" is not a cursor ({error}), \
                 expected a cursor that neurobridge wrote; choose another transaction.cursor_topic",
                self.topic
            ),
        )
    }
}

/// Returns whether a consumer retries by itself after an error.
pub(crate) fn is_retried_by_client(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(Code::BrokerTransportFailure | Code::AllBrokersDown | Code::Resolve | Code::OperationTimedOut)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_is_read_back_only_for_its_spool() {
        let (spool, other) = (SpoolId::from_bytes([1; 16]), SpoolId::from_bytes([2; 16]));
        let mut cursor = Cursor::starting_at(Sequence::FIRST);
        cursor.next = Sequence::FIRST.plus(9);
        cursor.counts.delivered = 7;
        cursor.counts.filtered = 2;
        let record = CursorRecord::new("neurobridge-kafka", "one", spool, Epoch(5), &cursor);
        insta::assert_snapshot!(record.to_json(), @r#"{"instance":"one","spool":"01010101-0101-0101-0101-010101010101","epoch":5,"first":1,"next":10,"counts":{"delivered":7,"filtered":2,"duplicate":0,"dead_lettered":0,"dropped":0,"damaged":0}}"#);
        let back = CursorRecord::read("neurobridge-kafka", record.to_json().as_bytes()).unwrap();
        assert_eq!(back, record);
        assert!(back.is_of_instance("one") && !back.is_of_instance("two"));
        let epochs = Epochs::default().with(Epoch(5), Sequence::FIRST);
        assert_eq!(back.of_spool(spool, &epochs), Some((cursor.clone(), 0)));
        assert_eq!(back.of_spool(other, &epochs), None);

        // A later epoch of the log ended before the events that this cursor had committed.
        let epochs = epochs.with(Epoch(6), Sequence::FIRST.plus(6));
        let (kept, lost) = back.of_spool(spool, &epochs).unwrap();
        assert_eq!((kept.next.get(), kept.counts.settled(), lost), (7, 6, 3));
        // The same applies if the sink had started after that end: it then starts at the end and has settled nothing.
        let mut late = Cursor::starting_at(Sequence::FIRST.plus(8));
        late.next = Sequence::FIRST.plus(10);
        late.counts.delivered = 2;
        let late = CursorRecord::new("neurobridge-kafka", "one", spool, Epoch(5), &late);
        let (kept, _) = late.of_spool(spool, &epochs).unwrap();
        assert_eq!(
            (kept.first.get(), kept.next.get(), kept.counts.settled()),
            (7, 7, 0)
        );
        // A record from before epochs were introduced.
        let older = record.to_json().replace(r#""epoch":5,"#, "");
        let older = CursorRecord::read("neurobridge-kafka", older.as_bytes()).unwrap();
        assert_eq!(older.of_spool(spool, &epochs).unwrap().0.next, Sequence::FIRST);
    }
}
