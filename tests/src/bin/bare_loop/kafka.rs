//! Publishes to a Kafka topic with librdkafka.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;

use crate::frame::Finders;
use crate::{Client, Format};

/// The number of messages between two polls of the delivery reports. Each poll locks a mutex of librdkafka.
const POLL_EVERY: u64 = 256;

pub(crate) struct Kafka {
    producer: BaseProducer<Reports>,
    topic: String,
    format: Format,
    finders: Finders,
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

impl Kafka {
    pub(crate) fn connect(bootstrap: &str, topic: &str, format: Format) -> Result<Self> {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("compression.type", "lz4")
            .set("linger.ms", "5")
            .set("partitioner", "murmur2_random")
            .set("queue.buffering.max.kbytes", "65536")
            .create_with_context(Reports::default())
            .with_context(|| format!("creating a producer for {bootstrap}"))?;
        Ok(Self {
            producer,
            topic: topic.to_owned(),
            format,
            finders: Finders::new(),
        })
    }

    fn headers(&mut self, frame: &str, number: u64) -> OwnedHeaders {
        let mut headers = OwnedHeaders::new_with_capacity(7);
        for (name, value) in self.finders.attributes(frame, number) {
            headers = headers.insert(Header {
                key: match name {
                    "specversion" => "ce_specversion",
                    "id" => "ce_id",
                    "source" => "ce_source",
                    "type" => "ce_type",
                    "time" => "ce_time",
                    _ => "ce_sequence",
                },
                value: Some(value),
            });
        }
        headers.insert(Header {
            key: "content-type",
            value: Some("application/json"),
        })
    }
}

impl Client for Kafka {
    async fn send(&mut self, frame: &str, number: u64) -> Result<()> {
        let headers = (self.format == Format::Cloudevents).then(|| self.headers(frame, number));
        let mut record: BaseRecord<'_, str, str> = BaseRecord::to(&self.topic);
        record = match headers {
            Some(headers) => {
                let data = self.finders.data(frame).context("the frame has no data")?;
                record.payload(data).headers(headers)
            }
            None => record.payload(frame),
        };
        if let Some(person) = self.finders.person(frame) {
            record = record.key(person);
        }
        loop {
            match self.producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    self.producer.poll(Duration::from_millis(10));
                }
                Err((error, _)) => return Err(error).context("sending a message"),
            }
        }
        if number.is_multiple_of(POLL_EVERY) {
            self.producer.poll(Duration::ZERO);
        }
        Ok(())
    }

    async fn finish(&mut self, count: u64) -> Result<()> {
        self.producer
            .flush(Duration::from_secs(120))
            .context("waiting for the acknowledgements")?;
        let reports = self.producer.context();
        let (delivered, failed) = (
            reports.delivered.load(Ordering::Relaxed),
            reports.failed.load(Ordering::Relaxed),
        );
        ensure!(
            delivered == count && failed == 0,
            "{delivered} of {count} delivered, {failed} failed"
        );
        Ok(())
    }
}
