//! Settles the own copies of events that another member of the cluster has published.
//!
//! Every member of a cluster stores every event, and one of them publishes. The others read the destination and match its
//! messages with their own events by identity. A message may be read before or after its event is received over the own
//! connection. A member that becomes the leader reads the destination to its end and publishes the events that have no message
//! there.
//!
//! The state is bounded: an own event is expected only while the delivery counts it as in flight, and messages without an own
//! event are discarded beyond a limit, the oldest first. After a restart the destination is read again from
//! [`Copies::resume`] on, which is stored with the cursor.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use xxhash_rust::xxh3;

use crate::{
    clock,
    event::{Event, Sequence},
};

/// The largest number of messages without an own event. Reached by a member that did not receive the events that the others
/// received. A million messages take some 80 MB.
const MAX_UNMATCHED: usize = 1 << 20;
/// The largest number of messages of a partition that are read again after a restart because some of them have no own event.
/// Reading them takes some seconds.
const MAX_READ_AGAIN: u64 = 1 << 20;

/// The largest difference between the times at which two members receive the same event.
const MAX_RECEIPT_SKEW: Duration = Duration::from_secs(2);

/// A hash of the identity of an event, as the header of its message contains it. It has 128 bits, because a collision would
/// lose an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity(u128);

impl Identity {
    /// Returns the hash of the text of an identity.
    pub fn of(text: &str) -> Self {
        Self(xxh3::xxh3_128(text.as_bytes()))
    }
}

/// The position of a message in the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MessagePosition {
    /// The partition of a topic; 0 for a stream.
    pub partition: u32,
    /// The offset of the message in the partition, or its sequence in the stream.
    pub offset: u64,
}

/// The numbers of events that may be published twice by the members of a cluster. They never decrease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyCounts {
    /// The messages that were discarded before their events were received, because there were too many. Such an event may
    /// be published twice if it is received later.
    pub discarded_messages: u64,
    /// The events published after a takeover that the former leader may have had in flight. Each of them may be in the
    /// destination twice.
    pub possible_duplicates: u64,
}

impl CopyCounts {
    /// Returns the larger one of each count.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            discarded_messages: self.discarded_messages.max(other.discarded_messages),
            possible_duplicates: self.possible_duplicates.max(other.possible_duplicates),
        }
    }
}

/// Matches own events with the messages of the destination.
#[derive(Debug)]
pub struct Copies {
    /// The own events that were read from the spool and have no message yet, each with the value of `read` when it was added.
    expected: BTreeMap<Sequence, (Identity, u64)>,
    expected_by: HashMap<Identity, Sequence>,
    /// The positions of the messages of own events that may be read from the spool again, by event and by position.
    matched: BTreeMap<Sequence, MessagePosition>,
    matched_positions: BTreeSet<MessagePosition>,
    /// The messages without an own event, each with a time before which it was published.
    unmatched: BTreeMap<MessagePosition, (Identity, Instant)>,
    unmatched_by: HashMap<Identity, MessagePosition>,
    /// The first offset of each partition that was not read.
    next: BTreeMap<u32, u64>,
    /// The end of each partition that the last connection found, and a time before which the messages up to this end were
    /// published.
    ends: BTreeMap<u32, (u64, Instant)>,
    /// The last own event that has a message.
    newest_matched: Option<Sequence>,
    /// The time until which a leader marks received events as late; `None` if each message has an own event.
    late_if_received_before: Option<Timestamp>,
    /// The first own event that was not read from the spool since the last restart.
    next_own: Sequence,
    max_unmatched: usize,
    /// The first event that was expected before the last restart, with the value of `read` when it was added.
    waits_since: Option<(Sequence, u64)>,
    /// The number of messages that were read before their event.
    read: u64,
    /// The events that the former leader may still have in flight: the latest time of their receipt, and their largest number.
    /// `None` before this member has led.
    in_flight: Option<(Timestamp, u64)>,
    /// Whether this member has followed since it last led.
    has_followed: bool,
    counts: CopyCounts,
}

impl Default for Copies {
    fn default() -> Self {
        Self::with_limit(MAX_UNMATCHED)
    }
}

impl Copies {
    /// Creates the state of a member that has read nothing yet, with another limit on messages without an own event.
    pub fn with_limit(max_unmatched: usize) -> Self {
        Self {
            expected: BTreeMap::new(),
            expected_by: HashMap::new(),
            matched: BTreeMap::new(),
            matched_positions: BTreeSet::new(),
            unmatched: BTreeMap::new(),
            unmatched_by: HashMap::new(),
            next: BTreeMap::new(),
            ends: BTreeMap::new(),
            newest_matched: None,
            late_if_received_before: None,
            next_own: Sequence::FIRST,
            max_unmatched,
            waits_since: None,
            read: 0,
            in_flight: None,
            has_followed: true,
            counts: CopyCounts::default(),
        }
    }

