//! The second half of the bridge: the deliveries from the spool to the sinks.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, anyhow};
use neurobridge_core::{
    dead_letter::DeadLetters,
    delivery::{self, DeliveryEnd, Progress, Shutdown, SinkState},
    lead::Lead,
    reader::{Cursor, ReadError, Reader},
    sink_type::{BuildContext, DeadLetterPlace},
};
use neurobridge_sink_file::{DeadLettersConfig, FileDeadLetters};
use neurobridge_spool::{Spool, SpoolReader};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::{
    config::{Config, ConfiguredSink},
    exit::{Exit, Failure, OrExit},
    parts::{Parts, SinkHandle},
    redaction::read_redaction,
    sink_reader::SinkReader,
    sinks::{AnyReader, Delivery},
    task::joined,
};

/// The time for which a changed or removed sink waits for the outcomes of the events that it has published.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// The further time after [`STOP_LIMIT`] for closing the client of the sink.
const ABORT_LIMIT: Duration = Duration::from_secs(3);
/// The interval at which a sink that is being stopped is checked.
const STOP_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// The running deliveries, one for each sink. They stop immediately on drop.
pub(crate) struct Deliveries {
    data_dir: PathBuf,
    spool: Spool,
    parts: Arc<Parts>,
    dead_letters: Arc<dyn DeadLetters>,
    /// `None` outside of a cluster.
    lead: Option<Lead>,
    shutdown: Shutdown,
    tasks: JoinSet<(Arc<str>, Result<DeliveryEnd, ReadError>)>,
    /// The channel to the task of each sink.
    changes: BTreeMap<Arc<str>, SinkChanges>,
    /// The number of the last delivery or change.
    last: u64,
}

/// The changes of a running sink.
struct SinkChanges {
    /// The channel to the task of the sink.
    sender: mpsc::Sender<Change>,
    /// Whether a change is not complete yet.
    is_changing: Arc<AtomicBool>,
}

/// A change of a running sink.
struct Change {
    /// The new settings; `None` if the sink is removed.
    settings: Option<Box<PreparedSink>>,
    number: u64,
    /// Notified when the change is complete.
    done: oneshot::Sender<()>,
}

/// The parts of the bridge that each delivery uses.
struct SinkContext {
    data_dir: PathBuf,
    spool: Spool,
    parts: Arc<Parts>,
    lead: Option<Lead>,
    shutdown: Shutdown,
}

/// A delivery that runs.
struct RunningSink {
    name: Arc<str>,
    delivery: Delivery,
    progress: Arc<Progress>,
    /// Ends the reading of further events.
    stop_reading: CancellationToken,
    shutdown: Shutdown,
    /// Receives the reader of the spool and the last committed cursor when the delivery has ended.
    returned: oneshot::Receiver<(SpoolReader, Cursor)>,
}

impl RunningSink {
    fn start(
        prepared: PreparedSink,
        number: u64,
        reader: SpoolReader,
        cursor: Cursor,
        context: &SinkContext,
    ) -> Self {
        let PreparedSink { name, entry, options } = prepared;
        let progress = Arc::new(Progress::new(cursor.clone()));
        let stop_reading = CancellationToken::new();
        let (reader, returned) = SinkReader::new(reader, cursor, stop_reading.clone());
        let shutdown = Shutdown {
            drain: context.shutdown.drain.child_token(),
            abort: context.shutdown.abort.child_token(),
        };
        let build = BuildContext {
            name: &name,
            data_dir: &context.data_dir,
            replay: None,
            lead: context.lead.as_ref(),
        };
        let delivery = entry.config.deliver(
            &build,
            AnyReader::Spool(reader),
            options,
            Arc::clone(&progress),
            shutdown.clone(),
        );
        context.parts.set_sink(Arc::new(SinkHandle {
            number,
            name: Arc::clone(&name),
            kind: entry.config.type_name(),
            destination: entry.config.destination(&context.data_dir),
            in_cluster: entry.config.in_cluster(),
            required: entry.common.required,
            progress: Arc::clone(&progress),
        }));
        Self {
            name,
            delivery,
            progress,
            stop_reading,
            shutdown,
            returned,
        }
    }

    /// Delivers until the bridge stops or the sink is removed. At each change, starts another delivery with the new settings.
    async fn run(
        mut self,
        context: SinkContext,
        mut changes: mpsc::Receiver<Change>,
        is_changing: Arc<AtomicBool>,
    ) -> Result<DeliveryEnd, ReadError> {
        loop {
            let change = tokio::select! {
                biased;
                ended = &mut self.delivery => return ended,
                Some(change) = changes.recv() => change,
            };
            let name = Arc::clone(&self.name);
            let Some((reader, cursor)) = self.stop().await? else {
                return Ok(DeliveryEnd::Unfinished);
            };
            let Some(prepared) = change.settings else {
                drop(reader);
                context.spool.release(&name);
                context.parts.remove_sink(&name);
                let _ = change.done.send(());
                return Ok(DeliveryEnd::Unfinished);
            };
            info!(
                sink = &*name,
                next = cursor.next.get(),
                "sink reopened at its cursor"
            );
            self = Self::start(*prepared, change.number, reader, cursor, &context);
            is_changing.store(false, Ordering::Release);
            let _ = change.done.send(());
        }
    }

