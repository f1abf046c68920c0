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
    delivery::Ended,
    envelope::{self, Kind},
    event::{Event, Sequence},
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
        replay::{Replay, hold},
    },
    letter::{self, Letter},
    record::Record,
};
use crate::{
    config::{Config, SinkEntry},
    exit::{Exit, Failure, OrExit},
    feed::read_redaction,
    signals::Signals,
};

/// The name in the mark of each message. Always the same, so that a destination that removes duplicates by it removes those of
/// a replay that was killed.
const RUN: &str = "dead-letters";

/// Replays the dead letters with these ids, or all that were not replayed. The counts go to standard output.
///
/// # Errors
/// Fails when a file cannot be read or written, or a sink is unavailable: the same command continues.
pub(in super::super) async fn replay(
    config: &Config,
    ids: &[String],
    sink: Option<&str>,
) -> Result<(), Failure> {
    let mut signals = Signals::new().or_exit(Exit::Unavailable)?;
    if let Some(sink) = sink.filter(|sink| !config.sinks.contains_key(*sink)) {
        let message = format!("unknown sink \"{sink}\"");
        return Err(Failure::message(Exit::Usage, message));
    }
    let mut letters = letter::select(letter::read(config)?, ids)?;
    letters.retain(|letter| sink.is_none_or(|sink| letter.fields.sink.as_deref() == Some(sink)));
    if letters.is_empty() {
        return print_until_signal("no dead letters to replay\n".to_owned(), &mut signals).await;
    }
    let (record, replayed) = Record::open(&config.data_dir)?;
    let record = Arc::new(Mutex::new(record));
    let all = letters.len();
    letters.retain(|letter| !replayed.contains_key(&letter.id));
    let done = all - letters.len();

    let intake = Intake {
        config,
        redaction: read_redaction(&config.event.redact, config.event.pseudonymise.as_ref(), "event").await?,
    };
    let mut of_sinks: BTreeMap<&str, Vec<&Letter>> = BTreeMap::new();
    for letter in &letters {
        match &letter.fields.sink {
            Some(sink) if letter.fields.event.is_some() && config.sinks.contains_key(sink) => {
                of_sinks.entry(sink).or_default().push(letter);
            }
            Some(sink) if !config.sinks.contains_key(sink) => {
                warn!(
                    id = letter.id,
                    sink, "dead letter not replayed: its sink is not configured"
                );
            }
            _ => warn!(id = letter.id, "dead letter not replayed: it contains no event"),
        }
    }
    let mut summary = String::new();
    if done > 0 {
        summary.push_str(&format!("{done} were replayed before\n"));
    }
    let mut failure = None;
    for (name, letters) in of_sinks {
        let Some(entry) = config.sinks.get(name) else {
            continue;
        };
        let mut counts = Counts::default();
        let result = intake
            .replay_sink(name, entry, &letters, &record, &mut counts, &mut signals)
            .await;
        summary.push_str(&format!(
            "sink {name}: {} dead letters = {} delivered + {} filtered + {} duplicate + {} rejected again + {} left\n",
            letters.len(),
            counts.delivered,
            counts.filtered,
            counts.duplicate,
            counts.rejected,
            letters.len() as u64 - counts.total()
        ));
        if let Err(error) = result {
            failure = Some(error);
            break;
        }
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
        entry: &SinkEntry,
        letters: &[&Letter],
        record: &Arc<Mutex<Record>>,
        counts: &mut Counts,
        signals: &mut Signals,
    ) -> Result<(), Failure> {
        let folder = spool_folder(self.config);
        let _held = hold(entry, &self.config.data_dir, folder.as_deref()).await?;
        let spool = folder.and_then(|folder| inspect::list(&folder).ok()?.id);
        // A spool in memory has another id after each start, which no dead letter contains.
        let spool = spool.unwrap_or_else(|| SpoolId::from_bytes([0; 16]));
        for pass in passes(letters) {
            let mut batches = Vec::new();
            let mut events = Vec::new();
            for letter in pass {
                match self.batch(letter)? {
                    Some((sequence, batch)) => {
                        batches.push(batch);
                        events.push((sequence, letter.id.clone()));
                    }
                    None => {
                        counts.filtered += 1;
                        lock(record).note([letter.id.as_str()]).or_exit(Exit::Disk)?;
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
                record: Arc::clone(record),
                rejected: Arc::clone(&rejected),
                error: Arc::default(),
            };
            let error = Arc::clone(&noting.error);
            let replay = Replay {
                config: self.config,
                name,
                entry,
                run: RUN,
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
            if ended != Ended::Drained {
                let reason = snapshot.reason.unwrap_or_else(|| "stopped".to_owned());
                return Err(Failure::message(Exit::Unavailable, reason).with_step(
                    "run the same command again: it continues with the dead letters that are left",
                ));
            }
        }
        Ok(())
    }

    /// Returns the event of a dead letter, after the filter and redaction; `None` if the filter rejects it.
    fn batch(&self, letter: &Letter) -> Result<Option<(Sequence, SealedBatch)>, Failure> {
        let damaged = || {
            Failure::message(
                Exit::Disk,
                format!("dead letter {} has no valid event", letter.id),
            )
        };
        let fields = &letter.fields;
        let frame = fields.event.as_ref().map_or("", |event| event.get());
        let sequence = fields.sequence.ok_or_else(damaged)?;
        let event = |frame| match envelope::read(frame) {
            Ok(Kind::Event(envelope)) => Ok(Event {
                sequence,
                received_at: fields.received_at,
                source: &fields.source,
                conflict: letter.conflict(),
                envelope,
                frame,
            }),
            _ => Err(damaged()),
        };
        let whole = event(frame)?;
        if !self.config.event.filter.matches(&whole) {
            return Ok(None);
        }
        let mut redacted = String::new();
        let mut batch = Batch::default();
        if self.redaction.apply(frame, &mut redacted) {
            batch.push(&event(&redacted)?);
        } else {
            batch.push(&whole);
        }
        Ok(Some((sequence, batch.seal(sequence))))
    }
}

/// Splits dead letters into passes with ascending sequences: those of an earlier spool may have the same ones.
fn passes<'a>(letters: &[&'a Letter]) -> Vec<Vec<&'a Letter>> {
    let mut sorted = letters.to_vec();
    sorted.sort_by_key(|letter| letter.fields.sequence);
    let mut passes: Vec<Vec<&Letter>> = Vec::new();
    for letter in sorted {
        let is_after = |pass: &&mut Vec<&Letter>| {
            pass.last()
                .is_none_or(|last| last.fields.sequence < letter.fields.sequence)
        };
        match passes.iter_mut().find(is_after) {
            Some(pass) => pass.push(letter),
            None => passes.push(vec![letter]),
        }
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
    record: Arc<Mutex<Record>>,
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
        let noted = lock(&self.record).note(delivered.map(|(_, id)| id.as_str()));
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

#[derive(Deserialize)]
struct Place {
    sequence: Sequence,
}

impl DeadLetters for Rejected {
    fn store<'a>(&'a self, lines: &'a str) -> Pin<Box<dyn Future<Output = io::Result<()>> + Send + 'a>> {
        let places: Result<Vec<Place>, _> = lines.lines().map(serde_json::from_str).collect();
        Box::pin(async move {
            lock(&self.0).extend(places?.iter().map(|place| place.sequence));
            Ok(())
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each value is valid also after a panic under its lock.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