    /// Returns whether an own event has a message in the part of the destination that was read. Such an event must not be
    /// published.
    pub fn has_message(&mut self, sequence: Sequence, identity: Identity) -> bool {
        self.next_own = self.next_own.max(sequence.next());
        if self.matched.contains_key(&sequence) {
            return true;
        }
        let Some(position) = self.unmatched_by.remove(&identity) else {
            return false;
        };
        self.unmatched.remove(&position);
        self.matched(sequence, position);
        if self.late_if_received_before.is_some() {
            self.late_if_received_before = self.latest_unmatched();
        }
        true
    }

    fn matched(&mut self, sequence: Sequence, position: MessagePosition) {
        self.matched.insert(sequence, position);
        self.matched_positions.insert(position);
        self.newest_matched = self.newest_matched.max(Some(sequence));
    }

    /// Records that this member leads: the destination is read to its end. `in_flight`: the largest number of messages of
    /// the former leader that may be stored later; 0 if the destination refuses them.
    ///
    /// If a message has no own event, this member has not yet read the event from its spool, or has not yet received it.
    /// The publisher received the event before it published the message, so an own event that was received much later than
    /// the message is later in the feed. Own events that were received earlier are marked as late, until the message is
    /// matched.
    pub fn lead(&mut self, in_flight: u64) {
        self.late_if_received_before = self.latest_unmatched();
        if std::mem::take(&mut self.has_followed) {
            self.in_flight = Some((clock::now() + MAX_RECEIPT_SKEW, in_flight));
        }
    }

    /// Records that another member may lead.
    pub const fn follow(&mut self) {
        self.has_followed = true;
    }

    /// Counts an event that this member publishes, if the former leader may have it in flight.
    pub fn count_possible_duplicate(&mut self, received_at: Timestamp) {
        if let Some((until, in_flight)) = &mut self.in_flight
            && received_at <= *until
            && *in_flight > 0
        {
            *in_flight -= 1;
            self.counts.possible_duplicates += 1;
        }
    }

    /// Returns the latest time of receipt of an own event that may precede, in the feed, the event of a message without an own
    /// event. `None` if there is no such message.
    fn latest_unmatched(&self) -> Option<Timestamp> {
        // The messages of a partition are read in order, so the last one has the latest time.
        let last_of_partition = |partition: &u32| {
            let positions = MessagePosition {
                partition: *partition,
                offset: 0,
            }..=MessagePosition {
                partition: *partition,
                offset: u64::MAX,
            };
            self.unmatched
                .range(positions)
                .next_back()
                .map(|(_, (_, published_before))| *published_before)
        };
        let last = self.next.keys().filter_map(last_of_partition).max()?;
        let age = SignedDuration::try_from(last.elapsed()).unwrap_or(SignedDuration::MAX);
        Some(clock::now().saturating_sub(age).unwrap_or(Timestamp::MIN) + MAX_RECEIPT_SKEW)
    }

