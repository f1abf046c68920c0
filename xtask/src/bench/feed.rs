//! Runs the simulated platform, which sends the events, in a separate process.

use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use neurobridge_tests::poll::wait_for;
use neurobridge_tests::ports::free_ports;
use neurobridge_tests::process::Process;

const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A running `neurobridge simulate`, which is killed when dropped.
pub(super) struct Feed {
    url: String,
    _process: Process,
}

impl Feed {
    /// Starts the simulator and waits until it listens. Without `count` the number of events is unlimited. Without `rate` the
    /// simulator sends as fast as the client reads; otherwise each connection receives this many events per second.
    pub(super) fn start(
        program: &Path,
        dir: &Path,
        count: Option<u64>,
        size: Option<u32>,
        rate: Option<f64>,
    ) -> Result<Self> {
        let [port] = free_ports::<1>()?;
        let address = format!("127.0.0.1:{port}");
        let mut command = Command::new(program);
        command.args(["simulate", "--listen", &address, "--seed", "1"]);
        if let Some(count) = count {
            command.args(["--count", &count.to_string()]);
        }
        if let Some(size) = size {
            command.args(["--size", &size.to_string()]);
        }
        if let Some(rate) = rate {
            command.args(["--rate", &rate.to_string()]);
        }
        let mut process = Process::spawn("the simulator", &mut command, &dir.join("simulator.log"))?;
        let listening = wait_for("the simulator to listen", START_TIMEOUT, || {
            if let Some(status) = process.exit_status()? {
                bail!("the simulator exited with {status} before it listened");
            }
            Ok(TcpStream::connect(&address).ok().map(drop))
        });
        listening.with_context(|| process.log_tail())?;
        Ok(Self {
            url: format!("ws://{address}/"),
            _process: process,
        })
    }

    /// Returns the URL of the event feed.
    pub(super) fn url(&self) -> &str {
        &self.url
    }
}
