//! Recovers the resume values of the sources after an orderly stop, after a kill, and from a damaged file.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic as the test does")]

mod support;

use std::{fs, path::Path};

use neurobridge_core::{record::Batch, units::ByteSize};
use neurobridge_spool::{
    DiskConfig, MAX_RESUME_VALUE, MemoryConfig, ResumePaths, ResumeValue, Spool, SpoolConfig, SyncPolicy,
    format::ResumeSlot, inspect,
};
use support::*;
use tempfile::TempDir;

fn value(source: &str, value: &str) -> Vec<ResumeValue> {
    vec![ResumeValue {
        source: source.into(),
        value: value.to_owned(),
    }]
}

/// Sets a resume value without appending events.
async fn advance(spool: &Spool, source: &str, text: &str) {
    let appended = soon(spool.append_resuming(Batch::default(), value(source, text)));
    assert_eq!(appended.await.unwrap(), None);
}

/// Returns the content of the file of resume values.
fn saved(root: &Path) -> Option<inspect::ResumeFileState> {
    inspect::list(&root.join("spool")).unwrap().resume
}

/// Copies the folder in the state that a kill would leave, and opens the copy.
fn killed(root: &Path) -> (TempDir, Spool) {
    let killed = tempfile::tempdir().unwrap();
    copy(root, killed.path());
    let spool = open(killed.path(), &config());
    (killed, spool)
}

/// Writes twelve events, none of them settled, and a resume value of the feed without events, and shuts the log down.
async fn stopped() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let spool = open(root.path(), &config());
    drop(spool.reader("sink"));
    for _ in 0..4 {
        append(&spool, 3, 600).await;
    }
    advance(&spool, "quiet", "\"x\"").await;
    soon(spool.finish()).await.unwrap();
    root
}

fn quiet(spool: &Spool) -> Option<String> {
    spool.resume_value("quiet").map(|value| value.to_string())
}

#[tokio::test]
async fn values_are_recovered_after_an_orderly_stop() {
    let root = stopped().await;
    let state = saved(root.path()).unwrap();
    assert_eq!(
        (state.next.map(|next| next.get()), state.damage),
        (Some(13), None)
    );
    let spool = open(root.path(), &config());
    assert_eq!(
        (resumes_after(&spool, "main"), quiet(&spool).as_deref()),
        (12, Some("\"x\""))
    );
    assert_eq!(spool.resume_values().len(), 2);
}

#[tokio::test]
async fn kill_recovers_the_value_of_the_last_event() {
    let root = stopped().await;
    let spool = open(root.path(), &config());
    for stored in 13..20 {
        append(&spool, 1, 600).await;
        let (_killed, after) = killed(root.path());
        assert_eq!(
            (resumes_after(&after, "main"), quiet(&after).as_deref()),
            (stored, Some("\"x\""))
        );
        soon(after.finish()).await.unwrap();
    }
}

#[tokio::test]
async fn changed_value_is_saved_in_the_background() {
    let root = tempfile::tempdir().unwrap();
    let spool = open(root.path(), &config());
    append(&spool, 3, 10).await;
    let is_saved = || {
        saved(root.path()).is_some_and(|state| state.values.get("main").is_some_and(|value| **value == *"3"))
    };
    until("the value is on the disk", is_saved).await;
    // After the settled events are deleted, only the file contains the resume value.
    let mut reader = spool.reader("sink");
    append(&spool, 3, 10).await;
    commit(&mut reader, 7);
    soon(spool.finish()).await.unwrap();
    for segment in segments(root.path()) {
        fs::remove_file(segment).unwrap();
    }
    let (_killed, after) = killed(root.path());
    assert_eq!(resumes_after(&after, "main"), 6);
}

#[tokio::test]
async fn deleted_segment_leaves_its_value() {
    let root = tempfile::tempdir().unwrap();
    let spool = open(root.path(), &config());
    let mut reader = spool.reader("sink");
    for round in 1..30 {
        append(&spool, 3, 2000).await;
        commit(&mut reader, round * 3 + 1);
        until("settled segments are deleted", || segments(root.path()).len() < 3).await;
        let (_killed, after) = killed(root.path());
        assert_eq!(resumes_after(&after, "main"), round * 3);
    }
}

