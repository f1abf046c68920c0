//! `neurobridge dead-letters replay`: sends dead letters to their sinks again, each one once.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use neurobridge_core::{
    dead_letter::DeadLetters,
    delivery::DeliveryEnd,
    event::{Event, Sequence},
    event_buf::EventBuf,
    identity::SpoolId,
    record::{Batch, SealedBatch},
    redact::Redaction,
};
use neurobridge_spool::{ReplayReader, SpoolConfig, inspect};
use serde::Deserialize;
use tracing::warn;

use super::{
    super::{
        print_until_signal,
        replay::{Replay, lock_for_strict_order},
    },
    replayed::ReplayedList,
    stored::{self, StoredDeadLetter},
};
use crate::{
    config::{Config, ConfiguredSink},
    exit::{Exit, Failure, OrExit},
    frames::StoredFrameReader,
    redaction::read_redaction,
    signals::Signals,
};

/// The name of the replay, which each message carries. It is always the same, so that a destination that detects duplicates by
/// it also detects the messages of a replay that was killed.
const REPLAY_NAME: &str = "dead-letters";

/// The maximum size of the events of a pass: small compared with the memory of a machine, and large enough that connecting again
/// for the next pass takes a small part of the time.
const MAX_PASS_BYTES: usize = 32 * 1024 * 1024;

/// Replays the dead letters with these ids, or all that were not replayed. The counts go to standard output.
///
/// # Errors
/// Fails when a file cannot be read or written, or a sink is unavailable. The same command then continues with the rest.
pub(in super::super) async fn replay(
    config: &Config,
    ids: &[String],
    sink: Option<&str>,
) -> Result<(), Failure> {
    let mut signals = Signals::new().or_exit(Exit::Unavailable)?;
    if let Some(sink) = sink.filter(|sink| !config.sinks.contains_key(*sink)) {
        return Err(Failure::unknown("sink", sink, config.sinks.keys()));
    }
    let mut selected = stored::select(stored::read(config)?, ids)?;
    selected.retain(|dead_letter| sink.is_none_or(|sink| dead_letter.fields.sink.as_deref() == Some(sink)));
    if selected.is_empty() {
        return print_until_signal("no dead letters to replay\n".to_owned(), &mut signals).await;
    }
    let (mut list, mut replayed) = ReplayedList::open(&config.data_dir)?;
    if let Some(stored) = stored::read_unless_renamed(config)? {
        let ids = stored.iter().map(|dead_letter| &*dead_letter.id).collect();
        list.remove_others(&mut replayed, &ids).or_exit(Exit::Disk)?;
    }
    let list = Arc::new(Mutex::new(list));
    let all = selected.len();
    selected.retain(|dead_letter| !replayed.contains_key(&dead_letter.id));
    let done = all - selected.len();

    let intake = Intake {
        config,
        redaction: read_redaction(&config.event.redact, config.event.pseudonymise.as_ref(), "event").await?,
    };
    let mut of_sinks: BTreeMap<&str, Vec<&StoredDeadLetter>> = BTreeMap::new();
    for dead_letter in &selected {
        match &dead_letter.fields.sink {
            Some(sink) if dead_letter.fields.has_event && config.sinks.contains_key(sink) => {
                of_sinks.entry(sink).or_default().push(dead_letter);
            }
            Some(sink) if !config.sinks.contains_key(sink) => {
                warn!(
                    id = dead_letter.id,
                    sink, "dead letter not replayed: its sink is not configured"
                );
            }
            _ => warn!(
                id = dead_letter.id,
                "dead letter not replayed: it contains no event"
            ),
        }
    }
    let mut summary = String::new();
    if done > 0 {
        summary.push_str(&format!("{done} were replayed before\n"));
    }
    let mut failure = None;
    let mut damaged = 0;
    for (name, selected) in of_sinks {
        let Some(entry) = config.sinks.get(name) else {
            continue;
        };
        let mut counts = Counts::default();
        let result = intake
            .replay_sink(name, entry, &selected, &list, &mut counts, &mut signals)
            .await;
        summary.push_str(&format!(
            "sink {name}: {} dead letters = {} delivered + {} filtered + {} duplicate + {} rejected again + {} left\n",
            selected.len(),
            counts.delivered,
            counts.filtered,
            counts.duplicate,
            counts.rejected,
            selected.len() as u64 - counts.total()
        ));
        damaged += counts.damaged;
        if let Err(error) = result {
            failure = Some(error);
            break;
        }
    }
    if failure.is_none() && damaged > 0 {
        let message = format!(
            "dead letters without a valid event: {damaged}; expected a frame of the feed as \"event\""
        );
        let step = "the warnings name the ids and files of these dead letters; `neurobridge dead-letters show ID` \
                    prints a dead letter";
        failure = Some(Failure::message(Exit::Disk, message).with_step(step));
    }
    print_until_signal(summary, &mut signals).await?;
    failure.map_or(Ok(()), Err)
}

