//! Compares the log on disk with a model, for generated sequences of appends, reads, commits, kills and restarts.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic as the test does")]

mod support;

use std::{fs, os::unix::fs::FileExt, path::Path};

use neurobridge_core::{
    event::Sequence,
    ledger::{Settlement, SinkCounts},
    reader::{Cursor, Read, Reader, SkipReason},
    record::Batch,
    units::ByteSize,
};
use neurobridge_spool::{DiskConfig, ResumeValue, Spool, SpoolReader, WhenFull};
use proptest::prelude::*;
use support::*;
use tempfile::TempDir;

const READERS: [&str; 2] = ["a", "b"];

#[derive(Clone, Debug)]
enum Action {
    Append {
        events: u64,
        size: usize,
    },
    Read {
        reader: usize,
    },
    Rewind {
        reader: usize,
        back: u64,
    },
    Commit {
        reader: usize,
    },
    /// A new reader with the same name replaces the reader.
    ReplaceReader {
        reader: usize,
    },
    /// The resume value of the source "quiet" advances without an event.
    AdvanceResumeValue,
    /// The process is killed after it has written these bytes of a record.
    Kill {
        partial_record: Vec<u8>,
    },
    /// The log has an orderly stop and is opened again.
    Stop,
    /// The log has an orderly stop; then the cursor file of a reader is lost, and the log is opened again.
    LoseCursor {
        reader: usize,
        loss: CursorLoss,
    },
}

#[derive(Clone, Copy, Debug)]
enum CursorLoss {
    Removed,
    Emptied,
    Zeroed,
    Overwritten,
}

fn any_action() -> impl Strategy<Value = Action> {
    let size = prop_oneof![4 => Just(100usize), 2 => Just(3_000), 1 => Just(60_000)];
    prop_oneof![
        6 => (1u64..12, size).prop_map(|(events, size)| Action::Append { events, size }),
        8 => (0..READERS.len()).prop_map(|reader| Action::Read { reader }),
        1 => (0..READERS.len(), 0u64..10).prop_map(|(reader, back)| Action::Rewind { reader, back }),
        4 => (0..READERS.len()).prop_map(|reader| Action::Commit { reader }),
        1 => (0..READERS.len()).prop_map(|reader| Action::ReplaceReader { reader }),
        1 => proptest::collection::vec(any::<u8>(), 0..200).prop_map(|partial_record| Action::Kill { partial_record }),
        2 => Just(Action::AdvanceResumeValue),
        1 => Just(Action::Stop),
        1 => (0..READERS.len(), any_cursor_loss()).prop_map(|(reader, loss)| Action::LoseCursor { reader, loss }),
    ]
}

fn any_cursor_loss() -> impl Strategy<Value = CursorLoss> {
    prop_oneof![
        Just(CursorLoss::Removed),
        Just(CursorLoss::Emptied),
        Just(CursorLoss::Zeroed),
        Just(CursorLoss::Overwritten),
    ]
}

/// The expected state of a reader.
#[derive(Clone, Debug)]
struct ExpectedReader {
    /// The sequence of the next event to read.
    next: u64,
    /// The events between the cursor and `next` that were skipped.
    dropped: Vec<u64>,
    /// The position of the cursor.
    committed: u64,
    counts: SinkCounts,
}

/// A log, and its expected state.
struct Harness {
    root: TempDir,
    config: DiskConfig,
    spool: Spool,
    readers: Vec<SpoolReader>,
    expected: [ExpectedReader; READERS.len()],
    appended: u64,
    /// The resume value of the source "quiet", which sends no events.
    resume_value: u64,
    /// The newest value of `resume_value` that is certainly on the disk.
    durable_resume_value: u64,
}

