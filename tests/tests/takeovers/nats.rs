//! Takeovers with a stream of JetStream and strict order. The duplicate window of the stream is as short as a server
//! accepts, so that the deduplication of the server does not hide an event that was published twice.

use neurobridge_sink_nats::{NatsConfig, NatsSink};
use neurobridge_tests::{
    nats::{NatsCluster, NatsOptions},
    relay::Relay,
    shared::{own_nats, with_own_nats},
};

use super::*;
use crate::nats_sink::support::{assert_once_and_in_order, creating, eventually, stored};

pub(super) const STREAM: &str = "ENTRIES";

pub(super) fn strict(url: &str) -> NatsConfig {
    let mut config = creating(url, STREAM);
    config.stream.as_mut().unwrap().duplicate_window = Some(Duration::from_millis(100));
    config
}

fn member(config: NatsConfig) -> impl Fn(Lead) -> NatsSink {
    move |lead| NatsSink::new("nats", config.clone()).as_member(lead)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_leaders_leave_each_event_once_and_in_order() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let url = nats.url();
    let events = killed_leaders(member(strict(&url))).await;
    assert_once_and_in_order(&stored(&url, STREAM).await, events);
}

#[tokio::test(flavor = "multi_thread")]
async fn leader_without_a_lease_follows() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let url = nats.url();
    let events = handed_over(member(strict(&url))).await;
    assert_once_and_in_order(&stored(&url, STREAM).await, events);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_leaders_publish_each_event_once_and_in_order() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let url = nats.url();
    let events = stale_leader(member(strict(&url))).await;
    assert_once_and_in_order(&stored(&url, STREAM).await, events);
}

/// Holds the messages of a leader in a relay until the next leader has published. The stream then refuses as many of
/// the held messages as the next leader has published messages, and accepts the later ones at the positions that they
/// expect. Returns the number of events.
async fn late_messages(config: NatsConfig) -> u64 {
    const HELD: u64 = 20;
    let relay = Relay::to(config.servers[0].trim_start_matches("nats://").to_owned()).unwrap();
    let mut relayed = config.clone();
    relayed.servers = vec![relay.address().to_owned()];
    let mut members = [Member::new(), Member::new()];
    members[0].start(&member(relayed));
    members[1].start(&member(config));
    // The number of held messages whose events the next leader has not received.
    for missing in [0, 12, 0] {
        members[1].lease.send_replace(None);
        members[0].lease.send_replace(lasting());
        // Enough events that the leader sends messages without waiting for each acknowledgement.
        append(&mut members, 0..6).await;
        for member in &members {
            member.delivery().until_settled(member.feed.appended()).await;
        }
        relay.hold();
        members[0].feed.append_many(HELD).await;
        members[1].feed.append_many(HELD - missing).await;
        eventually("the messages of the leader", async || {
            (relay.held() > 0).then_some(())
        })
        .await;
        members[0].lease.send_replace(None);
        members[1].lease.send_replace(lasting());
        members[1]
            .delivery()
            .until_settled(members[1].feed.appended())
            .await;
        if missing == 0 {
            append(&mut members, 0..6).await;
        }
        relay.release();
        members[0]
            .delivery()
            .until_settled(members[0].feed.appended())
            .await;
        members[1].feed.append_many(missing).await;
        append(&mut members, 0..1).await;
    }
    finish(members).await
}

#[tokio::test(flavor = "multi_thread")]
async fn late_messages_of_an_earlier_leader_cause_no_duplicate() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let url = nats.url();
    let events = late_messages(strict(&url)).await;
    assert_once_and_in_order(&stored(&url, STREAM).await, events);
}

#[tokio::test(flavor = "multi_thread")]
async fn late_messages_to_replicas_cause_no_duplicate() {
    with_replicas(async |config| late_messages(config).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_leaders_with_replicas_keep_events_once_and_in_order() {
    with_replicas(async |config| killed_leaders(member(config)).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_leaders_with_replicas_publish_events_once_and_in_order() {
    with_replicas(async |config| stale_leader(member(config)).await).await;
}

/// Checks that each of three servers stores each event once and in order. `publish` returns the number of events.
async fn with_replicas(publish: impl AsyncFnOnce(NatsConfig) -> u64) {
    let Some(cluster) = with_own_nats(|| NatsCluster::start(&NatsOptions::default())) else {
        return;
    };
    let cluster = cluster.unwrap();
    let urls = cluster.urls();
    let mut config = strict(&urls[0]);
    config.servers.clone_from(&urls);
    config.stream.as_mut().unwrap().replicas = Some(3);
    let events = publish(config).await;
    for url in &urls {
        assert_once_and_in_order(&stored(url, STREAM).await, events);
    }
}
