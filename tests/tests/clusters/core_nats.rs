//! Members with a core NATS sink: no server stores the messages, so followers receive them as they are published.

use std::collections::BTreeMap;

use neurobridge_tests::nats::{client::Listener, messages::Message};
use neurobridge_tests::relay::Relay;

use super::*;

/// The limit of messages in flight of each member.
const MAX_IN_FLIGHT: u64 = 100;

fn sink(server: &str) -> String {
    format!(
        r#"
[sinks.stream]
type = "nats"
servers = ["nats://{server}"]
mode = "core"
format = "raw"
subject = "faces.{{result}}"
max_in_flight = {MAX_IN_FLIGHT}
"#
    )
}

/// Returns the id of an event.
fn id(message: &Message) -> Option<u64> {
    message.header("Nats-Msg-Id")?.rsplit('/').next()?.parse().ok()
}

/// Returns how often each event was received, by its id in the header.
fn copies(listener: Listener) -> BTreeMap<u64, u64> {
    let messages = listener.stop().unwrap();
    let mut copies = BTreeMap::new();
    for id in messages.iter().filter_map(id) {
        *copies.entry(id).or_default() += 1;
    }
    copies
}

fn few_events_wait(status: &Status) -> bool {
    let sink = status.sink("stream");
    sink.ledger.stored > 0 && sink.lag_events < MAX_IN_FLIGHT
}

#[test]
fn takeovers_without_a_stream_repeat_at_most_what_was_in_flight() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let dir = Scratch::new("cluster-core").unwrap();
    let listener = Listener::start(&nats.url(), "faces.>").unwrap();
    let platform = Platform::start(&dir, &["--rate", RATE]).unwrap();
    let sinks = sink(&nats.address());
    let mut members: Vec<Member> = ["a", "b"]
        .iter()
        .map(|name| Member::new("core", name, (&platform, &nats.url()), &sinks))
        .collect();
    members.iter().for_each(Member::wait_until_ready);

    // A follower that starts again has not received the messages of the meantime, and the leader stays.
    let leading = leader(&members);
    wait_until_publishing(&members[leading]);
    let term = |member: &Member| member.status().and_then(|status| status.cluster?.term);
    let before = term(&members[leading]);
    members[1 - leading].update();
    let caught_up = |status: &Status| status.sink("stream").ledger.settled() > 0 && few_events_wait(status);
    let follower = members[1 - leading].bridge();
    follower
        .wait("a follower that has caught up", SOON, caught_up)
        .unwrap();
    assert_eq!(term(&members[leading]), before, "the leader has changed");

    for is_crash in [true, false] {
        let leading = leader(&members);
        wait_until_publishing(&members[leading]);
        if is_crash {
            members[leading].running().process().kill().unwrap();
            members[leading].running().start_again().unwrap();
        } else {
            members[leading].update();
        }
        members.iter().for_each(Member::wait_until_ready);
        for member in &members {
            member
                .bridge()
                .wait("few waiting events", SOON, few_events_wait)
                .unwrap();
        }
    }
    let is_settled = |member: &Member| {
        let status = member.status();
        status.is_some_and(|status| {
            let sink = status.sink("stream");
            sink.ledger.stored > 0 && sink.ledger.pending == 0
        })
    };
    let sent = platform.stop().unwrap();
    let count = sent.iter().map(|event| event.id).max().unwrap();
    let is_last = |message: &Message| id(message) == Some(count);
    wait_until("the last event", SOON, || listener.has(is_last)).unwrap();
    wait_until("settled members", SOON, || members.iter().all(is_settled)).unwrap();
    let copies = copies(listener);
    let missing: Vec<u64> = sent
        .iter()
        .map(|event| event.id)
        .filter(|id| !copies.contains_key(id))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    let repeated: u64 = copies.values().map(|copies| copies - 1).sum();
    assert!(repeated <= 2 * MAX_IN_FLIGHT, "{repeated}");
}

#[test]
fn follower_that_missed_messages_leaves_the_leader_in_place() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let dir = Scratch::new("cluster-missed-messages").unwrap();
    let listener = Listener::start(&nats.url(), "faces.>").unwrap();
    let platform = Platform::start(&dir, &["--rate", RATE]).unwrap();
    let relays = [(), ()].map(|()| Relay::to(nats.address()).unwrap());
    let members: Vec<Member> = ["a", "b"]
        .iter()
        .zip(&relays)
        .map(|(name, relay)| Member::new("missed", name, (&platform, &nats.url()), &sink(relay.address())))
        .collect();
    members.iter().for_each(Member::wait_until_ready);
    let leading = leader(&members);
    wait_until_publishing(&members[leading]);
    let (leader, follower) = (&members[leading], &members[1 - leading]);
    let term = leader.status().unwrap().cluster.unwrap().term;
    relays[1 - leading].cut();
    let waits = |status: &Status| status.sink("stream").lag_events > 10 * MAX_IN_FLIGHT;
    follower
        .bridge()
        .wait("events without their messages", SOON, waits)
        .unwrap();
    relays[1 - leading].restore();
    follower
        .bridge()
        .wait("no backlog", SOON, few_events_wait)
        .unwrap();
    assert_eq!(leader.status().unwrap().cluster.unwrap().term, term);
    let copies = copies(listener);
    assert!(
        copies.values().all(|copies| *copies == 1),
        "an event was published twice"
    );
}
