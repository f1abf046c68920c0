//! The second half of the bridge: the deliveries from the spool to the sinks.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, anyhow};
use neurobridge_core::{
    dead_letter::DeadLetters,
    delivery::{self, Ended, Progress, Shutdown},
    reader::{ReadError, Reader},
    sink_type::{BuildContext, DeadLetterPlace},
};
use neurobridge_sink_file::{DeadLettersConfig, FileDeadLetters};
use neurobridge_spool::Spool;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::{
    config::{Config, SinkEntry},
    exit::{Exit, Failure, OrExit},
    feed::{joined, read_redaction},
    parts::Parts,
    sinks::AnyReader,
    state::SinkHandle,
};

/// The running deliveries, one for each sink. They stop immediately on drop.
pub(crate) struct Deliveries {
    data_dir: PathBuf,
    spool: Spool,
    parts: Arc<Parts>,
    dead_letters: Arc<dyn DeadLetters>,
    shutdown: Shutdown,
    tasks: JoinSet<(Arc<str>, Result<Ended, ReadError>)>,
}

/// A sink that is ready to be started.
pub(crate) struct PreparedSink {
    name: Arc<str>,
    entry: SinkEntry,
    options: delivery::Options,
}

impl Deliveries {
    /// Opens the file for dead letters of sinks without their own. Starts no delivery yet.
    ///
    /// # Errors
    /// Returns an error if the file cannot be opened.
    pub(crate) async fn new(config: &Config, spool: Spool, parts: Arc<Parts>) -> Result<Self, Failure> {
        let path = &config.dead_letters.path;
        let dead_letters = open_dead_letters(config, path).await?;
        parts.set_dead_letters(path.clone(), Arc::clone(&dead_letters));
        Ok(Self {
            data_dir: config.data_dir.clone(),
            spool,
            parts,
            dead_letters,
            shutdown: Shutdown {
                drain: CancellationToken::new(),
                abort: CancellationToken::new(),
            },
            tasks: JoinSet::new(),
        })
    }

    /// Returns the store of dead letters for everything without its own.
    pub(crate) fn dead_letters(&self) -> Arc<dyn DeadLetters> {
        Arc::clone(&self.dead_letters)
    }

    /// Starts the delivery to a sink at its cursor.
    pub(crate) fn run_sink(&mut self, prepared: PreparedSink) {
        let PreparedSink { name, entry, options } = prepared;
        let reader = self.spool.reader_from(&name, entry.common.start);
        let progress = Arc::new(Progress::new(reader.cursor().clone()));
        let context = BuildContext {
            name: &name,
            data_dir: &self.data_dir,
            replay: None,
        };
        let delivery = entry.config.deliver(
            &context,
            AnyReader::Spool(reader),
            options,
            Arc::clone(&progress),
            self.shutdown.clone(),
        );
        self.parts.set_sink(Arc::new(SinkHandle {
            name: Arc::clone(&name),
            kind: entry.config.type_name(),
            destination: entry.config.destination(&self.data_dir),
            required: entry.common.required,
            progress,
        }));
        self.tasks.spawn(async move { (name, delivery.await) });
    }

    /// Waits until a delivery fails. Never returns if none does. Cancel-safe.
    pub(crate) async fn failed(&mut self) -> Failure {
        while let Some(ended) = self.tasks.join_next().await {
            match joined(ended) {
                (name, Err(error)) => return failure(&name, error),
                (name, Ok(ended)) => info!(sink = &*name, ?ended, "sink stopped"),
            }
        }
        std::future::pending().await
    }

    /// Requests the end of all deliveries once all events are settled. The spool must be closed.
    pub(crate) fn drain(&self) {
        self.shutdown.drain.cancel();
    }

    /// Requests the end of all deliveries at once.
    pub(crate) fn abort(&self) {
        self.shutdown.drain.cancel();
        self.shutdown.abort.cancel();
    }

    /// Waits for the end of the next delivery, and returns its failure if it has failed; `None` if none runs. Cancel-safe.
    pub(crate) async fn next_ended(&mut self) -> Option<Option<Failure>> {
        let (name, ended) = joined(self.tasks.join_next().await?);
        Some(ended.err().map(|error| {
            error!(sink = &*name, "sink failed: {error}");
            failure(&name, error)
        }))
    }

    /// Drops all deliveries.
    pub(crate) fn abort_all(&mut self) {
        self.tasks.abort_all();
    }
}

impl PreparedSink {
    /// Reads the files of a configured sink, and opens its file for dead letters.
    ///
    /// # Errors
    /// Returns an error if a file cannot be read or opened.
    pub(crate) async fn new(name: &str, config: &Config, deliveries: &Deliveries) -> Result<Self, Failure> {
        let place = format!("sinks.{name}");
        let entry = config
            .sinks
            .get(name)
            .cloned()
            .with_context(|| place.clone())
            .or_exit(Exit::Config)?;
        let common = &entry.common;
        let redaction = read_redaction(&common.redact, common.pseudonymise.as_ref(), &place).await?;
        let dead_letters = match entry.config.dead_letter_place() {
            DeadLetterPlace::File(path) => match deliveries.parts.dead_letters(path) {
                Some(opened) => opened,
                None => {
                    let store = open_dead_letters(config, path).await?;
                    deliveries
                        .parts
                        .set_dead_letters(path.to_owned(), Arc::clone(&store));
                    store
                }
            },
            DeadLetterPlace::Shared | DeadLetterPlace::Destination(_) => deliveries.dead_letters(),
        };
        let options = delivery::Options {
            name: name.to_owned(),
            spool: deliveries.spool.id(),
            filter: common.filter.clone(),
            redaction,
            dead_letters,
            dead_letter_place: config.dead_letter_place(&entry),
            max_dead_letters_in_a_row: common.max_dead_letters_in_a_row,
        };
        Ok(Self {
            name: name.into(),
            entry,
            options,
        })
    }
}

fn failure(name: &str, error: ReadError) -> Failure {
    Failure::new(Exit::Disk, anyhow!(error).context(format!("sink {name} failed")))
}

/// Opens a dead letter file.
pub(crate) async fn open_dead_letters(config: &Config, path: &Path) -> Result<Arc<dyn DeadLetters>, Failure> {
    let place = DeadLettersConfig {
        path: path.to_owned(),
        ..config.dead_letters.clone()
    };
    let dead_letters = FileDeadLetters::open(&place, &config.data_dir).await;
    Ok(Arc::new(
        dead_letters.context("dead letters").or_exit(Exit::Disk)?,
    ))
}
