//! The maintenance thread: saves cursors and resume values, deletes segments, and preallocates the next one, so that none of this delays
//! events.

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

/// The file name of the preallocated segment.
pub(super) const AHEAD: &str = "ahead.tmp";

/// The minimum time between two saves of a cursor: it bounds the events that a sink sends again after a crash.
const SAVE_INTERVAL: Duration = shortened(Duration::from_millis(100));
/// The delay after a temporary error.
const RETRY_INTERVAL: Duration = shortened(Duration::from_secs(1));
/// The interval of the work without a wake-up: events expire, and folders are removed, also on a quiet feed.
const TICK: Duration = shortened(Duration::from_secs(5));
/// The retention of copies of unreadable bytes. They may contain personal data; an operator has a week to inspect them.
const DAMAGED_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Runs until the log is closed; then saves the unsaved cursors.
pub(super) fn run(shared: Arc<Shared>) {
    let mut was_stuck = false;
    loop {
        let mut state = shared.lock();
        let tick = Instant::now() + TICK;
        let tick = state.shortage.end().map_or(tick, |end| tick.min(end));
        while !state.is_stopping && !has_work(&state) {
            let wake = state.resume.due().map_or(tick, |due| tick.min(due));
            let left = wake.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state.maintenance_sleeps = true;
            state = shared.wait(&shared.chores, state, left);
            state.maintenance_sleeps = false;
        }
        let is_stopping = state.is_stopping;
        state.shortage.log_end(is_stopping);
        drop(state);
        let worked = if is_stopping {
            briefly(|| work(&shared, true))
        } else {
            work(&shared, false)
        };
        let (pause, is_stuck) = match worked {
            Ok(()) => {
                if was_stuck {
                    info!("cursors and resume values are saved again");
                }
                (SAVE_INTERVAL, false)
            }
            Err(error) if error.may_pass() => {
                if !was_stuck {
                    warn!(%error, cause = %error.source, "cursors or resume values cannot be saved now; retrying");
                }
                (RETRY_INTERVAL, true)
            }
            Err(error) => {
                // Events on the disk are still delivered; the positions of the sinks are no longer saved.
                shared.fail(error);
                return;
            }
        };
        if is_stopping {
            return;
        }
        was_stuck = is_stuck;
        let mut state = shared.lock();
        // A full log waits for the segments that this thread deletes; if deletion fails, retrying faster does not help.
        if !state.is_stopping && (is_stuck || !state.is_full) {
            state = shared.wait(&shared.chores, state, pause);
        }
        drop(state);
    }
}

fn has_work(state: &State) -> bool {
    matches!(state.ahead, Ahead::Wanted)
        || state.resume.is_due()
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
    // Without space for the values everything else continues.
    let resumed = shared.save_due_resume();
    shared.trim()?;
    if !is_stopping {
        make_ahead(shared)?;
        shared.remove_old_copies(DAMAGED_AGE);
    }
    resumed
}

/// Fails if the log's folder was removed or replaced: data written to the open files would be lost at the end of the
/// process.
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

/// Preallocates the next segment, so that the writer does not wait for it. Not beyond the limit, and not if it would use the
/// last free space: then the writer creates the segment when it needs it.
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

    /// Saves the cursors that have moved, of the readers for which `which` returns true; its argument is whether the cursor
    /// was saved before.
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
                    "cursor note too long and not saved; events are sent again after a restart"
                );
            }
            // After the cursor: a reader in the registry without a cursor counts as one that has lost it.
            if kept {
                super::lock(&self.registry).add([&*name])?;
            }
            let mut state = self.lock();
            if let Some(reader) = state.readers.get_mut(&name) {
                // A cursor that cannot be saved is not retried, and the saved position does not advance.
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

    /// Deletes the segments that every reader has settled and that are older than `retain`.
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
