//! Faults that let an authorised connection end.

use super::*;
use neurobridge_tests::status::SourceState;

/// The fault ends so many connections for this reason, and costs no event.
fn ends(rule: &str, reason: &str, times: u32, sentence: &str) {
    let scene = Scene::start(&[rule]);
    scene.wait_for_delivery(EVENTS);
    let times = f64::from(times);
    scene.wait_for_metric(DISCONNECTIONS, &[&format!("reason=\"{reason}\"")], times);
    scene.wait_for_metric(GAPS, &[], times);
    let of_all = |name| scene.bridge.metric(name, &[]).unwrap();
    assert_eq!(of_all(DISCONNECTIONS), times, "for no other reason");
    assert_eq!(of_all(CONNECTIONS), times + 1.0, "and no attempt too many");
    assert!(of_all("neurobridge_source_gap_seconds_total") > 0.0);
    let ending = scene.stop();
    ending.is_complete();
    assert!(ending.log.contains(sentence), "{}", ending.log);
}

#[test]
fn closes() {
    ends(
        "close=1001,after=500,times=2",
        "closed",
        2,
        "closed the connection (code 1001",
    );
}

#[test]
fn a_close_with_an_invalid_code() {
    ends(
        "close=102,after=500,times=1",
        "closed",
        1,
        "closed the connection (",
    );
}

#[test]
fn a_close_right_after_authorisation() {
    ends(
        "close-after-auth,times=2",
        "closed",
        2,
        "closed the connection (code 1000",
    );
}

#[test]
fn an_end_without_a_close() {
    ends(
        "cut,after=500,times=1",
        "broken",
        1,
        "ended without a close frame",
    );
}

#[test]
fn no_pong() {
    ends(
        "no-pong,times=1",
        "pong_timeout",
        1,
        "no answer to a ping within 1s",
    );
}

#[test]
fn half_open() {
    ends("half-open,after=500,times=1", "pong_timeout", 1, "taken for dead");
}

/// The same once, where what the platform sends after it has closed is lost with the connection: what comes by the clock
/// goes on with the next one.
fn ends_with_a_loss(rule: &str, reason: &str, sentence: &str) {
    let scene = Scene::start_with(&[rule], &["--rate", "1000"], "1s");
    let status = scene.wait("events of the next connection", |status| {
        status.source("main").connections == 2 && status.delivered("events") > 1000
    });
    assert_eq!(status.source("main").state, SourceState::Authorised);
    scene.wait_for_metric(DISCONNECTIONS, &[&format!("reason=\"{reason}\"")], 1.0);
    scene.wait_for_metric(GAPS, &[], 1.0);
    let of_all = |name| scene.bridge.metric(name, &[]).unwrap();
    assert_eq!(of_all(CONNECTIONS), 2.0, "no attempt too many");
    assert!(of_all("neurobridge_source_gap_seconds_total") > 0.0);
    let log = scene.stop().log;
    assert!(log.contains(sentence), "{log}");
    assert!(log.contains(" in flight; 1 gap, "), "the ledger says it: {log}");
}

#[test]
fn a_wrong_pong() {
    ends_with_a_loss(
        "wrong-pong=WHAT,times=1",
        "bad_pong",
        "the answer to a ping was WHAT",
    );
}

#[test]
fn a_frame_that_is_no_utf8() {
    ends_with_a_loss("bad-utf8,after=500,times=1", "invalid_utf8", "no UTF-8");
}

#[test]
fn a_frame_above_the_limit() {
    ends_with_a_loss(
        "huge=2MiB,after=500,times=1",
        "frame_too_large",
        "a frame was larger than `max_frame_size`",
    );
}

#[test]
fn a_reset() {
    ends_with_a_loss("reset,after=500,times=1", "broken", "ended without a close frame");
}
