//! The resume values of a log on disk: set together with the events, saved with a delay, and recovered from the file and from
//! the records after it.

use std::{
    collections::BTreeSet,
    fs::File,
    io,
    time::{Duration, Instant},
};

use neurobridge_core::event::{Event, Sequence};
use tracing::warn;

use super::{
    Shared, Walk,
    files::{self, DiskError},
    lock,
    resume_file::{self, Stored},
    retry::retry_briefly,
    shortened,
};
use crate::{
    log::Found,
    resume::{ResumePaths, Values},
};

/// The minimum time between two saves of changed values.
const SAVE_INTERVAL: Duration = shortened(Duration::from_secs(1));
/// The minimum time between two saves of unchanged values: it bounds the records that are read at the next start.
const REFRESH_INTERVAL: Duration = shortened(Duration::from_secs(30));
/// The number of records that are read first when values are searched for, from the end of the log. Each further step reads
/// four times as many.
const FIRST_STEP: u64 = 4096;

/// The values at a sequence.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) values: Values,
    /// The sequence after the last record that the values cover.
    pub(super) next: Sequence,
}

/// The resume values in memory.
#[derive(Debug)]
pub(super) struct ResumeState {
    /// The values of all stored events.
    current: Values,
    /// The newest values whose events are synced. Values of other events must not be saved: after a power cut the source would
    /// skip the events that were lost.
    synced: Option<Snapshot>,
    /// The values on the disk.
    saved: Option<Snapshot>,
    saved_at: Instant,
    /// Whether a source can resume. Then the file is written even without values: otherwise each opening would search the
    /// whole log.
    is_used: bool,
}

impl ResumeState {
    pub(super) fn new() -> Self {
        Self {
            current: Values::default(),
            synced: None,
            saved: None,
            saved_at: Instant::now(),
            is_used: false,
        }
    }

    pub(super) const fn current(&self) -> &Values {
        &self.current
    }

    pub(super) const fn current_mut(&mut self) -> &mut Values {
        &mut self.current
    }

    /// Records that all events before `next` are stored and synced. Returns whether the maintenance thread has to wake up.
    pub(super) fn note_synced(&mut self, next: Sequence) -> bool {
        let had_changes = self.is_changed();
        self.synced = Some(Snapshot {
            values: self.current.clone(),
            next,
        });
        !had_changes && self.is_changed()
    }

    /// Returns whether values that may be saved differ from those on the disk.
    fn is_changed(&self) -> bool {
        match (&self.synced, &self.saved) {
            (None, _) => false,
            (Some(synced), None) => self.is_used || !synced.values.map().is_empty(),
            (Some(synced), Some(saved)) => !synced.values.is_same(&saved.values),
        }
    }

    /// Returns whether the values on the disk are older, or cover fewer records.
    fn is_behind(&self) -> bool {
        self.is_changed()
            || self
                .synced
                .as_ref()
                .zip(self.saved.as_ref())
                .is_some_and(|(synced, saved)| synced.next > saved.next)
    }

    /// Returns the time of the next save; `None` if there is nothing to save.
    pub(super) fn due(&self) -> Option<Instant> {
        let interval = if self.is_changed() {
            SAVE_INTERVAL
        } else {
            REFRESH_INTERVAL
        };
        self.is_behind().then(|| self.saved_at + interval)
    }

    pub(super) fn is_due(&self) -> bool {
        self.due().is_some_and(|due| due <= Instant::now())
    }
}

impl Shared {
    /// Saves the values if they are due.
    pub(super) fn save_due_resume(&self) -> Result<(), DiskError> {
        self.save_resume(ResumeState::is_due)
    }

    /// Saves changed values before segments are deleted: after a crash their events could not be read.
    pub(super) fn save_changed_resume(&self) -> Result<(), DiskError> {
        self.save_resume(ResumeState::is_changed)
    }

    /// Saves the values at an orderly stop.
    pub(super) fn save_last_resume(&self) {
        if let Err(error) = retry_briefly(|| self.save_resume(ResumeState::is_behind)) {
            warn!(%error, cause = %error.source, "resume values cannot be saved; the next start reads them from the records");
        }
    }

    fn save_resume(&self, is_wanted: impl Fn(&ResumeState) -> bool) -> Result<(), DiskError> {
        let mut file = lock(&self.resume_file);
        let snapshot = {
            let state = self.lock();
            let wanted = Some(&state.resume).filter(|resume| is_wanted(resume));
            wanted.and_then(|resume| resume.synced.clone())
        };
        let Some(snapshot) = snapshot else {
            return Ok(());
        };
        file.save(&snapshot)?;
        let resume = &mut self.lock().resume;
        resume.saved = Some(snapshot);
        resume.saved_at = Instant::now();
        Ok(())
    }
}

