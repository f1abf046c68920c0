use std::{future::Future, time::Duration};

use neurobridge_core::lead::Lead;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::*;
use crate::fake_server::{FakeServer, STREAM};

/// The limit of every wait: much longer than any operation takes.
const LIMIT: Duration = Duration::from_secs(60);
/// The time for which a call is polled before the test checks its effects.
const TURN: Duration = Duration::from_millis(20);

type Lease = watch::Sender<Option<Instant>>;

/// A member that begins to follow a stream with these messages, and remembers at most `room` messages without an own event.
async fn member(messages: &[&'static str], room: usize) -> (Following, FakeServer, Lease) {
    let (server, client) = FakeServer::start(messages).await;
    let events = Arc::new(Events::default());
    let reader = StreamReader::new(&client, &events, STREAM, 100).await.unwrap();
    let api = Api {
        client: &client,
        events: &events,
    };
    let stream: Stream = api
        .request("STREAM.INFO.S", &serde_json::Value::Null)
        .await
        .unwrap()
        .unwrap();
    let lease = Lease::new(None);
    let mut membership = Membership {
        lead: Lead::new(lease.subscribe()),
        copies: Copies::with_limit(room),
    };
    membership.begin(&stream, None);
    let reading = Reading::Stream {
        reader,
        name: STREAM.into(),
    };
    let following = Following::new(membership, reading, (&client, &events), 0);
    (following, server, lease)
}

fn held() -> Option<Instant> {
    Some(Instant::now() + LIMIT)
}

fn sequence(number: u64) -> Sequence {
    Sequence::new(number).unwrap()
}

fn event(number: u64) -> Event<'static> {
    Event {
        sequence: sequence(number),
        ..neurobridge_core::testing::event(r#"{"id":1,"data":{}}"#)
    }
}

async fn within<T>(what: &str, call: impl Future<Output = Result<T, SinkFault>>) -> T {
    let called = timeout(LIMIT, call).await;
    called.unwrap_or_else(|_| panic!("no end: {what}")).unwrap()
}

/// Follows until the stream is read up to this place.
async fn follow_until(following: &mut Following, next: u64) {
    let deadline = Instant::now() + LIMIT;
    while following.membership.copies.next(0) != Some(next) {
        assert!(
            Instant::now() < deadline,
            "{:?}",
            following.membership.copies.next(0)
        );
        follow_for_a_turn(following).await;
    }
}

async fn follow_for_a_turn(following: &mut Following) {
    let mut acks = Vec::new();
    if let Ok(followed) = timeout(TURN, following.follow(&mut acks)).await {
        followed.unwrap();
    }
    assert!(acks.is_empty(), "{acks:?}");
}

#[tokio::test]
async fn takeover_after_an_interrupted_one_reads_the_new_end() {
    let (mut following, server, lease) = member(&["a", "b"], 10).await;
    assert!(!following.is_published(&event(1), "s", "c"));
    server.state().is_paused = true;
    lease.send_replace(held());
    let mut acks = Vec::new();
    let deadline = Instant::now() + LIMIT;
    while server.state().batches.is_empty() {
        assert!(Instant::now() < deadline, "no request for messages");
        let taken = timeout(TURN, following.take_over(&mut acks)).await;
        assert!(taken.is_err(), "took over without the messages before the end");
    }
    assert_eq!(following.takeover, Takeover::ReadTo(2));

    // Another member leads meanwhile.
    lease.send_replace(None);
    server.state().messages.push("c");
    server.state().is_paused = false;
    within("following", following.follow(&mut acks)).await;
    assert_eq!(
        acks.drain(..).map(|ack| ack.sequence).collect::<Vec<_>>(),
        [sequence(1)]
    );
    server.state().messages.push("d");
    lease.send_replace(held());
    let end = within("the takeover", following.take_over(&mut acks)).await;
    assert_eq!(end, Some(4), "led after an earlier end of the stream");
    assert!(following.is_published(&event(2), "s", "d"));
}

#[tokio::test]
async fn full_follower_reads_again_when_its_events_arrive() {
    let (mut following, _server, lease) = member(&["a", "b", "c", "d", "e"], 2).await;
    // The leader has not received this event.
    assert!(!following.is_published(&event(1), "s", "x"));
    follow_until(&mut following, 3).await;
    follow_for_a_turn(&mut following).await;
    assert_eq!(following.membership.copies.next(0), Some(3), "read without room");
    assert!(following.is_published(&event(2), "s", "a"));
    follow_until(&mut following, 4).await;
    assert_eq!(following.membership.copies.counts().discarded_messages, 0);

    lease.send_replace(held());
    let mut acks = Vec::new();
    within("following", following.follow(&mut acks)).await;
    let end = within("the takeover", following.take_over(&mut acks)).await;
    assert_eq!(end, Some(5));
    assert_eq!(
        following.membership.copies.counts().discarded_messages,
        2,
        "b and c"
    );
    assert!(following.is_published(&event(3), "s", "e"));
}

#[tokio::test]
async fn stream_is_contested_until_it_has_passed_the_places_in_flight() {
    let (mut following, _server, lease) = member(&["a"], 10).await;
    lease.send_replace(held());
    let end = within("the takeover", following.take_over(&mut Vec::new())).await;
    assert_eq!(end, Some(1));
    for place in 2..=1 + MAX_CHAINED as u64 {
        assert!(following.is_contested(), "{place}");
        following.stored(place, 0, None);
    }
    assert!(!following.is_contested());
}

#[tokio::test]
async fn leader_whose_lease_has_ended_takes_over_again() {
    let (mut following, server, lease) = member(&["a"], 10).await;
    lease.send_replace(held());
    within("the takeover", following.take_over(&mut Vec::new())).await;
    lease.send_replace(None);
    following.lease_ended();
    // Another member has led in between.
    server.state().messages.push("b");
    lease.send_replace(held());
    assert!(
        !following.may_publish(),
        "published without the message of another member"
    );
    let mut acks = Vec::new();
    let end = within("stepping down", following.take_over(&mut acks)).await;
    assert_eq!((end, following.is_leading()), (None, false));
    let end = within("the takeover", following.take_over(&mut acks)).await;
    assert_eq!((end, following.may_publish()), (Some(2), true));
    assert!(following.is_published(&event(1), "s", "b"));
}
