//! The order of the events of each feed: detects events that follow later ones, and fetched events that are stored already.
//!
//! Each connection delivers the events in the order of the feed. Where two connections overlap, or where missed events are
//! fetched while later ones are stored already, an event may be stored after a later one: then it is marked as late.

use std::{collections::BTreeMap, sync::Arc};

use neurobridge_core::event::Origin;

use super::newest::StoredEvent;
use super::numbers::NumberSet;

/// The largest number of events after the newest one with smaller numbers: more than the connections buffer. With more of them,
/// the feed has restarted its numbers.
const MAX_LATE: u32 = 16_384;

/// The numbers of the events of each source.
#[derive(Debug, Default)]
pub(super) struct Orders(BTreeMap<Arc<str>, SourceOrder>);

#[derive(Debug, Default)]
struct SourceOrder {
    newest: Newest,
    /// The numbers of the stored events.
    known: NumberSet,
    fetched: FetchedNumbers,
}

/// The numbers of the stored events that were fetched: the feed may send the same events later. Cleared when the feed has long passed
/// them, so that a feed that restarts its numbers loses no event.
#[derive(Debug, Default)]
struct FetchedNumbers {
    numbers: NumberSet,
    /// The largest number; `None` for an empty set.
    last: Option<u64>,
}

/// The event of a source with the largest number, in the order of ids.
#[derive(Clone, Copy, Debug, Default)]
struct Newest {
    number: u64,
    /// The connection that delivered the event; `None` for an event that was fetched or stored by an earlier run.
    connection: Option<u64>,
    /// The number of events of the feed after this one with smaller numbers.
    late: u32,
}

/// The order of the events of a batch.
pub(super) struct BatchOrder<'a> {
    newest: &'a mut Newest,
    known: &'a mut NumberSet,
    fetched: &'a mut FetchedNumbers,
    origin: Origin,
    connection: Option<u64>,
    /// Whether the batch has events of a feed, received or fetched.
    is_ordered: bool,
}

impl Orders {
    /// Adds the events that an earlier run has stored.
    pub(super) fn add_known(&mut self, events: &[StoredEvent]) {
        for event in events {
            self.add_known_number(&event.source, event.order);
        }
    }

    fn add_known_number(&mut self, source: &Arc<str>, number: Option<u64>) {
        if let Some(number) = number {
            let order = self.source(source);
            order.newest.number = order.newest.number.max(number);
            order.known.insert(number);
        }
    }

    /// Returns the order of a batch from a connection of a source, or of fetched events.
    pub(super) fn of(&mut self, source: &Arc<str>, origin: Origin, connection: u64) -> BatchOrder<'_> {
        let SourceOrder {
            newest,
            known,
            fetched,
        } = self.source(source);
        BatchOrder {
            newest,
            known,
            fetched,
            origin,
            connection: origin.is_feed().then_some(connection),
            is_ordered: origin.is_feed() || origin.is_backfill(),
        }
    }

    fn source(&mut self, source: &Arc<str>) -> &mut SourceOrder {
        self.0.entry(Arc::clone(source)).or_default()
    }
}

impl BatchOrder<'_> {
    /// Returns whether an event that the deduplication window does not contain is stored already: a fetched event that was stored
    /// before, or an event of the feed that was fetched before.
    pub(super) fn is_known(&self, number: Option<u64>) -> bool {
        number.is_some_and(|number| {
            if self.origin.is_backfill() {
                self.known.contains(number)
            } else {
                self.origin.is_feed() && self.fetched.contains(number)
            }
        })
    }

    /// Adds a stored event.
    pub(super) fn add(&mut self, number: Option<u64>) {
        if let Some(number) = number.filter(|_| self.is_ordered) {
            self.known.insert(number);
            if self.origin.is_backfill() {
                self.fetched.insert(number);
            } else {
                self.fetched.passed(number);
            }
        }
    }

    /// Returns whether the next event follows a later one that another connection has delivered. The order of one connection is
    /// that of the feed, whatever the ids are.
    pub(super) fn is_late(&mut self, number: Option<u64>) -> bool {
        let Some(number) = number.filter(|_| self.is_ordered) else {
            return false;
        };
        if number > self.newest.number {
            *self.newest = Newest {
                number,
                connection: self.connection,
                late: 0,
            };
            return false;
        }
        if self.connection.is_none() {
            return true;
        }
        self.newest.late += 1;
        let is_late = self.connection != self.newest.connection;
        if self.newest.late > MAX_LATE {
            // The feed has restarted its numbers.
            *self.known = NumberSet::default();
            *self.fetched = FetchedNumbers::default();
            *self.newest = Newest {
                number,
                connection: self.connection,
                late: 0,
            };
        }
        is_late
    }
}

impl FetchedNumbers {
    fn contains(&self, number: u64) -> bool {
        self.last.is_some_and(|last| number <= last) && self.numbers.contains(number)
    }

    fn insert(&mut self, number: u64) {
        self.numbers.insert(number);
        self.last = self.last.max(Some(number));
    }

