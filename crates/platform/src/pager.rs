//! Reads NeuroIO's list page by page, without I/O: which part to request next, which entries are new, and when to stop.
//!
//! Consecutive pages overlap by one entry: the first entry of a page is the last entry of the previous page, unless the
//! list was changed in between. Entries that are added before it move it to a higher offset, which only repeats entries.
//! Entries that are deleted before it move it to a lower offset, so that the page would skip an entry unnoticed: the
//! previous page is requested again.

use std::collections::BTreeMap;

use jiff::Timestamp;
use neurobridge_core::units::ByteSize;
use neurobridge_protocol::OtherOrigin;

use crate::page::{Page, RawEntry};

/// The number of entries on a page. The platform's default is 20, and its maximum is unknown; a server that allows fewer
/// returns fewer.
const PAGE_ENTRIES: u64 = 100;

/// The minimum number of entries on a full page. A list with fewer entries and the newest first that grows while it is read
/// looks like a repeated page. *Assumed*: no server limits a page to fewer entries, so a repeated page with fewer is the
/// end of the list.
pub(crate) const LEAST_PAGE_ENTRIES: usize = 3;

/// The maximum size of the entries that wait in memory for older ones: those of a list with the newest first, on a server that
/// does not offer another order.
pub(crate) const MAX_HELD: ByteSize = ByteSize::from_mib(64);

/// A missed event, as the feed would have sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissedEvent {
    /// The identity of the event.
    pub id: String,
    /// The time of the event, if it selects the start of a list.
    pub time: Option<Timestamp>,
    /// The frame, for NeuroIO `{"id":…,"data":…}`.
    pub frame: String,
}

impl MissedEvent {
    /// Returns the id as a number, if it is one.
    pub fn number(&self) -> Option<u64> {
        self.id.parse().ok()
    }

    fn new(id: u64, entry: &str) -> Self {
        Self {
            id: id.to_string(),
            time: None,
            frame: format!(r#"{{"id":{id},"data":{entry}}}"#),
        }
    }
}

/// The reason why a list cannot be read further, although the server answers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PagingError {
    /// The server returned a page again.
    #[error(
        "the page at offset {offset} has the same entries as the two pages before; expected the next entries of the \
         list: check that the server of `backfill.url` supports the parameter `offset`"
    )]
    SamePage {
        /// The offset that was requested.
        offset: u64,
    },
    /// The server returned a page of a declared list again.
    #[error(
        "the answer for {position} is the same as an earlier answer; expected the next entries of the list, or an \
         empty page at the end of the list: check `feed.backfill.pages`"
    )]
    Repeated {
        /// The position that was requested.
        position: String,
    },
    /// The next page is at another server.
    #[error(transparent)]
    OtherOrigin(#[from] OtherOrigin),
    /// The ids are not in one order.
    #[error(
        "the list of missed events has id {found} after id {before}; expected all ids of the list in one order, \
         ascending or descending"
    )]
    MixedOrder {
        /// The id before it.
        before: u64,
        /// The id.
        found: u64,
    },
    /// The events of a page of a declared list are in the opposite order.
    #[error(
        "a page of the list begins with {first} and ends with {last}; expected the {order} first: set \
         `feed.backfill.order`, or request this order in `feed.backfill.query`"
    )]
    OtherOrder {
        /// The word for the events that are first in the list.
        order: &'static str,
        /// The first time on the page.
        first: Timestamp,
        /// The last time on the page.
        last: Timestamp,
    },
    /// The limit of pages is reached.
    #[error("the list has more than {pages} pages; raise `backfill.max_pages`, or fill a shorter period")]
    TooManyPages {
        /// The limit.
        pages: u32,
    },
    /// The entries that have to wait in memory exceed their limit.
    #[error(
        "the list has the newest entries first, and its new entries exceed {MAX_HELD} in memory; fill a shorter period"
    )]
    MemoryLimit,
}

/// The next action after a page.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Request the next part.
    Continue,
    /// The list was read to its end.
    Done,
    /// The server ignores `id_from`: read the list by time instead.
    IgnoresId,
}

/// The part of a list to request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) offset: u64,
    pub(crate) limit: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    OldestFirst,
    NewestFirst,
}

