//! One test for each guarantee of the log on disk.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic as the test does")]

mod support;

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use neurobridge_core::{
    event::Sequence,
    reader::{Cursor, Read, Reader},
    units::ByteSize,
};
use neurobridge_spool::{
    AppendError, DiskConfig, OpenError, SyncPolicy, WhenFull,
    inspect::{self, Entry},
};
use support::*;

fn sequence(number: u64) -> Sequence {
    Sequence::new(number).unwrap()
}

#[tokio::test]
async fn reopened_log_continues_its_sequence() {
    let root = tempfile::tempdir().unwrap();
    let mut expected = Cursor::starting_at(Sequence::FIRST);
    let mut id = None;
    let mut ended = Vec::new();
    for run in 0..4u64 {
        let spool = open(root.path(), &config());
        assert_eq!(*id.get_or_insert(spool.id()), spool.id());
        let mut reader = spool.reader("sink");
        // Each run is an epoch, which ends at the sequence at which the next one begins. All later runs know this sequence.
        let epochs = reader.epochs();
        for (epoch, end) in &ended {
            assert!(*epoch < epochs.current(), "{epochs:?}");
            assert_eq!(epochs.end_of(*epoch), Some(*end));
        }
        ended.push((epochs.current(), sequence(run * 30 + 31)));
        assert_eq!(reader.cursor(), &expected);
        assert_eq!(spool.status().durable_sequence, run * 30);
        for _ in 0..10 {
            append(&spool, 3, 300).await;
        }
        let seen = read_all(&spool, &mut reader).await;
        assert_eq!(
            seen.events,
            (expected.next.get()..=run * 30 + 30).collect::<Vec<_>>()
        );
        // The cursor does not pass all events: the next run begins with the remaining ones.
        expected.next = sequence(run * 30 + 25);
        expected.counts.delivered = run * 30 + 24;
        expected.note = Some(format!("run {run}"));
        reader.commit(&expected);
        soon(spool.finish()).await.unwrap();
    }
}

#[tokio::test]
async fn slow_reader_reads_from_disk_and_catches_up() {
    let root = tempfile::tempdir().unwrap();
    let config = DiskConfig {
        segment_size: ByteSize::from_mib(1),
        ..config()
    };
    let spool = open(root.path(), &config);
    let (mut quick, mut slow) = (spool.reader("quick"), spool.reader("slow"));
    for _ in 0..50 {
        append(&spool, 10, 50_000).await;
        read_until(&mut quick, 10).await;
    }
    append(&spool, 1, 600_000).await;
    assert_eq!(
        read_until(&mut slow, 501).await.events,
        (1..=501).collect::<Vec<_>>()
    );
    slow.rewind(sequence(7));
    append(&spool, 1, 10).await;
    assert_eq!(
        read_until(&mut slow, 496).await.events,
        (7..=502).collect::<Vec<_>>()
    );
    let received_at = spool.received_at(sequence(100)).unwrap().as_second();
    assert!((80..=100).contains(&received_at), "{received_at}");
    assert_eq!(spool.received_at(sequence(502)).unwrap().as_second(), 502);
    assert!(spool.sync_duration().count() > 50);
}

#[tokio::test]
async fn second_process_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let spool = open(root.path(), &config());
    assert!(matches!(
        try_open(root.path(), &config()),
        Err(OpenError::Locked { .. })
    ));
    fs::remove_file(root.path().join("spool/spool.lock")).unwrap();
    assert!(matches!(
        try_open(root.path(), &config()),
        Err(OpenError::Locked { .. })
    ));
    soon(spool.finish()).await.unwrap();
    open(root.path(), &config());
}

