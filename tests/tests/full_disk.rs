//! A bridge on a full disk: reading of the feed is blocked, and continues when space is free again.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use neurobridge_tests::audit;
use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::platform::Platform;
use neurobridge_tests::poll::wait_until;
use neurobridge_tests::shared::report_skipped;
use neurobridge_tests::small_disk::SmallDisk;
use neurobridge_tests::status::{SourceState, Status};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(120);
const MIB: u64 = 24;

/// Ends the filling of the disk when dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn full_disk_blocks_the_feed_and_loses_no_durable_event() {
    let dir = Scratch::new("full-disk").unwrap();
    let Some(disk) = SmallDisk::mount(dir.path(), &dir.join("data"), MIB).unwrap() else {
        report_skipped("a file system can be mounted only by root");
        return;
    };
    let platform = Platform::start(&dir, &["--rate", "5000", "--hold"]).unwrap();
    // The spool may grow beyond the disk. The sink's file is on another disk, so it takes no space from the spool and
    // can always be written.
    let events = dir.join("events.jsonl");
    let config = format!(
        r#"
        [sources.main]
        url = "{}"
        token = "t"

        [spool]
        type = "disk"
        max_size = "64 MiB"
        segment_size = "1 MiB"

        [sinks.events]
        type = "file"
        path = "{}"
        max_size = "1 GiB"
        "#,
        platform.url(),
        events.display()
    );
    let bridge = Bridge::start(&dir, &config).unwrap();
    let wait = |what: &str, condition: &dyn Fn(&Status) -> bool| bridge.wait(what, SOON, condition).unwrap();
    wait("some events", &|status| status.spool.durable_sequence > 3000);

    let ballast = disk.ballast();
    let is_over = AtomicBool::new(false);
    let durable = thread::scope(|scope| {
        let filling = scope.spawn(|| ballast.fill(|| !is_over.load(Ordering::Relaxed)));
        // Dropped even if an assertion fails, because the scope waits for the end of the filling.
        let over = Over(&is_over);
        let full = wait("the spool to be full", &|status| status.spool.is_full);
        assert!(!full.spool.has_failed);
        let blocked = wait("reading to be blocked", &|status| {
            status.source("main").state == SourceState::Blocked
        });
        assert!(blocked.source("main").reason.is_some(), "{blocked:#}");
        // While old segments can be deleted, some space is free for short times.
        wait_until("the metric of the full spool", SOON, || {
            bridge
                .metric("neurobridge_spool_full", &[])
                .is_ok_and(|full| full == 1.0)
        })
        .unwrap();
        drop(over);
        filling.join().unwrap().unwrap();
        blocked.spool.durable_sequence
    });

    let status = wait("reading to continue", &|status| {
        status.spool.durable_sequence > durable + 5000 && !status.spool.is_full
    });
    assert_eq!(status.source("main").connections, 1, "{status:#}");
    assert_eq!(bridge.metric("neurobridge_spool_full", &[]).unwrap(), 0.0);
    // The history could not be written while the disk was full, but is written afterwards with these entries.
    wait_until("the history of the full disk in its file", SOON, || {
        fs::read_to_string(dir.join("data/history.ndjson")).is_ok_and(|history| {
            let has = |kind: &str| history.contains(&format!("\"kind\":\"{kind}\""));
            has("disk_full") && has("spool_recovered")
        })
    })
    .unwrap();
    let (ended, log) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(ended.success(), "{log}");
    assert!(log.contains("the disk is full"), "{log}");
    assert!(log.contains("the spool has room again"), "{log}");
    // No event that was read is missing, and the events are in sending order.
    let arrived = audit::structured(&fs::read_to_string(events).unwrap()).unwrap();
    let mut sent = platform.stop().unwrap();
    let count = arrived.len() as u64;
    assert!(
        count > durable + 5000,
        "only {count} events arrived; {durable} were durable when the feed was blocked"
    );
    sent.truncate(arrived.len());
    audit::audit(&sent, &[arrived]).unwrap();
}

#[test]
fn start_on_a_full_disk_waits_if_a_spool_exists() {
    let dir = Scratch::new("full-start").unwrap();
    let Some(disk) = SmallDisk::mount(dir.path(), &dir.join("data"), MIB).unwrap() else {
        report_skipped("a file system can be mounted only by root");
        return;
    };
    let platform = Platform::start(&dir, &["--rate", "100"]).unwrap();
    let events = dir.join("events.jsonl");
    let config = |spool: &str| {
        format!(
            "[sources.main]\nurl = \"{}\"\ntoken = \"t\"\n[spool]\ntype = \"disk\"\npath = \"{spool}\"\n\
             max_size = \"8 MiB\"\n[sinks.events]\ntype = \"file\"\npath = {events:?}\n",
            platform.url(),
        )
    };
    let some_events = |status: &Status| status.delivered("events") > 10;
    let bridge = Bridge::start(&dir, &config("spool")).unwrap();
    bridge.wait("some events", SOON, some_events).unwrap();
    let (ended, log) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(ended.success(), "{log}");

    let ballast = disk.ballast();
    let is_over = AtomicBool::new(false);
    let bridge = thread::scope(|scope| {
        let filling = scope.spawn(|| ballast.fill(|| !is_over.load(Ordering::Relaxed)));
        let over = Over(&is_over);
        let (mut refused, mut tries) = (String::new(), 0);
        wait_until("a new spool to find no room", SOON, || {
            // A start may succeed before the ballast has filled the disk.
            tries += 1;
            let started = Bridge::start(&dir, &config(&format!("another-{tries}")));
            refused = started.map_or_else(|error| format!("{error:#}"), |_| String::new());
            !refused.is_empty()
        })
        .unwrap();
        assert!(refused.contains("exit status: 75"), "{refused}");
        assert!(refused.contains("No space left on device"), "{refused}");
        let bridge = Bridge::start(&dir, &config("spool")).unwrap();
        bridge
            .wait("the spool to be full", SOON, |status| status.spool.is_full)
            .unwrap();
        drop(over);
        filling.join().unwrap().unwrap();
        bridge
    });
    bridge.wait("more events", SOON, some_events).unwrap();
    let (ended, log) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(ended.success(), "{log}");
}
