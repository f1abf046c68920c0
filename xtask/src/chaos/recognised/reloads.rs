//! Reloads the bridge's configuration at random times, with changed files and with files that the bridge must refuse.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use neurobridge_tests::http::get;
use neurobridge_tests::program::neurobridge;
use serde_json::Value;

use super::super::schedule::Change;

/// The exit code of `neurobridge reload` for a file that is invalid or needs a restart.
const REFUSED: i32 = 78;
/// The exit code of `neurobridge reload` while the previous reload is not complete.
const INCOMPLETE: i32 = 75;

/// A line of the configuration, identified by a comment, and the lines by which successive reloads replace it.
type Lines = (&'static str, &'static [&'static str]);

pub(super) const SOURCE: &str = "token = \"first\" # settings of the source";
pub(super) const KAFKA: &str = "# settings of Kafka";
pub(super) const NATS: &str = "# settings of NATS";
pub(super) const WRONG: &str = "# settings that cannot change";

const CHANGING: [Lines; 3] = [
    (
        SOURCE,
        &[
            SOURCE,
            "token = \"first\"\nconnections = 2",
            "token = \"first\"\nping_interval = \"3s\"",
            "token = \"second\"",
        ],
    ),
    (KAFKA, &[KAFKA, "linger = \"20ms\""]),
    (NATS, &[NATS, "ack_timeout = \"20s\""]),
];
/// Lines that the bridge must refuse: an unknown key, a syntax error, a value of the wrong type, and a setting of a
/// source with `token_from`, which needs a restart.
const WRONG_LINES: [&str; 4] = [
    "ping_intervall = \"1s\"",
    "ping_interval = ",
    "ping_interval = 5",
    "ping_interval = \"4s\"",
];

/// The numbers of reloads by result.
#[derive(Debug, Default, Clone, Copy)]
pub(in super::super) struct ReloadCounts {
    pub(super) of_source: u64,
    pub(super) of_sinks: u64,
    /// Refused, because the file is invalid or needs a restart.
    pub(super) refused: u64,
    /// Not performed, because the previous one was not complete.
    pub(super) too_early: u64,
    /// Interrupted, because the bridge was killed during the reload.
    pub(super) interrupted: u64,
}

/// Changes the configuration file of a bridge, and makes the bridge reload the file.
#[derive(Debug)]
pub(in super::super) struct Reloads {
    file: PathBuf,
    /// The content of the file at the first start.
    text: String,
    /// The current line of each entry of [`CHANGING`].
    current: [usize; CHANGING.len()],
    /// The number of files so far that the bridge had to refuse.
    wrong: usize,
    running: Option<(Child, Change)>,
    counts: ReloadCounts,
}

impl Reloads {
    pub(in super::super) fn new(file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        Ok(Self {
            file: file.to_owned(),
            text,
            current: [0; CHANGING.len()],
            wrong: 0,
            running: None,
            counts: ReloadCounts::default(),
        })
    }

    /// Starts a reload, unless the last one still runs. With [`Change::Wrong`], waits until the bridge refuses the file,
    /// and then writes a valid file.
    pub(in super::super) fn perform(&mut self, change: Change, bridge: &str) -> Result<()> {
        if !self.has_ended()? {
            self.counts.too_early += 1;
            return Ok(());
        }
        let changed = match change {
            Change::Source => 0,
            Change::Kafka => 1,
            Change::Nats => 2,
            Change::Wrong => return self.perform_wrong(bridge),
        };
        let lines = CHANGING[changed].1.len();
        self.current[changed] = (self.current[changed] + 1) % lines;
        self.write(WRONG)?;
        self.running = Some((self.start()?, change));
        Ok(())
    }

    /// Waits for the end of the running reload, and returns the numbers of all reloads.
    pub(in super::super) fn end(mut self) -> Result<ReloadCounts> {
        if let Some((child, _)) = &mut self.running {
            child.wait().context("waiting for neurobridge reload")?;
        }
        self.has_ended()?;
        Ok(self.counts)
    }

    fn perform_wrong(&mut self, bridge: &str) -> Result<()> {
        let wrong = WRONG_LINES[self.wrong % WRONG_LINES.len()];
        self.wrong += 1;
        let before = configuration(bridge)?;
        self.write(wrong)?;
        let output = self.start()?.wait_with_output();
        self.write(WRONG)?;
        let output = output.context("running neurobridge reload")?;
        let text = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            Some(REFUSED) => self.counts.refused += 1,
            Some(INCOMPLETE) => {
                self.counts.too_early += 1;
                return Ok(());
            }
            code => {
                bail!(
                    "neurobridge reload exited with {code:?} for the line {wrong}, expected {REFUSED}: {text}"
                )
            }
        }
        let after = configuration(bridge)?;
        ensure!(
            before == after,
            "a refused file changed the hash of the configuration from {before} to {after}: {text}"
        );
        Ok(())
    }

    /// Counts the result of the running reload if it has ended. Returns whether no reload is running.
    fn has_ended(&mut self) -> Result<bool> {
        let Some((child, change)) = &mut self.running else {
            return Ok(true);
        };
        let Some(status) = child.try_wait().context("waiting for neurobridge reload")? else {
            return Ok(false);
        };
        match (status.code(), *change) {
            (Some(0), Change::Source) => self.counts.of_source += 1,
            (Some(0), _) => self.counts.of_sinks += 1,
            (Some(INCOMPLETE), _) => self.counts.too_early += 1,
            (Some(REFUSED), _) => {
                let mut text = String::new();
                if let Some(stderr) = &mut child.stderr {
                    stderr.read_to_string(&mut text)?;
                }
                bail!("neurobridge reload refused a valid file: {text}")
            }
            _ => self.counts.interrupted += 1,
        }
        self.running = None;
        Ok(true)
    }

    fn write(&self, at_wrong: &str) -> Result<()> {
        let mut text = self.text.replace(WRONG, at_wrong);
        for ((comment, lines), current) in CHANGING.iter().zip(self.current) {
            text = text.replace(comment, lines[current]);
        }
        fs::write(&self.file, text).with_context(|| format!("writing {}", self.file.display()))
    }

    fn start(&self) -> Result<Child> {
        let mut command = Command::new(neurobridge());
        command.args(["reload", "--config"]).arg(&self.file);
        command
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command.spawn().context("starting neurobridge reload")
    }
}

/// Returns the hash of the running configuration.
fn configuration(bridge: &str) -> Result<Value> {
    let status: Value = serde_json::from_str(&get(bridge, "/status")?)?;
    let hash = &status["configuration"]["hash"];
    ensure!(hash.is_string(), "/status has no hash of the configuration");
    Ok(hash.clone())
}
