//! Irregularities of the entries.

use std::{num::NonZeroU64, time::Duration};

use jiff::SignedDuration;

/// Irregularities of the entries, all absent by default. They depend only on an entry's position in the sequence, so that
/// a run can be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryOptions {
    /// After this many entries, one id is skipped. Default: no id is skipped.
    pub holes: Option<NonZeroU64>,
    /// Each entry at a multiple of this position was deleted: the feed sends it, and the REST interface does not list it.
    /// Default: no entry was deleted.
    pub deleted: Option<NonZeroU64>,
    /// Each entry at a multiple of this position has an earlier creation time, as if its camera had been offline. Default:
    /// no entry is late.
    pub late: Option<NonZeroU64>,
    /// The difference between the regular creation time of a late entry and its earlier one. Default: one hour.
    pub late_by: Duration,
    /// The deviation of the platform's clock, which is visible in creation times, in the dates of the REST interface, and
    /// in the times of tokens. Default: none.
    pub clock_offset: SignedDuration,
}

impl Default for EntryOptions {
    fn default() -> Self {
        Self {
            holes: None,
            deleted: None,
            late: None,
            late_by: Duration::from_secs(3_600),
            clock_offset: SignedDuration::ZERO,
        }
    }
}

impl EntryOptions {
    /// Returns the id of the entry at a position.
    pub(crate) fn id_at(&self, position: u64) -> u64 {
        let skipped = self.holes.map_or(0, |holes| position.saturating_sub(1) / holes);
        position.saturating_add(skipped)
    }

    /// Returns the first position with this id or a larger one.
    pub(crate) fn position_from(&self, id: u64) -> u64 {
        let Some(holes) = self.holes.map(NonZeroU64::get) else {
            return id;
        };
        let (blocks, rest) = match (holes.checked_add(1), id.checked_sub(1)) {
            (Some(block), Some(before)) => (before / block, before % block),
            _ => return id,
        };
        blocks * holes + rest.min(holes) + 1
    }

    /// Returns whether the entry at a position was deleted.
    pub(crate) fn is_deleted(&self, position: u64) -> bool {
        is_multiple(position, self.deleted)
    }

    /// Returns the microseconds by which the entry at a position was created before its regular time.
    pub(super) fn earlier_by(&self, position: u64) -> i64 {
        if is_multiple(position, self.late) {
            i64::try_from(self.late_by.as_micros()).unwrap_or(i64::MAX)
        } else {
            0
        }
    }

    pub(super) fn clock_offset_micros(&self) -> i64 {
        i64::try_from(self.clock_offset.as_micros()).unwrap_or(i64::MAX)
    }
}

fn is_multiple(position: u64, of: Option<NonZeroU64>) -> bool {
    of.is_some_and(|of| position % of == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_id_is_skipped_after_each_block() {
        let options = EntryOptions {
            holes: NonZeroU64::new(3),
            ..EntryOptions::default()
        };
        let ids: Vec<u64> = (1..=7).map(|position| options.id_at(position)).collect();
        assert_eq!(ids, [1, 2, 3, 5, 6, 7, 9]);
        let positions: Vec<u64> = (0..=9).map(|id| options.position_from(id)).collect();
        assert_eq!(positions, [0, 1, 2, 3, 4, 4, 5, 6, 7, 7]);
        assert_eq!(EntryOptions::default().position_from(9), 9);
    }
}
