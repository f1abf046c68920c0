//! The maintenance thread: saves cursors and resume values, deletes segments, and preallocates the next one, so that none
//! of this delays events.

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
    retry::retry_briefly,
    shortened,
    state::{Preallocated, State},
};

/// The file name of the preallocated segment.
pub(super) const PREALLOCATED: &str = "ahead.tmp";

/// The minimum time between two saves of a cursor: it bounds the events that a sink sends again after a crash.
const SAVE_INTERVAL: Duration = shortened(Duration::from_millis(100));
/// The delay after a temporary error.
const RETRY_INTERVAL: Duration = shortened(Duration::from_secs(1));
/// The maximum interval of the work: also on a quiet feed, which causes no wake-up, events expire and the folder may be
/// removed.
const TICK: Duration = shortened(Duration::from_secs(5));
/// The retention of copies of unreadable bytes. They may contain personal data; an operator has a week to inspect them.
const DAMAGED_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Runs until the log is closed; then saves the unsaved cursors.
pub(super) fn run(shared: Arc<Shared>) {
    let mut was_retrying = false;
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
            state = shared.wait(&shared.maintenance_condvar, state, left);
            state.maintenance_sleeps = false;
        }
        let is_stopping = state.is_stopping;
        state.shortage.log_end(is_stopping);
        drop(state);
        let worked = if is_stopping {
            retry_briefly(|| work(&shared, true))
        } else {
            work(&shared, false)
        };
        let (pause, is_retrying) = match worked {
            Ok(()) => {
                if was_retrying {
                    info!("cursors and resume values are saved again");
                }
                (SAVE_INTERVAL, false)
            }
            Err(error) if error.is_retryable() => {
                if !was_retrying {
                    warn!(
                        %error,
                        cause = %error.source,
                        "cursors or resume values cannot be saved now; retrying; after a crash before the next save, events are \
                         sent or received again"
                    );
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
        was_retrying = is_retrying;
        let mut state = shared.lock();
        // A full log waits for the segments that this thread deletes; if deletion fails, retrying faster does not help.
        if !state.is_stopping && (is_retrying || !state.is_full) {
            state = shared.wait(&shared.maintenance_condvar, state, pause);
        }
        drop(state);
    }
}

fn has_work(state: &State) -> bool {
    matches!(state.preallocated, Preallocated::Wanted)
        || state.resume.is_due()
        || state.readers.values().any(|reader| {
            reader.is_opened && !(reader.is_on_disk() && reader.saved == Some(reader.cursor.next))
        })
}

fn work(shared: &Shared, is_stopping: bool) -> Result<(), DiskError> {
    if !is_stopping {
        expect_folder(shared)?;
    }
    shared.save_cursors(|_| true)?;
    // An error, such as a full disk, must not prevent the other work, so it is returned at the end.
    let resumed = shared.save_due_resume();
    shared.trim()?;
    if !is_stopping {
        preallocate(shared)?;
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
            "another folder is now at this path; the events in the former folder are not delivered",
        ),
        Err(error) => error,
    };
    Err(DiskError::of("find the folder", &shared.folder)(error))
}

/// Preallocates the next segment, if it is wanted, so that the writer does not wait for it. If the limit of the log or the disk
/// has no space for the segment, the writer creates it when it needs it.
fn preallocate(shared: &Shared) -> Result<(), DiskError> {
    let length = shared.options.segment_size;
    {
        let mut state = shared.lock();
        if !matches!(state.preallocated, Preallocated::Wanted) {
            return Ok(());
        }
        if state.size() + length > shared.options.max_size {
            state.preallocated = Preallocated::None;
            return Ok(());
        }
        state.preallocated = Preallocated::Making { length };
    }
    let path = shared.folder.join(PREALLOCATED);
    let made = files::create(&path).and_then(|file| {
        files::reserve(&file, &path, length)?;
        files::sync(&file, &path)?;
        Ok(file)
    });
    match made {
        Ok(file) => {
            shared.lock().preallocated = Preallocated::Ready { file, length };
            Ok(())
        }
        Err(error) => {
            shared.lock().preallocated = Preallocated::None;
            if error.is_retryable() {
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
                reader.is_opened && !(reader.is_on_disk() && reader.saved == Some(reader.cursor.next))
            })
            .filter(|(_, reader)| which(reader.is_on_disk()))
            .map(|(name, reader)| (name.clone(), reader.cursor.clone(), Arc::clone(&reader.file)))
            .collect();
        for (name, cursor, file) in unsaved {
            let kept = super::lock(&file).save(&cursor)?;
            if !kept {
                error!(
                    reader = name,
                    next = cursor.next.get(),
                    "the cursor is not saved, because the data that the sink stores in it is too long; after a restart the \
                     events since the last saved cursor are sent again"
                );
            }
            // After the cursor is saved: a registered reader without a cursor counts as a reader whose cursor was lost.
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
        self.writer_condvar.notify_all();
        Ok(())
    }
}
