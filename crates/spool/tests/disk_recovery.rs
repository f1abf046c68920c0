//! Recovery: opens logs whose files were lost, truncated, overwritten or torn since the last run.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic as the test does")]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use neurobridge_core::reader::Reader;
use neurobridge_spool::{AppendError, OpenError, Spool, SpoolConfig, Start, inspect};
use support::*;

/// A kind of damage to a file, and the function that causes it.
type Loss = (&'static str, fn(&Path));
const LOSSES: [Loss; 5] = [
    ("removed", |path| fs::remove_file(path).unwrap()),
    ("emptied", |path| fs::write(path, "").unwrap()),
    ("zeroed", |path| fs::write(path, vec![0; 16_384]).unwrap()),
    ("halved", |path| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    }),
    ("overwritten", |path| {
        fs::write(path, vec![0xff; 16_384]).unwrap();
    }),
];

#[tokio::test]
async fn lost_cursor_restarts_at_the_oldest_record() {
    for (what, lose) in LOSSES {
        let root = tempfile::tempdir().unwrap();
        filled(root.path()).await;
        lose(&root.path().join("spool/cursors/sink.cursor"));
        let report = inspect::verify(&root.path().join("spool")).unwrap();
        assert_eq!(report.findings.len(), 1, "{what}: {report:?}");
        let spool = open(root.path(), &config());
        // The start policy has no effect: it applies only to a sink that never ran.
        let mut reader = spool.reader_from("sink", Start::End);
        assert_eq!(spool.status().damaged_cursors, 1, "{what}");
        let seen = read_all(&spool, &mut reader).await;
        assert_eq!(seen.events, (1..=120).collect::<Vec<_>>(), "{what}");
        commit(&mut reader, 121);
        soon(spool.finish()).await.unwrap();
        drop((spool, reader));
        let spool = open(root.path(), &config());
        assert_eq!(spool.reader("sink").cursor().next.get(), 121, "{what}");
        assert_eq!(spool.status().damaged_cursors, 0, "{what}");
        // A sink that never ran begins with the next event.
        assert_eq!(spool.reader("new").cursor().next.get(), 121, "{what}");
        assert_eq!(spool.status().damaged_cursors, 0, "{what}");
    }
}

#[tokio::test]
async fn lost_cursor_folder_restarts_at_the_oldest_record() {
    let root = tempfile::tempdir().unwrap();
    filled(root.path()).await;
    fs::remove_dir_all(root.path().join("spool/cursors")).unwrap();
    let spool = open(root.path(), &config());
    let mut reader = spool.reader("sink");
    assert_eq!(read_all(&spool, &mut reader).await.events.len(), 120);
}

#[tokio::test]
async fn reader_is_not_new_if_the_registry_is_damaged() {
    let root = tempfile::tempdir().unwrap();
    filled(root.path()).await;
    fs::remove_file(root.path().join("spool/cursors/sink.cursor")).unwrap();
    fs::write(root.path().join("spool/readers"), "nonsense").unwrap();
    let spool = open(root.path(), &config());
    let mut reader = spool.reader("sink");
    assert_eq!(spool.status().damaged_cursors, 1);
    assert_eq!(read_all(&spool, &mut reader).await.events.len(), 120);
}

/// Returns the names and contents of all files below a folder.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(contents(&path));
        } else {
            all.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    all
}

#[tokio::test]
async fn log_of_an_older_format_is_refused_and_unchanged() {
    let root = tempfile::tempdir().unwrap();
    filled(root.path()).await;
    let folder = root.path().join("spool");
    let segment = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"nbsegmnt")))
        .max()
        .unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    bytes[8..12].copy_from_slice(&1_u32.to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[..60]);
    bytes[60..64].copy_from_slice(&checksum.to_le_bytes());
    fs::write(&segment, bytes).unwrap();
    // A temporary file of a crash. Opening an accepted log would remove it.
    fs::write(folder.join("new.tmp"), "unfinished").unwrap();
    let before = contents(root.path());
    let error = Spool::open(&SpoolConfig::Disk(config()), root.path()).unwrap_err();
    assert!(
        matches!(
            error,
            OpenError::Version {
                found: 1,
                expected: 2,
                ..
            }
        ),
        "{error}"
    );
    let text = error.to_string();
    assert!(
        text.contains("an older neurobridge wrote this file") && text.contains("0 pending"),
        "{text}"
    );
    let error = inspect::verify(&folder).unwrap_err();
    let text = format!("{error}: {:?}", std::error::Error::source(&error));
    assert!(text.contains("Version { found: 1, expected: 2 }"), "{text}");
    assert!(contents(root.path()) == before, "a file has changed");
}

