//! Real signals sent to the real program, and its exit codes.

use std::fs;
use std::process::{Command, Output};
use std::time::Duration;

use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::platform::Platform;
use neurobridge_tests::poll::wait_until;
use neurobridge_tests::ports::free_ports;
use neurobridge_tests::process::Process;
use neurobridge_tests::program::neurobridge;
use neurobridge_tests::status::{SinkState, SourceState, Status};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(60);

fn source(url: &str) -> String {
    format!("[sources.main]\nurl = \"{url}\"\ntoken = \"t\"\n")
}

fn run(args: &[&str]) -> Output {
    Command::new(neurobridge())
        .args(args)
        .env_remove("RUST_LOG")
        .output()
        .unwrap()
}

#[test]
fn each_signal_drains_and_logs_the_ledger() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let dir = Scratch::new("signal").unwrap();
        let platform = Platform::start(&dir, &["--rate", "1000"]).unwrap();
        let bridge = Bridge::start(&dir, &source(&platform.url())).unwrap();
        bridge
            .wait("events", SOON, |status| {
                status.sink("events").ledger.delivered > 500
            })
            .unwrap();
        let file = bridge.data_dir().join("events.jsonl");
        let (status, log) = bridge.stop(signal, SOON).unwrap();
        assert!(status.success(), "{signal}: {status}: {log}");
        let lines = fs::read_to_string(file).unwrap().lines().count();
        let ledger = log.lines().find(|line| line.contains("sink events:")).unwrap();
        assert!(
            ledger.contains(&format!("{lines} delivered")) && ledger.contains(" 0 pending"),
            "{lines} lines; {ledger}"
        );
        assert!(
            log.lines()
                .any(|line| line.contains("source main:") && line.contains(" 0 in flight")),
            "{log}"
        );
    }
}

#[test]
fn signals_ignored_at_the_start_stay_ignored() {
    let dir = Scratch::new("nohup").unwrap();
    let platform = Platform::start(&dir, &["--rate", "1000"]).unwrap();
    let mut bridge = Bridge::start_ignoring(&dir, &source(&platform.url()), "HUP INT").unwrap();
    let delivered = |status: &Status| status.delivered("events");
    let before = delivered(&bridge.status().unwrap());
    bridge.process().signal(Signal::SIGHUP).unwrap();
    bridge.process().signal(Signal::SIGINT).unwrap();
    bridge
        .wait("further events", SOON, |status| delivered(status) > before + 1000)
        .unwrap();
    let (status, log) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(status.success(), "{log}");
    let draining: Vec<&str> = log.lines().filter(|line| line.contains("draining;")).collect();
    assert!(
        matches!(draining[..], [line] if line.contains("SIGTERM")),
        "{draining:?}"
    );
}

#[test]
fn second_bridge_on_a_data_dir_exits_with_75() {
    for spool in ["memory", "disk"] {
        let dir = Scratch::new("two-bridges").unwrap();
        let platform = Platform::start(&dir, &["--rate", "500"]).unwrap();
        let config = format!("{}[spool]\ntype = \"{spool}\"\n", source(&platform.url()));
        let bridge = Bridge::start(&dir, &config).unwrap();
        // The test deletes everything that looks like a leftover lock.
        for folder in [bridge.data_dir().to_owned(), bridge.data_dir().join("spool")] {
            for entry in fs::read_dir(folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path
                    .extension()
                    .is_some_and(|extension| extension == "lock" || extension == "sock")
                {
                    fs::remove_file(path).unwrap();
                }
            }
        }
        let [port] = free_ports().unwrap();
        let file = dir.join("second.toml");
        let second = format!(
            "data_dir = {:?}\n{config}[http]\nlisten = \"127.0.0.1:{port}\"\n",
            bridge.data_dir()
        );
        fs::write(&file, second).unwrap();
        let output = run(&["run", "-c", file.to_str().unwrap()]);
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(75), "{spool}: {log}");
        assert!(
            log.contains("another bridge runs on this data_dir") && log.contains("stop that process"),
            "{spool}: {log}"
        );
        let delivered = |status: &Status| status.delivered("events");
        let before = delivered(&bridge.status().unwrap());
        bridge
            .wait("further events", SOON, |status| delivered(status) > before + 100)
            .unwrap();
        let (status, log) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
        assert!(status.success(), "{spool}: {log}");
    }
}

/// Returns a Kafka sink without a server, so that events stay pending.
fn unreachable_kafka() -> String {
    let [port] = free_ports().unwrap();
    format!("[sinks.kafka]\ntype = \"kafka\"\nbootstrap_servers = \"127.0.0.1:{port}\"\n")
}

