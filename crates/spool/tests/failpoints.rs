//! Lets each disk operation fail, and kills the process before each disk operation. No durable event may be lost.
//!
//! `cargo test -p neurobridge-spool --features failpoints --test failpoints`
#![allow(clippy::unwrap_used, reason = "a test's helpers panic as the test does")]

mod support;

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fail::FailScenario;
use neurobridge_core::{reader::Reader, units::ByteSize};
use neurobridge_spool::{AppendError, DiskConfig, OpenError, Spool, SpoolConfig, WhenFull, inspect};
use support::*;
use tempfile::TempDir;

/// Every failpoint, and whether each error at it is final, as it is at the sync of a file or folder.
const POINTS: [(&str, bool); 12] = [
    ("folder-create", false),
    ("folder-open", false),
    ("folder-sync", true),
    ("file-create", false),
    ("file-open", false),
    ("file-reserve", false),
    ("file-write", false),
    ("segment-write", false),
    ("file-sync", true),
    ("file-cut", false),
    ("file-rename", false),
    ("file-remove", false),
];
/// Temporary errors.
const TEMPORARY: [&str; 4] = ["full", "files", "memory", "interrupted"];

/// A copy of the folder at a kill: the failpoint, the folder, and the last sequences confirmed as stored and as committed.
type Kill = (String, TempDir, u64, u64);

/// The last sequences that the log has confirmed to a run of the scenario.
#[derive(Debug, Default)]
struct Confirmed {
    stored: AtomicU64,
    committed: AtomicU64,
}

/// Appends, reads and commits events in several segments, and shuts the log down. Returns the error that ended the log, if any.
async fn scenario(root: &Path, confirmed: &Confirmed) -> Result<(), String> {
    let mut attempts = 0;
    let spool = loop {
        match try_open(root, &config()) {
            Ok(spool) => break spool,
            // A supervisor restarts the bridge after the exit code for a temporary error.
            Err(OpenError::Disk { source }) if source.class().is_retryable() && attempts < 3 => attempts += 1,
            Err(OpenError::Disk { source }) => return Err(source.to_string()),
            Err(other) => panic!("{other}"),
        }
    };
    let mut reader = spool.reader("sink");
    let mut failed = None;
    let first = spool.status().durable_sequence + 1;
    for round in 0..8 {
        let next = first + round * 3;
        match soon(spool.append_resuming(batch(next, 3, 600), resume_value(next + 2))).await {
            Ok(_) => confirmed.stored.store(next + 2, Ordering::SeqCst),
            Err(AppendError::Failed { source }) => {
                failed = Some(source.to_string());
                break;
            }
            Err(other) => panic!("{other}"),
        }
        if round % 2 == 1 {
            confirmed.committed.store(next, Ordering::SeqCst);
            commit(&mut reader, next);
            // Waits, so that the maintenance thread saves the cursor and deletes segments several times.
            until_saved(root, next, &spool).await;
        }
    }
    // Durable events can be read also after an error.
    let durable = spool.status().durable_sequence;
    assert_eq!(durable, confirmed.stored.load(Ordering::SeqCst).max(first - 1));
    let next = reader.cursor().next.get();
    if durable >= next {
        let seen = read_until(&mut reader, durable + 1 - next).await;
        assert!(seen.damaged.is_empty(), "{seen:?}");
    }
    match (soon(spool.finish()).await, failed) {
        (Ok(()), None) => Ok(()),
        (Err(error), _) => Err(error.to_string()),
        (Ok(()), Some(error)) => panic!("the log shut down without the earlier error: {error}"),
    }
}