#[tokio::test]
async fn unusable_file_is_rebuilt_from_the_records() {
    let good = stopped().await;
    let path = |root: &Path| root.join("spool/resume");
    let whole = fs::read(path(good.path())).unwrap();
    let newest = [&whole[..whole.len() / 2], &whole[whole.len() / 2..]]
        .into_iter()
        .filter_map(|slot| ResumeSlot::decode(slot).ok())
        .max_by_key(|slot| slot.generation)
        .unwrap();
    let file_of = |slot: &ResumeSlot| {
        let mut bytes = slot.encode();
        bytes.resize(whole.len(), 0);
        bytes
    };
    let other = other_log().await;
    let mut newer = file_of(&newest);
    newer[8] = 2;
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&newer[..52]), &newest.encode()[56..]);
    newer[52..56].copy_from_slice(&checksum.to_le_bytes());
    for (what, bytes, reason) in [
        ("empty", Vec::new(), "missing magic number"),
        ("zeros", vec![0; whole.len()], "missing magic number"),
        ("text", b"nonsense".to_vec(), "missing magic number"),
        ("newer", newer, "format version 2, expected 1"),
        (
            "foreign",
            fs::read(path(other.path())).unwrap(),
            "the values belong to another spool",
        ),
    ] {
        let root = tempfile::tempdir().unwrap();
        copy(good.path(), root.path());
        fs::write(path(root.path()), bytes).unwrap();
        let damage = saved(root.path()).unwrap().damage;
        assert_eq!(damage.as_deref(), Some(reason), "{what}");
        let report = inspect::verify(&root.path().join("spool")).unwrap();
        let findings: Vec<_> = report
            .findings
            .iter()
            .map(|finding| finding.what.clone())
            .collect();
        assert_eq!(
            findings,
            [format!("the resume values of the sources: {reason}")],
            "{what}"
        );
        let spool = open(root.path(), &config());
        assert_eq!(
            (resumes_after(&spool, "main"), quiet(&spool)),
            (12, None),
            "{what}"
        );
        soon(spool.finish()).await.unwrap();
        assert_eq!(saved(root.path()).unwrap().damage, None, "{what}");
    }
    let root = tempfile::tempdir().unwrap();
    copy(good.path(), root.path());
    fs::remove_file(path(root.path())).unwrap();
    assert_eq!(resumes_after(&open(root.path(), &config()), "main"), 12);
}

async fn other_log() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let spool = open(root.path(), &config());
    append(&spool, 20, 10).await;
    soon(spool.finish()).await.unwrap();
    root
}

#[tokio::test]
async fn value_ahead_of_the_log_is_replaced_by_a_stored_one() {
    let root = stopped().await;
    // The file is newer than the log, as after a restore of the log from a backup or the loss of its last segment.
    let later = tempfile::tempdir().unwrap();
    copy(root.path(), later.path());
    let spool = open(later.path(), &config());
    append(&spool, 3, 600).await;
    soon(spool.finish()).await.unwrap();
    fs::copy(
        later.path().join("spool/resume"),
        root.path().join("spool/resume"),
    )
    .unwrap();
    let spool = open(root.path(), &config());
    assert_eq!(resumes_after(&spool, "main"), 12);
    assert_eq!(
        quiet(&spool).as_deref(),
        Some("\"x\""),
        "no stored event has a resume value of this feed"
    );
    soon(spool.finish()).await.unwrap();
    assert_eq!(saved(root.path()).unwrap().next.map(|next| next.get()), Some(13));
}