#[tokio::test]
async fn log_without_registry_and_stop_record_opens() {
    for (what, lose) in &LOSSES[1..3] {
        let root = tempfile::tempdir().unwrap();
        filled(root.path()).await;
        for lost in ["readers", "stopped"] {
            fs::remove_file(root.path().join("spool").join(lost)).unwrap();
        }
        let report = inspect::verify(&root.path().join("spool")).unwrap();
        assert_eq!((report.events, report.findings.len()), (120, 0));
        let spool = open(root.path(), &config());
        let mut reader = spool.reader("sink");
        assert_eq!(read_all(&spool, &mut reader).await.events.len(), 120);
        assert_eq!(spool.status().damaged_cursors, 0);
        assert_eq!(spool.reader("new").cursor().next.get(), 121);
        soon(spool.finish()).await.unwrap();
        drop((spool, reader));
        // The log has registered its cursors. If the registry is lost again, a reader whose cursor file was lost or emptied
        // does not count as a new one.
        assert!(root.path().join("spool/readers").exists());
        fs::remove_file(root.path().join("spool/readers")).unwrap();
        lose(&root.path().join("spool/cursors/sink.cursor"));
        let spool = open(root.path(), &config());
        let mut reader = spool.reader("sink");
        assert_eq!(read_all(&spool, &mut reader).await.events.len(), 120, "{what}");
        assert_eq!(spool.status().damaged_cursors, 1, "{what}");
    }
}

#[tokio::test]
async fn damaged_cursor_slot_is_reported() {
    let root = tempfile::tempdir().unwrap();
    let spool = open(root.path(), &config());
    let mut reader = spool.reader("sink");
    append(&spool, 30, 100).await;
    for next in [11, 21] {
        commit(&mut reader, next);
        until("the cursor is saved", || {
            let listing = inspect::list(&root.path().join("spool")).unwrap();
            let saved = listing.cursors[0].cursor.as_ref().unwrap().next.get();
            saved == next
        })
        .await;
    }
    soon(spool.finish()).await.unwrap();
    drop((spool, reader));
    let path = root.path().join("spool/cursors/sink.cursor");
    let whole = fs::read(&path).unwrap();
    for slot in [0, 8192] {
        let mut bad = whole.clone();
        bad[slot + 40] ^= 1;
        fs::write(&path, bad).unwrap();
        let report = inspect::verify(&root.path().join("spool")).unwrap();
        assert_eq!(report.findings.len(), 1, "{report:?}");
        let copied = tempfile::tempdir().unwrap();
        copy(root.path(), copied.path());
        let spool = open(copied.path(), &config());
        let next = spool.reader("sink").cursor().next.get();
        assert!(next == 11 || next == 21, "{next}");
        assert_eq!(spool.status().damaged_cursors, 1);
    }
}

#[tokio::test]
async fn lost_end_after_an_orderly_stop_is_counted() {
    for (what, lose) in LOSSES.iter().filter(|(what, _)| *what != "halved") {
        let root = tempfile::tempdir().unwrap();
        filled(root.path()).await;
        let all = segments(root.path());
        lose(all.last().unwrap());
        let report = inspect::verify(&root.path().join("spool")).unwrap();
        let missing: u64 = report.findings.iter().map(|finding| finding.events).sum();
        assert_eq!(report.events + missing, 120, "{what}: {report:?}");
        assert!(missing > 0, "{what}");
        // Each start reports the loss until events are stored after it.
        for _ in 0..2 {
            let spool = open(root.path(), &config());
            let mut reader = spool.reader("sink");
            assert_eq!(spool.status().damaged_events, missing, "{what}");
            let seen = read_all(&spool, &mut reader).await;
            assert_eq!(seen.events.len() as u64, report.events, "{what}");
            assert_eq!(seen.damaged.len() as u64, missing, "{what}");
            soon(spool.finish()).await.unwrap();
        }
        let spool = open(root.path(), &config());
        append(&spool, 1, 10).await;
        let seen = read_until(&mut spool.reader("sink"), 121).await;
        assert_eq!(seen.events.last(), Some(&121), "{what}");
        assert_eq!(seen.damaged.len() as u64, missing, "{what}");
    }
}

#[tokio::test]
async fn lost_log_after_an_orderly_stop_is_counted() {
    let root = tempfile::tempdir().unwrap();
    filled(root.path()).await;
    for segment in segments(root.path()) {
        fs::remove_file(segment).unwrap();
    }
    let spool = open(root.path(), &config());
    assert_eq!(spool.status().damaged_events, 120);
    let mut reader = spool.reader("sink");
    let seen = read_all(&spool, &mut reader).await;
    assert_eq!(seen.damaged, (1..=120).collect::<Vec<_>>());
}

#[tokio::test]
async fn torn_record_after_a_crash_is_no_loss() {
    let root = tempfile::tempdir().unwrap();
    filled(root.path()).await;
    let spool = open(root.path(), &config());
    append(&spool, 3, 300).await;
    let killed = tempfile::tempdir().unwrap();
    copy(root.path(), killed.path());
    let last = segments(killed.path()).pop().unwrap();
    // Leaves one of the three records, as if only this one had reached the disk. The stop record of the previous run does not
    // count these events.
    fs::OpenOptions::new()
        .write(true)
        .open(last)
        .unwrap()
        .set_len(600)
        .unwrap();
    let spool = open(killed.path(), &config());
    let mut reader = spool.reader("sink");
    let seen = read_all(&spool, &mut reader).await;
    assert_eq!(seen.damaged, Vec::<u64>::new());
    assert_eq!(seen.events, (1..=121).collect::<Vec<_>>());
}

