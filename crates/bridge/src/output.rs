//! Non-blocking standard error and standard output: a bounded queue, and a thread that writes its texts.
//!
//! A terminal can be stopped (Ctrl-S), and the reader of a pipe can stop reading. Then a write blocks without limit, and with
//! it the caller: a task, the holder of a lock, the shutdown. With an [`Output`], only its thread blocks.
//! `tracing-appender` does the same for log lines, but its limit counts lines and not bytes, and it neither counts nor
//! reports lines that could not be written.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// The capacity of the queue: several thousand log lines, or some hundred screens of the demo.
const QUEUE_BYTES: usize = 2 << 20;
/// The overhead of a queued text in addition to its bytes.
const TEXT_OVERHEAD_BYTES: usize = 64;
/// The time limits of a flush, without progress and in total: the exit must not depend on a reader.
const STALL_LIMIT: Duration = Duration::from_secs(1);
const FLUSH_LIMIT: Duration = Duration::from_secs(4);
/// The retry interval if another process has made the shared stream non-blocking. Only the thread of the output waits.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// A stream with a queue and a writing thread. Clones are handles to the same queue.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Notified when the queue has changed.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    texts: VecDeque<Box<[u8]>>,
    bytes: usize,
    /// Whether the thread is writing a text that it has removed from the queue.
    is_writing: bool,
    /// The number of texts that the thread has written or dropped.
    done: u64,
    /// The number of texts that were not written, because the queue was full or the write failed.
    dropped: u64,
    /// The number of dropped texts that were reported.
    reported: u64,
    /// The error of the last write; `None` if it succeeded.
    error: Option<io::Error>,
}

impl Queue {
    fn is_idle(&self) -> bool {
        self.texts.is_empty() && !self.is_writing
    }
}

impl Output {
    /// Starts the thread. After texts were dropped, the thread calls `report` with their number once a write succeeds and
    /// the queue is empty; `report` may [`push`](Self::push).
    ///
    /// # Errors
    /// Returns an error if the system cannot start a thread.
    pub(crate) fn start(
        name: &str,
        target: impl Write + Send + 'static,
        report: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let writer = Arc::clone(&shared);
        // Never joined, since a write may not return. The thread ends with the process.
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || writer.write_all(target, report))?;
        Ok(Self { shared })
    }

    /// Queues a text without blocking. If the queue is full, counts the text as dropped and returns false.
    pub(crate) fn push(&self, text: impl Into<Box<[u8]>>) -> bool {
        let text = text.into();
        let cost = text.len() + TEXT_OVERHEAD_BYTES;
        let mut queue = self.shared.lock();
        if queue.bytes + cost > QUEUE_BYTES {
            queue.dropped += 1;
            return false;
        }
        queue.bytes += cost;
        queue.texts.push_back(text);
        self.shared.changed.notify_all();
        true
    }

    /// Waits until all queued texts are written. Returns false if the reader is stuck: after a second without progress, or
    /// a few seconds in total.
    pub(crate) fn flush(&self) -> bool {
        let end = Instant::now() + FLUSH_LIMIT;
        let mut queue = self.shared.lock();
        while !queue.is_idle() {
            let done = queue.done;
            let (guard, wait) = self
                .shared
                .changed
                .wait_timeout_while(queue, STALL_LIMIT, |queue| !queue.is_idle() && queue.done == done)
                .unwrap_or_else(PoisonError::into_inner);
            queue = guard;
            if wait.timed_out() || Instant::now() >= end {
                return queue.is_idle();
            }
        }
        true
    }

    /// Returns whether all texts are written.
    pub(crate) fn is_idle(&self) -> bool {
        self.shared.lock().is_idle()
    }

    /// Returns the number of texts that were not written.
    pub(crate) fn dropped(&self) -> u64 {
        self.shared.lock().dropped
    }

    /// Takes the error of the last write.
    pub(crate) fn take_error(&self) -> Option<io::Error> {
        self.shared.lock().error.take()
    }
}

