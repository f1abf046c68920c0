//! A delivery from a spool in memory to Kafka, and the results of the delivery.

use std::{fs, net::TcpListener, sync::Arc};

use jiff::Timestamp;
use neurobridge_core::{
    delivery::{DeliveryEnd, Progress, ProgressSnapshot, deliver},
    event::{Event, Sequence},
    reader::Cursor,
    record::Batch,
    sink::SinkFault,
    testing,
};
use neurobridge_sink_kafka::{KafkaConfig, KafkaSink};
use neurobridge_spool::Spool;
use neurobridge_tests::{
    kafka::{
        Kafka,
        records::{Record, read_topic},
    },
    poll::within,
};
use tokio::task::JoinHandle;

pub(crate) use crate::deliveries::LIMIT;
use crate::deliveries::{self, RecordedDeadLetters, connect_once};

/// Restarts a broker with other advertised listeners; without an address, with the correct ones.
pub(crate) fn advertise(kafka: &mut Kafka, address: Option<&str>) {
    const LINE: &str = "\nadvertised.listeners=PLAINTEXT://";
    kafka.stop().unwrap();
    let file = kafka.dir().join("server.properties");
    let mut text = fs::read_to_string(&file).unwrap();
    // The last line with a key is effective; the first one is the correct one.
    if let Some((at, _)) = text.match_indices(LINE).nth(1) {
        text.truncate(at);
    }
    if let Some(address) = address {
        text.push_str(&format!("{LINE}{address}\n"));
    }
    fs::write(&file, text).unwrap();
    kafka.start_again().unwrap();
}

/// Returns an address at which no program listens.
pub(crate) fn closed_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// A running delivery.
pub(crate) struct Delivery {
    pub(crate) spool: Spool,
    pub(crate) progress: Arc<Progress>,
    dead_letters: Arc<RecordedDeadLetters>,
    task: JoinHandle<DeliveryEnd>,
    appended: u64,
}

impl Delivery {
    pub(crate) fn start(config: KafkaConfig) -> Self {
        assert_eq!(config.check(), []);
        let spool = deliveries::spool();
        let reader = spool.reader("kafka");
        let cursor = Cursor::starting_at(Sequence::FIRST);
        let progress = Arc::new(Progress::new(cursor));
        let dead_letters = Arc::new(RecordedDeadLetters::default());
        let options = deliveries::options("kafka", spool.id(), &dead_letters);
        let sink = KafkaSink::new("kafka", config);
        let delivery = deliver(
            sink,
            reader,
            options,
            Arc::clone(&progress),
            deliveries::shutdown(),
        );
        let task = tokio::spawn(async move { delivery.await.unwrap() });
        Self {
            spool,
            progress,
            dead_letters,
            task,
            appended: 0,
        }
    }

    /// Appends one event.
    pub(crate) async fn append(&mut self, frame: &str) {
        let mut batch = Batch::default();
        batch.push(&Event {
            received_at: Timestamp::now(),
            ..testing::event(frame)
        });
        self.spool.append(batch).await.unwrap();
        self.appended += 1;
    }

    /// Appends events with the next ids, of seven persons alternately.
    pub(crate) async fn append_many(&mut self, count: u64) {
        for _ in 0..count {
            let id = self.appended + 1;
            self.append(&frame(id)).await;
        }
    }

    /// Waits until the progress of the delivery satisfies a condition.
    pub(crate) async fn until(
        &self,
        what: &str,
        wanted: impl Fn(&ProgressSnapshot) -> bool,
    ) -> ProgressSnapshot {
        deliveries::until(&self.progress, what, wanted).await
    }

    pub(crate) async fn until_settled(&self) -> ProgressSnapshot {
        let all = self.appended;
        self.until("the last outcome", |snapshot| {
            snapshot.cursor.counts.settled() == all
        })
        .await
    }

    /// Returns the dead letters so far.
    pub(crate) fn dead_letters(&self) -> Vec<String> {
        self.dead_letters.lines()
    }

    /// Delivers the remaining events and ends.
    pub(crate) async fn finish(mut self) -> Ending {
        self.spool.close();
        let ended = within("the end of the delivery", LIMIT, &mut self.task)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(ended, DeliveryEnd::Drained);
        let snapshot = self.progress.snapshot();
        assert_eq!(snapshot.cursor.counts.settled(), self.appended);
        Ending {
            snapshot,
            dead_letters: self.dead_letters(),
        }
    }
}

/// The results of a delivery.
pub(crate) struct Ending {
    pub(crate) snapshot: ProgressSnapshot,
    pub(crate) dead_letters: Vec<String>,
}

pub(crate) fn frame(id: u64) -> String {
    format!(
        r#"{{"id":{id},"data":{{"id":{id},"result":"new","pid":"person-{}"}}}}"#,
        id % 7
    )
}

/// Connects once.
pub(crate) async fn connect(config: KafkaConfig) -> Result<(), SinkFault> {
    assert_eq!(config.check(), []);
    connect_once(&mut KafkaSink::new("kafka", config)).await
}

/// Connects once like `check --connect`; returns the settings that can lose events, and the topics that would be created.
pub(crate) async fn tried(config: KafkaConfig) -> Result<Vec<String>, SinkFault> {
    let mut sink = KafkaSink::trial("kafka", config);
    connect_once(&mut sink).await?;
    Ok(sink.warnings().to_vec())
}

/// Reads the records of a topic on a thread that may block.
pub(crate) async fn records(bootstrap: &str, topic: &str) -> Vec<Record> {
    let (bootstrap, topic) = (bootstrap.to_owned(), topic.to_owned());
    blocking(move || read_topic(&bootstrap, &topic, LIMIT).unwrap()).await
}

/// Runs a blocking operation concurrently with the delivery.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// Checks that all events from 1 to `count` are stored, and in order for each person. Duplicates of an event are ignored.
pub(crate) fn assert_complete_and_in_order(records: &[Record], count: u64) {
    let mut seen = std::collections::BTreeSet::new();
    let mut last = std::collections::HashMap::new();
    for record in records {
        let value: serde_json::Value = serde_json::from_slice(record.value.as_ref().unwrap()).unwrap();
        let id = value["id"].as_u64().unwrap();
        if seen.insert(id) {
            let before = last.insert(record.key.clone(), id).unwrap_or(0);
            assert!(before < id, "{id} came after {before} of the same person");
        }
    }
    assert_eq!(
        seen.into_iter().collect::<Vec<_>>(),
        (1..=count).collect::<Vec<_>>()
    );
}

/// Returns a topic name that no other test uses.
pub(crate) fn topic(word: &str) -> String {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    format!(
        "test.{word}.{}.{}.{number}",
        std::process::id(),
        Timestamp::now().as_millisecond()
    )
}
