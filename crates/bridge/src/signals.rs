//! Signals that stop the program.

use std::{fs, future, io};

use nix::sys::signal::{Signal as NixSignal, raise};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::info;

/// SIGINT, SIGTERM and SIGHUP, with the same meaning: the first one drains and stops, a second one stops immediately.
///
/// A closing terminal sends SIGHUP, so it stops the program too and does not reload the configuration. A signal that was
/// ignored when the program started stays ignored, as `nohup` and shells with background jobs require.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
    hangup: Option<Signal>,
}

impl Signals {
    /// Registers handlers, which replace the default action of ending the program.
    ///
    /// # Errors
    /// Returns an error if the system refuses a handler.
    pub(crate) fn new() -> io::Result<Self> {
        let ignored = Ignored::read();
        Ok(Self {
            interrupt: ignored.listen("SIGINT", SignalKind::interrupt())?,
            terminate: ignored.listen("SIGTERM", SignalKind::terminate())?,
            hangup: ignored.listen("SIGHUP", SignalKind::hangup())?,
        })
    }

    /// Waits for the next signal and returns its name. Cancel-safe.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            () = received(&mut self.interrupt) => "SIGINT",
            () = received(&mut self.terminate) => "SIGTERM",
            () = received(&mut self.hangup) => "SIGHUP",
        }
    }
}

/// SIGTSTP (Ctrl-Z), for a program that has changed the mode of its terminal and restores it before it stops.
#[derive(Debug)]
pub(crate) struct Suspension(Option<Signal>);

impl Suspension {
    /// Registers a handler, which replaces the default action of stopping the process.
    ///
    /// # Errors
    /// Returns an error if the system refuses a handler.
    pub(crate) fn new() -> io::Result<Self> {
        Ignored::read()
            .listen("SIGTSTP", SignalKind::from_raw(NixSignal::SIGTSTP as i32))
            .map(Self)
    }

    /// Waits for the next signal. Cancel-safe.
    pub(crate) async fn requested(&mut self) {
        received(&mut self.0).await;
    }

    /// Stops the process until SIGCONT.
    ///
    /// # Errors
    /// Returns an error if the system refuses the signal.
    pub(crate) fn stop() -> io::Result<()> {
        raise(NixSignal::SIGSTOP).map_err(io::Error::from)
    }
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => future::pending().await,
    }
}

/// The set of signals that the process ignores, as a bit mask.
struct Ignored(u64);

impl Ignored {
    /// Reads the mask from `/proc`. Without that file the set is empty: the portable system call would need unsafe code.
    fn read() -> Self {
        Self::parse(&fs::read_to_string("/proc/self/status").unwrap_or_default())
    }

    fn parse(status: &str) -> Self {
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        Self(
            mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
                .unwrap_or(0),
        )
    }

    fn has(&self, kind: SignalKind) -> bool {
        // Bit 0 is signal 1.
        u32::try_from(kind.as_raw_value() - 1)
            .ok()
            .and_then(|bit| self.0.checked_shr(bit))
            .is_some_and(|mask| mask & 1 == 1)
    }

    fn listen(&self, name: &'static str, kind: SignalKind) -> io::Result<Option<Signal>> {
        if self.has(kind) {
            info!(
                signal = name,
                "this signal was ignored when the process started, for example by nohup, and stays ignored; send another signal"
            );
            return Ok(None);
        }
        signal(kind).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_kernels_mask() {
        let ignored = Ignored::parse("Name:\tx\nSigBlk:\t0000000000000002\nSigIgn:\t0000000000001003\n");
        assert!(ignored.has(SignalKind::hangup()) && ignored.has(SignalKind::interrupt()));
        assert!(!ignored.has(SignalKind::terminate()));
        assert!(!Ignored::parse("").has(SignalKind::hangup()));
    }
}
