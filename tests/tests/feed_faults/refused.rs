//! Faults before a connection is authenticated.

use super::*;

/// Checks that this many attempts have this outcome, and that no event is lost.
fn assert_outcome(rule: &str, outcome: &str, times: u32, sentence: &str) {
    let scene = Scene::start(&[rule]);
    scene.wait_for_delivery(EVENTS);
    let times = f64::from(times);
    scene.wait_for_metric(CONNECTIONS, &[&format!("outcome=\"{outcome}\"")], times);
    let all = scene.bridge.metric(CONNECTIONS, &[]).unwrap();
    assert_eq!(all, times + 1.0, "there must be no additional attempt");
    assert_eq!(
        scene.bridge.metric(GAPS, &[]).unwrap(),
        0.0,
        "there is no gap before the first connection"
    );
    let ending = scene.stop();
    ending.assert_complete();
    assert!(ending.log.contains(sentence), "{}", ending.log);
}

#[test]
fn error_answer_is_token_refused() {
    assert_outcome(
        "refuse-token=Unknown token,times=2",
        "token_refused",
        2,
        "the platform refused the token: Unknown token",
    );
}

#[test]
fn wrong_auth_answer_is_token_refused() {
    assert_outcome("wrong-auth=no,times=1", "token_refused", 1, "refused the token");
}

#[test]
fn missing_auth_answer_is_a_timeout() {
    assert_outcome(
        "no-auth-answer,times=1",
        "auth_timeout",
        1,
        "no answer to AUTH within 500ms",
    );
}

#[test]
fn http_401_is_unauthorized() {
    assert_outcome("http=401,times=1", "http_unauthorized", 1, "answered HTTP 401");
}

#[test]
fn http_403_is_forbidden() {
    assert_outcome("http=403,times=1", "http_forbidden", 1, "answered HTTP 403");
}

#[test]
fn http_429_is_rate_limited() {
    assert_outcome(
        "http=429,times=1",
        "http_too_many_requests",
        1,
        "answered HTTP 429",
    );
}

#[test]
fn http_503_is_unavailable() {
    assert_outcome("http=503,times=1", "http_unavailable", 1, "answered HTTP 503");
}

#[test]
fn http_404_is_another_error() {
    assert_outcome("http=404,times=1", "http_other", 1, "answered HTTP 404");
}
