//! Strict order: each message states which message has to be the last one in the stream.
//!
//! The place of a message is its sequence in the stream. The first message of a connection expects the place of the stream's
//! last message at the time of the connection (`Nats-Expected-Last-Sequence`), whether that message is foreign, has no id, or
//! is purged. Each later message expects the place of the message before it, and in a stream of one replica also the id of
//! that message ([`ChainedBy`]), so that after a missing message all later ones are refused.
//!
//! Each message has a [`HEADER`] with its sequence in the spool. The next connection reads this header to find out which
//! events are stored, and does not send them again. This works for as long as the stream keeps the message, however long an
//! outage lasts, and does not need the server's duplicate window.
//!
//! A replay publishes into the stream while no bridge runs. It does not chain its messages. Each of them repeats the header
//! of the last own message before the replay, so the next bridge finds the last stored event however long the replay was.
//! With [`ChainedBy::Place`] and a replay longer than the look-back, the next bridge finds only that event; events in flight at a
//! kill before the replay are then sent again.

use std::collections::BTreeSet;

use neurobridge_core::{
    epoch::{Epoch, Epochs},
    event::Sequence,
    identity::SpoolId,
};

use crate::{headers::Headers, in_flight::Role};

/// The header with the spool, the sink and the sequence of an event. It contains the sink, so that two sinks with the same
/// stream distinguish their messages.
pub(crate) const HEADER: &str = "Neurobridge-Chain";

const EXPECTED_ID: &str = "Nats-Expected-Last-Msg-Id";
const EXPECTED_PLACE: &str = "Nats-Expected-Last-Sequence";

/// How a message refers to the message before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChainedBy {
    /// By id and place, for a stream of one replica. A message is stored only after all messages sent before it. With the id
    /// alone, a message would be stored after a refused one if a duplicate between them is the stream's last message; with the
    /// place alone, if the message of another publisher has taken the place of the refused one.
    Id,
    /// By place alone, for a stream of several replicas. A replica that catches up does not learn the last id (nats-server
    /// 2.15.2, from its source and by experiment): it then refuses messages that the others have stored, and the stream lacks a
    /// replica until that server is restarted. Since the message of another publisher can take the place of a refused one, a
    /// stored event does not prove that earlier events are stored. A refused event is sent again, and stored late.
    Place,
}

/// The end of the stream at the time of the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// The place of the last message ever stored.
    pub(crate) place: u64,
    pub(crate) by: ChainedBy,
    /// The own events, the last one in the stream first. With [`ChainedBy::Id`] only the last one; with [`ChainedBy::Place`]
    /// all that were found.
    pub(crate) own_events: Vec<Sequence>,
    /// The end of the log in an earlier epoch, if the stream has later events of it: their sequences now belong to other
    /// events.
    pub(crate) log_end: Option<Sequence>,
    /// Whether the last message is an own one.
    pub(crate) is_last_own: bool,
}

/// An owned [`Owner`].
#[derive(Clone, Debug)]
pub(crate) struct Ownership {
    sink: String,
    spool: SpoolId,
    epochs: Epochs,
}

impl Ownership {
    pub(crate) fn of(owner: &Owner<'_>) -> Self {
        Self {
            sink: owner.sink.to_owned(),
            spool: *owner.spool,
            epochs: owner.epochs.clone(),
        }
    }

    pub(crate) fn owner(&self) -> Owner<'_> {
        Owner {
            sink: &self.sink,
            spool: &self.spool,
            epochs: &self.epochs,
        }
    }
}

/// The sink and the spool of a chain: the prefix of the value of each [`HEADER`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner<'a> {
    pub(crate) sink: &'a str,
    pub(crate) spool: &'a SpoolId,
    pub(crate) epochs: &'a Epochs,
}

/// An own event in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwnEvent {
    pub(crate) sequence: Sequence,
    /// The epoch that has sent the event.
    pub(crate) epoch: Epoch,
}

impl Owner<'_> {
    /// Parses the value of a [`HEADER`]; `None` for messages of other sinks or spools.
    pub(crate) fn event(&self, value: &str) -> Option<OwnEvent> {
        let rest = value.strip_prefix(&self.name())?;
        // Values without an epoch were written before epochs were introduced.
        let (epoch, sequence) = match rest.strip_prefix('/') {
            Some(rest) => {
                let (epoch, sequence) = rest.split_once(':')?;
                (Epoch(epoch.parse().ok()?), sequence)
            }
            None => (Epoch(0), rest.strip_prefix(':')?),
        };
        Some(OwnEvent {
            sequence: Sequence::new(sequence.parse().ok()?)?,
            epoch,
        })
    }

    /// Returns the value of the [`HEADER`] for messages of a replay after the last own event.
    pub(crate) fn replayed_after(&self, own: Sequence) -> String {
        value(&self.mark(), own)
    }

    fn name(&self) -> String {
        format!("{}/{}", self.sink, self.spool)
    }

    /// Returns the prefix of all values in this epoch.
    fn mark(&self) -> String {
        format!("{}/{}:", self.name(), self.epochs.current().0)
    }
}

