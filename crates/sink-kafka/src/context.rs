//! The callbacks of librdkafka: reports, errors, statistics, log lines.

use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
    atomic::{AtomicBool, Ordering},
};

use neurobridge_core::{
    connect::ConnectSteps,
    event::Sequence,
    sink::{Ack, Outcome, Rejection, SinkFault},
};
use rdkafka::{
    ClientContext, Message,
    config::RDKafkaLogLevel,
    error::KafkaError,
    message::DeliveryResult,
    producer::{BaseProducer, Producer, ProducerContext, PurgeConfig},
    types::RDKafkaErrorCode as Code,
};
use tokio::sync::Notify;
use tracing::debug;

use crate::{
    error::{self, Blame},
    health::Health,
};

// The opaque pointer of a message carries the event's sequence through librdkafka.
const _: () = assert!(usize::BITS >= u64::BITS, "a sequence must fit into a pointer");

/// The context that librdkafka calls, on the thread that polls the producer.
pub(crate) struct Context {
    health: Arc<Health>,
    reports: Arc<Reports>,
    /// The producer that owns this context. Set right after the producer is created; weak, to avoid a reference cycle.
    producer: OnceLock<Weak<BaseProducer<Self>>>,
    /// The steps of the connection attempt to which the client belongs.
    steps: ConnectSteps,
    /// Counts the client until librdkafka destroys it together with this context.
    _client: Arc<()>,
}

/// The outcomes of messages, passed from the polling thread to the sink.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    /// Bounded by the number of messages in flight, which `max_queue_size` limits.
    waiting: Mutex<Waiting>,
    fault: Mutex<Option<SinkFault>>,
    /// Set with `fault` and never cleared: this producer is not used any more.
    failed: AtomicBool,
    news: Notify,
}

/// Acknowledgements that the sink has not received yet.
#[derive(Debug, Default)]
struct Waiting {
    acks: Vec<Ack>,
    /// The total size of the acknowledged messages' bodies, in bytes.
    bytes: usize,
}

impl Reports {
    /// Moves all acknowledgements into `acks`, and returns the total size of the acknowledged bodies in bytes.
    pub(crate) fn take(&self, acks: &mut Vec<Ack>) -> usize {
        let mut waiting = lock(&self.waiting);
        if acks.is_empty() {
            // Swapping preserves the memory of both vectors, and the polling thread does not wait for a copy.
            std::mem::swap(acks, &mut waiting.acks);
        } else {
            acks.append(&mut waiting.acks);
        }
        std::mem::take(&mut waiting.bytes)
    }

    /// Waits until a report or a fault arrives. One that arrived before the call counts.
    pub(crate) async fn changed(&self) {
        self.news.notified().await;
    }

    /// Returns the fault that ended this producer; only the first call returns it.
    pub(crate) fn take_fault(&self) -> Option<SinkFault> {
        if !self.failed.load(Ordering::Acquire) {
            return None;
        }
        lock(&self.fault).take()
    }

    /// Returns the fault that ended this producer, unless [`take_fault`](Self::take_fault) has returned it.
    pub(crate) fn fault(&self) -> Option<SinkFault> {
        if !self.failed.load(Ordering::Acquire) {
            return None;
        }
        lock(&self.fault).clone()
    }

    fn push(&self, ack: Ack, bytes: usize) {
        let was_empty = {
            let mut waiting = lock(&self.waiting);
            waiting.acks.push(ack);
            waiting.bytes += bytes;
            waiting.acks.len() == 1
        };
        // One wake-up for all reports that the sink will read together, not one for each.
        if was_empty {
            self.news.notify_one();
        }
    }

    /// Records the fault that ends this producer. Returns whether it is the first one.
    fn fail(&self, fault: SinkFault) -> bool {
        let mut first = lock(&self.fault);
        if self.failed.load(Ordering::Acquire) {
            return false;
        }
        *first = Some(fault);
        self.failed.store(true, Ordering::Release);
        self.news.notify_one();
        true
    }
}

impl Context {
    pub(crate) fn new(health: Arc<Health>, reports: Arc<Reports>, steps: ConnectSteps) -> Self {
        Self {
            _client: health.count_client(),
            health,
            reports,
            steps,
            producer: OnceLock::new(),
        }
    }

    /// Sets the producer that owns this context.
    pub(crate) fn belongs_to(&self, producer: &Arc<BaseProducer<Self>>) {
        // Set only once, by the function that creates the producer.
        let _ = self.producer.set(Arc::downgrade(producer));
    }

    /// Returns the fault that ended the producer; only the first call returns it.
    pub(crate) fn take_fault(&self) -> Option<SinkFault> {
        self.reports.take_fault()
    }

