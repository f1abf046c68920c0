//! Events that are durable in a disk spool are delivered after any kind of restart or crash of the process.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

use neurobridge_spool::inspect;
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

#[test]
fn killed_bridge_delivers_durable_events_once_in_order() {
    let dir = Scratch::new("kill-9").unwrap();
    let platform = Platform::start(&dir, &["--rate", "3000"]).unwrap();
    let mut durable = 0;
    let mut seen = 0;
    for _ in 0..KILLS {
        let mut bridge = Bridge::start(&dir, &config(&platform)).unwrap();
        let reached = seen + 3000;
        let status = bridge
            .wait("events on disk and in the file", SOON, |status| {
                status.delivered("events") > reached
            })
            .unwrap();
        seen = status.delivered("events");
        durable = status.spool.durable_sequence;
        assert!(durable >= seen, "{status:#}");
        bridge.process().kill().unwrap();
    }
    let bridge = Bridge::start(&dir, &config(&platform)).unwrap();
    bridge
        .wait(
            "the events that were durable before the last kill",
            SOON,
            |status| status.delivered("events") > durable,
        )
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
        "{} events in the file, but {durable} were durable",
        sequences.len()
    );
    let expected: Vec<u64> = (1..=sequences.len() as u64).collect();
    assert_eq!(sequences, expected, "a sequence is missing or repeated");
    // Each event is unmodified; events that the platform sent while no bridge was connected are missing.
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
fn repeated_events_after_a_restart_are_duplicates() {
    const EVENTS: u64 = 500;
    let dir = Scratch::new("known").unwrap();
    // Two platforms that send the same bytes, like one platform that repeats all its events.
    let count = EVENTS.to_string();
    let arguments = ["--count", &count, "--start", "2026-01-02T03:04:05Z"];
    let again = Scratch::new("known-again").unwrap();
    let platform = Platform::start(&dir, &arguments).unwrap();
    let mut bridge = Bridge::start(&dir, &config(&platform)).unwrap();
    bridge
        .wait("the events", SOON, |status| status.delivered("events") == EVENTS)
        .unwrap();
    bridge.process().kill().unwrap();
    let platform = Platform::start(&again, &arguments).unwrap();
    let bridge = Bridge::start(&dir, &config(&platform)).unwrap();
    let status = bridge
        .wait("the repeated events to be counted", SOON, |status| {
            let ledger = &status.source("main").ledger;
            ledger.received == EVENTS && ledger.in_flight == 0
        })
        .unwrap();
    assert_eq!(status.source("main").ledger.duplicate, EVENTS, "{status:#}");
    assert_eq!(status.spool.durable_sequence, EVENTS, "{status:#}");
}

