//! Short-lived tokens that the bridge creates: it renews them, uses them again after restarts and kills, and replaces refused
//! ones.

use std::fs;
use std::time::Duration;

use neurobridge_tests::audit;
use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::platform::Platform;
use neurobridge_tests::poll::wait_until;
use nix::sys::signal::Signal;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);
const CREDENTIAL: &str = "credential-of-the-test";

fn platform(dir: &Scratch, more: &[&str]) -> Platform {
    let flags = ["--token", CREDENTIAL, "--rate", "100"];
    Platform::start(dir, &[&flags, more].concat()).unwrap()
}

fn config(platform: &Platform) -> String {
    format!(
        "[sources.main]\nurl = \"{}\"\n[sources.main.backoff]\nmax = \"1s\"\n[sources.main.token_from]\nurl = \"http://{}\"\n\
         credential = \"{CREDENTIAL}\"\n[spool]\ntype = \"disk\"\n[sinks.events]\ntype = \"file\"\n",
        platform.url(),
        platform.address()
    )
}

fn requests(bridge: &Bridge, outcome: &str) -> f64 {
    let outcome = format!("outcome=\"{outcome}\"");
    bridge
        .metric("neurobridge_source_token_requests_total", &[&outcome])
        .unwrap()
}

fn wait_for_requests(bridge: &Bridge, outcome: &str, count: f64) {
    wait_until(outcome, SOON, || {
        let alive = bridge.metric("neurobridge_source_tokens", &[]).unwrap();
        assert!(alive <= 2.0, "{alive} tokens");
        requests(bridge, outcome) >= count
    })
    .unwrap();
}

fn gaps(bridge: &Bridge) -> Value {
    let status: Value = serde_json::from_str(&bridge.get("/status").unwrap()).unwrap();
    status["sources"]["main"]["newest_gaps"].clone()
}

/// Stops the platform, and asserts that at most two tokens were valid at a time, in addition to the credential.
fn stop(mut platform: Platform) -> String {
    platform.process().terminate(SOON).unwrap();
    let log = platform.process().logged().unwrap();
    let (_, most) = log.split_once("most_tokens=").unwrap();
    let digits: String = most.chars().take_while(char::is_ascii_digit).collect();
    assert!(digits.parse::<u32>().unwrap() <= 3, "{log}");
    log
}

#[test]
fn renewals_lose_no_event() {
    let dir = Scratch::new("tokens-renewed").unwrap();
    let platform = platform(&dir, &["--token-life", "10s"]);
    let bridge = Bridge::start(&dir, &config(&platform)).unwrap();
    wait_for_requests(&bridge, "deleted", 3.0);
    assert_eq!(gaps(&bridge), Value::Array(Vec::new()));
    let file = bridge.data_dir().join("events.jsonl");
    let (status, log) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(status.success() && !log.contains(CREDENTIAL), "{status}: {log}");
    let arrived = audit::structured(&fs::read_to_string(file).unwrap()).unwrap();
    let sent = platform.stop().unwrap();
    assert!(sent.len() > 500, "{}", sent.len());
    // The platform also numbers events while no client is connected, so consecutive ids prove that no event between
    // two connections is missing.
    let mut ids: Vec<u64> = sent.iter().map(|event| event.id).collect();
    ids.sort_unstable();
    assert!(ids.windows(2).all(|pair| pair[1] == pair[0] + 1), "{ids:?}");
    assert_eq!(arrived.len(), sent.len());
}

#[test]
fn token_is_used_again_after_restarts_and_kills() {
    let dir = Scratch::new("tokens-kept").unwrap();
    let platform = platform(&dir, &["--token-life", "1h"]);
    let mut bridge = Bridge::start(&dir, &config(&platform)).unwrap();
    let mut delivered = 0;
    for kill in [true, false, true] {
        bridge
            .wait("events", SOON, |status| {
                status.delivered("events") > delivered + 50
            })
            .unwrap();
        delivered = bridge.status().unwrap().delivered("events");
        if kill {
            bridge.process().kill().unwrap();
        } else {
            bridge.stop(Signal::SIGTERM, SOON).unwrap();
        }
        bridge = Bridge::start(&dir, &config(&platform)).unwrap();
    }
    bridge
        .wait("events", SOON, |status| {
            status.delivered("events") > delivered + 50
        })
        .unwrap();
    assert_eq!(requests(&bridge, "created"), 0.0);
    let log = stop(platform);
    assert!(log.contains("rest_requests=1 "), "{log}");
}

#[test]
fn kills_during_renewals_leave_at_most_two_tokens() {
    let dir = Scratch::new("tokens-killed").unwrap();
    let platform = platform(&dir, &["--token-life", "10s"]);
    for _ in 0..4 {
        let mut bridge = Bridge::start(&dir, &config(&platform)).unwrap();
        wait_for_requests(&bridge, "created", 1.0);
        // At this time the new token is stored, and the old one may not be deleted yet.
        bridge.process().kill().unwrap();
    }
    let bridge = Bridge::start(&dir, &config(&platform)).unwrap();
    wait_for_requests(&bridge, "deleted", 2.0);
    drop(bridge);
    stop(platform);
}

#[test]
fn refused_token_is_replaced_once() {
    let dir = Scratch::new("tokens-refused").unwrap();
    let platform = platform(&dir, &["--token-life", "1h"]);
    let bridge = Bridge::start(&dir, &config(&platform)).unwrap();
    bridge
        .wait("events", SOON, |status| status.delivered("events") > 50)
        .unwrap();
    let file = bridge.data_dir().join("main.token");
    bridge.stop(Signal::SIGTERM, SOON).unwrap();
    let mut stored: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    stored["token"]["key"] = "another-key".into();
    fs::write(&file, stored.to_string()).unwrap();

    let bridge = Bridge::start(&dir, &config(&platform)).unwrap();
    wait_for_requests(&bridge, "created", 1.0);
    // The bridge deletes the refused token.
    wait_for_requests(&bridge, "deleted", 1.0);
    let delivered = bridge.status().unwrap().delivered("events");
    bridge
        .wait("events", SOON, |status| {
            status.delivered("events") > delivered + 50
        })
        .unwrap();
    assert_eq!(requests(&bridge, "created"), 1.0);
    let (_, log) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(log.contains("the feed refused the created token"), "{log}");
    stop(platform);
}

#[test]
fn unavailable_iam_affects_no_live_event() {
    let dir = Scratch::new("tokens-unavailable").unwrap();
    let platform = platform(
        &dir,
        &["--token-life", "10s", "--fault", "rest-http=503,request=2"],
    );
    let bridge = Bridge::start(&dir, &config(&platform)).unwrap();
    wait_for_requests(&bridge, "unavailable", 1.0);
    let delivered = bridge.status().unwrap().delivered("events");
    bridge
        .wait("events", SOON, |status| {
            status.delivered("events") > delivered + 20
        })
        .unwrap();
    assert_eq!(gaps(&bridge), Value::Array(Vec::new()));
    let status: Value = serde_json::from_str(&bridge.get("/status").unwrap()).unwrap();
    let tokens = &status["sources"]["main"]["tokens"];
    let problem = tokens["problem"].as_str().unwrap();
    assert!(
        problem.starts_with("no token created: ") && problem.contains("HTTP 503"),
        "{problem}"
    );
    assert!(tokens["expires"].is_string() && tokens["alive"] == 1, "{tokens}");
    let expiry = bridge
        .metric("neurobridge_source_token_expiry_timestamp_seconds", &[])
        .unwrap();
    assert!(expiry > 0.0);
}