/// Waits until a cursor is saved on the disk, or the log has failed.
async fn until_saved(root: &Path, next: u64, spool: &Spool) {
    let is_saved = || {
        let listing = inspect::list(&root.join("spool")).unwrap();
        let mut cursors = listing.cursors.into_iter().filter_map(|state| state.cursor);
        cursors.any(|cursor| cursor.next.get() >= next)
    };
    soon(async {
        while !spool.status().has_failed && !is_saved() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// Opens a log after a kill or an error, and checks that it contains all events that were durable and not settled.
async fn expect_whole(root: &Path, stored: u64, committed: u64, what: &str) {
    let spool = open(root, &config());
    let mut reader = spool.reader("sink");
    let status = spool.status();
    let next = reader.cursor().next.get();
    assert!(
        status.durable_sequence >= stored,
        "{what}: {status:?} of {stored}"
    );
    assert!(next <= committed.max(1), "{what}: {next} of {committed}");
    // The resume value is that of the last stored event, also if this event was deleted.
    assert_eq!(resumes_after(&spool, "main"), status.durable_sequence, "{what}");
    let seen = read_all(&spool, &mut reader).await;
    assert_eq!(
        seen.events,
        (next..=status.durable_sequence).collect::<Vec<_>>(),
        "{what}"
    );
    assert_eq!(spool.status().damaged_events, 0, "{what}");
    append(&spool, 1, 10).await;
    soon(spool.finish()).await.unwrap();
}

/// Runs the scenario once without errors. Returns the folder of the log and the last sequence that was confirmed as stored.
async fn begun() -> (TempDir, u64) {
    let root = tempfile::tempdir().unwrap();
    let confirmed = Confirmed::default();
    scenario(root.path(), &confirmed).await.unwrap();
    (root, confirmed.stored.into_inner())
}

#[test]
fn kill_before_any_disk_operation_loses_no_event() {
    let failing = FailScenario::setup();
    let root = tempfile::tempdir().unwrap();
    let confirmed = Arc::new(Confirmed::default());
    let kills: Arc<Mutex<Vec<Kill>>> = Arc::default();
    for (point, _) in POINTS {
        let (root, confirmed, kills) = (root.path().to_owned(), Arc::clone(&confirmed), Arc::clone(&kills));
        fail::cfg_callback(point, move || {
            // The mutex is locked during the copy, so that the other threads wait before their next disk operation.
            let mut kills = kills.lock().unwrap();
            let (stored, killed) = (
                confirmed.stored.load(Ordering::SeqCst),
                tempfile::tempdir().unwrap(),
            );
            copy(&root, killed.path());
            // Read after the copy, because a cursor may be committed and saved during the copy.
            let committed = confirmed.committed.load(Ordering::SeqCst);
            kills.push((point.to_owned(), killed, stored, committed));
        })
        .unwrap();
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        scenario(root.path(), &confirmed).await.unwrap();
        scenario(root.path(), &confirmed).await.unwrap();
    });
    for (point, _) in POINTS {
        fail::cfg(point, "off").unwrap();
    }
    let kills = std::mem::take(&mut *kills.lock().unwrap());
    for (point, _) in POINTS {
        let killed = kills.iter().filter(|kill| kill.0 == point).count();
        assert!(
            killed > 0 || point == "folder-create",
            "nothing was killed at {point}"
        );
    }
    assert!(kills.len() > 80, "{}", kills.len());
    for (index, (point, root, stored, committed)) in kills.iter().enumerate() {
        runtime.block_on(expect_whole(
            root.path(),
            *stored,
            *committed,
            &format!("kill {index} at {point}"),
        ));
    }
    // The scenario excludes the other tests of this file, whose failpoints would affect this one.
    failing.teardown();
}

#[test]
fn refused_write_is_final_and_loses_no_event() {
    let failing = FailScenario::setup();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for (point, _) in POINTS {
        let mut refusals = 0;
        for passes in 0..12 {
            fail::cfg(point, "off").unwrap();
            let (root, before) = runtime.block_on(begun());
            let confirmed = Confirmed::default();
            confirmed.stored.store(before, Ordering::SeqCst);
            fail::cfg(point, &format!("{passes}*off->1*return->off")).unwrap();
            let ended = runtime.block_on(scenario(root.path(), &confirmed));
            fail::cfg(point, "off").unwrap();
            // The cursor is at least at the last commit of the first run of the scenario.
            let committed = confirmed.committed.load(Ordering::SeqCst).max(before);
            let what = format!("{point} after {passes}: {ended:?}");
            let stored = confirmed.stored.load(Ordering::SeqCst);
            runtime.block_on(expect_whole(root.path(), stored, committed, &what));
            if ended.is_ok() {
                break;
            }
            refusals += 1;
        }
        // A log that was opened before does not create its folders again.
        assert!(
            refusals > 0 || point == "folder-create",
            "nothing was refused at {point}"
        );
    }
    failing.teardown();
}

#[test]
fn temporary_error_is_retried() {
    let failing = FailScenario::setup();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for (point, _) in POINTS.iter().filter(|(_, is_final)| !is_final) {
        // Two calls in succession fail, beginning with each call in turn: the second one may be that which saves the retention
        // marker in order to free space.
        for passes in 0..14 {
            let error = TEMPORARY[passes % TEMPORARY.len()];
            let (root, before) = runtime.block_on(begun());
            let confirmed = Confirmed::default();
            confirmed.stored.store(before, Ordering::SeqCst);
            fail::cfg(*point, &format!("{passes}*off->2*return({error})->off")).unwrap();
            let ended = runtime.block_on(scenario(root.path(), &confirmed));
            fail::cfg(*point, "off").unwrap();
            let what = format!("{error}: {point} after {passes}");
            assert_eq!(ended, Ok(()), "{what}");
            let stored = confirmed.stored.load(Ordering::SeqCst);
            runtime.block_on(expect_whole(root.path(), stored, stored, &what));
        }
    }
    failing.teardown();
}

#[test]
fn every_error_of_a_sync_is_final() {
    let failing = FailScenario::setup();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for (point, _) in POINTS.iter().filter(|(_, is_final)| *is_final) {
        for error in TEMPORARY {
            let (root, before) = runtime.block_on(begun());
            let confirmed = Confirmed::default();
            confirmed.stored.store(before, Ordering::SeqCst);
            fail::cfg(*point, &format!("6*off->1*return({error})->off")).unwrap();
            let ended = runtime.block_on(scenario(root.path(), &confirmed));
            fail::cfg(*point, "off").unwrap();
            assert!(ended.is_err(), "{error}: {point}");
        }
    }
    failing.teardown();
}

#[test]
fn file_system_without_folder_sync_is_accepted() {
    let failing = FailScenario::setup();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    fail::cfg("folder-sync", "return(unsupported)").unwrap();
    let (root, stored) = runtime.block_on(begun());
    runtime.block_on(expect_whole(root.path(), stored, stored, "unsupported"));
    failing.teardown();
}

/// Times are divided by 100 in the build of this test.
#[test]
fn events_of_a_quiet_feed_are_deleted_when_settled() {
    let failing = FailScenario::setup();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let root = tempfile::tempdir().unwrap();
        let spool = open(root.path(), &config());
        let mut reader = spool.reader("sink");
        append(&spool, 3, 100).await;
        assert_eq!(segments(root.path()).len(), 1);
        commit(&mut reader, 4);
        until("the settled events are deleted", || {
            segments(root.path()).is_empty()
        })
        .await;
        append(&spool, 3, 100).await;
        assert_eq!(read_until(&mut reader, 6).await.all(), 6);
        // Events that are not settled are not deleted.
        commit(&mut reader, 5);
        append(&spool, 1, 100).await;
        soon(spool.finish()).await.unwrap();
        drop((spool, reader));
        let spool = open(root.path(), &config());
        let seen = read_all(&spool, &mut spool.reader("sink")).await;
        assert_eq!(seen.events, [5, 6, 7]);
    });
    failing.teardown();
}

