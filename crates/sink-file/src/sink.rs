//! The sink: lines are collected, then written and synced together.

use std::{future::pending, path::Path, sync::Arc};

use jiff::Timestamp;
use neurobridge_core::{
    dead_letter::DeadLetter,
    event::{Event, Sequence},
    identity::SpoolId,
    sink::{Ack, FaultKind, PublishError, Session, Sink, SinkFault, Verdict},
};
use tokio::task::JoinHandle;
use tracing::{debug, info};

use crate::{
    config::{FileConfig, FileFormat},
    encode,
    error::FileError,
    log::{Clock, Log},
    position::Position,
    writer::Writer,
};

/// No more is collected for one write, while another is under way. It bounds memory, and how much a kill leaves to be cut off.
const BATCH_BYTES: usize = 1024 * 1024;

/// Writes events as JSON lines to a file.
///
/// What was published since the last write began is collected; [`flush`](Sink::flush) has it written and synced on the
/// blocking pool, unless a write is under way: then it goes with the next one. So the slower the disk, the more events share
/// a sync, and it is never the number of syncs that holds up the feed.
///
/// Writes are in order, and all that one wrote has its outcome together; so the [`note`](Sink::note), file and offset, can be
/// kept with the cursor after each. With a note, what stands behind it is cut off at the next start, as it is sent again: each
/// event stands in the files once. Without (the spool was in memory, or is new) new lines are appended to what is there.
///
/// Dropping it leaves whole lines, and of a batch at hand all lines or none.
pub struct FileSink {
    name: String,
    format: FileFormat,
    max_size: u64,
    writer: Writer,
    clock: Clock,
    session: Option<Connected>,
    /// Where the last batch with an outcome ends. Better than the cursor's note for a reconnect: the cursor may be older.
    acknowledged: Option<Position>,
    batch: Batch,
    /// The memory of the batch before.
    spare: Batch,
    writing: Option<JoinHandle<Result<Written, FileError>>>,
    scratch: String,
}

/// What is only true while connected.
struct Connected {
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
}

struct Written {
    batch: Batch,
    position: Position,
}

impl FileSink {
    /// A sink for a configuration without [errors](FileConfig::check). A relative path begins at `data_dir`.
    /// Nothing is opened before it connects.
    pub fn new(name: impl Into<String>, config: &FileConfig, data_dir: &Path) -> Self {
        Self::with_clock(name, config, data_dir, Arc::new(Timestamp::now))
    }

    pub(crate) fn with_clock(
        name: impl Into<String>,
        config: &FileConfig,
        data_dir: &Path,
        clock: Clock,
    ) -> Self {
        let limits = config.limits();
        Self {
            name: name.into(),
            format: config.format,
            max_size: limits.max_size,
            writer: Writer::new(data_dir.join(&config.path), limits, Arc::clone(&clock)),
            clock,
            session: None,
            acknowledged: None,
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
            log.append(batch.lines.as_bytes())?;
            let position = log.position(&lineage);
            Ok(Written { batch, position })
        }));
    }

    /// Takes the result of a write: what it wrote has its outcome from here on.
    fn finish_writing(&mut self, written: Written, acks: &mut Vec<Ack>) {
        let Written { mut batch, position } = written;
        acks.extend(batch.sequences.drain(..).map(|sequence| Ack {
            sequence,
            verdict: Verdict::Delivered,
        }));
        if let Some(session) = &mut self.session {
            session.end = position.offset;
        }
        self.acknowledged = Some(position);
        batch.lines.clear();
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
    async fn connect(&mut self, session: &Session<'_>) -> Result<(), SinkFault> {
        self.session = None;
        self.batch.lines.clear();
        self.batch.sequences.clear();
        // What it still writes is cut off, or never written: the writer sees to it.
        self.writing = None;
        let position = self
            .acknowledged
            .clone()
            .or_else(|| parse_note(session.cursor.note.as_deref()));
        let new_lineage = format!("{}/{}", session.spool, (self.clock)().as_nanosecond());
        let opened = self.writer.open(move |log| resume(log, position, new_lineage));
        let position = opened.await?;
        info!(
            sink = self.name,
            file = position.file,
            offset = position.offset,
            "the file is open"
        );
        self.session = Some(Connected {
            spool: session.spool,
            lineage: position.lineage.as_str().into(),
            end: position.offset,
        });
        self.acknowledged = Some(position);
        Ok(())
    }

    fn publish(&mut self, event: &Event<'_>) -> Result<(), PublishError> {
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
        Ok(())
    }

    fn publish_dead_letter(&mut self, _letter: &DeadLetter<'_>) -> Result<(), PublishError> {
        Err(PublishError::Fault(SinkFault::new(
            FaultKind::Other,
            "a file sink keeps no dead letters; this is a bug",
        )))
    }

    fn keeps_dead_letters(&self) -> bool {
        false
    }

    async fn flush(&mut self) -> Result<(), SinkFault> {
        self.start_writing();
        Ok(())
    }

    async fn outcomes(&mut self, acks: &mut Vec<Ack>) -> Result<(), SinkFault> {
        self.start_writing();
        let Some(writing) = &mut self.writing else {
            return pending().await;
        };
        let written = writing.await;
        self.writing = None;
        let failed = match written {
            Ok(Ok(written)) => {
                self.finish_writing(written, acks);
                return Ok(());
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

    fn note(&self) -> Option<String> {
        let position = self.acknowledged.as_ref()?;
        serde_json::to_string(position).ok()
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

/// Goes back to where delivery goes on, if that can be told; where the file ends then.
fn resume(log: &mut Log, position: Option<Position>, new_lineage: String) -> Result<Position, FileError> {
    let lineage = log.lineage()?;
    if let Some(position) = position.filter(|position| position.lineage == lineage) {
        if !log.truncate_to(&position)? {
            info!(
                file = position.file,
                offset = position.offset,
                "the file written last is gone; goes on behind what is there"
            );
        }
        return Ok(log.position(&lineage));
    }
    log.set_lineage(&new_lineage)?;
    Ok(log.position(&new_lineage))
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
