//! The resources used by a process, from the statistics of the kernel.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

/// The CPU time and memory of one process, without its children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// User and system time of all threads, including those that have ended, from the scheduler's clock in nanoseconds.
    /// The times in `/proc` count clock ticks of 10 ms, and omit threads that run for less than one tick.
    pub cpu: Duration,
    /// The largest resident memory so far; 0 for a process that has exited.
    pub peak_memory_bytes: u64,
}

impl Usage {
    /// Reads the statistics of a process that runs, or that has exited and was not awaited yet.
    ///
    /// # Errors
    /// Returns an error if the process does not exist.
    pub fn of(id: u32) -> Result<Self> {
        let pid = Pid::from_raw(i32::try_from(id).context("the process id is out of range")?);
        let clock = clock_getcpuclockid(pid).with_context(|| format!("no CPU clock of process {id}"))?;
        let cpu = clock
            .now()
            .with_context(|| format!("reading the CPU clock of process {id}"))?;
        Ok(Self {
            cpu: cpu.into(),
            peak_memory_bytes: peak_bytes(&read(id, "status")?),
        })
    }
}

fn read(id: u32, file: &str) -> Result<String> {
    let path = format!("/proc/{id}/{file}");
    fs::read_to_string(&path).with_context(|| format!("reading {path}"))
}

fn peak_bytes(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .and_then(|kib| kib.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peak_memory_is_parsed() {
        assert_eq!(peak_bytes("VmPeak:\t 9 kB\nVmHWM:\t    2048 kB\n"), 2_097_152);
        assert_eq!(peak_bytes("Name:\tzombie\n"), 0);
    }

    #[test]
    fn usage_of_this_process_is_measured() {
        assert!(Usage::of(std::process::id()).unwrap().peak_memory_bytes > 1_000_000);
        assert!(Usage::of(4_194_999).is_err());
    }
}
