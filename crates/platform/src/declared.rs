//! Reads a declared list page by page, without I/O: the list of past events of a feed that the configuration declares.
//!
//! The ids of a declared feed have no order. The order of the list is therefore declared, or recognised from the times of the
//! events. The events of a list with the newest first wait in memory until the list was read to its end. A page in the opposite
//! order ends the reading with an error.
//!
//! Consecutive pages by offset overlap by one entry. If no entry of a page was read before, entries at lower offsets were
//! deleted meanwhile, and the previous page is requested again.

use std::collections::{HashSet, VecDeque};

use jiff::{SignedDuration, Timestamp};
use neurobridge_protocol::{
    EventList, ListEntry, ListOrder, ListPage, ListWindow, PageType, Pages, Position, Secrets,
};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    backfill_reader::Window,
    listing::{Listing, Tally, Unreadable},
    pager::{LEAST_PAGE_ENTRIES, MAX_HELD, MissedEvent, PagingError},
};

/// The number of last pages whose ids are stored, to recognise events that a later page repeats. The deduplication window
/// recognises repeated events of earlier pages.
const RECENT_PAGES: usize = 2;

/// A page contradicts the order of the list if its first and last event are in the opposite order and further apart than the
/// overlap of the window, and than this minimum.
const LEAST_CONTRADICTION: SignedDuration = SignedDuration::from_mins(1);

/// The name of a position that has no number, for error texts.
const NEXT_PAGE: &str = "the next page";

/// The state of reading a declared list.
pub(crate) struct DeclaredListing<'a> {
    list: &'a mut EventList,
    secrets: &'a Secrets,
    window: ListWindow,
    max_pages: u32,
    position: Position,
    /// The path and query of the next request.
    target: String,
    limit: Option<u32>,
    order: Option<ListOrder>,
    tally: Tally,
    /// The hash of the ids on the last page.
    fingerprint: Option<u64>,
    /// Whether the last page was the same as the one before.
    has_repeated_page: bool,
    /// The hashes of the cursors and links that were followed.
    cursors: HashSet<u64>,
    /// The id of the last entry that was read, if the next page is to begin with this entry.
    expected: Option<String>,
    /// The number of entries on the largest page.
    largest: usize,
    /// The id of the entry that was read last.
    last: Option<String>,
    /// The number of consecutive short pages that ended with the same entry as the page before.
    ends: u32,
    /// The ids on the last [`RECENT_PAGES`] pages.
    recent: VecDeque<HashSet<String>>,
    last_time: Option<Timestamp>,
    /// The time by which the events of a page may deviate from the order of the list.
    disorder: SignedDuration,
    known: Known,
    /// New events that cannot be returned yet: the order is unknown, the newest come first, or the known event was not found.
    held: Vec<MissedEvent>,
    held_bytes: u64,
    ready: Vec<MissedEvent>,
}

/// The events that are dropped because they were stored before the gap.
enum Known {
    /// No event: the deduplication window recognises repeated events.
    None,
    /// The event with this id, after which the list was requested.
    Last(String),
    /// The event with this id and the events before it in time, except events after this time.
    UpTo(String, Timestamp),
}

impl<'a> DeclaredListing<'a> {
    pub(crate) fn new(
        list: &'a mut EventList,
        window: &Window,
        max_pages: u32,
        secrets: &'a Secrets,
        now: Timestamp,
    ) -> Self {
        let overlap = SignedDuration::try_from(window.overlap).unwrap_or(SignedDuration::MAX);
        let later = |time: Timestamp| time.checked_add(overlap).unwrap_or(Timestamp::MAX);
        let declaration = list.declaration();
        let (order, limit) = (
            declaration.order,
            declaration.pages.as_ref().and_then(|pages| pages.limit),
        );
        let position = match &declaration.pages {
            Some(pages) if pages.kind == PageType::Page => Position::Page(pages.first.unwrap_or(1)),
            _ => Position::First,
        };
        let known = match &window.after {
            Some(id) if list.uses_last_id() => Known::Last(id.clone()),
            Some(id) if window.skips_known => Known::UpTo(id.clone(), later(window.from)),
            _ => Known::None,
        };
        let mut listing = Self {
            window: ListWindow {
                from: window.from.checked_sub(overlap).unwrap_or(Timestamp::MIN),
                to: later(window.to.unwrap_or(now)),
                last_id: window.after.clone(),
            },
            list,
            secrets,
            max_pages,
            position,
            target: String::new(),
            limit,
            order,
            tally: Tally::default(),
            fingerprint: None,
            has_repeated_page: false,
            cursors: HashSet::new(),
            expected: None,
            largest: 0,
            last: None,
            ends: 0,
            recent: VecDeque::new(),
            last_time: None,
            disorder: overlap.max(LEAST_CONTRADICTION),
            known,
            held: Vec::new(),
            held_bytes: 0,
            ready: Vec::new(),
        };
        listing.render_target();
        listing
    }

