//! The part of a list that one reading fetches: where it ends, and from where the next reading continues.

use std::collections::VecDeque;

use jiff::Timestamp;
use neurobridge_platform::{Missed, StopReason};

/// The largest distance in ids by which an event may be received after a later one. Events that are read twice are dropped
/// as duplicates.
pub(super) const ID_OVERLAP: u64 = 100;

/// The result of reading a part of the list.
#[derive(Default)]
pub(super) struct Fetched {
    /// Why not all events were fetched.
    pub(super) reason: Option<StopReason>,
    /// The event after which the next reading begins.
    pub(super) mark: Option<Mark>,
    /// The number of events that were passed to the intake.
    pub(super) sent: u64,
}

/// The event of the feed up to which the events of a gap are fetched: the feed has sent the rest.
pub(super) enum Bound {
    /// The id up to which events are fetched.
    Number(u64),
    /// The id of an event, whose page is the last one.
    Id(String),
}

impl Bound {
    /// Returns the bound for an event that the feed sent after a gap. `counts_ids` states whether ids are numbers in the order of
    /// the list. Some more events are fetched, because events may be received out of order.
    pub(super) fn new(next: &str, counts_ids: bool) -> Option<Self> {
        Some(match counts_ids {
            true => Self::Number(next.parse::<u64>().ok()?.saturating_add(ID_OVERLAP)),
            false => Self::Id(next.to_owned()),
        })
    }

    /// Removes the events after the bound from a page. Returns whether it was the last page.
    pub(super) fn cut(&self, page: &mut Vec<Missed>) -> bool {
        match self {
            Self::Number(bound) => {
                let all = page.len();
                page.retain(|missed| missed.number().is_some_and(|id| id <= *bound));
                page.len() < all
            }
            Self::Id(bound) => page.iter().any(|missed| missed.id == *bound),
        }
    }
}

/// A fetched event.
pub(super) struct Mark {
    pub(super) id: String,
    pub(super) time: Option<Timestamp>,
}

/// Finds the event from which a second reading begins: one that is followed by enough others.
pub(super) struct Marks {
    /// The number of events that follow it.
    settling: u64,
    sent: u64,
    /// The first event of each page, with its number.
    marks: VecDeque<(u64, Mark)>,
}

impl Marks {
    pub(super) const fn new(settling: u64) -> Self {
        Self {
            settling,
            sent: 0,
            marks: VecDeque::new(),
        }
    }

    /// Adds a page.
    pub(super) fn add(&mut self, page: &[Missed]) {
        if let Some(Missed { id, time, .. }) = page.first() {
            let mark = Mark {
                id: id.clone(),
                time: *time,
            };
            self.marks.push_back((self.sent, mark));
        }
        self.sent += page.len() as u64;
        let settled = |(number, _): &(u64, Mark)| number + self.settling < self.sent;
        while self.marks.get(1).is_some_and(settled) {
            self.marks.pop_front();
        }
    }

    /// Returns the number of events.
    pub(super) const fn sent(&self) -> u64 {
        self.sent
    }

    /// Returns the last event that is followed by enough others; `None` if there is none.
    pub(super) fn into_mark(mut self) -> Option<Mark> {
        let (number, mark) = self.marks.pop_front()?;
        (number + self.settling < self.sent).then_some(mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(ids: std::ops::Range<u64>) -> Vec<Missed> {
        let missed = |id: u64| Missed {
            id: id.to_string(),
            time: None,
            frame: String::new(),
        };
        ids.map(missed).collect()
    }

    #[test]
    fn second_reading_begins_before_the_newest_events() {
        let mark = |pages: &[(u64, u64)]| {
            let mut marks = Marks::new(10);
            for (from, to) in pages {
                marks.add(&page(*from..*to));
            }
            marks.into_mark().map(|mark| mark.id)
        };
        assert_eq!(mark(&[]), None);
        assert_eq!(mark(&[(0, 10)]), None);
        assert_eq!(mark(&[(0, 11)]).as_deref(), Some("0"));
        assert_eq!(mark(&[(0, 5), (5, 10), (10, 15)]).as_deref(), Some("0"));
        assert_eq!(mark(&[(0, 5), (5, 10), (10, 16)]).as_deref(), Some("5"));
    }

    #[test]
    fn page_with_the_event_of_the_feed_is_the_last() {
        let mut events = page(0..300);
        assert!(Bound::new("100", true).unwrap().cut(&mut events));
        assert_eq!(events.len(), 201);
        assert!(!Bound::new("300", true).unwrap().cut(&mut events));
        assert!(Bound::new("x", true).is_none());
        let bound = Bound::new("250", false).unwrap();
        assert!(!bound.cut(&mut events) && bound.cut(&mut page(200..300)));
    }
}
