//! The text that a member stores with its cursor: the offsets from which the partitions are read after a restart.
//!
//! The space beside the cursor is limited, and a topic may have thousands of partitions. So each offset is written as the
//! difference from the previous one, and all of them are rounded down if they would not fit: a restart then reads some records
//! again. Offsets that do not fit even when rounded are replaced by the beginning of the topic. Rounding up is wrong: a record
//! that is read again is recognised, but the event of a skipped record may be published a second time.

use serde::{Deserialize, Serialize};

use super::{Offsets, partition_numbers};
use crate::positions::Position;

/// The longest text, in bytes. Below the limit of the spool.
const LONGEST: usize = 7000;
/// The digits, with five bits each. The upper half is used for all digits of a number but the last one.
const DIGITS: &[u8; 64] = b"0123456789abcdefghijklmnopqrstuvABCDEFGHIJKLMNOPQRSTUVWXYZ-_wxyz";
/// The number of bits by which the rounding grows. Small, so that not much more is read than necessary.
const ROUNDING: u32 = 2;

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    #[serde(flatten)]
    position: Option<Position>,
    /// The rounding in bits, a colon, and the offsets of all partitions. Empty if all partitions have to be read from the
    /// beginning.
    read: String,
}

/// Returns the text with the offsets of all partitions, in the order of the partitions.
pub(super) fn text(position: Option<Position>, offsets: &[u64]) -> Option<String> {
    let mut note = Note {
        position,
        read: String::new(),
    };
    let rest = LONGEST.saturating_sub(serde_json::to_string(&note).ok()?.len());
    let mut roundings = (0..u64::BITS).step_by(ROUNDING as usize);
    if let Some(read) = roundings.find_map(|rounding| encode(offsets, rounding, rest)) {
        note.read = read;
    }
    serde_json::to_string(&note).ok()
}

/// Returns the offsets in the text; empty if the text has none.
pub(super) fn offsets(text: Option<&str>, partitions: usize) -> Offsets {
    let Some(note) = text.and_then(|text| serde_json::from_str::<Note>(text).ok()) else {
        return Offsets::new();
    };
    match decode(&note.read) {
        Some(offsets) => partition_numbers(partitions).zip(offsets).collect(),
        None => partition_numbers(partitions)
            .map(|partition| (partition, 0))
            .collect(),
    }
}

/// Returns the offsets rounded down to multiples of a power of two; `None` if they are longer than `limit`.
fn encode(offsets: &[u64], rounding: u32, limit: usize) -> Option<String> {
    let mut text = format!("{rounding}:");
    let mut before = 0_u64;
    for offset in offsets {
        let number = offset >> rounding;
        // Small numbers for small differences of either sign.
        let difference = number.wrapping_sub(before).cast_signed();
        let mut rest = ((difference << 1) ^ (difference >> 63)).cast_unsigned();
        before = number;
        loop {
            let is_last = rest < 32;
            let digit = usize::from((rest % 32) as u8) + if is_last { 0 } else { 32 };
            text.push(char::from(DIGITS[digit]));
            rest /= 32;
            if is_last {
                break;
            }
        }
        if text.len() > limit {
            return None;
        }
    }
    Some(text)
}

fn decode(text: &str) -> Option<Vec<u64>> {
    let (rounding, digits) = text.split_once(':')?;
    let rounding: u32 = rounding.parse().ok()?;
    let (mut offsets, mut before) = (Vec::new(), 0_u64);
    let (mut number, mut bits) = (0_u64, 0);
    for digit in digits.bytes() {
        let digit = DIGITS.iter().position(|known| *known == digit)? as u64;
        number |= (digit % 32).checked_shl(bits)?;
        bits += 5;
        if digit < 32 {
            let difference = (number >> 1) ^ (number & 1).wrapping_neg();
            before = before.wrapping_add(difference);
            offsets.push(before.checked_shl(rounding)?);
            (number, bits) = (0, 0);
        }
    }
    Some(offsets)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns offsets of partitions that were filled evenly for a long time.
    fn some(partitions: u64) -> Vec<u64> {
        let offset = |number: u64| 5_000_000_000 + number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 100_000;
        (0..partitions).map(offset).collect()
    }

    fn back(offsets: &[u64]) -> Vec<u64> {
        let position = Position {
            topic: "x".repeat(249),
            partition: 7,
            offset: 9,
        };
        let text = text(Some(position.clone()), offsets).unwrap();
        assert!(text.len() <= LONGEST, "{}", text.len());
        assert_eq!(Position::of_note(Some(&text)), Some(position));
        super::offsets(Some(&text), offsets.len()).into_values().collect()
    }

    #[test]
    fn offsets_of_a_thousand_partitions_are_stored_exactly() {
        for offsets in [
            vec![],
            vec![0],
            vec![u64::MAX, 0, u64::MAX / 2, 1, 31, 32, 33],
            some(1000),
        ] {
            assert_eq!(back(&offsets), offsets);
        }
    }

    #[test]
    fn offsets_that_do_not_fit_are_rounded_down() {
        let offsets = some(4000);
        let back = back(&offsets);
        assert_eq!(back.len(), offsets.len());
        for (back, offset) in back.iter().zip(&offsets) {
            assert!(back <= offset && offset - back < 1 << 16, "{back} for {offset}");
        }
    }

    #[test]
    fn offsets_that_do_not_fit_even_rounded_are_zero() {
        assert_eq!(back(&some(9000)), vec![0; 9000]);
    }

    #[test]
    fn note_of_a_bridge_outside_of_a_cluster_has_no_offsets() {
        let note = r#"{"topic":"t","partition":1,"offset":5}"#;
        assert_eq!(offsets(Some(note), 3), Offsets::new());
        assert_eq!(offsets(None, 3), Offsets::new());
        insta::assert_snapshot!(text(Position::of_note(Some(note)), &[7, 5, 1000]).unwrap(), @r#"{"topic":"t","partition":1,"offset":5,"read":"0:e3Gy1"}"#);
    }
}
