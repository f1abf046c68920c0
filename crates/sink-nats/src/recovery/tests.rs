use std::collections::{BTreeSet, VecDeque};

use neurobridge_core::{
    epoch::{Epoch, Epochs},
    event::Sequence,
    identity::SpoolId,
};
use proptest::prelude::*;

use super::*;
use crate::{
    chain::{self, Chain, ChainedBy, Owner},
    headers::Headers,
    in_flight::Role,
};

/// A stream with the rules of nats-server, which looks up the message id before it checks the expected position.
#[derive(Default)]
struct Server {
    /// The id and the event of each message. Messages of other publishers have no event.
    messages: Vec<(Option<String>, Option<u64>)>,
    /// The ids in the duplicate window.
    known: BTreeSet<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Stored(u64),
    Duplicate,
    Refused,
}

impl Server {
    fn store(&mut self, id: Option<String>, event: Option<u64>) -> u64 {
        self.messages.push((id.clone(), event));
        self.known.extend(id);
        self.messages.len() as u64
    }

    /// Returns the end of the stream, as read by the sink.
    fn end(&self, by: ChainedBy, next: u64) -> chain::End {
        let mut own_events = Vec::new();
        for event in self.messages.iter().rev().filter_map(|(_, event)| *event) {
            own_events.push(Sequence::new(event).unwrap());
            if by == ChainedBy::Id || event < next {
                break;
            }
        }
        chain::End {
            place: self.messages.len() as u64,
            by,
            own_events,
            log_end: None,
            is_last_own: matches!(self.messages.last(), Some((_, Some(_)))),
        }
    }

    fn publish(&mut self, message: &Message) -> Answer {
        if self.known.contains(&message.id) {
            return Answer::Duplicate;
        }
        let last_id = self.messages.last().and_then(|(id, _)| id.clone());
        let expects = |name: &str| {
            let lines = message.headers.lines();
            lines
                .filter_map(|line| line.split_once(": "))
                .find(|(found, _)| *found == name)
                .map(|(_, value)| value.to_owned())
        };
        let place_differs = expects("Nats-Expected-Last-Sequence")
            .is_some_and(|place| place != self.messages.len().to_string());
        let id_differs =
            expects("Nats-Expected-Last-Msg-Id").is_some_and(|id| last_id.as_deref() != Some(id.as_str()));
        if place_differs || id_differs {
            return Answer::Refused;
        }
        assert!(message.headers.contains(chain::HEADER));
        Answer::Stored(self.store(Some(message.id.clone()), Some(message.event)))
    }
}

/// A fault, or a message of another publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Incident {
    /// Another publisher stores a message, with or without an id.
    Foreign { has_id: bool },
    /// The connection breaks after the server has read `read` messages in flight, whose answers are lost. The server may read
    /// the other messages later, like a server that was frozen.
    Break { read: u8 },
    /// The server reads `read` messages of the oldest connection with unread messages.
    Older { read: u8 },
    /// `count` answers are lost, and the connection stays open.
    LostAnswers { count: u8 },
    /// The duplicate window ends: the server discards all ids.
    WindowEnds,
}

struct Message {
    event: u64,
    id: String,
    headers: String,
    role: Role,
}