/// Queues the text. If the queue is full, the text is counted as dropped, and the write still succeeds.
impl Write for Output {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.push(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // No code under this lock can panic in the middle of an update.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs the thread: writes each text with a separate write, so that other writers of the same stream do not split the
    /// lines of the text. Never returns.
    fn write_all(&self, mut target: impl Write, report: impl Fn(u64)) {
        loop {
            let text = self.next();
            let written = write(&mut target, &text);
            let mut queue = self.lock();
            queue.done += 1;
            match written {
                Ok(()) => queue.error = None,
                Err(error) => {
                    queue.error = Some(error);
                    queue.dropped += 1;
                }
            }
            let unreported = queue.dropped - queue.reported;
            // After a failed write, the write of the report would fail too, and would have to be reported.
            if unreported > 0 && queue.error.is_none() && queue.texts.is_empty() {
                queue.reported = queue.dropped;
                drop(queue);
                report(unreported);
                queue = self.lock();
            }
            queue.is_writing = false;
            drop(queue);
            self.changed.notify_all();
        }
    }

    fn next(&self) -> Box<[u8]> {
        let mut queue = self.lock();
        loop {
            if let Some(text) = queue.texts.pop_front() {
                queue.bytes -= text.len() + TEXT_OVERHEAD_BYTES;
                queue.is_writing = true;
                return text;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn write(target: &mut impl Write, mut text: &[u8]) -> io::Result<()> {
    while !text.is_empty() {
        match target.write(text) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => text = &text[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY_INTERVAL),
            Err(error) => return Err(error),
        }
    }
    target.flush()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use proptest::prelude::*;

    use super::*;

    /// A stream whose writes block until the test allows or fails them.
    struct Gate {
        allowed: mpsc::Receiver<io::Result<()>>,
        written: mpsc::Sender<String>,
    }

    impl Write for Gate {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            // After the end of the test all writes succeed.
            self.allowed.recv().unwrap_or(Ok(()))?;
            let _ = self.written.send(String::from_utf8_lossy(text).into_owned());
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// An output whose stream is a [`Gate`].
    struct Held {
        output: Output,
        allow: mpsc::Sender<io::Result<()>>,
        written: mpsc::Receiver<String>,
        reports: mpsc::Receiver<u64>,
    }

    fn held() -> Held {
        let (allow, allowed) = mpsc::channel();
        let (to_test, written) = mpsc::channel();
        let (report, reports) = mpsc::channel();
        let gate = Gate {
            allowed,
            written: to_test,
        };
        let output = Output::start("test", gate, move |lines| {
            let _ = report.send(lines);
        })
        .unwrap();
        Held {
            output,
            allow,
            written,
            reports,
        }
    }

    #[test]
    fn full_queue_drops_texts_and_reports_their_number_later() {
        let held = held();
        let text = vec![b'x'; 64 * 1024];
        let mut queued = 0_u64;
        // One text is in the blocked write and no longer counts for the queue.
        while held.output.dropped() == 0 {
            queued += u64::from(held.output.push(text.clone()));
        }
        assert!(queued >= 31, "{queued}");
        assert!(!held.output.push(text.clone()));
        let dropped = held.output.dropped();
        assert!(!held.output.flush(), "flush must not wait for a stuck reader");
        for _ in 0..queued {
            held.allow.send(Ok(())).unwrap();
        }
        assert!(held.output.flush());
        assert_eq!(held.written.try_iter().count() as u64, queued);
        assert_eq!(held.reports.try_iter().collect::<Vec<_>>(), [dropped]);
    }

    #[test]
    fn failed_write_is_counted_and_reported_after_a_success() {
        let held = held();
        held.allow.send(Err(ErrorKind::BrokenPipe.into())).unwrap();
        held.output.push(*b"lost");
        assert!(held.output.flush());
        assert_eq!(held.output.dropped(), 1);
        assert!(
            held.reports.try_recv().is_err(),
            "a report was written to a failing stream"
        );
        assert_eq!(held.output.take_error().unwrap().kind(), ErrorKind::BrokenPipe);
        held.allow.send(Err(ErrorKind::WouldBlock.into())).unwrap();
        held.allow.send(Err(ErrorKind::Interrupted.into())).unwrap();
        held.allow.send(Ok(())).unwrap();
        held.output.push(*b"kept");
        assert!(held.output.flush());
        assert_eq!(held.written.try_iter().collect::<Vec<_>>(), ["kept"]);
        assert_eq!(held.reports.try_iter().collect::<Vec<_>>(), [1]);
        assert_eq!(held.output.dropped(), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_text_is_written_in_order_or_counted_as_dropped(
            sizes in prop::collection::vec(0_usize..400_000, 1..40),
        ) {
            let held = held();
            let mut expected = Vec::new();
            for (number, size) in sizes.iter().enumerate() {
                let text = format!("{number:>3} {}", "x".repeat(*size));
                if held.output.push(text.clone().into_bytes()) {
                    expected.push(text);
                }
            }
            drop(held.allow);
            prop_assert!(held.output.flush());
            prop_assert_eq!(held.output.dropped() as usize, sizes.len() - expected.len());
            prop_assert_eq!(held.written.try_iter().collect::<Vec<_>>(), expected);
        }
    }
}
