//! Strict order: each message names the one that has to be the last in the stream.
//!
//! Within a connection a message expects the id of the one before it (`Nats-Expected-Last-Msg-Id`), so all behind a hole
//! are refused. The first one expects the place of the last message that the stream had when the connection was made
//! (`Nats-Expected-Last-Sequence`): whatever that message is, foreign, without an id, or purged.
//!
//! Each message carries [`HEADER`] with its own sequence in the spool. So the last one of ours in the stream tells up to
//! where all is stored: it could be stored only behind all that were sent before it, and what was not sent by then was
//! settled. What is known to be stored so is not sent again. That holds for as long as a message is kept, however long
//! an outage lasts; the server's duplicate window is not needed for it.
//!
//! A replay comes into the stream while no bridge runs. It chains nothing, and each of its messages carries the header of
//! the last one of ours before it: so the next bridge finds there up to where all is stored, however long the replay was.

use neurobridge_core::{event::Sequence, identity::SpoolId};

use crate::headers::Headers;

/// The header that says which event of which spool a message is, and which sink sent it under strict order. Two sinks on
/// one stream must not take each other's messages for their own.
pub(crate) const HEADER: &str = "Neurobridge-Chain";

const EXPECTED_ID: &str = "Nats-Expected-Last-Msg-Id";
const EXPECTED_PLACE: &str = "Nats-Expected-Last-Sequence";

/// The end of the stream as it was when the connection was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct End {
    /// The place of the last message there ever was.
    pub(crate) place: u64,
    /// Which event the last message of ours is.
    pub(crate) ours: Option<Sequence>,
}

/// The chain of one connection.
#[derive(Debug)]
pub(crate) struct Chain {
    mark: String,
    stored_to: Option<Sequence>,
    /// The place of the last message in the stream, until one was sent.
    place: Option<u64>,
    /// The id of the last message sent, and that of the one that is about to be. They take turns in two buffers.
    last_id: String,
    next_id: String,
}

impl Chain {
    pub(crate) fn new(sink: &str, spool: &SpoolId, end: End) -> Self {
        Self {
            mark: mark(sink, spool),
            stored_to: end.ours,
            place: Some(end.place),
            last_id: String::new(),
            next_id: String::new(),
        }
    }

    /// Whether an event is known to be stored.
    pub(crate) fn has(&self, sequence: Sequence) -> bool {
        self.stored_to.is_some_and(|stored_to| sequence <= stored_to)
    }

    /// Adds to the next message's headers what makes it, by this id, a part of the chain.
    pub(crate) fn add_to(&mut self, headers: &mut Headers, sequence: Sequence, id: &str) {
        match self.place {
            Some(place) => headers.add_written(EXPECTED_PLACE, place),
            None => headers.add(EXPECTED_ID, &self.last_id),
        }
        headers.add(HEADER, &value(&self.mark, sequence));
        self.next_id.clear();
        self.next_id.push_str(id);
    }

    /// That message was sent.
    pub(crate) fn sent(&mut self) {
        self.place = None;
        std::mem::swap(&mut self.last_id, &mut self.next_id);
    }
}

/// Which event of this sink and this spool a message is, by the value of its [`HEADER`].
pub(crate) fn sequence(value: &str, sink: &str, spool: &SpoolId) -> Option<Sequence> {
    let number = value.strip_prefix(&mark(sink, spool))?;
    Sequence::new(number.parse().ok()?)
}

/// The value of the [`HEADER`] of a replay's messages.
pub(crate) fn replayed_behind(sink: &str, spool: &SpoolId, ours: Sequence) -> String {
    value(&mark(sink, spool), ours)
}

fn value(mark: &str, sequence: Sequence) -> String {
    format!("{mark}{:020}", sequence.get())
}

fn mark(sink: &str, spool: &SpoolId) -> String {
    format!("{sink}/{spool}:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_the_one_before_and_itself() {
        let spool = SpoolId::from_bytes([0x11; 16]);
        let ours = Sequence::new(41);
        let mut chain = Chain::new("nats", &spool, End { place: 7, ours });
        assert!(chain.has(Sequence::FIRST) && chain.has(ours.unwrap()) && !chain.has(ours.unwrap().next()));

        let mut headers = |number: u64, is_sent: bool| {
            let mut headers = Headers::default();
            chain.add_to(
                &mut headers,
                Sequence::new(number).unwrap(),
                &format!("main/{number}"),
            );
            if is_sent {
                chain.sent();
            }
            headers.lines()
        };
        insta::assert_snapshot!(headers(42, true), @r"
        Nats-Expected-Last-Sequence: 7
        Neurobridge-Chain: nats/11111111-1111-1111-1111-111111111111:00000000000000000042
        ");
        // One that was refused on the way is no part of it.
        headers(43, false);
        insta::assert_snapshot!(headers(44, true), @r"
        Nats-Expected-Last-Msg-Id: main/42
        Neurobridge-Chain: nats/11111111-1111-1111-1111-111111111111:00000000000000000044
        ");
    }

    #[test]
    fn only_what_this_sink_sent_out_of_this_spool_is_ours() {
        let spool = SpoolId::from_bytes([0x11; 16]);
        let value = "nats/11111111-1111-1111-1111-111111111111:00000000000000000042";
        assert_eq!(sequence(value, "nats", &spool), Sequence::new(42));
        assert_eq!(sequence(value, "other", &spool), None);
        assert_eq!(sequence(value, "nats", &SpoolId::from_bytes([0x12; 16])), None);
        assert_eq!(
            sequence("nats/11111111-1111-1111-1111-111111111111:x", "nats", &spool),
            None
        );
    }

    #[test]
    fn nothing_is_known_of_an_empty_stream() {
        let spool = SpoolId::generate();
        assert!(!Chain::new("nats", &spool, End::default()).has(Sequence::FIRST));
    }
}
