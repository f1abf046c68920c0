//! The history and the gaps of a bridge remain after restarts and crashes, and `neurobridge history` and
//! `neurobridge gaps ls` show them.

use std::fs;
use std::process::{Command, Output};
use std::time::Duration;

use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::platform::Platform;
use neurobridge_tests::poll::{wait_for, wait_until};
use neurobridge_tests::ports::free_ports;
use neurobridge_tests::program::neurobridge;
use nix::sys::signal::Signal;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);

fn source(url: &str) -> String {
    format!("[sources.main]\nurl = \"{url}\"\ntoken = \"t\"\n[sources.main.backoff]\nmax = \"1s\"\n")
}

fn command(dir: &Scratch, arguments: &[&str]) -> Output {
    let mut command = Command::new(neurobridge());
    command
        .args(arguments)
        .arg("-c")
        .arg(dir.join("neurobridge.toml"));
    command.output().unwrap()
}

/// Returns the objects that a command prints as JSON lines.
fn lines(dir: &Scratch, arguments: &[&str]) -> Vec<Value> {
    let output = command(dir, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn gaps(dir: &Scratch) -> Vec<Value> {
    lines(dir, &["gaps", "ls", "--json"])
}

fn changes(dir: &Scratch) -> Vec<String> {
    let entries = lines(dir, &["history", "--json"]);
    entries
        .iter()
        .map(|entry| entry["kind"].as_str().unwrap().to_owned())
        .collect()
}

fn status(bridge: &Bridge) -> Value {
    serde_json::from_str(&bridge.get("/status").unwrap()).unwrap()
}

fn events(bridge: &Bridge, more_than: u64) {
    bridge
        .wait("events", SOON, |status| status.delivered("events") > more_than)
        .unwrap();
}

#[test]
fn gaps_of_crash_and_restart_survive_later_restarts() {
    let dir = Scratch::new("history-restart").unwrap();
    let platform = Platform::start(&dir, &["--rate", "200"]).unwrap();
    let config = source(&platform.url()) + "[spool]\ntype = \"disk\"\n";
    let mut bridge = Bridge::start(&dir, &config).unwrap();
    events(&bridge, 50);
    assert!(gaps(&dir).is_empty(), "the first start is no gap");
    // The proof of life, at which the gap of a crash begins, is written once a second.
    let alive = |file: &str| file.contains("{\"alive\":{\"main\":{\"at\":") && file.contains("\"event\":");
    let file = bridge.data_dir().join("history.ndjson");
    wait_until("a proof of life in the file", SOON, || {
        fs::read_to_string(&file).is_ok_and(|text| alive(&text))
    })
    .unwrap();
    bridge.process().kill().unwrap();

    let bridge = Bridge::start(&dir, &config).unwrap();
    events(&bridge, 100);
    let gap = wait_for("the gap of the crash", SOON, || {
        Ok(gaps(&dir).into_iter().find(|gap| !gap["ended"].is_null()))
    })
    .unwrap();
    assert_eq!(
        (&gap["reason"], &gap["outcome"], &gap["source"]),
        (&"crash".into(), &"unrecovered".into(), &"main".into()),
        "{gap}"
    );
    assert!(
        gap["seconds"].as_f64().unwrap() > 0.0 && gap["last_event"].is_string(),
        "{gap}"
    );
    let shown = &status(&bridge)["sources"]["main"]["newest_gaps"][0];
    assert_eq!((&shown["id"], &shown["reason"]), (&gap["id"], &gap["reason"]));
    assert_eq!(shown.get("last_event"), None, "`/status` must not show the event");
    let counted = |reason: &str| {
        let labels = [&*format!("reason=\"{reason}\""), "outcome=\"unrecovered\""];
        bridge.metric("neurobridge_source_gaps_total", &labels).unwrap()
    };
    assert_eq!((counted("crash"), counted("restart")), (1.0, 0.0));
    assert_eq!(bridge.metric("neurobridge_source_open_gaps", &[]).unwrap(), 0.0);
    let (ended, log) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(ended.success(), "{log}");
    assert!(
        log.contains("events since the crash of the bridge are missed"),
        "{log}"
    );

    let bridge = Bridge::start(&dir, &config).unwrap();
    events(&bridge, 150);
    wait_until("the gap of the restart", SOON, || {
        gaps(&dir)
            .last()
            .is_some_and(|gap| gap["reason"] == "restart" && !gap["ended"].is_null())
    })
    .unwrap();
    for (reason, labels) in [("crash", "reason=\"crash\""), ("restart", "reason=\"restart\"")] {
        let count = bridge.metric("neurobridge_source_gaps_total", &[labels]).unwrap();
        assert_eq!(count, 1.0, "{reason}: the counter continues across restarts");
    }
    bridge.stop(Signal::SIGTERM, SOON).unwrap();
    let changes = changes(&dir);
    let count = |kind: &str| changes.iter().filter(|change| *change == kind).count();
    assert_eq!(
        (count("bridge_started"), count("bridge_stopped")),
        (3, 2),
        "{changes:?}"
    );
    assert_eq!(
        (count("gap"), count("configuration_loaded")),
        (2, 3),
        "{changes:?}"
    );
    assert_eq!(changes.last().unwrap(), "bridge_stopped");
    let text = command(&dir, &["history", "--since", "1h"]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(
        text.contains("the last run ended without an orderly stop (crash)"),
        "{text}"
    );
    assert!(text.contains("bridge stopped: SIGTERM"), "{text}");
}

#[test]
fn outages_of_source_and_sink_are_in_the_history() {
    let dir = Scratch::new("history-outages").unwrap();
    let platform = Platform::start(&dir, &["--rate", "100", "--fault", "cut,every=2s,times=1"]).unwrap();
    let [port] = free_ports().unwrap();
    let config = source(&platform.url())
        + &format!(
            "[sinks.nats]\ntype = \"nats\"\nservers = [\"nats://127.0.0.1:{port}\"]\nstream = {{ name = \"X\" }}\n"
        );
    let bridge = Bridge::start(&dir, &config).unwrap();
    let wanted = ["sink_down", "source_connected", "source_disconnected", "gap"];
    wait_until("the changes in the file", SOON, || {
        let changes = changes(&dir);
        wanted
            .iter()
            .all(|kind| changes.iter().any(|change| change == kind))
    })
    .unwrap();
    let status = status(&bridge);
    let history = status["history"].as_array().unwrap();
    let down = history.iter().find(|entry| entry["kind"] == "sink_down").unwrap();
    assert_eq!(
        (&down["sink"], &down["reason"]),
        (&"nats".into(), &"unreachable".into())
    );
    let text = down["text"].as_str().unwrap();
    let log = fs::read_to_string(dir.join("bridge.log")).unwrap();
    assert!(
        log.contains(text),
        "the log must contain the text of the history: {text}"
    );
    assert_eq!(down["at"], status["sinks"]["nats"]["since"]);
    let gap = history.iter().find(|entry| entry["kind"] == "gap").unwrap();
    assert!(
        gap["seconds"].as_f64().unwrap() > 0.0 && gap["began"].is_string(),
        "{gap}"
    );
    let later = bridge
        .metric(
            "neurobridge_history_entry_timestamp_seconds",
            &["change=\"sink_down\"", "part=\"sinks.nats\""],
        )
        .unwrap();
    assert!(later > 1e9, "{later}");
    assert!(lines(&dir, &["history", "--json", "--since", "2100-01-01T00:00:00Z"]).is_empty());
    let unknown = command(&dir, &["gaps", "ls", "--source", "other"]);
    let error = String::from_utf8(unknown.stderr).unwrap();
    assert!(
        error.contains("unknown source \"other\", expected one of main"),
        "{error}"
    );
}

#[test]
fn flapping_connection_keeps_older_entries() {
    let dir = Scratch::new("history-flapping").unwrap();
    let platform = Platform::start(&dir, &["--rate", "50", "--fault", "cut,after=5"]).unwrap();
    let config = source(&platform.url()).replace("1s", "100ms") + "min = \"10ms\"\n";
    let bridge = Bridge::start(&dir, &config).unwrap();
    wait_until("20 gaps", SOON, || {
        bridge
            .metric("neurobridge_source_gaps_total", &["outcome=\"unrecovered\""])
            .is_ok_and(|gaps| gaps >= 20.0)
    })
    .unwrap();
    wait_until("the merged entries in the file", SOON, || {
        let entries = lines(&dir, &["history", "--json"]);
        entries
            .iter()
            .any(|entry| entry["kind"] == "gap" && entry["count"].as_u64() > Some(10))
    })
    .unwrap();
    let changes = changes(&dir);
    assert!(changes.contains(&"bridge_started".to_owned()), "{changes:?}");
    assert!(
        changes.iter().filter(|change| *change == "gap").count() <= 9,
        "{changes:?}"
    );
}

#[test]
fn history_without_a_run_is_an_error() {
    let dir = Scratch::new("history-none").unwrap();
    let text = format!(
        "data_dir = {:?}\n{}",
        dir.join("data"),
        source("ws://127.0.0.1:1/")
    );
    fs::write(dir.join("neurobridge.toml"), text).unwrap();
    let output = command(&dir, &["history"]);
    assert_eq!(output.status.code(), Some(74));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("no bridge has run there"), "{error}");
}
