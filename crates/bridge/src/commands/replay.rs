//! `neurobridge spool replay`: sends stored events to one sink again.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use neurobridge_core::{
    dead_letter::DeadLetters,
    delivery::{self, DeliveryEnd, Progress, Shutdown},
    event::Sequence,
    identity::SpoolId,
    reader::Reader,
    sink_type::{BuildContext, DeadLetterPlace, replay_file},
};
use neurobridge_spool::{
    OpenError, Position, ReplayReader,
    inspect::{self, Entry, Listing, LogLock},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{print_until_signal, spool::folder};
use crate::{
    cli::ReplayFlags,
    config::{Config, ConfiguredSink},
    data_dir::DataDir,
    deliveries::open_dead_letters,
    exit::{Exit, Failure, OrExit},
    redaction::read_redaction,
    signals::Signals,
    sinks::AnyReader,
};

/// Sends a part of the spool again, and prints the counts. Needs no lock and may run beside a bridge, except for a sink with
/// strict order, for which it locks the data folder. Moves no cursor.
///
/// # Errors
/// Fails when the spool cannot be read, the sink is unknown or unavailable, or a signal stops the replay; the error states where
/// to resume.
pub(super) async fn run(config: &Config, flags: &ReplayFlags) -> Result<(), Failure> {
    let mut signals = Signals::new().or_exit(Exit::Unavailable)?;
    let entry = config.sinks.get(&flags.sink);
    let entry = entry.ok_or_else(|| Failure::unknown("sink", &flags.sink, config.sinks.keys()))?;
    let folder = folder(config)?;
    let _lock = lock_for_strict_order(entry, &config.data_dir, Some(&folder)).await?;
    let listing = inspect::list(&folder).or_exit(Exit::Disk)?;
    let id = listing.id.ok_or_else(|| {
        let message = "the id of the spool is missing or damaged; start the bridge, which repairs the id";
        Failure::message(Exit::Disk, message)
    })?;
    let (first, end) = replay_range(&folder, &listing, flags)?;
    let replay_name = flags.run.clone().unwrap_or_else(new_replay_name);
    info!(
        sink = flags.sink,
        first = first.get(),
        end = end.get(),
        run = replay_name,
        "replay started"
    );

    let dead_letters = dead_letters_path(config, entry, &replay_name);
    let reader = ReplayReader::start(folder, first, end).or_exit(Exit::Disk)?;
    let replay = Replay {
        config,
        name: &flags.sink,
        entry,
        replay_name: &replay_name,
        spool: id,
        dead_letters: open_dead_letters(config, &dead_letters).await?,
        dead_letter_place: match entry.config.dead_letter_place() {
            DeadLetterPlace::Destination(place) => place,
            _ => config.data_dir.join(&dead_letters).display().to_string(),
        },
    };
    let (progress, ended) = replay.deliver(reader, &mut signals).await?;
    remove_if_empty(&config.data_dir.join(&dead_letters));
    report(&progress, &replay_name, ended, &mut signals).await
}

/// A delivery of events to one sink beside the bridge, marked as a replay.
pub(super) struct Replay<'a> {
    pub(super) config: &'a Config,
    /// The name of the sink.
    pub(super) name: &'a str,
    pub(super) entry: &'a ConfiguredSink,
    /// The name of the replay, which each replayed message carries.
    pub(super) replay_name: &'a str,
    pub(super) spool: SpoolId,
    pub(super) dead_letters: Arc<dyn DeadLetters>,
    pub(super) dead_letter_place: String,
}

