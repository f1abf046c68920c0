//! `neurobridge reload` and `run --watch`: parts with unchanged settings keep their connections, changed parts continue
//! without a gap, and an invalid file changes nothing.

mod sinks;
mod watch;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::paths::{Scratch, workspace_root};
use neurobridge_tests::platform::Platform;
use neurobridge_tests::program::neurobridge;
use nix::sys::signal::Signal;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);

fn source(name: &str, url: &str, more: &str) -> String {
    format!("[sources.{name}]\nurl = \"{url}\"\ntoken = \"t\"\n{more}\n")
}

fn file_sink(name: &str, more: &str) -> String {
    format!("[sinks.{name}]\ntype = \"file\"\npath = \"{name}.jsonl\"\nmax_size = \"4 GiB\"\n{more}\n")
}

/// Returns the path of the bridge's configuration file.
fn file(bridge: &Bridge) -> PathBuf {
    bridge.data_dir().with_file_name("neurobridge.toml")
}

/// Replaces a part of the configuration file.
fn change(bridge: &Bridge, from: &str, to: &str) {
    let text = fs::read_to_string(file(bridge)).unwrap();
    assert!(text.contains(from), "{from} is not in {text}");
    fs::write(file(bridge), text.replace(from, to)).unwrap();
}

fn run(bridge: &Bridge, command: &str) -> Output {
    let mut program = Command::new(neurobridge());
    program.arg(command).arg("-c").arg(file(bridge));
    program.env_remove("RUST_LOG").output().unwrap()
}

/// Reloads, and returns what the command prints.
#[track_caller]
fn reload(bridge: &Bridge) -> String {
    let output = run(bridge, "reload");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until a source has received this number of further events.
fn more_events(bridge: &Bridge, source: &str, events: u64) {
    let before = bridge.status().unwrap().source(source).ledger.stored;
    bridge
        .wait("more events", SOON, |status| {
            status.source(source).ledger.stored >= before + events
        })
        .unwrap();
}

/// Checks that the file of a sink has all events of a source from the first to the last one, each once.
#[track_caller]
fn check_complete(text: &str, source: &str) -> usize {
    let ids: Vec<u64> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|event| event["source"] == format!("/neuroio/{source}"))
        .filter_map(|event| event["id"].as_str()?.parse().ok())
        .collect();
    // While a source is replaced, the order of the events of its two connections is not defined.
    let mut ids = ids;
    ids.sort_unstable();
    let (Some(first), Some(last)) = (ids.first(), ids.last()) else {
        panic!("no event of {source} in {} lines", text.lines().count())
    };
    let expected: Vec<u64> = (*first..=*last).collect();
    let wrong = ids
        .iter()
        .zip(&expected)
        .find(|(found, expected)| found != expected);
    assert_eq!(
        wrong,
        None,
        "each event of {source} once, without a hole: {} of {}",
        ids.len(),
        expected.len()
    );
    ids.len()
}

/// Stops the bridge and returns the file of a sink, and the log.
fn stop(bridge: Bridge, sink: &str) -> (String, String) {
    let path = bridge.data_dir().join(format!("{sink}.jsonl"));
    let (status, log) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(status.success(), "{status}: {log}");
    (fs::read_to_string(path).unwrap(), log)
}

