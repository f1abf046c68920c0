//! The sink: lines are collected, then written and synced together.

use std::{future::pending, path::Path, sync::Arc};

use bytes::Bytes;
use neurobridge_core::{
    event::{Event, Sequence},
    identity::SpoolId,
    recreation::Recreations,
    sink::{
        Ack, ConnectContext, Connected, DeadLetterSink, FaultKind, Next, Outcome, PublishError, Sink,
        SinkFault, SinkStatus, Transactions,
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

/// No more is collected for one write, while another is under way. It bounds memory, and how much a kill leaves without an outcome.
const BATCH_BYTES: usize = 1024 * 1024;

/// Writes events as JSON lines to a file.
///
/// What was published since the last write began is collected; [`flush`](Sink::flush) has it written and synced on the
/// blocking pool, unless a write is under way: then it goes with the next one. So the slower the disk, the more events share
/// a sync, and it is never the number of syncs that holds up the feed.
///
/// Writes are in order, and all that one wrote has its outcome together; so the [`cursor_note`](Sink::cursor_note), file and offset, can be
/// kept with the cursor after each. With a note, the lines after it are compared with the events that are sent again at the
/// next start, and those that are there are not written again: each event stands in the files once. No whole line is ever cut
/// off. Without a note (the spool was in memory, or is new) new lines are appended to what is there.
///
/// Dropping it leaves whole lines, and of a batch at hand all lines or none.
pub struct FileSink {
    name: String,
    format: FileFormat,
    max_size: u64,
    writer: Writer,
    clock: Arc<dyn Clock>,
    removes_by_age: bool,
    session: Option<OpenFile>,
    /// Where the last batch with an outcome ends. Better than the cursor's note for a reconnect: the cursor may be older.
    acknowledged: Option<Position>,
    /// Events before it may have been written by an earlier attempt. The others are new: equal lines are no lines of theirs.
    repeated_before: Sequence,
    /// The first sequence that this process has not published yet.
    unpublished: Sequence,
    /// Lines that other programs have removed.
    lost: u64,
    batch: Batch,
    /// The memory of the batch before.
    spare: Batch,
    writing: Option<JoinHandle<Result<Written, FileError>>>,
    scratch: String,
}

/// What is only true while connected.
struct OpenFile {
    spool: SpoolId,
    lineage: Arc<str>,
    /// The length of the file, once what is being written is in it.
    end: u64,
}

/// Lines that were collected, and whose they are.
#[derive(Default)]
struct Batch {
    lines: String,
    sequences: Vec<Sequence>,
    /// How many bytes of `lines` an earlier attempt may have written.
    repeated: usize,
}

struct Written {
    batch: Batch,
    position: Position,
    lost: u64,
}

impl FileSink {
    /// A sink for a configuration without [errors](FileConfig::check). A relative path begins at `data_dir`.
    /// Nothing is opened before it connects.
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
            session: None,
            acknowledged: None,
            repeated_before: Sequence::FIRST,
            unpublished: Sequence::FIRST,
            lost: 0,
            batch: Batch::default(),
            spare: Batch::default(),
            writing: None,
            scratch: String::new(),
        }
    }

    /// Whether so many bytes would make the file too large that has `end` already, with `collected` on their way to it.
    fn is_beyond_max_size(&self, end: u64, collected: u64, line: u64) -> bool {
        collected > 0 && end_after(end, collected, self.max_size) + line > self.max_size
    }

    fn start_writing(&mut self) {
        let Some(session) = &mut self.session else {
            return;
        };
        if self.writing.is_some() || self.batch.lines.is_empty() {
            return;
        }
        let spare = std::mem::take(&mut self.spare);
        let batch = std::mem::replace(&mut self.batch, spare);
        session.end = end_after(session.end, batch.lines.len() as u64, self.max_size);
        let lineage = Arc::clone(&session.lineage);
        self.writing = Some(self.writer.spawn(move |log| {
            log.append_missing(batch.lines.as_bytes(), batch.repeated)?;
            let (position, lost) = (log.position(&lineage)?, log.take_lost());
            Ok(Written {
                batch,
                position,
                lost,
            })
        }));
    }

    /// Takes the result of a write: what it wrote has its outcome from here on.
    fn finish_writing(&mut self, written: Written, acks: &mut Vec<Ack>) {
        let Written {
            mut batch,
            position,
            lost,
        } = written;
        self.lost += lost;
        acks.extend(batch.sequences.drain(..).map(|sequence| Ack {
            sequence,
            outcome: Outcome::Delivered,
        }));
        if let Some(session) = &mut self.session {
            session.end = position.offset;
        }
        self.acknowledged = Some(position);
        batch.lines.clear();
        batch.repeated = 0;
        // One huge event shall not hold its memory for ever.
        batch.lines.shrink_to(2 * BATCH_BYTES);
        self.spare = batch;
    }
}

