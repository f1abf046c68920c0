//! The thread that does what need not hold up events: saves cursors, deletes segments, and makes the next one.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use neurobridge_core::reader::Cursor;
use tracing::{debug, error, warn};

use super::{
    Shared,
    cursor::CursorFile,
    files::{self, DiskError},
    shortened,
    state::{Ahead, State},
};

/// The name of a segment that was made before it is needed.
pub(super) const AHEAD: &str = "ahead.tmp";

/// A cursor is saved at most so often: what a crash makes a sink send again.
const SAVE_INTERVAL: Duration = shortened(Duration::from_millis(100));
/// How long after an error for want of room.
const FULL_INTERVAL: Duration = shortened(Duration::from_secs(1));

/// Runs until the log is told to stop; then saves what is unsaved.
pub(super) fn run(shared: Arc<Shared>) {
    loop {
        let mut state = shared.lock();
        while !state.is_stopping && !has_work(&state) {
            state.keeper_sleeps = true;
            state = shared.wait_long(&shared.chores, state);
            state.keeper_sleeps = false;
        }
        let is_stopping = state.is_stopping;
        drop(state);
        let (pause, is_stuck) = match work(&shared, is_stopping) {
            Ok(()) => (SAVE_INTERVAL, false),
            Err(error) if error.is_full() => {
                warn!(%error, cause = %error.source, "cursors wait for room on the disk");
                (FULL_INTERVAL, true)
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
            .any(|reader| reader.is_known && reader.saved != Some(reader.cursor.next))
}

fn work(shared: &Shared, is_stopping: bool) -> Result<(), DiskError> {
    shared.save_cursors(|_| true)?;
    shared.trim()?;
    if !is_stopping {
        make_ahead(shared)?;
    }
    Ok(())
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
    let file = match made {
        Err(error) if error.is_full() => {
            files::remove(&path)?;
            shared.lock().ahead = Ahead::None;
            return Ok(());
        }
        made => made?,
    };
    shared.lock().ahead = Ahead::Ready { file, length };
    Ok(())
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
            .filter(|(_, reader)| reader.is_known && reader.saved != Some(reader.cursor.next))
            .filter(|(_, reader)| which(reader.saved.is_some()))
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
            let mut state = self.lock();
            if let Some(reader) = state.readers.get_mut(&name) {
                // One that can't be kept is not tried again, and moves nothing.
                let saved = if kept {
                    cursor.next
                } else {
                    reader.saved.unwrap_or(cursor.first)
                };
                reader.saved = reader.saved.max(Some(saved));
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
        while let Some(segment) = state.take_settled(self.options.retain) {
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
