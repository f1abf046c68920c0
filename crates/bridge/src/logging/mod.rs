//! Logging: to standard error, in one of three formats, what repeats only now and then. No log line blocks whoever logs it.

mod logfmt;
mod one_line;
mod repeats;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    panic,
    sync::OnceLock,
    thread,
};

use tracing::warn;
use tracing_subscriber::{
    EnvFilter, Layer, Registry, fmt,
    layer::SubscriberExt,
    util::{SubscriberInitExt, TryInitError},
};

use self::{
    logfmt::Logfmt,
    one_line::OneLine,
    repeats::{Repeats, Reporter},
};
use crate::{config::LogFormat, output::Output, terminal::colours};

/// Standard error, once there is logging.
static STDERR: OnceLock<Output> = OnceLock::new();

/// Keeps logging complete: dropped at the end of the program, it tells what was left out and not told yet.
#[must_use = "dropped at once, it tells nothing"]
#[derive(Debug)]
pub struct Guard {
    _reporter: Reporter,
}

/// Why there is no logging.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The level is none.
    #[error("found \"{level}\" as the level to log, expected error, warn, info, debug or trace")]
    Level {
        /// What was found.
        level: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// There is logging already.
    #[error("logging is set up already")]
    Twice(#[from] TryInitError),
    /// No thread is available.
    #[error("cannot start the log thread")]
    Thread(#[source] io::Error),
}

/// Sets logging up for the whole process.
///
/// # Errors
/// See [`LogError`].
pub fn init(format: LogFormat, level: &str) -> Result<Guard, LogError> {
    // The NATS client tells as errors what its sink tells as states, and that it may not come back by itself, as it is
    // meant to. What is said of it in `level` comes later and counts.
    let filter = EnvFilter::builder()
        .parse(format!("async_nats=off,{level}"))
        .map_err(|source| LogError::Level {
            level: level.to_owned(),
            source,
        })?;
    let repeats = Repeats::default();
    let output = stderr().map_err(LogError::Thread)?;
    let writer = output.clone();
    let layer = layer(format, move || writer.clone(), colours(&io::stderr()))
        .with_filter(repeats.clone())
        .with_filter(filter);
    Registry::default().with(layer).try_init()?;
    report_panics(output.clone());
    let reporter = Reporter::start(repeats).map_err(LogError::Thread)?;
    Ok(Guard { _reporter: reporter })
}

/// Returns standard error, as it is written to by a thread of its own.
fn stderr() -> io::Result<&'static Output> {
    if let Some(output) = STDERR.get() {
        return Ok(output);
    }
    // Not by way of the library's handle: its lock would be held by the thread for as long as a write waits.
    let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let output = Output::start("log", stderr, |lines| {
        warn!(
            lines,
            "log lines dropped; standard error was blocked or refused writes"
        );
    })?;
    Ok(STDERR.get_or_init(|| output))
}

/// Writes the messages of panics by way of the queue, after the lines logged before. The usual hook could wait without limit, with
/// a lock of the process held.
fn report_panics(output: Output) {
    panic::set_hook(Box::new(move |panic| {
        let thread = thread::current();
        let backtrace = Backtrace::capture();
        let backtrace = match backtrace.status() {
            BacktraceStatus::Captured => format!("{backtrace}\n"),
            _ => String::new(),
        };
        let name = thread.name().unwrap_or("<unnamed>");
        output.push(format!("thread '{name}' {panic}\n{backtrace}").into_bytes());
        // The process may end before another flush.
        output.flush();
    }));
}

/// Writes the last words of the program to standard error, after all log lines.
pub(crate) fn write_last(text: String) {
    match STDERR.get() {
        Some(output) => drop(output.push(text.into_bytes())),
        // Without logging no signal is handled yet: a write that waits ends with the first one. There is nobody to report an error to.
        None => drop(io::stderr().write_all(text.as_bytes())),
    }
}

/// Waits until all log lines are written, for at most some seconds, so that the exit does not depend on a reader.
pub(crate) fn flush() {
    if let Some(output) = STDERR.get() {
        output.flush();
    }
}

/// Returns the number of log lines that were not written.
pub(crate) fn dropped_lines() -> u64 {
    STDERR.get().map_or(0, Output::dropped)
}

/// The layer that writes lines of this format.
fn layer<W>(format: LogFormat, writer: W, colours: bool) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'w> fmt::MakeWriter<'w> + Send + Sync + 'static,
{
    let layer = fmt::layer()
        .with_writer(OneLine {
            writer,
            is_json: format == LogFormat::Json,
        })
        // It would write its own errors to standard error directly, and wait there.
        .log_internal_errors(false)
        .with_ansi(colours && format == LogFormat::Text);
    match format {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_current_span(false).boxed(),
        LogFormat::Logfmt => layer.event_format(Logfmt).boxed(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::{info, subscriber::with_default, warn};

    use super::*;

    #[derive(Clone, Default)]
    pub(super) struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        pub(super) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn logged(format: LogFormat) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        with_default(
            Registry::default().with(layer(format, move || writer.clone(), true)),
            || {
                info!(source = "main", events = 3, "the bridge \"runs\"");
            },
        );
        lines.text()
    }

    #[test]
    fn each_format_has_its_look() {
        let text = logged(LogFormat::Text);
        assert!(
            text.contains("\u{1b}[") && text.contains("the bridge \"runs\""),
            "{text}"
        );
        let json: serde_json::Value = serde_json::from_str(&logged(LogFormat::Json)).unwrap();
        assert_eq!(
            (&json["level"], &json["message"], &json["source"], &json["events"]),
            (
                &"INFO".into(),
                &"the bridge \"runs\"".into(),
                &"main".into(),
                &3.into()
            )
        );
        let logfmt = logged(LogFormat::Logfmt);
        assert!(!logfmt.contains('\u{1b}'));
        let (time, rest) = logfmt.split_once(' ').unwrap();
        assert!(
            time.strip_prefix("ts=")
                .unwrap()
                .parse::<jiff::Timestamp>()
                .is_ok(),
            "{time}"
        );
        assert_eq!(
            rest,
            "level=info target=neurobridge::logging::tests msg=\"the bridge \\\"runs\\\"\" source=main events=3\n"
        );
    }

    #[test]
    fn repeated_messages_are_suppressed_and_counted() {
        let lines = Lines::default();
        let writer = lines.clone();
        let repeats = Repeats::default();
        let layer = layer(LogFormat::Logfmt, move || writer.clone(), false).with_filter(repeats.clone());
        with_default(Registry::default().with(layer), || {
            for port in 0..100 {
                warn!(source = "main", port, "no connection to port {port}");
                warn!(source = "other", "something else");
            }
            repeats.tell_all();
        });
        let text = lines.text();
        let count = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        assert_eq!(count("msg=\"no connection to port"), repeats::LIMIT);
        assert_eq!(count("msg=\"something else"), repeats::LIMIT);
        let suppressed = format!("suppressed={}", 100 - repeats::LIMIT);
        assert_eq!(count(&suppressed), 2, "{text}");
        assert!(text.contains("like=\"no connection to port"), "{text}");
    }

    #[test]
    fn foreign_text_stays_on_its_line_in_each_format() {
        for format in [LogFormat::Text, LogFormat::Json, LogFormat::Logfmt] {
            for colours in [false, true] {
                let lines = Lines::default();
                let writer = lines.clone();
                with_default(
                    Registry::default().with(layer(format, move || writer.clone(), colours)),
                    || {
                        let text = "a\nb\u{1b}[2Jc\u{2028}d\u{202e}e\u{200b}f";
                        warn!(error = text, "the server says {text}");
                    },
                );
                let text = lines.text();
                let line = text.strip_suffix('\n').unwrap();
                let is_unsafe = |c| c != '\u{1b}' && neurobridge_core::foreign_text::is_unsafe(c);
                assert!(!line.contains(is_unsafe), "{format:?}: {line:?}");
                assert!(
                    !line.contains("\u{1b}[2J") && line.contains("[2Jc"),
                    "{format:?}: {line:?}"
                );
                if format == LogFormat::Json {
                    serde_json::from_str::<serde_json::Value>(line).unwrap();
                }
            }
        }
    }

    #[test]
    fn a_wrong_level_is_named() {
        let error = init(LogFormat::Text, "a=loud").unwrap_err();
        assert!(error.to_string().contains("a=loud"), "{error}");
    }
}