impl Replay<'_> {
    /// Delivers the events of a reader, until a permanent fault or a signal.
    pub(super) async fn deliver(
        self,
        reader: ReplayReader,
        signals: &mut Signals,
    ) -> Result<(Arc<Progress>, DeliveryEnd), Failure> {
        let common = &self.entry.common;
        let options = delivery::DeliveryOptions {
            name: self.name.to_owned(),
            spool: self.spool,
            filter: common.filter.clone(),
            redaction: read_redaction(
                &common.redact,
                common.pseudonymise.as_ref(),
                &format!("sinks.{}", self.name),
            )
            .await?,
            dead_letters: self.dead_letters,
            dead_letter_place: self.dead_letter_place,
            max_dead_letters_in_a_row: common.max_dead_letters_in_a_row,
            lead: None,
        };
        let progress = Arc::new(Progress::new(reader.cursor().clone()));
        let shutdown = Shutdown {
            // Draining from the start, so that the replay ends after its last event.
            drain: CancellationToken::new(),
            abort: CancellationToken::new(),
        };
        shutdown.drain.cancel();
        let abort = shutdown.abort.clone();
        let context = BuildContext {
            name: self.name,
            data_dir: &self.config.data_dir,
            replay: Some(self.replay_name),
            lead: None,
        };
        let mut delivery = self.entry.config.deliver(
            &context,
            AnyReader::Replay(reader),
            options,
            Arc::clone(&progress),
            shutdown,
        );
        let ended = tokio::select! {
            biased;
            signal = signals.next() => {
                info!(signal, "stopping");
                abort.cancel();
                delivery.await
            }
            ended = &mut delivery => ended,
        };
        Ok((progress, ended.or_exit(Exit::Disk)?))
    }
}

/// Locks the data folder for a sink with strict order, and its spool if there is one on disk (`folder`). A stream with strict
/// order has one writer: a bridge that publishes meanwhile would be rejected again and again.
///
/// Returns `None` without a lock for any other sink.
pub(super) async fn lock_for_strict_order(
    entry: &ConfiguredSink,
    data_dir: &Path,
    folder: Option<&Path>,
) -> Result<Option<(DataDir, Option<LogLock>)>, Failure> {
    if !entry.config.is_only_writer() {
        return Ok(None);
    }
    let because = |failure: Failure| {
        let why = "this sink has strict order, which allows one publisher";
        Failure::new(failure.exit, failure.error.context(why)).with_step(
            "stop the bridge, run this command, and start the bridge; events that arrive while it is stopped are missed",
        )
    };
    let data_dir = DataDir::lock(data_dir)
        .await
        .map_err(|failure| match failure.exit {
            Exit::TryLater => because(failure),
            _ => failure,
        })?;
    let Some(folder) = folder else {
        return Ok(Some((data_dir, None)));
    };
    match inspect::lock(folder) {
        Ok(lock) => Ok(Some((data_dir, Some(lock)))),
        Err(error @ OpenError::Locked { .. }) => Err(because(Failure::new(Exit::TryLater, error))),
        Err(error) => Err(Failure::new(Exit::Disk, error)),
    }
}

/// Returns the first sequence of a replay, and the sequence after its last event. The range ends at the sink's cursor, because
/// the bridge delivers the rest.
fn replay_range(
    folder: &Path,
    listing: &Listing,
    flags: &ReplayFlags,
) -> Result<(Sequence, Sequence), Failure> {
    let (from, to) = match (&flags.id, flags.from) {
        (Some(id), _) => {
            let position = Position::Sequence(find(folder, id)?);
            (position, Some(position))
        }
        (None, Some(from)) => (from, flags.to),
        (None, None) => return Err(Failure::message(Exit::Usage, "--from or --id is needed")),
    };
    let first = from.first_from(folder).or_exit(Exit::Disk)?;
    let oldest = listing.segments.first().map(|segment| segment.first);
    let oldest = oldest.ok_or_else(|| Failure::message(Exit::Usage, "the spool is empty"))?;
    if first < oldest {
        let message = format!(
            "event {first} was removed: the oldest event in the spool is {oldest}; choose a later event"
        );
        return Err(Failure::message(Exit::Usage, message));
    }
    let mut cursors = listing.cursors.iter();
    let cursor = cursors
        .find(|state| state.reader == flags.sink)
        .and_then(|state| state.cursor.as_ref());
    let settled = cursor.map(|cursor| cursor.next).ok_or_else(|| {
        let message = format!(
            "the spool has no cursor of sink \"{}\": with start = \"oldest\" the bridge sends all events to this sink",
            flags.sink
        );
        Failure::message(Exit::Usage, message)
    })?;
    let end = match to {
        Some(to) => to.end(folder).or_exit(Exit::Disk)?,
        None => settled,
    };
    if end > settled {
        warn!(
            next = settled.get(),
            "replay ends at the sink's cursor; the bridge delivers the later events"
        );
    }
    let end = end.min(settled);
    if first >= end {
        let message =
            format!("no events to replay: the first event is {first}, and the sink's cursor is at {settled}");
        return Err(Failure::message(Exit::Usage, message));
    }
    Ok((first, end))
}

