//! The file sink: collects lines, then writes and syncs them together.

use std::{future::pending, path::Path, sync::Arc};

use bytes::Bytes;
use neurobridge_core::{
    event::{Event, Sequence},
    identity::SpoolId,
    recreation::{FileChanges, Recreations},
    sink::{
        Ack, AfterOutcomes, ConnectContext, Connected, DeadLetterSink, FaultKind, Outcome, PublishError,
        Sink, SinkFault, SinkStatus, Transactions,
    },
};
use tokio::task::JoinHandle;
use tracing::{debug, info};

use crate::{
    clock::{Clock, SystemClock},
    config::{FileConfig, FileFormat},
    encode,
    error::FileError,
    lineage::{Lineage, Start},
    log::Log,
    position::Position,
    writer::Writer,
};

/// The size at which a batch accepts no further line. Bounds the memory, and the number of events without an outcome after a
/// kill.
const BATCH_BYTES: usize = 1024 * 1024;

/// Writes events as JSON lines to a file.
///
/// Events published since the last write began are collected; [`flush`](Sink::flush) writes and syncs them on the
/// blocking pool, unless a write is in progress: then they are part of the next write. So the slower the disk, the more
/// events share a sync, and the number of syncs never limits the feed.
///
/// Writes are in order, and all events of a write receive their outcome together; so the
/// [`cursor_note`](Sink::cursor_note), file and offset, can be stored with the cursor after each write. At the next start,
/// the lines after that offset are compared with the resent events, and existing lines are not written again: each event
/// is in the files once. No whole line is ever truncated. Without a note (the spool was in memory, or is new) lines
/// are appended to the existing ones.
///
/// Dropping the sink leaves whole lines, and of the current batch all lines or none.
pub struct FileSink {
    name: String,
    format: FileFormat,
    max_size: u64,
    writer: Writer,
    clock: Arc<dyn Clock>,
    removes_by_age: bool,
    open_file: Option<OpenFile>,
    /// The end of the last batch with an outcome. A reconnect uses it instead of the cursor's note, which may be older.
    acknowledged: Option<Position>,
    /// Events before this sequence may have been written by an earlier attempt. Later events are new: an equal line in the
    /// file does not belong to them.
    repeated_before: Sequence,
    /// The first sequence that this process has not yet published.
    unpublished: Sequence,
    /// The changes that other programs made to the files.
    changes: FileChanges,
    batch: Batch,
    /// The buffers of the previous batch, for reuse.
    spare: Batch,
    writing: Option<JoinHandle<Result<Written, FileError>>>,
    scratch: String,
}

/// The file that the connected sink has open.
struct OpenFile {
    spool: SpoolId,
    lineage: Arc<str>,
    /// The length of the file after the write in progress, if there is one.
    end: u64,
}

/// Collected lines and the sequences of their events.
#[derive(Default)]
struct Batch {
    lines: String,
    sequences: Vec<Sequence>,
    /// The number of bytes of `lines` that an earlier attempt may have written.
    repeated: usize,
}

struct Written {
    batch: Batch,
    position: Position,
    changes: FileChanges,
}

impl FileSink {
    /// Creates a sink from a configuration without [errors](FileConfig::check). A relative path is resolved against
    /// `data_dir`. No file is opened before the sink connects.
    pub fn new(name: impl Into<String>, config: &FileConfig, data_dir: &Path) -> Self {
        Self::with_clock(name, config, data_dir, Arc::new(SystemClock::new()))
    }

    pub(crate) fn with_clock(
        name: impl Into<String>,
        config: &FileConfig,
        data_dir: &Path,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let limits = config.limits();
        Self {
            name: name.into(),
            format: config.format,
            max_size: limits.max_size,
            writer: Writer::new(data_dir.join(&config.path), limits, Arc::clone(&clock)),
            clock,
            removes_by_age: config.max_age.is_some(),
            open_file: None,
            acknowledged: None,
            repeated_before: Sequence::FIRST,
            unpublished: Sequence::FIRST,
            changes: FileChanges::default(),
            batch: Batch::default(),
            spare: Batch::default(),
            writing: None,
            scratch: String::new(),
        }
    }