#[tokio::test]
async fn full_log_blocks_until_space_is_free() {
    let root = tempfile::tempdir().unwrap();
    let config = DiskConfig {
        max_size: ByteSize::from_mib(1),
        segment_size: ByteSize::from_kib(64),
        // Events may be retained for long, but are deleted when space is needed.
        retain: Duration::from_secs(1 << 30),
        ..config()
    };
    let spool = open(root.path(), &config);
    let mut reader = spool.reader("sink");
    let mut stored = 0;
    let waiting = loop {
        let appended = spool.append(batch(stored + 1, 1, 10_000));
        let mut appended = Box::pin(appended);
        tokio::select! {
            biased;
            result = &mut appended => drop(result.unwrap()),
            () = until("the log is full", || spool.status().is_full) => break appended,
        }
        stored += 1;
        assert!(spool.status().size_bytes <= 1 << 20);
    };
    assert!(stored > 80, "{stored}");
    commit(&mut reader, stored + 1);
    soon(waiting).await.unwrap();
    assert!(!spool.status().is_full);
    assert_eq!(spool.status().dropped_events, 0);
    assert_eq!(
        read_all(&spool, &mut reader).await.events.last(),
        Some(&(stored + 1))
    );
}

#[tokio::test]
async fn close_ends_an_append_waiting_for_space() {
    let root = tempfile::tempdir().unwrap();
    let config = DiskConfig {
        max_size: ByteSize::from_mib(1),
        ..config()
    };
    let spool = open(root.path(), &config);
    let _reader = spool.reader("sink");
    let appended = tokio::spawn({
        let spool = spool.clone();
        async move {
            loop {
                let first = spool.status().durable_sequence + 1;
                if let Err(error) = spool.append(batch(first, 10, 10_000)).await {
                    return error;
                }
            }
        }
    });
    until("the log is full", || spool.status().is_full).await;
    spool.close();
    assert!(matches!(soon(appended).await.unwrap(), AppendError::Closed));
    let stored = spool.status().durable_sequence;
    soon(spool.finish()).await.unwrap();
    drop(spool);
    assert_eq!(open(root.path(), &config).status().durable_sequence, stored);
}

#[tokio::test]
async fn full_log_drops_and_counts_the_oldest_events() {
    let root = tempfile::tempdir().unwrap();
    let config = DiskConfig {
        max_size: ByteSize::from_mib(1),
        segment_size: ByteSize::from_kib(64),
        when_full: WhenFull::DropOldest,
        ..config()
    };
    let spool = open(root.path(), &config);
    drop(spool.reader("sink"));
    for _ in 0..100 {
        append(&spool, 3, 10_000).await;
        assert!(spool.status().size_bytes <= 1 << 20);
    }
    let dropped = spool.status().dropped_events;
    assert!((150..300).contains(&dropped), "{dropped}");
    soon(spool.finish()).await.unwrap();
    let spool = open(root.path(), &config);
    assert_eq!(spool.status().dropped_events, dropped);
    let mut reader = spool.reader("sink");
    let seen = read_all(&spool, &mut reader).await;
    assert_eq!(seen.dropped, (1..=dropped).collect::<Vec<_>>());
    assert_eq!(seen.events, (dropped + 1..=300).collect::<Vec<_>>());
}

#[tokio::test]
async fn event_larger_than_the_log_is_stored_alone() {
    let root = tempfile::tempdir().unwrap();
    let config = DiskConfig {
        max_size: ByteSize::from_mib(1),
        ..config()
    };
    let spool = open(root.path(), &config);
    let mut reader = spool.reader("sink");
    append(&spool, 1, 3 << 20).await;
    assert_eq!(read_until(&mut reader, 1).await.events, [1]);
    commit(&mut reader, 2);
    append(&spool, 1, 10).await;
}

#[tokio::test]
async fn new_reader_misses_no_event_after_a_kill() {
    let root = tempfile::tempdir().unwrap();
    let spool = open(root.path(), &config());
    append(&spool, 3, 10).await;
    let _reader = spool.reader("sink");
    append(&spool, 1, 10).await;
    let killed = tempfile::tempdir().unwrap();
    copy(root.path(), killed.path());
    let spool = open(killed.path(), &config());
    let mut reader = spool.reader("sink");
    assert_eq!(read_all(&spool, &mut reader).await.events, [4]);
}

