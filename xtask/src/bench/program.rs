//! Runs a program that moves events from the feed to the broker, and measures the resources of the program's process.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum as _;
use neurobridge_tests::http::get;
use neurobridge_tests::paths::workspace_root;
use neurobridge_tests::poll::wait_for;
use neurobridge_tests::ports::free_ports;
use neurobridge_tests::process::{Process, Usage};
use serde_json::Value;

use super::Bench;
use super::case::{Case, Format, Sink};
use super::destination::Destination;
use super::feed::Feed;

/// The rate from which the time limit of a run is calculated: a quarter of the rate of a slow machine, which moves twenty
/// thousand events per second.
const MIN_EVENTS_PER_SECOND: u64 = 5_000;

/// The interval of status requests. Each request costs the bridge CPU time, so the interval is long enough not to
/// affect the result, and short enough to notice the end.
const STATUS_INTERVAL: Duration = Duration::from_millis(100);

/// The time limit for the start of a bridge: until all sources receive events, or until a member has settled its events.
pub(super) const START_LIMIT: Duration = Duration::from_secs(60);

/// A program to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Program {
    /// The bare loop without the message id that a stream needs for deduplication; the difference to `Bare` is the cost
    /// of the header.
    Plain,
    /// The bare loop, with the same headers as the bridge.
    Bare,
    /// The complete bridge with its spool in memory.
    Bridge,
    /// The complete bridge with its spool on disk, where each event is synced.
    Disk,
    /// The bridge with its spool in memory and NeuroIO as a declared feed; the difference to `Bridge` is the cost of
    /// the declaration.
    Declared,
    /// The build of --before, with its spool in memory.
    Before,
    /// The platform's Python client with uvloop and nats-py, for core NATS at a constant rate.
    Python,
}

impl Program {
    /// Returns whether the program is a build of the bridge, which reports its latency.
    pub(super) const fn is_bridge(self) -> bool {
        matches!(self, Self::Bridge | Self::Disk | Self::Declared | Self::Before)
    }

    /// Returns the spool's table in the bridge's configuration.
    const fn spool(self) -> &'static str {
        match self {
            Self::Disk => "type = \"disk\"\nsync = \"always\"",
            _ => "type = \"memory\"",
        }
    }

    /// Returns the program's name on the command line and in the results.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Bare => "bare",
            Self::Bridge => "bridge",
            Self::Disk => "disk",
            Self::Declared => "declared",
            Self::Before => "before",
            Self::Python => "python",
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
    /// Returns the selected programs or, without a selection, the programs that are measured in this case.
    pub(super) fn programs(&self, case: Case) -> Vec<Program> {
        let core = case.sink == Sink::Core;
        let measured = |program: Program| match program {
            Program::Bare | Program::Bridge => true,
            Program::Plain => case.sink == Sink::Relaxed && case.format == Format::Raw,
            // The costs of the disk and of a declaration do not depend on the sink, so each is measured with one
            // sink: the disk with Kafka, the declaration with core NATS. At a constant rate both are measured with
            // core NATS, which itself costs the least.
            Program::Disk if self.args.rate.is_empty() => case.sink == Sink::Kafka,
            Program::Disk | Program::Declared => core,
            Program::Before => self.args.before.is_some(),
            Program::Python => {
                core && case.format == Format::Raw && !self.args.rate.is_empty() && self.python.is_some()
            }
        };
        let selected = |program: &Program| {
            if self.args.program.is_empty() {
                measured(*program)
            } else {
                self.args.program.contains(program)
            }
        };
        Program::value_variants()
            .iter()
            .copied()
            .filter(selected)
            .collect()
    }

    /// Runs a program until it has moved all events of a fresh feed into the topic or stream `name`.
    pub(super) fn run_once(&self, program: Program, case: Case, name: &str) -> Result<Cost> {
        let destination = self.destination(case, name)?;
        let events = self.args.events;
        let feed = self.feed(Some(events), None)?;
        let started = Instant::now();
        let mut running = self.start(program, &destination, case, feed.url(), events)?;
        running.await_delivered(events)?;
        let usage = running.usage()?;
        let elapsed = started.elapsed();
        destination.remove()?;
        Ok(Cost {
            cpu_seconds_per_million: usage.cpu.as_secs_f64() * 1e6 / events as f64,
            events_per_second: events as f64 / elapsed.as_secs_f64(),
            peak_memory_bytes: usage.peak_memory_bytes,
        })
    }

    /// Starts the simulator, which sends `count` events, or an unlimited number without a count.
    pub(super) fn feed(&self, count: Option<u64>, rate: Option<f64>) -> Result<Feed> {
        Feed::start(
            &self.neurobridge,
            self.scratch.path(),
            count,
            self.args.size,
            rate,
        )
    }

    /// Starts a program. The bare loop reports `delivered` after `events` events and keeps running, so that its resources
    /// can be measured.
    pub(super) fn start(
        &self,
        program: Program,
        destination: &Destination<'_>,
        case: Case,
        url: &str,
        events: u64,
    ) -> Result<Running> {
        let server = destination.server();
        let mut command = match program {
            Program::Python => {
                let python = self
                    .python
                    .as_ref()
                    .context("the Python client is not installed")?;
                let mut command = Command::new(python);
                let script = workspace_root().join("xtask/src/bench/python_client.py");
                command.arg(script).args([url, &server]);
                command
            }
            Program::Plain | Program::Bare => {
                let format = match program {
                    Program::Plain => "plain",
                    _ => case.format.word(),
                };
                let mut command = Command::new(&self.bare_loop);
                command.args([url, case.sink.word(), &server, &destination.name, format]);
                command.arg(events.to_string());
                command
            }
            _ => {
                let dir = &destination.name;
                return self
                    .bridge(program, destination, url, dir, "")
                    .map(Running::Bridge);
            }
        };
        let log = self.scratch.join(format!("{}.log", program.word()));
        Process::spawn(program.word(), &mut command, &log).map(Running::Loop)
    }

    /// Starts the bridge in the folder `dir`, with its sources, the program's spool, one sink and further tables of the
    /// configuration.
    pub(super) fn bridge(
        &self,
        program: Program,
        destination: &Destination<'_>,
        url: &str,
        dir: &str,
        tables: &str,
    ) -> Result<Bridge> {
        let [port] = free_ports::<1>()?;
        let http = format!("127.0.0.1:{port}");
        let dir = self.scratch.join(dir);
        fs::create_dir_all(&dir).with_context(|| format!("creating the folder {}", dir.display()))?;
        let config = dir.join("neurobridge.toml");
        let mut source = match program {
            Program::Declared => format!("feed = \"{DECLARED}\"\n"),
            _ => format!("url = \"{url}\"\ntoken = \"bench\"\n"),
        };
        // An earlier build may reject the key as unknown.
        if let Some(interval) = self
            .args
            .read_interval
            .as_ref()
            .filter(|_| program != Program::Before)
        {
            source.push_str(&format!("read_interval = \"{interval}\"\n"));
        }
        fs::write(dir.join(DECLARED), declaration(url))?;
        let text = configuration(
            &dir,
            program.spool(),
            &source,
            self.args.sources,
            &destination.sink(),
            &http,
        ) + tables;
        fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
        let binary = match program {
            Program::Before => self
                .args
                .before
                .as_ref()
                .context("missing --before with the path of the earlier build")?,
            _ => &self.neurobridge,
        };
        let mut command = Command::new(binary);
        command.arg("run").arg("-c").arg(&config).current_dir(&dir);
        let process = Process::spawn("the bridge", &mut command, &dir.join("bridge.log"))?;
        Ok(Bridge { process, http })
    }
}

