//! Reads the platform's record of the sent events. The platform writes the record to a pipe, because the record of half an hour
//! would fill a disk.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow};
use neurobridge_tests::fingerprint::content;
use neurobridge_tests::platform::parse;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

/// The number of the sent events, and hashes of their contents.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub(super) events: u64,
    pub(super) contents: HashSet<u64>,
}

/// A thread that reads the record until the platform closes it.
pub(super) struct Reading(JoinHandle<Result<Sent>>);

impl Reading {
    /// Creates a named pipe at the path of the record, and starts to read.
    pub(super) fn of(record: &Path) -> Result<Self> {
        mkfifo(record, Mode::S_IRUSR | Mode::S_IWUSR)
            .with_context(|| format!("creating the pipe {}", record.display()))?;
        let record = record.to_path_buf();
        Ok(Self(thread::spawn(move || {
            let file = File::open(&record).context("opening the platform's record")?;
            let mut sent = Sent::default();
            for line in BufReader::with_capacity(1 << 20, file).lines() {
                let event = parse(&line.context("reading the platform's record")?)?;
                sent.events += 1;
                sent.contents.insert(content(&event.id.to_string(), &event.data));
            }
            Ok(sent)
        })))
    }

    /// Waits for the end of the record, and returns the sent events.
    pub(super) fn end(self) -> Result<Sent> {
        let sent = self.0.join();
        sent.map_err(|_| anyhow!("the thread that reads the platform's record has panicked"))?
    }
}
