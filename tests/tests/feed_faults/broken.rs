//! Faults that close an authenticated connection.

use super::*;
use neurobridge_tests::status::SourceState;

/// Checks that the fault closes the connection this many times, for this reason, and loses no event.
fn assert_closes_without_loss(rule: &str, reason: &str, times: u32, sentence: &str) {
    let scene = Scene::start(&[rule]);
    scene.wait_for_delivery(EVENTS);
    let times = f64::from(times);
    scene.wait_for_metric(DISCONNECTIONS, &[&format!("reason=\"{reason}\"")], times);
    scene.wait_for_metric(GAPS, &[], times);
    let of_all = |name| scene.bridge.metric(name, &[]).unwrap();
    assert_eq!(of_all(DISCONNECTIONS), times, "there must be no other reason");
    assert_eq!(
        of_all(CONNECTIONS),
        times + 1.0,
        "there must be no additional attempt"
    );
    assert!(of_all("neurobridge_source_gap_seconds_total") > 0.0);
    let ending = scene.stop();
    ending.assert_complete();
    assert!(ending.log.contains(sentence), "{}", ending.log);
}

#[test]
fn close_reconnects_without_loss() {
    assert_closes_without_loss(
        "close=1001,after=500,times=2",
        "closed",
        2,
        "closed the connection (code 1001",
    );
}

#[test]
fn invalid_close_code_reconnects_without_loss() {
    assert_closes_without_loss(
        "close=102,after=500,times=1",
        "closed",
        1,
        "closed the connection (",
    );
}

#[test]
fn close_after_auth_reconnects_without_loss() {
    assert_closes_without_loss(
        "close-after-auth,times=2",
        "closed",
        2,
        "closed the connection (code 1000",
    );
}

#[test]
fn cut_reconnects_without_loss() {
    assert_closes_without_loss(
        "cut,after=500,times=1",
        "broken",
        1,
        "ended without a close frame",
    );
}

#[test]
fn missing_pong_reconnects_without_loss() {
    assert_closes_without_loss(
        "no-pong,times=1",
        "pong_timeout",
        1,
        "no answer to a ping within 1s",
    );
}

#[test]
fn half_open_reconnects_without_loss() {
    assert_closes_without_loss(
        "half-open,after=500,times=1",
        "pong_timeout",
        1,
        "the connection is dead",
    );
}

/// Checks a fault that closes the connection once. Events that the platform sends after the fault are lost with the
/// connection; the next connection continues at the current event.
fn assert_closes_with_loss(rule: &str, reason: &str, sentence: &str) {
    let scene = Scene::start_with(&[rule], &["--rate", "1000"], "1s");
    let status = scene.wait("events of the next connection", |status| {
        status.source("main").connections == 2 && status.delivered("events") > 1000
    });
    assert_eq!(status.source("main").state, SourceState::Authenticated);
    scene.wait_for_metric(DISCONNECTIONS, &[&format!("reason=\"{reason}\"")], 1.0);
    scene.wait_for_metric(GAPS, &[], 1.0);
    let of_all = |name| scene.bridge.metric(name, &[]).unwrap();
    assert_eq!(of_all(CONNECTIONS), 2.0, "there must be no additional attempt");
    assert!(of_all("neurobridge_source_gap_seconds_total") > 0.0);
    let log = scene.stop().log;
    assert!(log.contains(sentence), "{log}");
    assert!(
        log.contains(" in flight; 1 gap, "),
        "the final ledger must contain the gap: {log}"
    );
}

#[test]
fn wrong_pong_reconnects() {
    assert_closes_with_loss(
        "wrong-pong=WHAT,times=1",
        "bad_pong",
        "the answer to a ping was WHAT",
    );
}

#[test]
fn invalid_utf8_reconnects() {
    assert_closes_with_loss("bad-utf8,after=500,times=1", "invalid_utf8", "not UTF-8");
}

#[test]
fn oversize_frame_reconnects() {
    assert_closes_with_loss(
        "huge=2MiB,after=500,times=1",
        "frame_too_large",
        "a frame exceeds `max_frame_size`",
    );
}

#[test]
fn reset_reconnects() {
    assert_closes_with_loss("reset,after=500,times=1", "broken", "ended without a close frame");
}

/// Other messages are suppressed if similar ones repeat this often within a minute.
#[test]
fn each_cut_and_each_reconnection_is_logged() {
    const CUTS: usize = 15;
    let dir = Scratch::new("cuts").unwrap();
    let rule = format!("cut,after=50,times={CUTS}");
    let platform = Platform::start(&dir, &["--count", "2000", "--fault", &rule]).unwrap();
    let backoff = "[sources.main.backoff]\nmin = \"10ms\"\nmax = \"50ms\"\n";
    let config = format!(
        "[sources.main]\nurl = \"{}\"\ntoken = \"t\"\n{backoff}",
        platform.url()
    );
    let start = std::time::Instant::now();
    let bridge = Bridge::start(&dir, &config).unwrap();
    let status = |status: &Status| status.delivered("events") == 2000;
    bridge.wait("all events to be delivered", SOON, status).unwrap();
    let took = start.elapsed();
    let (ended, log) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(ended.success(), "{log}");
    let lines = |parts: [&str; 2]| {
        let matching = log
            .lines()
            .filter(|line| parts.iter().all(|part| line.contains(part)));
        matching.count()
    };
    assert_eq!(
        lines(["not connected:", "ended without a close frame"]),
        CUTS,
        "{log}"
    );
    assert_eq!(lines(["authenticated again", "gap=\""]), CUTS, "{log}");
    assert!(
        took < Duration::from_secs(60),
        "the cuts must happen within a minute: {took:?}"
    );
}

/// The names differ only in digits. Other messages that differ only in digits count as similar and may be suppressed.
#[test]
fn final_ledger_lists_all_of_many_sources_and_sinks() {
    let dir = Scratch::new("ledger").unwrap();
    let platform = Platform::start(&dir, &["--rate", "10"]).unwrap();
    let sources = (1..=30).map(|number| {
        format!(
            "[sources.s{number}]\nurl = \"{}\"\ntoken = \"t\"\n",
            platform.url()
        )
    });
    let sinks =
        (1..=12).map(|number| format!("[sinks.f{number}]\ntype = \"file\"\npath = \"{number}.jsonl\"\n"));
    let config: String = sources.chain(sinks).collect();
    let bridge = Bridge::start(&dir, &config).unwrap();
    let is_connected = |status: &Status| {
        let mut states = status.sources.values().map(|source| source.state);
        states.all(|state| state == SourceState::Authenticated)
    };
    bridge
        .wait("all sources to be connected", SOON, is_connected)
        .unwrap();
    let data_dir = bridge.data_dir().display().to_string();
    let (ended, log) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(ended.success(), "{log}");
    let missing = (1..=30)
        .map(|number| format!(" source s{number}: "))
        .chain((1..=12).map(|number| format!(" sink f{number}: ")));
    let missing: Vec<String> = missing.filter(|line| !log.contains(line)).collect();
    assert_eq!(missing, Vec::<String>::new(), "{log}");
    let first = log.lines().next().unwrap();
    for part in ["version=", "neurobridge.toml", &data_dir] {
        assert!(first.contains(part), "{part} in {first}");
    }
}
