//! The part of a sink that is a member of a cluster.
//!
//! A follower reads the committed records of its topic and settles its own copies of the events that others have published. A
//! takeover fences the last leader by the transactional id, reads the topic to its end, and settles the events whose records it
//! has read.

mod note;
mod reader;
#[cfg(test)]
mod tests;
mod topic_to_read;

use std::time::Instant;

use neurobridge_core::{
    copies::{Copies, CopyCounts, Identity},
    event::{Event, Sequence},
    lead::Lead,
    sink::{Ack, Outcome, PublishError, SinkFault},
};

use self::topic_to_read::Found;
pub(crate) use self::{
    reader::{Limits, RecordReader},
    topic_to_read::{BATCHES, Offsets, TopicToRead, Unread},
};
use crate::positions::Position;

/// The largest number of own events that wait for their records.
const MAX_EXPECTED: usize = 20_000;

/// The membership of a sink: its right to publish, its role, and the records that it has read.
#[derive(Debug)]
pub(crate) struct Membership {
    lead: Lead,
    role: Role,
    copies: Copies,
    /// The outcomes of events whose records were read before the delivery published the events.
    known: Vec<Ack>,
    /// The buffer for the text of an identity.
    text: String,
}

/// The role of a member over the present connection. Each leadership begins with a new connection, because the records of earlier
/// leaders are read while connecting.
#[derive(Debug)]
pub(crate) enum Role {
    /// There is no connection.
    Disconnected,
    /// The member publishes nothing, and expects the records of its events.
    Follower(RecordReader),
    /// The member publishes.
    Leader,
    /// The lease of the leader has ended: it publishes nothing, and waits for the outcomes of the events in flight.
    FormerLeader,
}

impl Membership {
    pub(crate) fn new(lead: Lead) -> Self {
        Self {
            lead,
            role: Role::Disconnected,
            copies: Copies::default(),
            known: Vec::new(),
            text: String::new(),
        }
    }

    /// Returns whether the lease is held, whatever the role.
    pub(crate) fn has_lease(&self) -> bool {
        self.lead.is_held()
    }

    /// Returns whether this member may publish now.
    pub(crate) fn may_publish(&self) -> bool {
        matches!(self.role, Role::Leader) && self.lead.is_held()
    }

    /// Returns the role. A leader whose lease has ended becomes a former leader first.
    pub(crate) fn role(&mut self) -> &Role {
        self.check_lease();
        &self.role
    }

    fn check_lease(&mut self) {
        if matches!(self.role, Role::Leader) && !self.lead.is_held() {
            self.role = Role::FormerLeader;
        }
    }

    /// Sets the role over a new connection.
    pub(crate) fn connected(&mut self, role: Role) {
        if matches!(role, Role::Follower(_)) {
            self.copies.follow();
        }
        self.role = role;
    }

    /// Returns why a follower does not receive the records of others.
    pub(crate) fn unavailable(&self) -> Option<SinkFault> {
        match &self.role {
            Role::Follower(reader) => reader.unavailable(),
            Role::Disconnected | Role::Leader | Role::FormerLeader => None,
        }
    }

