//! Replays ranges of a log, also while another process has the log open. A replay reports missing events.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic as the test does")]

mod support;

use std::fs;

use neurobridge_core::{event::Sequence, reader::Reader};
use neurobridge_spool::{OpenError, Position, ReplayReader, inspect};
use support::*;

fn sequence(number: u64) -> Sequence {
    Sequence::new(number).unwrap()
}

async fn replayed(root: &std::path::Path, first: u64, end: u64) -> Seen {
    let mut reader = ReplayReader::start(root.join("spool"), sequence(first), sequence(end)).unwrap();
    assert_eq!(reader.cursor().next, sequence(first));
    read_to_end(&mut reader).await
}

async fn read_to_end(reader: &mut ReplayReader) -> Seen {
    let mut seen = Seen::default();
    while seen.add(&soon(reader.next()).await.unwrap()) {}
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_repeats_a_range_and_moves_no_cursor() {
    let root = tempfile::tempdir().unwrap();
    let spool = open(root.path(), &config());
    let reader = spool.reader("sink");
    for _ in 0..20 {
        append(&spool, 3, 600).await;
    }
    // The ranges span several segments, and begin and end within a batch.
    for (first, end) in [(1, 61), (2, 60), (30, 31)] {
        assert_eq!(
            replayed(root.path(), first, end).await.events,
            (first..end).collect::<Vec<_>>()
        );
    }
    // A rewind discards the batches that were read ahead.
    let mut again = ReplayReader::start(root.path().join("spool"), sequence(1), sequence(61)).unwrap();
    soon(again.next()).await.unwrap();
    again.rewind(sequence(50));
    assert_eq!(read_to_end(&mut again).await.events, (50..61).collect::<Vec<_>>());
    assert_eq!(reader.cursor().next, sequence(1));
    assert!(matches!(
        inspect::lock(&root.path().join("spool")),
        Err(OpenError::Locked { .. })
    ));
    soon(spool.finish()).await.unwrap();
    inspect::lock(&root.path().join("spool")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_and_damaged_events_are_reported() {
    let root = tempfile::tempdir().unwrap();
    let spool = open(root.path(), &config());
    drop(spool.reader("sink"));
    for _ in 0..20 {
        append(&spool, 3, 600).await;
    }
    soon(spool.finish()).await.unwrap();
    let folder = root.path().join("spool");
    let segments = inspect::list(&folder).unwrap().segments;
    std::fs::remove_file(&segments[0].path).unwrap();
    let (second, third) = (segments[1].first.get(), segments[2].first.get());
    let seen = replayed(root.path(), 1, 61).await;
    assert_eq!(seen.dropped, (1..second).collect::<Vec<_>>());
    assert_eq!(seen.events, (second..61).collect::<Vec<_>>());

    let mut bytes = std::fs::read(&segments[1].path).unwrap();
    bytes[200] ^= 1;
    std::fs::write(&segments[1].path, bytes).unwrap();
    let seen = replayed(root.path(), second, third).await;
    assert!(seen.damaged.contains(&second), "{seen:?}");
    assert_eq!(seen.all(), third - second);
    // The range ends after the last stored event. Events that are missing at the end count as damaged, because a range contains
    // only events that were durable once.
    let seen = replayed(root.path(), 60, 63).await;
    assert_eq!((seen.events, seen.damaged), (vec![60], vec![61, 62]));
}

#[tokio::test]
async fn position_is_selected_by_time_or_sequence() {
    let root = tempfile::tempdir().unwrap();
    let spool = open(root.path(), &config());
    drop(spool.reader("sink"));
    // Event n is received at second n.
    for _ in 0..20 {
        append(&spool, 3, 600).await;
    }
    let folder = root.path().join("spool");
    let position = |text: &str| text.parse::<Position>().unwrap();
    for (text, first, end) in [
        ("17", 17, 18),
        ("1970-01-01T00:00:17Z", 17, 18),
        ("1970-01-01T00:00:17.5Z", 18, 18),
        ("1969-01-01T00:00:00Z", 1, 1),
        ("2069-01-01T00:00:00Z", 61, 61),
        ("oldest", 1, 2),
        ("5m", 61, 61),
        ("90000d", 1, 1),
    ] {
        assert_eq!(
            position(text).first_from(&folder).unwrap(),
            sequence(first),
            "{text}"
        );
        assert_eq!(position(text).end(&folder).unwrap(), sequence(end), "{text}");
    }
    for wrong in ["", "0", "-1", "yesterday", "2026-01-31", "5 apples"] {
        assert!(wrong.parse::<Position>().is_err(), "{wrong}");
    }
    let segments = inspect::list(&folder).unwrap().segments;
    fs::remove_file(&segments[0].path).unwrap();
    assert_eq!(position("oldest").first_from(&folder).unwrap(), segments[1].first);
}

#[tokio::test]
async fn damaged_epochs_are_reported_before_delivery() {
    let root = tempfile::tempdir().unwrap();
    let spool = open(root.path(), &config());
    append(&spool, 3, 300).await;
    soon(spool.finish()).await.unwrap();
    let folder = root.path().join("spool");
    assert!(ReplayReader::start(folder.clone(), sequence(1), sequence(4)).is_ok());
    fs::write(folder.join("epochs"), "nonsense").unwrap();
    let error = ReplayReader::start(folder.clone(), sequence(1), sequence(4)).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot read {}", folder.join("epochs").display())
    );
    assert!(
        error.source.to_string().contains("a bridge replaces the file"),
        "{}",
        error.source
    );
}
