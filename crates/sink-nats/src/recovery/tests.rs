use std::collections::{BTreeMap, BTreeSet, VecDeque};

use neurobridge_core::{
    epoch::{Epoch, Epochs},
    event::Sequence,
    identity::SpoolId,
};
use proptest::prelude::*;

use super::*;
use crate::{
    chain::{self, By, Chain, Owner},
    headers::Headers,
    in_flight::Role,
};

/// A stream with the rules of nats-server: the id is looked for before the expectations.
#[derive(Default)]
struct Server {
    /// Id and event of each message; foreign ones have no event.
    messages: Vec<(Option<String>, Option<u64>)>,
    known: BTreeMap<String, u64>,
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
        let place = self.messages.len() as u64;
        if let Some(id) = id {
            self.known.insert(id, place);
        }
        place
    }

    /// What the sink finds at the end of the stream.
    fn end(&self, by: By, next: u64) -> chain::End {
        let mut ours = Vec::new();
        for event in self.messages.iter().rev().filter_map(|(_, event)| *event) {
            ours.push(Sequence::new(event).unwrap());
            if event < next {
                break;
            }
        }
        chain::End {
            place: self.messages.len() as u64,
            by,
            ours,
            log_end: None,
            is_ours: matches!(self.messages.last(), Some((_, Some(_)))),
            is_exact: true,
        }
    }

    fn publish(&mut self, message: &Message) -> Answer {
        if self.known.contains_key(&message.id) {
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

/// Who else stores something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Other {
    /// Another publisher, with an id or without.
    Foreign { has_id: bool },
    /// An older connection of our own, whose messages a frozen server had not read yet: so many of them. They chain by id. After
    /// them the duplicate window is over.
    Older(u8),
}

struct Message {
    event: u64,
    id: String,
    headers: String,
    role: Role,
}

/// Delivers events with these ids as a connection does, while others publish before some of the messages; returns the server,
/// the events that were duplicates, and how often the stream was asked for its end. The stream begins with the ids `earlier`,
/// which an earlier log has stored.
fn deliver(
    by: By,
    earlier: &[u8],
    ids: &[u8],
    foreign: &[(u16, Other)],
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
    let begin = chain::End {
        place: earlier.len() as u64,
        by,
        ours: Vec::new(),
        log_end: None,
        is_ours: false,
        is_exact: false,
    };
    let (mut chain, mut recovery) = (Chain::new(&owner, begin), Recovery::new(earlier.len() as u64));
    let (mut settled, mut duplicates) = (BTreeSet::new(), BTreeSet::new());
    let mut foreign: VecDeque<_> = foreign.iter().copied().collect();
    let (mut published, mut asked) = (0u16, 0);
    let (mut next, mut in_flight) = (1u64, VecDeque::new());
    let count = ids.len() as u64;
    // The duplicate window is minutes long: no message is in flight when it ends.
    let mut window_ends = false;
    for _ in 0..100_000 {
        if settled.len() as u64 == count {
            return (server, duplicates, asked);
        }
        let goes_alone = chain.goes_alone() || recovery.is_contended();
        while next <= count
            && !recovery.is_broken()
            && in_flight.len() < room
            && (!goes_alone || in_flight.is_empty())
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
        let Some(message) = in_flight.pop_front() else {
            if std::mem::take(&mut window_ends) {
                server.known.clear();
            }
            assert!(
                recovery.is_broken() || settled.len() as u64 == count,
                "nothing to do, and events are not settled"
            );
            if settled.len() as u64 == count {
                continue;
            }
            match recovery.end() {
                End::Known(place) => {
                    chain.continue_after(place);
                    recovery.continued(place, false);
                }
                End::Unknown => {
                    asked += 1;
                    let end = server.end(by, recovery.first_refused().get());
                    recovery.continued(end.place, !end.is_ours);
                    chain = Chain::new(&owner, end);
                }
            }
            next = (1..).find(|event| !settled.contains(event)).unwrap();
            continue;
        };
        published += 1;
        while let Some((_, other)) = foreign.pop_front_if(|(at, _)| *at <= published) {
            match other {
                Other::Foreign { has_id } => {
                    server.store(has_id.then(|| format!("foreign/{published}")), None);
                }
                Other::Older(messages) => {
                    let first = (1..).find(|event| !settled.contains(event)).unwrap();
                    let is_last = server
                        .messages
                        .last()
                        .is_none_or(|(_, last)| *last == Some(first - 1));
                    let older = (first..first + u64::from(messages)).take_while(|event| *event <= count);
                    for event in older.take_while(|_| is_last) {
                        let id = format!("main/{}", ids[event as usize - 1]);
                        // A duplicate breaks its chain.
                        if server.known.contains_key(&id) {
                            break;
                        }
                        server.store(Some(id), Some(event));
                    }
                    window_ends = true;
                }
            }
        }
        match server.publish(&message) {
            Answer::Refused => assert!(
                recovery.refused(Sequence::new(message.event).unwrap()),
                "given up"
            ),
            answer => {
                assert!(
                    settled.insert(message.event),
                    "{} was settled twice",
                    message.event
                );
                match answer {
                    Answer::Stored(place) => recovery.stored(place),
                    _ => {
                        recovery.duplicate();
                        duplicates.insert(message.event);
                    }
                }
                if let Role::Placed { place } = message.role {
                    match answer {
                        Answer::Stored(found) => {
                            assert_eq!(found, place);
                            chain.stored();
                        }
                        _ => chain.passed_over(place),
                    }
                }
            }
        }
    }
    panic!("no end: {} of {count} are settled", settled.len());
}

fn stored(server: &Server) -> Vec<u64> {
    server.messages.iter().filter_map(|(_, event)| *event).collect()
}

#[test]
fn duplicates_ask_nothing_and_blame_nobody() {
    // Each tenth event has the id of an earlier one.
    let ids: Vec<u8> = (0..200u8).map(|n| if n % 10 == 9 { n - 5 } else { n }).collect();
    for by in [By::Id, By::Place] {
        let (server, duplicates, asked) = deliver(by, &[], &ids, &[], 64);
        assert_eq!((duplicates.len(), asked), (20, 0), "{by:?}");
        assert_eq!(stored(&server).len(), 180);
    }
}

#[test]
fn contention_ends_in_a_fault_and_not_in_a_loop() {
    let mut recovery = Recovery::new(0);
    let one = Sequence::FIRST;
    for attempt in 0..MOST_IN_VAIN {
        assert!(recovery.refused(one) && recovery.is_broken());
        // Those in flight after it do not count.
        assert!(recovery.refused(one.next()));
        assert_eq!((recovery.end(), recovery.first_refused()), (End::Unknown, one));
        recovery.continued(u64::from(attempt) + 1, true);
        assert_eq!(recovery.is_contended(), attempt > 0);
    }
    assert!(!recovery.refused(one));
    assert_eq!(recovery.foreign(), u64::from(MOST_IN_VAIN));
    recovery.continued(100, false);
    recovery.stored(101);
    assert!(recovery.refused(one), "a stored event starts the count anew");
}

fn other() -> impl Strategy<Value = Other> {
    prop_oneof![
        any::<bool>().prop_map(|has_id| Other::Foreign { has_id }),
        (1u8..30).prop_map(Other::Older),
    ]
}

/// Ids that an earlier log has stored, in its order, and the ids of the events, of which none is there twice: the intake sees
/// to that. Those below 40 may be among the earlier ones.
fn any_ids() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let earlier = Just((0..40).collect::<Vec<u8>>()).prop_shuffle();
    let ids = Just((0..120).collect::<Vec<u8>>()).prop_shuffle();
    (earlier, 0usize..40, ids, 1usize..80).prop_map(|(mut earlier, known, mut ids, count)| {
        earlier.truncate(known);
        ids.truncate(count);
        (earlier, ids)
    })
}

