//! Flips every bit of a small log, and truncates its files at every byte: intact events are delivered, damaged ones reported.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic as the test does")]

mod support;

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use jiff::SignedDuration;
use neurobridge_core::{clock, reader::Reader};
use neurobridge_spool::inspect;
use support::*;
use tempfile::TempDir;

/// Events in the log, of which the second half is in a second segment.
const EVENTS: u64 = 6;

/// A log of two segments that ended in order.
async fn small_log() -> TempDir {
    let root = scratch();
    for _ in 0..2 {
        let spool = open(root.path(), &config());
        drop(spool.reader("sink"));
        for _ in 0..EVENTS / 2 {
            append(&spool, 1, 10).await;
        }
        soon(spool.finish()).await.unwrap();
    }
    assert_eq!(segments(root.path()).len(), 2);
    root
}

/// In memory where that can be had: the logs are opened thousands of times, and their disk is not what is tested.
fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// What became of the log's events. That each whole one has its text, [`Seen`] has checked.
async fn outcome(root: &Path) -> Seen {
    let spool = open(root, &config());
    let mut reader = spool.reader("sink");
    assert_eq!(reader.cursor().next.get(), 1);
    let mut seen = read_all(&spool, &mut reader).await;
    // The log goes on, whatever was found.
    let next = spool.status().durable_sequence + 1;
    append(&spool, 1, 10).await;
    let more = read_until(&mut reader, 1).await;
    assert_eq!(more.events, [next]);
    seen.events.retain(|sequence| *sequence <= EVENTS);
    soon(spool.finish()).await.unwrap();
    seen
}

/// Where each record of a segment ends.
fn record_ends(bytes: &[u8]) -> Vec<usize> {
    let mut ends = vec![64];
    while let Some(length) = bytes.get(ends[ends.len() - 1]..).filter(|rest| !rest.is_empty()) {
        let length = neurobridge_core::record::verify(length).unwrap();
        ends.push(ends[ends.len() - 1] + length);
    }
    ends
}

#[tokio::test]
async fn every_flipped_bit_costs_one_event_at_most() {
    let log = small_log().await;
    for (index, path) in segments(log.path()).iter().enumerate() {
        let bytes = fs::read(path).unwrap();
        let ends = record_ends(&bytes);
        assert_eq!(ends.len() as u64, 1 + EVENTS / 2);
        for bit in 0..bytes.len() * 8 {
            let root = scratch();
            copy(log.path(), root.path());
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            fs::write(&segments(root.path())[index], bad).unwrap();
            let report = inspect::verify(&root.path().join("spool")).unwrap();
            let seen = outcome(root.path()).await;
            // The record in which the bit is; none for the header.
            let hit = ends.iter().filter(|end| **end <= bit / 8).count() as u64;
            let lost = (hit > 0).then(|| index as u64 * EVENTS / 2 + hit);
            let whole: Vec<u64> = (1..=EVENTS).filter(|sequence| Some(*sequence) != lost).collect();
            assert_eq!(seen.events, whole, "bit {bit} of segment {index}");
            let damaged: Vec<u64> = lost.into_iter().collect();
            assert_eq!(seen.damaged, damaged, "bit {bit} of segment {index}");
            assert!(seen.dropped.is_empty());
            assert_eq!(report.events, whole.len() as u64);
            assert_eq!(report.findings.len(), 1, "bit {bit}: {report:?}");
        }
    }
}

#[tokio::test]
async fn every_cut_loses_only_later_records() {
    let log = small_log().await;
    for (index, path) in segments(log.path()).iter().enumerate() {
        let bytes = fs::read(path).unwrap();
        let ends = record_ends(&bytes);
        for length in 0..bytes.len() {
            let root = scratch();
            copy(log.path(), root.path());
            fs::write(&segments(root.path())[index], &bytes[..length]).unwrap();
            let report = inspect::verify(&root.path().join("spool")).unwrap();
            let seen = outcome(root.path()).await;
            let left = ends.iter().skip(1).filter(|end| **end <= length).count() as u64;
            let before = index as u64 * EVENTS / 2;
            let lost = before + left + 1..=before + EVENTS / 2;
            let whole: Vec<u64> = (1..=EVENTS).filter(|sequence| !lost.contains(sequence)).collect();
            assert_eq!(seen.events, whole, "segment {index} cut at {length}");
            assert_eq!(report.events, whole.len() as u64);
            assert!(!report.findings.is_empty(), "segment {index} cut at {length}");
            // Also at the end: the log had stopped in order.
            assert_eq!(
                seen.damaged,
                lost.collect::<Vec<_>>(),
                "segment {index} cut at {length}"
            );
        }
    }
}

/// Damage to the other files loses no event and moves no cursor forward.
#[tokio::test]
async fn no_flipped_bit_of_another_file_costs_an_event() {
    let log = small_log().await;
    for name in [
        "spool.id",
        "cursors/sink.cursor",
        "readers",
        "stopped",
        "epochs",
        "resume",
    ] {
        let bytes = fs::read(log.path().join("spool").join(name)).unwrap();
        // Bytes between the slots are of no meaning and many.
        for bit in
            (0..bytes.len() * 8).filter(|bit| bytes.len() < 1000 || bytes[bit / 8] != 0 || bit % 997 == 0)
        {
            let root = scratch();
            copy(log.path(), root.path());
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            fs::write(root.path().join("spool").join(name), bad).unwrap();
            let seen = outcome(root.path()).await;
            assert_eq!(
                seen.events,
                (1..=EVENTS).collect::<Vec<_>>(),
                "bit {bit} of {name}"
            );
            assert_eq!((seen.damaged, seen.dropped), (Vec::new(), Vec::new()));
        }
    }
}

/// A lost cursor is not treated as a new sink: all events of the log are delivered, and the loss is reported.
#[tokio::test]
async fn every_cut_of_a_cursor_file_delivers_every_event() {
    let log = small_log().await;
    let path = log.path().join("spool/cursors/sink.cursor");
    let bytes = fs::read(&path).unwrap();
    // Each slot's content, and some of what is empty after it.
    let lengths = (0..200).chain((8192..8400).step_by(3)).chain([bytes.len() - 1]);
    for length in lengths {
        let root = scratch();
        copy(log.path(), root.path());
        fs::write(root.path().join("spool/cursors/sink.cursor"), &bytes[..length]).unwrap();
        let seen = outcome(root.path()).await;
        assert_eq!(seen.events, (1..=EVENTS).collect::<Vec<_>>(), "cut at {length}");
    }
}

/// Copies of damaged bytes are for people to look at, and hold personal data.
#[tokio::test]
async fn copies_of_damaged_bytes_are_removed_after_a_week() {
    let root = scratch();
    let spool = open(root.path(), &config());
    drop(spool.reader("sink"));
    append_now(&spool).await;
    soon(spool.finish()).await.unwrap();
    let folder = root.path().join("spool/damaged");
    fs::create_dir(&folder).unwrap();
    let copy = |name: &str, days: u64| {
        let path = folder.join(name);
        fs::write(&path, "bytes").unwrap();
        let age = Duration::from_secs(days * 24 * 60 * 60);
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
        path
    };
    let (old, recent) = (copy("1-64.bytes", 8), copy("4-64.bytes", 6));
    let spool = open(root.path(), &config());
    // Nothing confirms the clock yet.
    append_now(&spool).await;
    assert!(old.exists());
    clock::compare_with_server(SignedDuration::ZERO);
    until("the old copy is removed", || !old.exists()).await;
    assert!(recent.exists());
    soon(spool.finish()).await.unwrap();
}
