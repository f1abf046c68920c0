//! Tests the sink: outcomes, restarts, reconnects, and faults of the disk.

use std::{
    collections::VecDeque,
    fs::{self, OpenOptions},
    io::Write,
    time::Duration,
};

use neurobridge_core::{
    connect::ConnectSteps,
    epoch::{Epoch, Epochs},
    reader::Cursor,
};

use super::*;
use crate::{folder::testing, log::tests::HandClock, rotation::Place};

mod model;

/// A sink with its folder, its clock and the stored state of its delivery, so that the sink can be restarted repeatedly.
struct Setting {
    folder: tempfile::TempDir,
    config: FileConfig,
    clock: HandClock,
    spool: SpoolId,
    cursor: Cursor,
    epochs: Epochs,
    sink: FileSink,
}

impl Setting {
    fn new(config: FileConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = HandClock::now();
        let sink = FileSink::with_clock("archive", &config, folder.path(), clock.clock());
        Self {
            folder,
            config,
            clock,
            spool: SpoolId::generate(),
            cursor: Cursor::starting_at(Sequence::FIRST),
            epochs: Epochs::default().with(Epoch(1), Sequence::FIRST),
            sink,
        }
    }

    /// Restarts as after a kill: only the files and the cursor remain.
    async fn restart(&mut self) {
        // Waits until the lock is free; a write that completes meanwhile is equivalent to a later kill.
        self.sink.close().await;
        // The spool has all published events, and a new epoch begins after them.
        let begins = self.epochs.beginnings().last().map(|(_, begins)| *begins);
        let end = self.sink.unpublished.max(self.cursor.next).max(begins.unwrap());
        self.epochs = self.epochs.with(Epoch(1), end);
        self.sink = FileSink::with_clock("archive", &self.config, self.folder.path(), self.clock.clock());
    }

    async fn connect(&mut self) {
        let context = ConnectContext {
            spool: self.spool,
            cursor: &self.cursor,
            epochs: &self.epochs,
            steps: &ConnectSteps::default(),
        };
        self.sink.connect(&context).await.unwrap();
    }

    fn publish(&mut self, sequence: u64) -> Result<(), PublishError> {
        publish(&mut self.sink, sequence)
    }

    /// Publishes events and waits for the outcomes, as many at a time as the sink accepts.
    async fn deliver(&mut self, sequences: std::ops::Range<u64>) {
        let mut waiting: VecDeque<u64> = sequences.collect();
        while let Some(&sequence) = waiting.front() {
            match self.publish(sequence) {
                Ok(()) => drop(waiting.pop_front()),
                Err(PublishError::Full) => drop(self.outcomes().await),
                Err(error) => panic!("{error:?}"),
            }
        }
        self.outcomes().await;
    }

    async fn outcomes(&mut self) -> Vec<u64> {
        self.sink.flush().await.unwrap();
        let mut acks = Vec::new();
        let _ = self.sink.outcomes(&mut acks).await.unwrap();
        assert!(acks.iter().all(|ack| ack.outcome == Outcome::Delivered));
        acks.iter().map(|ack| ack.sequence.get()).collect()
    }

    fn commit(&mut self, next: u64) {
        self.cursor.next = Sequence::new(next).unwrap();
        self.cursor.note = self.sink.cursor_note();
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join(&self.config.path)
    }

    /// Returns the ids of the events in all files, oldest first.
    fn stored(&self) -> Vec<u64> {
        let place = Place::new(&self.path()).unwrap();
        let rotated = place.list().unwrap();
        let paths = rotated.iter().map(|file| &file.path).chain([&place.active]);
        let text: String = paths.map(|path| fs::read_to_string(path).unwrap()).collect();
        text.lines()
            .map(|line| {
                serde_json::from_str::<serde_json::Value>(line).unwrap()["id"]
                    .as_u64()
                    .unwrap()
            })
            .collect()
    }
}

fn raw() -> FileConfig {
    FileConfig {
        path: "log/events.jsonl".into(),
        format: FileFormat::Raw,
        ..FileConfig::default()
    }
}

fn publish(sink: &mut FileSink, sequence: u64) -> Result<(), PublishError> {
    let frame = format!(
        "{{\"id\":{sequence},\"data\":{{\"pad\":\"{}\"}}}}",
        "x".repeat((sequence % 7) as usize * 10)
    );
    publish_frame(sink, sequence, &frame)
}

fn publish_frame(sink: &mut FileSink, sequence: u64, frame: &str) -> Result<(), PublishError> {
    let event = Event {
        sequence: Sequence::new(sequence).unwrap(),
        ..neurobridge_core::testing::event(frame)
    };
    sink.publish(&event, &Bytes::new())
}

