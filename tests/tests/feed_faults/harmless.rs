//! Faults that keep the connection open.

use super::*;
use neurobridge_tests::status::SourceState;

/// Checks that all events are delivered over one connection.
fn assert_connection_stays(rules: &[&str]) -> Scene {
    let scene = Scene::start(rules);
    let status = scene.wait_for_delivery(EVENTS);
    assert_eq!(status.source("main").connections, 1, "the connection stays");
    scene
}

#[test]
fn binary_frames_keep_the_connection() {
    let scene = assert_connection_stays(&["binary,after=500,every=100,times=3"]);
    scene.wait_for_metric("neurobridge_source_frames_total", &["kind=\"binary\""], 3.0);
    scene.stop().assert_complete();
}

#[test]
fn large_frames_within_the_limit_are_delivered() {
    let scene = assert_connection_stays(&["huge=900KiB,after=100,every=500,times=3"]);
    let ending = scene.stop();
    ending.assert_complete();
    assert!(ending.written.len() > 3 * 900 * 1024);
}

#[test]
fn events_out_of_order_are_delivered_as_sent() {
    let ending = assert_connection_stays(&["out-of-order,after=100,times=1"]).stop();
    let sent: Vec<u64> = ending.sent.iter().map(|event| event.id).collect();
    let arrived = audit::structured(&ending.written).unwrap();
    let arrived: Vec<u64> = arrived.iter().map(|event| event.id).collect();
    assert!(!sent.is_sorted(), "the fault must have had an effect");
    assert_eq!(arrived, sent, "as the feed sent them");
}

#[test]
fn silence_with_pongs_keeps_the_connection() {
    let scene = Scene::start(&["silence,after=500,times=1"]);
    scene.wait_for_delivery(500);
    // Ten pings take longer than the timeout of a connection without pongs, which is five times the ping interval.
    let status = scene.wait("ten pongs", |_| {
        scene
            .bridge
            .metric("neurobridge_source_ping_rtt_seconds_count", &[])
            .unwrap()
            > 10.0
    });
    assert_eq!(status.source("main").connections, 1);
    assert_eq!(status.source("main").state, SourceState::Authenticated);
    scene.stop();
}
