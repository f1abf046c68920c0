//! A model of takeovers: members with logs of different order and content, and one destination.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// An event of the feed. Its id is its position there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Item {
    id: usize,
    key: u8,
}

fn identity(item: Item) -> Identity {
    Identity::of(&format!("main/{}", item.id))
}

fn position(offset: usize) -> MessagePosition {
    MessagePosition {
        partition: 0,
        offset: offset as u64,
    }
}

/// A message of the destination, and the member that published it.
#[derive(Clone, Copy, Debug)]
struct Message {
    item: Item,
    publisher: usize,
    is_late: bool,
}

/// A member with the window of its delivery.
struct Member {
    number: usize,
    log: Vec<Item>,
    /// The number of events of the log that were received so far.
    received: usize,
    copies: Copies,
    /// The settled events after the cursor; lost in a crash.
    settled: BTreeSet<usize>,
    cursor: usize,
    /// The number of events that were read from the log.
    read: usize,
    /// The cursor on disk, and the position stored with it.
    saved: (usize, Option<u64>),
    discarded: u64,
}

fn sequence(index: usize) -> Sequence {
    Sequence::FIRST.plus(index as u64)
}

impl Member {
    fn new(number: usize, log: Vec<Item>, limit: usize) -> Self {
        Self {
            number,
            log,
            received: 0,
            copies: Copies::with_limit(limit),
            settled: BTreeSet::new(),
            cursor: 0,
            read: 0,
            saved: (0, None),
            discarded: 0,
        }
    }

    fn settle(&mut self, index: usize) {
        self.settled.insert(index);
        while self.settled.remove(&self.cursor) {
            self.cursor += 1;
        }
    }

    fn save(&mut self) {
        self.copies.settled(self.copies.first_open());
        self.saved = (self.cursor, self.copies.resume(0));
    }

    fn crash(&mut self) {
        self.discarded += self.copies.counts().discarded_messages;
        self.copies = Copies::with_limit(self.copies.max_unmatched);
        (self.cursor, self.read) = (self.saved.0, self.saved.0);
        self.copies.read_to(0, self.saved.1.unwrap_or(0));
        self.settled.clear();
    }

    fn read_own(&mut self, events: usize) {
        for index in self.read..self.received.min(self.read + events) {
            self.read = index + 1;
            if !self.settled.contains(&index)
                && self.copies.expect(sequence(index), identity(self.log[index]))
            {
                self.settle(index);
            }
        }
    }

    fn read_destination(&mut self, destination: &[Message], messages: usize) {
        let next = self.copies.next(0).unwrap_or(0) as usize;
        for (offset, message) in destination.iter().enumerate().skip(next).take(messages) {
            if let Some(settled) = self.copies.read(position(offset), identity(message.item)) {
                self.settle(settled.get() as usize - 1);
            }
        }
    }

