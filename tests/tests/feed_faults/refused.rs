//! Faults before a connection is authorised.

use super::*;

/// The fault is the outcome of so many attempts, and costs no event.
fn has_outcome(rule: &str, outcome: &str, times: u32, sentence: &str) {
    let scene = Scene::start(&[rule]);
    scene.wait_for_delivery(EVENTS);
    let times = f64::from(times);
    scene.wait_for_metric(CONNECTIONS, &[&format!("outcome=\"{outcome}\"")], times);
    let all = scene.bridge.metric(CONNECTIONS, &[]).unwrap();
    assert_eq!(all, times + 1.0, "and no attempt too many");
    assert_eq!(
        scene.bridge.metric(GAPS, &[]).unwrap(),
        0.0,
        "before the first connection nothing can be missed"
    );
    let ending = scene.stop();
    ending.is_complete();
    assert!(ending.log.contains(sentence), "{}", ending.log);
}

#[test]
fn by_an_error() {
    has_outcome(
        "refuse-token=Unknown token,times=2",
        "token_refused",
        2,
        "the platform refused the token: Unknown token",
    );
}

#[test]
fn by_another_answer() {
    has_outcome("wrong-auth=no,times=1", "token_refused", 1, "refused the token");
}

#[test]
fn by_no_answer() {
    has_outcome(
        "no-auth-answer,times=1",
        "auth_timeout",
        1,
        "no answer to AUTH within 500ms",
    );
}

#[test]
fn by_http_401() {
    has_outcome("http=401,times=1", "http_unauthorized", 1, "answered HTTP 401");
}

#[test]
fn by_http_403() {
    has_outcome("http=403,times=1", "http_forbidden", 1, "answered HTTP 403");
}

#[test]
fn by_http_429() {
    has_outcome(
        "http=429,times=1",
        "http_too_many_requests",
        1,
        "answered HTTP 429",
    );
}

#[test]
fn by_http_503() {
    has_outcome("http=503,times=1", "http_unavailable", 1, "answered HTTP 503");
}

#[test]
fn by_another_status() {
    has_outcome("http=404,times=1", "http_other", 1, "answered HTTP 404");
}