    /// Renders the path and query of the next request.
    fn render_target(&mut self) {
        self.target = self
            .list
            .target(&self.window, &self.position, self.limit, self.secrets);
    }

    /// Adds the new events of a page to `held`. `overlaps` states whether the first entry was read before, as the last
    /// entry of the previous page.
    fn collect(&mut self, page: &mut ListPage, overlaps: bool) -> Result<(), PagingError> {
        let mut ids = HashSet::new();
        let mut times = None;
        for (index, entry) in page.entries.drain(..).enumerate() {
            match entry {
                ListEntry::Event { id, time, frame } => {
                    if let Some(time) = time {
                        times = Some((times.map_or(time, |(first, _)| first), time));
                    }
                    let is_repeated =
                        self.recent.iter().any(|page| page.contains(&id)) || !ids.insert(id.clone());
                    if matches!(&self.known, Known::Last(last) if *last == id) {
                        self.tally.known += 1;
                    } else if !is_repeated && time.is_none_or(|time| time <= self.window.to) {
                        self.held_bytes += frame.len() as u64;
                        self.held.push(MissedEvent { id, time, frame });
                    }
                }
                ListEntry::WithoutId | ListEntry::NoEvent if index > 0 || !overlaps => {
                    self.tally.without_id += 1;
                }
                _ => {}
            }
        }
        self.recent.push_back(ids);
        if self.recent.len() > RECENT_PAGES {
            self.recent.pop_front();
        }
        if let Some((first, last)) = times {
            self.recognise_order(first, last)?;
        }
        if self.held_bytes <= MAX_HELD.bytes() {
            return Ok(());
        }
        if self.order == Some(ListOrder::OldestFirst) {
            // The limit is reached, so the search for the known event ends. The deduplication window recognises repeated
            // events.
            self.known = Known::None;
            return Ok(());
        }
        Err(PagingError::MemoryLimit)
    }

    /// Returns whether two consecutive short pages ended with the same entry as the page before. This entry is the last one
    /// of the list: new entries at the start of the list shift it to each requested position, so no empty page marks the
    /// end.
    fn has_ended(&mut self, count: usize, last: Option<&String>) -> bool {
        let is_short = count < self.largest || count < LEAST_PAGE_ENTRIES;
        let is_end = self.order != Some(ListOrder::OldestFirst)
            && is_short
            && last.is_some()
            && last == self.last.as_ref();
        self.ends = if is_end { self.ends + 1 } else { 0 };
        self.largest = self.largest.max(count);
        self.last = last.cloned();
        self.ends == 2
    }

    /// Recognises the order from the first and the last time on a page, or checks that the page has the known order.
    fn recognise_order(&mut self, first: Timestamp, last: Timestamp) -> Result<(), PagingError> {
        // A page of one event is compared with the page before.
        let before = match self.last_time {
            Some(before) if first == last => before,
            _ => first,
        };
        self.last_time = Some(last);
        match self.order {
            None if before < last => self.order = Some(ListOrder::OldestFirst),
            None if before > last => self.order = Some(ListOrder::NewestFirst),
            Some(ListOrder::OldestFirst) if first.duration_since(last) > self.disorder => {
                return Err(PagingError::OtherOrder {
                    order: "oldest",
                    first,
                    last,
                });
            }
            Some(ListOrder::NewestFirst) if last.duration_since(first) > self.disorder => {
                return Err(PagingError::OtherOrder {
                    order: "newest",
                    first,
                    last,
                });
            }
            _ => {}
        }
        Ok(())
    }

