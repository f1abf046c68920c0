//! The reader of a delivery: it can be stopped while the spool has further events, and returns the reader of the spool for
//! the next delivery.

use neurobridge_core::{
    epoch::Epochs,
    event::Sequence,
    reader::{Cursor, Read, ReadError, Reader},
};
use neurobridge_spool::SpoolReader;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Reads the spool until the delivery is stopped, then ends as if the spool had no more events, so that the delivery waits for
/// the outcomes of the events in flight. When dropped, returns the reader of the spool for the next delivery: a spool in memory
/// retains no events without a reader.
#[derive(Debug)]
pub struct SinkReader {
    /// `None` only while this reader is dropped.
    reader: Option<SpoolReader>,
    /// The cursor at the start of the delivery.
    cursor: Cursor,
    /// The last committed cursor.
    committed: Cursor,
    stop: CancellationToken,
    /// Sends the reader of the spool and the last committed cursor on drop.
    returned: Option<oneshot::Sender<(SpoolReader, Cursor)>>,
}

impl SinkReader {
    /// Creates the reader of a delivery that starts at `cursor`. Also returns the receiver of the reader of the spool and the
    /// last committed cursor, which are sent on drop.
    pub(crate) fn new(
        mut reader: SpoolReader,
        cursor: Cursor,
        stop: CancellationToken,
    ) -> (Self, oneshot::Receiver<(SpoolReader, Cursor)>) {
        reader.rewind(cursor.next);
        let (returned, receiver) = oneshot::channel();
        let reader = Self {
            reader: Some(reader),
            committed: cursor.clone(),
            cursor,
            stop,
            returned: Some(returned),
        };
        (reader, receiver)
    }
}

impl Reader for SinkReader {
    async fn next(&mut self) -> Result<Read, ReadError> {
        let Some(reader) = &mut self.reader else {
            return Err(ReadError::Stopped);
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Ok(Read::End),
            read = reader.next() => read,
        }
    }

    fn rewind(&mut self, sequence: Sequence) {
        if let Some(reader) = &mut self.reader {
            reader.rewind(sequence);
        }
    }

    fn commit(&mut self, cursor: &Cursor) {
        if let Some(reader) = &mut self.reader {
            reader.commit(cursor);
            self.committed.clone_from(cursor);
        }
    }

    fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    fn end(&self) -> Option<Sequence> {
        self.reader.as_ref()?.end()
    }

    fn epochs(&self) -> Epochs {
        self.reader.as_ref().map(SpoolReader::epochs).unwrap_or_default()
    }
}

impl Drop for SinkReader {
    fn drop(&mut self) {
        if let (Some(reader), Some(returned)) = (self.reader.take(), self.returned.take()) {
            // Without a receiver, no delivery follows.
            let _ = returned.send((reader, self.committed.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use neurobridge_core::{record::Batch, testing};
    use neurobridge_spool::{Spool, SpoolConfig};

    use super::*;

    async fn append(spool: &Spool) {
        let mut batch = Batch::default();
        batch.push(&testing::event(r#"{"id":1,"data":{}}"#));
        spool.append(batch).await.unwrap();
    }

    #[tokio::test]
    async fn next_delivery_continues_at_the_committed_cursor() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(&SpoolConfig::default(), folder.path()).unwrap();
        let reader = spool.reader("sink");
        let (cursor, stop) = (reader.cursor().clone(), CancellationToken::new());
        let (mut reader, returned) = SinkReader::new(reader, cursor, stop.clone());
        append(&spool).await;
        append(&spool).await;
        let Read::Events(first) = reader.next().await.unwrap() else {
            panic!("expected an event")
        };
        let next = first.end();
        let committed = Cursor {
            next,
            ..reader.cursor().clone()
        };
        reader.commit(&committed);
        stop.cancel();
        assert!(matches!(reader.next().await, Ok(Read::End)));
        drop(reader);
        let (reader, cursor) = returned.await.unwrap();
        assert_eq!(cursor, committed);
        // The spool in memory has retained the second event.
        let (mut reader, _) = SinkReader::new(reader, cursor, CancellationToken::new());
        assert!(matches!(reader.next().await, Ok(Read::Events(batch)) if batch.first() == next));
    }
}