/// Recovers for each source in `paths` the value of its last stored event. Must be called before the threads start, because
/// they may delete records.
pub(super) fn recover(shared: &Shared, paths: &ResumePaths) -> Result<(), DiskError> {
    if paths.is_empty() {
        return Ok(());
    }
    let end = shared.lock().next;
    let stored = resume_file::read(&shared.folder, shared.id)?;
    let path = shared.folder.join(resume_file::NAME);
    let file = path.display();
    let (saved, covered) = match stored {
        Stored::Missing => (None, Sequence::FIRST),
        Stored::Values {
            slot,
            slot_length,
            damage,
        } => {
            lock(&shared.resume_file).adopt(&slot, slot_length);
            if let Some(error) = damage {
                warn!(
                    %file,
                    %error,
                    "one of the two copies of the resume values is damaged; if it was the newer one, events may be received again"
                );
            }
            let saved = Snapshot {
                values: Values::new(slot.values),
                next: slot.next,
            };
            if saved.next > end {
                warn!(
                    %file,
                    events = saved.next.since(end),
                    "the resume values are ahead of the spool, whose end is missing; each source continues after its last event \
                     in the spool, if there is one"
                );
                (Some(saved), Sequence::FIRST)
            } else {
                let covered = saved.next;
                (Some(saved), covered)
            }
        }
        Stored::Foreign => {
            warn!(
                %file,
                "the resume values belong to another spool; each source continues after its last event in the spool"
            );
            (None, Sequence::FIRST)
        }
        Stored::Damaged(error) => {
            warn!(
                %file,
                %error,
                "the resume values cannot be read; each source continues after its last event in the spool"
            );
            (None, Sequence::FIRST)
        }
    };
    let mut values = saved
        .as_ref()
        .map(|saved| saved.values.clone())
        .unwrap_or_default();
    values.retain(paths);
    read_records(shared, paths, covered, end, &mut values)?;
    // Values may be saved only after their events are synced, and a crash of the process may have left unsynced events.
    let last = shared.lock().segments.back().map(|last| last.path.clone());
    if let Some(path) = last {
        let file = File::open(&path).map_err(DiskError::of("open", &path))?;
        files::sync(&file, &path)?;
    }
    let mut state = shared.lock();
    state.resume.current = values;
    // Values that are ahead of the log are replaced as soon as possible.
    state.resume.saved = saved.filter(|saved| saved.next <= end);
    state.resume.is_used = true;
    state.resume.note_synced(end);
    Ok(())
}

/// Sets each value from the newest record of its source, but reads no record before `from`. Reads backwards in steps, until
/// each source has a value.
fn read_records(
    shared: &Shared,
    paths: &ResumePaths,
    from: Sequence,
    end: Sequence,
    values: &mut Values,
) -> Result<(), DiskError> {
    let readable = paths.iter().filter(|(_, path)| path.is_some());
    let mut missing: BTreeSet<&str> = readable.map(|(source, _)| source.as_str()).collect();
    let oldest = from.max(shared.lock().oldest());
    let (mut stop, mut step) = (end, FIRST_STEP);
    while stop > oldest && !missing.is_empty() {
        let start = Sequence::new(stop.get().saturating_sub(step))
            .unwrap_or(oldest)
            .max(oldest);
        let mut found = Values::default();
        let read = read_range(shared, start, stop, |event| {
            if missing.contains(event.source)
                && let Some(Some(path)) = paths.get(event.source)
            {
                found.read(event, path);
            }
        });
        for (source, value) in found.map() {
            values.set(source, value);
            missing.remove(&**source);
        }
        if let Err(error) = read {
            let error = DiskError::of("read", &shared.folder)(error);
            if error.is_retryable() {
                return Err(error);
            }
            // The log opens and reports the damage where a sink reads it. An older value only causes duplicates.
            warn!(
                %error,
                cause = %error.source,
                "resume values cannot be read from the spool; sources may continue at an earlier event and receive events again"
            );
            return Ok(());
        }
        (stop, step) = (start, step.saturating_mul(4));
    }
    Ok(())
}

fn read_range(
    shared: &Shared,
    mut next: Sequence,
    stop: Sequence,
    mut each: impl FnMut(&Event<'_>),
) -> io::Result<()> {
    let mut walk = Walk::default();
    while next < stop {
        match walk.find(shared, next)? {
            Found::Events(batch) => {
                let events = batch.iter().filter_map(Result::ok);
                events
                    .take_while(|event| event.sequence < stop)
                    .for_each(|event| each(&event));
                next = batch.end();
            }
            Found::Dropped { oldest: after } | Found::Damaged { next: after } => next = after,
            Found::Nothing => break,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(number: u64) -> Sequence {
        Sequence::new(number).unwrap()
    }

    #[test]
    fn value_is_saved_only_after_its_event_is_synced() {
        let mut state = ResumeState::new();
        state.note_synced(sequence(1));
        assert_eq!(state.due(), None, "nothing is saved without a value");
        state.current_mut().set("feed", "1");
        assert_eq!(state.due(), None);
        assert!(
            state.note_synced(sequence(2)),
            "the maintenance thread waits until it is due"
        );
        assert_eq!(state.due(), Some(state.saved_at + SAVE_INTERVAL));
        state.current_mut().set("feed", "2");
        let synced = state.synced.clone().unwrap();
        assert_eq!(synced.values.get("feed").as_deref(), Some("1"));
        state.saved = Some(synced);
        assert_eq!(state.due(), None);
        assert!(state.note_synced(sequence(3)));
        assert!(!state.note_synced(sequence(4)));
        state.saved.clone_from(&state.synced);
        assert!(!state.note_synced(sequence(5)));
        assert_eq!(state.due(), Some(state.saved_at + REFRESH_INTERVAL));
    }
}
