//! Strict order: each message names what has to be the last in the stream.
//!
//! The first message of a connection expects the sequence of the last message that the stream had when the connection was
//! made (`Nats-Expected-Last-Sequence`, here the place): whatever that message is, foreign, without an id, or purged. Each message
//! after it expects the place of the one before, and in a stream of one replica its id too ([`By`]), so that all messages
//! after a hole are refused.
//!
//! Each message carries [`HEADER`] with its own sequence in the spool. By it the next connection finds out what is
//! stored, and does not send that again. That holds for as long as a message is kept, however long an outage lasts; the
//! server's duplicate window is not needed for it.
//!
//! A replay comes into the stream while no bridge runs. It chains nothing, and each of its messages carries the header of
//! the last one of ours before it: so the next bridge finds there what is stored, however long the replay was. By place it
//! finds that one alone, if the replay was longer than it looks back; what was in flight before it at a kill is sent again.

use std::collections::BTreeSet;

use neurobridge_core::{
    epoch::{Epoch, Epochs},
    event::Sequence,
    identity::SpoolId,
};

use crate::{headers::Headers, in_flight::Role};

/// The header that says which event of which spool a message is, and which sink sent it under strict order. Two sinks on
/// one stream must not take each other's messages for their own.
pub(crate) const HEADER: &str = "Neurobridge-Chain";

const EXPECTED_ID: &str = "Nats-Expected-Last-Msg-Id";
const EXPECTED_PLACE: &str = "Nats-Expected-Last-Sequence";

/// How a message names the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// By its id and its place: for a stream of one replica. A message is stored only after all that were sent before it. With
    /// the id alone one would be stored after a refused one, if a duplicate between them is the stream's last message; with the
    /// place alone, if another publisher's message has taken the place of the refused one.
    Id,
    /// By its place alone: for a stream of several replicas. A replica that catches up does not learn the last id (nats-server
    /// 2.15.2, by its source, and seen): it then refuses what the others have stored, and the stream has a replica less
    /// until that server is restarted. As another publisher's message can take the place of a refused one, no event counts as stored
    /// because a later one is. The refused one is sent again, and comes late.
    Place,
}

/// The end of the stream as it was when the connection was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// The place of the last message there ever was.
    pub(crate) place: u64,
    pub(crate) by: By,
    /// Events of ours, the last one in the stream first. By id one is enough; by place all that may be asked for.
    pub(crate) ours: Vec<Sequence>,
    /// Where the log has ended for an earlier run, of which the stream has more: other events have those sequences now.
    pub(crate) log_end: Option<Sequence>,
    /// Whether the last message is one of ours.
    pub(crate) is_ours: bool,
}

/// An [`Owner`] that outlives the call that made it.
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

/// Who chains: the beginning of the value of each [`HEADER`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner<'a> {
    pub(crate) sink: &'a str,
    pub(crate) spool: &'a SpoolId,
    pub(crate) epochs: &'a Epochs,
}

/// An event of ours in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ours {
    pub(crate) sequence: Sequence,
    /// Which run has sent it.
    pub(crate) epoch: Epoch,
}

impl Owner<'_> {
    /// Which event of this sink and this spool a message is, by the value of its [`HEADER`].
    pub(crate) fn event(&self, value: &str) -> Option<Ours> {
        let rest = value.strip_prefix(&self.name())?;
        // Without an epoch it was written before there were any.
        let (epoch, sequence) = match rest.strip_prefix('/') {
            Some(rest) => {
                let (epoch, sequence) = rest.split_once(':')?;
                (Epoch(epoch.parse().ok()?), sequence)
            }
            None => (Epoch(0), rest.strip_prefix(':')?),
        };
        Some(Ours {
            sequence: Sequence::new(sequence.parse().ok()?)?,
            epoch,
        })
    }

    /// The value of the [`HEADER`] of a replay's messages.
    pub(crate) fn replayed_behind(&self, ours: Sequence) -> String {
        value(&self.mark(), ours)
    }

    fn name(&self) -> String {
        format!("{}/{}", self.sink, self.spool)
    }

    /// What each value of this run begins with.
    fn mark(&self) -> String {
        format!("{}/{}:", self.name(), self.epochs.current().0)
    }
}

/// The chain of one connection.
#[derive(Debug)]
pub(crate) struct Chain {
    mark: String,
    stored: Stored,
    /// The last place of the stream, once all is stored that was sent.
    last: u64,
    link: Link,
}

#[derive(Debug)]
enum Stored {
    UpTo(Option<Sequence>),
    These(BTreeSet<Sequence>),
}

/// What the next message expects beside the place.
#[derive(Debug)]
enum Link {
    /// The id of the last message sent, none until one was, and that of the one that is about to be. They take turns in two buffers.
    Id { last_id: String, next_id: String },
    /// Nothing. Until one was stored where it was meant to be, each goes alone: a duplicate takes no place, and those after it
    /// would be refused.
    Place { is_anchored: bool },
}

