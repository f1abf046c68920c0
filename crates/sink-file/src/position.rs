//! A place in a file that is found again after a restart, also when the file was renamed meanwhile.

use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt, MetadataExt},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

/// So many bytes before the place are compared: enough to hold what is unique in an event.
const TAIL_BYTES: usize = 1024;

/// Up to where a file was written when a batch was done. Kept, as JSON, with the sink's cursor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// The file's name then, for people.
    pub(crate) file: String,
    pub(crate) inode: u64,
    pub(crate) offset: u64,
    /// A hash of what stands before the offset.
    pub(crate) tail: String,
    /// Which unbroken line of writers this is a place in; see [`Log::lineage`](crate::log::Log::lineage).
    pub(crate) lineage: String,
    /// The number of lines before the offset, as far as they were counted.
    #[serde(default)]
    pub(crate) lines: u64,
    /// When the last line before the offset was written; tells a file that was removed by age from one that was lost.
    #[serde(default)]
    pub(crate) written_at: Timestamp,
}

/// How sure it is that a file is that of a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fit {
    /// It is not, or it is cut off before the offset.
    No,
    /// It has the same content before the offset: a copy, or it was put back from one.
    Copy,
    /// It has the same content and is the same file.
    Same,
}

impl Position {
    /// Whether `file` is the one that this is a place in.
    pub(crate) fn fit(&self, file: &File) -> io::Result<Fit> {
        let metadata = file.metadata()?;
        if metadata.len() < self.offset {
            return Ok(Fit::No);
        }
        let is_same = metadata.ino() == self.inode;
        if self.offset == 0 {
            // Nothing stands before it that could be compared.
            return Ok(if is_same { Fit::Same } else { Fit::No });
        }
        Ok(match Tail::read(file, self.offset)?.hash() == self.tail {
            false => Fit::No,
            true if is_same => Fit::Same,
            true => Fit::Copy,
        })
    }
}

/// The last bytes before a place.
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
