//! Retention: the log on disk deletes the events that every reader has settled, and retains all others.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic as the test does")]

mod support;

use std::time::Duration;

use neurobridge_core::{
    event::Sequence,
    reader::{Cursor, Reader},
};
use neurobridge_spool::{DiskConfig, Start, inspect};
use support::*;

fn sequence(number: u64) -> Sequence {
    Sequence::new(number).unwrap()
}

#[tokio::test]
async fn only_segments_settled_by_all_readers_are_deleted() {
    let root = tempfile::tempdir().unwrap();
    let spool = open(root.path(), &config());
    let (mut quick, slow) = (spool.reader("quick"), spool.reader("slow"));
    for _ in 0..40 {
        append(&spool, 3, 300).await;
    }
    let all = segments(root.path()).len();
    assert!(all > 8, "{all}");
    commit(&mut quick, 121);
    // The cursor is saved, and no event is deleted that the other reader has not settled.
    until("the cursor is saved", || {
        let listing = inspect::list(&root.path().join("spool")).unwrap();
        listing.cursors.iter().any(|state| {
            state
                .cursor
                .as_ref()
                .is_some_and(|cursor| cursor.next.get() == 121)
        })
    })
    .await;
    assert_eq!(segments(root.path()).len(), all);
    drop(slow);
    let mut slow = spool.reader("slow");
    commit(&mut slow, 61);
    until("half of the log is deleted", || segments(root.path()).len() < all).await;
    assert_eq!(
        read_all(&spool, &mut slow).await.events.first(),
        Some(&1),
        "the event is no longer in memory"
    );
    soon(spool.finish()).await.unwrap();
    drop((spool, quick, slow));
    let spool = open(root.path(), &config());
    let mut slow = spool.reader("slow");
    let seen = read_all(&spool, &mut slow).await;
    assert_eq!(seen.events, (61..=120).collect::<Vec<_>>());
}

#[tokio::test]
async fn settled_events_are_retained() {
    // Confirms the clock: with an unconfirmed clock, the log counts the age of an event from the start of the process.
    neurobridge_core::clock::compare_with_server(jiff::SignedDuration::ZERO);
    let root = tempfile::tempdir().unwrap();
    let config = DiskConfig {
        // An event is received each second.
        retain: Duration::from_secs(60),
        ..config()
    };
    let spool = open(root.path(), &config);
    let mut reader = spool.reader("sink");
    for _ in 0..40 {
        append(&spool, 3, 300).await;
    }
    commit(&mut reader, 121);
    until("the old half is deleted", || spool.status().oldest_sequence > 40).await;
    assert!(spool.status().oldest_sequence <= 60);
    let newest: Vec<u64> = spool
        .recent(50)
        .flat_map(|batch| {
            batch
                .unwrap()
                .iter()
                .map(|event| event.unwrap().sequence.get())
                .collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(newest, (71..=120).collect::<Vec<_>>());
}

#[tokio::test]
async fn released_reader_retains_nothing() {
    let root = tempfile::tempdir().unwrap();
    let spool = open(root.path(), &config());
    drop((spool.reader("gone"), spool.reader("stays")));
    for _ in 0..40 {
        append(&spool, 3, 300).await;
    }
    soon(spool.finish()).await.unwrap();
    let spool = open(root.path(), &config());
    let mut stays = spool.reader("stays");
    commit(&mut stays, 121);
    assert_eq!(spool.release_unopened_readers(), ["gone"]);
    until("the events of the released reader are deleted", || {
        segments(root.path()).len() <= 1
    })
    .await;
    let mut gone = spool.reader("gone");
    let seen = read_all(&spool, &mut gone).await;
    assert!(seen.dropped.len() > 100 && seen.damaged.is_empty(), "{seen:?}");
    let mut oldest = spool.reader_from("new", Start::Oldest);
    append(&spool, 1, 10).await;
    assert_eq!(
        soon(read_all(&spool, &mut oldest)).await.events.last(),
        Some(&121)
    );
}

#[tokio::test]
async fn reader_of_a_removed_sink_retains_nothing() {
    let root = tempfile::tempdir().unwrap();
    let spool = open(root.path(), &config());
    let (removed, mut stays) = (spool.reader("removed"), spool.reader("stays"));
    for _ in 0..40 {
        append(&spool, 3, 300).await;
    }
    commit(&mut stays, 121);
    drop(removed);
    assert_eq!(spool.status().oldest_sequence, 1);
    spool.release("removed");
    until("the events of the removed sink are deleted", || {
        segments(root.path()).len() <= 1
    })
    .await;
    // A sink that is added again continues at its cursor.
    assert_eq!(spool.reader("removed").cursor().next.get(), 1);
    soon(spool.finish()).await.unwrap();
}

#[tokio::test]
async fn observer_reader_retains_no_event_and_stores_no_cursor() {
    let root = tempfile::tempdir().unwrap();
    let spool = open(root.path(), &config());
    let mut sink = spool.reader("sink");
    append(&spool, 5, 100).await;
    let mut observer = spool.observer_reader();
    append(&spool, 5, 100).await;
    assert_eq!(
        read_until(&mut observer, 5).await.events,
        (6..=10).collect::<Vec<_>>()
    );
    // Appends more events than the log keeps in memory while the observer reader reads none. The log deletes the segments that
    // the sink has settled nevertheless.
    for _ in 0..24 {
        append(&spool, 10, 100_000).await;
    }
    let seen = read_until(&mut sink, 250).await;
    assert_eq!(seen.events.len(), 250);
    sink.commit(&Cursor {
        next: sequence(251),
        ..sink.cursor().clone()
    });
    until("old segments are deleted", || {
        spool.status().oldest_sequence > 200
    })
    .await;
    // Deleted events may still be in memory; the others are reported as dropped. Each event is in one of the two lists.
    let seen = read_until(&mut observer, 240).await;
    assert_eq!(seen.all(), 240, "{seen:?}");
    assert!(
        seen.dropped.contains(&100) && seen.events.contains(&250),
        "{seen:?}"
    );
    soon(spool.finish()).await.unwrap();
    let cursors = inspect::list(&root.path().join("spool")).unwrap().cursors;
    assert_eq!(
        cursors
            .iter()
            .map(|cursor| cursor.reader.as_str())
            .collect::<Vec<_>>(),
        ["sink"]
    );
}
