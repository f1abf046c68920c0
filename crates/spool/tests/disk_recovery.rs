//! What a start does with a log that is not as the last run left it.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic as the test does")]

mod support;

use std::{fs, io::Write};

use neurobridge_spool::inspect;
use support::*;

#[tokio::test]
async fn a_torn_write_is_cut_off_and_the_log_goes_on() {
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
async fn a_missing_segment_is_a_hole_and_not_the_end() {
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
async fn damage_is_set_aside_and_found_without_a_reader() {
    let root = tempfile::tempdir().unwrap();
    filled(root.path()).await;
    let path = &segments(root.path())[2];
    let mut bytes = fs::read(path).unwrap();
    bytes[600] ^= 1;
    fs::write(path, bytes).unwrap();
    let spool = open(root.path(), &config());
    until("it is found", || spool.status().damaged_events == 1).await;
    until("it is set aside", || root.path().join("spool/damaged").is_dir()).await;
    let report = inspect::verify(&root.path().join("spool")).unwrap();
    assert_eq!((report.events, report.findings.len()), (119, 1));
    let mut reader = spool.reader("sink");
    let seen = read_all(&spool, &mut reader).await;
    assert_eq!((seen.events.len(), seen.damaged.len()), (119, 1));
    assert_eq!(spool.status().damaged_events, 1);
}

#[tokio::test]
async fn a_lost_end_is_not_numbered_again() {
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
async fn a_damaged_cursor_sends_again_and_a_damaged_id_is_found_again() {
    let root = tempfile::tempdir().unwrap();
    filled(root.path()).await;
    let id = open(root.path(), &config()).id();
    fs::write(root.path().join("spool/cursors/sink.cursor"), "nonsense").unwrap();
    fs::write(root.path().join("spool/spool.id"), "nonsense").unwrap();
    let report = inspect::verify(&root.path().join("spool")).unwrap();
    assert_eq!(report.events, 120);
    assert_eq!(report.findings.len(), 2, "{report:?}");
    let spool = open(root.path(), &config());
    assert_eq!(spool.id(), id);
    let mut reader = spool.reader("sink");
    assert_eq!(
        read_all(&spool, &mut reader).await.events,
        (1..=120).collect::<Vec<_>>()
    );
}
