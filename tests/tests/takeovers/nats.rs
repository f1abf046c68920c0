//! Takeovers with a stream of JetStream and strict order. The duplicate window of the stream is as short as a server accepts, so that
//! it hides no second copy.

use neurobridge_sink_nats::{NatsConfig, NatsSink};
use neurobridge_tests::{
    nats::{NatsCluster, NatsOptions},
    shared::{own_nats, with_own_nats},
};

use super::*;
use crate::nats_sink::support::{assert_once_and_in_order, creating, stored};

pub(super) const STREAM: &str = "ENTRIES";

pub(super) fn strict(url: &str) -> NatsConfig {
    let mut config = creating(url, STREAM);
    config.stream.as_mut().unwrap().duplicate_window = Some(Duration::from_millis(100));
    config
}

fn member(config: NatsConfig) -> impl Fn(Lead) -> NatsSink {
    move |lead| NatsSink::new("nats", config.clone()).in_cluster(lead)
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

#[tokio::test(flavor = "multi_thread")]
async fn killed_leaders_of_replicas_leave_each_event_once_and_in_order() {
    let Some(cluster) = with_own_nats(|| NatsCluster::start(&NatsOptions::default())) else {
        return;
    };
    let cluster = cluster.unwrap();
    let urls = cluster.urls();
    let mut config = strict(&urls[0]);
    config.servers.clone_from(&urls);
    config.stream.as_mut().unwrap().replicas = Some(3);
    let events = killed_leaders(member(config)).await;
    for url in &urls {
        assert_once_and_in_order(&stored(url, STREAM).await, events);
    }
}
