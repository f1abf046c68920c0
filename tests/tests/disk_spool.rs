//! What a spool on disk has made durable is delivered, whatever happens to the process.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic as the test does")]

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

use neurobridge_tests::audit;
use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::platform::Platform;
use neurobridge_tests::program::neurobridge;
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(60);
const KILLS: u64 = 3;

fn config(platform: &Platform) -> String {
    format!(
        "[sources.main]\nurl = \"{}\"\ntoken = \"t\"\n[spool]\ntype = \"disk\"\n",
        platform.url()
    )
}

fn delivered(status: &serde_json::Value) -> u64 {
    status["sinks"]["events"]["ledger"]["delivered"]
        .as_u64()
        .unwrap_or(0)
}

#[test]
fn a_bridge_killed_again_and_again_delivers_all_that_was_durable_once_and_in_order() {
    let dir = Scratch::new("kill-9").unwrap();
    let platform = Platform::start(&dir, &["--rate", "3000"]).unwrap();
    let mut durable = 0;
    let mut seen = 0;
    for _ in 0..KILLS {
        let mut bridge = Bridge::start(&dir, &config(&platform)).unwrap();
        let reached = seen + 3000;
        let status = bridge
            .wait("events on disk and in the file", SOON, |status| {
                delivered(status) > reached
            })
            .unwrap();
        seen = delivered(&status);
        durable = status["spool"]["durable_sequence"].as_u64().unwrap();
        assert!(durable >= seen, "{status:#}");
        bridge.process().kill().unwrap();
    }
    let bridge = Bridge::start(&dir, &config(&platform)).unwrap();
    bridge
        .wait("what was durable before the last kill", SOON, |status| {
            delivered(status) > durable
        })
        .unwrap();
    let (file, config_file) = (
        bridge.data_dir().join("events.jsonl"),
        dir.join("neurobridge.toml"),
    );
    let (status, log) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(status.success(), "{status}: {log}");

    let arrived = audit::structured(&fs::read_to_string(file).unwrap()).unwrap();
    let sequences: Vec<u64> = arrived
        .iter()
        .map(|event| event.sequence.rsplit_once(':').unwrap().1.parse().unwrap())
        .collect();
    assert!(
        sequences.len() as u64 > durable,
        "{} of {durable}",
        sequences.len()
    );
    let expected: Vec<u64> = (1..=sequences.len() as u64).collect();
    assert_eq!(sequences, expected, "each sequence once, without a hole");
    // And each is what the platform sent: what it sent while no bridge listened is missed, not changed.
    let sent: BTreeMap<u64, String> = platform
        .stop()
        .unwrap()
        .into_iter()
        .map(|event| (event.id, event.data))
        .collect();
    for event in &arrived {
        assert_eq!(sent.get(&event.id), Some(&event.data));
    }

    let verify = Command::new(neurobridge())
        .args(["spool", "verify", "-c"])
        .arg(config_file)
        .output()
        .unwrap();
    assert!(verify.status.success(), "{verify:?}");
}

#[test]
fn a_second_bridge_on_the_same_spool_ends_with_75() {
    let dir = Scratch::new("locked").unwrap();
    let platform = Platform::start(&dir, &["--rate", "10"]).unwrap();
    let bridge = Bridge::start(&dir, &config(&platform)).unwrap();
    let second = dir.join("second.toml");
    let text = fs::read_to_string(dir.join("neurobridge.toml")).unwrap();
    let free = neurobridge_tests::ports::free_ports::<1>().unwrap()[0];
    fs::write(
        &second,
        text.replace(bridge.address(), &format!("127.0.0.1:{free}")),
    )
    .unwrap();
    let output = Command::new(neurobridge())
        .args(["run", "-c"])
        .arg(second)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(75), "{output:?}");
    bridge.stop(Signal::SIGTERM, SOON).unwrap();
}
