//! Permanent faults: the attempts to connect have delays in between, so that no hot loop occurs.

use super::*;

/// Checks the delays with a fault whose occurrences the metric `counted` counts.
fn assert_delays(rule: &str, counted: &str) {
    let before = Instant::now();
    let scene = Scene::start(&[rule]);
    scene.wait("a reason", |status| status.source("main").reason.is_some());
    scene.wait("five attempts", |_| {
        scene.bridge.metric(counted, &[]).unwrap() >= 5.0
    });
    // A hot loop makes five attempts within milliseconds. Each of the four delays is drawn from a range twice as large
    // as the previous one, starting with 250 ms; their sum is below 100 ms in one of 60,000 runs.
    let took = before.elapsed();
    assert!(took > Duration::from_millis(100), "{took:?}");
    scene.stop();
}

#[test]
fn attempts_after_refused_tokens_are_delayed() {
    assert_delays("refuse-token", CONNECTIONS);
}

#[test]
fn attempts_after_http_errors_are_delayed() {
    assert_delays("http=503", CONNECTIONS);
}

#[test]
fn attempts_after_closes_are_delayed() {
    assert_delays("close-after-auth", DISCONNECTIONS);
}

#[test]
fn attempts_after_cuts_are_delayed() {
    assert_delays("cut", DISCONNECTIONS);
}
