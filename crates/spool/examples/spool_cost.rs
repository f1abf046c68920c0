//! Measures the cost of the log on disk compared with the log in memory, and how fast a backlog is read.
//!
//! `cargo run --release -p neurobridge-spool --example spool_cost -- [folder] [events] [backlog]`: a folder on the disk in
//! question (the current one by default), events for each measurement (1,000,000), and a backlog to read (2,000,000).
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failed measurement panics"
)]

use std::{path::Path, time::Instant};

use neurobridge_core::{
    event::Event,
    reader::{Read, Reader},
    record::Batch,
    testing,
    units::ByteSize,
};
use neurobridge_spool::{DiskConfig, MemoryConfig, Spool, SpoolConfig, SpoolReader, SyncPolicy};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike,
};

/// The length of a frame in bytes, as on the feed without pictures.
const FRAME: usize = 600;

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().unwrap_or_else(|| ".".to_owned());
    let mut number = |default: u64| arguments.next().map_or(default, |text| text.parse().unwrap());
    let (events, backlog) = (number(1_000_000), number(2_000_000));

    for batch in [64, 512] {
        let folder = tempfile::tempdir_in(&folder).unwrap();
        measure("memory", &memory(), folder.path(), events, batch).await;
        for sync in [SyncPolicy::Always, SyncPolicy::Never] {
            let folder = tempfile::tempdir_in(folder.path()).unwrap();
            measure(
                &format!("disk, {sync}"),
                &disk(sync),
                folder.path(),
                events,
                batch,
            )
            .await;
        }
    }
    let folder = tempfile::tempdir_in(&folder).unwrap();
    measure_backlog(folder.path(), backlog).await;
}

fn memory() -> SpoolConfig {
    SpoolConfig::Memory(MemoryConfig {
        max_size: ByteSize::from_mib(256),
        ..MemoryConfig::default()
    })
}

fn disk(sync: SyncPolicy) -> SpoolConfig {
    SpoolConfig::Disk(DiskConfig {
        max_size: ByteSize::from_mib(100 * 1024),
        retain: std::time::Duration::ZERO,
        sync,
        ..DiskConfig::default()
    })
}

/// Appends events while a reader reads and commits them, and prints the cost.
async fn measure(name: &str, config: &SpoolConfig, folder: &Path, events: u64, batch: u64) {
    let spool = Spool::open(config, folder).unwrap();
    let mut reader = spool.reader("sink");
    let (cpu, started) = (cpu_seconds(), Instant::now());
    let reading = tokio::spawn(async move {
        read_until(&mut reader, events).await;
        reader
    });
    let mut stored = 0;
    while stored < events {
        spool.append(make(batch)).await.unwrap();
        stored += batch;
    }
    let reader = reading.await.unwrap();
    let (cpu, elapsed) = (cpu_seconds() - cpu, started.elapsed().as_secs_f64());
    let sync = spool.sync_duration();
    println!(
        "{name:14} batches of {batch:3}: {:.2} CPU-s a million, {:.0} events a second; {} syncs, median {:?} s, p99 {:?} s",
        cpu * 1e6 / stored as f64,
        stored as f64 / elapsed,
        sync.count(),
        sync.quantile(0.5).unwrap_or_default(),
        sync.quantile(0.99).unwrap_or_default(),
    );
    spool.finish().await.unwrap();
    drop(reader);
}

/// Writes a backlog, opens the log again, and measures how fast the backlog is read.
async fn measure_backlog(folder: &Path, events: u64) {
    let config = disk(SyncPolicy::Never);
    let spool = Spool::open(&config, folder).unwrap();
    drop(spool.reader("sink"));
    let mut stored = 0;
    while stored < events {
        spool.append(make(512)).await.unwrap();
        stored += 512;
    }
    spool.finish().await.unwrap();
    drop(spool);
    println!(
        "backlog of {stored}: resident {} MiB after writing it",
        resident_mib()
    );

    let started = Instant::now();
    let spool = Spool::open(&config, folder).unwrap();
    println!("opened in {:.3} s", started.elapsed().as_secs_f64());
    let mut reader = spool.reader("sink");
    let (cpu, started) = (cpu_seconds(), Instant::now());
    read_until(&mut reader, stored).await;
    println!(
        "read {:.0} events a second, {:.2} CPU-s a million, resident {} MiB",
        stored as f64 / started.elapsed().as_secs_f64(),
        (cpu_seconds() - cpu) * 1e6 / stored as f64,
        resident_mib()
    );
}

async fn read_until(reader: &mut SpoolReader, events: u64) {
    let mut seen = 0;
    while seen < events {
        let Read::Events(batch) = reader.next().await.unwrap() else {
            panic!("events are missing")
        };
        seen += batch.events();
        let mut cursor = reader.cursor().clone();
        cursor.next = batch.end();
        cursor.counts.delivered = seen;
        reader.commit(&cursor);
    }
}

fn make(events: u64) -> Batch {
    let frame = format!(r#"{{"id":1,"data":{{"fill":"{}"}}}}"#, "x".repeat(FRAME - 28));
    let mut batch = Batch::with_capacity(events as usize * (FRAME + 128));
    let received_at = jiff::Timestamp::now();
    for _ in 0..events {
        batch.push(&Event {
            received_at,
            ..testing::event(&frame)
        });
    }
    batch
}

fn cpu_seconds() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64 / 1e6
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() >> 10
}
