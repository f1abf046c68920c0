//! Tests the sink within the delivery: the outcome of every event, whatever the broker answers.

use std::{future::pending, pin::Pin, sync::Mutex};

use neurobridge_core::{
    dead_letter::DeadLetters,
    delivery::{DeliveryEnd, DeliveryOptions, Progress, Shutdown, deliver},
    filter::Filter,
    reader::{Read, ReadError, Reader},
    record::{Batch, SealedBatch},
    redact::Redaction,
};
use tokio_util::sync::CancellationToken;

use super::*;

/// A reader that returns one batch after the other, then the end.
struct FakeReader {
    batch: SealedBatch,
    next: Sequence,
    cursor: Cursor,
    committed: Arc<Mutex<Cursor>>,
}

impl Reader for FakeReader {
    async fn next(&mut self) -> Result<Read, ReadError> {
        match self.batch.from(self.next) {
            Some(batch) => {
                self.next = batch.end();
                Ok(Read::Events(batch))
            }
            None if self.next == self.batch.end() => Ok(Read::End),
            None => pending().await,
        }
    }

    fn rewind(&mut self, sequence: Sequence) {
        self.next = sequence;
    }

    fn commit(&mut self, cursor: &Cursor) {
        assert_eq!(cursor.counts.settled(), cursor.next.since(cursor.first));
        *self.committed.lock().unwrap() = cursor.clone();
    }

    fn cursor(&self) -> &Cursor {
        &self.cursor
    }
}

#[derive(Default)]
struct RecordedDeadLetters(Mutex<String>);

impl DeadLetters for RecordedDeadLetters {
    fn store<'a>(&'a self, lines: &'a str) -> Pin<Box<dyn Future<Output = io::Result<()>> + Send + 'a>> {
        Box::pin(async move {
            self.0.lock().unwrap().push_str(lines);
            Ok(())
        })
    }
}

struct Delivered {
    cursor: Cursor,
    dead_letters: Vec<String>,
    faults: u64,
}

/// Delivers `count` events through the whole delivery loop.
async fn deliver_all(config: KafkaConfig, count: u64) -> Delivered {
    let mut batch = Batch::default();
    let frames: Vec<_> = (1..=count).map(frame).collect();
    for frame in &frames {
        batch.push(&Event {
            received_at: jiff::Timestamp::now(),
            ..event(1, frame)
        });
    }
    let cursor = first_cursor();
    let committed = Arc::new(Mutex::new(cursor.clone()));
    let reader = FakeReader {
        batch: batch.seal(Sequence::FIRST),
        next: Sequence::FIRST,
        cursor: cursor.clone(),
        committed: Arc::clone(&committed),
    };
    let dead_letters = Arc::new(RecordedDeadLetters::default());
    let options = DeliveryOptions {
        name: "kafka".into(),
        spool: SpoolId::from_bytes([7; 16]),
        filter: Filter::default(),
        redaction: Redaction::default(),
        dead_letters: Arc::<RecordedDeadLetters>::clone(&dead_letters),
        dead_letter_place: String::new(),
        max_dead_letters_in_a_row: 10,
        lead: None,
    };
    let progress = Arc::new(Progress::new(cursor));
    let shutdown = Shutdown {
        drain: CancellationToken::new(),
        abort: CancellationToken::new(),
    };
    let sink = KafkaSink::new("kafka", config);
    let ended = timeout(
        LIMIT,
        deliver(sink, reader, options, Arc::clone(&progress), shutdown),
    )
    .await
    .unwrap()
    .unwrap();
    assert_eq!(ended, DeliveryEnd::Drained);
    let dead_letters = dead_letters
        .0
        .lock()
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    let cursor = committed.lock().unwrap().clone();
    Delivered {
        cursor,
        dead_letters,
        faults: progress.snapshot().faults.total(),
    }
}

#[tokio::test]
async fn revoked_permission_only_delays_events() {
    let kafka = Kafka::start(1);
    let denied = Resp::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    kafka.fail_produce(&[
        Resp::RD_KAFKA_RESP_ERR_NO_ERROR,
        denied,
        Resp::RD_KAFKA_RESP_ERR_NO_ERROR,
        denied,
    ]);
    let mut config = kafka.config();
    // Several batches are in flight when the first one is rejected.
    config.properties.insert(
        "batch.num.messages".into(),
        neurobridge_core::secret::Secret::new("50"),
    );
    let delivered = deliver_all(config, 1_000).await;
    assert_eq!(
        (delivered.cursor.counts.delivered, delivered.dead_letters.len()),
        (1_000, 0)
    );
    assert!(delivered.faults > 0);
    // No event is missing. The order is not checked: the mock cluster accepts batches after a rejected one, which a real broker
    // does not; the end-to-end tests with a real broker check the order.
    assert!(kafka.ids(1_000).len() >= 1_000);
}

#[tokio::test]
async fn oversize_batch_dead_letters_only_the_oversize_event() {
    let too_large = Resp::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
    let kafka = Kafka::start(1);
    kafka.fail_produce(&[too_large]);
    let delivered = deliver_all(kafka.config(), 20).await;
    assert_eq!(
        (delivered.cursor.counts.delivered, delivered.dead_letters.len()),
        (20, 0)
    );

    let kafka = Kafka::start(1);
    kafka.fail_produce(&[too_large, too_large]);
    let delivered = deliver_all(kafka.config(), 20).await;
    assert_eq!(
        (
            delivered.cursor.counts.delivered,
            delivered.cursor.counts.dead_lettered
        ),
        (19, 1)
    );
    assert!(
        delivered.dead_letters[0].contains("\"reason\":\"too_large\""),
        "{:?}",
        delivered.dead_letters
    );
    assert_eq!(delivered.faults, 0);
}

#[tokio::test]
async fn fatal_error_is_resolved_by_a_new_producer() {
    let kafka = Kafka::start(1);
    kafka.fail_produce(&[
        Resp::RD_KAFKA_RESP_ERR_NO_ERROR,
        Resp::RD_KAFKA_RESP_ERR_NO_ERROR,
        Resp::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
    ]);
    let mut config = kafka.config();
    config.properties.insert(
        "batch.num.messages".into(),
        neurobridge_core::secret::Secret::new("100"),
    );
    let delivered = deliver_all(config, 1_000).await;
    assert_eq!(
        (delivered.cursor.counts.delivered, delivered.dead_letters.len()),
        (1_000, 0)
    );
    assert_order(&kafka.ids(1_000));
}

/// Checks the order of the first copies only.
fn assert_order(ids: &[u64]) {
    let mut highest = 0;
    for id in ids {
        assert!(*id <= highest + 1, "{id} came before {}", highest + 1);
        highest = highest.max(*id);
    }
}
