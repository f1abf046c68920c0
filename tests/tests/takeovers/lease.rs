//! Takeovers with a real lease in NATS: a kill ends a member together with its membership, so that the lease is not
//! released but expires.

use neurobridge_cluster::{ClusterConfig, LeaseConfig, Membership, NatsLease, Standby};
use neurobridge_sink_nats::NatsSink;
use neurobridge_tests::{nats::NatsOptions, poll::Patience, shared::own_nats};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::{
    nats::{STREAM, strict},
    *,
};
use crate::nats_sink::support::{LIMIT, assert_once_and_in_order, stored};

/// Shorter than the default, so that the test waits less. Longer than the pauses of a busy machine.
const TTL: Duration = Duration::from_secs(4);

fn cluster(url: &str) -> ClusterConfig {
    ClusterConfig {
        name: "faces".into(),
        member: None,
        standby: Standby::Hot,
        lease: LeaseConfig::Nats(NatsLease {
            servers: vec![url.into()],
            bucket: "LEASES".into(),
            create: true,
            replicas: Some(1),
            ttl: TTL,
            auth: None,
            tls: None,
        }),
    }
}

/// A member with a real lease, in a runtime of its own, so that a kill ends all of its tasks at once.
struct LeasedMember {
    name: String,
    feed: Feed,
    cursor: Cursor,
    running: Option<(Runtime, Membership, Delivery)>,
}

impl LeasedMember {
    fn start(&mut self, url: &str) {
        let runtime = Runtime::new().unwrap();
        let entered = runtime.enter();
        let membership = Membership::join(&cluster(url), &self.name, "same", CancellationToken::new());
        let sink = NatsSink::new("nats", strict(url)).as_member(membership.lead());
        let (cursor, spool) = (self.cursor.clone(), self.feed.spool.id());
        let delivery = Delivery::run(&self.feed, sink, cursor, spool, Epochs::default());
        drop(entered);
        self.running = Some((runtime, membership, delivery));
    }

    fn is_leading(&self) -> bool {
        let running = self.running.as_ref();
        running.is_some_and(|(_, membership, _)| membership.role().borrow().leadership().is_some())
    }

    fn delivered(&self) -> u64 {
        let running = self.running.as_ref();
        running.map_or(0, |(_, _, delivery)| delivery.now().cursor.counts.delivered)
    }

    async fn kill(&mut self) {
        let (runtime, _, delivery) = self.running.take().unwrap();
        runtime.shutdown_background();
        self.cursor = delivery.crash().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn takeovers_after_kills_publish_each_event_once() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let url = nats.url();
    let mut members: Vec<LeasedMember> = ["one", "two", "three"]
        .map(|name| LeasedMember {
            name: name.into(),
            feed: Feed::new(),
            cursor: Cursor::starting_at(Sequence::FIRST),
            running: None,
        })
        .into();
    for member in &mut members {
        member.start(&url);
    }
    for _ in 0..3 {
        let before: Vec<u64> = members.iter().map(LeasedMember::delivered).collect();
        let mut patience = Patience::new("a leader that publishes", LIMIT);
        let leader = loop {
            patience.check().unwrap();
            for member in &mut members {
                member.feed.append_over(Duration::from_millis(20), 2000).await;
            }
            let publishes =
                |index: &usize| members[*index].is_leading() && members[*index].delivered() > before[*index];
            if let Some(leader) = (0..members.len()).find(publishes) {
                break leader;
            }
        };
        members[leader].kill().await;
        members[leader].start(&url);
    }
    let events = members.iter().map(|member| member.feed.appended()).max().unwrap();
    for member in &mut members {
        member.feed.append_many(events - member.feed.appended()).await;
        let (_, _, delivery) = member.running.as_ref().unwrap();
        delivery.until_settled(events).await;
    }
    assert_once_and_in_order(&stored(&url, STREAM).await, events);
    for member in &mut members {
        member.kill().await;
    }
}
