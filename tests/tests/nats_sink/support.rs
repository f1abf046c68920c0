//! A delivery from a spool in memory to nats-server, and the results of the delivery.

use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_nats::{Client, jetstream::stream};
use jiff::Timestamp;
use neurobridge_core::{
    delivery::{DeliveryEnd, Progress, ProgressSnapshot, Shutdown, deliver},
    epoch::Epochs,
    event::{Event, Sequence},
    identity::SpoolId,
    neuroio,
    reader::{Cursor, Read, ReadError, Reader},
    record::Batch,
    sink::{Sink, SinkFault},
    testing,
};
use neurobridge_sink_nats::{NatsConfig, NatsSink, StreamConfig};
use neurobridge_spool::{Spool, SpoolReader};
use neurobridge_tests::{
    nats::{
        client::{connect as connect_client, read_stream},
        messages::Message,
    },
    poll::{Patience, within},
};
use tokio::{
    task::{JoinHandle, block_in_place},
    time::sleep,
};

pub(crate) use crate::deliveries::LIMIT;
use crate::deliveries::{self, INTERVAL, RecordedDeadLetters, connect_once};

/// A log of events that several deliveries may read one after the other.
pub(crate) struct Feed {
    pub(crate) spool: Spool,
    /// A reader that commits nothing, so that the log retains all events.
    keeper: SpoolReader,
    appended: u64,
}

impl Feed {
    pub(crate) fn new() -> Self {
        let spool = deliveries::spool();
        let keeper = spool.reader("keeper");
        Self {
            spool,
            keeper,
            appended: 0,
        }
    }

    /// Appends one event of a source.
    pub(crate) async fn append(&mut self, source: &str, frame: &str) {
        self.append_all(&[(source.to_owned(), frame.to_owned())]).await;
    }

    async fn append_all(&mut self, frames: &[(String, String)]) {
        let mut batch = Batch::default();
        for (source, frame) in frames {
            batch.push(&Event {
                received_at: Timestamp::now(),
                source,
                source_uri: &neuroio::source_uri(source),
                ..testing::event(frame)
            });
        }
        self.spool.append(batch).await.unwrap();
        self.appended += frames.len() as u64;
    }

    /// Appends events with the next ids, of seven persons alternately.
    pub(crate) async fn append_many(&mut self, count: u64) {
        let frames: Vec<_> = (self.appended + 1..=self.appended + count)
            .map(|id| ("main".to_owned(), frame(id)))
            .collect();
        self.append_all(&frames).await;
    }

    /// Appends events at a constant rate, a few every hundredth of a second.
    pub(crate) async fn append_over(&mut self, time: Duration, per_second: u64) {
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        for _ in 0..time.as_millis() / 10 {
            ticks.tick().await;
            self.append_many(per_second / 100).await;
        }
    }

    /// Appends this many events per second until a condition is met, so that the load lasts as long as necessary.
    pub(crate) async fn append_until(&mut self, what: &str, per_second: u64, done: impl Fn() -> bool) {
        let mut patience = Patience::new(what, LIMIT);
        while !done() {
            patience.check().unwrap();
            self.append_over(Duration::from_millis(50), per_second).await;
        }
    }

    pub(crate) const fn appended(&self) -> u64 {
        self.appended
    }
}

/// Reads a log from any position.
struct Resumed {
    reader: SpoolReader,
    cursor: Cursor,
    committed: Arc<Mutex<Cursor>>,
    epochs: Epochs,
}

impl Reader for Resumed {
    fn next(&mut self) -> impl Future<Output = Result<Read, ReadError>> + Send {
        self.reader.next()
    }

    fn rewind(&mut self, sequence: Sequence) {
        self.reader.rewind(sequence);
    }

    fn commit(&mut self, cursor: &Cursor) {
        self.committed.lock().unwrap().clone_from(cursor);
        self.reader.commit(cursor);
    }

    fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    fn epochs(&self) -> Epochs {
        self.epochs.clone()
    }
}

