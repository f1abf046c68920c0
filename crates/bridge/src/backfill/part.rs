//! The part of the platform's list that one reading fetches: where it ends, and where the next reading begins.

use std::collections::VecDeque;

use jiff::Timestamp;
use neurobridge_platform::{MissedEvent, StopReason, Window};

/// Events may arrive out of order: an event may arrive after one whose id is up to this much higher. Events that are read twice are
/// dropped as duplicates.
pub(super) const ID_OVERLAP: u64 = 100;

/// The result of reading a part of the list.
#[derive(Default)]
pub(super) struct Fetched {
    /// The reason if not all events were fetched.
    pub(super) reason: Option<StopReason>,
    /// The event after which the next reading begins.
    pub(super) mark: Option<Mark>,
    /// The number of events that were passed to the intake.
    pub(super) sent: u64,
}

/// The highest id that is fetched for a gap. The connection after the gap receives the events with higher ids.
pub(super) struct Bound(u64);

impl Bound {
    /// Returns the bound for an event that the feed sent after a gap: [`ID_OVERLAP`] after this event, because events may be
    /// received out of order. `None` unless ids are numbers in the order of the list (`counts_ids`): the first event of another
    /// feed may be older than the gap, and as a bound, would end the reading too early.
    pub(super) fn new(next: &str, counts_ids: bool) -> Option<Self> {
        let number = next.parse::<u64>().ok().filter(|_| counts_ids)?;
        Some(Self(number.saturating_add(ID_OVERLAP)))
    }

    /// Removes the events after the bound from a page. Returns whether it was the last page.
    pub(super) fn cut(&self, page: &mut Vec<MissedEvent>) -> bool {
        let all = page.len();
        page.retain(|missed| missed.number().is_some_and(|id| id <= self.0));
        page.len() < all
    }
}

/// A fetched event, at which the next reading begins.
pub(super) struct Mark {
    pub(super) id: String,
    pub(super) time: Option<Timestamp>,
}

impl Mark {
    /// Makes a window begin with this event.
    pub(super) fn start(self, window: &mut Window) {
        // Only a window that begins after an id is selected by ids.
        window.after = window.after.take().and(Some(self.id));
        window.from = self.time.map_or(window.from, |time| time.max(window.from));
        // No known event has to be skipped: the intake has the event at which the window begins, and drops its copy as a duplicate.
        window.skips_known = false;
    }
}

/// Finds the event at which the second reading of the list begins. The list may show an event some seconds late, among newer ones,
/// so at least the `settling` newest events of the first reading are read again.
pub(super) struct Marks {
    /// The number of newest events that the second reading repeats at least.
    settling: u64,
    sent: u64,
    /// The candidates: the first event of each page, with the number of events before it.
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
    pub(super) fn add(&mut self, page: &[MissedEvent]) {
        if let Some(MissedEvent { id, time, .. }) = page.first() {
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

    /// Returns the number of events in all pages.
    pub(super) const fn sent(&self) -> u64 {
        self.sent
    }

    /// Returns the last candidate that is followed by enough events; `None` if there is none.
    pub(super) fn into_mark(mut self) -> Option<Mark> {
        let (number, mark) = self.marks.pop_front()?;
        (number + self.settling < self.sent).then_some(mark)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn page(ids: std::ops::Range<u64>) -> Vec<MissedEvent> {
        let missed = |id: u64| MissedEvent {
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
    fn page_that_reaches_the_bound_is_cut_and_is_the_last() {
        let mut events = page(0..300);
        assert!(Bound::new("100", true).unwrap().cut(&mut events));
        assert_eq!(events.len(), 201);
        assert!(!Bound::new("300", true).unwrap().cut(&mut events));
        assert!(Bound::new("x", true).is_none());
    }

    #[test]
    fn event_of_a_declared_feed_bounds_no_list() {
        assert!(Bound::new("100", false).is_none());
    }

    #[test]
    fn second_reading_skips_known_events_unless_it_has_a_mark() {
        let from = Timestamp::UNIX_EPOCH;
        let mut window = Window {
            after: None,
            skips_known: true,
            from,
            to: None,
            overlap: Duration::ZERO,
        };
        let mut marks = Marks::new(10);
        marks.add(&page(0..10));
        if let Some(mark) = marks.into_mark() {
            mark.start(&mut window);
        }
        assert!(window.skips_known);
        let time = from.checked_add(Duration::from_secs(9)).unwrap();
        let mark = Mark {
            id: "7".to_owned(),
            time: Some(time),
        };
        mark.start(&mut window);
        assert!(!window.skips_known && window.from == time && window.after.is_none());
    }
}
