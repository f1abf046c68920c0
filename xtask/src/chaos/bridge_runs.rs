//! The lives of the bridge: started, watched, killed, started again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::http::get;
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::poll::Patience;
use neurobridge_tests::status::Status;
use nix::sys::signal::Signal;

use super::book::Book;
use super::clock::Clock;
use super::recovery::Recovery;
use super::schedule::Fault;
use super::witness::Witness;

/// How often `/status` is asked.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// How often the spool is read from outside: before what it retains is deleted for want of room.
const READ_EVERY: Duration = Duration::from_secs(1);
/// A machine that runs two brokers beside it may keep a bridge waiting.
const SILENCE: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(60);

/// A bridge, and what is known of it.
pub(super) struct Lives<'a> {
    dir: &'a Scratch,
    config: String,
    bridge: Bridge,
    pub(super) book: Book,
    pub(super) witness: Witness,
    pub(super) kills: u64,
    silence: Patience,
    read: Instant,
}

impl<'a> Lives<'a> {
    /// Starts the first one; its spool is in `spool` below the data folder.
    pub(super) fn begin(dir: &'a Scratch, config: String) -> Result<Self> {
        let bridge = Bridge::start(dir, &config)?;
        let witness = Witness::new(bridge.data_dir().join("spool"));
        Ok(Self {
            dir,
            config,
            bridge,
            book: Book::default(),
            witness,
            kills: 0,
            silence: Patience::new("an answer of the bridge", SILENCE),
            read: Instant::now(),
        })
    }

    /// Watches the bridge and kills it on schedule.
    pub(super) fn run(&mut self, faults: &[Fault], clock: &Clock) -> Result<()> {
        for fault in faults {
            while clock.wait(fault.at, ASK_EVERY) {
                self.look()?;
            }
            if clock.has_stopped() {
                return Ok(());
            }
            self.kill()?;
            clock.say(fault.victim, "is killed")?;
            clock.pause(fault.lasts);
            self.start()?;
            clock.say(fault.victim, "is there again")?;
        }
        while clock.wait(clock.end(), ASK_EVERY) {
            self.look()?;
        }
        Ok(())
    }

    /// Waits until all sinks have settled all, and stops the bridge in order.
    pub(super) fn end(mut self) -> Result<(Book, Witness, u64)> {
        let mut recovery = Recovery::default();
        loop {
            self.look()?;
            if self.book.is_settled() {
                break;
            }
            let checked = recovery.check(self.book.sinks());
            checked.with_context(|| self.bridge.process().log_tail())?;
            std::thread::sleep(ASK_EVERY);
        }
        let (status, log) = self.bridge.stop(Signal::SIGTERM, STOP)?;
        ensure!(status.success(), "the bridge ended with {status}:\n{log}");
        self.witness.read_all()?;
        Ok((self.book, self.witness, self.kills))
    }

    /// Asks the bridge, and now and then the disk.
    fn look(&mut self) -> Result<()> {
        match get(self.bridge.address(), "/status") {
            Ok(status) => {
                self.silence = Patience::new("an answer of the bridge", SILENCE);
                let status = Status::read(&status).context("reading /status")?;
                self.book.enter(status)?;
            }
            Err(error) => {
                if let Some(status) = self.bridge.process().exit_status()? {
                    let log = self.bridge.process().log_tail();
                    bail!("the bridge ended by itself with {status}; {log}");
                }
                self.silence.check().context(error)?;
            }
        }
        if self.read.elapsed() >= READ_EVERY {
            self.witness.read_to(self.book.durable())?;
            self.read = Instant::now();
        }
        Ok(())
    }

    fn kill(&mut self) -> Result<()> {
        if let Some(status) = self.bridge.process().exit_status()? {
            bail!("the bridge ended by itself with {status}");
        }
        self.bridge.process().kill()?;
        self.kills += 1;
        self.witness.read_all()?;
        // All that is whole on the disk has to be there again, whether or not it was called durable.
        self.book.expect(self.witness.count())
    }

    fn start(&mut self) -> Result<()> {
        self.bridge = Bridge::start(self.dir, &self.config)
            .with_context(|| format!("starting the bridge after kill {}", self.kills))?;
        self.silence = Patience::new("an answer of the bridge", SILENCE);
        self.look()
    }
}