/// Where a file ends that ended at `end` when so many bytes are written. The log rotates before what does not fit.
const fn end_after(end: u64, bytes: u64, max_size: u64) -> u64 {
    if end + bytes <= max_size {
        end + bytes
    } else {
        bytes
    }
}

impl Sink for FileSink {
    // A write that hangs cannot be abandoned: it may still be done, after another one to the same file.
    const REPLACES_CLIENT: bool = false;

    async fn connect(&mut self, context: &ConnectContext<'_>) -> Result<Connected, SinkFault> {
        self.session = None;
        self.batch.lines.clear();
        self.batch.sequences.clear();
        self.batch.repeated = 0;
        // What it still writes is found there, or never written: the writer sees to it.
        self.writing = None;
        let position = self
            .acknowledged
            .clone()
            .or_else(|| parse_note(context.cursor.note.as_deref()));
        // Events of this run of the log have their lines in the file only where this process has written them.
        let begins = context.epochs.beginnings().last().map(|(_, begins)| *begins);
        self.repeated_before = self.unpublished.max(begins.unwrap_or(context.cursor.next));
        let new_lineage = format!("{}/{}", context.spool, self.clock.now().as_nanosecond());
        let (spool, next) = (context.spool.to_string(), context.cursor.next);
        let opened = self.writer.open(move |log| {
            let position = resume(log, position, &spool, next, new_lineage)?;
            Ok((position, log.take_lost()))
        });
        let (position, lost) = opened.await?;
        self.lost += lost;
        info!(
            sink = self.name,
            file = position.file,
            offset = position.offset,
            "the file is open"
        );
        self.session = Some(OpenFile {
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
        let Some(session) = &self.session else {
            return Err(PublishError::Fault(not_connected()));
        };
        let collected = self.batch.lines.len();
        if collected >= BATCH_BYTES {
            return Err(PublishError::Full);
        }
        encode::push_line(
            self.format,
            event,
            &session.spool,
            &mut self.scratch,
            &mut self.batch.lines,
        );
        let line = self.batch.lines.len() - collected;
        if self.is_beyond_max_size(session.end, collected as u64, line as u64) {
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

    async fn outcomes(&mut self, acks: &mut Vec<Ack>) -> Result<Next, SinkFault> {
        self.start_writing();
        let Some(writing) = &mut self.writing else {
            return pending().await;
        };
        let written = writing.await;
        self.writing = None;
        let failed = match written {
            Ok(Ok(written)) => {
                self.finish_writing(written, acks);
                return Ok(Next::Continue);
            }
            Ok(Err(error)) => error.into(),
            Err(error) => SinkFault::new(
                FaultKind::Other,
                format!("the task that writes the file ended: {error}"),
            ),
        };
        self.session = None;
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
            lost: self.lost,
            ..SinkStatus::default()
        }
    }

    async fn close(&mut self) {
        if let Some(writing) = self.writing.take() {
            let _ = writing.await;
        }
        self.session = None;
        self.writer.close().await;
        debug!(sink = self.name, "the file is closed");
    }
}

/// Continues where delivery continues, if that is known; returns the place up to which lines are known.
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
        // A kill before any position was kept leaves the cursor where the lineage began.
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

/// A note of another version is none: then events may stand twice, and none is lost.
fn parse_note(note: Option<&str>) -> Option<Position> {
    serde_json::from_str(note?).ok()
}

fn not_connected() -> SinkFault {
    SinkFault::new(FaultKind::Other, "the file is not open")
}

#[cfg(test)]
mod tests;
