//! The list of entries, `GET /v1/entries/`.

use std::{num::NonZeroU64, ops::RangeInclusive};

use jiff::Timestamp;

use super::{RestOptions, RestOrder, RestShape, query::Query};
use crate::{
    entries::{Entries, Entry},
    faults::RestFault,
};

/// The largest response body. A page with large inline pictures is cut short at this size to limit memory.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

/// The entries that the REST interface lists at one moment.
#[derive(Clone, Copy)]
pub(super) struct Archive<'a> {
    pub(super) entries: &'a Entries,
    pub(super) options: &'a RestOptions,
    /// The position of the newest entry.
    pub(super) newest: u64,
    pub(super) now: Timestamp,
}

impl<'a> Archive<'a> {
    /// Returns the positions of the retained entries, including deleted ones.
    fn retained(&self) -> RangeInclusive<u64> {
        let by_number = self.newest.saturating_sub(self.options.keep) + 1;
        let by_age = self.options.keep_for.map_or(1, |keep_for| {
            let oldest = self.now.checked_sub(keep_for).unwrap_or(Timestamp::MIN);
            first_where(by_number..=self.newest, |position| {
                self.entries.regularly_created(position) >= oldest.as_microsecond()
            })
        });
        by_number.max(by_age)..=self.newest
    }

    /// Returns the retained entries, newest first.
    pub(super) fn newest_first(self) -> impl Iterator<Item = Entry> + 'a {
        self.positions(self.retained())
            .rev()
            .map(move |position| self.entries.describe(position))
    }

    fn positions(self, range: RangeInclusive<u64>) -> impl DoubleEndedIterator<Item = u64> + 'a {
        range.filter(move |position| !self.entries.options().is_deleted(*position))
    }

    /// Returns the page that a query selects.
    fn page(self, query: &Query) -> Vec<Entry> {
        let mut range = self.retained();
        let mut filter = query.clone();
        if let Some(id) = filter.id_from.take() {
            let first = self.entries.options().position_from(id);
            range = first.max(*range.start())..=self.newest;
        }
        // Without late entries, the creation times have the order of the positions. So the conditions on the time select a
        // range, and entries outside this range are not generated.
        if self.entries.options().late.is_none() {
            let created = |position| self.entries.created(position);
            if let Some(from) = filter.date_from.take() {
                let first = first_where(range.clone(), |position| {
                    created(position) >= from.as_microsecond()
                });
                range = first..=self.newest;
            }
            if let Some(to) = filter.date_to.take() {
                let after = first_where(range.clone(), |position| created(position) > to.as_microsecond());
                range = *range.start()..=after - 1;
            }
        }
        let matches_all = filter.matches_all();
        let matching = self.positions(range).filter(|position| {
            matches_all || filter.matches(&self.entries.describe(*position), self.entries)
        });
        let limit = usize::try_from(self.options.max_page.get()).unwrap_or(usize::MAX);
        let limit = query.limit.min(limit);
        let describe = |position| self.entries.describe(position);
        match self.options.order {
            RestOrder::NewestFirst => matching
                .rev()
                .skip(query.offset)
                .take(limit)
                .map(describe)
                .collect(),
            RestOrder::OldestFirst => matching.skip(query.offset).take(limit).map(describe).collect(),
        }
    }

    /// Returns the body of a list.
    pub(super) fn list(self, mut query: Query, fault: Option<&RestFault>) -> Vec<u8> {
        if fault == Some(&RestFault::SamePage) {
            query.offset = 0;
            query.id_from = None;
        }
        let mut page = self.page(&query);
        match fault {
            Some(RestFault::Endless) => self.fill_up(&query, &mut page),
            Some(RestFault::Backwards) => page.reverse(),
            _ => {}
        }
        let (open, close) = match self.options.shape {
            RestShape::Results => (&br#"{"results":["#[..], &b"]}"[..]),
            RestShape::List => (&b"["[..], &b"]"[..]),
        };
        let mut body = open.to_vec();
        for (index, entry) in page.iter().enumerate() {
            if index > 0 {
                if body.len() + self.entries.frame_bytes_hint() > MAX_BODY_BYTES {
                    break;
                }
                body.push(b',');
            }
            let start = body.len();
            match fault {
                Some(RestFault::Huge { bytes }) if index == 0 => {
                    self.entries.write_entry_of_size(entry, Some(*bytes), &mut body);
                }
                _ => self.entries.write_entry(entry, &mut body),
            }
            if fault == Some(&RestFault::NoId) && index % 2 == 0 {
                remove_id(&mut body, start);
            }
        }
        body.extend_from_slice(close);
        if let Some(RestFault::Huge { bytes }) = fault {
            body.resize(body.len().max(*bytes), b' ');
        }
        body
    }

    /// Fills a page up with entries that do not exist. The ids of these entries are larger than all ids of the feed, and
    /// different on each page.
    fn fill_up(self, query: &Query, page: &mut Vec<Entry>) {
        let Some(newest) = NonZeroU64::new(self.newest) else {
            return;
        };
        let beyond = self
            .entries
            .options()
            .id_at(self.newest)
            .max(query.id_from.unwrap_or_default());
        let limit = usize::try_from(self.options.max_page.get()).unwrap_or(usize::MAX);
        while page.len() < query.limit.min(limit) {
            let index = query.offset.saturating_add(page.len()) as u64;
            let mut entry = self.entries.describe(1 + index % newest);
            entry.id = beyond.saturating_add(1).saturating_add(index);
            page.push(entry);
        }
    }
}

/// Removes the first field, which is the id, of the entry at `start`.
fn remove_id(body: &mut Vec<u8>, start: usize) {
    let first = body[start..].iter().position(|byte| *byte == b',');
    if let Some(comma) = first {
        body.drain(start + 1..=start + comma);
    }
}

/// Returns the first position from which a monotonic condition holds; the position after the range if the condition never
/// holds.
fn first_where(range: RangeInclusive<u64>, holds: impl Fn(u64) -> bool) -> u64 {
    let (mut low, mut high) = (*range.start(), (range.end() + 1).max(*range.start()));
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}