    /// Returns whether a line of `line` bytes no longer fits into the file after the `collected` bytes of the batch. `end`: the
    /// length of the file. The first line of a batch always fits: if necessary, the log rotates before it.
    fn is_beyond_max_size(&self, end: u64, collected: u64, line: u64) -> bool {
        collected > 0 && end_after(end, collected, self.max_size) + line > self.max_size
    }

    fn start_writing(&mut self) {
        let Some(open_file) = &mut self.open_file else {
            return;
        };
        if self.writing.is_some() || self.batch.lines.is_empty() {
            return;
        }
        let spare = std::mem::take(&mut self.spare);
        let batch = std::mem::replace(&mut self.batch, spare);
        open_file.end = end_after(open_file.end, batch.lines.len() as u64, self.max_size);
        let lineage = Arc::clone(&open_file.lineage);
        self.writing = Some(self.writer.spawn(move |log| {
            log.append_missing(batch.lines.as_bytes(), batch.repeated)?;
            let (position, changes) = (log.position(&lineage)?, log.take_changes());
            Ok(Written {
                batch,
                position,
                changes,
            })
        }));
    }

    /// Processes the result of a write, which is the outcome of all events in the batch.
    fn finish_writing(&mut self, written: Written, acks: &mut Vec<Ack>) {
        let Written {
            mut batch,
            position,
            changes,
        } = written;
        self.changes.add(changes);
        acks.extend(batch.sequences.drain(..).map(|sequence| Ack {
            sequence,
            outcome: Outcome::Delivered,
        }));
        if let Some(open_file) = &mut self.open_file {
            open_file.end = position.offset;
        }
        self.acknowledged = Some(position);
        batch.lines.clear();
        batch.repeated = 0;
        // One huge event must not occupy its memory permanently.
        batch.lines.shrink_to(2 * BATCH_BYTES);
        self.spare = batch;
    }
}

/// Returns the end of a file, now at `end`, after writing `bytes`. The log rotates before a write that does not fit.
const fn end_after(end: u64, bytes: u64, max_size: u64) -> u64 {
    if end + bytes <= max_size {
        end + bytes
    } else {
        bytes
    }
}

impl Sink for FileSink {
    // A hanging write cannot be abandoned: it may still complete after another write to the same file.
    const REPLACES_CLIENT: bool = false;

    async fn connect(&mut self, context: &ConnectContext<'_>) -> Result<Connected, SinkFault> {
        self.open_file = None;
        self.batch.lines.clear();
        self.batch.sequences.clear();
        self.batch.repeated = 0;
        // The writer guarantees that the previous write either has completed, so that its lines are found in the file, or
        // never runs.
        self.writing = None;
        let position = self
            .acknowledged
            .clone()
            .or_else(|| parse_note(context.cursor.note.as_deref()));
        // Lines may exist for the events before the current epoch, which an earlier process may have written, and for those that
        // this process has published.
        let begins = context.epochs.beginnings().last().map(|(_, begins)| *begins);
        self.repeated_before = self.unpublished.max(begins.unwrap_or(context.cursor.next));
        let new_lineage = format!("{}/{}", context.spool, self.clock.now().as_nanosecond());
        let (spool, next) = (context.spool.to_string(), context.cursor.next);
        let opened = self.writer.open(move |log| {
            let position = resume(log, position, &spool, next, new_lineage)?;
            Ok((position, log.take_changes()))
        });
        let (position, changes) = opened.await?;
        self.changes.add(changes);
        info!(
            sink = self.name,
            file = position.file,
            offset = position.offset,
            "file opened"
        );
        self.open_file = Some(OpenFile {
            spool: context.spool,
            lineage: position.lineage.as_str().into(),
            end: position.offset,
        });
        self.acknowledged = Some(position);
        Ok(Connected {
            acks_are_cumulative: false,
            committed_cursor: None,
        })
    }