/// A running delivery.
pub(crate) struct Delivery {
    progress: Arc<Progress>,
    committed: Arc<Mutex<Cursor>>,
    dead_letters: Arc<RecordedDeadLetters>,
    shutdown: Shutdown,
    task: JoinHandle<DeliveryEnd>,
}

impl Delivery {
    /// Delivers all present and future events of a feed.
    pub(crate) fn start(feed: &Feed, config: NatsConfig) -> Self {
        Self::resume(feed, config, Cursor::starting_at(Sequence::FIRST))
    }

    /// Delivers the present and future events of a feed from a cursor on.
    pub(crate) fn resume(feed: &Feed, config: NatsConfig, cursor: Cursor) -> Self {
        Self::resume_log(feed, config, cursor, feed.spool.id(), Epochs::default())
    }

    /// Delivers the present and future events of a feed from a cursor on, as the log with this id and these epochs.
    pub(crate) fn resume_log(
        feed: &Feed,
        config: NatsConfig,
        cursor: Cursor,
        spool: SpoolId,
        epochs: Epochs,
    ) -> Self {
        assert_eq!(config.check(), []);
        Self::run(feed, NatsSink::new("nats", config), cursor, spool, epochs)
    }

    /// Delivers the present and future events of a feed with any sink, from a cursor on.
    pub(crate) fn run<S: Sink>(feed: &Feed, sink: S, cursor: Cursor, spool: SpoolId, epochs: Epochs) -> Self {
        let mut reader = feed.spool.reader("nats");
        reader.rewind(cursor.next);
        let committed = Arc::new(Mutex::new(cursor.clone()));
        let reader = Resumed {
            reader,
            cursor: cursor.clone(),
            committed: Arc::clone(&committed),
            epochs,
        };
        let progress = Arc::new(Progress::new(cursor));
        let dead_letters = Arc::new(RecordedDeadLetters::default());
        let options = deliveries::options("nats", spool, &dead_letters);
        let shutdown = deliveries::shutdown();
        let delivery = deliver(sink, reader, options, Arc::clone(&progress), shutdown.clone());
        let task = tokio::spawn(async move { Box::pin(delivery).await.unwrap() });
        Self {
            progress,
            committed,
            dead_letters,
            shutdown,
            task,
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

    /// Returns the current progress.
    pub(crate) fn now(&self) -> ProgressSnapshot {
        self.progress.snapshot()
    }

    /// Returns the number of faults so far.
    pub(crate) fn faults(&self) -> u64 {
        self.now().faults.total()
    }

    /// Waits for this many outcomes.
    pub(crate) async fn until_settled(&self, count: u64) -> ProgressSnapshot {
        self.until("the last outcome", |snapshot| {
            snapshot.cursor.counts.settled() >= count
        })
        .await
    }

    /// Waits until the reason for the state `down` contains a word.
    pub(crate) async fn until_down(&self, word: &str) -> ProgressSnapshot {
        self.until(word, |snapshot| {
            snapshot
                .reason
                .as_ref()
                .is_some_and(|reason| reason.contains(word))
        })
        .await
    }

    /// Returns the dead letters so far.
    pub(crate) fn dead_letters(&self) -> Vec<String> {
        self.dead_letters.lines()
    }

    /// Stops at any point, as a crash would; returns the committed cursor.
    pub(crate) async fn crash(mut self) -> Cursor {
        self.task.abort();
        assert!((&mut self.task).await.is_err(), "the delivery had ended before");
        self.committed.lock().unwrap().clone()
    }

    /// Waits until all events of a feed are settled, ends, and returns the final progress.
    pub(crate) async fn finish(mut self, feed: &Feed) -> ProgressSnapshot {
        let snapshot = self.until_settled(feed.appended()).await;
        self.shutdown.abort.cancel();
        within("the end of the delivery", LIMIT, &mut self.task)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(snapshot.cursor.counts.settled(), feed.appended());
        assert_eq!(feed.keeper.cursor().next, Sequence::FIRST);
        snapshot
    }
}

pub(crate) fn frame(id: u64) -> String {
    format!(
        r#"{{"id":{id},"data":{{"id":{id},"result":"new","pid":"person-{}","source":{{"id":3}},"space":{{"id":5}}}}}}"#,
        id % 7
    )
}

/// Connects once.
pub(crate) async fn connect(config: NatsConfig) -> Result<(), SinkFault> {
    assert_eq!(config.check(), []);
    connect_once(&mut NatsSink::new("nats", config)).await
}

/// Connects once like `check --connect`; returns the settings that can lose events, and the streams that would be created.
pub(crate) async fn tried(config: NatsConfig) -> Result<Vec<String>, SinkFault> {
    let mut sink = NatsSink::trial("nats", config);
    connect_once(&mut sink).await?;
    Ok(sink.warnings().to_vec())
}

/// Returns a configuration that creates its stream, and therefore has strict order.
pub(crate) fn creating(url: &str, stream: &str) -> NatsConfig {
    let mut config = NatsConfig::new(url, stream);
    config.stream = Some(StreamConfig {
        create: true,
        max_age: Some(Duration::from_secs(3600)),
        replicas: Some(1),
        ..StreamConfig::new(stream)
    });
    config
}

/// Returns the stream configuration of a test.
pub(crate) fn stream_of(name: &str) -> stream::Config {
    stream::Config {
        name: name.into(),
        subjects: vec!["neuroio.>".into()],
        ..stream::Config::default()
    }
}

/// Returns a client of the test, which reconnects by itself.
pub(crate) async fn client(url: &str) -> Client {
    connect_client(url).await.unwrap()
}

/// Polls until a value is available.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let mut patience = Patience::new(what, LIMIT);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        patience.check().unwrap();
        sleep(INTERVAL).await;
    }
}