#[tokio::test]
async fn removed_folder_fails_a_running_log() {
    let root = tempfile::tempdir().unwrap();
    let spool = open(root.path(), &config());
    let _reader = spool.reader("sink");
    append(&spool, 3, 100).await;
    fs::remove_dir_all(root.path().join("spool")).unwrap();
    // The log does not confirm an append as stored after the folder was removed.
    let failed = soon(spool.append(batch(4, 1, 10))).await;
    assert!(matches!(failed, Err(AppendError::Failed { .. })), "{failed:?}");
    assert!(spool.status().has_failed);
    soon(spool.finish()).await.unwrap_err();
}

#[tokio::test]
async fn torn_write_is_truncated_and_the_log_continues() {
    for torn in [&b"\0\0\0\x01garbage"[..], &[0; 200], &[0xff; 5000]] {
        let root = tempfile::tempdir().unwrap();
        let spool = open(root.path(), &config());
        drop(spool.reader("sink"));
        append(&spool, 3, 100).await;
        soon(spool.finish()).await.unwrap();
        let last = segments(root.path()).pop().unwrap();
        fs::OpenOptions::new()
            .append(true)
            .open(last)
            .unwrap()
            .write_all(torn)
            .unwrap();
        let spool = open(root.path(), &config());
        let mut reader = spool.reader("sink");
        append(&spool, 3, 100).await;
        assert_eq!(read_all(&spool, &mut reader).await.events, [1, 2, 3, 4, 5, 6]);
        assert_eq!(spool.status().damaged_events, 0);
    }
}

#[tokio::test]
async fn missing_segment_is_skipped_and_reported() {
    let root = tempfile::tempdir().unwrap();
    filled(root.path()).await;
    let all = segments(root.path());
    fs::remove_file(&all[3]).unwrap();
    fs::remove_file(&all[0]).unwrap();
    let spool = open(root.path(), &config());
    let mut reader = spool.reader("sink");
    let seen = read_all(&spool, &mut reader).await;
    assert!(
        seen.dropped.is_empty() && (10..30).contains(&seen.damaged.len()),
        "{seen:?}"
    );
    assert_eq!(seen.all(), 120);
    append(&spool, 1, 10).await;
    assert_eq!(read_until(&mut reader, 1).await.events, [121]);
    assert!(spool.status().damaged_events > 0);
}

#[tokio::test]
async fn damage_is_found_and_copied_without_a_reader() {
    let root = tempfile::tempdir().unwrap();
    filled(root.path()).await;
    let path = &segments(root.path())[2];
    let mut bytes = fs::read(path).unwrap();
    bytes[600] ^= 1;
    fs::write(path, bytes).unwrap();
    let spool = open(root.path(), &config());
    until("the damage is found", || spool.status().damaged_events == 1).await;
    until("the damaged bytes are copied", || {
        root.path().join("spool/damaged").is_dir()
    })
    .await;
    let report = inspect::verify(&root.path().join("spool")).unwrap();
    assert_eq!((report.events, report.findings.len()), (119, 1));
    let mut reader = spool.reader("sink");
    let seen = read_all(&spool, &mut reader).await;
    assert_eq!((seen.events.len(), seen.damaged.len()), (119, 1));
    assert_eq!(spool.status().damaged_events, 1);
}

#[tokio::test]
async fn sequences_of_a_lost_end_are_not_reused() {
    let root = tempfile::tempdir().unwrap();
    let spool = open(root.path(), &config());
    let mut reader = spool.reader("sink");
    append(&spool, 30, 100).await;
    commit(&mut reader, 31);
    soon(spool.finish()).await.unwrap();
    drop((spool, reader));
    fs::remove_file(segments(root.path()).pop().unwrap()).unwrap();
    let spool = open(root.path(), &config());
    let mut reader = spool.reader("sink");
    append(&spool, 1, 100).await;
    assert_eq!(read_all(&spool, &mut reader).await.events, [31]);
}

#[tokio::test]
async fn damaged_cursor_resends_and_damaged_id_is_restored() {
    let root = tempfile::tempdir().unwrap();
    filled(root.path()).await;
    let id = open(root.path(), &config()).id();
    fs::write(root.path().join("spool/cursors/sink.cursor"), "nonsense").unwrap();
    fs::write(root.path().join("spool/spool.id"), "nonsense").unwrap();
    let report = inspect::verify(&root.path().join("spool")).unwrap();
    assert_eq!(report.events, 120);
    // The id of the spool, and the two files that contain the id: the cursor and the resume values.
    assert_eq!(report.findings.len(), 3, "{report:?}");
    let spool = open(root.path(), &config());
    assert_eq!(spool.id(), id);
    let mut reader = spool.reader("sink");
    assert_eq!(
        read_all(&spool, &mut reader).await.events,
        (1..=120).collect::<Vec<_>>()
    );
}