    /// Drops the events that were stored before the gap, and moves the others to `ready` if no older event can follow. Returns
    /// whether all further entries of the list are older than the gap.
    fn release(&mut self) -> bool {
        if let Known::UpTo(id, limit) = &self.known {
            let limit = *limit;
            let found = self.held.iter().position(|missed| missed.id == *id);
            match (found, self.order) {
                (Some(at), Some(ListOrder::NewestFirst)) => {
                    let older = self.held.split_off(at);
                    return self.drop_known(older, limit);
                }
                (Some(at), Some(ListOrder::OldestFirst)) => {
                    let newer = self.held.split_off(at + 1);
                    let older = std::mem::take(&mut self.held);
                    self.drop_known(older, limit);
                    self.held.extend(newer);
                    self.known = Known::None;
                }
                (_, Some(ListOrder::OldestFirst))
                    if self
                        .held
                        .last()
                        .and_then(|missed| missed.time)
                        .is_some_and(|time| time > limit) =>
                {
                    self.known = Known::None;
                }
                _ => return false,
            }
        }
        if self.order == Some(ListOrder::OldestFirst) {
            self.ready.append(&mut self.held);
            self.held_bytes = 0;
        }
        false
    }

    /// Drops the events of a part of the list that was stored before the gap. Keeps events later than `limit`, because the
    /// order of the list is not certain. Returns whether all events were dropped.
    fn drop_known(&mut self, part: Vec<MissedEvent>, limit: Timestamp) -> bool {
        let count = part.len();
        let is_later = |missed: &MissedEvent| missed.time.is_some_and(|time| time > limit);
        let kept: Vec<_> = part.into_iter().filter(is_later).collect();
        self.tally.known += (count - kept.len()) as u64;
        let are_all_dropped = kept.is_empty();
        self.held.extend(kept);
        are_all_dropped
    }

    /// Moves to the next page after a page of `count` entries. Returns whether the list was read to its end.
    fn advance(
        &mut self,
        pages: &Pages,
        count: usize,
        last: Option<String>,
        next: Option<String>,
    ) -> Result<bool, PagingError> {
        match &mut self.position {
            Position::Page(_) if count == 0 => return Ok(true),
            Position::Page(number) => *number += 1,
            position if pages.kind == PageType::Offset => {
                if count == 0 {
                    return Ok(true);
                }
                let overlaps = count > 1 && last.is_some();
                let offset = match position {
                    Position::Offset(offset) => *offset,
                    _ => 0,
                };
                *position = Position::Offset(offset + count as u64 - u64::from(overlaps));
                self.expected = last.filter(|_| overlaps);
            }
            position => {
                let Some(next) = next else {
                    return Ok(true);
                };
                let is_new = self.cursors.insert(xxh3_64(next.as_bytes()));
                if !is_new && count == 0 {
                    // At the end of the list the server returns the last position again.
                    return Ok(true);
                }
                if !is_new {
                    return Err(PagingError::Repeated {
                        position: NEXT_PAGE.to_owned(),
                    });
                }
                if pages.parameter().is_none() {
                    self.target = self.list.follow(&self.target, &next)?;
                    return Ok(false);
                }
                *position = Position::Cursor(next);
            }
        }
        self.render_target();
        Ok(false)
    }

    fn shown_position(&self) -> String {
        match &self.position {
            Position::Offset(offset) => format!("offset {offset}"),
            Position::Page(number) => format!("page {number}"),
            Position::First | Position::Cursor(_) => NEXT_PAGE.to_owned(),
        }
    }

    /// Moves back to the previous page if no entry of this page was read before: entries at lower offsets were deleted, so that
    /// this page would skip entries. Returns whether the position was moved.
    fn step_back(&mut self, page: &ListPage) -> bool {
        let Some(expected) = &self.expected else {
            return false;
        };
        let is_read = |entry: &ListEntry| match entry {
            ListEntry::Event { id, .. } => id == expected || self.recent.iter().any(|page| page.contains(id)),
            _ => false,
        };
        let is_continued = page.entries.iter().any(is_read);
        let step = page.entries.len().max(self.recent.back().map_or(0, HashSet::len)) as u64;
        match &mut self.position {
            Position::Offset(offset) if !is_continued && *offset > 0 => {
                *offset = offset.saturating_sub(step.max(1));
            }
            _ => {
                self.expected = None;
                return false;
            }
        }
        self.fingerprint = None;
        self.render_target();
        true
    }
}

