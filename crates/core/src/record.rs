//! The encoding of an event as a record: one format, in memory and on disk.
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 4 | length of the record from offset 8 on |
//! | 4 | 4 | CRC32C of all bytes from offset 8 on |
//! | 8 | 8 | sequence |
//! | 16 | 8 | time of receipt, microseconds since 1970 |
//! | 24 | 1 | flags: 1 for a conflict; for the origin 2 (backfill), 4 (late backfill), 6 (gap report) or 8 (late feed) |
//! | 25 | 3 | lengths of the source's name, of its URI, and of the prefix of the type |
//! | 28 | 4 | conflict: a hash of the body, or 0 |
//! | 32 | … | positions of the fields in the frame: see [`crate::positions`] |
//! | … | … | the source's name, its URI, the prefix of the type, then the frame |
//!
//! In a log in memory, checksum and sequence are not set. All numbers are little-endian. The positions of the
//! fields are stored so that no reader scans the frame again, and the attributes of the source so that an event can be
//! published after its source was removed from the configuration.

mod batch;

use jiff::Timestamp;

pub use self::batch::{Batch, IntakeDecision, SealedBatch};
use crate::{
    event::{Event, Origin, Sequence},
    positions::{self, Positions},
};

/// The number of bytes before the part that the length and the checksum cover.
pub const PREFIX: usize = 8;
/// The version of the format, which the log on disk stores.
pub const FORMAT_VERSION: u32 = 2;
/// The length of the shortest record: without an id, fields, attributes of the source and a frame.
pub const SHORTEST: usize = FIXED + positions::SHORTEST;
/// The number of bytes before the positions.
const FIXED: usize = 32;
const CONFLICT: u8 = 1;
/// The bits of the origin, and the number of bits below them.
const ORIGIN: u8 = 0b1110;
const ORIGIN_SHIFT: u32 = 1;

/// Why bytes are not a valid record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The record is shorter than its stored length.
    #[error("the record ends early: {found} bytes, expected {expected}")]
    Truncated {
        /// The number of bytes found.
        found: usize,
        /// The expected number of bytes.
        expected: usize,
    },
    /// The checksum does not match.
    #[error("the checksum is {found:08x}, expected {expected:08x}")]
    Checksum {
        /// The stored checksum.
        found: u32,
        /// The checksum of the bytes.
        expected: u32,
    },
    /// The record is not damaged, but a part of it is invalid: another version or another program wrote it.
    #[error("the record has an unknown format ({what}): another version or another program wrote it")]
    Content {
        /// The invalid part.
        what: &'static str,
    },
}

/// Returns the length of the record at the start of `bytes`, prefix included. `None` if there are fewer than four
/// bytes.
pub fn total_length(bytes: &[u8]) -> Option<usize> {
    let length: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
    Some(PREFIX + u32::from_le_bytes(length) as usize)
}

/// Checks the length and the checksum of a record without decoding it, and returns its length.
///
/// # Errors
/// The record is truncated or damaged.
pub fn verify(bytes: &[u8]) -> Result<usize, RecordError> {
    let total = total_length(bytes).ok_or(RecordError::Truncated {
        found: bytes.len(),
        expected: PREFIX,
    })?;
    let Some(record) = bytes.get(..total) else {
        return Err(RecordError::Truncated {
            found: bytes.len(),
            expected: total,
        });
    };
    if total < SHORTEST {
        return Err(RecordError::Content { what: "length" });
    }
    let found = u32_at(record, 4);
    let expected = crc32c::crc32c(&record[PREFIX..]);
    if found == expected {
        Ok(total)
    } else {
        Err(RecordError::Checksum { found, expected })
    }
}

/// Decodes the record at the start of `bytes` as the event with this sequence, and also returns the length of the
/// record. Does not check the checksum or the stored sequence, because every sink decodes each record: code that reads
/// records from a disk checks both once ([`verify`]).
///
/// # Errors
/// The record is truncated, or its content is invalid.
pub fn decode(bytes: &[u8], sequence: Sequence) -> Result<(Event<'_>, usize), RecordError> {
    let total = total_length(bytes).ok_or(RecordError::Truncated {
        found: bytes.len(),
        expected: PREFIX,
    })?;
    let Some(record) = bytes.get(..total) else {
        return Err(RecordError::Truncated {
            found: bytes.len(),
            expected: total,
        });
    };
    if total < SHORTEST {
        return Err(RecordError::Content { what: "length" });
    }
    let received_at =
        Timestamp::from_microsecond(u64_at(record, 16) as i64).map_err(|_| RecordError::Content {
            what: "time of receipt",
        })?;
    let (positions, length) =
        Positions::parse(&record[FIXED..]).ok_or(RecordError::Content { what: "positions" })?;
    // One validation of attributes and frame together takes less time than several short ones.
    let text = simdutf8::basic::from_utf8(&record[FIXED + length..])
        .map_err(|_| RecordError::Content { what: "text" })?;
    let (source, text) = split(text, record[25])?;
    let (source_uri, text) = split(text, record[26])?;
    let (type_prefix, frame) = split(text, record[27])?;
    let event = Event {
        sequence,
        received_at,
        source,
        source_uri,
        type_prefix,
        conflict: (record[24] & CONFLICT != 0).then(|| u32_at(record, 28)),
        origin: origin(record[24]),
        positions,
        frame,
    };
    Ok((event, total))
}

const fn origin(flags: u8) -> Origin {
    match (flags & ORIGIN) >> ORIGIN_SHIFT {
        0 => Origin::Feed,
        1 => Origin::Backfill,
        2 => Origin::LateBackfill,
        4 => Origin::LateFeed,
        _ => Origin::GapReport,
    }
}

