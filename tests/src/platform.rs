//! The simulated platform in a separate process: `neurobridge simulate`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::paths::Scratch;
use crate::poll::wait_for;
use crate::ports::free_ports;
use crate::process::Process;
use crate::program::neurobridge;

/// The time limit for a start, which consists of binding a port.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A running simulator that records the frames it sends.
#[derive(Debug)]
pub struct Platform {
    process: Process,
    address: String,
    record: PathBuf,
}

/// An event as the simulator sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The event's id.
    pub id: u64,
    /// The id of the person, if there is one.
    pub pid: Option<String>,
    /// The unmodified JSON of the entry.
    pub data: String,
    /// The unmodified frame.
    pub frame: String,
}

impl Platform {
    /// Starts a simulator with additional arguments and waits until it listens.
    ///
    /// # Errors
    /// Returns an error if the simulator does not listen within a minute.
    pub fn start(dir: &Scratch, args: &[&str]) -> Result<Self> {
        let [port] = free_ports()?;
        Self::start_at(dir, &format!("127.0.0.1:{port}"), args)
    }

    /// Like [`Platform::start`], at a known address.
    ///
    /// # Errors
    /// Returns an error in the same cases.
    pub fn start_at(dir: &Scratch, address: &str, args: &[&str]) -> Result<Self> {
        let record = dir.join("sent.jsonl");
        let mut command = Command::new(neurobridge());
        command
            .args(["simulate", "--listen", address, "--record"])
            .arg(&record)
            .args(args);
        let mut process = Process::spawn("simulator", &mut command, &dir.join("simulator.log"))?;
        wait_for("the simulator", START_TIMEOUT, || {
            if let Some(status) = process.exit_status()? {
                anyhow::bail!("the simulator exited with {status}:\n{}", process.log_tail());
            }
            Ok(std::net::TcpStream::connect(address).ok())
        })?;
        Ok(Self {
            process,
            address: address.to_owned(),
            record,
        })
    }

    /// Returns `host:port` of the feed.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns the URL of a platform without TLS.
    pub fn url(&self) -> String {
        format!("ws://{}/", self.address)
    }

    /// Returns the URL of a platform with TLS.
    pub fn tls_url(&self) -> String {
        format!("wss://{}/", self.address)
    }

    /// Returns the process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Stops the simulator, which completes its record, and returns the sent events.
    ///
    /// # Errors
    /// Returns an error if the simulator does not stop, or if its record cannot be read.
    pub fn stop(mut self) -> Result<Vec<Sent>> {
        self.process.terminate(START_TIMEOUT)?;
        read_record(&self.record)
    }

    /// Like [`stop`](Self::stop), for a simulator of a declared feed.
    ///
    /// # Errors
    /// Returns an error if the simulator does not stop, or if its record cannot be read.
    pub fn stop_declared(mut self) -> Result<Vec<DeclaredSent>> {
        self.process.terminate(START_TIMEOUT)?;
        read_declared_record(&self.record)
    }
}

/// An event of a declared feed as the simulator sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredSent {
    /// The number of the event: 1 for the first.
    pub number: u64,
    /// The id of the event.
    pub id: String,
    /// The key of the event, if there is one.
    pub key: Option<String>,
    /// The unmodified JSON of the body.
    pub body: String,
}

/// Reads the record of a declared feed.
///
/// # Errors
/// Returns an error if the file cannot be read, or if a line is not an event.
pub fn read_declared_record(path: &Path) -> Result<Vec<DeclaredSent>> {
    #[derive(Deserialize)]
    struct Line<'a> {
        number: u64,
        id: String,
        key: Option<String>,
        #[serde(borrow)]
        body: &'a RawValue,
    }
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let parse = |line| {
        let line: Line<'_> = serde_json::from_str(line)
            .with_context(|| format!("invalid line in the record of a declared feed: {line}"))?;
        Ok(DeclaredSent {
            number: line.number,
            id: line.id,
            key: line.key,
            body: line.body.get().to_owned(),
        })
    };
    text.lines().map(parse).collect()
}

/// Reads a file with one frame per line.
///
/// # Errors
/// Returns an error if the file cannot be read, or if a line is not a frame.
pub fn read_record(path: &Path) -> Result<Vec<Sent>> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    text.lines()
        .map(|line| parse(line).with_context(|| format!("in {}", path.display())))
        .collect()
}

/// Parses one line of a record.
///
/// # Errors
/// Returns an error if the line is not a frame.
pub fn parse(line: &str) -> Result<Sent> {
    read_frame(line).with_context(|| format!("invalid frame: {line}"))
}

fn read_frame(line: &str) -> Result<Sent> {
    #[derive(Deserialize)]
    struct Frame<'a> {
        id: u64,
        #[serde(borrow)]
        data: &'a RawValue,
    }
    #[derive(Deserialize)]
    struct Entry {
        pid: Option<String>,
    }
    let frame: Frame<'_> = serde_json::from_str(line)?;
    let entry: Entry = serde_json::from_str(frame.data.get())?;
    Ok(Sent {
        id: frame.id,
        pid: entry.pid,
        data: frame.data.get().to_owned(),
        frame: line.to_owned(),
    })
}