    fn publish(&mut self, event: &Event<'_>, _buffer: &Bytes) -> Result<(), PublishError> {
        let Some(open_file) = &self.open_file else {
            return Err(SinkFault::not_connected().into());
        };
        let collected = self.batch.lines.len();
        if collected >= BATCH_BYTES {
            return Err(PublishError::Full);
        }
        encode::push_line(
            self.format,
            event,
            &open_file.spool,
            &mut self.scratch,
            &mut self.batch.lines,
        );
        let line = self.batch.lines.len() - collected;
        if self.is_beyond_max_size(open_file.end, collected as u64, line as u64) {
            self.batch.lines.truncate(collected);
            return Err(PublishError::Full);
        }
        self.batch.sequences.push(event.sequence);
        if event.sequence < self.repeated_before {
            self.batch.repeated = self.batch.lines.len();
        }
        self.unpublished = self.unpublished.max(event.sequence.next());
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), SinkFault> {
        self.start_writing();
        Ok(())
    }

    async fn outcomes(&mut self, acks: &mut Vec<Ack>) -> Result<AfterOutcomes, SinkFault> {
        self.start_writing();
        let Some(writing) = &mut self.writing else {
            return pending().await;
        };
        let written = writing.await;
        self.writing = None;
        let failed = match written {
            Ok(Ok(written)) => {
                self.finish_writing(written, acks);
                return Ok(AfterOutcomes::Continue);
            }
            Ok(Err(error)) => error.into(),
            Err(error) => SinkFault::new(
                FaultKind::Other,
                format!("the task that writes the file ended: {error}"),
            ),
        };
        self.open_file = None;
        Err(failed)
    }

    fn cursor_note(&self) -> Option<String> {
        let position = self.acknowledged.as_ref()?;
        serde_json::to_string(position).ok()
    }

    fn dead_letters(&mut self) -> Option<&mut dyn DeadLetterSink> {
        None
    }

    fn transactions(&mut self) -> Option<&mut dyn Transactions> {
        None
    }

    fn status(&self) -> SinkStatus {
        SinkStatus {
            recreations: Recreations::default(),
            notice: self
                .removes_by_age
                .then(neurobridge_core::clock::distrust_reason)
                .flatten(),
            file_changes: self.changes.clone(),
            ..SinkStatus::default()
        }
    }

    async fn close(&mut self) {
        if let Some(writing) = self.writing.take() {
            let _ = writing.await;
        }
        self.open_file = None;
        self.writer.close().await;
        debug!(sink = self.name, "file closed");
    }
}

/// Resumes at `position`, or at the start of the lineage if no position was stored. Begins a new lineage if the position belongs
/// to another one. Returns the position up to which all lines belong to events with an outcome.
fn resume(
    log: &mut Log,
    position: Option<Position>,
    spool: &str,
    next: Sequence,
    new_lineage: String,
) -> Result<Position, FileError> {
    let Lineage { name, start } = log.lineage()?;
    let position = match position {
        Some(position) => (position.lineage == name).then_some(position),
        // After a kill before any position was stored, the cursor is at the start of the lineage.
        None => start
            .filter(|start| start.next == next && name.split('/').next() == Some(spool))
            .map(|start| start.position),
    };
    if let Some(position) = position {
        log.resume_at(&position)?;
        return log.position(&name);
    }
    let position = log.position(&new_lineage)?;
    let start = Start {
        next,
        position: position.clone(),
    };
    log.set_lineage(&Lineage {
        name: new_lineage,
        start: Some(start),
    })?;
    Ok(position)
}

/// Parses a note. A note of another version is ignored: then events may be written twice, and no event is lost.
fn parse_note(note: Option<&str>) -> Option<Position> {
    serde_json::from_str(note?).ok()
}

#[cfg(test)]
mod tests;