#[derive(Default)]
struct Counts {
    delivered: u64,
    filtered: u64,
    duplicate: u64,
    rejected: u64,
    /// The dead letters without a valid event, which are not replayed.
    damaged: u64,
}

impl Counts {
    const fn total(&self) -> u64 {
        self.delivered + self.filtered + self.duplicate + self.rejected
    }
}

/// The filter and redaction that all events pass before they are stored.
struct Intake<'a> {
    config: &'a Config,
    redaction: Redaction,
}

impl Intake<'_> {
    async fn replay_sink(
        &self,
        name: &str,
        entry: &ConfiguredSink,
        selected: &[&StoredDeadLetter],
        list: &Arc<Mutex<ReplayedList>>,
        counts: &mut Counts,
        signals: &mut Signals,
    ) -> Result<(), Failure> {
        let folder = spool_folder(self.config);
        let _lock = lock_for_strict_order(entry, &self.config.data_dir, folder.as_deref()).await?;
        let spool = folder.and_then(|folder| inspect::list(&folder).ok()?.id);
        // A spool in memory has another id after each start, and a dead letter does not contain the id of its spool.
        let spool = spool.unwrap_or_else(|| SpoolId::from_bytes([0; 16]));
        for pass in passes(selected) {
            let mut batches = Vec::new();
            let mut events = Vec::new();
            for dead_letter in pass {
                match self.prepare(dead_letter)? {
                    Prepared::Event(sequence, batch) => {
                        batches.push(batch);
                        events.push((sequence, dead_letter.id.clone()));
                    }
                    Prepared::Damaged => {
                        let (id, file) = (&dead_letter.id, dead_letter.file.path.display());
                        warn!(id, %file, "dead letter not replayed: its event is damaged");
                        counts.damaged += 1;
                    }
                    Prepared::Filtered => {
                        counts.filtered += 1;
                        lock(list).note([dead_letter.id.as_str()]).or_exit(Exit::Disk)?;
                    }
                }
            }
            if batches.is_empty() {
                continue;
            }
            let rejected = Arc::new(Rejected::default());
            let noting = Noting {
                events,
                noted: 0,
                list: Arc::clone(list),
                rejected: Arc::clone(&rejected),
                error: Arc::default(),
            };
            let error = Arc::clone(&noting.error);
            let replay = Replay {
                config: self.config,
                name,
                entry,
                replay_name: REPLAY_NAME,
                spool,
                dead_letters: Arc::clone(&rejected) as Arc<dyn DeadLetters>,
                dead_letter_place: "their file, where they stay".to_owned(),
            };
            let (progress, ended) = replay.deliver(noting.reader(batches), signals).await?;
            let snapshot = progress.snapshot();
            let settled = snapshot.cursor.counts;
            counts.delivered += settled.delivered;
            counts.filtered += settled.filtered;
            counts.duplicate += settled.duplicate;
            counts.rejected += settled.dead_lettered;
            if let Some(error) = lock(&error).take() {
                return Err(error).or_exit(Exit::Disk);
            }
            if ended != DeliveryEnd::Drained {
                let reason = snapshot.reason.unwrap_or_else(|| "stopped".to_owned());
                return Err(Failure::message(Exit::Unavailable, reason).with_step(
                    "run the same command again: it continues with the dead letters that are left",
                ));
            }
        }
        Ok(())
    }

    /// Applies the filter and redaction to the event of a dead letter.
    fn prepare(&self, dead_letter: &StoredDeadLetter) -> Result<Prepared, Failure> {
        let fields = &dead_letter.fields;
        let (Some(stored), Some(sequence)) = (dead_letter.event()?, fields.sequence) else {
            return Ok(Prepared::Damaged);
        };
        let mut reader = StoredFrameReader::new(self.config, &fields.source)?;
        let prepared = reader.first_event(stored.get(), |event| {
            let whole = Event {
                sequence,
                received_at: fields.received_at,
                conflict: dead_letter.conflict(),
                ..event
            };
            if !self.config.event.filter.matches(&whole) {
                return Prepared::Filtered;
            }
            let mut redacted = EventBuf::default();
            let Ok(event) = self.redaction.apply(&whole, &mut redacted) else {
                return Prepared::Damaged;
            };
            let mut batch = Batch::default();
            batch.push(&event);
            Prepared::Event(sequence, batch.seal(sequence))
        });
        Ok(prepared.unwrap_or(Prepared::Damaged))
    }
}

