//! Logging to standard error in one of three formats. Repeated messages are suppressed, and logging never blocks the caller.

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

/// The queue of lines for standard error, once logging is set up.
static STDERR: OnceLock<Output> = OnceLock::new();

/// Reports the messages suppressed so far when it is dropped, at the end of the program.
#[must_use = "suppressed messages are reported only while the guard lives"]
#[derive(Debug)]
pub struct Guard {
    _reporter: Reporter,
}

/// The reason why logging cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The log level is invalid.
    #[error("found \"{level}\" as the log level, expected error, warn, info, debug or trace")]
    Level {
        /// The invalid level.
        level: String,
        /// The error of the parser.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Logging is set up already.
    #[error("logging is set up already")]
    AlreadySetUp(#[from] TryInitError),
    /// The log thread cannot be started.
    #[error("cannot start the log thread")]
    Thread(#[source] io::Error),
}

/// Sets logging up for the whole process.
///
/// # Errors
/// See [`LogError`].
pub fn init(format: LogFormat, level: &str) -> Result<Guard, LogError> {
    // The NATS client logs errors that the sink reports as states anyway, and that it does not reconnect by itself, which is
    // intended. A directive for `async_nats` in `level` comes later and overrides this one.
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

/// Returns standard error with a queue and a writing thread.
fn stderr() -> io::Result<&'static Output> {
    if let Some(output) = STDERR.get() {
        return Ok(output);
    }
    // A separate file handle: the thread would hold the lock of the library's handle while a write blocks.
    let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let output = Output::start("log", stderr, |lines| {
        warn!(
            lines,
            "log lines dropped; standard error was blocked or refused writes"
        );
    })?;
    Ok(STDERR.get_or_init(|| output))
}

/// Writes panic messages to the queue, after the earlier log lines. The default hook could block without limit while it
/// holds a lock of the process.
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
        // The process may end before the next flush.
        output.flush();
    }));
}

/// Writes the final message of the program to standard error, after all log lines.
pub(crate) fn write_last(text: String) {
    match STDERR.get() {
        Some(output) => drop(output.push(text.into_bytes())),
        // Without logging there are no signal handlers yet, so a signal ends a write that blocks. An error of this write
        // cannot be reported anywhere.
        None => drop(io::stderr().write_all(text.as_bytes())),
    }
}

/// Waits until all log lines are written, at most a few seconds, so that the exit does not depend on a reader.
pub(crate) fn flush() {
    if let Some(output) = STDERR.get() {
        output.flush();
    }
}

/// Returns the number of log lines that were not written.
pub(crate) fn dropped_lines() -> u64 {
    STDERR.get().map_or(0, Output::dropped)
}

/// Returns the layer that writes log lines in a format.
fn layer<W>(format: LogFormat, writer: W, colours: bool) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'w> fmt::MakeWriter<'w> + Send + Sync + 'static,
{
    let layer = fmt::layer()
        .with_writer(OneLine {
            writer,
            is_json: format == LogFormat::Json,
        })
        // The layer would write its own errors to standard error directly, and block there.
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
                info!(source = "main", events = 3, "bridge \"main\" started");
            },
        );
        lines.text()
    }

    #[test]
    fn each_format_renders_message_and_fields() {
        let text = logged(LogFormat::Text);
        assert!(
            text.contains("\u{1b}[") && text.contains("bridge \"main\" started"),
            "{text}"
        );
        let json: serde_json::Value = serde_json::from_str(&logged(LogFormat::Json)).unwrap();
        assert_eq!(
            (&json["level"], &json["message"], &json["source"], &json["events"]),
            (
                &"INFO".into(),
                &"bridge \"main\" started".into(),
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
            "level=info target=neurobridge::logging::tests msg=\"bridge \\\"main\\\" started\" source=main events=3\n"
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
                warn!(target: "neurobridge_core::delivery::health", sink = "a", "the sink is down");
                warn!(target: "neurobridge_core::delivery_of_milk", sink = "a", "milk");
            }
            repeats.report_all();
        });
        let text = lines.text();
        let count = |part: &str| text.lines().filter(|line| line.contains(part)).count();
        assert_eq!(count("msg=\"no connection to port"), repeats::LIMIT);
        assert_eq!(count("msg=\"something else"), repeats::LIMIT);
        assert_eq!(count("msg=milk"), repeats::LIMIT);
        assert_eq!(count("msg=\"the sink is down\""), 100, "a change of state");
        let suppressed = format!("suppressed={}", 100 - repeats::LIMIT);
        assert_eq!(count(&suppressed), 3, "{text}");
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
    fn invalid_level_is_reported() {
        let error = init(LogFormat::Text, "a=loud").unwrap_err();
        assert!(error.to_string().contains("a=loud"), "{error}");
    }
}