/// Delivers events with these ids as a sink does, with the incidents before some of the messages. The stream begins with the
/// ids `earlier`, which an earlier log has stored. Returns the server, the events that were answered as duplicates, and the
/// number of requests for the end of the stream.
fn deliver(
    by: ChainedBy,
    earlier: &[u8],
    ids: &[u8],
    incidents: &[(u16, Incident)],
    room: usize,
) -> (Server, BTreeSet<u64>, u32) {
    let owner_spool = SpoolId::from_bytes([1; 16]);
    let epochs = Epochs::default().with(Epoch(1), Sequence::FIRST);
    let owner = Owner {
        sink: "nats",
        spool: &owner_spool,
        epochs: &epochs,
    };
    let mut server = Server::default();
    for id in earlier {
        server.store(Some(format!("main/{id}")), None);
    }
    let connect = |server: &Server, next: u64| {
        let end = server.end(by, next);
        let recovery = Recovery::new(end.place);
        (Chain::new(&owner, end), recovery)
    };
    let (mut chain, mut recovery) = connect(&server, 1);
    let (mut settled, mut duplicates) = (BTreeSet::new(), BTreeSet::new());
    let mut incidents: VecDeque<_> = incidents.iter().copied().collect();
    let (mut published, mut end_requests) = (0u16, 0);
    let (mut next, mut in_flight) = (1u64, VecDeque::<Message>::new());
    let mut older = VecDeque::<VecDeque<Message>>::new();
    // The events whose answers were lost, and the number of further answers to lose.
    let (mut unanswered, mut to_lose) = (BTreeSet::new(), 0);
    let count = ids.len() as u64;
    for _ in 0..100_000 {
        let first_unsettled = |settled: &BTreeSet<u64>| (1..).find(|event| !settled.contains(event)).unwrap();
        if settled.len() as u64 == count {
            return (server, duplicates, end_requests);
        }
        let sends_alone = chain.sends_alone() || recovery.is_contended();
        while next <= count
            && !recovery.is_broken()
            && in_flight.len() + unanswered.len() < room
            && (!sends_alone || in_flight.is_empty() && unanswered.is_empty())
        {
            let event = next;
            next += 1;
            if settled.contains(&event) {
                continue;
            }
            if chain.has(Sequence::new(event).unwrap()) {
                settled.insert(event);
                continue;
            }
            let id = format!("main/{}", ids[event as usize - 1]);
            let mut headers = Headers::default();
            let role = chain.add_to(&mut headers, Sequence::new(event).unwrap(), &id);
            chain.sent();
            in_flight.push_back(Message {
                event,
                id,
                headers: headers.lines(),
                role,
            });
        }
        published += 1;
        let mut is_connected = true;
        while let Some((_, incident)) = incidents.pop_front_if(|(at, _)| *at <= published) {
            match incident {
                Incident::Foreign { has_id } => {
                    server.store(has_id.then(|| format!("foreign/{published}")), None);
                }
                Incident::Break { read } => {
                    for message in in_flight.drain(..in_flight.len().min(usize::from(read))) {
                        server.publish(&message);
                    }
                    older.push_back(std::mem::take(&mut in_flight));
                    is_connected = false;
                }
                Incident::Older { read } => {
                    older.retain(|messages| !messages.is_empty());
                    if let Some(messages) = older.front_mut() {
                        for message in messages.drain(..messages.len().min(usize::from(read))) {
                            server.publish(&message);
                        }
                    }
                }
                Incident::LostAnswers { count } => to_lose += count,
                // By place alone, the server cannot distinguish a message of an older connection from the expected one if
                // duplicates or messages of others have moved the places. A message that the server reads after the duplicate
                // window may then be stored twice. docs/guarantees.md states this limit.
                Incident::WindowEnds
                    if by == ChainedBy::Place && older.iter().any(|unread| !unread.is_empty()) => {}
                Incident::WindowEnds => server.known.clear(),
            }
        }
        if in_flight.is_empty() && !unanswered.is_empty() {
            // No answer arrives within the time limit.
            is_connected = false;
        }
        if !is_connected {
            (to_lose, unanswered) = (0, BTreeSet::new());
            next = first_unsettled(&settled);
            (chain, recovery) = connect(&server, next);
            continue;
        }
        let Some(message) = in_flight.pop_front() else {
            if settled.len() as u64 == count {
                continue;
            }
            assert!(recovery.is_broken(), "nothing to do, and events are not settled");
            match recovery.end() {
                End::Known(place) => {
                    chain.continue_after(place);
                    recovery.continued(place, false);
                }
                End::Unknown => {
                    end_requests += 1;
                    let end = server.end(by, recovery.first_refused().get());
                    recovery.continued(end.place, !end.is_last_own);
                    chain = Chain::new(&owner, end);
                }
            }
            next = first_unsettled(&settled);
            continue;
        };
        let Role::Chained { place } = message.role else {
            panic!("not of the chain");
        };
        let answer = server.publish(&message);
        if to_lose > 0 {
            to_lose -= 1;
            unanswered.insert(message.event);
            continue;
        }
        match answer {
            Answer::Refused => assert!(
                recovery.refused(Sequence::new(message.event).unwrap()),
                "given up"
            ),
            Answer::Stored(found) => {
                assert!(
                    settled.insert(message.event),
                    "{} was settled twice",
                    message.event
                );
                assert_eq!(found, place);
                recovery.stored(place);
                chain.stored();
                if chain.acks_are_cumulative() {
                    settled.append(&mut unanswered);
                }
            }
            Answer::Duplicate => {
                assert!(
                    settled.insert(message.event),
                    "{} was settled twice",
                    message.event
                );
                duplicates.insert(message.event);
                recovery.duplicate();
                chain.passed_over(place);
            }
        }
    }
    panic!("no end: {} of {count} are settled", settled.len());
}