/// The state of reading one list.
#[derive(Debug)]
pub(crate) struct Pager {
    /// The newest known id: entries up to it are not missed.
    after: Option<u64>,
    /// Whether the request has `id_from`.
    is_by_id: bool,
    max_pages: u32,
    part: Part,
    pages: u32,
    order: Option<Order>,
    /// The id of the entry that was read last, in the order of the list.
    last: Option<u64>,
    /// The first id of the list when it was first read.
    first: Option<u64>,
    /// The id of the last entry that was read, if the next part is to begin with this entry.
    expected: Option<u64>,
    /// Whether entries are read again, after a step back.
    is_repeated: bool,
    /// The fingerprint and the number of entries of the last page.
    fingerprint: Option<(u64, usize)>,
    /// Whether the last page was the same as the one before.
    has_repeated_page: bool,
    /// The number of entries on the largest page.
    largest: usize,
    /// The number of consecutive short pages that ended with the entry that was read last.
    ends: u32,
    /// New entries that wait for older ones: the order is unknown, or the newest come first.
    held: BTreeMap<u64, String>,
    held_bytes: u64,
    /// New entries in the order of ids.
    ready: Vec<MissedEvent>,
    without_id: u64,
    known: u64,
}

impl Pager {
    /// Creates the state for a list that is requested with or without `id_from`.
    pub(crate) fn new(after: Option<u64>, is_by_id: bool, max_pages: u32) -> Self {
        Self {
            after,
            is_by_id,
            max_pages,
            part: Part {
                offset: 0,
                limit: PAGE_ENTRIES,
            },
            pages: 0,
            order: None,
            last: None,
            first: None,
            expected: None,
            is_repeated: false,
            fingerprint: None,
            has_repeated_page: false,
            largest: 0,
            ends: 0,
            held: BTreeMap::new(),
            held_bytes: 0,
            ready: Vec::new(),
            without_id: 0,
            known: 0,
        }
    }

    /// Returns the part to request next.
    ///
    /// # Errors
    /// The limit of pages is reached.
    pub(crate) fn next(&self) -> Result<Part, PagingError> {
        if self.pages >= self.max_pages {
            return Err(PagingError::TooManyPages {
                pages: self.max_pages,
            });
        }
        Ok(self.part)
    }

    /// Requests fewer entries, because the answer was too large. Returns false if there is no smaller page.
    pub(crate) fn shrink(&mut self) -> bool {
        if self.part.limit == 1 {
            return false;
        }
        self.part.limit /= 2;
        if self.part.limit == 1 && self.expected.take().is_some() {
            // A page of one entry cannot overlap with the one before.
            self.part.offset += 1;
        }
        true
    }

    /// Returns the number of pages that were read.
    pub(crate) const fn pages(&self) -> u32 {
        self.pages
    }

    /// Returns the number of entries without a usable id.
    pub(crate) const fn without_id(&self) -> u64 {
        self.without_id
    }

    /// Returns the number of entries that were known before the gap.
    pub(crate) const fn known(&self) -> u64 {
        self.known
    }

    /// Takes the new entries that need not wait for others, in the order of ids.
    pub(crate) fn take_ready(&mut self) -> Vec<MissedEvent> {
        std::mem::take(&mut self.ready)
    }

    /// Takes all new entries, in the order of ids.
    pub(crate) fn finish(&mut self) -> Vec<MissedEvent> {
        self.release();
        self.take_ready()
    }

    /// Accepts the page for the part that [`next`](Self::next) returned.
    ///
    /// # Errors
    /// The list cannot be read further. The entries that are ready are valid.
    pub(crate) fn accept(&mut self, page: &Page<'_>) -> Result<Progress, PagingError> {
        self.pages += 1;
        let entries = &page.entries[..];
        let expected = self.expected;
        if entries.is_empty() {
            // The entry at this offset has moved to a lower one, because entries before it were deleted.
            if expected.is_some() && self.part.offset > 0 {
                self.step_back(PAGE_ENTRIES);
                return Ok(Progress::Continue);
            }
            return Ok(Progress::Done);
        }
        let is_single = entries.len() == 1;
        if self.has_ended(entries) {
            return Ok(Progress::Done);
        }
        let fingerprint = Some((page.fingerprint, entries.len()));
        if self.fingerprint == fingerprint && !(is_single && expected.is_some()) {
            // One repetition may mean that the list was shifted by exactly one page; a short list may repeat more often.
            if self.has_repeated_page {
                if self.order != Some(Order::OldestFirst) && entries.len() < LEAST_PAGE_ENTRIES {
                    return Ok(Progress::Done);
                }
                return Err(PagingError::SamePage {
                    offset: self.part.offset,
                });
            }
            self.has_repeated_page = true;
            self.advance(entries);
            return Ok(Progress::Continue);
        }
        self.fingerprint = fingerprint;
        self.has_repeated_page = false;
        self.check_order(entries)?;
        if let (Some(expected), Some(first)) = (expected, entries[0].id)
            && self.is_beyond(first, expected)
            && self.part.offset > 0
        {
            self.step_back(entries.len() as u64);
            return Ok(Progress::Continue);
        }
        let is_first_known = expected.is_some();
        for (index, entry) in entries.iter().enumerate() {
            match entry.id {
                Some(id) if self.after.is_some_and(|after| id < after) && self.is_by_id => {
                    if self.order == Some(Order::NewestFirst) {
                        // All later entries are older than this one.
                        return Ok(Progress::Done);
                    }
                    return Ok(Progress::IgnoresId);
                }
                Some(id) => self.accept_entry(id, entry)?,
                None if index == 0 && is_first_known => {}
                None => self.without_id += 1,
            }
        }
        if self.order == Some(Order::OldestFirst) {
            self.release();
        }
        if page.is_last {
            return Ok(Progress::Done);
        }
        self.advance(entries);
        Ok(Progress::Continue)
    }