#[tokio::test]
async fn value_is_saved_only_after_its_events_are_synced() {
    let root = tempfile::tempdir().unwrap();
    let config = DiskConfig {
        sync: SyncPolicy::Never,
        segment_size: ByteSize::from_kib(4),
        ..config()
    };
    let spool = open(root.path(), &config);
    let _reader = spool.reader("sink");
    for _ in 0..20 {
        append(&spool, 1, 1500).await;
        let last = segments(root.path()).pop().unwrap();
        // Only the last segment is not synced.
        let synced: u64 = last.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        let next = saved(root.path())
            .and_then(|state| state.next)
            .map_or(1, |next| next.get());
        assert!(next <= synced, "{next} of {synced}");
    }
    until("values of complete segments are saved", || {
        saved(root.path()).is_some_and(|state| !state.values.is_empty())
    })
    .await;
    let (_killed, after) = killed(root.path());
    assert_eq!(resumes_after(&after, "main"), 20);
}

#[tokio::test]
async fn value_of_a_removed_source_is_dropped() {
    let root = stopped().await;
    let paths: ResumePaths = resume_paths()
        .into_iter()
        .filter(|(source, _)| source == "main")
        .collect();
    let spool = Spool::open_resuming(&SpoolConfig::Disk(config()), root.path(), &paths).unwrap();
    assert_eq!((resumes_after(&spool, "main"), quiet(&spool)), (12, None));
    soon(spool.finish()).await.unwrap();
    assert_eq!(saved(root.path()).unwrap().values.len(), 1);
    // Without a source that can resume, the file is not changed.
    let spool = Spool::open(&SpoolConfig::Disk(config()), root.path()).unwrap();
    soon(spool.append(batch(13, 1, 10))).await.unwrap();
    soon(spool.finish()).await.unwrap();
    assert_eq!(saved(root.path()).unwrap().next.map(|next| next.get()), Some(13));
    assert_eq!(resumes_after(&open(root.path(), &config()), "main"), 13);
}

#[tokio::test]
async fn too_long_value_keeps_the_earlier_one() {
    let root = tempfile::tempdir().unwrap();
    let spool = open(root.path(), &config());
    let longest = format!("\"{}\"", "x".repeat(MAX_RESUME_VALUE - 2));
    advance(&spool, "quiet", &longest).await;
    advance(
        &spool,
        "quiet",
        &format!("\"{}\"", "x".repeat(MAX_RESUME_VALUE - 1)),
    )
    .await;
    advance(&spool, "quiet", "{}").await;
    assert_eq!(quiet(&spool).as_deref(), Some(&*longest));
    soon(spool.finish()).await.unwrap();
    drop(spool);
    assert_eq!(quiet(&open(root.path(), &config())).as_deref(), Some(&*longest));
}

#[tokio::test]
async fn closed_log_sets_no_value() {
    let root = tempfile::tempdir().unwrap();
    let memory = Spool::open(&SpoolConfig::Memory(MemoryConfig::default()), root.path()).unwrap();
    let disk = open(root.path(), &config());
    for spool in [memory, disk] {
        advance(&spool, "quiet", "1").await;
        soon(spool.append_resuming(batch(1, 2, 10), resume_value(2)))
            .await
            .unwrap();
        assert_eq!(
            (resumes_after(&spool, "main"), quiet(&spool).as_deref()),
            (2, Some("1"))
        );
        spool.close();
        let late = soon(spool.append_resuming(Batch::default(), value("quiet", "2"))).await;
        assert!(late.is_err());
        assert_eq!(quiet(&spool).as_deref(), Some("1"));
    }
}

#[tokio::test]
async fn log_is_searched_only_once_for_a_missing_resume_value() {
    let root = tempfile::tempdir().unwrap();
    let spool = Spool::open(&SpoolConfig::Disk(config()), root.path()).unwrap();
    soon(spool.append(batch(1, 1, 10))).await.unwrap();
    soon(spool.finish()).await.unwrap();
    assert!(saved(root.path()).is_none(), "no source can resume");
    let paths = ResumePaths::from([("quiet".to_owned(), resume_paths()["quiet"].clone())]);
    let spool = Spool::open_resuming(&SpoolConfig::Disk(config()), root.path(), &paths).unwrap();
    soon(spool.finish()).await.unwrap();
    let state = saved(root.path()).unwrap();
    assert_eq!(
        (state.values.len(), state.next.map(|next| next.get())),
        (0, Some(2))
    );
}
