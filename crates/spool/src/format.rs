//! The file formats of the log on disk: the header of a segment, the cursor of a reader, and the resume values.
//!
//! All numbers are little-endian, all checksums are CRC32C. The records follow the header of a segment at offset
//! [`HEADER_LENGTH`], in the format of [`neurobridge_core::record`].

mod resume;

use jiff::Timestamp;
use neurobridge_core::{event::Sequence, identity::SpoolId, ledger::SinkCounts, reader::Cursor, record};

pub use self::resume::ResumeSlot;

/// The length of a segment's header.
pub const HEADER_LENGTH: usize = 64;
/// The length of each of the two slots in a cursor file. Two blocks of a disk, so that a write to one slot never touches the
/// other.
pub const SLOT_LENGTH: usize = 8192;
/// The longest note of a cursor.
pub const LONGEST_NOTE: usize = SLOT_LENGTH - NOTE_OFFSET;

/// The version of a segment: that of its records.
const SEGMENT_VERSION: u32 = record::FORMAT_VERSION;
const CURSOR_VERSION: u32 = 1;
const SEGMENT_MAGIC: [u8; 8] = *b"nbsegmnt";
const CURSOR_MAGIC: [u8; 8] = *b"nbcursor";
/// The offset of the note in a slot.
const NOTE_OFFSET: usize = 112;
/// The stored length of a missing note.
const NO_NOTE: u32 = u32::MAX;

/// The reason why bytes are not a valid header or slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// Too short, or without the magic number: another file, or damage.
    #[error("missing magic number")]
    Magic,
    /// Damage.
    #[error("the checksum is {found:08x}, expected {expected:08x}")]
    Checksum {
        /// The stored checksum.
        found: u32,
        /// The computed checksum.
        expected: u32,
    },
    /// Intact, but written by another version of the program.
    #[error("format version {found}, expected {expected}")]
    Version {
        /// The stored version.
        found: u32,
        /// The version that this program reads.
        expected: u32,
    },
    /// The checksum is correct, but the content is invalid.
    #[error("invalid {what}")]
    Content {
        /// The invalid field.
        what: &'static str,
    },
}

/// The header of a segment.
///
/// | offset | bytes | content |
/// |---|---|---|
/// | 0 | 8 | `nbsegmnt` |
/// | 8 | 4 | format version, 2: that of the records |
/// | 12 | 16 | the spool's id |
/// | 28 | 8 | the first record's sequence |
/// | 36 | 8 | the first record's time of receipt, microseconds since 1970 |
/// | 44 | 16 | zeros |
/// | 60 | 4 | checksum of bytes 0 to 59 |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The id of the spool.
    pub spool: SpoolId,
    /// The sequence of the first record.
    pub first: Sequence,
    /// The time of receipt of the first record, in microseconds.
    pub begins_at: Timestamp,
}

impl SegmentHeader {
    /// Encodes the header.
    pub fn encode(&self) -> [u8; HEADER_LENGTH] {
        let mut bytes = [0; HEADER_LENGTH];
        bytes[..8].copy_from_slice(&SEGMENT_MAGIC);
        bytes[8..12].copy_from_slice(&SEGMENT_VERSION.to_le_bytes());
        bytes[12..28].copy_from_slice(self.spool.as_bytes());
        bytes[28..36].copy_from_slice(&self.first.get().to_le_bytes());
        bytes[36..44].copy_from_slice(&self.begins_at.as_microsecond().to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Decodes a header.
    ///
    /// # Errors
    /// See [`FormatError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let bytes = bytes
            .get(..HEADER_LENGTH)
            .filter(|bytes| bytes.starts_with(&SEGMENT_MAGIC))
            .ok_or(FormatError::Magic)?;
        check(bytes, &[], 60, SEGMENT_VERSION)?;
        Ok(Self {
            spool: SpoolId::from_bytes(array(bytes, 12)),
            first: sequence(bytes, 28, "sequence")?,
            begins_at: Timestamp::from_microsecond(i64::from_le_bytes(array(bytes, 36)))
                .map_err(|_| FormatError::Content { what: "time" })?,
        })
    }
}

/// One of the two slots of a cursor file. The newer intact slot is valid.
///
/// | offset | bytes | content |
/// |---|---|---|
/// | 0 | 8 | `nbcursor` |
/// | 8 | 4 | format version, 1 |
/// | 12 | 16 | the spool's id |
/// | 28 | 8 | generation: the newer slot has the higher one |
/// | 36 | 16 | the cursor's first and next sequence |
/// | 52 | 48 | delivered, filtered, duplicate, dead-lettered, dropped, damaged |
/// | 100 | 4 | length of the note, 2³² − 1 for none |
/// | 104 | 4 | zeros |
/// | 108 | 4 | checksum of bytes 0 to 107 and of the note |
/// | 112 | … | the note |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CursorSlot {
    /// The id of the spool.
    pub spool: SpoolId,
    /// The generation, which is higher in the newer slot.
    pub generation: u64,
    /// The cursor.
    pub cursor: Cursor,
}