/// The chain of one connection.
#[derive(Debug)]
pub(crate) struct Chain {
    mark: String,
    stored: Stored,
    /// The last place of the stream when all sent messages are stored.
    last: u64,
    link: Link,
}

/// The events that the stream is known to contain.
#[derive(Debug)]
enum Stored {
    /// All events up to this one; none for `None`.
    UpTo(Option<Sequence>),
    These(BTreeSet<Sequence>),
}

/// The expectation of the next message in addition to the place.
#[derive(Debug)]
enum Link {
    /// The id of the last sent message (empty before the first one), and the id of the next message. They swap two buffers.
    Id { last_id: String, next_id: String },
    /// Nothing. Until a message was stored at its expected place, each message is sent alone: a duplicate has no place, and the
    /// messages after it would be refused.
    Place { is_anchored: bool },
}

impl Chain {
    pub(crate) fn new(owner: &Owner<'_>, end: End) -> Self {
        let (stored, link) = match end.by {
            ChainedBy::Id => (
                Stored::UpTo(end.own_events.first().copied()),
                Link::Id {
                    last_id: String::new(),
                    next_id: String::new(),
                },
            ),
            ChainedBy::Place => (
                Stored::These(end.own_events.into_iter().collect()),
                Link::Place { is_anchored: false },
            ),
        };
        Self {
            mark: owner.mark(),
            stored,
            last: end.place,
            link,
        }
    }

    /// Returns whether an event is known to be stored.
    pub(crate) fn has(&self, sequence: Sequence) -> bool {
        match &self.stored {
            Stored::UpTo(stored_to) => stored_to.is_some_and(|stored_to| sequence <= stored_to),
            Stored::These(these) => these.contains(&sequence),
        }
    }

    /// Returns whether a stored event proves that all earlier ones are stored.
    pub(crate) const fn acks_are_cumulative(&self) -> bool {
        matches!(self.link, Link::Id { .. })
    }

    /// Returns whether the next message has to wait until nothing is in flight.
    pub(crate) const fn sends_alone(&self) -> bool {
        matches!(self.link, Link::Place { is_anchored: false })
    }

    /// Adds the headers that make the next message, with this id, a part of the chain.
    pub(crate) fn add_to(&mut self, headers: &mut Headers, sequence: Sequence, id: &str) -> Role {
        headers.add_written(EXPECTED_PLACE, self.last);
        if let Link::Id { last_id, next_id } = &mut self.link {
            if !last_id.is_empty() {
                headers.add(EXPECTED_ID, last_id);
            }
            next_id.clear();
            next_id.push_str(id);
        }
        headers.add(HEADER, &value(&self.mark, sequence));
        Role::Chained { place: self.last + 1 }
    }

    /// Records that the message was sent.
    pub(crate) const fn sent(&mut self) {
        self.last += 1;
        if let Link::Id { last_id, next_id } = &mut self.link {
            std::mem::swap(last_id, next_id);
        }
    }

    /// Records that a message of the chain was stored at its expected place.
    pub(crate) const fn stored(&mut self) {
        if let Link::Place { is_anchored } = &mut self.link {
            *is_anchored = true;
        }
    }

    /// Continues after this place of the stream. To be called only when all sent messages are answered.
    pub(crate) fn continue_after(&mut self, end: u64) {
        self.last = end;
        if let Link::Id { last_id, .. } = &mut self.link {
            last_id.clear();
        }
    }

    /// Records that the message with this expected place is a duplicate, which has no place. Messages after it are refused.
    pub(crate) fn passed_over(&mut self, place: u64) {
        // With `ChainedBy::Id` the next message expects the id of the duplicate at this place: the message with this id that an
        // older connection has stored there.
        if matches!(self.link, Link::Place { .. }) && self.last == place {
            self.last -= 1;
        }
    }
}

