//! Tests of differences between connections, and of the record of recognised entries, over real sockets.

#![allow(clippy::unwrap_used, reason = "a helper of a test may fail the test")]

mod support;

use std::{num::NonZeroU64, path::Path, time::Duration};

use jiff::Timestamp;
use neurobridge_simulator::{BindError, EntryOptions, Options, Simulator, SpreadOptions};
use serde_json::Value;
use tokio::time::Instant;

use self::support::{start, within};

#[tokio::test]
async fn each_connection_has_its_own_order() {
    let simulator = start(Options {
        rate: Some(0.0),
        count: Some(803),
        keep_frames: 10_000,
        spread: SpreadOptions {
            shuffle: NonZeroU64::new(8),
            ..SpreadOptions::default()
        },
        ..Options::default()
    })
    .await;
    let (mut first, mut second) = (simulator.authenticated().await, simulator.authenticated().await);
    simulator.handle.set_rate(Some(20_000.0)).unwrap();
    let (one, two) = tokio::join!(first.ids(803), second.ids(803));
    assert_ne!(one, two);
    for ids in [one, two] {
        let distance = (1..).zip(&ids).map(|(at, id): (u64, _)| at.abs_diff(*id));
        assert!((1..8).contains(&distance.max().unwrap()));
        let mut sorted = ids;
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(1..=803));
    }
    within(simulator.handle.done()).await;
    // Each entry was recorded once.
    assert_eq!(simulator.frames().len(), 803);
}

#[tokio::test]
async fn each_connection_has_its_own_delay() {
    let simulator = start(Options {
        rate: Some(0.0),
        count: Some(1),
        spread: SpreadOptions {
            delay: Duration::from_secs(2),
            ..SpreadOptions::default()
        },
        ..Options::default()
    })
    .await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(simulator.authenticated().await);
    }
    simulator.handle.set_rate(Some(1_000.0)).unwrap();
    let start = Instant::now();
    let mut delays = Vec::new();
    for mut client in clients {
        delays.push(tokio::spawn(async move {
            assert_eq!(client.id().await, 1);
            start.elapsed()
        }));
    }
    let mut found = Vec::new();
    for delay in delays {
        found.push(within(delay).await.unwrap());
    }
    let (least, most) = (found.iter().min().unwrap(), found.iter().max().unwrap());
    assert!(*most - *least > Duration::from_millis(200), "{found:?}");
}

#[tokio::test]
async fn recognised_record_has_entries_created_without_a_client() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("recognised.jsonl");
    let simulator = start(Options {
        rate: Some(1_000.0),
        entries: EntryOptions {
            holes: NonZeroU64::new(10),
            ..EntryOptions::default()
        },
        recognised: Some(path.clone()),
        ..Options::default()
    })
    .await;
    let before = Timestamp::now();
    let mut client = simulator.authenticated().await;
    assert_eq!(client.ids(11).await.last(), Some(&12));
    drop(client);
    simulator.handle.wait_until(|counters| counters.open == 0).await;
    let sent = simulator.handle.counters().sent;
    within(async {
        while simulator.handle.newest_id() < sent + 500 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    simulator.stop().await.unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let expected = (1_u64..).filter(|id| id % 11 != 0);
    assert!(
        lines
            .iter()
            .map(|line| line["id"].as_u64().unwrap())
            .eq(expected.take(lines.len()))
    );
    assert!(lines.len() as u64 > sent + 400, "{}", lines.len());
    let times: Vec<Timestamp> = lines
        .iter()
        .map(|line| line["at"].as_str().unwrap().parse().unwrap())
        .collect();
    assert!(times.is_sorted() && times[0] >= before && *times.last().unwrap() <= Timestamp::now());
}

#[tokio::test]
async fn unwritable_record_of_recognised_entries_is_reported() {
    let bound = Simulator::bind(Options {
        recognised: Some(Path::new("/nowhere/recognised").to_owned()),
        ..Options::default()
    })
    .await;
    assert!(matches!(bound, Err(BindError::Record { path, .. }) if path == Path::new("/nowhere/recognised")));
}
