//! What repeats is logged now and then only, and counted: a broker that is away for a night must not fill a disk.

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

/// So many alike are logged in a period; the others are counted.
pub(super) const LIMIT: usize = 10;
/// The period. Whoever watches learns within it how many were left out.
const PERIOD: Duration = Duration::from_secs(30);
/// So many kinds of messages are told apart; when there are more, the further ones are logged all.
const MAX_KINDS: usize = 1024;
/// So much of a message is kept, to say what was left out.
const MAX_EXAMPLE_BYTES: usize = 160;
/// What this module itself logs, which is not counted.
const TARGET: &str = "neurobridge::repeats";

/// A filter that lets the first few events of a kind pass in each period. Two are of one kind when they come from the
/// same place in the code and differ in digits only; texts, such as the name of a source, must be the same in full.
///
/// Below `INFO` everything passes: whoever asks for it wants all of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Repeats {
    kinds: Arc<Mutex<HashMap<u64, Kind>>>,
}

#[derive(Debug)]
struct Kind {
    since: Instant,
    passed: usize,
    left_out: u64,
    level: Level,
    example: String,
}

impl Repeats {
    /// Logs how many were left out in periods that are over.
    fn tell(&self) {
        self.tell_where(|kind| kind.since.elapsed() >= PERIOD);
    }

    /// Logs how many were left out, also in periods that are not over yet.
    pub(super) fn tell_all(&self) {
        self.tell_where(|_| true);
    }

    fn tell_where(&self, is_over: impl Fn(&Kind) -> bool) {
        let over: Vec<Kind> = self
            .kinds()
            .extract_if(|_, kind| is_over(kind))
            .map(|(_, kind)| kind)
            .collect();
        for Kind {
            left_out,
            level,
            example,
            ..
        } in over
        {
            if left_out == 0 {
                continue;
            }
            match level {
                Level::ERROR => {
                    error!(target: TARGET, suppressed = left_out, like = example, "suppressed repeated messages")
                }
                Level::WARN => {
                    warn!(target: TARGET, suppressed = left_out, like = example, "suppressed repeated messages")
                }
                _ => {
                    info!(target: TARGET, suppressed = left_out, like = example, "suppressed repeated messages")
                }
            }
        }
    }

    fn passes(&self, event: &Event<'_>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::INFO || metadata.target() == TARGET {
            return true;
        }
        let mut likeness = Likeness::new(metadata);
        event.record(&mut likeness);
        let key = likeness.hasher.finish();
        let now = Instant::now();
        let mut kinds = self.kinds();
        if kinds.len() >= MAX_KINDS && !kinds.contains_key(&key) {
            return true;
        }
        let kind = kinds.entry(key).or_insert_with(|| Kind {
            since: now,
            passed: 0,
            left_out: 0,
            level: *metadata.level(),
            example: String::new(),
        });
        // What was left out before is told first: `tell` begins a new period.
        if kind.left_out == 0 && now.duration_since(kind.since) >= PERIOD {
            kind.since = now;
            kind.passed = 0;
        }
        if kind.passed < LIMIT {
            kind.passed += 1;
            return true;
        }
        kind.left_out += 1;
        if kind.example.is_empty() {
            kind.example = likeness.message;
        }
        false
    }

    fn kinds(&self) -> MutexGuard<'_, HashMap<u64, Kind>> {
        // Counts stay true whatever a thread died of.
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

/// What makes events alike.
struct Likeness {
    hasher: DefaultHasher,
    message: String,
}

impl Likeness {
    fn new(metadata: &Metadata<'_>) -> Self {
        let mut hasher = DefaultHasher::new();
        metadata.callsite().hash(&mut hasher);
        Self {
            hasher,
            message: String::new(),
        }
    }
}

impl Visit for Likeness {
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

/// A thread that tells, period by period, what was left out. It awaits the end of a period or its own; dropped, it
/// tells the rest.
#[derive(Debug)]
pub(super) struct Reporter {
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Reporter {
    /// Starts it for the process's logging.
    pub(super) fn start(repeats: Repeats) -> io::Result<Self> {
        // Nothing is ever sent: the receiver wakes up when the sender is dropped.
        let (stop, stopped) = mpsc::sync_channel(0);
        let dispatch = dispatcher::get_default(Clone::clone);
        let thread = thread::Builder::new()
            .name("log-repeats".to_owned())
            .spawn(move || {
                dispatcher::with_default(&dispatch, || {
                    while stopped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                        repeats.tell();
                    }
                    repeats.tell_all();
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
            // It can only have panicked, and then it has said so.
            let _ = thread.join();
        }
    }
}