/// A program under measurement, which is killed when dropped.
pub(super) enum Running {
    Bridge(Bridge),
    /// The bare loop or the Python client, which have no `/status`.
    Loop(Process),
}

impl Running {
    pub(super) fn usage(&self) -> Result<Usage> {
        match self {
            Self::Bridge(bridge) => bridge.process.usage(),
            Self::Loop(process) => process.usage(),
        }
    }

    /// Waits until the program has delivered this many events.
    pub(super) fn await_delivered(&mut self, events: u64) -> Result<()> {
        let limit = Duration::from_secs(60 + events / MIN_EVENTS_PER_SECOND);
        match self {
            Self::Bridge(bridge) => bridge.await_delivered(events, limit),
            Self::Loop(process) => await_end(process, limit),
        }
    }
}

fn await_end(process: &mut Process, limit: Duration) -> Result<()> {
    let delivered = wait_for("the last acknowledgement of the bare loop", limit, || {
        if let Some(status) = process.exit_status()? {
            bail!("the bare loop exited early with {status}");
        }
        Ok(process.logged()?.contains("delivered").then_some(()))
    });
    delivered.with_context(|| process.log_tail())
}

/// A running bridge, which is killed when dropped.
pub(super) struct Bridge {
    pub(super) process: Process,
    /// `host:port` of the HTTP server.
    pub(super) http: String,
}

impl Bridge {
    /// Returns the response of `/status` as untyped JSON, because another build may have other keys.
    pub(super) fn status(&self) -> Result<Value> {
        serde_json::from_str(&get(&self.http, "/status")?).context("reading /status")
    }

    /// Returns the number of events that the sink has delivered.
    pub(super) fn delivered(&self) -> Result<u64> {
        delivered(&get(&self.http, "/status")?)
    }

    /// Waits until all sources receive events.
    pub(super) fn await_connected(&self) -> Result<()> {
        wait_for("all sources to receive events", START_LIMIT, || {
            let Ok(status) = self.status() else {
                return Ok(None);
            };
            let sources = status["sources"]
                .as_object()
                .context("/status has no key \"sources\"")?;
            let receives = sources
                .values()
                .all(|source| source["ledger"]["received"].as_u64() > Some(0));
            Ok(receives.then_some(()))
        })
        .with_context(|| self.process.log_tail())
    }

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

/// Returns the number of delivered events. Other keys are not parsed, because they may differ in another build.
fn delivered(status: &str) -> Result<u64> {
    let status: Value = serde_json::from_str(status).context("reading /status")?;
    let delivered = &status["sinks"]["out"]["ledger"]["delivered"];
    delivered.as_u64().context("/status without the sink \"out\"")
}

/// The name of the file with the declaration of NeuroIO as a declared feed.
const DECLARED: &str = "declared.toml";

/// Returns the declaration of NeuroIO as a declared feed: the file with which `neurobridge-hot-path` counts instructions,
/// with this address, the key and the opening step.
fn declaration(url: &str) -> String {
    let declared = include_str!("../../../crates/hot-path/src/neuroio.toml");
    format!(
        "{}key = \"data.pid\"\n[[open]]\nsend = {{ action = \"AUTH\", data = {{ token = \"bench\" }} }}\n\
         until = {{ auth = {{ present = true }} }}\n",
        declared.replace("wss://events.neuroio.com", url)
    )
}

fn configuration(dir: &Path, spool: &str, source: &str, sources: u32, sink: &str, http: &str) -> String {
    let sources: String = (1..=sources)
        .map(|number| format!("[sources.main{number}]\n{source}\n"))
        .collect();
    format!(
        r#"data_dir = "{dir}/data"

{sources}
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