    /// Ends the delivery, and returns the reader of the spool with the last committed cursor.
    async fn stop(mut self) -> Result<Option<(SpoolReader, Cursor)>, ReadError> {
        self.stop_reading.cancel();
        self.shutdown.drain.cancel();
        let deadline = Instant::now() + STOP_LIMIT;
        let mut checks = interval(STOP_CHECK_INTERVAL);
        loop {
            tokio::select! {
                biased;
                ended = &mut self.delivery => {
                    ended?;
                    break;
                }
                now = checks.tick() => {
                    let progress = self.progress.snapshot();
                    let is_up = matches!(progress.state, SinkState::Up | SinkState::Draining);
                    // A sink that is not up and has no event in flight has no outcome to wait for.
                    if now >= deadline || (!is_up && progress.in_flight == 0) {
                        self.shutdown.abort.cancel();
                    }
                    if now >= deadline + ABORT_LIMIT {
                        break;
                    }
                }
            }
        }
        let Self {
            delivery, returned, ..
        } = self;
        drop(delivery);
        Ok(returned.await.ok())
    }
}

/// A sink that is ready to be started.
pub(crate) struct PreparedSink {
    name: Arc<str>,
    entry: ConfiguredSink,
    options: delivery::DeliveryOptions,
}

impl Deliveries {
    /// Opens the file for dead letters of sinks without their own. Starts no delivery yet.
    ///
    /// # Errors
    /// Returns an error if the file cannot be opened.
    pub(crate) async fn new(
        config: &Config,
        spool: Spool,
        parts: Arc<Parts>,
        lead: Option<Lead>,
    ) -> Result<Self, Failure> {
        let path = &config.dead_letters.path;
        let dead_letters = open_dead_letters(config, path).await?;
        parts.set_dead_letters(path.clone(), Arc::clone(&dead_letters));
        Ok(Self {
            data_dir: config.data_dir.clone(),
            spool,
            parts,
            dead_letters,
            lead,
            shutdown: Shutdown {
                drain: CancellationToken::new(),
                abort: CancellationToken::new(),
            },
            tasks: JoinSet::new(),
            changes: BTreeMap::new(),
            last: 0,
        })
    }

    /// Returns the store for dead letters of the sources, and of the sinks without a store of their own.
    pub(crate) fn dead_letters(&self) -> Arc<dyn DeadLetters> {
        Arc::clone(&self.dead_letters)
    }

    /// Starts the delivery to a sink at its cursor. If the sink runs already, its present delivery ends first: it publishes
    /// nothing more and waits for the outcomes of the events in flight, for at most [`STOP_LIMIT`]. Returns a receiver that is
    /// notified when the new delivery has started.
    pub(crate) fn run_sink(&mut self, prepared: PreparedSink) -> oneshot::Receiver<()> {
        self.last += 1;
        let (done, is_done) = oneshot::channel();
        let name = Arc::clone(&prepared.name);
        let change = Change {
            settings: Some(Box::new(prepared)),
            number: self.last,
            done,
        };
        let Err(change) = self.send(&name, change) else {
            return is_done;
        };
        let Change {
            settings: Some(prepared),
            number,
            done,
        } = change
        else {
            return is_done;
        };
        let (sender, changes) = mpsc::channel(1);
        let is_changing = Arc::<AtomicBool>::default();
        let running = SinkChanges {
            sender,
            is_changing: Arc::clone(&is_changing),
        };
        self.changes.insert(Arc::clone(&name), running);
        let context = SinkContext {
            data_dir: self.data_dir.clone(),
            spool: self.spool.clone(),
            parts: Arc::clone(&self.parts),
            lead: self.lead.clone(),
            shutdown: self.shutdown.clone(),
        };
        // The reader is created now, so that it misses no event.
        let reader = self.spool.reader_from(&name, prepared.entry.common.start);
        let cursor = reader.cursor().clone();
        let running = RunningSink::start(*prepared, number, reader, cursor, &context);
        let _ = done.send(());
        self.tasks
            .spawn(async move { (name, running.run(context, changes, is_changing).await) });
        is_done
    }

    /// Ends the delivery to a sink as [`run_sink`](Self::run_sink) does, and the retention of events for the sink. Returns a
    /// receiver that is notified when both have ended.
    pub(crate) fn remove_sink(&mut self, name: &str) -> oneshot::Receiver<()> {
        let (done, is_done) = oneshot::channel();
        let change = Change {
            settings: None,
            number: 0,
            done,
        };
        // A sink that has ended needs no removal. The entry in `changes` stays, so that the sink is not added again before its
        // task has ended.
        let _ = self.send(name, change);
        is_done
    }

    /// Returns whether a sink is still being changed, so that it accepts no further change yet.
    pub(crate) fn is_changing(&self, name: &str) -> bool {
        self.changes
            .get(name)
            .is_some_and(|changes| changes.is_changing.load(Ordering::Acquire) && !changes.sender.is_closed())
    }

    /// Sends a change to the task of a sink. Returns the change if no task runs.
    fn send(&self, name: &str, change: Change) -> Result<(), Change> {
        let Some(changes) = self.changes.get(name) else {
            return Err(change);
        };
        // Set before, because the task may complete the change at once.
        changes.is_changing.store(true, Ordering::Release);
        changes.sender.try_send(change).map_err(|error| {
            changes.is_changing.store(false, Ordering::Release);
            error.into_inner()
        })
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

    /// Waits until a delivery ends, and returns the failure of this delivery, if any; `None` if no delivery runs. Cancel-safe.
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
    /// Returns the name of the sink.
    pub(crate) const fn name(&self) -> &Arc<str> {
        &self.name
    }

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
            .with_context(|| format!("missing table [{place}]"))
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
        let options = delivery::DeliveryOptions {
            name: name.to_owned(),
            spool: deliveries.spool.id(),
            filter: common.filter.clone(),
            redaction,
            dead_letters,
            dead_letter_place: config.dead_letter_place(&entry),
            max_dead_letters_in_a_row: common.max_dead_letters_in_a_row,
            lead: deliveries.lead.clone(),
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
        dead_letters
            .context("the file for dead letters cannot be used")
            .or_exit(Exit::Disk)?,
    ))
}
