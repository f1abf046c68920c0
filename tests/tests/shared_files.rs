//! Files of a bridge that another bridge opens, that are removed while the bridge runs, or whose writing a kill
//! interrupts.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::process::{Command, Output};
use std::time::Duration;

use neurobridge_tests::audit;
use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::platform::Platform;
use neurobridge_tests::poll::wait_until;
use neurobridge_tests::program::neurobridge;
use neurobridge_tests::status::SourceState;
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(60);

fn source(platform: &Platform) -> String {
    format!("[sources.main]\nurl = \"{}\"\ntoken = \"t\"\n", platform.url())
}

/// Runs a second bridge with a `data_dir` of its own and waits for its end.
fn run_another(dir: &Scratch, config: &str) -> Output {
    let file = dir.join("another.toml");
    let data_dir = dir.join("another");
    let whole = format!("data_dir = {data_dir:?}\n{config}\n[http]\nlisten = \"127.0.0.1:0\"\n");
    fs::File::create(&file)
        .unwrap()
        .write_all(whole.as_bytes())
        .unwrap();
    Command::new("timeout")
        .arg("60")
        .arg(neurobridge())
        .args(["run", "-c"])
        .arg(&file)
        .output()
        .unwrap()
}

/// Checks that the first bridge continues after the second one was refused, and that it shuts down cleanly.
fn continues(bridge: Bridge) {
    let before = bridge.status().unwrap().delivered("events");
    bridge
        .wait("more events", SOON, |status| {
            status.delivered("events") > before + 50
        })
        .unwrap();
    let (ended, log) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(ended.success(), "{log}");
}

#[test]
fn spool_without_lock_file_still_has_one_user() {
    let dir = Scratch::new("shared-spool").unwrap();
    let platform = Platform::start(&dir, &["--rate", "100"]).unwrap();
    let spool = dir.join("spool");
    let config = format!(
        "{}[spool]\ntype = \"disk\"\npath = {spool:?}\n",
        source(&platform)
    );
    let bridge = Bridge::start(&dir, &config).unwrap();
    fs::remove_file(spool.join("spool.lock")).unwrap();
    let another = run_another(&dir, &config);
    assert_eq!(another.status.code(), Some(75), "{another:?}");
    continues(bridge);
}

#[test]
fn file_without_lock_file_still_has_one_writer() {
    let (dir, other_dir) = (
        Scratch::new("shared-file").unwrap(),
        Scratch::new("shared-file-other").unwrap(),
    );
    let platform = Platform::start(&dir, &["--rate", "100"]).unwrap();
    let file = dir.join("events.jsonl");
    let config = format!(
        "{}[sinks.events]\ntype = \"file\"\npath = {file:?}\n",
        source(&platform)
    );
    let bridge = Bridge::start(&dir, &config).unwrap();
    bridge
        .wait("some events", SOON, |status| status.delivered("events") > 10)
        .unwrap();
    fs::remove_file(dir.join("events.jsonl.lock")).unwrap();
    let other_config = format!("drain_timeout = \"1s\"\n{config}");
    let other = Bridge::start(&other_dir, &other_config).unwrap();
    let status = other
        .wait("the sink of the second bridge to be down", SOON, |status| {
            let sink = status.sink("events");
            let is_refused = sink
                .reason
                .as_ref()
                .is_some_and(|reason| reason.contains("another process writes to"));
            is_refused && sink.ledger.pending > 0
        })
        .unwrap();
    assert_eq!(status.delivered("events"), 0);
    // The spool of this bridge is in memory, so its events are lost when it stops.
    let (ended, log) = other.stop(Signal::SIGTERM, SOON).unwrap();
    assert_eq!(ended.code(), Some(75), "{log}");
    assert!(
        log.contains("sink events: ") && log.contains(" = 0 delivered"),
        "{log}"
    );
    continues(bridge);
}

#[test]
fn removed_spool_ends_the_bridge_on_a_quiet_feed() {
    let dir = Scratch::new("removed-spool").unwrap();
    let platform = Platform::start(&dir, &["--rate", "0.001"]).unwrap();
    let config = format!("{}[spool]\ntype = \"disk\"\n", source(&platform));
    let mut bridge = Bridge::start(&dir, &config).unwrap();
    bridge
        .wait("the connection", SOON, |status| {
            status.source("main").state == SourceState::Authenticated
        })
        .unwrap();
    // The bridge may write a cursor into a directory that is just being removed.
    let spool = bridge.data_dir().join("spool");
    wait_until("the spool to be removed", SOON, || {
        fs::remove_dir_all(&spool).is_ok() || !spool.exists()
    })
    .unwrap();
    let ended = bridge.process().wait(SOON).unwrap();
    let log = bridge.process().logged().unwrap();
    assert_eq!(ended.code(), Some(74), "{log}");
    assert!(log.contains("spool"), "{log}");
}

#[test]
fn kill_after_the_first_line_repeats_no_event() {
    const KILLS: usize = 8;
    let dir = Scratch::new("first-line").unwrap();
    for kill in 0..KILLS {
        let dir = Scratch::at(dir.join(kill.to_string())).unwrap();
        let platform = Platform::start(&dir, &["--rate", "200"]).unwrap();
        let config = format!("{}[spool]\ntype = \"disk\"\n", source(&platform));
        let mut bridge = Bridge::start(&dir, &config).unwrap();
        let file = bridge.data_dir().join("events.jsonl");
        wait_until("the first line", SOON, || {
            fs::metadata(&file).is_ok_and(|metadata| metadata.len() > 0)
        })
        .unwrap();
        bridge.process().kill().unwrap();
        let written = fs::read(&file).unwrap();
        let lines = written.iter().filter(|byte| **byte == b'\n').count() as u64;
        let bridge = Bridge::start(&dir, &config).unwrap();
        bridge
            .wait("more events", SOON, |status| {
                status.delivered("events") > lines + 100
            })
            .unwrap();
        let (ended, log) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
        assert!(ended.success(), "{log}");
        let arrived = audit::structured(&fs::read_to_string(file).unwrap()).unwrap();
        let ids: HashSet<u64> = arrived.iter().map(|event| event.id).collect();
        assert_eq!(ids.len(), arrived.len(), "killed with {lines} lines");
    }
}
