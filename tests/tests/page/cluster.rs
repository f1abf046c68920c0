//! The page of a member of a cluster: its role, the other members, and why it cannot lead.

use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::cluster::cluster_table;
use neurobridge_tests::nats::NatsOptions;
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::platform::Platform;
use neurobridge_tests::ports::free_ports;
use neurobridge_tests::shared::own_nats;
use neurobridge_tests::status::Status;

use super::{DESK, SOON, source, watch};

/// An expression for the text of the cluster's card; empty while the card is hidden.
const CARD: &str = "(document.querySelector('#cluster').innerText ?? '').replace(/\\s+/g, ' ')";

fn member(url: &str, name: &str, servers: &str) -> String {
    format!(
        "{}[spool]\ntype = \"disk\"\n{}",
        source(url),
        cluster_table("faces", name, servers, "5s")
    )
}

#[test]
fn refused_member_shows_the_reason_and_the_leader() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let (first_dir, dir) = (
        Scratch::new("page-leader").unwrap(),
        Scratch::new("page-refused").unwrap(),
    );
    let platform = Platform::start(&first_dir, &["--rate", "50"]).unwrap();
    let leader = Bridge::start(&first_dir, &member(&platform.url(), "a", &nats.url())).unwrap();
    leader.wait("a leader", SOON, Status::leads).unwrap();
    let other = member(&platform.url(), "b", &nats.url()) + "[event]\nfilter = { result = \"new\" }\n";
    let bridge = Bridge::start(&dir, &other).unwrap();
    let Some(mut browser) = watch(&bridge, &dir, DESK) else {
        return;
    };
    for (what, pattern) in [
        ("the cluster", "/^Cluster faces, this member: b/"),
        ("the state", "/refused/"),
        (
            "the reason",
            "/the leader .a. of the cluster .faces. has another configuration/",
        ),
        ("the leader", "/\\ba leader \\d+ \\d/"),
        ("the own row", "/b \\(this one\\) follower/"),
    ] {
        let shown = format!("{pattern}.test({CARD})");
        browser.wait(what, SOON, &shown).unwrap();
    }
}

#[test]
fn page_states_that_the_lease_is_unreachable() {
    let dir = Scratch::new("page-unreachable").unwrap();
    let [port] = free_ports().unwrap();
    let config = member("ws://127.0.0.1:1/", "a", &format!("nats://127.0.0.1:{port}"));
    let bridge = Bridge::start(&dir, &config).unwrap();
    let Some(mut browser) = watch(&bridge, &dir, DESK) else {
        return;
    };
    let shown = format!("/unreachable.*{port}.*role follower/.test({CARD})");
    browser.wait("the reason", SOON, &shown).unwrap();
}

#[test]
fn bridge_outside_of_a_cluster_shows_no_card() {
    let dir = Scratch::new("page-alone").unwrap();
    let bridge = Bridge::start(&dir, &source("ws://127.0.0.1:1/")).unwrap();
    let Some(mut browser) = watch(&bridge, &dir, DESK) else {
        return;
    };
    let shown = "document.querySelector('#sinks h3')?.textContent === 'events file'";
    browser.wait("the sink", SOON, shown).unwrap();
    let rectangles = "document.querySelector('#cluster').getClientRects().length";
    assert_eq!(
        browser.evaluate(rectangles).unwrap(),
        0,
        "the card of a cluster is shown"
    );
}
