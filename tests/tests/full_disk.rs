//! A disk that is really full, under a real bridge: reading is held back, and goes on by itself when there is room.

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

/// Dropped, it says that it is over.
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
        report_skipped("no file system can be mounted here: that takes root");
        return;
    };
    let platform = Platform::start(&dir, &["--rate", "5000", "--hold"]).unwrap();
    // Larger than the disk. The file is elsewhere: it takes no room of the spool's, and is not full.
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
    let wait = |what: &str, says: &dyn Fn(&Status) -> bool| bridge.wait(what, SOON, says).unwrap();
    wait("some events", &|status| status.spool.durable_sequence > 3000);

    let ballast = disk.ballast();
    let is_over = AtomicBool::new(false);
    let durable = thread::scope(|scope| {
        let filling = scope.spawn(|| ballast.fill(|| !is_over.load(Ordering::Relaxed)));
        // Also when an assertion fails: the scope waits for the ballast.
        let over = Over(&is_over);
        let full = wait("the spool to be full", &|status| status.spool.is_full == true);
        assert_eq!(full.spool.has_failed, false);
        let blocked = wait("the reading to be held back", &|status| {
            status.source("main").state == SourceState::Blocked
        });
        assert!(blocked.source("main").reason.is_some(), "{blocked:#}");
        // As long as there are old segments to delete it has room again for moments.
        wait_until("the metric to say that it is full", SOON, || {
            bridge
                .metric("neurobridge_spool_full", &[])
                .is_ok_and(|full| full == 1.0)
        })
        .unwrap();
        drop(over);
        filling.join().unwrap().unwrap();
        blocked.spool.durable_sequence
    });

    let status = wait("it to go on", &|status| {
        status.spool.durable_sequence > durable + 5000 && status.spool.is_full == false
    });
    assert_eq!(status.source("main").connections, 1, "{status:#}");
    assert_eq!(bridge.metric("neurobridge_spool_full", &[]).unwrap(), 0.0);
    let (ended, log) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(ended.success(), "{log}");
    assert!(log.contains("the disk is full"), "{log}");
    assert!(log.contains("the spool has room again"), "{log}");

    // Nothing that was read is missing, and its order is that of sending.
    let arrived = audit::structured(&fs::read_to_string(events).unwrap()).unwrap();
    let mut sent = platform.stop().unwrap();
    assert!(arrived.len() as u64 > durable + 5000, "{}", arrived.len());
    sent.truncate(arrived.len());
    audit::audit(&sent, &[arrived]).unwrap();
}