/// Returns the event with this id. Reads the whole spool.
fn find(folder: &Path, id: &str) -> Result<Sequence, Failure> {
    let mut found = Vec::new();
    for entry in inspect::from_sequence(folder, Sequence::FIRST).or_exit(Exit::Disk)? {
        let Entry::Events(batch) = entry.or_exit(Exit::Disk)? else {
            continue;
        };
        for event in batch.iter().filter_map(Result::ok) {
            if event.id().as_deref() == Some(id) {
                found.push(event.sequence);
            }
        }
    }
    match found[..] {
        [sequence] => Ok(sequence),
        [] => Err(Failure::message(
            Exit::Usage,
            format!("no event in the spool has the id \"{id}\""),
        )),
        _ => {
            let found: Vec<String> = found.iter().map(Sequence::to_string).collect();
            let message = format!(
                "{} events have the id \"{id}\"; choose one with --from and --to: {}",
                found.len(),
                found.join(", ")
            );
            Err(Failure::message(Exit::Usage, message))
        }
    }
}

/// Returns a name for a replay, from the current time.
fn new_replay_name() -> String {
    Timestamp::now().strftime("%Y%m%dT%H%M%S%3fZ").to_string()
}

/// Returns the path of a separate dead letter file: a bridge may be writing to the configured one.
fn dead_letters_path(config: &Config, entry: &ConfiguredSink, replay_name: &str) -> PathBuf {
    let configured = match entry.config.dead_letter_place() {
        DeadLetterPlace::File(path) => path,
        DeadLetterPlace::Shared | DeadLetterPlace::Destination(_) => &config.dead_letters.path,
    };
    replay_file(configured, replay_name)
}

/// Removes a dead letter file without content.
fn remove_if_empty(path: &Path) {
    if path.metadata().is_ok_and(|metadata| metadata.len() == 0) {
        // On failure an empty file remains, which does no harm.
        let _ = std::fs::remove_file(path);
    }
}

async fn report(
    progress: &Progress,
    replay_name: &str,
    ended: DeliveryEnd,
    signals: &mut Signals,
) -> Result<(), Failure> {
    let snapshot = progress.snapshot();
    let (cursor, counts) = (&snapshot.cursor, snapshot.cursor.counts);
    let counts = format!(
        "run {replay_name}: {} replayed = {} delivered + {} filtered + {} duplicate + {} dead-lettered + {} dropped + {} damaged\n",
        counts.settled(),
        counts.delivered,
        counts.filtered,
        counts.duplicate,
        counts.dead_lettered,
        counts.dropped,
        counts.damaged
    );
    print_until_signal(counts, signals).await?;
    if ended == DeliveryEnd::Drained {
        return Ok(());
    }
    let reason = snapshot.reason.unwrap_or_else(|| "stopped".to_owned());
    let message = format!("{reason}; to resume: --from {} --run {replay_name}", cursor.next);
    Err(Failure::message(Exit::Unavailable, message))
}