impl Harness {
    fn new(when_full: WhenFull) -> Self {
        let root = tempfile::tempdir().unwrap();
        let config = DiskConfig {
            max_size: ByteSize::from_mib(if when_full == WhenFull::Block { 1024 } else { 1 }),
            when_full,
            ..config()
        };
        let spool = open(root.path(), &config);
        let readers = READERS.map(|name| spool.reader(name)).into();
        let expected = ExpectedReader {
            next: 1,
            dropped: Vec::new(),
            committed: 1,
            counts: SinkCounts::default(),
        };
        Self {
            root,
            config,
            spool,
            readers,
            expected: READERS.map(|_| expected.clone()),
            appended: 0,
            resume_value: 0,
            durable_resume_value: 0,
        }
    }

    async fn apply(&mut self, action: Action) {
        match action {
            Action::Append { events, size } => {
                append(&self.spool, events, size).await;
                self.appended += events;
            }
            Action::Read { reader } if self.expected[reader].next <= self.appended => self.read(reader).await,
            Action::Read { .. } => {}
            Action::Rewind { reader, back } => {
                let expected = &mut self.expected[reader];
                expected.next = expected.next.saturating_sub(back).max(expected.committed);
                let next = expected.next;
                expected.dropped.retain(|sequence| *sequence < next);
                self.readers[reader].rewind(Sequence::new(expected.next).unwrap());
            }
            Action::Commit { reader } => {
                let expected = &mut self.expected[reader];
                let (settled, dropped) = (expected.next - expected.committed, expected.dropped.len() as u64);
                expected.counts.add(Settlement::Dropped, dropped);
                expected.counts.add(Settlement::Delivered, settled - dropped);
                expected.committed = expected.next;
                expected.dropped.clear();
                let mut cursor = self.readers[reader].cursor().clone();
                cursor.next = Sequence::new(expected.next).unwrap();
                cursor.counts = expected.counts;
                cursor.note = Some(format!("at {}", expected.next));
                self.readers[reader].commit(&cursor);
            }
            Action::ReplaceReader { reader } => {
                self.readers[reader] = self.spool.reader(READERS[reader]);
                let expected = &mut self.expected[reader];
                expected.next = expected.committed;
                expected.dropped.clear();
                assert_eq!(self.readers[reader].cursor().next.get(), expected.committed);
            }
            Action::AdvanceResumeValue => {
                self.resume_value += 1;
                let value = ResumeValue {
                    source: "quiet".into(),
                    value: self.resume_value.to_string(),
                };
                let stored = soon(self.spool.append_resuming(Batch::default(), vec![value]));
                assert_eq!(stored.await.unwrap(), None);
            }
            Action::Kill { partial_record } => {
                let copied = tempfile::tempdir().unwrap();
                copy(self.root.path(), copied.path());
                write_partial_record(copied.path(), &partial_record);
                self.reopen(copied, false, None);
            }
            Action::Stop => {
                soon(self.spool.finish()).await.unwrap();
                let copied = tempfile::tempdir().unwrap();
                copy(self.root.path(), copied.path());
                self.reopen(copied, true, None);
            }
            Action::LoseCursor { reader, loss } => {
                soon(self.spool.finish()).await.unwrap();
                let copied = tempfile::tempdir().unwrap();
                copy(self.root.path(), copied.path());
                let file = copied
                    .path()
                    .join(format!("spool/cursors/{}.cursor", READERS[reader]));
                match loss {
                    CursorLoss::Removed => fs::remove_file(file).unwrap(),
                    CursorLoss::Emptied => fs::write(file, "").unwrap(),
                    CursorLoss::Zeroed => fs::write(file, [0; 16_384]).unwrap(),
                    CursorLoss::Overwritten => fs::write(file, [0xff; 16_384]).unwrap(),
                }
                self.reopen(copied, true, Some(reader));
            }
        }
        let status = self.spool.status();
        assert_eq!(
            (status.durable_sequence, status.damaged_events),
            (self.appended, 0)
        );
        assert!(status.size_bytes <= status.limit_bytes);
        assert_eq!(resumes_after(&self.spool, "main"), self.appended);
        assert_eq!(resumes_after(&self.spool, "quiet"), self.resume_value);
    }

