//! A bridge with a disk spool that delivers exactly once, and checks of the events that a consumer finds.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use neurobridge_tests::{
    audit, bridge::Bridge, kafka::records::read_topic, platform::Platform, platform::Sent,
};
use nix::sys::signal::Signal;
use serde_json::Value;

/// The time limit of all waits, far longer than usual, so that a busy machine fails no test.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);

/// Returns the configuration of the bridge; `more` is added to the sink's table.
pub(crate) fn config(platform: &Platform, bootstrap: &str, more: &str) -> String {
    format!(
        r#"
        drain_timeout = "60s"

        [sources.main]
        url = "{}"
        token = "t"

        [spool]
        type = "disk"

        [sinks.kafka]
        type = "kafka"
        bootstrap_servers = "{bootstrap}"
        topic = "entries"
        create = true
        partitions = 3
        replicas = 1
        delivery = "exactly_once"
        {more}
        "#,
        platform.url()
    )
}

/// The values of the sink's final ledger.
#[derive(Debug)]
pub(crate) struct Counts {
    pub(crate) stored: u64,
    pub(crate) delivered: u64,
}

/// Drains the bridge and reads its final ledger.
pub(crate) fn finish(bridge: Bridge) -> Counts {
    let (status, log) = bridge.stop(Signal::SIGTERM, LIMIT).unwrap();
    assert!(status.success(), "{status}: {log}");
    // The format is "sink kafka: 12 stored = 12 delivered + 0 filtered + …".
    let (_, ledger) = log.rsplit_once("sink kafka: ").unwrap();
    let number = |word: &str| {
        let (before, _) = ledger.split_once(word).unwrap();
        before
            .rsplit(|character: char| !character.is_ascii_digit())
            .find(|digits| !digits.is_empty())
            .and_then(|digits| digits.parse().ok())
            .unwrap()
    };
    Counts {
        stored: number(" stored"),
        delivered: number(" delivered"),
    }
}

/// Checks that a consumer with `read_committed` finds each of the sequences 1 to `count` once, those of a person in order, and
/// each event unmodified.
pub(crate) fn audit(bootstrap: &str, topic: &str, sent: &[Sent], count: u64) {
    let sent: HashMap<u64, &str> = sent.iter().map(|event| (event.id, event.data.as_str())).collect();
    let records = read_topic(bootstrap, topic, LIMIT).unwrap();
    let mut sequences = Vec::new();
    for lane in audit::kafka(&records, "main").unwrap() {
        let mut last = HashMap::new();
        for event in lane {
            assert_eq!(sent.get(&event.id), Some(&event.data.as_str()), "{}", event.id);
            let sequence: u64 = event.sequence.rsplit_once(':').unwrap().1.parse().unwrap();
            let entry: Value = serde_json::from_str(&event.data).unwrap();
            let before = last.insert(entry["pid"].to_string(), sequence).unwrap_or(0);
            assert!(
                before < sequence || entry["pid"].is_null(),
                "{sequence} came after {before} of the same person"
            );
            sequences.push(sequence);
        }
    }
    sequences.sort_unstable();
    let twice = sequences.windows(2).filter(|pair| pair[0] == pair[1]).count();
    assert_eq!(twice, 0, "duplicated events");
    assert_eq!(
        sequences,
        (1..=count).collect::<Vec<_>>(),
        "found {} of {count} events",
        sequences.len()
    );
}

/// Returns the sequences of a source's events that a consumer finds, in order.
pub(crate) fn sequences_of(bootstrap: &str, topic: &str, source: &str) -> Vec<u64> {
    let source = format!("/neuroio/{source}");
    let records = read_topic(bootstrap, topic, LIMIT).unwrap();
    let mut sequences: Vec<u64> = records
        .iter()
        .filter(|record| record.header("ce_source") == Some(&source))
        .map(|record| {
            let sequence = record.header("ce_sequence").unwrap();
            sequence.rsplit_once(':').unwrap().1.parse().unwrap()
        })
        .collect();
    sequences.sort_unstable();
    sequences
}

/// Copies a folder's files into another folder, which is created if necessary.
pub(crate) fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Returns the number of bytes that are written in a log's only segment.
pub(crate) fn log_length(spool: &Path) -> u64 {
    let written = fs::read(only_segment(spool)).unwrap();
    let last = written.iter().rposition(|byte| *byte != 0).unwrap();
    last as u64 + 1
}

/// Truncates a log's only segment.
pub(crate) fn truncate_log(spool: &Path, length: u64) {
    let segment = fs::OpenOptions::new()
        .write(true)
        .open(only_segment(spool))
        .unwrap();
    segment.set_len(length).unwrap();
}

fn only_segment(spool: &Path) -> PathBuf {
    let mut segments: Vec<_> = fs::read_dir(spool)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "segment"))
        .collect();
    assert_eq!(segments.len(), 1, "expected one segment, found {segments:?}");
    segments.remove(0)
}
