//! The readers that a log knows when it is opened: those with a cursor on the disk, and those that have lost their cursor.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex},
};

use neurobridge_core::{event::Sequence, reader::Cursor};
use tracing::warn;

use super::{
    Shared,
    cursor::{self, CursorFile, Stored},
    files::DiskError,
    lock,
    registry::{FileState, Registry},
    state::{CursorDamage, ReaderState},
};

/// Reads the cursors and registers their readers. A reader whose cursor is lost starts with the oldest record.
pub(super) fn recover(
    shared: &Shared,
    cursors: &Path,
    end: Sequence,
) -> Result<BTreeMap<String, ReaderState>, DiskError> {
    let oldest = shared.lock().segments.front().map_or(end, |first| first.first);
    let mut registry = lock(&shared.registry);
    if registry.state() == FileState::Damaged {
        warn!(
            folder = %shared.folder.display(),
            "the file \"readers\" with the names of known sinks is damaged; a sink without a cursor counts as known and starts \
             from the oldest record in the spool"
        );
    }
    let mut names: BTreeSet<String> = registry.names().cloned().collect();
    names.extend(cursor::list(cursors)?.into_iter().map(|(name, _)| name));
    let mut readers = BTreeMap::new();
    for name in names {
        let path = cursors.join(cursor::file_name(&name));
        let (slot, damage) = match cursor::read(&path, shared.id)? {
            Stored::Cursor { slot, damage } => {
                let damage = damage.map(|error| CursorDamage {
                    reason: error.to_string(),
                    has_older: true,
                });
                (Some(slot), damage)
            }
            stored => match loss(&stored, &registry, &name, oldest < end) {
                Some(reason) => {
                    let damage = CursorDamage {
                        reason,
                        has_older: false,
                    };
                    (None, Some(damage))
                }
                None => continue,
            },
        };
        let reader = ReaderState {
            saved: slot.as_ref().map(|slot| slot.cursor.next),
            file: Arc::new(Mutex::new(CursorFile::new(path, shared.id, slot.as_ref()))),
            cursor: slot.map_or_else(|| Cursor::starting_at(oldest), |slot| slot.cursor),
            is_registered: registry.contains(&name),
            damage,
            is_opened: false,
            retains: true,
        };
        readers.insert(name, reader);
    }
    match registry.add(readers.keys().map(String::as_str)) {
        Ok(()) => readers
            .values_mut()
            .for_each(|reader| reader.is_registered = true),
        // The readers are registered later, when their cursors are saved and before the first event is stored.
        Err(error) if error.is_retryable() => {}
        Err(error) => return Err(error),
    }
    Ok(readers)
}

/// Returns why a reader without a readable cursor counts as an existing one; `None` for a new reader.
pub(crate) fn loss(stored: &Stored, registry: &Registry, name: &str, has_records: bool) -> Option<String> {
    let reason = match stored {
        Stored::Cursor { .. } => return None,
        Stored::Damaged(error) => return Some(error.to_string()),
        Stored::Missing => "the file is missing",
        Stored::Empty => "the file is empty",
        Stored::Foreign => "the cursor belongs to another spool",
    };
    let ran = match registry.state() {
        _ if registry.contains(name) => true,
        FileState::Whole => false,
        FileState::Damaged => true,
        // The registry is lost. An empty file was left by a crash before the first save, or was truncated: delivering the
        // stored events again is the safe choice.
        FileState::Missing => *stored == Stored::Empty && has_records,
    };
    ran.then(|| reason.to_owned())
}