/// Runs `neurobridge spool` with the configuration in a folder. Returns the exit code and the output.
fn spool(dir: &Scratch, command: &str) -> (Option<i32>, String) {
    let output = Command::new(neurobridge())
        .args(["spool", command, "-c"])
        .arg(dir.join("neurobridge.toml"))
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn spool_commands_list_sinks_and_report_damage() {
    const EVENTS: u64 = 2_000;
    let dir = Scratch::new("spool-commands").unwrap();
    let platform = Platform::start(&dir, &["--count", &EVENTS.to_string()]).unwrap();
    let bridge = Bridge::start(&dir, &config(&platform)).unwrap();
    bridge
        .wait("the events", SOON, |status| status.delivered("events") == EVENTS)
        .unwrap();
    let folder = bridge.data_dir().join("spool");
    bridge.stop(Signal::SIGTERM, SOON).unwrap();

    let id = inspect::list(&folder).unwrap().id.unwrap().to_string();
    let (code, text) = spool(&dir, "ls");
    assert_eq!(code, Some(0), "{text}");
    let row_of_sink = text.lines().find(|line| line.starts_with("events ")).unwrap();
    let row: Vec<&str> = row_of_sink.split_whitespace().collect();
    assert!(text.contains(&format!("spool {id}")), "{text}");
    assert_eq!(row, ["events", "2001", "1", "2000", "0"], "{text}");
    assert!(text.contains("00000000000000000001.segment"), "{text}");
    let (code, text) = spool(&dir, "verify");
    assert_eq!(
        (code, text.as_str()),
        (Some(0), "2000 intact events, 1 to 2000\n")
    );

    let segment = folder.join("00000000000000000001.segment");
    let mut bytes = fs::read(&segment).unwrap();
    let middle = bytes.iter().rposition(|byte| *byte != 0).unwrap() / 2;
    bytes[middle] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let (code, text) = spool(&dir, "verify");
    assert_eq!(code, Some(74), "{text}");
    let finding = text
        .lines()
        .find(|line| line.starts_with(segment.to_str().unwrap()))
        .unwrap();
    assert!(finding.ends_with(": unreadable events: 1"), "{finding}");
    assert!(text.contains("1999 intact events"), "{text}");

    fs::write(
        dir.join("neurobridge.toml"),
        "[sources.main]\ntoken_file = \"x\"\n[spool]\ntype = \"memory\"\n",
    )
    .unwrap();
    let (code, text) = spool(&dir, "ls");
    assert!(
        code == Some(78) && text.contains("spool.type is \"memory\""),
        "{text}"
    );
}

/// `verify` may read a record that is not completely written.
#[test]
fn verify_reports_no_damage_while_the_bridge_writes() {
    let dir = Scratch::new("verify-beside").unwrap();
    let platform = Platform::start(&dir, &["--rate", "20000"]).unwrap();
    let bridge = Bridge::start(&dir, &config(&platform)).unwrap();
    bridge
        .wait("some events", SOON, |status| status.delivered("events") > 1_000)
        .unwrap();
    for _ in 0..20 {
        let (code, text) = spool(&dir, "verify");
        assert_eq!(code, Some(0), "{text}");
    }
    bridge.stop(Signal::SIGTERM, SOON).unwrap();
}

#[test]
fn second_bridge_on_the_same_spool_exits_with_75() {
    let dir = Scratch::new("locked").unwrap();
    let platform = Platform::start(&dir, &["--rate", "10"]).unwrap();
    let bridge = Bridge::start(&dir, &config(&platform)).unwrap();
    let again = Command::new(neurobridge())
        .args(["run", "-c"])
        .arg(dir.join("neurobridge.toml"))
        .output()
        .unwrap();
    assert_eq!(again.status.code(), Some(75), "{again:?}");
    bridge.stop(Signal::SIGTERM, SOON).unwrap();
}

/// The C source of a library that replaces `statfs`, so that every folder seems to be on NFS.
const FAKE_NFS: &str = r"
#include <string.h>
#include <sys/vfs.h>
int statfs(const char *path, struct statfs *found) {
    (void)path;
    memset(found, 0, sizeof *found);
    found->f_type = 0x6969;
    return 0;
}
int statfs64(const char *path, struct statfs64 *found) { return statfs(path, (struct statfs *)found); }
";

/// Mounting a network file system needs privileges, so a preloaded library reports NFS instead.
#[test]
fn network_file_system_logs_a_warning() {
    let dir = Scratch::new("network").unwrap();
    let (source, library) = (dir.join("says-nfs.c"), dir.join("says-nfs.so"));
    fs::write(&source, FAKE_NFS).unwrap();
    let mut compile = Command::new("cc");
    compile
        .args(["-D_GNU_SOURCE", "-shared", "-fPIC", "-o"])
        .args([&library, &source]);
    let compiled = compile.output().unwrap();
    assert!(compiled.status.success(), "{compiled:?}");

    let platform = Platform::start(&dir, &["--rate", "10"]).unwrap();
    for (preload, is_warned) in [(library.to_str().unwrap(), true), ("", false)] {
        let bridge = Bridge::start_with(&dir, &config(&platform), &[("LD_PRELOAD", preload)]).unwrap();
        let (_, log) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
        let warning = log
            .lines()
            .find(|line| line.contains("WARN") && line.contains("network file system (NFS)"));
        assert_eq!(warning.is_some(), is_warned, "{log}");
    }
}
