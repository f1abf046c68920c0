//! Starts, observes, freezes, reloads, kills and restarts the bridge.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::http::get;
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::poll::Patience;
use neurobridge_tests::status::Status;
use nix::sys::signal::Signal;

use super::clock::Clock;
use super::history::StatusHistory;
use super::recognised::{GapLog, ReloadCounts, Reloads};
use super::recovery::Recovery;
use super::schedule::{Fault, Kind};
use super::spool_reader::SpoolReader;

/// The interval of the requests to `/status`.
const STATUS_INTERVAL: Duration = Duration::from_millis(250);
/// The interval at which the spool is read from outside, short enough to read events before retention deletes them on a
/// full disk.
const SPOOL_INTERVAL: Duration = Duration::from_secs(1);
/// The longest time without a response. The bridge may be slow on a machine that also runs two brokers.
const RESPONSE_LIMIT: Duration = Duration::from_secs(60);
/// The time limit for stopping the bridge.
const STOP: Duration = Duration::from_secs(60);

/// The configuration file below the folder of a run.
pub(super) const CONFIG_FILE: &str = "neurobridge.toml";

/// The observations after the last run of the bridge.
pub(super) struct Ended {
    pub(super) history: StatusHistory,
    pub(super) spool_reader: SpoolReader,
    pub(super) kills: u64,
    pub(super) reloads: ReloadCounts,
}

/// The bridge over several runs, with its observed state.
pub(super) struct BridgeRuns<'a> {
    bridge: Bridge,
    reloads: Reloads,
    /// The log of the gaps, or `None` if the audit does not use gaps.
    gaps: Option<&'a mut GapLog>,
    pub(super) history: StatusHistory,
    pub(super) spool_reader: SpoolReader,
    pub(super) kills: u64,
    silence: Patience,
    /// The time at which the spool was last read.
    read: Instant,
}

impl<'a> BridgeRuns<'a> {
    /// Starts the first run; the spool is in the folder `spool` below the data folder.
    pub(super) fn begin(dir: &Scratch, config: &str, gaps: Option<&'a mut GapLog>) -> Result<Self> {
        let bridge = Bridge::start(dir, config)?;
        let reloads = Reloads::new(&dir.join(CONFIG_FILE))?;
        let spool_reader = SpoolReader::new(bridge.data_dir().join("spool"));
        Ok(Self {
            bridge,
            reloads,
            gaps,
            history: StatusHistory::default(),
            spool_reader,
            kills: 0,
            silence: Patience::new("a response of the bridge", RESPONSE_LIMIT),
            read: Instant::now(),
        })
    }

    /// Observes the bridge, and kills, freezes or reloads it according to the schedule.
    pub(super) fn run(&mut self, faults: &[Fault], clock: &Clock) -> Result<()> {
        for fault in faults {
            while clock.wait(fault.at, STATUS_INTERVAL) {
                self.observe()?;
            }
            if clock.has_stopped() {
                return Ok(());
            }
            match fault.kind {
                Kind::Reload(change) => {
                    clock.log(fault.victim, &format!("reload with change {change:?}"))?;
                    self.reloads.perform(change, self.bridge.address())?;
                    continue;
                }
                Kind::Freeze => {
                    self.bridge.process().freeze()?;
                    clock.log(fault.victim, "frozen")?;
                    clock.pause(fault.lasts);
                    self.bridge.process().thaw()?;
                }
                _ => {
                    self.kill()?;
                    clock.log(fault.victim, "killed")?;
                    clock.pause(fault.lasts);
                    self.start()?;
                }
            }
            clock.log(fault.victim, "available again")?;
        }
        while clock.wait(clock.end(), STATUS_INTERVAL) {
            self.observe()?;
        }
        Ok(())
    }

    /// Waits until all sinks have settled all events, and shuts down the bridge.
    pub(super) fn end(mut self) -> Result<Ended> {
        let mut recovery = Recovery::default();
        loop {
            self.observe()?;
            if self.history.is_settled() {
                break;
            }
            let checked = recovery.check(self.history.sinks());
            checked.with_context(|| self.bridge.process().log_tail())?;
            std::thread::sleep(STATUS_INTERVAL);
        }
        let (status, log) = self.bridge.stop(Signal::SIGTERM, STOP)?;
        ensure!(status.success(), "the bridge exited with {status}:\n{log}");
        self.spool_reader.read_all()?;
        Ok(Ended {
            history: self.history,
            spool_reader: self.spool_reader,
            kills: self.kills,
            reloads: self.reloads.end()?,
        })
    }

    /// Waits until all gaps have a final outcome, and all events were read from the connections. A stop before the last event
    /// is read begins another gap, which only the next run would record.
    pub(super) fn wait_until_filled(&mut self, limit: Duration) -> Result<()> {
        let mut patience = Patience::new("the final outcome of all gaps, and the last event", limit);
        let mut before = (self.history.answers(), None);
        loop {
            self.observe()?;
            let (answers, received) = (self.history.answers(), self.history.received());
            let has_read_all = received.is_some() && before.1 == received && before.0 < answers;
            if before.0 < answers {
                before = (answers, received);
            }
            if let Some(gaps) = &mut self.gaps
                && gaps.read()?
                && has_read_all
            {
                return Ok(());
            }
            patience
                .check()
                .with_context(|| self.bridge.process().log_tail())?;
            // The bridge reports its state only in the response to a request, so this polls at an interval.
            std::thread::sleep(STATUS_INTERVAL);
        }
    }

    /// Requests the status and, at a longer interval, reads the spool.
    fn observe(&mut self) -> Result<()> {
        match get(self.bridge.address(), "/status") {
            Ok(status) => {
                self.silence = Patience::new("a response of the bridge", RESPONSE_LIMIT);
                let status = Status::read(&status).context("reading /status")?;
                self.history.enter(status)?;
            }
            Err(error) => {
                if let Some(status) = self.bridge.process().exit_status()? {
                    let log = self.bridge.process().log_tail();
                    bail!("the bridge exited unexpectedly with {status}; {log}");
                }
                self.silence.check().context(error)?;
            }
        }
        if self.read.elapsed() >= SPOOL_INTERVAL {
            self.spool_reader.read_to(self.history.durable())?;
            self.read = Instant::now();
        }
        self.gaps.as_mut().map_or(Ok(()), |gaps| gaps.observe())
    }

    fn kill(&mut self) -> Result<()> {
        if let Some(status) = self.bridge.process().exit_status()? {
            bail!("the bridge exited unexpectedly with {status}");
        }
        self.bridge.process().kill()?;
        self.kills += 1;
        self.spool_reader.read_all()?;
        // Every complete record on the disk has to exist after the restart, even if it was not reported as durable.
        self.history.expect(self.spool_reader.count())
    }

    fn start(&mut self) -> Result<()> {
        let started = self.bridge.start_again();
        started.with_context(|| format!("starting the bridge after kill {}", self.kills))?;
        self.silence = Patience::new("a response of the bridge", RESPONSE_LIMIT);
        self.observe()
    }
}