fn stored(server: &Server) -> Vec<u64> {
    server.messages.iter().filter_map(|(_, event)| *event).collect()
}

#[test]
fn duplicates_cause_no_request_and_no_notice() {
    // Each tenth event has the id of an earlier event.
    let ids: Vec<u8> = (0..200u8).map(|n| if n % 10 == 9 { n - 5 } else { n }).collect();
    for by in [ChainedBy::Id, ChainedBy::Place] {
        let (server, duplicates, end_requests) = deliver(by, &[], &ids, &[], 64);
        assert_eq!((duplicates.len(), end_requests), (20, 0), "{by:?}");
        assert_eq!(stored(&server).len(), 180);
    }
}

#[test]
fn repeated_breaks_without_a_stored_event_end_in_a_fault() {
    let mut recovery = Recovery::new(0);
    let one = Sequence::FIRST;
    for attempt in 0..MAX_IN_VAIN {
        assert!(recovery.refused(one) && recovery.is_broken());
        // Refusals of later events in flight do not count.
        assert!(recovery.refused(one.next()));
        assert_eq!((recovery.end(), recovery.first_refused()), (End::Unknown, one));
        recovery.continued(u64::from(attempt) + 1, true);
        assert_eq!(recovery.is_contended(), attempt > 0);
    }
    assert!(!recovery.refused(one));
    assert_eq!(recovery.foreign(), u64::from(MAX_IN_VAIN));
    recovery.continued(100, false);
    recovery.stored(101);
    assert!(recovery.refused(one), "a stored event resets the count");
}

fn incident() -> impl Strategy<Value = Incident> {
    prop_oneof![
        any::<bool>().prop_map(|has_id| Incident::Foreign { has_id }),
        (0u8..20).prop_map(|read| Incident::Break { read }),
        (1u8..20).prop_map(|read| Incident::Older { read }),
        (1u8..4).prop_map(|count| Incident::LostAnswers { count }),
        Just(Incident::WindowEnds),
    ]
}

/// Returns ids that an earlier log has stored, in order, and the ids of the events, some of which occur twice.
fn any_ids() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let earlier = proptest::collection::vec(0u8..40, 0..40);
    let ids = proptest::collection::vec(0u8..120, 1..80);
    (earlier, ids)
}

proptest! {
    #[test]
    fn continued_chain_loses_and_duplicates_no_event(
        (earlier, ids) in any_ids(),
        mut incidents in proptest::collection::vec((1u16..200, incident()), 0..12),
        room in 1usize..20,
        is_by_id: bool,
    ) {
        incidents.sort_unstable();
        let by = if is_by_id { ChainedBy::Id } else { ChainedBy::Place };
        let (server, duplicates, _) = deliver(by, &earlier, &ids, &incidents, room);
        let stored = stored(&server);
        let distinct: BTreeSet<u64> = stored.iter().copied().collect();
        prop_assert_eq!(stored.len(), distinct.len(), "twice: {:?}", stored);
        let all_ids: BTreeSet<&str> = server.messages.iter().filter_map(|(id, _)| id.as_deref()).collect();
        for (event, id) in (1..).zip(&ids) {
            let is_stored = distinct.contains(&event);
            if duplicates.contains(&event) {
                let id = format!("main/{id}");
                prop_assert!(is_stored || all_ids.contains(id.as_str()), "{} is no duplicate", event);
            } else {
                prop_assert!(is_stored, "{} is lost", event);
            }
        }
        if is_by_id {
            prop_assert!(stored.is_sorted(), "{:?}", stored);
        }
    }
}