/// Splits `text` after `length` bytes.
fn split(text: &str, length: u8) -> Result<(&str, &str), RecordError> {
    text.split_at_checked(usize::from(length))
        .ok_or(RecordError::Content { what: "length" })
}

/// Returns four bytes at a fixed offset; the callers have checked the length.
fn u32_at(record: &[u8], offset: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&record[offset..offset + 4]);
    u32::from_le_bytes(bytes)
}

/// Returns eight bytes at a fixed offset; the callers have checked the length.
fn u64_at(record: &[u8], offset: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&record[offset..offset + 8]);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing;

    fn sealed(frames: &[String]) -> SealedBatch {
        let mut batch = Batch::default();
        for (index, frame) in frames.iter().enumerate() {
            batch.push(&Event {
                received_at: Timestamp::from_microsecond(index as i64).unwrap(),
                conflict: (index % 2 == 1).then_some(index as u32),
                origin: origin((index as u8 % 5) << ORIGIN_SHIFT),
                ..testing::event(frame)
            });
        }
        batch.seal(Sequence::new(100).unwrap())
    }

    fn frames(count: usize) -> Vec<String> {
        (0..count)
            .map(|id| format!(r#"{{"id":{id},"data":{{"pid":"p{id}"}}}}"#))
            .collect()
    }

    #[test]
    fn records_decode_to_the_encoded_events() {
        let frames = frames(5);
        let batch = sealed(&frames);
        assert_eq!((batch.events(), batch.end().get()), (5, 105));
        for (index, event) in batch.iter().enumerate() {
            let event = event.unwrap();
            assert_eq!(event.sequence.get(), 100 + index as u64);
            assert_eq!(event.received_at.as_microsecond(), index as i64);
            assert_eq!(event.conflict, (index % 2 == 1).then_some(index as u32));
            assert_eq!(event.origin as usize, index % 5);
            assert_eq!((event.source, event.frame), ("main", frames[index].as_str()));
            assert_eq!(event.source_uri, "/neuroio/main");
            assert_eq!(event.type_prefix, "com.neuroio.entry.");
            assert_eq!(event.body(), format!(r#"{{"pid":"p{index}"}}"#));
        }
    }

    proptest! {
        #[test]
        fn applied_decisions_equal_a_batch_of_the_kept_events(
            decisions in proptest::collection::vec((0..5, 0..5_u8), 0..20),
            split in any::<prop::sample::Index>(),
        ) {
            let frames = frames(decisions.len());
            let decisions: Vec<_> = decisions.iter().map(|(decision, flags)| (match decision {
                0 => IntakeDecision::Drop,
                marks => IntakeDecision::Keep {
                    conflict: (marks & 1 == 1).then_some(7),
                    is_late: marks & 2 == 2,
                },
            }, origin(flags << ORIGIN_SHIFT))).collect();
            let received_at = Timestamp::from_microsecond(5).unwrap();
            let push = |batch: &mut Batch, frame: &str, origin, conflict, received_at| {
                batch.push(&Event { received_at, origin, conflict, ..testing::event(frame) });
            };
            let (mut expected, mut batches) = (Batch::default(), [Batch::default(), Batch::default()]);
            let split = split.index(frames.len() + 1);
            for (nth, (frame, (decision, origin))) in frames.iter().zip(&decisions).enumerate() {
                push(&mut batches[usize::from(nth >= split)], frame, *origin, None, Timestamp::UNIX_EPOCH);
                match decision {
                    IntakeDecision::Keep { conflict, is_late } => {
                        let origin = if *is_late { origin.into_late() } else { *origin };
                        push(&mut expected, frame, origin, *conflict, received_at);
                    }
                    IntakeDecision::Drop => {}
                }
            }
            let [mut batch, mut second] = batches;
            batch.apply(decisions[..split].iter().map(|(decision, _)| *decision));
            second.apply(decisions[split..].iter().map(|(decision, _)| *decision));
            batch.append(second);
            batch.set_received_at(received_at);
            batch = batch.fitted();
            let (sealed, expected) = (batch.seal(Sequence::FIRST), expected.seal(Sequence::FIRST));
            prop_assert_eq!(sealed.events(), expected.events());
            prop_assert_eq!(sealed.bytes(), expected.bytes());
        }
    }

    #[test]
    fn slice_starts_at_its_sequence() {
        let batch = sealed(&frames(5));
        let part = batch.from(Sequence::new(103).unwrap()).unwrap();
        assert_eq!(
            part.iter()
                .map(|event| event.unwrap().sequence.get())
                .collect::<Vec<_>>(),
            [103, 104]
        );
        assert_eq!(batch.from(Sequence::FIRST).unwrap().events(), 5);
        assert!(batch.from(Sequence::new(105).unwrap()).is_none());
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_detected() {
        let batch = sealed(&frames(1));
        let good = batch.bytes().to_vec();
        assert_eq!(verify(&good), Ok(good.len()));
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(verify(&bad).is_err(), "bit {bit}");
        }
        for length in 0..good.len() {
            assert!(verify(&good[..length]).is_err(), "length {length}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_rejected_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(verify(&bytes).is_err());
            let _ = decode(&bytes, Sequence::FIRST).map(|(event, _)| (event.body().len(), event.id()));
        }

        #[test]
        fn damaged_record_does_not_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = sealed(&frames(1)).bytes().to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = decode(&bytes, Sequence::FIRST).map(|(event, _)| (event.body().len(), event.id()));
        }
    }
}
