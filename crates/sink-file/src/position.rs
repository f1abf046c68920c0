//! A position in a file that is found again after a restart, even if the file was renamed meanwhile.

use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt, MetadataExt},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

/// The number of bytes before the position that are compared: enough to include the unique part of an event.
const TAIL_BYTES: usize = 1024;

/// The end of the last completed batch in a file. Stored as JSON with the sink's cursor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// The name that the file had at that time, for the log and for people who read the cursor.
    pub(crate) file: String,
    pub(crate) inode: u64,
    pub(crate) offset: u64,
    /// A hash of the bytes before the offset.
    pub(crate) tail: String,
    /// The lineage of the position; see [`Log::lineage`](crate::log::Log::lineage).
    pub(crate) lineage: String,
    /// The number of lines before the offset, as far as they were counted.
    #[serde(default)]
    pub(crate) lines: u64,
    /// The time at which the last line before the offset was written; distinguishes a file removed by age from a lost file.
    #[serde(default)]
    pub(crate) written_at: Timestamp,
}

/// The certainty that a file is the file of a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fit {
    /// The file is a different one, or it ends before the offset.
    No,
    /// The file has the same content before the offset: it is a copy, or was restored from one.
    Copy,
    /// The file has the same content and the same inode.
    Same,
}

impl Position {
    /// Returns whether `file` is the file of this position.
    pub(crate) fn fit(&self, file: &File) -> io::Result<Fit> {
        let metadata = file.metadata()?;
        if metadata.len() < self.offset {
            return Ok(Fit::No);
        }
        let is_same = metadata.ino() == self.inode;
        if self.offset == 0 {
            // There are no bytes before the offset to compare.
            return Ok(if is_same { Fit::Same } else { Fit::No });
        }
        Ok(match Tail::read(file, self.offset)?.hash() == self.tail {
            false => Fit::No,
            true if is_same => Fit::Same,
            true => Fit::Copy,
        })
    }
}

/// The last bytes before a position, at most [`TAIL_BYTES`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tail(Vec<u8>);

impl Tail {
    pub(crate) fn read(file: &File, offset: u64) -> io::Result<Self> {
        let length = offset.min(TAIL_BYTES as u64);
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, offset - length)?;
        Ok(Self(bytes))
    }

    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        self.0
            .extend_from_slice(&bytes[bytes.len().saturating_sub(TAIL_BYTES)..]);
        self.0.drain(..self.0.len().saturating_sub(TAIL_BYTES));
    }

    pub(crate) fn hash(&self) -> String {
        format!("{:032x}", xxh3_128(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn position(file: &File, offset: u64) -> Position {
        Position {
            file: "events.jsonl".to_owned(),
            inode: file.metadata().unwrap().ino(),
            offset,
            tail: Tail::read(file, offset).unwrap().hash(),
            lineage: String::new(),
            lines: 0,
            written_at: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn file_is_recognised_by_the_bytes_before_the_position() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"one\ntwo\n").unwrap();
        let (start, after_one) = (position(&file, 0), position(&file, 4));
        assert_eq!(after_one.fit(&file).unwrap(), Fit::Same);
        assert_eq!(start.fit(&file).unwrap(), Fit::Same);

        let mut copy = tempfile::tempfile().unwrap();
        copy.write_all(b"one\n").unwrap();
        assert_eq!(after_one.fit(&copy).unwrap(), Fit::Copy);
        assert_eq!(start.fit(&copy).unwrap(), Fit::No);

        file.write_all_at(b"x", 0).unwrap();
        assert_eq!(after_one.fit(&file).unwrap(), Fit::No);
        copy.set_len(3).unwrap();
        assert_eq!(after_one.fit(&copy).unwrap(), Fit::No);
    }

    #[test]
    fn incremental_hash_equals_the_hash_of_the_file() {
        let mut file = tempfile::tempfile().unwrap();
        let mut tail = Tail::default();
        let mut length = 0;
        for size in [1, 700, 500, 3000, 0, 20] {
            let bytes: Vec<u8> = (0..size).map(|byte| (byte % 251) as u8).collect();
            file.write_all(&bytes).unwrap();
            tail.extend(&bytes);
            length += size as u64;
            assert_eq!(tail.hash(), Tail::read(&file, length).unwrap().hash(), "{length}");
        }
    }
}
