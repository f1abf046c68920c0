//! The resources that a process has used, from the kernel's statistics.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};

/// The CPU time and memory of one process, without its children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// User and system time of all threads, in steps of the kernel's clock tick (10 ms).
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
        let stat = read(id, "stat")?;
        let ticks = cpu_ticks(&stat).with_context(|| format!("no CPU times in /proc/{id}/stat: {stat}"))?;
        let per_second = sysconf(SysconfVar::CLK_TCK)
            .context("reading the clock tick")?
            .unwrap_or(100);
        let per_second = u64::try_from(per_second).context("a negative clock tick")?;
        Ok(Self {
            cpu: Duration::from_micros(ticks * 1_000_000 / per_second),
            peak_memory_bytes: peak_bytes(&read(id, "status")?),
        })
    }
}

fn read(id: u32, file: &str) -> Result<String> {
    let path = format!("/proc/{id}/{file}");
    fs::read_to_string(&path).with_context(|| format!("reading {path}"))
}

/// Sums the fields 14 and 15 of `/proc/<pid>/stat`, counted after the name in parentheses, which may contain spaces.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
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
    fn kernel_statistics_are_parsed() {
        let stat = "12 (a b) c) S 1 2 3 4 5 6 7 8 9 10 250 31 0 0 20 0";
        assert_eq!(cpu_ticks(stat), Some(281));
        assert_eq!(cpu_ticks("12 (a) S 1"), None);
        assert_eq!(peak_bytes("VmPeak:\t 9 kB\nVmHWM:\t    2048 kB\n"), 2_097_152);
        assert_eq!(peak_bytes("Name:\tzombie\n"), 0);
    }

    #[test]
    fn usage_of_this_process_is_measured() {
        assert!(Usage::of(std::process::id()).unwrap().peak_memory_bytes > 1_000_000);
        assert!(Usage::of(4_194_999).is_err());
    }
}
