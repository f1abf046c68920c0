//! Suppresses and counts repeated log messages, so that the log of a long outage does not fill the disk.

use std::{
    collections::HashMap,
    fmt::{Debug, Write},
    hash::{DefaultHasher, Hash, Hasher},
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, RecvTimeoutError, SyncSender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tracing::{
    Event, Level, Metadata, Subscriber, dispatcher, error,
    field::{Field, Visit},
    info, warn,
};
use tracing_subscriber::layer::{Context, Filter};

/// The number of similar messages that are logged in a period; further ones are suppressed and counted.
pub(super) const LIMIT: usize = 10;
/// The length of a period, after which the number of suppressed messages is logged.
const PERIOD: Duration = Duration::from_secs(30);
/// The largest number of kinds of messages that are counted. Messages of further kinds are never suppressed.
const MAX_KINDS: usize = 1024;
/// The length to which the example of a suppressed message is cut.
const MAX_EXAMPLE_BYTES: usize = 160;
/// The target of this module's own messages.
const TARGET: &str = "neurobridge::repeats";
/// The modules whose messages are never suppressed. They log changes of state, which must not be hidden, and limit their
/// repetitions themselves.
const NEVER_SUPPRESSED: [&str; 6] = [
    TARGET,
    "neurobridge::bridge",
    "neurobridge_core::delivery",
    "neurobridge_listener::attempts",
    "neurobridge_listener::connections",
    "neurobridge_spool::disk::shortage",
];

/// A filter that passes the first [`LIMIT`] log events of each kind in a period. Two log events are of the same kind if
/// they come from the same place in the code and differ only in digits; texts, such as the name of a source, must be
/// equal.
///
/// Levels below `INFO` are never suppressed: they are enabled only to see all details. Nor are changes of state, see
/// [`NEVER_SUPPRESSED`].
#[derive(Clone, Debug, Default)]
pub(super) struct Repeats {
    kinds: Arc<Mutex<HashMap<u64, Kind>>>,
}

#[derive(Debug)]
struct Kind {
    since: Instant,
    passed: usize,
    suppressed: u64,
    level: Level,
    example: String,
}

impl Repeats {
    /// Logs the numbers of messages suppressed in completed periods.
    fn report(&self) {
        self.report_where(|kind| kind.since.elapsed() >= PERIOD);
    }

    /// Logs the numbers of suppressed messages, also of periods that have not ended.
    pub(super) fn report_all(&self) {
        self.report_where(|_| true);
    }

    fn report_where(&self, is_due: impl Fn(&Kind) -> bool) {
        let due: Vec<Kind> = self
            .kinds()
            .extract_if(|_, kind| is_due(kind))
            .map(|(_, kind)| kind)
            .collect();
        for Kind {
            suppressed,
            level,
            example,
            ..
        } in due
        {
            if suppressed == 0 {
                continue;
            }
            match level {
                Level::ERROR => {
                    error!(target: TARGET, suppressed, like = example, "suppressed repeated messages")
                }
                Level::WARN => {
                    warn!(target: TARGET, suppressed, like = example, "suppressed repeated messages")
                }
                _ => {
                    info!(target: TARGET, suppressed, like = example, "suppressed repeated messages")
                }
            }
        }
    }

    fn passes(&self, event: &Event<'_>) -> bool {
        let metadata = event.metadata();
        let is_of = |module: &str| {
            let rest = metadata.target().strip_prefix(module);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        if *metadata.level() > Level::INFO || NEVER_SUPPRESSED.into_iter().any(is_of) {
            return true;
        }
        let mut similarity = Similarity::new(metadata);
        event.record(&mut similarity);
        let key = similarity.hasher.finish();
        let now = Instant::now();
        let mut kinds = self.kinds();
        if kinds.len() >= MAX_KINDS && !kinds.contains_key(&key) {
            return true;
        }
        let kind = kinds.entry(key).or_insert_with(|| Kind {
            since: now,
            passed: 0,
            suppressed: 0,
            level: *metadata.level(),
            example: String::new(),
        });
        // With suppressed messages, the new period begins only when `report` has logged their number.
        if kind.suppressed == 0 && now.duration_since(kind.since) >= PERIOD {
            kind.since = now;
            kind.passed = 0;
        }
        if kind.passed < LIMIT {
            kind.passed += 1;
            return true;
        }
        kind.suppressed += 1;
        if kind.example.is_empty() {
            kind.example = similarity.message;
        }
        false
    }

    fn kinds(&self) -> MutexGuard<'_, HashMap<u64, Kind>> {
        // The counts are valid also after a panic under this lock.
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Subscriber> Filter<S> for Repeats {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        self.passes(event)
    }
}

/// Computes the hash that is equal for log events of the same kind.
struct Similarity {
    hasher: DefaultHasher,
    message: String,
}

impl Similarity {
    fn new(metadata: &Metadata<'_>) -> Self {
        let mut hasher = DefaultHasher::new();
        metadata.callsite().hash(&mut hasher);
        Self {
            hasher,
            message: String::new(),
        }
    }
}

impl Visit for Similarity {
    fn record_str(&mut self, field: &Field, value: &str) {
        field.name().hash(&mut self.hasher);
        value.hash(&mut self.hasher);
    }

    fn record_u64(&mut self, _: &Field, _: u64) {}

    fn record_i64(&mut self, _: &Field, _: i64) {}

    fn record_f64(&mut self, _: &Field, _: f64) {}

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = write!(text, "{value:?}");
        field.name().hash(&mut self.hasher);
        for part in text
            .split(|c: char| c.is_ascii_digit())
            .filter(|part| !part.is_empty())
        {
            part.hash(&mut self.hasher);
        }
        if field.name() == "message" {
            let end = (0..=MAX_EXAMPLE_BYTES.min(text.len()))
                .rfind(|end| text.is_char_boundary(*end))
                .unwrap_or(0);
            text.truncate(end);
            self.message = text;
        }
    }
}

/// A thread that reports suppressed messages after each period, and the remaining ones on drop.
#[derive(Debug)]
pub(super) struct Reporter {
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Reporter {
    /// Starts the thread with the current subscriber.
    pub(super) fn start(repeats: Repeats) -> io::Result<Self> {
        // No message is ever sent: the receiver wakes up when the sender is dropped.
        let (stop, stopped) = mpsc::sync_channel(0);
        let dispatch = dispatcher::get_default(Clone::clone);
        let thread = thread::Builder::new()
            .name("log-repeats".to_owned())
            .spawn(move || {
                dispatcher::with_default(&dispatch, || {
                    while stopped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                        repeats.report();
                    }
                    repeats.report_all();
                });
            })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // An error means that the thread panicked, and the panic hook has reported it.
            let _ = thread.join();
        }
    }
}
