//! Reads a segment's records in order, in blocks, and finds the next whole record after damage.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
};

use bytes::Bytes;
use neurobridge_core::{
    event::Sequence,
    record::{self, PREFIX, SHORTEST, SealedBatch},
};

/// The block size. Large enough to amortise a disk's latency and a thread switch, small enough for many readers.
pub(crate) const BLOCK: usize = 256 << 10;
/// The length of a record up to the end of its sequence: enough to detect a possible record.
const HEAD: usize = PREFIX + 8;
/// The unit for reading a block that cannot be read as a whole: a page.
const PAGE: usize = 4096;

/// The scan of a segment. It holds at most one block in memory, or one record if the record is longer.
#[derive(Debug)]
pub(crate) struct Scan {
    file: File,
    offset: u64,
    expected: Sequence,
    /// The offset of the end of the records.
    end: u64,
    /// The limit of the sequences, exclusive.
    limit: Sequence,
}

/// The next item in a segment.
#[derive(Debug)]
pub(crate) enum Item {
    /// Whole records with the expected sequences.
    Events { batch: SealedBatch, offset: u64 },
    /// Unreadable bytes, followed by whole records.
    Damage(Region),
    /// No further whole records; the rest of the file was searched.
    End { offset: u64 },
}

/// Unreadable bytes and the events that are missing because of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) offset: u64,
    pub(crate) end: u64,
    pub(crate) from: Sequence,
    /// The first whole event after the region; equal to `from` if no event is missing.
    pub(crate) to: Sequence,
}

impl Region {
    /// Returns the number of bytes; 0 also for a file that ends before the start of its records.
    pub(crate) const fn length(&self) -> u64 {
        self.end.saturating_sub(self.offset)
    }
}

impl Scan {
    /// Begins at an offset, at which the record of `expected` should be.
    pub(crate) const fn new(file: File, offset: u64, expected: Sequence, end: u64, limit: Sequence) -> Self {
        Self {
            file,
            offset,
            expected,
            end,
            limit,
        }
    }

    /// Returns the sequence of the next record.
    pub(crate) const fn expected(&self) -> Sequence {
        self.expected
    }

    /// Moves the end of the scan after the segment has grown.
    pub(crate) const fn extend(&mut self, end: u64, limit: Sequence) {
        self.end = end;
        self.limit = limit;
    }

    pub(crate) fn next(&mut self) -> io::Result<Item> {
        let left = self.left();
        if left == 0 || self.expected >= self.limit {
            return Ok(Item::End { offset: self.offset });
        }
        let block = read(&self.file, self.offset, BLOCK.min(left))?;
        let (mut length, mut events) = (0, 0);
        while self.expected.plus(events) < self.limit {
            let rest = &block[length..];
            match look(rest, left - length, self.expected.plus(events)) {
                Look::Whole(total) => {
                    length += total;
                    events += 1;
                }
                Look::Beyond(total) if events == 0 && checksum_holds(&self.file, self.offset, total)? => {
                    let bytes = read(&self.file, self.offset, total)?;
                    return Ok(self.take(bytes.into(), 1));
                }
                // The next block begins with this record, or the record is damaged.
                Look::Beyond(_) | Look::None => break,
            }
        }
        if events > 0 {
            return Ok(self.take(Bytes::from(block).slice(..length), events));
        }
        match self.find_next()? {
            Some((offset, sequence)) => {
                let region = Region {
                    offset: self.offset,
                    end: offset,
                    from: self.expected,
                    to: sequence,
                };
                self.offset = offset;
                self.expected = sequence;
                Ok(Item::Damage(region))
            }
            None => Ok(Item::End { offset: self.offset }),
        }
    }

    fn left(&self) -> usize {
        usize::try_from(self.end.saturating_sub(self.offset)).unwrap_or(usize::MAX)
    }

    fn take(&mut self, bytes: Bytes, events: u64) -> Item {
        let offset = self.offset;
        let batch = SealedBatch::from_parts(self.expected, events, bytes);
        self.offset += batch.bytes().len() as u64;
        self.expected = batch.end();
        Item::Events { batch, offset }
    }

