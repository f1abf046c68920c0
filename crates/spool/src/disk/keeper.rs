//! The thread that does what need not hold up events: saves cursors, deletes segments, and makes the next one.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use neurobridge_core::reader::Cursor;
use tracing::{debug, error, info, warn};

use super::{
    Shared,
    cursor::CursorFile,
    files::{self, DiskError},
    retry::briefly,
    shortened,
    state::{Ahead, State},
};

/// The name of a segment that was made before it is needed.
pub(super) const AHEAD: &str = "ahead.tmp";

/// A cursor is saved at most so often: what a crash makes a sink send again.
const SAVE_INTERVAL: Duration = shortened(Duration::from_millis(100));
/// How long after an error that may pass.
const RETRY_INTERVAL: Duration = shortened(Duration::from_secs(1));
/// How often it works without being woken: events grow too old, and folders are removed, on a quiet feed as well.
const TICK: Duration = shortened(Duration::from_secs(5));
/// For how long copies of bytes that can't be read are kept. They may hold personal data; an operator has a week to look.
const DAMAGED_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Runs until the log is told to stop; then saves what is unsaved.
pub(super) fn run(shared: Arc<Shared>) {
    let mut was_stuck = false;
    loop {
        let mut state = shared.lock();
        let tick = Instant::now() + TICK;
        while !state.is_stopping && !has_work(&state) {
            let left = tick.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state.keeper_sleeps = true;
            state = shared.wait(&shared.chores, state, left);
            state.keeper_sleeps = false;
        }
        let is_stopping = state.is_stopping;
        drop(state);
        let worked = if is_stopping {
            briefly(|| work(&shared, true))
        } else {
            work(&shared, false)
        };
        let (pause, is_stuck) = match worked {
            Ok(()) => {
                if was_stuck {
                    info!("cursors are saved again");
                }
                (SAVE_INTERVAL, false)
            }
            Err(error) if error.may_pass() => {
                if !was_stuck {
                    warn!(%error, cause = %error.source, "cursors can't be saved now; retrying");
                }
                (RETRY_INTERVAL, true)
            }
            Err(error) => {
                // Events that are on the disk are still delivered; where the sinks stand is not kept any more.
                shared.fail(error);
                return;
            }
        };
        if is_stopping {
            return;
        }
        was_stuck = is_stuck;
        let mut state = shared.lock();
        // A full log waits for what the keeper deletes; where it can't, to hurry helps nobody.
        if !state.is_stopping && (is_stuck || !state.is_full) {
            state = shared.wait(&shared.chores, state, pause);
        }
        drop(state);
    }
}

fn has_work(state: &State) -> bool {
    matches!(state.ahead, Ahead::Wanted)
        || state
            .readers
            .values()
            .any(|reader| reader.is_known && !(reader.is_kept() && reader.saved == Some(reader.cursor.next)))
}

fn work(shared: &Shared, is_stopping: bool) -> Result<(), DiskError> {
    if !is_stopping {
        expect_folder(shared)?;
    }
    shared.save_cursors(|_| true)?;
    shared.trim()?;
    if !is_stopping {
        make_ahead(shared)?;
        shared.remove_old_copies(DAMAGED_AGE);
    }
    Ok(())
}

/// Fails when the log's folder was removed or replaced: what is written to open files would be lost at the end of the process.
fn expect_folder(shared: &Shared) -> Result<(), DiskError> {
    let error = match files::folder_identity(&shared.folder) {
        Ok(identity) if identity == shared.identity => return Ok(()),
        Ok(_) => io::Error::new(
            io::ErrorKind::NotFound,
            "another folder has taken its place; the events in the former one are not delivered",
        ),
        Err(error) => error,
    };
    Err(DiskError::of("find the folder", &shared.folder)(error))
}

/// Makes the next segment's file, so that the writer need not wait for it. Not beyond the limit, and not where it would
/// take the last room: the writer tries again when it needs one.
fn make_ahead(shared: &Shared) -> Result<(), DiskError> {
    let length = shared.options.segment_size;
    {
        let mut state = shared.lock();
        if !matches!(state.ahead, Ahead::Wanted) {
            return Ok(());
        }
        if state.size() + length > shared.options.max_size {
            state.ahead = Ahead::None;
            return Ok(());
        }
        state.ahead = Ahead::Making { length };
    }
    let path = shared.folder.join(AHEAD);
    let made = files::create(&path).and_then(|file| {
        files::reserve(&file, &path, length)?;
        files::sync(&file, &path)?;
        Ok(file)
    });
    match made {
        Ok(file) => {
            shared.lock().ahead = Ahead::Ready { file, length };
            Ok(())
        }
        Err(error) => {
            shared.lock().ahead = Ahead::None;
            if error.may_pass() {
                files::remove(&path)
            } else {
                Err(error)
            }
        }
    }
}

impl Shared {
    /// Saves the first cursors of new readers.
    pub(super) fn save_new_cursors(&self) -> Result<(), DiskError> {
        self.save_cursors(|saved| !saved)
    }

    /// Saves cursors that have moved, of those readers for which `which` holds: it is told whether one was saved before.
    fn save_cursors(&self, which: impl Fn(bool) -> bool) -> Result<(), DiskError> {
        let unsaved: Vec<(String, Cursor, Arc<Mutex<CursorFile>>)> = self
            .lock()
            .readers
            .iter()
            .filter(|(_, reader)| {
                reader.is_known && !(reader.is_kept() && reader.saved == Some(reader.cursor.next))
            })
            .filter(|(_, reader)| which(reader.is_kept()))
            .map(|(name, reader)| (name.clone(), reader.cursor.clone(), Arc::clone(&reader.file)))
            .collect();
        for (name, cursor, file) in unsaved {
            let kept = super::lock(&file).save(&cursor)?;
            if !kept {
                error!(
                    reader = name,
                    next = cursor.next.get(),
                    "the cursor's note is too long to be kept; after a restart events are sent again"
                );
            }
            // After its cursor: a reader that the registry names and that has no cursor has lost it.
            if kept {
                super::lock(&self.registry).add([&*name])?;
            }
            let mut state = self.lock();
            if let Some(reader) = state.readers.get_mut(&name) {
                // One that can't be kept is not tried again, and moves nothing.
                let saved = if kept {
                    cursor.next
                } else {
                    reader.saved.unwrap_or(cursor.first)
                };
                reader.saved = reader.saved.max(Some(saved));
                reader.is_registered = true;
                if !kept {
                    reader.cursor = Cursor {
                        next: saved,
                        ..cursor
                    };
                }
            }
        }
        Ok(())
    }

    /// Deletes what every reader has settled, once it is older than `retain`.
    fn trim(&self) -> Result<(), DiskError> {
        let mut settled = VecDeque::new();
        let mut state = self.lock();
        while let Some(segment) = state.take_settled(self.options.retain, self.options.segment_age) {
            settled.push_back(segment);
        }
        drop(state);
        if settled.is_empty() {
            return Ok(());
        }
        debug!(segments = settled.len(), "settled segments are deleted");
        self.remove(settled)?;
        self.work.notify_all();
        Ok(())
    }
}