/// A message of a stream, with its payload as JSON.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) message: Message,
    pub(crate) body: serde_json::Value,
}

impl Stored {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.message.header(name)
    }

    /// Returns the event's id; `None` for a message of another client.
    pub(crate) fn id(&self) -> Option<u64> {
        self.body["id"].as_u64()
    }
}

/// Returns all messages of a stream.
pub(crate) async fn stored(url: &str, name: &str) -> Vec<Stored> {
    let all = blocking(|| read_stream(url, name, LIMIT).unwrap());
    all.into_iter()
        .map(|message| Stored {
            body: serde_json::from_slice(&message.payload).unwrap_or_default(),
            message,
        })
        .collect()
}

/// Checks that the events 1 to `count` are stored in order, each once. Messages of other clients are ignored.
pub(crate) fn assert_once_and_in_order(stored: &[Stored], count: u64) {
    assert_run(stored, 1, count);
}

/// Checks that the events of a range are stored in order, each once.
pub(crate) fn assert_run(stored: &[Stored], first: u64, last: u64) {
    let ours: Vec<_> = stored.iter().filter(|one| one.id().is_some()).collect();
    let mut expected = first;
    for (index, one) in ours.iter().enumerate() {
        assert_eq!(
            one.id(),
            Some(expected),
            "wrong event; position, id and expected position of the events near it and of the expected one: {:?}",
            ours.iter()
                .enumerate()
                .filter(|(at, other)| at.abs_diff(index) < 10 || other.id() == Some(expected))
                .map(|(_, other)| (
                    other.message.place,
                    other.id(),
                    other.header("Nats-Expected-Last-Sequence")
                ))
                .collect::<Vec<_>>()
        );
        expected += 1;
    }
    assert_eq!(expected, last + 1, "events are missing at the end");
}

/// Checks that the events 1 to `count` are all stored, in any number of copies and in any order.
pub(crate) fn assert_complete(stored: &[Stored], count: u64) {
    let seen: std::collections::BTreeSet<_> = stored.iter().filter_map(Stored::id).collect();
    assert_eq!(
        seen.into_iter().collect::<Vec<_>>(),
        (1..=count).collect::<Vec<_>>()
    );
}

/// Runs a blocking operation on a server.
pub(crate) fn blocking<T>(work: impl FnOnce() -> T) -> T {
    block_in_place(work)
}
