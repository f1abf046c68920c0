//! Several members of a cluster with one destination: each event is stored once and in order, independent of how
//! often and how the leader changes. The members have logs of their own, and receive the events at different times.

mod kafka;
mod lease;
mod nats;

use std::{ops::Range, time::Duration};

use neurobridge_core::{
    delivery::ProgressSnapshot, epoch::Epochs, event::Sequence, lead::Lead, reader::Cursor, sink::Sink,
};
use tokio::{sync::watch, time::Instant};

use crate::nats_sink::support::{Delivery, Feed};

/// Returns the end of a lease that lasts longer than any test.
fn lasting() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(3600))
}

/// A member: its log, its lease, and its delivery.
struct Member {
    feed: Feed,
    lease: watch::Sender<Option<Instant>>,
    cursor: Cursor,
    delivery: Option<Delivery>,
}

impl Member {
    fn new() -> Self {
        Self {
            feed: Feed::new(),
            lease: watch::Sender::new(None),
            cursor: Cursor::starting_at(Sequence::FIRST),
            delivery: None,
        }
    }

    fn start<S: Sink>(&mut self, make: &impl Fn(Lead) -> S) {
        let sink = make(Lead::new(self.lease.subscribe()));
        let (cursor, spool) = (self.cursor.clone(), self.feed.spool.id());
        self.delivery = Some(Delivery::run(&self.feed, sink, cursor, spool, Epochs::default()));
    }

    fn delivery(&self) -> &Delivery {
        self.delivery.as_ref().unwrap()
    }

    fn delivered(&self) -> u64 {
        self.delivery().now().cursor.counts.delivered
    }

    /// Stops the delivery at any point, as a kill would, and ends the lease.
    async fn kill(&mut self) {
        self.cursor = self.delivery.take().unwrap().crash().await;
        self.lease.send_replace(None);
    }
}

/// Returns two members that follow.
fn two<S: Sink>(make: &impl Fn(Lead) -> S) -> [Member; 2] {
    let mut members = [Member::new(), Member::new()];
    for member in &mut members {
        member.start(make);
    }
    members
}

/// Appends the next events to all logs, in portions that reach the members at different times.
async fn append(members: &mut [Member], portions: Range<usize>) {
    let count = members.len();
    for portion in portions {
        for index in 0..count {
            let member = &mut members[(portion + index) % count];
            member.feed.append_over(Duration::from_millis(30), 3000).await;
        }
    }
}

/// Waits until all events are settled by all members. Returns the number of events.
async fn finish(members: [Member; 2]) -> u64 {
    let mut events = 0;
    for member in members {
        events = member.feed.appended();
        member.delivery.unwrap().finish(&member.feed).await;
    }
    events
}

/// Kills each leader while it publishes, after which no member leads for a moment. Returns the number of events.
async fn killed_leaders<S: Sink>(make: impl Fn(Lead) -> S) -> u64 {
    let mut members = two(&make);
    for round in 0..6 {
        let leader = round % 2;
        members[leader].lease.send_replace(lasting());
        let before = members[leader].delivered();
        append(&mut members, 0..6).await;
        let has_published = |progress: &ProgressSnapshot| progress.cursor.counts.delivered > before;
        members[leader]
            .delivery()
            .until("the leader to publish", has_published)
            .await;
        append(&mut members, 0..3).await;
        members[leader].kill().await;
        append(&mut members, 0..2).await;
        members[leader].start(&make);
    }
    members[0].lease.send_replace(lasting());
    finish(members).await
}

/// Hands the leadership over and back while events arrive. Returns the number of events.
async fn handed_over<S: Sink>(make: impl Fn(Lead) -> S) -> u64 {
    let mut members = two(&make);
    for round in 0..4 {
        let leader = round % 2;
        members[1 - leader].lease.send_replace(None);
        members[leader].lease.send_replace(lasting());
        append(&mut members, 0..6).await;
        for member in &members {
            member.delivery().until_settled(member.feed.appended()).await;
        }
    }
    let delivered: Vec<_> = members.iter().map(Member::delivered).collect();
    let faults: u64 = members.iter().map(|member| member.delivery().faults()).sum();
    let events = members[0].feed.appended();
    // After a fault, a member may find events that it had in flight in the destination, and does not count them as
    // delivered.
    assert!(
        faults > 0 || delivered.iter().sum::<u64>() == events,
        "{delivered:?}"
    );
    assert!(delivered.iter().all(|delivered| *delivered > 0), "{delivered:?}");
    finish(members).await
}

/// Makes a second member lead while the lease of the first one has not ended. Returns the number of events.
async fn stale_leader<S: Sink>(make: impl Fn(Lead) -> S) -> u64 {
    let mut members = two(&make);
    members[0].lease.send_replace(lasting());
    append(&mut members, 0..6).await;
    for round in 0..4 {
        let (stale, leader) = (round % 2, 1 - round % 2);
        members[leader].lease.send_replace(lasting());
        append(&mut members, 0..6).await;
        members[stale].lease.send_replace(None);
        append(&mut members, 0..6).await;
    }
    finish(members).await
}