fn value(mark: &str, sequence: Sequence) -> String {
    format!("{mark}{:020}", sequence.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(by: ChainedBy, own_events: &[u64]) -> Chain {
        let end = End {
            place: 7,
            by,
            own_events: own_events
                .iter()
                .map(|own| Sequence::new(*own).unwrap())
                .collect(),
            log_end: None,
            is_last_own: true,
        };
        let owner = Owner {
            sink: "nats",
            spool: &SpoolId::from_bytes([0x11; 16]),
            epochs: &Epochs::default().with(Epoch(5), Sequence::FIRST),
        };
        Chain::new(&owner, end)
    }

    fn has(chain: &Chain, number: u64) -> bool {
        chain.has(Sequence::new(number).unwrap())
    }

    /// Adds an event to the chain, and returns the headers and the role of its message. `is_sent` is false for a message that
    /// the client did not accept.
    fn message(chain: &mut Chain, number: u64, is_sent: bool) -> (String, Role) {
        let mut headers = Headers::default();
        let id = format!("main/{number}");
        let role = chain.add_to(&mut headers, Sequence::new(number).unwrap(), &id);
        if is_sent {
            chain.sent();
        }
        (headers.lines(), role)
    }

    #[test]
    fn chain_by_id_expects_the_previous_id_and_place() {
        let mut chain = chain(ChainedBy::Id, &[41]);
        assert!(has(&chain, 1) && has(&chain, 41) && !has(&chain, 42));
        insta::assert_snapshot!(message(&mut chain, 42, true).0, @r"
        Nats-Expected-Last-Sequence: 7
        Neurobridge-Chain: nats/11111111-1111-1111-1111-111111111111/5:00000000000000000042
        ");
        // A message that was not sent is no part of the chain.
        message(&mut chain, 43, false);
        insta::assert_snapshot!(message(&mut chain, 44, true).0, @r"
        Nats-Expected-Last-Msg-Id: main/42
        Nats-Expected-Last-Sequence: 8
        Neurobridge-Chain: nats/11111111-1111-1111-1111-111111111111/5:00000000000000000044
        ");
        assert!(!chain.sends_alone());
    }

    #[test]
    fn chain_by_place_expects_the_previous_place() {
        let mut chain = chain(ChainedBy::Place, &[41, 39]);
        assert!(
            has(&chain, 39) && has(&chain, 41) && !has(&chain, 40),
            "40 is not stored"
        );
        assert!(chain.sends_alone());
        insta::assert_snapshot!(message(&mut chain, 42, true).0, @r"
        Nats-Expected-Last-Sequence: 7
        Neurobridge-Chain: nats/11111111-1111-1111-1111-111111111111/5:00000000000000000042
        ");
        // The answer to 42 was: a duplicate, which has no place.
        chain.passed_over(8);
        assert_eq!(message(&mut chain, 43, true).1, Role::Chained { place: 8 });
        assert!(chain.sends_alone());
        chain.stored();
        assert!(!chain.sends_alone());
        message(&mut chain, 44, false);
        assert_eq!(message(&mut chain, 45, true).1, Role::Chained { place: 9 });
        assert_eq!(message(&mut chain, 46, true).1, Role::Chained { place: 10 });
        // After a duplicate with later messages in flight, the server refuses those.
        chain.passed_over(9);
        assert_eq!(message(&mut chain, 47, true).1, Role::Chained { place: 11 });
    }

    #[test]
    fn only_messages_of_this_sink_and_spool_are_own() {
        let (spool, other) = (SpoolId::from_bytes([0x11; 16]), SpoolId::from_bytes([0x12; 16]));
        let epochs = Epochs::default().with(Epoch(5), Sequence::FIRST);
        let event = |sink, spool, value: &str| {
            let owner = Owner {
                sink,
                spool,
                epochs: &epochs,
            };
            let own = owner.event(value)?;
            Some((own.epoch.0, own.sequence.get()))
        };
        let value = "nats/11111111-1111-1111-1111-111111111111/3:00000000000000000042";
        assert_eq!(event("nats", &spool, value), Some((3, 42)));
        assert_eq!(event("other", &spool, value), None);
        assert_eq!(event("nats", &other, value), None);
        let older = "nats/11111111-1111-1111-1111-111111111111:00000000000000000042";
        assert_eq!(event("nats", &spool, older), Some((0, 42)));
        for wrong in [":x", "/3", "/x:1", "/3:x", ""] {
            let value = format!("nats/11111111-1111-1111-1111-111111111111{wrong}");
            assert_eq!(event("nats", &spool, &value), None, "{wrong}");
        }
    }

    #[test]
    fn empty_stream_has_no_last_message() {
        for by in [ChainedBy::Id, ChainedBy::Place] {
            assert!(!has(&chain(by, &[]), 1));
        }
    }
}
