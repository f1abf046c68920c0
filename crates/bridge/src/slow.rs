//! A sink that is slow when it is told to be: what the demo shows of a slow disk.

use bytes::Bytes;
use neurobridge_core::{
    dead_letter::DeadLetter,
    event::Event,
    sink::{Ack, ConnectContext, PublishError, Sink, SinkFault},
};
use tokio::sync::watch;

/// Whether the sink holds its outcomes back at the moment.
pub(crate) type Slow = watch::Receiver<bool>;

/// Another sink, whose outcomes come late.
#[derive(Debug)]
pub(crate) struct SlowSink<S> {
    sink: S,
    slow: Slow,
}

impl<S> SlowSink<S> {
    pub(crate) const fn new(sink: S, slow: Slow) -> Self {
        Self { sink, slow }
    }
}

impl<S: Sink> Sink for SlowSink<S> {
    async fn connect(&mut self, context: &ConnectContext<'_>) -> Result<(), SinkFault> {
        self.sink.connect(context).await
    }

    fn set_backing_buffer(&mut self, log: &Bytes) {
        self.sink.set_backing_buffer(log);
    }

    fn publish(&mut self, event: &Event<'_>) -> Result<(), PublishError> {
        self.sink.publish(event)
    }

    fn publish_dead_letter(&mut self, letter: &DeadLetter<'_>) -> Result<(), PublishError> {
        self.sink.publish_dead_letter(letter)
    }

    fn keeps_dead_letters(&self) -> bool {
        self.sink.keeps_dead_letters()
    }

    async fn flush(&mut self) -> Result<(), SinkFault> {
        self.sink.flush().await
    }

    async fn outcomes(&mut self, acks: &mut Vec<Ack>) -> Result<(), SinkFault> {
        // Nobody is left to say when it is over: then it is.
        let _ = self.slow.wait_for(|is_slow| !is_slow).await;
        self.sink.outcomes(acks).await
    }

    fn note(&self) -> Option<String> {
        self.sink.note()
    }

    fn unavailable(&self) -> Option<SinkFault> {
        self.sink.unavailable()
    }

    fn notice(&self) -> Option<String> {
        self.sink.notice()
    }

    fn lost(&self) -> u64 {
        self.sink.lost()
    }

    fn fault(&self) -> Option<SinkFault> {
        self.sink.fault()
    }

    async fn close(&mut self) {
        self.sink.close().await;
    }
}
