//! The format of the file of the resume values.

use std::{collections::BTreeMap, sync::Arc};

use neurobridge_core::{event::Sequence, identity::SpoolId};

use super::{FormatError, array, check, sequence};

const VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"nbresume";
/// The offset of the checksum in a slot.
const CHECKSUM: usize = 52;
/// The offset of the values in a slot.
const VALUES: usize = 56;

/// One of the two slots of the file of the resume values, each of which is half of the file. The newer intact slot is valid.
///
/// | offset | bytes | content |
/// |---|---|---|
/// | 0 | 8 | `nbresume` |
/// | 8 | 4 | format version, 1 |
/// | 12 | 16 | the spool's id |
/// | 28 | 8 | generation: the newer slot has the higher one |
/// | 36 | 8 | the sequence after the last record that the values cover |
/// | 44 | 4 | number of values |
/// | 48 | 4 | length of the values in bytes |
/// | 52 | 4 | checksum of bytes 0 to 51 and of the values |
/// | 56 | … | for each value: length of the source's name (2 bytes), name, length of the value (2 bytes), value |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumeSlot {
    /// The id of the spool.
    pub spool: SpoolId,
    /// The generation, which is higher in the newer slot.
    pub generation: u64,
    /// The sequence after the last record that the values cover.
    pub next: Sequence,
    /// The values by the name of their source, as JSON.
    pub values: BTreeMap<Arc<str>, Arc<str>>,
}

impl ResumeSlot {
    /// Encodes the slot. A name or value of 64 KiB or more is omitted.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; VALUES];
        let mut count: u32 = 0;
        for (source, value) in &self.values {
            if let (Ok(source_length), Ok(length)) = (u16::try_from(source.len()), u16::try_from(value.len()))
            {
                bytes.extend_from_slice(&source_length.to_le_bytes());
                bytes.extend_from_slice(source.as_bytes());
                bytes.extend_from_slice(&length.to_le_bytes());
                bytes.extend_from_slice(value.as_bytes());
                count += 1;
            }
        }
        let length = (bytes.len() - VALUES) as u32;
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..28].copy_from_slice(self.spool.as_bytes());
        bytes[28..36].copy_from_slice(&self.generation.to_le_bytes());
        bytes[36..44].copy_from_slice(&self.next.get().to_le_bytes());
        bytes[44..48].copy_from_slice(&count.to_le_bytes());
        bytes[48..52].copy_from_slice(&length.to_le_bytes());
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..CHECKSUM]), &bytes[VALUES..]);
        bytes[CHECKSUM..VALUES].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Decodes a slot.
    ///
    /// # Errors
    /// See [`FormatError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        if bytes.len() < VALUES || !bytes.starts_with(&MAGIC) {
            return Err(FormatError::Magic);
        }
        let length = u32::from_le_bytes(array(bytes, 48)) as usize;
        let mut left = length
            .checked_add(VALUES)
            .and_then(|end| bytes.get(VALUES..end))
            .ok_or(FormatError::Content {
                what: "length of the values",
            })?;
        check(bytes, left, CHECKSUM, VERSION)?;
        let mut values = BTreeMap::new();
        for _ in 0..u32::from_le_bytes(array(bytes, 44)) {
            let (source, value) = text(&mut left)
                .zip(text(&mut left))
                .ok_or(FormatError::Content { what: "value" })?;
            values.insert(source.into(), value.into());
        }
        Ok(Self {
            spool: SpoolId::from_bytes(array(bytes, 12)),
            generation: u64::from_le_bytes(array(bytes, 28)),
            next: sequence(bytes, 36, "sequence")?,
            values,
        })
    }
}

/// Removes a length and a text of that length from the start of `bytes`.
fn text<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (text, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    *bytes = rest;
    std::str::from_utf8(text).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slot(values: &[(&str, &str)]) -> ResumeSlot {
        ResumeSlot {
            spool: SpoolId::from_bytes([7; 16]),
            generation: 3,
            next: Sequence::new(12).unwrap(),
            values: values
                .iter()
                .map(|(source, value)| ((*source).into(), (*value).into()))
                .collect(),
        }
    }

    #[test]
    fn written_slot_is_read_back_and_damage_is_detected() {
        let long = "9".repeat(4096);
        for values in [&[][..], &[("", "\"ä\"")], &[("a", &long), ("b", "1")]] {
            let bytes = slot(values).encode();
            assert_eq!(ResumeSlot::decode(&bytes), Ok(slot(values)));
            for length in 0..bytes.len() {
                assert!(ResumeSlot::decode(&bytes[..length]).is_err());
            }
        }
        let good = slot(&[("a", "1"), ("b", "\"x\"")]).encode();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(ResumeSlot::decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn newer_version_is_distinguished_from_damage() {
        let mut bytes = slot(&[]).encode();
        bytes[8] = 2;
        let checksum = crc32c::crc32c(&bytes[..CHECKSUM]);
        bytes[CHECKSUM..VALUES].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(
            ResumeSlot::decode(&bytes),
            Err(FormatError::Version {
                found: 2,
                expected: 1
            })
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_rejected_without_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), magic: bool) {
            if magic && bytes.len() >= 8 {
                bytes[..8].copy_from_slice(&MAGIC);
            }
            prop_assert!(ResumeSlot::decode(&bytes).is_err());
        }
    }
}