    /// Returns an event as this member publishes it now.
    pub(crate) fn published<'a>(&mut self, event: &Event<'a>) -> Event<'a> {
        self.copies.count_possible_duplicate(event.received_at);
        self.copies.with_origin(event)
    }

    /// Returns the buffer for the text of an identity.
    pub(crate) const fn text(&mut self) -> &mut String {
        &mut self.text
    }

    /// Returns whether this member has to publish the event whose identity is in [`text`](Self::text). An event that has a record
    /// already, or is expected to have one later, is accepted without being published.
    ///
    /// # Errors
    /// There is no connection, too many events are expected, or the lease has ended.
    pub(crate) fn must_publish(&mut self, sequence: Sequence) -> Result<bool, PublishError> {
        let identity = Identity::of(&self.text);
        self.check_lease();
        let (is_stored, is_leader) = match self.role {
            Role::Disconnected => return Err(SinkFault::not_connected().into()),
            Role::FormerLeader => return Err(PublishError::Full),
            Role::Leader => (self.copies.has_message(sequence, identity), true),
            Role::Follower(_) if self.copies.expected() >= MAX_EXPECTED => return Err(PublishError::Full),
            Role::Follower(_) => (self.copies.expect(sequence, identity), false),
        };
        if is_stored {
            self.known.push(duplicate(sequence));
        }
        Ok(is_leader && !is_stored)
    }

    /// Moves the outcomes of events that have records already into `acks`. Returns whether there were any.
    pub(crate) fn take_known(&mut self, acks: &mut Vec<Ack>) -> bool {
        let has_any = !self.known.is_empty();
        acks.append(&mut self.known);
        has_any
    }

    /// Prepares for another connection: every event without an outcome is read from the spool again.
    pub(crate) fn restart(&mut self) {
        self.role = Role::Disconnected;
        self.known.clear();
        self.copies.restart();
    }

    /// Returns the counts of this member.
    pub(crate) const fn counts(&self) -> CopyCounts {
        self.copies.counts()
    }

    /// Sets the part of the topic that is read over a new connection. An offset before the known one shows that the topic was
    /// recreated, so all state of the earlier topic is discarded.
    pub(crate) fn begin(&mut self, Unread { offsets, ends }: &Unread) {
        let is_before =
            |(partition, next): (&u32, &u64)| self.copies.next(*partition).is_some_and(|known| *next < known);
        if offsets.iter().any(is_before) {
            self.copies.reset();
        }
        self.read_to(offsets);
        let now = Instant::now();
        for (&partition, &end) in ends {
            self.copies.ends_at(partition, end, now);
        }
    }

    fn read_to(&mut self, offsets: &Offsets) {
        for (&partition, &next) in offsets {
            self.copies.read_to(partition, next);
        }
    }

    /// Returns the offsets at which reading continues: in this process, otherwise those stored with the cursor.
    pub(crate) fn resume_offsets(&self, note: Option<&str>, partitions: usize) -> Offsets {
        let stored = note::offsets(note, partitions);
        partition_numbers(partitions)
            .filter_map(|partition| {
                let next = self
                    .copies
                    .next(partition)
                    .or_else(|| stored.get(&partition).copied())?;
                Some((partition, next))
            })
            .collect()
    }

    /// Settles events by the records of other members. Returns with an outcome, or when the lease is held. Cancel-safe.
    pub(crate) async fn outcomes(&mut self, acks: &mut Vec<Ack>) -> Result<(), SinkFault> {
        let Role::Follower(reader) = &mut self.role else {
            return Ok(());
        };
        if acks.is_empty() {
            // The previous outcomes are settled only now: if the connection had ended before the delivery took them, they would
            // be lost.
            self.copies.settled(self.copies.first_open());
        }
        while acks.is_empty() {
            tokio::select! {
                biased;
                () = self.lead.held() => return Ok(()),
                // While the copies are full, only further own events, which the delivery publishes, or the lease end the wait.
                ready = reader.ready(), if !self.copies.is_full() => ready?,
            }
            while !self.copies.is_full()
                && let Some(found) = reader.next()
            {
                acks.extend(settle(&mut self.copies, found));
            }
        }
        Ok(())
    }

    /// Settles events by records that were read at a takeover. Beyond the limit on records without an own event, the oldest of
    /// these records are discarded.
    pub(crate) fn read(&mut self, found: Vec<Found>) {
        for found in found {
            // No event is expected at a takeover: each one is published again later, and its record is found then.
            settle(&mut self.copies, found);
        }
    }

    /// Records that the topic was read up to these offsets, and that this member leads. `in_flight`: see [`Copies::lead`].
    pub(crate) fn taken_over(&mut self, ends: &Offsets, in_flight: u64) {
        self.read_to(ends);
        self.copies.lead(in_flight);
    }

    /// Records that the own records up to these offsets are acknowledged.
    pub(crate) fn acknowledged(&mut self, ends: &Offsets) {
        self.read_to(ends);
        self.copies.settled(self.copies.first_open());
    }

    /// Records that the own records up to these offsets are committed, and that no event before `next` is read from the spool
    /// again.
    pub(crate) fn committed(&mut self, ends: &Offsets, next: Sequence) {
        self.read_to(ends);
        self.copies.settled(next);
    }

    /// Returns the text to store with the cursor.
    pub(crate) fn note(&self, position: Option<Position>, partitions: usize) -> Option<String> {
        let offsets: Vec<u64> = partition_numbers(partitions)
            .map_while(|partition| self.copies.resume(partition))
            .collect();
        note::text(position, &offsets)
    }
}

/// Settles an expected event by a record, and returns the outcome of the event.
fn settle(copies: &mut Copies, found: Found) -> Option<Ack> {
    let Found { position, identity } = found;
    let Some(identity) = identity else {
        copies.read_to(position.partition, position.offset + 1);
        return None;
    };
    copies.read(position, identity).map(duplicate)
}

const fn duplicate(sequence: Sequence) -> Ack {
    Ack {
        sequence,
        outcome: Outcome::Duplicate,
    }
}

/// Returns the numbers of the partitions of a topic.
fn partition_numbers(partitions: usize) -> std::ops::Range<u32> {
    0..u32::try_from(partitions).unwrap_or(u32::MAX)
}
