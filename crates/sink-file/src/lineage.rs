//! What a writer notes in the lock file: which unbroken line of writers it belongs to, and where that line began.
//!
//! Writers that continued from each other's position share a lineage. One without a position begins a new one, so that nobody
//! with an older position compares his events with its lines.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::Path,
};

use neurobridge_core::event::Sequence;
use serde::{Deserialize, Serialize};

use crate::{error::FileError, folder, position::Position};

/// More than a note has, whatever the file's name.
const MOST_BYTES: u64 = 4096;

/// The content of the lock file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lineage {
    /// Unique among all writers of the file; empty before the first one.
    pub(crate) name: String,
    pub(crate) start: Option<Start>,
}

/// Where a lineage began. A process that was killed before it could keep a position with the cursor is found again by it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Start {
    /// The first event.
    pub(crate) next: Sequence,
    /// The place of its line.
    pub(crate) position: Position,
}

impl Lineage {
    pub(crate) fn read(lock: &mut File, path: &Path) -> Result<Self, FileError> {
        let mut text = String::new();
        lock.seek(SeekFrom::Start(0))
            .and_then(|_| Read::by_ref(lock).take(MOST_BYTES).read_to_string(&mut text))
            .map_err(FileError::io("read", path))?;
        let mut lines = text.lines();
        // A torn text is that of no lineage, which is safe.
        Ok(Self {
            name: lines.next().unwrap_or_default().to_owned(),
            start: lines.next().and_then(|line| serde_json::from_str(line).ok()),
        })
    }

    /// Notes the lineage durably: before the first line of it is written.
    pub(crate) fn write(&self, lock: &File, path: &Path) -> Result<(), FileError> {
        let start = self.start.as_ref().map(serde_json::to_string);
        let start = start.and_then(Result::ok).unwrap_or_default();
        lock.set_len(0)
            .and_then(|()| lock.write_all_at(format!("{}\n{start}\n", self.name).as_bytes(), 0))
            .map_err(FileError::io("write to", path))?;
        folder::sync_file(lock, path)
    }
}
