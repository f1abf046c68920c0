//! Compares the existing lines of a file with the lines of resent events, so that each event is written once.
//!
//! After a kill the cursor may be before the end of the file. The lines after the cursor's position are compared with the
//! lines of the resent events: equal lines count as written. Nothing is truncated: a different line stays, because the spool
//! may no longer contain its event (an older copy of the spool was restored), and writing continues after that line.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, ErrorKind},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use tracing::warn;

use crate::{
    error::FileError,
    position::{Position, Tail},
};

/// A position in the files that moves forward while the next line equals the line of the next resent event.
pub(crate) struct Resumed {
    /// The file of the position and all younger files, oldest first; the active file last.
    paths: VecDeque<PathBuf>,
    file: File,
    length: u64,
    offset: u64,
    lines: u64,
}

impl Resumed {
    /// Starts at a position. Returns `None` if no byte follows it.
    pub(crate) fn new(paths: VecDeque<PathBuf>, position: &Position) -> Result<Option<Self>, FileError> {
        let Some((file, length)) = paths.front().map(|path| open(path)).transpose()?.flatten() else {
            return Ok(None);
        };
        let mut resumed = Self {
            paths,
            file,
            length,
            offset: position.offset,
            lines: position.lines,
        };
        Ok(resumed.is_before_line()?.then_some(resumed))
    }

    /// Returns how many bytes of `lines` (whole lines) exist already, and moves the position after them.
    pub(crate) fn skip(&mut self, lines: &[u8]) -> Result<usize, FileError> {
        let mut skipped = 0;
        while skipped < lines.len() && self.is_before_line()? {
            let rest = &lines[skipped..];
            let count = rest
                .len()
                .min(usize::try_from(self.length - self.offset).unwrap_or(usize::MAX));
            let mut there = vec![0; count];
            self.read(&mut there)?;
            let common = there
                .iter()
                .zip(rest)
                .take_while(|(one, other)| one == other)
                .count();
            let whole = there[..common]
                .iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(0, |at| at + 1);
            self.lines += count_breaks(&there[..whole]);
            self.offset += whole as u64;
            skipped += whole;
            if whole < count {
                break;
            }
        }
        Ok(skipped)
    }

    /// Returns whether a byte follows the position. At the end of a file, moves the position to the next younger one.
    fn is_before_line(&mut self) -> Result<bool, FileError> {
        while self.offset >= self.length {
            if self.paths.len() < 2 {
                return Ok(false);
            }
            self.paths.pop_front();
            let next = self.paths.front().map(|path| open(path)).transpose()?.flatten();
            // A file that was removed meanwhile has no line to compare.
            let Some((file, length)) = next else { continue };
            (self.file, self.length, self.offset, self.lines) = (file, length, 0, 0);
        }
        Ok(true)
    }

    /// Ends the comparison, and warns of the lines after the position, which stay.
    pub(crate) fn end(mut self) -> Result<(), FileError> {
        let lines = self.count_rest()?;
        if lines > 0 {
            warn!(
                path = %self.path().display(),
                lines,
                "the file has lines after the sink's cursor whose events the spool does not contain, probably because the spool \
                 was restored from an older copy; the lines stay, and new lines are appended after them"
            );
        }
        Ok(())
    }

    /// Returns the number of lines after the position, and moves the position to the end.
    fn count_rest(&mut self) -> Result<u64, FileError> {
        let mut count = 0;
        while self.is_before_line()? {
            count += count_lines(&self.file, self.offset, self.length)
                .map_err(FileError::io("read", self.path()))?;
            self.offset = self.length;
        }
        Ok(count)
    }

    /// Returns the position, to be stored with the cursor.
    pub(crate) fn position(&self, lineage: &str, written_at: Timestamp) -> io::Result<Position> {
        Ok(Position {
            file: name_of(self.path()),
            inode: self.file.metadata()?.ino(),
            offset: self.offset,
            tail: Tail::read(&self.file, self.offset)?.hash(),
            lineage: lineage.to_owned(),
            lines: self.lines,
            written_at,
        })
    }

    /// Returns the open file of the position.
    pub(crate) const fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn path(&self) -> &Path {
        self.paths.front().map_or(Path::new(""), PathBuf::as_path)
    }

    /// Updates the path of a file that was renamed.
    pub(crate) fn renamed(&mut self, from: &Path, to: &Path) {
        for path in &mut self.paths {
            if path == from {
                to.clone_into(path);
            }
        }
    }

    fn read(&self, bytes: &mut [u8]) -> Result<(), FileError> {
        self.file
            .read_exact_at(bytes, self.offset)
            .map_err(FileError::io("read", self.path()))
    }
}

/// Opens a file and returns its length; `None` if the file does not exist.
fn open(path: &Path) -> Result<Option<(File, u64)>, FileError> {
    let opened = File::open(path).and_then(|file| {
        let length = file.metadata()?.len();
        Ok((file, length))
    });
    match opened {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some).map_err(FileError::io("open", path)),
    }
}

pub(crate) fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Returns the number of line breaks between two offsets.
pub(crate) fn count_lines(file: &File, mut from: u64, to: u64) -> io::Result<u64> {
    let mut chunk = vec![0; 64 * 1024];
    let mut count = 0;
    while from < to {
        let length = chunk.len().min(usize::try_from(to - from).unwrap_or(usize::MAX));
        file.read_exact_at(&mut chunk[..length], from)?;
        count += count_breaks(&chunk[..length]);
        from += length as u64;
    }
    Ok(count)
}

pub(crate) fn count_breaks(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}