    /// Clears the set if the feed has long passed its largest number.
    fn passed(&mut self, number: u64) {
        if self
            .last
            .is_some_and(|last| number > last.saturating_add(MAX_LATE.into()))
        {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [u64; 0] = [];

    fn late(orders: &mut Orders, origin: Origin, connection: u64, numbers: &[u64]) -> Vec<u64> {
        let mut order = orders.of(&"main".into(), origin, connection);
        let is_late = |number: &u64| order.is_late(Some(*number));
        numbers.iter().copied().filter(is_late).collect()
    }

    #[test]
    fn event_after_a_later_one_of_another_connection_is_late() {
        let mut orders = Orders::default();
        assert_eq!(
            late(&mut orders, Origin::Feed, 1, &[1, 2, 4, 3]),
            NONE,
            "the order of the feed"
        );
        assert_eq!(late(&mut orders, Origin::Feed, 2, &[7, 8]), NONE);
        assert_eq!(late(&mut orders, Origin::Feed, 1, &[5, 6]), [5, 6]);
        assert_eq!(late(&mut orders, Origin::Feed, 1, &[9]), NONE);
        assert_eq!(late(&mut orders, Origin::Backfill, 0, &[8, 10, 11]), [8]);
        assert_eq!(late(&mut orders, Origin::Feed, 1, &[11, 12]), [11]);
        let mut order = orders.of(&"main".into(), Origin::Feed, 1);
        assert!(!order.is_late(None), "no order without a number");
        let mut order = orders.of(&"main".into(), Origin::GapReport, 0);
        assert!(!order.is_late(Some(1)));
        let mut order = orders.of(&"other".into(), Origin::Feed, 1);
        assert!(!order.is_late(Some(1)), "each source has its own order");
    }

    #[test]
    fn feed_that_restarts_its_ids_is_in_order_again() {
        let mut orders = Orders::default();
        orders.add_known_number(&"main".into(), Some(1_000_000));
        let numbers: Vec<u64> = (1..=20_000).collect();
        let found = late(&mut orders, Origin::Feed, 1, &numbers);
        assert_eq!(found.len(), MAX_LATE as usize + 1);
        assert_eq!(late(&mut orders, Origin::Feed, 2, &[20_000, 20_001]), [20_000]);
    }

    #[test]
    fn ids_restarted_on_one_connection_are_in_order() {
        let mut orders = Orders::default();
        assert_eq!(late(&mut orders, Origin::Feed, 1, &[1_000_000]), NONE);
        let numbers: Vec<u64> = (1..=20_000).collect();
        assert_eq!(late(&mut orders, Origin::Feed, 1, &numbers), NONE);
        assert_eq!(late(&mut orders, Origin::Feed, 2, &[20_001]), NONE);
    }

    #[test]
    fn fetched_event_is_known_if_it_was_stored() {
        let mut orders = Orders::default();
        orders.add_known_number(&"main".into(), Some(5));
        orders.of(&"main".into(), Origin::Feed, 1).add(Some(7));
        let order = orders.of(&"main".into(), Origin::Backfill, 0);
        let numbers = [5, 6, 7, 8].map(|number| order.is_known(Some(number)));
        assert_eq!(numbers, [true, false, true, false]);
        assert!(!order.is_known(None));
        let order = orders.of(&"main".into(), Origin::Feed, 1);
        assert!(!order.is_known(Some(7)), "the feed may repeat a number");
        let order = orders.of(&"other".into(), Origin::Backfill, 0);
        assert!(!order.is_known(Some(7)), "each source has its own numbers");
    }

    #[test]
    fn event_of_the_feed_is_known_if_it_was_fetched_recently() {
        let mut orders = Orders::default();
        let main = "main".into();
        for number in [5, 6] {
            orders.of(&main, Origin::LateBackfill, 0).add(Some(number));
        }
        let limit = 6 + u64::from(MAX_LATE);
        orders.of(&main, Origin::Feed, 1).add(Some(limit));
        let order = orders.of(&main, Origin::Feed, 1);
        let numbers = [4, 5, 6, 7].map(|number| order.is_known(Some(number)));
        assert_eq!(numbers, [false, true, true, false]);
        orders.of(&main, Origin::Feed, 1).add(Some(limit + 1));
        let order = orders.of(&main, Origin::Feed, 1);
        assert!(!order.is_known(Some(5)), "the feed has long passed the number");
        let order = orders.of(&main, Origin::Backfill, 0);
        assert!(order.is_known(Some(5)), "a further fetch");
    }

    #[test]
    fn known_numbers_are_cleared_when_the_feed_restarts_its_ids() {
        let mut orders = Orders::default();
        orders.add_known_number(&"main".into(), Some(30_000));
        orders.add_known_number(&"main".into(), Some(1_000_000));
        let numbers: Vec<u64> = (1..=20_000).collect();
        late(&mut orders, Origin::Feed, 1, &numbers);
        let order = orders.of(&"main".into(), Origin::Backfill, 0);
        assert!(!order.is_known(Some(30_000)));
    }

    #[test]
    fn smaller_number_than_in_an_earlier_run_is_late() {
        let mut orders = Orders::default();
        orders.add_known_number(&"main".into(), Some(7));
        orders.add_known_number(&"main".into(), Some(5));
        assert_eq!(late(&mut orders, Origin::Backfill, 0, &[6, 8]), [6]);
        assert_eq!(late(&mut orders, Origin::Feed, 1, &[7, 9]), [7]);
    }
}
