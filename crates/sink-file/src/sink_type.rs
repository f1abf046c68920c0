//! Registers the file sink as a sink type of the program.

use std::path::Path;

use neurobridge_core::{
    connect::ConnectSteps,
    event::Event,
    identity::SpoolId,
    sink::{FaultKind, SinkFault},
    sink_type::{BuildContext, DeadLetterFile, DeadLetterPlace, InCluster, SinkConfig, SinkType},
    template::Template,
};
use tokio::task::spawn_blocking;

use crate::{
    config::{FileConfig, SyncMode},
    encode,
    sink::FileSink,
    trial::try_out,
};

impl SinkConfig for FileConfig {
    fn errors(&self) -> Vec<(String, String)> {
        self.check()
    }

    fn warnings(&self, _spool_is_durable: bool) -> Vec<(&'static str, String)> {
        let mut warnings = Vec::new();
        if self.max_age.is_none() {
            let message =
                "files, and the faces in them, are stored for ever; max_age = \"30d\" removes old ones";
            warnings.push(("max_age", message.to_owned()));
        }
        if self.sync == SyncMode::Never {
            let message = "events count as delivered before they are on the disk: a power cut loses them";
            warnings.push(("sync", message.to_owned()));
        }
        warnings
    }

    fn destination(&self, data_dir: &Path) -> String {
        data_dir.join(&self.path).display().to_string()
    }

    fn templates(&self) -> Vec<(&'static str, &Template)> {
        Vec::new()
    }

    fn files(&self) -> Vec<(&'static str, &Path)> {
        vec![("path", &self.path)]
    }

    fn dead_letter_place(&self) -> DeadLetterPlace<'_> {
        DeadLetterFile::place(self.dead_letter.as_ref())
    }

    fn in_cluster(&self) -> InCluster {
        InCluster::OwnDestination
    }

    fn is_only_writer(&self) -> bool {
        // A replay writes to a separate file.
        false
    }

    fn preview(&self, event: &Event<'_>, spool: &SpoolId) -> String {
        let mut line = String::new();
        encode::push_line(self.format, event, spool, &mut String::new(), &mut line);
        line
    }
}

impl SinkType for FileConfig {
    type Sink = FileSink;

    const NAME: &'static str = "file";
    const CLIENT_LOG_TARGETS: &'static [&'static str] = &[];

    fn build(&self, context: &BuildContext<'_>) -> FileSink {
        let config = Self {
            path: context.file(&self.path),
            ..self.clone()
        };
        FileSink::new(context.name, &config, context.data_dir)
    }

    async fn probe(
        &self,
        context: &BuildContext<'_>,
        _steps: &ConnectSteps,
    ) -> Result<Vec<String>, SinkFault> {
        let (config, data_dir) = (self.clone(), context.data_dir.to_owned());
        let warning = spawn_blocking(move || try_out(&config, &data_dir))
            .await
            .map_err(|error| {
                SinkFault::new(
                    FaultKind::Other,
                    format!("the check of the file ended early: {error}"),
                )
            })??;
        Ok(warning.into_iter().collect())
    }
}
