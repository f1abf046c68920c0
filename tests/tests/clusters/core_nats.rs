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

    for is_crash in [true, false] {
        let leading = leader(&members);
        // Wait for some seconds, so that the stored cursor is one from after the backlog was published.
        for _ in 0..10 {
            wait_until_publishing(&members[leading]);
        }
        if is_crash {
            members[leading].running().process().kill().unwrap();
            members[leading].running().start_again().unwrap();
        } else {
            members[leading].restart();
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
    assert!(missing.is_empty(), "no message of the events {missing:?}");
    let repeated: u64 = copies.values().map(|copies| copies - 1).sum();
    assert!(repeated <= 2 * MAX_IN_FLIGHT, "{repeated} repeated messages");
}

#[test]
fn events_of_missed_messages_are_published_again_and_not_lost() {
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
    let follower = &members[1 - leading];
    relays[1 - leading].cut();
    let waits = |status: &Status| status.sink("stream").lag_events > 2 * MAX_IN_FLIGHT;
    follower
        .bridge()
        .wait("events without their messages", SOON, waits)
        .unwrap();
    relays[1 - leading].restore();
    // The leader hands over to the follower, whose events wait for the missed messages.
    follower
        .bridge()
        .wait("the other leader", SOON, Status::leads)
        .unwrap();
    for member in &members {
        member
            .bridge()
            .wait("few waiting events", SOON, few_events_wait)
            .unwrap();
    }
    // The bridge counts the possible duplicates some time after the takeover.
    let is_counted = |status: &Status| status.sink("stream").possible_duplicates == MAX_IN_FLIGHT;
    follower
        .bridge()
        .wait("the possible duplicates", SOON, is_counted)
        .unwrap();
    let sent = platform.stop().unwrap();
    let last = sent.iter().map(|event| event.id).max();
    wait_until("the last event", SOON, || {
        listener.has(|message| id(message) == last)
    })
    .unwrap();
    let copies = copies(listener);
    assert!(
        sent.iter().all(|event| copies.contains_key(&event.id)),
        "an event is lost"
    );
}