// What the model leaves out, and what is therefore not shown: events with the same id within one run, two older connections, a
// duplicate window that ends with messages in flight, and a connection that breaks before a refused event is sent again. With some
// of these it has found events stored twice.
proptest! {
    #[test]
    fn a_continued_chain_loses_and_doubles_nothing(
        (earlier, ids) in any_ids(),
        mut foreign in proptest::collection::vec((1u16..200, other()), 0..6),
        room in 1usize..20,
        is_by_id: bool,
    ) {
        foreign.sort_unstable();
        // A connection was replaced once within a duplicate window.
        let mut older = 0;
        foreign.retain(|(_, other)| {
            older += u32::from(matches!(other, Other::Older(_)));
            matches!(other, Other::Foreign { .. }) || older == 1
        });
        let by = if is_by_id { By::Id } else { By::Place };
        let (server, duplicates, _) = deliver(by, &earlier, &ids, &foreign, room);
        let stored = stored(&server);
        let distinct: BTreeSet<u64> = stored.iter().copied().collect();
        prop_assert_eq!(stored.len(), distinct.len(), "twice");
        let expected: BTreeSet<u64> = (1..=ids.len() as u64).filter(|event| !duplicates.contains(event)).collect();
        if foreign.iter().any(|(_, other)| matches!(other, Other::Older(_))) {
            // An event that an older connection stored is answered as a duplicate when it is sent again.
            prop_assert!(distinct.is_superset(&expected), "{distinct:?} without all of {expected:?}");
        } else {
            prop_assert_eq!(distinct, expected);
            for duplicate in duplicates {
                prop_assert!(earlier.contains(&ids[duplicate as usize - 1]), "{duplicate} is none");
            }
        }
        // By id, an event may come late in one case: it is refused, a duplicate after it is the last message of the stream, and so the
        // message after that is stored.
        let last = earlier.last().filter(|last| ids.contains(last));
        if is_by_id && last.is_none() {
            prop_assert!(stored.is_sorted(), "{stored:?}");
        }
    }
}
