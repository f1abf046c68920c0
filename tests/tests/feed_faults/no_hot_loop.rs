//! Faults that never end.

use super::*;

fn is_made_by(rule: &str, counted: &str) {
    let before = Instant::now();
    let scene = Scene::start(&[rule]);
    scene.wait("a reason", |status| status.source("main").reason.is_some());
    scene.wait("five attempts", |_| {
        scene.bridge.metric(counted, &[]).unwrap() >= 5.0
    });
    // A hot loop makes five attempts within milliseconds. Four delays, each drawn from twice the range of the
    // one before, the first from 250 ms, are together below 100 ms in one of 60,000 runs.
    let took = before.elapsed();
    assert!(took > Duration::from_millis(100), "{took:?}");
    scene.stop();
}

#[test]
fn of_refusals() {
    is_made_by("refuse-token", CONNECTIONS);
}

#[test]
fn of_statuses() {
    is_made_by("http=503", CONNECTIONS);
}

#[test]
fn of_closes() {
    is_made_by("close-after-auth", DISCONNECTIONS);
}

#[test]
fn of_cuts() {
    is_made_by("cut", DISCONNECTIONS);
}