    fn connection_failed(&self, reason: &str) {
        self.steps.client_error(error::without_state(reason));
        self.health.connection_failed(reason);
    }

    /// Ends this producer with a fault, and purges its messages at once: if the cause disappeared just now, librdkafka would
    /// store later messages before the ones that failed.
    fn fail(&self, fault: SinkFault) {
        if self.reports.fail(fault)
            && let Some(producer) = self.producer.get().and_then(Weak::upgrade)
        {
            producer.purge(PurgeConfig::default().queue().inflight().non_blocking());
        }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Warning => {
                self.health.log_client_message(&format!("{facility}: {message}"));
            }
            // These include errors of connections, which the callback `error` receives too.
            _ => debug!(sink = self.health.sink(), "librdkafka: {facility}: {message}"),
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        self.health.statistics(statistics, self.producer.get().is_some());
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error::of_connection(error.rdkafka_error_code().unwrap_or(Code::Fail), reason);
        match code {
            Code::AllBrokersDown => self.health.all_down(reason),
            Code::Fatal => {
                // The client stores the code of the cause.
                let cause = self
                    .producer
                    .get()
                    .and_then(Weak::upgrade)
                    .and_then(|producer| producer.client().fatal_error());
                let (code, reason) = cause.unwrap_or((code, reason.to_owned()));
                self.fail(error::fault(code, None, &reason));
            }
            // Only a new client reads passwords and certificates again.
            Code::Authentication | Code::SSL => {
                self.connection_failed(reason);
                self.fail(error::fault(code, None, reason));
            }
            // librdkafka reconnects by itself.
            Code::BrokerTransportFailure | Code::Resolve | Code::OperationTimedOut => {
                self.connection_failed(reason);
            }
            _ => self.health.log_client_message(reason),
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: usize) {
        // Every sequence that was passed to librdkafka is at least 1.
        let Some(sequence) = Sequence::new(opaque as u64) else {
            return;
        };
        let (error, message) = match result {
            Ok(message) => {
                self.health
                    .stored(message.topic(), message.partition(), message.offset());
                let outcome = Outcome::Delivered;
                self.reports
                    .push(Ack { sequence, outcome }, message.payload_len());
                return;
            }
            Err((error, message)) => (error, message),
        };
        let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
        match error::blame(code) {
            Blame::Message(reason) => {
                let topic = message.topic();
                let length = message.payload_len();
                let detail = format!(
                    "the topic \"{topic}\" rejects a message of {length} bytes, possibly because of another message \
                     in the same batch ({code})"
                );
                let outcome = Outcome::RetryAlone(Rejection { reason, detail });
                self.reports.push(Ack { sequence, outcome }, length);
            }
            // This sink purged the messages itself after a fault; that first fault is the reason.
            Blame::Sink(_) if matches!(code, Code::PurgeQueue | Code::PurgeInflight) => {}
            Blame::Sink(_) | Blame::Fenced | Blame::Full => {
                self.fail(error::fault(code, Some(message.topic()), ""))
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code under these locks can panic halfway through an update, so a poisoned lock is still consistent.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use neurobridge_core::sink::FaultKind;
    use tokio::time::timeout;

    use super::*;

    fn ack(sequence: u64) -> Ack {
        Ack {
            sequence: Sequence::new(sequence).unwrap(),
            outcome: Outcome::Delivered,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn acknowledgements_wake_the_sink_once() {
        let reports = Reports::default();
        assert!(timeout(Duration::from_secs(1), reports.changed()).await.is_err());
        reports.push(ack(1), 10);
        reports.push(ack(2), 20);
        reports.changed().await;
        let mut acks = Vec::new();
        assert_eq!(reports.take(&mut acks), 30);
        reports.push(ack(3), 40);
        reports.changed().await;
        assert_eq!(reports.take(&mut acks), 40);
        assert_eq!(acks, [ack(1), ack(2), ack(3)]);
        assert!(timeout(Duration::from_secs(1), reports.changed()).await.is_err());
    }

    #[test]
    fn first_fault_is_the_reason_and_is_reported_once() {
        let context = Context::new(
            Arc::new(Health::new("kafka")),
            Arc::default(),
            ConnectSteps::default(),
        );
        assert!(context.reports.take_fault().is_none());
        // librdkafka reports each error twice.
        for _ in 0..2 {
            context.error(
                KafkaError::Global(Code::Authentication),
                "SASL authentication error",
            );
            context.error(KafkaError::Global(Code::AllBrokersDown), "1/1 brokers are down");
        }
        let fault = context.reports.take_fault().unwrap();
        assert_eq!(fault.kind, FaultKind::Unauthorised);
        assert!(context.reports.take_fault().is_none());
    }
}
