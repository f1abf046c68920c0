//! The least that has to be done with the feed: WebSocket in, Kafka out, nothing between.
//!
//! `bare-loop URL BOOTSTRAP TOPIC (raw|cloudevents) COUNT` reads COUNT events, sends each with the key and the headers
//! that the format gives, awaits all acknowledgements, prints `delivered COUNT` and stays until it is killed, so that
//! it can be weighed from outside. It looks at nothing else: no identity, no duplicates, no cursor, no reconnection.

use std::env;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

/// As in the bridge: librdkafka's headers are freed by another thread than the one that made them.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const AUTH: &str = r#"{"action":"AUTH","data":{"token":"bench"}}"#;

/// How frames begin that carry no event.
const CONTROL: [&str; 3] = [r#"{"error""#, r#"{"auth""#, r#"{"PING""#];

/// Delivery reports are taken so many messages at a time; each look takes librdkafka's lock.
const POLL_EVERY: u64 = 256;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [url, bootstrap, topic, format, count] = &arguments[..] else {
        bail!("usage: bare-loop URL BOOTSTRAP TOPIC (raw|cloudevents) COUNT");
    };
    let with_headers = match format.as_str() {
        "raw" => false,
        "cloudevents" => true,
        other => bail!("the format is raw or cloudevents, not {other}"),
    };
    let count: u64 = count.parse().context("COUNT is a number")?;

    let producer = producer(bootstrap)?;
    let (mut socket, _) = connect_async(url)
        .await
        .with_context(|| format!("connecting to {url}"))?;
    socket.send(Message::text(AUTH)).await.context("authorising")?;
    let mut encoder = Encoder::new(topic, with_headers);
    let mut sent = 0;
    while sent < count {
        let message = socket
            .next()
            .await
            .context("the feed ended early")?
            .context("reading the feed")?;
        let Message::Text(frame) = message else { continue };
        if CONTROL.iter().any(|start| frame.starts_with(start)) {
            ensure!(!frame.starts_with(CONTROL[0]), "the feed answers {frame}");
            continue;
        }
        sent += 1;
        encoder.send(&producer, frame.as_str(), sent)?;
        if sent % POLL_EVERY == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer
        .flush(Duration::from_secs(120))
        .context("awaiting the acknowledgements")?;
    let reports = producer.context();
    let (delivered, failed) = (
        reports.delivered.load(Ordering::Relaxed),
        reports.failed.load(Ordering::Relaxed),
    );
    ensure!(
        delivered == count && failed == 0,
        "{delivered} of {count} delivered, {failed} failed"
    );
    let mut stdout = std::io::stdout();
    writeln!(stdout, "delivered {count}")
        .and_then(|()| stdout.flush())
        .context("writing to standard output")?;
    std::future::pending().await
}

#[derive(Default)]
struct Reports {
    delivered: AtomicU64,
    failed: AtomicU64,
}

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let counter = if result.is_ok() {
            &self.delivered
        } else {
            &self.failed
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

fn producer(bootstrap: &str) -> Result<BaseProducer<Reports>> {
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("compression.type", "lz4")
        .set("linger.ms", "5")
        .set("partitioner", "murmur2_random")
        .set("queue.buffering.max.kbytes", "65536")
        .create_with_context(Reports::default())
        .with_context(|| format!("making a producer for {bootstrap}"))
}

/// Turns frames into messages.
struct Encoder<'a> {
    topic: &'a str,
    with_headers: bool,
    id: Finder,
    created: Finder,
    result: Finder,
    person: Finder,
    data: Finder,
    kind: String,
    sequence: String,
}

impl<'a> Encoder<'a> {
    fn new(topic: &'a str, with_headers: bool) -> Self {
        Self {
            topic,
            with_headers,
            id: Finder::new("\"id\":"),
            created: Finder::new("\"created\":\""),
            result: Finder::new("\"result\":\""),
            person: Finder::new("\"pid\":\""),
            data: Finder::new("\"data\":"),
            kind: String::new(),
            sequence: String::new(),
        }
    }

    fn send(&mut self, producer: &BaseProducer<Reports>, frame: &str, number: u64) -> Result<()> {
        let person = self.person.after(frame).map(until_quote);
        let mut record: BaseRecord<'_, str, str> = if self.with_headers {
            let data = self.data.after(frame).context("an event without data")?;
            let payload = data.strip_suffix('}').unwrap_or(data);
            BaseRecord::to(self.topic)
                .payload(payload)
                .headers(self.headers(frame, number))
        } else {
            BaseRecord::to(self.topic).payload(frame)
        };
        if let Some(person) = person {
            record = record.key(person);
        }
        loop {
            match producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    producer.poll(Duration::from_millis(10));
                }
                Err((error, _)) => return Err(error).context("sending a message"),
            }
        }
    }

    fn headers(&mut self, frame: &str, number: u64) -> OwnedHeaders {
        use std::fmt::Write as _;
        let id = self.id.after(frame).unwrap_or_default();
        let id = &id[..id.bytes().take_while(u8::is_ascii_digit).count()];
        self.kind.clear();
        self.kind.push_str("com.neuroio.entry.");
        self.kind
            .push_str(self.result.after(frame).map(until_quote).unwrap_or("unknown"));
        self.sequence.clear();
        // Writing to a string can't fail.
        let _ = write!(self.sequence, "019af0a0-0000-7000-8000-000000000000:{number:020}");
        let time = self.created.after(frame).map(until_quote).unwrap_or_default();
        let header = |key, value| Header {
            key,
            value: Some(value),
        };
        OwnedHeaders::new_with_capacity(7)
            .insert(header("ce_specversion", "1.0"))
            .insert(header("ce_id", id))
            .insert(header("ce_source", "/neuroio/main"))
            .insert(header("ce_type", &self.kind))
            .insert(header("ce_time", time))
            .insert(header("ce_sequence", &self.sequence))
            .insert(header("content-type", "application/json"))
    }
}

/// Finds a word that is at nearly the same place in every frame.
struct Finder {
    word: &'static str,
    last: usize,
}

impl Finder {
    fn new(word: &'static str) -> Self {
        Self { word, last: 0 }
    }

    /// Returns what comes after the word.
    fn after<'f>(&mut self, frame: &'f str) -> Option<&'f str> {
        if let Some(rest) = frame
            .get(self.last..)
            .and_then(|rest| rest.strip_prefix(self.word))
        {
            return Some(rest);
        }
        self.last = frame.find(self.word)?;
        Some(&frame[self.last + self.word.len()..])
    }
}

fn until_quote(text: &str) -> &str {
    text.split('"').next().unwrap_or(text)
}
