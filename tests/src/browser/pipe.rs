//! The DevTools protocol over two named pipes: JSON messages, each terminated by a zero byte.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};

use crate::paths::Scratch;
use crate::poll::Patience;

/// The time limit for a response: a browser may need seconds to start on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
/// The interval of the limit checks.
const INTERVAL: Duration = Duration::from_millis(250);
/// The capacity for unread responses and events; the browser waits when it is full.
const WAITING: usize = 1024;
/// The number of stored events. A page causes a few dozen events of the relevant types.
const KEPT: usize = 10_000;

/// The client side of a connection to a browser.
#[derive(Debug)]
pub(super) struct Pipe {
    commands: File,
    answers: PathBuf,
    messages: Receiver<Value>,
    events: Vec<Value>,
    last_id: u64,
}

impl Pipe {
    /// Creates both pipes in `dir`, and returns the paths from which the browser reads and to which it writes.
    pub(super) fn open(dir: &Scratch) -> Result<(Self, [PathBuf; 2])> {
        let [commands, answers] = ["commands", "answers"].map(|name| dir.join(name));
        for path in [&commands, &answers] {
            mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)
                .with_context(|| format!("creating the pipe {}", path.display()))?;
        }
        let (send, messages) = sync_channel(WAITING);
        let reader = BufReader::new(both_ways(&answers)?);
        thread::spawn(move || read(reader, &send));
        let pipe = Self {
            commands: both_ways(&commands)?,
            answers: answers.clone(),
            messages,
            events: Vec::new(),
            last_id: 0,
        };
        Ok((pipe, [commands, answers]))
    }

    /// Calls a method of a page's session, or of the browser itself, and waits for the result.
    pub(super) fn call(&mut self, session: Option<&str>, method: &str, parameters: Value) -> Result<Value> {
        self.last_id += 1;
        let mut command = json!({ "id": self.last_id, "method": method, "params": parameters });
        if let Some(session) = session {
            command["sessionId"] = session.into();
        }
        write!(self.commands, "{command}\0").context("writing to the browser")?;
        let mut patience = Patience::new(format!("the browser's response to {method}"), LIMIT);
        loop {
            let mut message = match self.messages.recv_timeout(INTERVAL) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => {
                    patience.check()?;
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("no answer to {method}: the output of the browser is unreadable (no JSON message)")
                }
            };
            if message["id"] != self.last_id {
                self.keep(message);
                continue;
            }
            if !message["error"].is_null() {
                bail!("{method}: {}", message["error"]);
            }
            return Ok(message["result"].take());
        }
    }

    /// Returns the events received so far.
    pub(super) fn events(&self) -> &[Value] {
        &self.events
    }

    fn keep(&mut self, message: Value) {
        let wanted = [
            "Network.requestWillBeSent",
            "Runtime.exceptionThrown",
            "Log.entryAdded",
        ];
        let is_wanted = message["method"]
            .as_str()
            .is_some_and(|method| wanted.contains(&method));
        if is_wanted && self.events.len() < KEPT {
            self.events.push(message);
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // An empty message ends the thread that reads the pipe. The exit of the browser does not end the thread, because this
        // process has the pipe open for writing too.
        let _ = both_ways(&self.answers).and_then(|mut answers| Ok(answers.write_all(b"\0")?));
    }
}

/// Opens a pipe for both reading and writing: opening it for one direction would block until the browser opens the other
/// end.
fn both_ways(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .with_context(|| format!("opening the pipe {}", path.display()))
}

fn read(mut answers: BufReader<File>, messages: &SyncSender<Value>) {
    let mut bytes = Vec::new();
    while matches!(answers.read_until(0, &mut bytes), Ok(length) if length > 1) {
        bytes.pop();
        let Ok(message) = serde_json::from_slice(&bytes) else {
            return;
        };
        if messages.send(message).is_err() {
            return;
        }
        bytes.clear();
    }
}