#[test]
fn removed_folder_is_detected_on_a_quiet_feed() {
    let failing = FailScenario::setup();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        for is_replaced in [false, true] {
            let root = tempfile::tempdir().unwrap();
            let spool = open(root.path(), &config());
            let _reader = spool.reader("sink");
            append(&spool, 3, 100).await;
            std::fs::rename(root.path().join("spool"), root.path().join("moved")).unwrap();
            if is_replaced {
                std::fs::create_dir(root.path().join("spool")).unwrap();
            }
            until("the log fails", || spool.status().has_failed).await;
            soon(spool.finish()).await.unwrap_err();
        }
    });
    failing.teardown();
}

#[test]
fn full_disk_drops_the_oldest_events_if_configured() {
    let failing = FailScenario::setup();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let root = tempfile::tempdir().unwrap();
    runtime.block_on(async {
        let config = DiskConfig {
            max_size: ByteSize::from_mib(64),
            when_full: WhenFull::DropOldest,
            ..config()
        };
        let spool = open(root.path(), &config);
        let mut reader = spool.reader("sink");
        for _ in 0..30 {
            append(&spool, 3, 600).await;
        }
        fail::cfg("segment-write", "2*return(full)->off").unwrap();
        append(&spool, 3, 600).await;
        let dropped = spool.status().dropped_events;
        assert!(dropped > 0);
        assert_eq!(read_all(&spool, &mut reader).await.all(), 93);
        soon(spool.finish()).await.unwrap();
        drop((spool, reader));
        let spool = open(root.path(), &config);
        let seen = read_all(&spool, &mut spool.reader("sink")).await;
        assert_eq!(
            (seen.dropped.len() as u64, seen.events.len() as u64),
            (dropped, 93 - dropped)
        );
    });
    failing.teardown();
}

#[test]
fn full_disk_delays_resume_values_and_no_event() {
    let failing = FailScenario::setup();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        // The first save creates the file, a later one writes into it.
        for (point, before) in [("file-create", 0), ("file-write", 3)] {
            let root = tempfile::tempdir().unwrap();
            let config = DiskConfig {
                segment_size: ByteSize::from_mib(1),
                ..config()
            };
            let saved = || {
                let state = inspect::list(&root.path().join("spool")).unwrap().resume;
                state
                    .and_then(|state| state.values.get("main").cloned())
                    .map_or(0, |value| value.parse::<u64>().unwrap())
            };
            // If no source can resume when the log is opened, the file is created with the first resume value.
            let spool = if before > 0 {
                open(root.path(), &config)
            } else {
                Spool::open(&SpoolConfig::Disk(config), root.path()).unwrap()
            };
            // The reader retains the segment, so that no other segment is created.
            let _reader = spool.reader("sink");
            if before > 0 {
                append(&spool, before, 10).await;
                until("the first value is saved", || saved() == before).await;
            } else {
                // Creates the segment.
                soon(spool.append(batch(1, 1, 10))).await.unwrap();
            }
            fail::cfg(point, "return(full)").unwrap();
            for _ in 0..50 {
                append(&spool, 1, 10).await;
            }
            assert_eq!(saved(), before);
            assert!(!spool.status().is_full);
            fail::cfg(point, "off").unwrap();
            let last = spool.status().durable_sequence;
            until("the last value is saved", || saved() == last).await;
            soon(spool.finish()).await.unwrap();
        }
    });
    failing.teardown();
}