    async fn read(&mut self, reader: usize) {
        let expected = &mut self.expected[reader];
        let read = soon(self.readers[reader].next()).await.unwrap();
        let mut seen = Seen::default();
        assert!(seen.add(&read));
        let sequences: Vec<u64> = [&seen.events[..], &seen.dropped].concat();
        assert_eq!(
            sequences,
            (expected.next..expected.next + seen.all()).collect::<Vec<_>>(),
            "{seen:?}"
        );
        if let Read::Skipped { reason, .. } = read {
            assert_eq!(reason, SkipReason::Dropped);
            assert_eq!(self.config.when_full, WhenFull::DropOldest);
        }
        expected.next += seen.all();
        expected.dropped.extend(seen.dropped);
    }

    /// Opens a copy of the log after an orderly stop or a kill. `lost_cursor` is the reader whose cursor file was lost.
    fn reopen(&mut self, root: TempDir, is_orderly_stop: bool, lost_cursor: Option<usize>) {
        self.spool = open(root.path(), &self.config);
        self.root = root;
        self.readers = READERS.map(|name| self.spool.reader(name)).into();
        let (oldest, damaged) = (
            self.spool.status().oldest_sequence,
            self.spool.status().damaged_cursors,
        );
        // After a kill the number of damaged cursors varies: a slot may be incomplete, or a lost cursor not yet saved again.
        if is_orderly_stop {
            assert_eq!(damaged, u64::from(lost_cursor.is_some()));
        }
        // After a kill only the resume value of a stored event is exact: the value of a source without events may be an
        // older one.
        let resume_value = resumes_after(&self.spool, "quiet");
        assert!((self.durable_resume_value..=self.resume_value).contains(&resume_value));
        assert!(!is_orderly_stop || resume_value == self.resume_value);
        (self.resume_value, self.durable_resume_value) = (resume_value, resume_value);
        for (index, (reader, expected)) in self.readers.iter().zip(&mut self.expected).enumerate() {
            let cursor = reader.cursor();
            if lost_cursor == Some(index) {
                assert_eq!(*cursor, Cursor::starting_at(Sequence::new(oldest).unwrap()));
                expected.next = oldest;
                expected.committed = oldest;
                expected.counts = SinkCounts::default();
                expected.dropped.clear();
                continue;
            }
            assert!(
                cursor.next.get() <= expected.committed
                    && (!is_orderly_stop || cursor.next.get() == expected.committed)
            );
            assert_eq!(cursor.counts.settled(), cursor.next.get() - cursor.first.get());
            let note = (cursor.next > cursor.first).then(|| format!("at {}", cursor.next));
            assert_eq!(cursor.note, note);
            expected.next = cursor.next.get();
            expected.committed = expected.next;
            expected.counts = cursor.counts;
            expected.dropped.clear();
        }
    }

    async fn read_to_the_end(&mut self) {
        for reader in 0..READERS.len() {
            while self.expected[reader].next <= self.appended {
                self.read(reader).await;
            }
        }
    }
}

/// Writes bytes to the end of the last segment, as an incomplete write of the next record does.
fn write_partial_record(root: &Path, partial_record: &[u8]) {
    let Some(last) = segments(root).pop() else {
        return;
    };
    let bytes = fs::read(&last).unwrap();
    let end = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    let file = fs::OpenOptions::new().write(true).open(&last).unwrap();
    // Records end with a brace, so trailing zeros are preallocated space. The write starts after the header, which may end
    // with zeros itself.
    file.write_all_at(partial_record, end.max(64) as u64).unwrap();
}

async fn check(actions: Vec<Action>, when_full: WhenFull) {
    let mut harness = Harness::new(when_full);
    for action in actions {
        harness.apply(action).await;
    }
    harness.read_to_the_end().await;
    soon(harness.spool.finish()).await.unwrap();
}

fn block_on(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(future);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn each_reader_receives_consecutive_sequences(actions in proptest::collection::vec(any_action(), 1..60)) {
        block_on(check(actions, WhenFull::Block));
    }

    #[test]
    fn drop_oldest_reports_each_dropped_event(actions in proptest::collection::vec(any_action(), 20..80)) {
        block_on(check(actions, WhenFull::DropOldest));
    }
}