impl Listing for DeclaredListing<'_> {
    fn next(&self) -> Result<String, PagingError> {
        if self.tally.pages >= self.max_pages {
            return Err(PagingError::TooManyPages {
                pages: self.max_pages,
            });
        }
        Ok(self.target.clone())
    }

    fn accept(&mut self, body: &[u8]) -> Result<bool, Unreadable> {
        let mut page = self.list.read(body).map_err(Unreadable::List)?;
        self.tally.pages += 1;
        let overlaps = self.expected.is_some();
        if self.step_back(&page) {
            return Ok(false);
        }
        let pages = self.list.declaration().pages.clone();
        let count = page.entries.len();
        let last = match page.entries.last() {
            Some(ListEntry::Event { id, .. }) => Some(id.clone()),
            _ => None,
        };
        if pages.as_ref().is_some_and(|pages| pages.kind != PageType::Next)
            && self.has_ended(count, last.as_ref())
        {
            return Ok(true);
        }
        let is_single = count == 1 && overlaps;
        let fingerprint = fingerprint(&page);
        if fingerprint.is_some() && self.fingerprint == fingerprint && !is_single {
            // One repetition may mean that the list was shifted by exactly one page.
            if self.has_repeated_page || pages.as_ref().is_none_or(|pages| pages.kind == PageType::Next) {
                return Err(PagingError::Repeated {
                    position: self.shown_position(),
                }
                .into());
            }
            self.has_repeated_page = true;
        } else {
            self.has_repeated_page = false;
        }
        self.fingerprint = fingerprint;
        self.collect(&mut page, overlaps)?;
        let all_are_older = self.release();
        match &pages {
            Some(pages) if !all_are_older => Ok(self.advance(pages, count, last, page.next)?),
            _ => Ok(true),
        }
    }

    fn change_refused(&mut self) -> bool {
        false
    }

    fn shrink(&mut self) -> bool {
        // Another page size would change the meaning of a page number, and cannot be set in a link to the next page.
        let can_shrink =
            matches!(&self.list.declaration().pages, Some(pages) if pages.kind == PageType::Offset);
        match &mut self.limit {
            Some(limit) if can_shrink && *limit > 1 => {
                *limit /= 2;
                self.render_target();
                true
            }
            _ => false,
        }
    }

    fn take_ready(&mut self) -> Vec<MissedEvent> {
        std::mem::take(&mut self.ready)
    }

    fn finish(&mut self) -> Vec<MissedEvent> {
        match (&self.known, self.order) {
            (_, Some(ListOrder::NewestFirst)) => self.held.reverse(),
            // The order is unknown, so only the known event itself is dropped.
            (Known::UpTo(id, _), None) => {
                let before = self.held.len();
                self.held.retain(|missed| missed.id != *id);
                self.tally.known += (before - self.held.len()) as u64;
            }
            _ => {}
        }
        self.ready.append(&mut self.held);
        self.take_ready()
    }

    fn tally(&self) -> Tally {
        self.tally
    }
}

/// Returns a hash of the ids on a page; `None` without an event. The whole answer is not hashed, because it may contain the
/// time of the server, which differs in each answer.
fn fingerprint(page: &ListPage) -> Option<u64> {
    let id = |entry: &ListEntry| match entry {
        ListEntry::Event { id, .. } => Some(id.clone()),
        _ => None,
    };
    let ids: Vec<Option<String>> = page.entries.iter().map(id).collect();
    let has_event = ids.iter().any(Option::is_some);
    has_event.then(|| {
        let ids: Vec<String> = ids.into_iter().map(Option::unwrap_or_default).collect();
        xxh3_64(ids.join("\n").as_bytes())
    })
}

#[cfg(test)]
#[path = "declared_tests.rs"]
mod tests;