    /// Takes over: reads the destination to its end, settles, and publishes up to this number of events.
    fn lead(&mut self, destination: &mut Vec<Message>, events: usize) {
        self.read_destination(destination, usize::MAX);
        self.copies.restart();
        self.copies.lead(0);
        let mut published = 0;
        for index in self.cursor..self.received {
            if index < self.cursor || self.settled.contains(&index) {
                continue;
            }
            let item = self.log[index];
            if !self.copies.has_message(sequence(index), identity(item)) {
                if published == events {
                    break;
                }
                published += 1;
                let event = Event {
                    sequence: sequence(index),
                    ..crate::testing::event(r#"{"id":1,"data":{}}"#)
                };
                destination.push(Message {
                    item,
                    publisher: self.number,
                    is_late: self.copies.with_origin(&event).origin.is_late(),
                });
                self.copies.read_to(0, destination.len() as u64);
            }
            self.settle(index);
        }
        self.copies.restart();
        self.read = self.cursor;
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Receive(usize),
    ReadOwn(usize),
    ReadDestination(usize),
    Save,
    Crash,
    Lead(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..20usize).prop_map(Step::Receive),
        (1..20usize).prop_map(Step::ReadOwn),
        (1..20usize).prop_map(Step::ReadDestination),
        Just(Step::Save),
        Just(Step::Crash),
        (0..15usize).prop_map(Step::Lead),
    ]
}

/// The log of a member: a part of the feed, with the events of each key in order and the keys in any order to each other.
fn log(keys: Vec<u8>) -> impl Strategy<Value = Vec<Item>> {
    let count = keys.len();
    let picks = prop::collection::vec((any::<u8>(), prop::bool::weighted(0.9)), count);
    picks.prop_map(move |picks| {
        let mut waiting: BTreeMap<u8, Vec<Item>> = BTreeMap::new();
        for (id, key) in keys.iter().enumerate().rev() {
            waiting.entry(*key).or_default().push(Item { id, key: *key });
        }
        let mut log = Vec::new();
        for (pick, is_received) in picks {
            let keys: Vec<u8> = waiting.keys().copied().collect();
            let key = keys[usize::from(pick) % keys.len()];
            let items = waiting.get_mut(&key).unwrap();
            log.extend(items.pop().filter(|_| is_received));
            if items.is_empty() {
                waiting.remove(&key);
            }
        }
        log
    })
}

fn history() -> impl Strategy<Value = (Vec<Vec<Item>>, Vec<(usize, Step)>)> {
    let keys = prop::collection::vec(0..4u8, 1..60);
    keys.prop_flat_map(|keys| {
        let logs = prop::collection::vec(log(keys), 2..=3);
        let steps = prop::collection::vec((any::<prop::sample::Index>(), step()), 0..60);
        (logs, steps).prop_map(|(logs, steps)| {
            let members = logs.len();
            let steps = steps
                .into_iter()
                .map(|(member, step)| (member.index(members), step));
            (logs, steps.collect())
        })
    })
}

/// Runs a history, then lets each member lead until all of its events are settled. Returns the destination and the number of
/// messages that members discarded.
fn run(logs: &[Vec<Item>], steps: &[(usize, Step)], limit: usize) -> (Vec<Message>, u64) {
    let members = logs.iter().enumerate();
    let mut members: Vec<Member> = members
        .map(|(number, log)| Member::new(number, log.clone(), limit))
        .collect();
    let mut destination = Vec::new();
    for (member, step) in steps {
        let member = &mut members[*member];
        match *step {
            Step::Receive(events) => member.received = member.log.len().min(member.received + events),
            Step::ReadOwn(events) => member.read_own(events),
            Step::ReadDestination(messages) => member.read_destination(&destination, messages),
            Step::Save => member.save(),
            Step::Crash => member.crash(),
            Step::Lead(events) => member.lead(&mut destination, events),
        }
    }
    for member in &mut members {
        member.received = member.log.len();
        member.lead(&mut destination, usize::MAX);
        assert_eq!(member.cursor, member.log.len(), "all events are settled");
        member.discarded += member.copies.counts().discarded_messages;
    }
    let discarded = members.iter().map(|member| member.discarded).sum();
    (destination, discarded)
}

fn copies_of(destination: &[Message]) -> BTreeMap<usize, u64> {
    let mut copies = BTreeMap::new();
    for message in destination {
        *copies.entry(message.item.id).or_default() += 1;
    }
    copies
}

fn all_ids(logs: &[Vec<Item>]) -> BTreeSet<usize> {
    logs.iter().flatten().map(|item| item.id).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn takeovers_keep_each_event_once_and_each_key_in_order((logs, steps) in history()) {
        let (destination, discarded) = run(&logs, &steps, MAX_UNMATCHED);
        prop_assert_eq!(discarded, 0);
        let copies = copies_of(&destination);
        let ids: BTreeSet<usize> = copies.keys().copied().collect();
        prop_assert_eq!(ids, all_ids(&logs));
        prop_assert!(copies.values().all(|copies| *copies == 1), "{:?}", copies);
        for (at, later) in destination.iter().enumerate() {
            for earlier in &destination[at + 1..] {
                let is_inverted = later.item.key == earlier.item.key && later.item.id > earlier.item.id;
                // The publisher of the later event never received the earlier one.
                let was_unknown = !logs[later.publisher].contains(&earlier.item);
                prop_assert!(!is_inverted || was_unknown, "{later:?} precedes {earlier:?}");
                prop_assert!(!is_inverted || earlier.is_late, "{earlier:?} is not marked");
            }
        }
    }

    #[test]
    fn duplicates_do_not_exceed_discarded_messages((logs, steps) in history()) {
        let (destination, discarded) = run(&logs, &steps, 3);
        let copies = copies_of(&destination);
        let ids: BTreeSet<usize> = copies.keys().copied().collect();
        prop_assert_eq!(ids, all_ids(&logs));
        let duplicates: u64 = copies.values().map(|copies| copies - 1).sum();
        prop_assert!(duplicates <= discarded, "{duplicates} duplicates, {discarded} discarded");
    }
}

#[test]
fn resume_waits_for_events_without_a_message() {
    let mut copies = Copies::default();
    let [first, second, third] = [1, 2, 3].map(|number| sequence(number - 1));
    let [a, b, c] = ["main/1", "main/2", "main/3"].map(Identity::of);
    assert_eq!(copies.resume(0), None);
    assert!(!copies.expect(first, a) && !copies.expect(second, b));
    // The second event is settled before the first: its message has to be read again after a restart.
    assert_eq!(copies.read(position(7), b), Some(second));
    copies.settled(copies.first_open());
    assert_eq!((copies.first_open(), copies.resume(0)), (first, Some(7)));
    assert_eq!(copies.read(position(8), a), Some(first));
    copies.settled(copies.first_open());
    assert_eq!(copies.resume(0), Some(9));
    // A message before its event.
    assert_eq!(copies.read(position(9), c), None);
    assert_eq!(copies.resume(0), Some(9));
    assert!(copies.expect(third, c));
    copies.settled(copies.first_open());
    assert_eq!(copies.resume(0), Some(10));
}

#[test]
fn restart_remembers_an_event_settled_after_an_open_one() {
    let mut copies = Copies::default();
    let [first, second] = [0, 1].map(sequence);
    let [a, b] = ["main/1", "main/2"].map(Identity::of);
    assert!(!copies.expect(first, a) && !copies.expect(second, b));
    assert_eq!(copies.read(position(3), b), Some(second));
    copies.restart();
    copies.settled(copies.first_open());
    assert_eq!(copies.resume(0), Some(3), "the first event is still open");
    assert!(!copies.has_message(first, a) && copies.has_message(second, b));
}

#[test]
fn message_whose_event_never_arrives_limits_reading_again() {
    let mut copies = Copies::default();
    copies.read(position(5), Identity::of("main/never"));
    copies.read_to(0, 6 + MAX_READ_AGAIN);
    assert_eq!(copies.resume(0), Some(6));
}

#[test]
fn event_before_a_published_one_is_marked_as_late() {
    let mut copies = Copies::default();
    let [a, b] = ["main/1", "main/2"].map(Identity::of);
    let of = |index, received_at| Event {
        sequence: sequence(index),
        received_at,
        ..crate::testing::event(r#"{"id":1,"data":{}}"#)
    };
    let (before, long_after) = (Timestamp::UNIX_EPOCH, clock::now() + 2 * MAX_RECEIPT_SKEW);
    let is_late = |copies: &Copies, index, time| copies.with_origin(&of(index, time)).origin.is_late();
    copies.lead(0);
    assert!(!is_late(&copies, 0, before), "no message precedes it");
    copies.read(position(0), b);
    copies.lead(0);
    assert!(!copies.has_message(sequence(0), a));
    assert!(
        is_late(&copies, 0, before),
        "the message may be of a later own event"
    );
    assert!(copies.has_message(sequence(1), b));
    assert!(is_late(&copies, 0, long_after), "a later own event has a message");
    assert!(!is_late(&copies, 2, long_after));
    assert!(!is_late(&copies, 2, before), "each message is of an own event");
    // The event of a message that is never received.
    copies.read(position(1), Identity::of("main/other"));
    copies.lead(0);
    assert!(is_late(&copies, 2, clock::now()));
    assert!(
        !is_late(&copies, 2, long_after),
        "received after the message was read"
    );
    // After a restart messages are read again whose own events were settled before.
    let mut copies = Copies::default();
    let ago = Duration::from_secs(60);
    copies.ends_at(0, 2, Instant::now() - ago);
    copies.read(position(1), b);
    copies.lead(0);
    let between = clock::now() + MAX_RECEIPT_SKEW - ago / 2;
    assert!(
        is_late(&copies, 0, between - ago),
        "received before the connection"
    );
    assert!(!is_late(&copies, 0, between), "published before the connection");
    copies.read(position(2), a);
    copies.lead(0);
    assert!(is_late(&copies, 0, between), "published after the connection");
}

#[test]
fn events_that_the_former_leader_may_have_in_flight_are_counted() {
    let mut copies = Copies::default();
    let possible = |copies: &Copies| copies.counts().possible_duplicates;
    copies.count_possible_duplicate(clock::now());
    copies.lead(2);
    let before = clock::now() - MAX_RECEIPT_SKEW;
    copies.count_possible_duplicate(clock::now() + 30 * MAX_RECEIPT_SKEW);
    assert_eq!(possible(&copies), 0, "received after the takeover");
    for expected in [1, 2, 2] {
        copies.count_possible_duplicate(before);
        assert_eq!(possible(&copies), expected);
    }
    copies.lead(2);
    copies.count_possible_duplicate(before);
    assert_eq!(possible(&copies), 2, "it has led before");
    copies.follow();
    copies.lead(0);
    copies.count_possible_duplicate(before);
    assert_eq!(possible(&copies), 2, "the destination refuses messages in flight");
    copies.reset();
    copies.lead(1);
    copies.count_possible_duplicate(before);
    assert_eq!(possible(&copies), 3);
}

#[test]
fn restart_keeps_a_full_follower_from_reading() {
    let mut copies = Copies::with_limit(2);
    let missed = Identity::of("main/missed");
    copies.expect(sequence(0), missed);
    for number in 0..2 {
        copies.read(position(number), Identity::of(&format!("main/{number}")));
    }
    assert!(copies.is_full());
    copies.restart();
    copies.expect(sequence(0), missed);
    assert!(copies.is_full());
}

#[test]
fn expected_event_stops_reading_before_a_message_is_discarded() {
    let mut copies = Copies::with_limit(2);
    let read = |copies: &mut Copies, number: usize| {
        copies.read(position(number), Identity::of(&format!("main/{number}")));
    };
    read(&mut copies, 0);
    read(&mut copies, 1);
    assert!(!copies.expect(sequence(0), Identity::of("main/missed")));
    // The first two messages are of events that the own feed did not have.
    for number in 2..4 {
        assert!(!copies.is_full(), "{number}");
        read(&mut copies, number);
    }
    assert_eq!((copies.is_full(), copies.counts().discarded_messages), (true, 2));
    // Without expected events, as at a takeover, the oldest message is discarded.
    copies.restart();
    assert!(!copies.is_full());
    read(&mut copies, 4);
    assert_eq!(copies.counts().discarded_messages, 3);
    copies.reset();
    assert_eq!((copies.counts().discarded_messages, copies.next(0)), (3, None));
}

#[test]
fn second_copy_in_the_own_log_is_settled_with_the_first() {
    let mut copies = Copies::default();
    let identity = Identity::of("main/1");
    assert!(!copies.expect(sequence(0), identity));
    assert!(copies.expect(sequence(1), identity));
    assert!(
        !copies.expect(sequence(0), identity),
        "the first one is still expected"
    );
    assert_eq!(copies.read(position(0), identity), Some(sequence(0)));
}
