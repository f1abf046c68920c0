//! The memory used by a delivery whose sink reports no outcome.

use super::*;

/// A sink that accepts one event and never reports its outcome.
struct SilentSink;

impl Sink for SilentSink {
    async fn connect(&mut self, _: &ConnectContext<'_>) -> Result<Connected, SinkFault> {
        Ok(plain_connection())
    }

    silent_sink!();
}

/// A reader of an endless log, which counts the bytes that were read.
struct EndlessReader {
    next: Sequence,
    cursor: Cursor,
    read_bytes: Arc<Mutex<usize>>,
}

impl Reader for EndlessReader {
    async fn next(&mut self) -> Result<Read, ReadError> {
        let result = if self.next == Sequence::FIRST {
            "new"
        } else {
            "junk"
        };
        let frame = format!(
            r#"{{"data":{{"result":"{result}","fill":"{}"}}}}"#,
            "x".repeat(1 << 20)
        );
        let mut batch = Batch::default();
        batch.push(&testing::event(&frame));
        let batch = batch.seal(self.next);
        self.next = batch.end();
        *self.read_bytes.lock().unwrap() += batch.bytes().len();
        Ok(Read::Events(batch))
    }

    fn rewind(&mut self, sequence: Sequence) {
        self.next = sequence;
        // The client was replaced, so the delivery has discarded the batches that it had read.
        *self.read_bytes.lock().unwrap() = 0;
    }

    fn commit(&mut self, _: &Cursor) {}

    fn cursor(&self) -> &Cursor {
        &self.cursor
    }
}

#[test]
fn reads_are_bounded_while_an_event_has_no_outcome() {
    let runtime = runtime();
    let cursor = Cursor::starting_at(Sequence::FIRST);
    let read_bytes = Arc::new(Mutex::new(0));
    let reader = EndlessReader {
        next: Sequence::FIRST,
        cursor: cursor.clone(),
        read_bytes: Arc::clone(&read_bytes),
    };
    let options = DeliveryOptions {
        filter: Filter::new([("result", ["new"])]).unwrap(),
        ..options("silent")
    };
    let shutdown = Shutdown {
        drain: CancellationToken::new(),
        abort: CancellationToken::new(),
    };
    let abort = shutdown.abort.clone();
    runtime.block_on(async move {
        tokio::spawn(async move {
            // The clock is paused, so the timer advances it by 60 s at once.
            sleep(Duration::from_secs(60)).await;
            abort.cancel();
        });
        deliver(
            SilentSink,
            reader,
            options,
            Arc::new(Progress::new(cursor)),
            shutdown,
        )
        .await
        .unwrap()
    });
    let read_bytes = *read_bytes.lock().unwrap();
    assert!((16 << 20..18 << 20).contains(&read_bytes), "{read_bytes}");
}