#[tokio::test]
async fn log_can_be_inspected_during_writes() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("spool");
    let spool = open(root.path(), &config());
    let mut reader = spool.reader("sink");
    for run in 1..20u64 {
        append(&spool, 7, 200).await;
        let report = inspect::verify(&folder).unwrap();
        assert_eq!((report.events, report.findings), (run * 7, Vec::new()));
    }
    let listing = inspect::list(&folder).unwrap();
    assert_eq!(listing.id, Some(spool.id()));
    assert!(listing.segments.is_sorted_by_key(|segment| segment.first));
    let read = |entries: inspect::Entries| -> Vec<u64> {
        entries
            .flat_map(|entry| match entry.unwrap() {
                Entry::Events(batch) => batch
                    .iter()
                    .map(|event| event.unwrap().sequence.get())
                    .collect::<Vec<_>>(),
                Entry::Damaged(finding) => panic!("{finding:?}"),
            })
            .collect()
    };
    let from = inspect::from_sequence(&folder, sequence(50)).unwrap();
    assert_eq!(read(from), (50..=133).collect::<Vec<_>>());
    let from = inspect::from_time(&folder, jiff::Timestamp::from_second(100).unwrap()).unwrap();
    let sequences = read(from);
    assert!((80..=100).contains(&sequences[0]) && sequences.last() == Some(&133));
    commit(&mut reader, 50);
    soon(spool.finish()).await.unwrap();
    let listing = inspect::list(&folder).unwrap();
    assert_eq!(listing.cursors[0].reader, "sink");
    assert_eq!(listing.cursors[0].cursor.as_ref().unwrap().counts.delivered, 49);
}

#[tokio::test]
async fn every_sync_policy_keeps_stored_events_after_a_kill() {
    for sync in [SyncPolicy::Never, SyncPolicy::Interval(Duration::from_millis(5))] {
        let root = tempfile::tempdir().unwrap();
        let config = DiskConfig { sync, ..config() };
        let spool = open(root.path(), &config);
        let _reader = spool.reader("sink");
        for _ in 0..20 {
            append(&spool, 2, 300).await;
        }
        if sync != SyncPolicy::Never {
            let before = spool.sync_duration().count();
            append(&spool, 1, 10).await;
            until("the log is synced after the interval", || {
                spool.sync_duration().count() > before
            })
            .await;
        }
        let stored = spool.status().durable_sequence;
        let killed = tempfile::tempdir().unwrap();
        copy(root.path(), killed.path());
        let spool = open(killed.path(), &config);
        let mut reader = spool.reader("sink");
        assert_eq!(
            read_all(&spool, &mut reader).await.events,
            (1..=stored).collect::<Vec<_>>()
        );
    }
}

#[tokio::test]
async fn closed_log_is_read_to_its_end_and_after_a_rewind() {
    let root = tempfile::tempdir().unwrap();
    let spool = open(root.path(), &config());
    let mut reader = spool.reader("sink");
    append(&spool, 3, 10).await;
    spool.close();
    assert!(matches!(
        spool.append(batch(4, 1, 10)).await,
        Err(AppendError::Closed)
    ));
    for _ in 0..2 {
        assert_eq!(read_until(&mut reader, 3).await.events, [1, 2, 3]);
        assert!(matches!(soon(reader.next()).await.unwrap(), Read::End));
        reader.rewind(Sequence::FIRST);
    }
}

#[tokio::test]
async fn files_are_accessible_to_their_owner_only() {
    let root = tempfile::tempdir().unwrap();
    filled(root.path()).await;
    let mut folders = vec![root.path().join("spool")];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                assert_eq!(
                    path.metadata().unwrap().permissions().mode() & 0o777,
                    0o600,
                    "{path:?}"
                );
                files += 1;
            }
        }
    }
    assert!(files > 10);
}

#[test]
fn too_small_log_is_rejected() {
    let root = tempfile::tempdir().unwrap();
    let config = DiskConfig {
        max_size: ByteSize::from_kib(64),
        ..config()
    };
    assert!(matches!(
        try_open(root.path(), &config),
        Err(OpenError::TooSmall { .. })
    ));
}