/// A dead letter after the filter and redaction.
enum Prepared {
    Event(Sequence, SealedBatch),
    /// The filter rejects the event.
    Filtered,
    /// There is no valid event in the dead letter.
    Damaged,
}

/// Splits dead letters into passes. Within a pass each sequence occurs once, in ascending order; dead letters of an earlier spool
/// may have the same sequences. The events of a pass are in memory at the same time, so a pass has a size limit.
fn passes<'a>(selected: &[&'a StoredDeadLetter]) -> Vec<Vec<&'a StoredDeadLetter>> {
    let mut sorted = selected.to_vec();
    sorted.sort_by_key(|dead_letter| dead_letter.fields.sequence);
    let mut passes: Vec<Vec<&StoredDeadLetter>> = Vec::new();
    let mut sizes: Vec<usize> = Vec::new();
    for dead_letter in sorted {
        let sequence = dead_letter.fields.sequence;
        let index = passes.iter().zip(&sizes).position(|(pass, size)| {
            *size < MAX_PASS_BYTES && pass.last().is_none_or(|last| last.fields.sequence < sequence)
        });
        let index = index.unwrap_or_else(|| {
            passes.push(Vec::new());
            sizes.push(0);
            sizes.len() - 1
        });
        passes[index].push(dead_letter);
        sizes[index] += dead_letter.line_bytes;
    }
    passes
}

/// Returns the folder of the spool on disk, if there is one.
fn spool_folder(config: &Config) -> Option<PathBuf> {
    match &config.spool {
        SpoolConfig::Disk(disk) => {
            let folder = config.data_dir.join(&disk.path);
            Path::exists(&folder).then_some(folder)
        }
        _ => None,
    }
}

/// Notes dead letters as replayed when the cursor has passed them, except those that were rejected again.
struct Noting {
    events: Vec<(Sequence, String)>,
    noted: usize,
    list: Arc<Mutex<ReplayedList>>,
    rejected: Arc<Rejected>,
    error: Arc<Mutex<Option<io::Error>>>,
}

impl Noting {
    fn reader(mut self, batches: Vec<SealedBatch>) -> ReplayReader {
        ReplayReader::of(batches, move |cursor| self.note_before(cursor.next))
    }

    fn note_before(&mut self, next: Sequence) {
        let passed = self.events[self.noted..]
            .iter()
            .take_while(|(sequence, _)| *sequence < next);
        let passed: Vec<&(Sequence, String)> = passed.collect();
        let rejected = lock(&self.rejected.0);
        let delivered = passed.iter().filter(|(sequence, _)| !rejected.contains(sequence));
        let noted = lock(&self.list).note(delivered.map(|(_, id)| id.as_str()));
        drop(rejected);
        self.noted += passed.len();
        if let Err(error) = noted {
            lock(&self.error).get_or_insert(error);
        }
    }
}

/// The dead letters that were rejected again. They stay where they are, and are not stored a second time.
#[derive(Default)]
struct Rejected(Mutex<Vec<Sequence>>);

/// The part of a dead letter that identifies its event in a pass.
#[derive(Deserialize)]
struct RejectedLine {
    sequence: Sequence,
}

impl DeadLetters for Rejected {
    fn store<'a>(&'a self, lines: &'a str) -> Pin<Box<dyn Future<Output = io::Result<()>> + Send + 'a>> {
        let rejected: Result<Vec<RejectedLine>, _> = lines.lines().map(serde_json::from_str).collect();
        Box::pin(async move {
            lock(&self.0).extend(rejected?.iter().map(|line| line.sequence));
            Ok(())
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each value is valid also after a panic under its lock.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
