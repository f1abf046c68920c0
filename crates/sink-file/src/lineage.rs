//! The lineage of a file, stored in its lock file: a sequence of writers of which each one resumed at the position that the
//! previous one had stored.
//!
//! A writer without a stored position begins a new lineage. A position of an earlier lineage is then invalid: a writer that
//! resumed at it would compare its events with the lines of the new lineage, which belong to other events.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::Path,
};

use neurobridge_core::event::Sequence;
use serde::{Deserialize, Serialize};

use crate::{error::FileError, folder, position::Position};

/// The number of bytes that are read from the lock file; every lineage is shorter.
const MAX_BYTES: u64 = 4096;

/// The content of the lock file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lineage {
    /// The name of the lineage, unique among the lineages of the file; empty before the first writer.
    pub(crate) name: String,
    pub(crate) start: Option<Start>,
}

/// The start of a lineage. If a process is killed before it stores a position with the cursor, the next process resumes at
/// this start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Start {
    /// The sequence of the first event.
    pub(crate) next: Sequence,
    /// The position of the first line.
    pub(crate) position: Position,
}

impl Lineage {
    pub(crate) fn read(lock: &mut File, path: &Path) -> Result<Self, FileError> {
        let mut text = String::new();
        lock.seek(SeekFrom::Start(0))
            .and_then(|_| Read::by_ref(lock).take(MAX_BYTES).read_to_string(&mut text))
            .map_err(FileError::io("read", path))?;
        let mut lines = text.lines();
        // A name that was written only in part equals that of no stored position, so the writer begins a new lineage.
        Ok(Self {
            name: lines.next().unwrap_or_default().to_owned(),
            start: lines.next().and_then(|line| serde_json::from_str(line).ok()),
        })
    }

    /// Writes the lineage durably, before the first line of the lineage is written.
    pub(crate) fn write(&self, lock: &File, path: &Path) -> Result<(), FileError> {
        let start = self.start.as_ref().map(serde_json::to_string);
        let start = start.and_then(Result::ok).unwrap_or_default();
        lock.set_len(0)
            .and_then(|()| lock.write_all_at(format!("{}\n{start}\n", self.name).as_bytes(), 0))
            .map_err(FileError::io("write to", path))?;
        folder::sync_file(lock, path)
    }
}
