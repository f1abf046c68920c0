//! One run: a program that moves events from the feed to the broker, measured from outside.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use neurobridge_tests::http::get;
use neurobridge_tests::poll::wait_for;
use neurobridge_tests::ports::free_ports;
use neurobridge_tests::process::{Process, Usage};
use neurobridge_tests::status::Status;

use super::Bench;
use super::case::{Case, Format, Sink};
use super::destination::Destination;
use super::feed::Feed;

/// A conservative speed for the time limit; a slow machine moves twenty thousand events per second.
const MIN_EVENTS_PER_SECOND: u64 = 5_000;

/// The interval of status requests. Each request costs the bridge CPU time, so the interval is long enough not to
/// affect the result, and short enough to notice the end.
const STATUS_INTERVAL: Duration = Duration::from_millis(100);

/// A program to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Program {
    /// The bare loop without the message id that a stream needs for deduplication; the difference is the cost of the
    /// headers.
    Plain,
    /// The bare loop, with the same headers as the bridge.
    Bare,
    /// The complete bridge with its spool in memory.
    Bridge,
    /// The complete bridge with its spool on disk, where each event is synced.
    Disk,
}

impl Program {
    /// Returns the selected programs of a case; an empty selection means all.
    pub(super) fn of(case: Case, wanted: &[Self]) -> Vec<Self> {
        let mut programs = vec![Self::Bare, Self::Bridge];
        if case.sink == Sink::Relaxed && case.format == Format::Raw {
            programs.insert(0, Self::Plain);
        }
        // The cost of the disk is independent of the sink, so one sink is enough.
        if case.sink == Sink::Kafka {
            programs.push(Self::Disk);
        }
        programs.retain(|program| wanted.is_empty() || wanted.contains(program));
        programs
    }

    /// Returns whether the program is the bridge, with either spool.
    pub(super) const fn is_bridge(self) -> bool {
        matches!(self, Self::Bridge | Self::Disk)
    }

    /// Returns the spool's table in the bridge's configuration.
    const fn spool(self) -> &'static str {
        match self {
            Self::Plain | Self::Bare | Self::Bridge => "type = \"memory\"",
            Self::Disk => "type = \"disk\"\nsync = \"always\"",
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Bare => "bare",
            Self::Bridge => "bridge",
            Self::Disk => "disk",
        }
    }
}

/// The cost of one run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// User and system time of the process per million events.
    pub(super) cpu_seconds_per_million: f64,
    /// Events per second from the program's start to the last acknowledgement.
    pub(super) events_per_second: f64,
    pub(super) peak_memory_bytes: u64,
}

impl Bench {
    /// Runs a program until it has moved all events of a fresh feed into the topic or stream `name`.
    pub(super) fn turn(&self, program: Program, case: Case, name: &str) -> Result<Cost> {
        let destination = self.destination(case, name)?;
        let events = self.args.events;
        let feed = Feed::start(
            &self.neurobridge,
            self.scratch.path(),
            events,
            self.args.size,
            None,
        )?;
        let limit = Duration::from_secs(60 + events / MIN_EVENTS_PER_SECOND);
        let started = Instant::now();
        let usage = match program {
            Program::Plain => self.bare(&destination, case, "plain", feed.url(), limit)?,
            Program::Bare => self.bare(&destination, case, case.format.word(), feed.url(), limit)?,
            Program::Bridge | Program::Disk => {
                let mut bridge = self.bridge(program, &destination, feed.url())?;
                bridge.await_delivered(events, limit)?;
                bridge.process.usage()?
            }
        };
        let elapsed = started.elapsed();
        destination.remove()?;
        Ok(Cost {
            cpu_seconds_per_million: usage.cpu.as_secs_f64() * 1e6 / events as f64,
            events_per_second: events as f64 / elapsed.as_secs_f64(),
            peak_memory_bytes: usage.peak_memory_bytes,
        })
    }

    fn bare(
        &self,
        destination: &Destination<'_>,
        case: Case,
        format: &str,
        url: &str,
        limit: Duration,
    ) -> Result<Usage> {
        let events = self.args.events.to_string();
        let mut command = Command::new(&self.bare_loop);
        command.args([url, case.sink.word(), &destination.server()]);
        command.args([&destination.name, format, &events]);
        let log = self.scratch.join("bare-loop.log");
        let mut process = Process::spawn("the bare loop", &mut command, &log)?;
        let delivered = wait_for("the bare loop's last acknowledgement", limit, || {
            if let Some(status) = process.exit_status()? {
                bail!("the bare loop exited early with {status}");
            }
            Ok(process.logged()?.contains("delivered").then_some(()))
        });
        delivered.with_context(|| process.log_tail())?;
        process.usage()
    }

    /// Starts the bridge with one source, the program's spool and one sink.
    pub(super) fn bridge(
        &self,
        program: Program,
        destination: &Destination<'_>,
        url: &str,
    ) -> Result<Bridge> {
        let [port] = free_ports::<1>()?;
        let http = format!("127.0.0.1:{port}");
        let dir = self.scratch.join(&destination.name);
        fs::create_dir_all(&dir).with_context(|| format!("creating the folder {}", dir.display()))?;
        let config = dir.join("neurobridge.toml");
        let text = configuration(&dir, program.spool(), url, &destination.sink(), &http);
        fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
        let mut command = Command::new(&self.neurobridge);
        command.arg("run").arg("-c").arg(&config).current_dir(&dir);
        let process = Process::spawn("the bridge", &mut command, &dir.join("bridge.log"))?;
        Ok(Bridge { process, http })
    }
}

/// A running bridge, which is killed when dropped.
pub(super) struct Bridge {
    process: Process,
    pub(super) http: String,
}

impl Bridge {
    /// Waits until the sink has delivered this many events.
    pub(super) fn await_delivered(&mut self, events: u64, limit: Duration) -> Result<()> {
        let mut last = "no answer".to_owned();
        let mut last_request: Option<Instant> = None;
        let delivered = wait_for(&format!("{events} events to be delivered"), limit, || {
            if let Some(status) = self.process.exit_status()? {
                bail!("the bridge exited early with {status}");
            }
            if last_request.is_some_and(|last_request| last_request.elapsed() < STATUS_INTERVAL) {
                return Ok(None);
            }
            last_request = Some(Instant::now());
            let Ok(status) = get(&self.http, "/status") else {
                return Ok(None);
            };
            let done = delivered(&status)? >= events;
            last = status;
            Ok(done.then_some(()))
        });
        delivered.with_context(|| format!("the last /status: {last}\n{}", self.process.log_tail()))
    }
}

fn delivered(status: &str) -> Result<u64> {
    let status = Status::read(status).context("reading /status")?;
    let sink = status
        .sinks
        .get("out")
        .context("/status without the sink \"out\"")?;
    Ok(sink.ledger.delivered)
}

fn configuration(dir: &Path, spool: &str, url: &str, sink: &str, http: &str) -> String {
    format!(
        r#"data_dir = "{dir}/data"

[sources.main]
url = "{url}"
token = "bench"

[spool]
{spool}

[sinks.out]
{sink}
[http]
listen = "{http}"
"#,
        dir = dir.display(),
    )
}

#[cfg(test)]
mod tests {
    use neurobridge_tests::status::examples;

    use super::*;

    #[test]
    fn delivered_events_are_read_from_status() {
        let status = examples::status([("out", 7, 2)]).to_string();
        assert_eq!(delivered(&status).unwrap(), 7);
        let error = delivered(&examples::status([]).to_string()).unwrap_err();
        assert_eq!(error.to_string(), "/status without the sink \"out\"");
    }
}