    /// Returns the event with the origin that the leader publishes: marked as late if the destination may contain a later
    /// event, which another member published without having received this one.
    #[must_use]
    pub fn with_origin<'a>(&self, event: &Event<'a>) -> Event<'a> {
        let is_late = self.newest_matched > Some(event.sequence)
            || self.late_if_received_before >= Some(event.received_at);
        let origin = event.origin;
        Event {
            origin: if is_late { origin.into_late() } else { origin },
            ..*event
        }
    }

    /// As [`has_message`](Self::has_message), for a member that does not publish: an event without a message is expected to
    /// have one later.
    pub fn expect(&mut self, sequence: Sequence, identity: Identity) -> bool {
        if self.has_message(sequence, identity) {
            return true;
        }
        match self.expected_by.get(&identity) {
            // The log has two copies of one event: the first one stands for both.
            Some(&first) => first != sequence,
            None => {
                self.expected_by.insert(identity, sequence);
                // A restart does not shorten the wait of an event that was expected before the restart.
                let before = self.waits_since.filter(|(first, _)| sequence <= *first);
                let read = before.map_or(self.read, |(_, read)| read);
                self.expected.insert(sequence, (identity, read));
                false
            }
        }
    }

    /// Records a message of the destination. Returns the expected event that it settles.
    pub fn read(&mut self, position: MessagePosition, identity: Identity) -> Option<Sequence> {
        self.read_to(position.partition, position.offset + 1);
        if let Some(sequence) = self.expected_by.remove(&identity) {
            self.expected.remove(&sequence);
            self.matched(sequence, position);
            return Some(sequence);
        }
        // The first message of an identity is kept: after a restart, reading from its position on includes the later ones.
        if let std::collections::hash_map::Entry::Vacant(entry) = self.unmatched_by.entry(identity) {
            entry.insert(position);
            self.read += 1;
            let end = self.ends.get(&position.partition);
            let before_end = end.filter(|(end, _)| position.offset < *end);
            let published_before = before_end.map_or_else(Instant::now, |(_, at)| *at);
            self.unmatched.insert(position, (identity, published_before));
            if self.unmatched.len() > self.max_unmatched {
                self.discard_oldest(position.partition);
            }
        }
        None
    }

    fn discard_oldest(&mut self, partition: u32) {
        let oldest = self
            .unmatched
            .range(MessagePosition { partition, offset: 0 }..)
            .next();
        if let Some((&position, &(identity, _))) = oldest {
            self.unmatched.remove(&position);
            self.unmatched_by.remove(&identity);
            self.counts.discarded_messages += 1;
        }
    }

    /// Records that a partition was read up to the offset `next` (exclusive), including offsets without the message of an event.
    pub fn read_to(&mut self, partition: u32, next: u64) {
        let known = self.next.entry(partition).or_default();
        *known = (*known).max(next);
    }

    /// Records the end of a partition that was found at a new connection: the messages before it were published before `at`,
    /// also those that are read again after a restart.
    pub fn ends_at(&mut self, partition: u32, end: u64, at: Instant) {
        self.ends.insert(partition, (end, at));
    }

    /// Returns the first offset of a partition that was not read; `None` if nothing was read.
    pub fn next(&self, partition: u32) -> Option<u64> {
        self.next.get(&partition).copied()
    }

    /// Clears the expected events, because they are read from the spool again. Until the first one is read, all own events count
    /// as open.
    pub fn restart(&mut self) {
        let first = self.expected.first_key_value();
        self.waits_since = first
            .map(|(sequence, (_, read))| (*sequence, *read))
            .or(self.waits_since);
        self.expected.clear();
        self.expected_by.clear();
        self.next_own = Sequence::FIRST;
    }

    /// Returns the number of own events that are expected to have a message later.
    pub fn expected(&self) -> usize {
        self.expected.len()
    }

    /// Returns the first own event that has no known message, or was not read from the spool since the last restart.
    pub fn first_open(&self) -> Sequence {
        let first = self.expected.first_key_value();
        first.map_or(self.next_own, |(first, _)| *first)
    }

    /// Records that no own event before this one is read from the spool again.
    pub fn settled(&mut self, before: Sequence) {
        let left = self.matched.split_off(&before);
        for position in std::mem::replace(&mut self.matched, left).values() {
            self.matched_positions.remove(position);
        }
    }

    /// Returns the offset from which a partition has to be read again by a delivery that starts at the present cursor. `None`
    /// if the partition was not read.
    pub fn resume(&self, partition: u32) -> Option<u64> {
        let next = self.next(partition)?;
        let first = |position: Option<&MessagePosition>| {
            let of_partition = position.filter(|position| position.partition == partition);
            of_partition.map_or(next, |position| position.offset)
        };
        let from = MessagePosition { partition, offset: 0 }..;
        let matched = first(self.matched_positions.range(from.clone()).next());
        let unmatched = first(self.unmatched.range(from).next().map(|(position, _)| position));
        // An event that never arrives must not make each restart read the destination from its message on.
        let unmatched = unmatched.max(next.saturating_sub(MAX_READ_AGAIN));
        Some(next.min(matched).min(unmatched))
    }

    /// Returns whether a follower has to stop reading the destination: since the oldest expected event was added, as many
    /// messages without an own event were read as the limit allows. These messages may be of later own events, which the
    /// delivery cannot read from the spool meanwhile. Messages that were read before the oldest expected event are
    /// discarded instead, because their events were not received.
    pub fn is_full(&self) -> bool {
        let waits_since = self.expected.first_key_value().map(|(_, (_, read))| *read);
        let limit = self.max_unmatched as u64;
        self.unmatched.len() >= self.max_unmatched
            && waits_since.is_some_and(|since| self.read - since >= limit)
    }

    /// Discards the state except for the counts, because the destination was recreated.
    pub fn reset(&mut self) {
        *self = Self {
            counts: self.counts,
            ..Self::with_limit(self.max_unmatched)
        };
    }

    /// Returns the counts since this state was created.
    pub const fn counts(&self) -> CopyCounts {
        self.counts
    }
}

#[cfg(test)]
mod tests;