    /// Returns the next offset of a whole record with a plausible sequence.
    ///
    /// The content of an event cannot be mistaken for a record: JSON cannot contain the zero bytes of a sequence.
    fn find_next(&self) -> io::Result<Option<(u64, Sequence)>> {
        let mut start = self.offset;
        loop {
            let left = usize::try_from(self.end.saturating_sub(start)).unwrap_or(usize::MAX);
            if left < SHORTEST {
                return Ok(None);
            }
            let block = read(&self.file, start, BLOCK.min(left))?;
            // Space that was reserved and never written: in practice most of the searched bytes.
            let is_empty = block.iter().all(|byte| *byte == 0);
            let heads = if is_empty { &[] } else { &block[..] }.windows(HEAD);
            for (at, head) in heads.enumerate() {
                let sequence = sequence(head);
                if sequence < self.expected.get() || sequence >= self.limit.get() {
                    continue;
                }
                let (Some(total), Some(sequence)) = (record::total_length(head), Sequence::new(sequence))
                else {
                    continue;
                };
                let offset = start + at as u64;
                if (SHORTEST..=left - at).contains(&total) && checksum_holds(&self.file, offset, total)? {
                    return Ok(Some((offset, sequence)));
                }
            }
            if block.len() < HEAD {
                return Ok(None);
            }
            start += (block.len() - HEAD + 1) as u64;
        }
    }
}

enum Look {
    Whole(usize),
    /// The record may be whole, but the bytes in memory end before it does.
    Beyond(usize),
    None,
}

/// Returns whether a record of this sequence begins here; `left` bytes remain in the segment.
fn look(bytes: &[u8], left: usize, expected: Sequence) -> Look {
    if bytes.len() < HEAD {
        return if left > bytes.len() {
            Look::Beyond(HEAD)
        } else {
            Look::None
        };
    }
    let Some(total) = record::total_length(bytes) else {
        return Look::None;
    };
    if !(SHORTEST..=left).contains(&total) || sequence(bytes) != expected.get() {
        return Look::None;
    }
    if total > bytes.len() {
        return Look::Beyond(total);
    }
    match record::verify(bytes) {
        Ok(total) => Look::Whole(total),
        Err(_) => Look::None,
    }
}

fn sequence(head: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&head[PREFIX..HEAD]);
    u64::from_le_bytes(bytes)
}

/// Verifies a record's checksum block by block, so that a damaged length field does not cause a large allocation.
fn checksum_holds(file: &File, offset: u64, total: usize) -> io::Result<bool> {
    if total < SHORTEST {
        return Ok(false);
    }
    let (mut stored, mut checksum, mut done) = (0, 0, 0);
    while done < total {
        let block = read(file, offset + done as u64, BLOCK.min(total - done))?;
        if block.is_empty() {
            return Ok(false);
        }
        let covered = if done == 0 {
            let Some((prefix, rest)) = block.split_at_checked(PREFIX) else {
                return Ok(false);
            };
            stored = u32::from_le_bytes([prefix[4], prefix[5], prefix[6], prefix[7]]);
            rest
        } else {
            &block[..]
        };
        checksum = crc32c::crc32c_append(checksum, covered);
        done += block.len();
    }
    Ok(done == total && stored == checksum)
}

/// Reads up to this many bytes at an offset; fewer only at the end of the file. Bytes that the disk cannot read are
/// returned as zeros: they are handled as damage and do not stop the scan.
pub(crate) fn read(mut file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(length);
    file.seek(SeekFrom::Start(offset))?;
    match file.take(length as u64).read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) if is_unreadable(&error) => read_pages(file, offset, length),
        Err(error) => Err(error),
    }
}

fn is_unreadable(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::errno::Errno::EIO as i32)
}

fn read_pages(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let end = offset + length as u64;
    let length = usize::try_from(file.metadata()?.len().min(end).saturating_sub(offset)).unwrap_or(length);
    let mut bytes = vec![0; length];
    let mut at = 0;
    while at < length {
        // Up to the next page of the file.
        let step = (PAGE - (offset as usize + at) % PAGE).min(length - at);
        match file.read_exact_at(&mut bytes[at..at + step], offset + at as u64) {
            Ok(()) => {}
            Err(error) if is_unreadable(&error) => bytes[at..at + step].fill(0),
            Err(error) => return Err(error),
        }
        at += step;
    }
    Ok(bytes)
}
