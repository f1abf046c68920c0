//! Functions for the tests of the log on disk: open, fill, read, commit and copy a log.
#![allow(dead_code, unreachable_pub, reason = "each test uses some of it")]
#![allow(clippy::unwrap_used, reason = "a test's helpers panic as the test does")]

use std::{
    fs,
    future::Future,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use neurobridge_core::{
    event::{Event, FieldPath, Sequence},
    ledger::Settlement,
    reader::{Read, Reader, SkipReason},
    record::Batch,
    testing,
    units::ByteSize,
};
use neurobridge_spool::{
    DiskConfig, OpenError, ResumePaths, ResumeValue, Spool, SpoolConfig, SpoolReader, SyncPolicy, WhenFull,
};

/// The time after which a step counts as failed: far more than any step needs.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Returns a configuration with small segments, so that a log has many of them. Settled events are not retained.
pub fn config() -> DiskConfig {
    DiskConfig {
        path: PathBuf::from("spool"),
        max_size: ByteSize::from_mib(64),
        segment_size: ByteSize::from_kib(4),
        sync: SyncPolicy::Always,
        when_full: WhenFull::Block,
        retain: Duration::ZERO,
    }
}

pub fn open(root: &Path, config: &DiskConfig) -> Spool {
    try_open(root, config).unwrap()
}

pub fn try_open(root: &Path, config: &DiskConfig) -> Result<Spool, OpenError> {
    Spool::open_resuming(&SpoolConfig::Disk(config.clone()), root, &resume_paths())
}

/// Returns the paths of the resume values of two sources: that of all events, whose resume value is the id of the event, and
/// one without events.
pub fn resume_paths() -> ResumePaths {
    let path = FieldPath::parse("$.id");
    ResumePaths::from([("main".to_owned(), path.clone()), ("quiet".to_owned(), path)])
}

/// Returns the resume value for an append whose last event receives this sequence.
pub fn resume_value(sequence: u64) -> Vec<ResumeValue> {
    vec![ResumeValue {
        source: "main".into(),
        value: sequence.to_string(),
    }]
}

/// Returns the resume value of a source as a number, or 0 if the source has none.
pub fn resumes_after(spool: &Spool, source: &str) -> u64 {
    spool
        .resume_value(source)
        .map_or(0, |value| value.parse().unwrap())
}

/// Returns the text of the event with this sequence.
pub fn frame(sequence: u64, size: usize) -> String {
    format!(r#"{{"id":{sequence},"data":{{"fill":"{}"}}}}"#, "x".repeat(size))
}

/// Returns a batch of events that will be stored with the sequences from `first` on.
pub fn batch(first: u64, events: u64, size: usize) -> Batch {
    batch_at(first, events, size, |sequence| {
        jiff::Timestamp::from_second(sequence as i64).unwrap()
    })
}

fn batch_at(first: u64, events: u64, size: usize, received_at: impl Fn(u64) -> jiff::Timestamp) -> Batch {
    let mut batch = Batch::default();
    for sequence in first..first + events {
        let frame = frame(sequence, size);
        batch.push(&Event {
            received_at: received_at(sequence),
            ..testing::event(&frame)
        });
    }
    batch
}

/// Appends a number of events of about `size` bytes. The sequence of each event equals the id in its text.
pub async fn append(spool: &Spool, events: u64, size: usize) {
    let first = spool.status().durable_sequence + 1;
    let stored = soon(spool.append_resuming(batch(first, events, size), resume_value(first + events - 1)))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((stored.first.get(), stored.events), (first, events));
}

/// Appends an event that is received now.
pub async fn append_now(spool: &Spool) {
    let first = spool.status().durable_sequence + 1;
    let batch = batch_at(first, 1, 10, |_| jiff::Timestamp::now());
    soon(spool.append(batch)).await.unwrap().unwrap();
}

/// Writes a log of 120 events, none of them settled, in about a dozen segments.
pub async fn filled(root: &Path) {
    let spool = open(root, &config());
    drop(spool.reader("sink"));
    for _ in 0..40 {
        append(&spool, 3, 300).await;
    }
    soon(spool.finish()).await.unwrap();
}

/// Waits for a step, and fails the test after [`DEADLINE`].
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what)
        .await
        .expect("the step does not end")
}

/// Waits until a condition holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The sequences of the events that a reader returned, whose texts were checked, and of the events that it skipped.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub events: Vec<u64>,
    pub dropped: Vec<u64>,
    pub damaged: Vec<u64>,
}

impl Seen {
    pub fn all(&self) -> u64 {
        (self.events.len() + self.dropped.len() + self.damaged.len()) as u64
    }

    pub fn add(&mut self, read: &Read) -> bool {
        match read {
            Read::Events(batch) => {
                for event in batch.iter() {
                    let event = event.unwrap();
                    let start = format!(r#"{{"id":{},"#, event.sequence);
                    assert!(
                        event.frame.starts_with(&start),
                        "{} is {}",
                        event.sequence,
                        event.frame
                    );
                    self.events.push(event.sequence.get());
                }
            }
            Read::Skipped { from, events, reason } => {
                let skipped = from.get()..from.get() + events;
                match reason {
                    SkipReason::Dropped => self.dropped.extend(skipped),
                    SkipReason::Damaged => self.damaged.extend(skipped),
                }
            }
            Read::End => return false,
        }
        true
    }
}

/// Reads until `until` events are read or skipped.
pub async fn read_until(reader: &mut SpoolReader, until: u64) -> Seen {
    let mut seen = Seen::default();
    while seen.all() < until {
        assert!(
            seen.add(&soon(reader.next()).await.unwrap()),
            "the log ended after {seen:?}"
        );
    }
    seen
}

/// Reads all events up to the last one that is durable now.
pub async fn read_all(spool: &Spool, reader: &mut SpoolReader) -> Seen {
    let end = spool.status().durable_sequence + 1;
    let next = reader.cursor().next.get();
    read_until(reader, end - next).await
}

/// Commits all events before `next` as delivered.
pub fn commit(reader: &mut SpoolReader, next: u64) {
    let mut cursor = reader.cursor().clone();
    let settled = next - cursor.next.get();
    cursor.counts.add(Settlement::Delivered, settled);
    cursor.next = Sequence::new(next).unwrap();
    reader.commit(&cursor);
}

/// Returns the paths of the segments of a log, in order.
pub fn segments(root: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(root.join("spool"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "segment"))
        .collect();
    found.sort();
    found
}

/// Copies the folder of a log in the state that a crash at this moment would leave. Copies segments before cursors: if a
/// segment is deleted during the copy, the copied cursors are at least those that allowed its deletion.
pub fn copy(from: &Path, to: &Path) {
    let (from, to) = (from.join("spool"), to.join("spool"));
    fs::create_dir_all(to.join("cursors")).unwrap();
    let mut names: Vec<_> = list(&from).filter(|name| !name.ends_with("lock")).collect();
    names.sort_by_key(|name| !name.ends_with(".segment"));
    for name in names {
        copy_file(&from.join(&name), &to.join(&name));
    }
    for name in list(&from.join("cursors")) {
        copy_file(&from.join("cursors").join(&name), &to.join("cursors").join(&name));
    }
}

fn list(folder: &Path) -> impl Iterator<Item = String> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
        .map(|entry| entry.file_name().into_string().unwrap())
}

fn copy_file(from: &Path, to: &Path) {
    match fs::copy(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        copied => drop(copied.unwrap()),
    }
}