#[tokio::test]
async fn acknowledged_lines_are_in_the_file() {
    let mut setting = Setting::new(raw());
    assert!(matches!(setting.publish(1), Err(PublishError::Fault(_))));
    setting.connect().await;
    for sequence in 1..=3 {
        setting.publish(sequence).unwrap();
    }
    assert_eq!(setting.stored(), [0u64; 0]);
    setting.sink.flush().await.unwrap();
    // Published during the current write: written by the next one.
    for sequence in 4..=9 {
        setting.publish(sequence).unwrap();
        setting.sink.flush().await.unwrap();
    }
    let mut acks = Vec::new();
    let _ = setting.sink.outcomes(&mut acks).await.unwrap();
    assert_eq!(acks.len(), 3);
    assert_eq!(setting.stored(), [1, 2, 3]);
    let note = setting.sink.cursor_note();
    assert_eq!(setting.outcomes().await, [4, 5, 6, 7, 8, 9]);
    assert_ne!(setting.sink.cursor_note(), note);
}

#[tokio::test]
async fn collected_lines_are_bounded_by_a_batch() {
    let mut setting = Setting::new(raw());
    setting.connect().await;
    let frame = format!(
        "{{\"id\":1,\"data\":{{\"pad\":\"{}\"}}}}",
        "x".repeat(BATCH_BYTES / 2)
    );
    let mut taken = 0;
    while publish_frame(&mut setting.sink, taken + 1, &frame).is_ok() {
        taken += 1;
    }
    assert_eq!(taken, 2);
    let huge = format!(
        "{{\"id\":1,\"data\":{{\"pad\":\"{}\"}}}}",
        "x".repeat(8 * BATCH_BYTES)
    );
    assert_eq!(setting.outcomes().await.len(), 2);
    publish_frame(&mut setting.sink, 3, &huge).unwrap();
    assert_eq!(setting.outcomes().await, [3]);
    assert!(setting.sink.batch.lines.capacity() <= 2 * BATCH_BYTES);
}

#[tokio::test]
async fn outcomes_is_cancel_safe() {
    let mut setting = Setting::new(raw());
    setting.connect().await;
    setting.publish(1).unwrap();
    setting.sink.flush().await.unwrap();
    let mut acks = Vec::new();
    tokio::select! {
        biased;
        _ = setting.sink.outcomes(&mut acks) => {}
        () = std::future::ready(()) => {}
    }
    if acks.is_empty() {
        let _ = setting.sink.outcomes(&mut acks).await.unwrap();
    }
    assert_eq!(acks.len(), 1);
}

