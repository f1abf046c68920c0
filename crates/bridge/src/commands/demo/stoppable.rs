//! The demo's file sink, with a disk that the scenario can stop.

use std::path::Path;

use bytes::Bytes;
use neurobridge_core::{
    connect::ConnectSteps,
    event::Event,
    identity::SpoolId,
    sink::{
        Ack, AfterOutcomes, ConnectContext, Connected, DeadLetterSink, PublishError, Sink, SinkFault,
        SinkStatus, Transactions,
    },
    sink_type::{BuildContext, DeadLetterPlace, InCluster, SinkConfig, SinkType},
    template::Template,
};
use neurobridge_sink_file::{FileConfig, FileSink};
use tokio::sync::watch;

/// A file sink that reports no outcome while its simulated disk is stopped.
#[derive(Debug)]
pub(super) struct StoppableFile {
    file: FileConfig,
    is_stopped: watch::Receiver<bool>,
}

impl StoppableFile {
    pub(super) fn new(is_stopped: watch::Receiver<bool>) -> Self {
        Self {
            file: FileConfig::default(),
            is_stopped,
        }
    }
}

impl SinkConfig for StoppableFile {
    fn errors(&self) -> Vec<(String, String)> {
        self.file.errors()
    }

    fn warnings(&self, spool_is_durable: bool) -> Vec<(&'static str, String)> {
        self.file.warnings(spool_is_durable)
    }

    fn destination(&self, data_dir: &Path) -> String {
        self.file.destination(data_dir)
    }

    fn templates(&self) -> Vec<(&'static str, &Template)> {
        self.file.templates()
    }

    fn files(&self) -> Vec<(&'static str, &Path)> {
        self.file.files()
    }

    fn dead_letter_place(&self) -> DeadLetterPlace<'_> {
        self.file.dead_letter_place()
    }

    fn in_cluster(&self) -> InCluster {
        self.file.in_cluster()
    }

    fn is_only_writer(&self) -> bool {
        self.file.is_only_writer()
    }

    fn preview(&self, event: &Event<'_>, spool: &SpoolId) -> String {
        self.file.preview(event, spool)
    }
}

impl SinkType for StoppableFile {
    type Sink = StoppableSink;

    const NAME: &'static str = FileConfig::NAME;
    const CLIENT_LOG_TARGETS: &'static [&'static str] = FileConfig::CLIENT_LOG_TARGETS;

    fn build(&self, context: &BuildContext<'_>) -> StoppableSink {
        StoppableSink {
            sink: self.file.build(context),
            is_stopped: self.is_stopped.clone(),
        }
    }

    async fn probe(
        &self,
        context: &BuildContext<'_>,
        steps: &ConnectSteps,
    ) -> Result<Vec<String>, SinkFault> {
        self.file.probe(context, steps).await
    }
}

/// The sink of [`StoppableFile`].
pub(super) struct StoppableSink {
    sink: FileSink,
    is_stopped: watch::Receiver<bool>,
}

impl Sink for StoppableSink {
    const REPLACES_CLIENT: bool = FileSink::REPLACES_CLIENT;

    async fn connect(&mut self, context: &ConnectContext<'_>) -> Result<Connected, SinkFault> {
        self.sink.connect(context).await
    }

    fn publish(&mut self, event: &Event<'_>, buffer: &Bytes) -> Result<(), PublishError> {
        self.sink.publish(event, buffer)
    }

    async fn flush(&mut self) -> Result<(), SinkFault> {
        self.sink.flush().await
    }

    async fn outcomes(&mut self, acks: &mut Vec<Ack>) -> Result<AfterOutcomes, SinkFault> {
        // An error means that the demo has ended, and with it the fault.
        let _ = self.is_stopped.wait_for(|is_stopped| !is_stopped).await;
        self.sink.outcomes(acks).await
    }

    fn cursor_note(&self) -> Option<String> {
        self.sink.cursor_note()
    }

    fn dead_letters(&mut self) -> Option<&mut dyn DeadLetterSink> {
        self.sink.dead_letters()
    }

    fn transactions(&mut self) -> Option<&mut dyn Transactions> {
        self.sink.transactions()
    }

    fn status(&self) -> SinkStatus {
        self.sink.status()
    }

    async fn close(&mut self) {
        self.sink.close().await;
    }
}