impl Chain {
    pub(crate) fn new(owner: &Owner<'_>, end: End) -> Self {
        let (stored, link) = match end.by {
            By::Id => (
                Stored::UpTo(end.ours.first().copied()),
                Link::Id {
                    last_id: String::new(),
                    next_id: String::new(),
                },
            ),
            By::Place => (
                Stored::These(end.ours.into_iter().collect()),
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

    /// Whether an event is known to be stored.
    pub(crate) fn has(&self, sequence: Sequence) -> bool {
        match &self.stored {
            Stored::UpTo(stored_to) => stored_to.is_some_and(|stored_to| sequence <= stored_to),
            Stored::These(these) => these.contains(&sequence),
        }
    }

    /// Whether that is concluded from what is stored behind it.
    pub(crate) const fn acks_are_cumulative(&self) -> bool {
        matches!(self.link, Link::Id { .. })
    }

    /// Whether the next message has to wait until nothing is on its way.
    pub(crate) const fn goes_alone(&self) -> bool {
        matches!(self.link, Link::Place { is_anchored: false })
    }

    /// Adds to the next message's headers what makes it, by this id, a part of the chain.
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

    /// That message was sent.
    pub(crate) const fn sent(&mut self) {
        self.last += 1;
        if let Link::Id { last_id, next_id } = &mut self.link {
            std::mem::swap(last_id, next_id);
        }
    }

    /// A message of the chain was stored at its place.
    pub(crate) const fn stored(&mut self) {
        if let Link::Place { is_anchored } = &mut self.link {
            *is_anchored = true;
        }
    }

    /// Continues after this place of the stream. Only to be called when each message that was sent has its answer.
    pub(crate) fn continue_after(&mut self, end: u64) {
        self.last = end;
        if let Link::Id { last_id, .. } = &mut self.link {
            last_id.clear();
        }
    }

    /// A message that was to have this place is a duplicate, and has none. Those after it, if there are any, are refused.
    pub(crate) fn passed_over(&mut self, place: u64) {
        // By id the next one names the duplicate: what an older connection has stored stands at that place.
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

    fn chain(by: By, ours: &[u64]) -> Chain {
        let end = End {
            place: 7,
            by,
            ours: ours.iter().map(|ours| Sequence::new(*ours).unwrap()).collect(),
            log_end: None,
            is_ours: true,
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

    /// Its headers, and what it is; as one that was sent, or was refused on the way.
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
    fn a_message_names_the_id_and_the_place_before_and_itself() {
        let mut chain = chain(By::Id, &[41]);
        assert!(has(&chain, 1) && has(&chain, 41) && !has(&chain, 42));
        insta::assert_snapshot!(message(&mut chain, 42, true).0, @r"
        Nats-Expected-Last-Sequence: 7
        Neurobridge-Chain: nats/11111111-1111-1111-1111-111111111111/5:00000000000000000042
        ");
        // One that was refused on the way is no part of it.
        message(&mut chain, 43, false);
        insta::assert_snapshot!(message(&mut chain, 44, true).0, @r"
        Nats-Expected-Last-Msg-Id: main/42
        Nats-Expected-Last-Sequence: 8
        Neurobridge-Chain: nats/11111111-1111-1111-1111-111111111111/5:00000000000000000044
        ");
        assert!(!chain.goes_alone());
    }

    #[test]
    fn a_message_names_the_place_before_and_itself() {
        let mut chain = chain(By::Place, &[41, 39]);
        assert!(
            has(&chain, 39) && has(&chain, 41) && !has(&chain, 40),
            "a hole is one"
        );
        assert!(chain.goes_alone());
        insta::assert_snapshot!(message(&mut chain, 42, true).0, @r"
        Nats-Expected-Last-Sequence: 7
        Neurobridge-Chain: nats/11111111-1111-1111-1111-111111111111/5:00000000000000000042
        ");
        // It was a duplicate, then: it has no place.
        chain.passed_over(8);
        assert_eq!(message(&mut chain, 43, true).1, Role::Chained { place: 8 });
        assert!(chain.goes_alone());
        chain.stored();
        assert!(!chain.goes_alone());
        message(&mut chain, 44, false);
        assert_eq!(message(&mut chain, 45, true).1, Role::Chained { place: 9 });
        assert_eq!(message(&mut chain, 46, true).1, Role::Chained { place: 10 });
        // Of one in the middle the server tells the others.
        chain.passed_over(9);
        assert_eq!(message(&mut chain, 47, true).1, Role::Chained { place: 11 });
    }

    #[test]
    fn only_what_this_sink_sent_out_of_this_spool_is_ours() {
        let (spool, other) = (SpoolId::from_bytes([0x11; 16]), SpoolId::from_bytes([0x12; 16]));
        let epochs = Epochs::default().with(Epoch(5), Sequence::FIRST);
        let event = |sink, spool, value: &str| {
            let owner = Owner {
                sink,
                spool,
                epochs: &epochs,
            };
            let ours = owner.event(value)?;
            Some((ours.epoch.0, ours.sequence.get()))
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
    fn nothing_is_known_of_an_empty_stream() {
        for by in [By::Id, By::Place] {
            assert!(!has(&chain(by, &[]), 1));
        }
    }
}