#[tokio::test]
async fn restart_continues_at_the_saved_position() {
    let mut setting = Setting::new(raw());
    setting.connect().await;
    setting.deliver(1..4).await;
    setting.commit(4);
    setting.deliver(4..8).await;
    setting.restart().await;
    setting.connect().await;
    assert_eq!(setting.stored(), [1, 2, 3, 4, 5, 6, 7]);
    setting.deliver(4..6).await;
    assert_eq!(setting.stored(), [1, 2, 3, 4, 5, 6, 7]);
    // The note is still the old one, and the next writer has the same lineage.
    setting.restart().await;
    setting.connect().await;
    setting.deliver(4..10).await;
    assert_eq!(setting.stored(), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
}

#[tokio::test]
async fn kill_before_the_first_commit_repeats_no_line() {
    let mut setting = Setting::new(raw());
    setting.connect().await;
    setting.deliver(1..4).await;
    // The cursor never reached the disk.
    setting.restart().await;
    setting.connect().await;
    setting.deliver(1..6).await;
    assert_eq!(setting.stored(), [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn older_copy_of_the_spool_loses_no_line() {
    let mut setting = Setting::new(raw());
    setting.connect().await;
    setting.deliver(1..4).await;
    setting.commit(4);
    let (cursor, epochs) = (setting.cursor.clone(), setting.epochs.clone());
    setting.deliver(4..20).await;
    setting.commit(20);
    setting.restart().await;
    setting.cursor = cursor;
    setting.epochs = epochs.with(Epoch(2), Sequence::new(4).unwrap());
    setting.connect().await;
    // Other events have these sequences now, and the first of them has an equal line.
    setting.publish(4).unwrap();
    publish_frame(&mut setting.sink, 5, "{\"id\":100,\"data\":{}}").unwrap();
    setting.outcomes().await;
    let expected: Vec<u64> = (1..20).chain([4, 100]).collect();
    assert_eq!(setting.stored(), expected);
}

#[tokio::test]
async fn reconnect_continues_at_the_last_acknowledged_line() {
    let mut setting = Setting::new(raw());
    setting.connect().await;
    setting.deliver(1..3).await;
    setting.publish(3).unwrap();
    setting.sink.flush().await.unwrap();
    // The cursor was never stored, and 3 may be on the disk: its outcome was not reported.
    setting.connect().await;
    setting.deliver(3..5).await;
    assert_eq!(setting.stored(), [1, 2, 3, 4]);
}

#[tokio::test]
async fn lines_of_another_spool_are_not_truncated() {
    let mut setting = Setting::new(raw());
    setting.connect().await;
    setting.deliver(1..3).await;
    setting.commit(3);
    let mine = setting.cursor.clone();
    setting.restart().await;
    // Another spool, which has no note, writes to the same file.
    setting.spool = SpoolId::generate();
    setting.cursor = Cursor::starting_at(Sequence::FIRST);
    setting.connect().await;
    setting.deliver(100..102).await;
    setting.restart().await;
    setting.cursor = mine;
    setting.connect().await;
    assert_eq!(setting.stored(), [1, 2, 100, 101]);
    setting.deliver(3..4).await;
    setting.commit(4);
    setting.deliver(4..5).await;
    setting.restart().await;
    setting.connect().await;
    setting.deliver(4..5).await;
    assert_eq!(setting.stored(), [1, 2, 100, 101, 3, 4]);
}

#[tokio::test]
async fn invalid_cursor_note_loses_no_event() {
    for note in ["", "{}", "events.jsonl 17", "null"] {
        let mut setting = Setting::new(raw());
        setting.connect().await;
        setting.deliver(1..3).await;
        setting.restart().await;
        setting.cursor.note = Some(note.to_owned());
        setting.connect().await;
        assert_eq!(setting.stored(), [1, 2]);
    }
}

#[tokio::test]
async fn full_disk_is_a_temporary_fault() {
    let mut setting = Setting::new(raw());
    setting.connect().await;
    setting.deliver(1..3).await;
    testing::inject(&setting.path().with_extension("write"), 1, 28);
    setting.publish(3).unwrap();
    setting.sink.flush().await.unwrap();
    let fault = setting.sink.outcomes(&mut Vec::new()).await.unwrap_err();
    assert!(!fault.is_final && fault.kind == FaultKind::Disk, "{fault}");
    assert!(fault.reason.contains("no space left"), "{fault}");
    setting.connect().await;
    setting.deliver(3..4).await;
    assert_eq!(setting.stored(), [1, 2, 3]);
}

#[tokio::test]
async fn failed_sync_loses_and_repeats_no_event() {
    let mut setting = Setting::new(raw());
    setting.connect().await;
    setting.deliver(1..3).await;
    testing::inject(&setting.path(), 1, 5);
    setting.publish(3).unwrap();
    setting.sink.flush().await.unwrap();
    let fault = setting.sink.outcomes(&mut Vec::new()).await.unwrap_err();
    assert!(!fault.is_final && fault.kind == FaultKind::Disk, "{fault}");
    setting.connect().await;
    setting.deliver(3..5).await;
    assert_eq!(setting.stored(), [1, 2, 3, 4]);
    assert_eq!(Place::new(&setting.path()).unwrap().list().unwrap().len(), 1);
}

#[tokio::test]
async fn lines_removed_by_others_are_counted() {
    let mut setting = Setting::new(raw());
    setting.connect().await;
    setting.deliver(1..6).await;
    setting.commit(6);
    fs::write(setting.path(), "").unwrap();
    setting.deliver(6..7).await;
    assert_eq!(setting.sink.status().file_changes.lost, 5);
    setting.commit(7);
    setting.restart().await;
    fs::remove_file(setting.path()).unwrap();
    setting.connect().await;
    assert_eq!(setting.sink.status().file_changes.lost, 1);
}

#[tokio::test]
async fn second_sink_on_the_same_file_is_rejected() {
    let mut setting = Setting::new(raw());
    setting.connect().await;
    let mut second = FileSink::new("second", &setting.config, setting.folder.path());
    let context = ConnectContext {
        spool: setting.spool,
        cursor: &setting.cursor,
        epochs: &Epochs::default(),
        steps: &ConnectSteps::default(),
    };
    let fault = second.connect(&context).await.unwrap_err();
    assert!(
        !fault.is_final && fault.reason.contains("another process writes to"),
        "{fault}"
    );
    setting.sink.close().await;
    second.connect(&context).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn old_file_is_removed_without_new_events() {
    let mut setting = Setting::new(FileConfig {
        max_age: Some(Duration::from_secs(3600)),
        ..raw()
    });
    setting.connect().await;
    setting.deliver(1..3).await;
    setting.clock.advance(Duration::from_secs(2 * 3600));
    let place = Place::new(&setting.path()).unwrap();
    tokio::time::timeout(Duration::from_secs(600), async {
        while fs::metadata(&place.active).unwrap().len() > 0 || !place.list().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
    .await
    .unwrap();
    setting.deliver(3..4).await;
    assert_eq!(setting.stored(), [3]);
}
