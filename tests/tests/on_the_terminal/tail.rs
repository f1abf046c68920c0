//! `neurobridge tail` while a bridge runs: the output in a pipe and on a terminal, and a tail that is slow or loses
//! its bridge.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::platform::Platform;
use neurobridge_tests::poll::wait_until;
use neurobridge_tests::process::Process;
use neurobridge_tests::program::neurobridge;
use neurobridge_tests::terminal::Terminal;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{SOON, source};

/// Returns a `tail` command for the bridge of this folder.
fn tail(dir: &Scratch, args: &[&str]) -> Command {
    let mut command = Command::new(neurobridge());
    command
        .args(["tail", "-c"])
        .arg(dir.join("neurobridge.toml"))
        .args(args)
        .env_remove("RUST_LOG")
        .env_remove("NO_COLOR");
    command
}

fn run(dir: &Scratch, args: &[&str]) -> Output {
    tail(dir, args).output().unwrap()
}

fn lines(output: &Output) -> Vec<String> {
    assert!(output.status.success(), "{output:?}");
    let text = std::str::from_utf8(&output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn delivered(bridge: &Bridge, at_least: u64) {
    bridge
        .wait("events", SOON, |status| status.delivered("events") >= at_least)
        .unwrap();
}

/// Returns the number in `name=<number>` from a log.
fn number(log: &str, name: &str) -> u64 {
    let (_, rest) = log.split_once(&format!("{name}=")).unwrap();
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

#[test]
fn tail_reads_from_the_bridge_without_a_feed_connection() {
    let dir = Scratch::new("tail").unwrap();
    let mut platform = Platform::start(&dir, &["--rate", "300"]).unwrap();
    let bridge = Bridge::start(&dir, &source(&platform.url())).unwrap();
    delivered(&bridge, 1);

    // In a pipe, `tail` prints the unmodified frames.
    let frames = lines(&run(&dir, &["--count", "50"]));
    assert_eq!(frames.len(), 50);
    let only = lines(&run(
        &dir,
        &["--count", "20", "--only", "result=new", "--only", "result=ha"],
    ));
    for line in &only {
        let frame: Value = serde_json::from_str(line).unwrap();
        assert!(
            ["new", "ha"].contains(&frame["data"]["result"].as_str().unwrap()),
            "{line}"
        );
    }
    // With a sink, `tail` prints the messages that the sink has sent.
    let messages = lines(&run(&dir, &["-n", "50", "--sink", "events"]));
    let ids: Vec<Value> = messages
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].clone())
        .collect();
    for line in lines(&run(&dir, &["-n", "5", "--sink", "events", "--json"])) {
        let message: Value = serde_json::from_str(&line).unwrap();
        assert!(
            message["head"].is_object() && message["body"]["id"].is_string(),
            "{line}"
        );
    }
    assert_eq!(run(&dir, &["--sink", "event"]).status.code(), Some(64));
    assert_eq!(run(&dir, &["--only", "result"]).status.code(), Some(64));

    let file = bridge.data_dir().join("events.jsonl");
    let (status, log) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(status.success(), "{log}");
    let file = fs::read_to_string(file).unwrap();
    let sent: HashMap<&str, ()> = file.lines().map(|line| (line, ())).collect();
    assert!(
        messages.iter().all(|line| sent.contains_key(line.as_str())),
        "{ids:?}"
    );

    platform.process().terminate(SOON).unwrap();
    let log = platform.process().logged().unwrap();
    assert_eq!(number(&log, "authenticated"), 1, "{log}");
    let record = fs::read_to_string(dir.join("sent.jsonl")).unwrap();
    let first = record.lines().position(|line| line == frames[0]).unwrap();
    let expected: Vec<&str> = record.lines().skip(first).take(50).collect();
    assert_eq!(
        frames, expected,
        "all events must be present in the order of the feed"
    );
}

#[test]
fn closed_pipe_or_signal_ends_tail_quietly() {
    let dir = Scratch::new("tail-pipe").unwrap();
    let platform = Platform::start(&dir, &["--rate", "300"]).unwrap();
    let bridge = Bridge::start(&dir, &source(&platform.url())).unwrap();
    delivered(&bridge, 1);
    let script = format!(
        "{{ {} tail -c {}; echo \"code $?\" >&2; }} | head -n 3",
        neurobridge().display(),
        dir.join("neurobridge.toml").display()
    );
    let log = dir.join("head.log");
    let mut shell = Process::spawn("shell", Command::new("sh").args(["-c", &script]), &log).unwrap();
    assert!(shell.wait(SOON).unwrap().success());
    wait_until("the end of tail", SOON, || {
        shell.logged().unwrap().contains("code ")
    })
    .unwrap();
    let text = shell.logged().unwrap();
    assert!(text.contains("code 0") && !text.contains("panic"), "{text}");
    assert_eq!(
        text.lines().filter(|line| line.starts_with("{\"id\":")).count(),
        3
    );

    let out = dir.join("out");
    let mut tailing =
        Process::spawn_split("tail", &mut tail(&dir, &[]), &out, &dir.join("tail.log")).unwrap();
    wait_until("a line", SOON, || {
        fs::read_to_string(&out).unwrap().contains('\n')
    })
    .unwrap();
    assert!(
        tailing.terminate(SOON).unwrap().success(),
        "{}",
        tailing.log_tail()
    );
    bridge.stop(Signal::SIGTERM, SOON).unwrap();
}

#[test]
fn terminal_shows_readable_lines_in_colour() {
    let dir = Scratch::new("tail-terminal").unwrap();
    let platform = Platform::start(&dir, &["--rate", "300"]).unwrap();
    let config = format!("{}[event]\nredact = [\"pid\"]\n", source(&platform.url()));
    let bridge = Bridge::start(&dir, &config).unwrap();
    delivered(&bridge, 1);
    let written = |command: &mut Command| {
        let mut terminal = Terminal::spawn(command, 100, 30).unwrap();
        assert!(terminal.wait(SOON).unwrap().success(), "{}", terminal.contents());
        (terminal.written(), terminal.contents())
    };
    let quiet = ["--log-level", "off", "-n", "20"];
    let (coloured, screen) = written(&mut tail(&dir, &quiet));
    assert!(coloured.contains("\u{1b}[36mexact"), "{coloured}");
    assert!(screen.lines().all(|line| !line.contains('{')), "{screen}");
    assert_eq!(screen.lines().count(), 20, "{screen}");
    let (plain, _) = written(tail(&dir, &quiet).env("NO_COLOR", "1"));
    assert!(plain.contains("exact") && !plain.contains('\u{1b}'), "{plain}");
    let (raw, _) = written(&mut tail(&dir, &["--log-level", "off", "-n", "2", "--raw"]));
    assert!(raw.starts_with("{\"id\":") && !raw.contains('\u{1b}'), "{raw}");
    assert!(
        raw.contains("\"pid\":null"),
        "fields redacted for all sinks must be redacted here: {raw}"
    );
    bridge.stop(Signal::SIGTERM, SOON).unwrap();
}

#[test]
fn tail_socket_is_private_and_replaced_after_a_kill() {
    let dir = Scratch::new("tail-socket").unwrap();
    let platform = Platform::start(&dir, &["--rate", "300"]).unwrap();
    let config = source(&platform.url());
    let mut bridge = Bridge::start(&dir, &config).unwrap();
    let socket = bridge.data_dir().join("control.sock");
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&socket), mode(bridge.data_dir())), (0o600, 0o700));

    // `tail` reports that its bridge was killed, and ends together with a bridge that stops.
    let start = || {
        let out = dir.join("out");
        fs::write(&out, "").unwrap();
        let tailing =
            Process::spawn_split("tail", &mut tail(&dir, &[]), &out, &dir.join("tail.log")).unwrap();
        wait_until("a line", SOON, || {
            fs::read_to_string(&out).unwrap().contains('\n')
        })
        .unwrap();
        tailing
    };
    let mut tailing = start();
    bridge.process().kill().unwrap();
    assert_eq!(
        tailing.wait(SOON).unwrap().code(),
        Some(69),
        "{}",
        tailing.log_tail()
    );
    assert!(
        tailing
            .logged()
            .unwrap()
            .contains("connection to the bridge lost"),
        "{}",
        tailing.log_tail()
    );
    assert!(socket.exists(), "the socket must remain after kill -9");

    let bridge = Bridge::start(&dir, &config).unwrap();
    let mut tailing = start();
    let mut counting = tail(&dir, &["--count", "1000000"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    bridge.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(tailing.wait(SOON).unwrap().success(), "{}", tailing.log_tail());
    assert!(
        tailing.logged().unwrap().contains("the bridge stopped"),
        "{}",
        tailing.log_tail()
    );
    // If this `tail` connected after the bridge had stopped, it reads the feed itself and does not end, so it is killed.
    let _ = counting.kill();
    counting.wait().unwrap();
    assert!(!socket.exists(), "a stopping bridge must remove the socket");
}

#[test]
fn slow_tail_delays_no_sink_and_reports_missed_events() {
    let dir = Scratch::new("tail-slow").unwrap();
    // Far more bytes than pipes, sockets and queues hold.
    let platform = Platform::start(&dir, &["--count", "30000", "--size", "2000", "--rate", "6000"]).unwrap();
    let bridge = Bridge::start(&dir, &source(&platform.url())).unwrap();
    let log = dir.join("tail.log");
    let mut tailing = tail(&dir, &[])
        .stdout(Stdio::piped())
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    bridge
        .wait("all events", SOON * 2, |status| {
            status.sink("events").ledger.delivered == 30000
        })
        .unwrap();
    // The output of `tail` is read only from now on.
    let mut stdout = tailing.stdout.take().unwrap();
    let reading = std::thread::spawn(move || {
        let mut shown = String::new();
        stdout.read_to_string(&mut shown).map(|_| shown)
    });
    wait_until("the number of missed events", SOON, || {
        fs::read_to_string(&log).unwrap().contains("too slow")
    })
    .unwrap();
    bridge.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(tailing.wait().unwrap().success());
    let (shown, log) = (
        reading.join().unwrap().unwrap(),
        fs::read_to_string(&log).unwrap(),
    );
    let missed: u64 = log
        .lines()
        .filter(|line| line.contains("too slow"))
        .map(|line| number(line, "events"))
        .sum();
    let shown = shown.lines().count() as u64;
    assert!(missed > 0 && shown > 0, "{shown} shown, {missed} missed: {log}");
    assert!(shown + missed <= 30000, "{shown} shown, {missed} missed");
}
