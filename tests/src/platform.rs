//! The simulated platform as a process of its own: `neurobridge simulate`.

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

/// The program only has to bind a port.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A running simulator that writes down what it sends.
#[derive(Debug)]
pub struct Platform {
    process: Process,
    address: String,
    record: PathBuf,
}

/// An event as the simulator sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Its id.
    pub id: u64,
    /// The person, where there is one.
    pub pid: Option<String>,
    /// The entry, byte for byte.
    pub data: String,
    /// The whole frame, byte for byte.
    pub frame: String,
}

impl Platform {
    /// Starts a simulator with these further arguments, and waits until it listens.
    ///
    /// # Errors
    /// When it does not within a minute.
    pub fn start(dir: &Scratch, args: &[&str]) -> Result<Self> {
        let [port] = free_ports()?;
        let address = format!("127.0.0.1:{port}");
        let record = dir.join("sent.jsonl");
        let mut command = Command::new(neurobridge());
        command
            .args(["simulate", "--listen", &address, "--record"])
            .arg(&record)
            .args(args);
        let mut process = Process::spawn("simulator", &mut command, &dir.join("simulator.log"))?;
        wait_for("the simulator", START_TIMEOUT, || {
            if let Some(status) = process.exit_status()? {
                anyhow::bail!("the simulator ended with {status}:\n{}", process.log_tail());
            }
            Ok(std::net::TcpStream::connect(&address).ok())
        })?;
        Ok(Self {
            process,
            address,
            record,
        })
    }

    /// `host:port` of its feed.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its URL, for a platform without TLS.
    pub fn url(&self) -> String {
        format!("ws://{}/", self.address)
    }

    /// Its URL, for one with TLS.
    pub fn tls_url(&self) -> String {
        format!("wss://{}/", self.address)
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Stops it, so that its record is whole, and reads what it sent.
    ///
    /// # Errors
    /// When it does not stop, or its record can't be read.
    pub fn stop(mut self) -> Result<Vec<Sent>> {
        self.process.terminate(START_TIMEOUT)?;
        read_record(&self.record)
    }
}

/// Reads a file of frames, one a line.
///
/// # Errors
/// When it can't be read, or a line is no frame.
pub fn read_record(path: &Path) -> Result<Vec<Sent>> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    text.lines()
        .map(|line| parse(line).with_context(|| format!("in {}", path.display())))
        .collect()
}

/// Reads a line of such a file.
///
/// # Errors
/// When it is no frame.
pub fn parse(line: &str) -> Result<Sent> {
    read_frame(line).with_context(|| format!("no frame: {line}"))
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