impl CursorSlot {
    /// Encodes the slot in at most [`SLOT_LENGTH`] bytes; `None` if the note is longer than [`LONGEST_NOTE`].
    pub fn encode(&self) -> Option<Vec<u8>> {
        let note = self.cursor.note.as_deref();
        let text = note.unwrap_or_default().as_bytes();
        if text.len() > LONGEST_NOTE {
            return None;
        }
        let mut bytes = vec![0; NOTE_OFFSET];
        bytes[..8].copy_from_slice(&CURSOR_MAGIC);
        bytes[8..12].copy_from_slice(&CURSOR_VERSION.to_le_bytes());
        bytes[12..28].copy_from_slice(self.spool.as_bytes());
        let counts = &self.cursor.counts;
        let numbers = [
            self.generation,
            self.cursor.first.get(),
            self.cursor.next.get(),
            counts.delivered,
            counts.filtered,
            counts.duplicate,
            counts.dead_lettered,
            counts.dropped,
            counts.damaged,
        ];
        for (number, field) in numbers.iter().zip(bytes[28..100].chunks_exact_mut(8)) {
            field.copy_from_slice(&number.to_le_bytes());
        }
        let length = note.map_or(NO_NOTE, |note| note.len() as u32);
        bytes[100..104].copy_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(text);
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..108]), &bytes[NOTE_OFFSET..]);
        bytes[108..112].copy_from_slice(&checksum.to_le_bytes());
        Some(bytes)
    }

    /// Decodes a slot.
    ///
    /// # Errors
    /// See [`FormatError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        if bytes.len() < NOTE_OFFSET || !bytes.starts_with(&CURSOR_MAGIC) {
            return Err(FormatError::Magic);
        }
        let length = u32::from_le_bytes(array(bytes, 100));
        let text_length = if length == NO_NOTE { 0 } else { length as usize };
        let text = text_length
            .checked_add(NOTE_OFFSET)
            .and_then(|end| bytes.get(NOTE_OFFSET..end))
            .ok_or(FormatError::Content {
                what: "note's length",
            })?;
        check(bytes, text, 108, CURSOR_VERSION)?;
        let number = |index: usize| u64::from_le_bytes(array(bytes, 28 + 8 * index));
        let text = std::str::from_utf8(text).map_err(|_| FormatError::Content { what: "note" })?;
        Ok(Self {
            spool: SpoolId::from_bytes(array(bytes, 12)),
            generation: number(0),
            cursor: Cursor {
                first: sequence(bytes, 36, "first sequence")?,
                next: sequence(bytes, 44, "next sequence")?,
                counts: SinkCounts {
                    delivered: number(3),
                    filtered: number(4),
                    duplicate: number(5),
                    dead_lettered: number(6),
                    dropped: number(7),
                    damaged: number(8),
                },
                note: (length != NO_NOTE).then(|| text.to_owned()),
            },
        })
    }
}

/// Verifies the checksum at `offset`, which covers all bytes before it and `rest`, and then the version.
fn check(bytes: &[u8], rest: &[u8], offset: usize, version: u32) -> Result<(), FormatError> {
    let found = u32::from_le_bytes(array(bytes, offset));
    let expected = crc32c::crc32c_append(crc32c::crc32c(&bytes[..offset]), rest);
    if found != expected {
        return Err(FormatError::Checksum { found, expected });
    }
    match u32::from_le_bytes(array(bytes, 8)) {
        found if found == version => Ok(()),
        found => Err(FormatError::Version {
            found,
            expected: version,
        }),
    }
}

fn sequence(bytes: &[u8], at: usize, what: &'static str) -> Result<Sequence, FormatError> {
    Sequence::new(u64::from_le_bytes(array(bytes, at))).ok_or(FormatError::Content { what })
}

/// Returns the bytes at a fixed offset. The callers have checked the length.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slot(note: Option<&str>) -> CursorSlot {
        CursorSlot {
            spool: SpoolId::from_bytes([7; 16]),
            generation: 3,
            cursor: Cursor {
                first: Sequence::new(5).unwrap(),
                next: Sequence::new(12).unwrap(),
                counts: SinkCounts {
                    delivered: 1,
                    filtered: 2,
                    duplicate: 3,
                    dead_lettered: 1,
                    dropped: 0,
                    damaged: 0,
                },
                note: note.map(str::to_owned),
            },
        }
    }

    fn header() -> SegmentHeader {
        SegmentHeader {
            spool: SpoolId::from_bytes([7; 16]),
            first: Sequence::new(99).unwrap(),
            begins_at: Timestamp::from_microsecond(1_234_567).unwrap(),
        }
    }

    #[test]
    fn written_value_is_read_back() {
        assert_eq!(SegmentHeader::decode(&header().encode()), Ok(header()));
        for note in [None, Some(""), Some("a note"), Some(&*"x".repeat(LONGEST_NOTE))] {
            let bytes = slot(note).encode().unwrap();
            assert!(bytes.len() <= SLOT_LENGTH);
            assert_eq!(CursorSlot::decode(&bytes), Ok(slot(note)));
        }
        assert_eq!(slot(Some(&"x".repeat(LONGEST_NOTE + 1))).encode(), None);
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_detected() {
        let (header, slot) = (header().encode().to_vec(), slot(Some("a note")).encode().unwrap());
        for bit in 0..header.len() * 8 {
            let mut bad = header.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&bad).is_err(), "bit {bit}");
        }
        for bit in 0..slot.len() * 8 {
            let mut bad = slot.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(CursorSlot::decode(&bad).is_err(), "bit {bit}");
        }
        for length in 0..header.len() {
            assert!(SegmentHeader::decode(&header[..length]).is_err());
        }
        for length in 0..slot.len() {
            assert!(CursorSlot::decode(&slot[..length]).is_err());
        }
    }

    #[test]
    fn other_version_is_distinguished_from_damage() {
        let mut bytes = header().encode();
        bytes[8] = 1;
        let checksum = crc32c::crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(
            SegmentHeader::decode(&bytes),
            Err(FormatError::Version {
                found: 1,
                expected: 2
            })
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_rejected_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(SegmentHeader::decode(&bytes).is_err());
            prop_assert!(CursorSlot::decode(&bytes).is_err());
        }
    }
}
