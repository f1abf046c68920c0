//! The producer and the thread that polls it.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::Duration,
};

use neurobridge_core::connect::ConnectSteps;
use rdkafka::{
    ClientConfig,
    error::KafkaError,
    message::OwnedHeaders,
    producer::{BaseProducer, BaseRecord, Producer, PurgeConfig},
    types::RDKafkaErrorCode as Code,
};
use tokio::sync::oneshot;
use tracing::debug;

use crate::{
    context::{Context, Reports},
    transaction::Transactions,
};

/// The time limit of one poll, and so the delay until the thread notices that it has to end. Reports are not delayed by it.
const POLL: Duration = Duration::from_millis(100);

/// An idempotent producer. Its reports arrive in the [`Reports`] of its context.
///
/// Dropping the producer purges the queued messages and those in flight, on its own thread, without blocking the caller.
pub(crate) struct KafkaProducer {
    /// `None` after the producer was passed to the thread, which destroys it.
    producer: Option<Arc<BaseProducer<Context>>>,
    /// Capacity 1: only the request to end is ever sent.
    end: SyncSender<End>,
}

/// Requests the thread to end.
struct End {
    producer: Arc<BaseProducer<Context>>,
    /// The time limit for flushing the queued messages and those in flight.
    flush: Duration,
    done: Option<oneshot::Sender<()>>,
}

/// The reason why a producer cannot be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("librdkafka rejects the configuration")]
    Client(#[source] KafkaError),
    #[error("cannot start a thread for the producer")]
    Thread(#[source] io::Error),
}

impl KafkaProducer {
    /// Creates a producer. Connects to no broker yet; takes milliseconds, more with TLS, which reads the root certificates.
    pub(crate) fn start(config: &ClientConfig, context: Context) -> Result<Self, StartError> {
        let producer: BaseProducer<Context> =
            config.create_with_context(context).map_err(StartError::Client)?;
        let producer = Arc::new(producer);
        producer.context().belongs_to(&producer);
        let (end, ended) = sync_channel::<End>(1);
        let polled = Arc::clone(&producer);
        thread::Builder::new()
            .name("kafka-poll".into())
            .spawn(move || {
                let end = loop {
                    polled.poll(POLL);
                    if let Ok(end) = ended.try_recv() {
                        break end;
                    }
                };
                if !end.flush.is_zero()
                    && let Err(error) = polled.flush(end.flush)
                {
                    debug!(
                        "some messages had no acknowledgement when the producer was closed; they are sent again: {error}"
                    );
                }
                drop(polled);
                // The last handle: dropping it here purges the remaining messages on this thread.
                drop(end.producer);
                if let Some(done) = end.done {
                    // The caller may have stopped waiting, which is no error.
                    let _ = done.send(());
                }
            })
            .map_err(StartError::Thread)?;
        Ok(Self {
            producer: Some(producer),
            end,
        })
    }

    /// Queues a record. Never blocks.
    pub(crate) fn send(
        &self,
        topic: &str,
        key: Option<&str>,
        value: &str,
        headers: Option<OwnedHeaders>,
        opaque: usize,
    ) -> Result<(), Code> {
        let Some(producer) = &self.producer else {
            return Err(Code::State);
        };
        let record = BaseRecord {
            topic,
            partition: None,
            payload: Some(value),
            key,
            timestamp: None,
            headers,
            delivery_opaque: opaque,
        };
        producer
            .send(record)
            .map_err(|(error, _)| error.rdkafka_error_code().unwrap_or(Code::InvalidArgument))
    }

    /// Returns the error that made this producer unusable, if there is one.
    pub(crate) fn fatal_error(&self) -> Option<(Code, String)> {
        self.producer.as_ref()?.client().fatal_error()
    }

    /// Returns the producer's transactions, for a thread that may block.
    pub(crate) fn transactions(&self) -> Option<Transactions> {
        self.producer.clone().map(Transactions::new)
    }

    /// Ends the producer, after flushing the queued messages and those in flight for at most `flush`. The future only waits for
    /// the end; dropping the future does not cancel the end.
    pub(crate) fn close(mut self, flush: Duration) -> impl Future<Output = ()> + Send + use<> {
        let (done, closed) = oneshot::channel();
        self.end(flush, Some(done));
        async move {
            // An error means that the thread has ended, and the producer with it.
            let _ = closed.await;
        }
    }

    /// Ends the producer, and purges at once the queued messages and those in flight: after this call no message is stored,
    /// except those that a broker has already received.
    pub(crate) fn purge_and_close(self) -> impl Future<Output = ()> + Send + use<> {
        if let Some(producer) = &self.producer {
            producer.purge(PurgeConfig::default().queue().inflight().non_blocking());
        }
        self.close(Duration::ZERO)
    }

    fn end(&mut self, flush: Duration, done: Option<oneshot::Sender<()>>) {
        let Some(producer) = self.producer.take() else {
            return;
        };
        match self.end.try_send(End {
            producer,
            flush,
            done,
        }) {
            // Never full: the request is sent once. Disconnected: the thread has panicked, and this is the last handle.
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }
}

impl Drop for KafkaProducer {
    fn drop(&mut self) {
        self.end(Duration::ZERO, None);
    }
}

/// Creates a context and the reports that the context writes to.
pub(crate) fn reporting(health: &Arc<crate::health::Health>, steps: ConnectSteps) -> (Context, Arc<Reports>) {
    let reports = Arc::new(Reports::default());
    let context = Context::new(Arc::clone(health), Arc::clone(&reports), steps);
    (context, reports)
}