#[test]
fn changed_source_is_replaced_without_a_gap() {
    let dir = Scratch::new("reload-source").unwrap();
    let platform = Platform::start(&dir, &["--rate", "500"]).unwrap();
    let config = source("main", &platform.url(), "# here")
        + &source("other", &platform.url(), "")
        + &file_sink("events", "");
    let bridge = Bridge::start(&dir, &config).unwrap();
    for seconds in 30..33 {
        more_events(&bridge, "main", 500);
        change(
            &bridge,
            "# here",
            &format!("ping_interval = \"{seconds}s\" # here"),
        );
        let answer = reload(&bridge);
        assert_eq!(answer, "sources.main: replaced by an authenticated connection\n");
        change(
            &bridge,
            &format!("ping_interval = \"{seconds}s\" # here"),
            "# here",
        );
    }
    more_events(&bridge, "main", 500);
    let status = bridge.status().unwrap();
    let (main, other) = (status.source("main"), status.source("other"));
    assert_eq!((main.connections, main.gaps), (4, 0), "{status}");
    assert_eq!((other.connections, other.gaps), (1, 0), "{status}");
    assert!(main.ledger.stored > 2000, "the counters continue: {status}");
    neurobridge_tests::poll::wait_until("end of the replaced connections", SOON, || {
        let labels = ["source=\"main\"", "reason=\"replaced\""];
        bridge
            .metric("neurobridge_source_disconnections_total", &labels)
            .unwrap()
            == 3.0
    })
    .unwrap();
    // The file now has the settings of the start again, which differ from the running configuration.
    assert_eq!(reload(&bridge).lines().count(), 1);
    assert_eq!(reload(&bridge), "the configuration has not changed\n");
    let (text, log) = stop(bridge, "events");
    assert!(check_complete(&text, "main") > 2000, "{log}");
    check_complete(&text, "other");
}

#[test]
fn invalid_file_changes_nothing_and_is_reported() {
    let dir = Scratch::new("reload-wrong").unwrap();
    let platform = Platform::start(&dir, &["--rate", "100"]).unwrap();
    let config = source("main", &platform.url(), "# here") + &file_sink("events", "");
    let bridge = Bridge::start(&dir, &config).unwrap();
    more_events(&bridge, "main", 50);
    let hash = |bridge: &Bridge| {
        let status: Value = serde_json::from_str(&bridge.get("/status").unwrap()).unwrap();
        status["configuration"].clone()
    };
    let before = hash(&bridge);
    for (wrong, expected) in [
        ("ping_intervall = \"5s\"", "unknown key"),
        ("ping_interval = ", "ping_interval"),
        ("connections = 0", "connections"),
    ] {
        change(&bridge, "# here", wrong);
        let (output, checked) = (run(&bridge, "reload"), run(&bridge, "check"));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{text}");
        assert!(text.contains(expected), "{text}");
        assert_eq!(text, String::from_utf8_lossy(&checked.stderr));
        change(&bridge, wrong, "# here");
    }
    let refused = |key: &str, from: &str, to: &str| {
        change(&bridge, from, to);
        let output = run(&bridge, "reload");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{text}");
        assert!(
            text.contains(key)
                && text.contains("has to be restarted")
                && text.contains("nothing was changed"),
            "{text}"
        );
        change(&bridge, to, from);
    };
    refused("http.hosts", "[http]\n", "[http]\nhosts = [\"x.example\"]\n");
    refused("spool.type", "[http]\n", "[spool]\ntype = \"disk\"\n[http]\n");
    // A refused file changes nothing, not even a setting that can be changed without a restart.
    change(&bridge, "# here", "connections = 2 # here");
    refused("event.redact", "[http]\n", "[event]\nredact = [\"x\"]\n[http]\n");
    let after = hash(&bridge);
    assert_eq!(before["hash"], after["hash"]);
    assert_eq!(after["failed_reloads"], 6);
    assert!(
        after["last_failed_reload"]["reason"]
            .as_str()
            .unwrap()
            .contains("event.redact"),
        "{after}"
    );
    assert_eq!(
        bridge
            .metric("neurobridge_configuration_reload_failed", &[])
            .unwrap(),
        1.0
    );
    more_events(&bridge, "main", 50);
    assert_eq!(bridge.status().unwrap().source("main").connections, 1);
    reload(&bridge);
    let applied = hash(&bridge);
    assert_ne!(applied["hash"], before["hash"]);
    assert_eq!(applied["last_failed_reload"], Value::Null);
    assert_eq!(
        bridge
            .metric("neurobridge_configuration_reload_failed", &[])
            .unwrap(),
        0.0
    );
    bridge
        .wait("two more connections", SOON, |status| {
            status.source("main").connections >= 3
        })
        .unwrap();
    stop(bridge, "events");
}