#[test]
fn undelivered_events_in_memory_exit_with_75() {
    let dir = Scratch::new("pending").unwrap();
    let platform = Platform::start(&dir, &["--count", "1000"]).unwrap();
    let config = format!(
        "drain_timeout = \"1s\"\n{}{}",
        source(&platform.url()),
        unreachable_kafka()
    );
    let bridge = Bridge::start(&dir, &config).unwrap();
    bridge
        .wait("events", SOON, |status| {
            status.sink("kafka").ledger.pending == 1000
        })
        .unwrap();
    let (status, log) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
    assert_eq!(status.code(), Some(75), "{log}");
    assert!(log.contains("1000 events in memory were not delivered"), "{log}");
}

#[test]
fn stop_does_not_wait_for_a_sink_that_is_down() {
    let pending_on_disk = "[spool]\ntype = \"disk\"\n";
    for (spool, feed, events) in [
        (pending_on_disk, ["--count", "1000"], 1000),
        ("", ["--rate", "0.001"], 0),
    ] {
        let dir = Scratch::new("stop-while-down").unwrap();
        let platform = Platform::start(&dir, &feed).unwrap();
        // The drain timeout is much longer than the time limit of the stop.
        let config = format!(
            "drain_timeout = \"1h\"\n{}{}{spool}",
            source(&platform.url()),
            unreachable_kafka()
        );
        let bridge = Bridge::start(&dir, &config).unwrap();
        bridge
            .wait("a sink that is down", SOON, |status| {
                let kafka = status.sink("kafka");
                kafka.state == SinkState::Down && kafka.ledger.pending == events
            })
            .unwrap();
        let (status, log) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
        assert!(status.success(), "{log}");
        assert!(!log.contains("drain timeout exceeded"), "{log}");
        let stored = format!("{events} pending events stored in the spool");
        assert_eq!(log.contains(&stored), events > 0, "{log}");
    }
}

#[test]
fn second_signal_stops_at_once() {
    let dir = Scratch::new("second-signal").unwrap();
    let platform = Platform::start(&dir, &["--count", "10"]).unwrap();
    let config = format!(
        "drain_timeout = \"1h\"\n{}{}",
        source(&platform.url()),
        unreachable_kafka()
    );
    let mut bridge = Bridge::start(&dir, &config).unwrap();
    bridge
        .wait("events", SOON, |status| status.sink("kafka").ledger.pending == 10)
        .unwrap();
    bridge.process().signal(Signal::SIGTERM).unwrap();
    // The kernel merges two equal signals while the first one is not handled, so the test waits for the effect of the
    // first one.
    wait_until("the drain", SOON, || {
        bridge
            .process()
            .logged()
            .unwrap()
            .contains("draining; a second signal")
    })
    .unwrap();
    assert_eq!(
        bridge.status().unwrap().sink("kafka").ledger.pending,
        10,
        "the bridge must answer while it drains"
    );
    let (status, log) = bridge.stop(Signal::SIGTERM, Duration::from_secs(10)).unwrap();
    assert_eq!(status.code(), Some(75), "{log}");
    assert!(log.contains("stopping at once"), "{log}");
}

#[test]
fn refused_token_exits_with_77_only_if_configured() {
    let dir = Scratch::new("refused").unwrap();
    let platform = Platform::start(&dir, &["--token", "right"]).unwrap();
    let file = dir.join("c.toml");
    let [port] = free_ports().unwrap();
    let http = format!("[http]\nlisten = \"127.0.0.1:{port}\"\n");
    let config = format!(
        "data_dir = {:?}\n{}exit_on_refused_token = true\n{http}",
        dir.join("data"),
        source(&platform.url())
    );
    fs::write(&file, config).unwrap();
    let output = run(&["run", "-c", file.to_str().unwrap()]);
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(77), "{log}");

    let bridge = Bridge::start(&dir, &source(&platform.url())).unwrap();
    let status = bridge
        .wait("the refusal", SOON, |status| {
            status.source("main").state == SourceState::Refused
        })
        .unwrap();
    assert!(
        status.source("main").reason.as_deref().unwrap().contains("token"),
        "{status:#}"
    );
    let (code, body) = neurobridge_tests::http::get_any(bridge.address(), "/readyz").unwrap();
    assert_eq!(code, 503);
    assert!(body.contains("sources.main") && body.contains("token"), "{body}");
    let (status, _) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(status.success());
}

