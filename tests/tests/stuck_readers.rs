//! A reader of the program's output may stop reading (a stuck log driver, a pager, Ctrl-S). No part of the program may wait for
//! this reader.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::time::Duration;

use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::platform::Platform;
use neurobridge_tests::poll::wait_until;
use neurobridge_tests::process::Process;
use neurobridge_tests::program::neurobridge;
use nix::sys::signal::Signal;
use rustix::fs::OFlags;

const SOON: Duration = Duration::from_secs(60);

fn source(url: &str) -> String {
    format!("[sources.main]\nurl = \"{url}\"\ntoken = \"t\"\n")
}

/// Returns another, non-blocking handle of a pipe. The pipe's own handle is shared with the program under test, and
/// would become non-blocking there as well.
fn unblocked(options: &mut OpenOptions, pipe: &impl AsRawFd) -> File {
    options
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(format!("/proc/self/fd/{}", pipe.as_raw_fd()))
        .unwrap()
}

/// Fills a pipe completely.
fn fill(pipe: &PipeWriter) {
    let mut writer = unblocked(OpenOptions::new().write(true), pipe);
    for size in [4096, 1] {
        loop {
            match writer.write(&vec![b'\n'; size]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, writer) = pipe().unwrap();
    fill(&writer);
    (reader, writer)
}

#[test]
fn stuck_log_reader_blocks_no_event_or_signal() {
    let dir = Scratch::new("stuck-log").unwrap();
    // Each disconnect writes a line to the log.
    let platform = Platform::start(&dir, &["--rate", "500", "--fault", "cut,every=300ms"]).unwrap();
    let sources: String = (0..4)
        .map(|number| {
            format!(
                "[sources.s{number}]\nurl = \"{}\"\ntoken = \"t\"\nbackoff = {{ max = \"250ms\" }}\n",
                platform.url()
            )
        })
        .collect();
    let config = format!("{sources}[spool]\ntype = \"disk\"\n");
    let (reader, writer) = full_pipe();
    let bridge = Bridge::start_with_stderr(&dir, &config, writer.try_clone().unwrap().into()).unwrap();
    // Each source has logged several lines, which nobody reads, and keeps receiving.
    bridge
        .wait("connections", SOON, |status| {
            (0..4).all(|number| status.source(&format!("s{number}")).connections > 5)
        })
        .unwrap();
    let before = bridge.status().unwrap().delivered("events");
    bridge
        .wait("further events", SOON, |status| {
            status.delivered("events") > before + 500
        })
        .unwrap();
    assert_eq!(bridge.get("/livez").unwrap(), "ok\n");
    assert_eq!(
        bridge.metric("neurobridge_log_lines_dropped_total", &[]).unwrap(),
        0.0
    );
    let (status, _) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(status.success(), "{status}");
    drop(reader);
}

#[test]
fn log_of_a_stopped_bridge_ends_with_the_ledger() {
    let dir = Scratch::new("whole-log").unwrap();
    let platform = Platform::start(&dir, &["--rate", "500"]).unwrap();
    let bridge = Bridge::start(&dir, &source(&platform.url())).unwrap();
    bridge
        .wait("events", SOON, |status| {
            status.sink("events").ledger.delivered > 100
        })
        .unwrap();
    let (status, log) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(status.success(), "{log}");
    let lines: Vec<&str> = log.lines().collect();
    let line_of = |text: &str| lines.iter().position(|line| line.contains(text)).unwrap();
    assert!(line_of("bridge started") < line_of("draining;"), "{log}");
    assert!(line_of("draining;") < line_of("source main:"), "{log}");
    assert!(lines.last().unwrap().contains("sink events:"), "{log}");
}

#[test]
fn stuck_screen_blocks_no_event_of_the_demo() {
    let dir = Scratch::new("stuck-demo").unwrap();
    let (reader, writer) = full_pipe();
    let mut command = Command::new(neurobridge());
    command
        .current_dir(dir.path())
        .args(["demo", "--rate", "200", "--data-dir", "data"]);
    let log = dir.join("demo.log");
    let mut demo = Process::spawn_onto("demo", &mut command, writer.into(), &log).unwrap();
    let events = dir.join("data/events.jsonl");
    wait_until("events in the demo", SOON, || {
        fs::read_to_string(&events).is_ok_and(|text| text.lines().count() > 400)
    })
    .unwrap();
    demo.signal(Signal::SIGTERM).unwrap();
    assert!(demo.wait(SOON).unwrap().success(), "{}", demo.log_tail());
    drop(reader);
}

#[test]
fn stuck_reader_of_tail_delays_no_signal() {
    let dir = Scratch::new("stuck-tail").unwrap();
    let platform = Platform::start(&dir, &["--rate", "500"]).unwrap();
    let file = dir.join("c.toml");
    fs::write(
        &file,
        format!("data_dir = {:?}\n{}", dir.join("data"), source(&platform.url())),
    )
    .unwrap();
    let (reader, writer) = pipe().unwrap();
    let mut command = Command::new(neurobridge());
    command.arg("tail").arg("-c").arg(&file);
    let shared = writer.try_clone().unwrap();
    let mut tail = Process::spawn_onto("tail", &mut command, shared.into(), &dir.join("tail.log")).unwrap();
    // The program has written output, so its signal handlers are installed.
    let mut read = unblocked(OpenOptions::new().read(true), &reader);
    wait_until("events", SOON, || read.read(&mut [0]).is_ok()).unwrap();
    fill(&writer);
    tail.signal(Signal::SIGTERM).unwrap();
    tail.wait(SOON).unwrap();
}
