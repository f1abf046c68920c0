//! Flips every bit of a small log, and truncates its files at every byte. Intact events must be delivered, and damaged events
//! reported.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic as the test does")]

mod support;

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use jiff::SignedDuration;
use neurobridge_core::{clock, event::Sequence, reader::Reader};
use neurobridge_spool::inspect;
use support::*;
use tempfile::TempDir;

/// The number of events in the log. The second half of them is in a second segment.
const EVENTS: u64 = 6;

/// Writes a log of two segments and stops it in an orderly way.
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

/// Creates a temporary folder, in memory where possible: the tests open logs thousands of times, and do not test the disk.
fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// Opens the log and returns the sequences of the events that it delivers, and of those that it reports as dropped or damaged.
/// [`Seen`] checks the text of each delivered event.
async fn read_log(root: &Path) -> Seen {
    let spool = open(root, &config());
    let mut reader = spool.reader("sink");
    assert_eq!(reader.cursor().next.get(), 1);
    let mut seen = read_all(&spool, &mut reader).await;
    // A damaged log stores further events.
    let next = spool.status().durable_sequence + 1;
    append(&spool, 1, 10).await;
    let more = read_until(&mut reader, 1).await;
    assert_eq!(more.events, [next]);
    seen.events.retain(|sequence| *sequence <= EVENTS);
    soon(spool.finish()).await.unwrap();
    seen
}

/// Returns the offset at which the header of a segment ends, and that at which each of the records ends.
fn record_ends(bytes: &[u8]) -> Vec<usize> {
    let mut ends = vec![64];
    while let Some(length) = bytes.get(ends[ends.len() - 1]..).filter(|rest| !rest.is_empty()) {
        let length = neurobridge_core::record::verify(length).unwrap();
        ends.push(ends[ends.len() - 1] + length);
    }
    ends
}

#[tokio::test]
async fn flipped_bit_loses_at_most_one_event() {
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
            let seen = read_log(root.path()).await;
            // The number of the record that contains the bit; 0 for the header of the segment.
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
async fn damage_before_the_first_read_event_is_not_reported() {
    let log = small_log().await;
    let path = &segments(log.path())[0];
    let mut bytes = fs::read(path).unwrap();
    // Not the last event of the segment: reading begins in the segment of the first event.
    let hit = EVENTS / 2 - 1;
    let end = record_ends(&bytes)[hit as usize];
    bytes[end - 1] ^= 1;
    fs::write(path, bytes).unwrap();
    let damaged = |first: u64| -> Vec<u64> {
        let entries =
            inspect::from_sequence(&log.path().join("spool"), Sequence::new(first).unwrap()).unwrap();
        let damaged = entries.filter_map(|entry| match entry.unwrap() {
            inspect::Entry::Damaged(finding) => Some(finding.from.get()),
            inspect::Entry::Events(_) => None,
        });
        damaged.collect()
    };
    assert_eq!(damaged(hit), [hit]);
    assert_eq!(damaged(hit + 1), [0; 0]);
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
            let seen = read_log(root.path()).await;
            let left = ends.iter().skip(1).filter(|end| **end <= length).count() as u64;
            let before = index as u64 * EVENTS / 2;
            let lost = before + left + 1..=before + EVENTS / 2;
            let whole: Vec<u64> = (1..=EVENTS).filter(|sequence| !lost.contains(sequence)).collect();
            assert_eq!(seen.events, whole, "segment {index} cut at {length}");
            assert_eq!(report.events, whole.len() as u64);
            assert!(!report.findings.is_empty(), "segment {index} cut at {length}");
            // Also events missing at the end are damaged ones, because the log recorded its end at the orderly stop.
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
async fn flipped_bit_outside_the_segments_loses_no_event() {
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
        // A large file has two slots, with many unused bytes after each. Of the bits of zero bytes, only some are flipped.
        for bit in
            (0..bytes.len() * 8).filter(|bit| bytes.len() < 1000 || bytes[bit / 8] != 0 || bit % 997 == 0)
        {
            let root = scratch();
            copy(log.path(), root.path());
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            fs::write(root.path().join("spool").join(name), bad).unwrap();
            let seen = read_log(root.path()).await;
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
async fn truncated_cursor_file_delivers_all_events_again() {
    let log = small_log().await;
    let path = log.path().join("spool/cursors/sink.cursor");
    let bytes = fs::read(&path).unwrap();
    // Lengths within the content of each slot and within the unused bytes after the content.
    let lengths = (0..200).chain((8192..8400).step_by(3)).chain([bytes.len() - 1]);
    for length in lengths {
        let root = scratch();
        copy(log.path(), root.path());
        fs::write(root.path().join("spool/cursors/sink.cursor"), &bytes[..length]).unwrap();
        let seen = read_log(root.path()).await;
        assert_eq!(seen.events, (1..=EVENTS).collect::<Vec<_>>(), "cut at {length}");
    }
}

/// The log copies damaged bytes to a folder, for an investigation. They contain personal data, so they are removed.
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
    // No server has confirmed the clock of this computer yet.
    append_now(&spool).await;
    assert!(old.exists());
    clock::compare_with_server(SignedDuration::ZERO);
    until("the old copy is removed", || !old.exists()).await;
    assert!(recent.exists());
    soon(spool.finish()).await.unwrap();
}
