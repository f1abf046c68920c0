//! A segment: one file of the log, named by the sequence of its first record.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Instant,
};

use jiff::Timestamp;
use neurobridge_core::event::Sequence;

use super::files::DiskError;
use crate::format::{FormatError, HEADER_LENGTH, SegmentHeader};

/// The suffix of the name of a segment.
const EXTENSION: &str = "segment";
/// The minimum distance in bytes between two indexed records of a segment, and about the maximum that is read to find a record.
const INDEX_STEP: u64 = 256 << 10;

/// The state of a segment.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    pub(crate) first: Sequence,
    /// The offset of the end of the durable records.
    pub(crate) length: u64,
    /// The allocated bytes on the disk: more than the length while the segment is written.
    pub(crate) allocated: u64,
    /// The time of receipt of the first record; `None` if the header is damaged.
    pub(crate) begins_at: Option<Timestamp>,
    /// The monotonic time at which this process created or found the segment, after the receipt of its first record.
    pub(crate) known_since: Instant,
    /// The indexed records, in order.
    index: Vec<RecordPosition>,
}

/// The position of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordPosition {
    pub(crate) sequence: Sequence,
    pub(crate) offset: u64,
    pub(crate) received_at: Option<Timestamp>,
}

impl Segment {
    pub(crate) fn new(path: PathBuf, first: Sequence, length: u64, begins_at: Option<Timestamp>) -> Self {
        Self {
            path,
            first,
            length,
            allocated: length,
            begins_at,
            known_since: Instant::now(),
            index: Vec::new(),
        }
    }

    /// Returns the last indexed record at or before a sequence; the first record if there is none.
    pub(crate) fn position(&self, sequence: Sequence) -> RecordPosition {
        let after = self
            .index
            .partition_point(|position| position.sequence <= sequence);
        match after.checked_sub(1).and_then(|index| self.index.get(index)) {
            Some(position) => *position,
            None => RecordPosition {
                sequence: self.first,
                offset: HEADER_LENGTH as u64,
                received_at: self.begins_at,
            },
        }
    }

    /// Returns whether a record at this offset should be indexed.
    pub(crate) fn needs_index_entry(&self, offset: u64) -> bool {
        let last = self
            .index
            .last()
            .map_or(HEADER_LENGTH as u64, |position| position.offset);
        offset >= last + INDEX_STEP
    }

    pub(crate) fn add_to_index(&mut self, position: RecordPosition) {
        if self.needs_index_entry(position.offset) {
            self.index.push(position);
        }
    }
}

/// Returns the path of the segment that begins at a sequence. Its number has twenty digits, so that names sort like
/// sequences.
pub(crate) fn path(folder: &Path, first: Sequence) -> PathBuf {
    folder.join(format!("{:020}.{EXTENSION}", first.get()))
}

/// Returns the segments of a folder, in order.
pub(crate) fn list(folder: &Path) -> Result<Vec<(Sequence, PathBuf)>, DiskError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(DiskError::of("list", folder))? {
        let path = entry.map_err(DiskError::of("list", folder))?.path();
        let first = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_suffix(EXTENSION)?.strip_suffix('.'))
            .filter(|digits| digits.len() == 20)
            .and_then(|digits| Sequence::new(digits.parse().ok()?));
        if let Some(first) = first {
            found.push((first, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Reads a segment's header.
pub(crate) fn read_header(file: &File) -> io::Result<Result<SegmentHeader, FormatError>> {
    let mut bytes = [0; HEADER_LENGTH];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => Ok(SegmentHeader::decode(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Err(FormatError::Magic)),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_found_in_the_order_of_their_sequences() {
        let root = tempfile::tempdir().unwrap();
        for first in [10, 9, u64::MAX] {
            fs::write(path(root.path(), Sequence::new(first).unwrap()), "").unwrap();
        }
        for other in ["1.segment", "00000000000000000000.segment", "spool.id"] {
            fs::write(root.path().join(other), "").unwrap();
        }
        let found = list(root.path()).unwrap();
        assert_eq!(
            found.iter().map(|(first, _)| first.get()).collect::<Vec<_>>(),
            [9, 10, u64::MAX]
        );
    }

    #[test]
    fn index_finds_the_position_at_or_before_a_sequence() {
        let sequence = |number| Sequence::new(number).unwrap();
        let mut segment = Segment::new(PathBuf::new(), sequence(10), 1 << 30, None);
        for (number, offset) in [
            (11, 100),
            (20, INDEX_STEP * 2),
            (21, INDEX_STEP * 2 + 1),
            (30, INDEX_STEP * 4),
        ] {
            segment.add_to_index(RecordPosition {
                sequence: sequence(number),
                offset,
                received_at: None,
            });
        }
        for (number, expected) in [(10, 10), (19, 10), (20, 20), (29, 20), (30, 30), (99, 30)] {
            assert_eq!(segment.position(sequence(number)).sequence.get(), expected);
        }
    }
}