    /// Returns whether two consecutive short pages ended with the entry that was read last. This entry is the last one of
    /// the list: new entries at the start of the list shift it to each requested offset, so no empty page marks the end.
    fn has_ended(&mut self, entries: &[RawEntry<'_>]) -> bool {
        let last = entries.last().and_then(|entry| entry.id);
        let is_end = self.order == Some(Order::NewestFirst)
            && last.is_some()
            && last == self.last
            && entries.len() < self.largest;
        self.ends = if is_end { self.ends + 1 } else { 0 };
        self.largest = self.largest.max(entries.len());
        self.ends == 2
    }

    /// Checks that the ids of a page are in one order, and in the order of the pages before.
    fn check_order(&mut self, entries: &[RawEntry<'_>]) -> Result<(), PagingError> {
        let mut ids = entries.iter().filter_map(|entry| entry.id);
        let Some(mut before) = ids.next() else {
            return Ok(());
        };
        for found in ids {
            let order = if found > before {
                Order::OldestFirst
            } else {
                Order::NewestFirst
            };
            if found == before || *self.order.get_or_insert(order) != order {
                return Err(PagingError::MixedOrder { before, found });
            }
            before = found;
        }
        Ok(())
    }

    /// Returns whether an entry with id `found` comes after the one with id `known` in the list.
    fn is_beyond(&self, found: u64, known: u64) -> bool {
        match self.order {
            None => false,
            Some(Order::OldestFirst) => found > known,
            Some(Order::NewestFirst) => found < known,
        }
    }

    fn accept_entry(&mut self, id: u64, entry: &RawEntry<'_>) -> Result<(), PagingError> {
        let Some(last) = self.last else {
            (self.first, self.last) = (Some(id), Some(id));
            return self.hold(id, entry.text);
        };
        if id == last {
            return Ok(());
        }
        let order = if id > last {
            Order::OldestFirst
        } else {
            Order::NewestFirst
        };
        if *self.order.get_or_insert(order) == order {
            self.last = Some(id);
            return self.hold(id, entry.text);
        }
        // An entry against the order is valid only if it was read before, or was added at the start of the list meanwhile.
        let is_known = match self.order {
            Some(Order::NewestFirst) if self.first.is_some_and(|first| id > first) => {
                return self.hold(id, entry.text);
            }
            Some(Order::NewestFirst) => {
                self.held.contains_key(&id) || self.after.is_some_and(|after| id <= after)
            }
            _ => self.is_repeated,
        };
        if is_known {
            Ok(())
        } else {
            Err(PagingError::MixedOrder {
                before: last,
                found: id,
            })
        }
    }

    fn hold(&mut self, id: u64, entry: &str) -> Result<(), PagingError> {
        if self.after.is_some_and(|after| id <= after) {
            self.known += 1;
            return Ok(());
        }
        if self.held.contains_key(&id) {
            return Ok(());
        }
        self.held_bytes += entry.len() as u64;
        if self.held_bytes > MAX_HELD.bytes() && self.order == Some(Order::NewestFirst) {
            return Err(PagingError::MemoryLimit);
        }
        self.held.insert(id, entry.to_owned());
        Ok(())
    }

    fn release(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.ready
            .extend(held.into_iter().map(|(id, entry)| MissedEvent::new(id, &entry)));
        self.held_bytes = 0;
    }

    fn step_back(&mut self, entries: u64) {
        self.part.offset = self.part.offset.saturating_sub(entries);
        self.is_repeated = true;
        self.fingerprint = None;
    }

    /// Moves to the part after a page.
    fn advance(&mut self, entries: &[RawEntry<'_>]) {
        let last = entries.last().and_then(|entry| entry.id);
        let overlaps = entries.len() > 1 && self.part.limit > 1 && last.is_some();
        self.expected = last.filter(|_| overlaps);
        self.part.offset += entries.len() as u64 - u64::from(overlaps);
        self.is_repeated &= last != self.last;
    }
}

#[cfg(test)]
#[path = "pager_tests.rs"]
mod tests;