#[test]
fn each_failed_start_has_its_exit_code() {
    let dir = Scratch::new("exits").unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let file = dir.join("c.toml");
    let path = file.to_str().unwrap();
    let config = format!(
        "data_dir = {:?}\n{}[http]\nlisten = \"{}\"\n",
        dir.join("data"),
        source("ws://127.0.0.1:1/"),
        taken.local_addr().unwrap()
    );
    fs::write(&file, config).unwrap();
    let busy = run(&["run", "-c", path]);
    assert_eq!(busy.status.code(), Some(69), "{busy:?}");
    assert!(
        String::from_utf8_lossy(&busy.stderr).contains("http.listen"),
        "{busy:?}"
    );

    let in_the_way = dir.join("a-file");
    fs::write(&in_the_way, "").unwrap();
    let config = format!(
        "data_dir = {in_the_way:?}\n{}[http]\nlisten = \"127.0.0.1:0\"\n",
        source("ws://127.0.0.1:1/")
    );
    fs::write(&file, config).unwrap();
    let disk = run(&["run", "-c", path]);
    assert_eq!(disk.status.code(), Some(74), "{disk:?}");
    assert!(
        String::from_utf8_lossy(&disk.stderr).contains("a-file"),
        "{disk:?}"
    );

    fs::write(&file, "[sources.main]\nurll = \"ws://localhost/\"\n").unwrap();
    let broken = run(&["run", "-c", path]);
    assert_eq!(broken.status.code(), Some(78), "{broken:?}");
    let missing = run(&["run", "-c", "no/such/file.toml"]);
    assert_eq!(missing.status.code(), Some(78), "{missing:?}");
    assert_eq!(run(&["run", "--no-such-flag"]).status.code(), Some(64));
    assert_eq!(run(&["--help"]).status.code(), Some(0));
}

#[test]
fn tail_without_a_bridge_prints_frames_until_the_pipe_closes() {
    let dir = Scratch::new("tail").unwrap();
    let platform = Platform::start(&dir, &["--count", "100"]).unwrap();
    let file = dir.join("c.toml");
    fs::write(
        &file,
        format!("data_dir = {:?}\n{}", dir.join("data"), source(&platform.url())),
    )
    .unwrap();
    let output = run(&["tail", "--count", "100", "-c", file.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let sent = platform.stop().unwrap();
    let lines: Vec<String> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    assert_eq!(
        lines,
        sent.iter().map(|event| event.frame.clone()).collect::<Vec<_>>()
    );

    let platform = Platform::start(&dir, &["--rate", "1000"]).unwrap();
    fs::write(
        &file,
        format!("data_dir = {:?}\n{}", dir.join("data"), source(&platform.url())),
    )
    .unwrap();
    let command = format!(
        "{} tail -c {} | head -n 3",
        neurobridge().display(),
        file.display()
    );
    let mut shell = Process::spawn(
        "shell",
        Command::new("sh").args(["-c", &command]),
        &dir.join("head.log"),
    )
    .unwrap();
    assert!(shell.wait(SOON).unwrap().success());
    assert_eq!(
        shell
            .logged()
            .unwrap()
            .lines()
            .filter(|line| line.starts_with("{\"id\":"))
            .count(),
        3
    );
}

#[test]
fn demo_shows_events_and_ends_with_the_ledger() {
    let dir = Scratch::new("demo").unwrap();
    let mut command = Command::new(neurobridge());
    command.current_dir(dir.path()).args(["demo", "--rate", "200"]);
    let log = dir.join("demo.log");
    let mut demo = Process::spawn("demo", &mut command, &log).unwrap();
    wait_until("events in the demo", SOON, || {
        demo.logged().is_ok_and(|text| {
            text.contains("cuts the connection") && text.contains("missed in the gap: fetched, none lost")
        })
    })
    .unwrap();
    demo.signal(Signal::SIGINT).unwrap();
    assert!(demo.wait(SOON).unwrap().success(), "{}", demo.log_tail());
    let text = demo.logged().unwrap();
    assert!(
        text.contains("sink events:") && text.contains(" 0 pending"),
        "{text}"
    );
    assert!(
        text.contains("; 1 gap, ") && text.contains(" events sent in that time were fetched"),
        "{text}"
    );
    assert!(text.contains("http://127.0.0.1:"), "{text}");
    let path = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("events   "))
        .unwrap();
    let lines = fs::read_to_string(dir.join(path)).unwrap();
    assert!(lines.lines().count() > 200);
}

#[test]
fn healthcheck_fails_without_a_bridge() {
    let dir = Scratch::new("health").unwrap();
    let platform = Platform::start(&dir, &["--rate", "10"]).unwrap();
    let bridge = Bridge::start(&dir, &source(&platform.url())).unwrap();
    bridge
        .wait("readiness", SOON, |status| {
            status.source("main").state == SourceState::Authenticated
                && status.sink("events").state == SinkState::Up
        })
        .unwrap();
    let config = dir.join("neurobridge.toml");
    let check = |args: &[&str]| {
        let mut all = vec!["healthcheck", "-c", config.to_str().unwrap()];
        all.extend(args);
        run(&all).status.code()
    };
    assert_eq!(check(&[]), Some(0));
    assert_eq!(check(&["--ready"]), Some(0));
    let (status, _) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(status.success());
    assert_eq!(check(&[]), Some(1));
}