#[test]
fn source_is_added_and_removed_without_loss() {
    let dir = Scratch::new("reload-remove").unwrap();
    let platform = Platform::start(&dir, &["--rate", "2000"]).unwrap();
    let added = source("other", &platform.url(), "");
    let config = source("main", &platform.url(), "# here") + &file_sink("events", "");
    let bridge = Bridge::start(&dir, &config).unwrap();
    for _ in 0..3 {
        change(&bridge, "# here\n", &format!("# here\n{added}"));
        assert_eq!(reload(&bridge), "sources.other: added and authenticated\n");
        more_events(&bridge, "other", 500);
        change(&bridge, &added, "");
        assert!(reload(&bridge).starts_with("sources.other: removed"));
        // The source disappears from the status when all events that it has received are stored.
        bridge
            .wait("removal", SOON, |status| !status.sources.contains_key("other"))
            .unwrap();
    }
    let status = bridge.status().unwrap();
    assert_eq!(status.source("main").connections, 1);
    let (text, log) = stop(bridge, "events");
    check_complete(&text, "main");
    let ids = |name: &str| text.matches(&format!("\"source\":\"/neuroio/{name}\"")).count() as u64;
    // According to the ledgers in the log, the file contains all events that the removed sources have received.
    let received: u64 = log
        .lines()
        .filter(|line| line.contains("source removed"))
        .map(|line| {
            let counts = line.split_once("received: ").unwrap().1;
            assert!(counts.contains("in_flight: 0"), "{line}");
            counts.split(',').next().unwrap().parse::<u64>().unwrap()
        })
        .sum();
    assert!(received >= 1500, "{log}");
    assert_eq!(ids("other"), received);
}

#[test]
fn reload_command_of_the_systemd_unit_reloads() {
    let unit = fs::read_to_string(workspace_root().join("config/debian/neurobridge.service")).unwrap();
    let command = |key: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.split(' ').map(str::to_owned).collect::<Vec<_>>()
    };
    let (start, again) = (command("ExecStart="), command("ExecReload="));
    assert_eq!((&start[0], &start[2..]), (&again[0], &again[2..]));
    assert_eq!(again[1], "reload");
    let dir = Scratch::new("reload-unit").unwrap();
    let platform = Platform::start(&dir, &["--rate", "100"]).unwrap();
    let config = source("main", &platform.url(), "# here") + &file_sink("events", "");
    let bridge = Bridge::start(&dir, &config).unwrap();
    change(&bridge, "# here", "ping_interval = \"7s\"");
    let mut program = Command::new(neurobridge());
    program.args(&again[1..again.len() - 1]).arg(file(&bridge));
    assert!(program.status().unwrap().success());
    let data_dir = bridge.data_dir().to_owned();
    stop(bridge, "events");
    let output = program.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(69), "{text}");
    assert!(
        text.contains(&format!(
            "no bridge runs with the data_dir {}",
            data_dir.display()
        )),
        "{text}"
    );
}

#[test]
fn person_keeps_its_pseudonym_when_the_key_file_changes() {
    let dir = Scratch::new("reload-key").unwrap();
    let key = dir.join("key");
    fs::write(&key, "a".repeat(64)).unwrap();
    let platform = Platform::start(&dir, &["--rate", "500"]).unwrap();
    let config = source("main", &platform.url(), "# here")
        + &format!("[event.pseudonymise]\nfields = [\"pid\"]\nkey_file = {key:?}\n")
        + &file_sink("events", "");
    let bridge = Bridge::start(&dir, &config).unwrap();
    more_events(&bridge, "main", 500);
    let before = bridge.status().unwrap().delivered("events");
    fs::write(&key, "b".repeat(64)).unwrap();
    change(&bridge, "# here", "ping_interval = \"7s\"");
    assert_eq!(
        reload(&bridge),
        "sources.main: replaced by an authenticated connection\n"
    );
    more_events(&bridge, "main", 1000);
    let (text, _) = stop(bridge, "events");
    let persons: Vec<String> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["data"]["pid"].to_string())
        .collect();
    let (early, late) = persons.split_at(usize::try_from(before).unwrap());
    let known: std::collections::HashSet<&String> = early.iter().collect();
    let again = late
        .iter()
        .rev()
        .take(500)
        .filter(|person| known.contains(person));
    assert!(again.count() > 100, "the reload must not change the pseudonyms");
}
