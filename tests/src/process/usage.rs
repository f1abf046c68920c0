//! What a process has used, by the kernel's account.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};

/// CPU time and memory of one process, without its children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// User and system time of all its threads, in steps of the kernel's clock tick (10 ms).
    pub cpu: Duration,
    /// The most resident memory it ever had; 0 for a process that has ended.
    pub peak_memory_bytes: u64,
}

impl Usage {
    /// Reads the account of a process that runs, or has ended and was not waited for yet.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(id: u32) -> Result<Self> {
        let stat = read(id, "stat")?;
        let ticks = cpu_ticks(&stat).with_context(|| format!("no CPU times in /proc/{id}/stat: {stat}"))?;
        let per_second = sysconf(SysconfVar::CLK_TCK)
            .context("asking for the clock tick")?
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

/// Fields 14 and 15 of `/proc/<pid>/stat`, counted after the name in parentheses, which may hold blanks itself.
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
    fn reads_the_kernels_lines() {
        let stat = "12 (a b) c) S 1 2 3 4 5 6 7 8 9 10 250 31 0 0 20 0";
        assert_eq!(cpu_ticks(stat), Some(281));
        assert_eq!(cpu_ticks("12 (a) S 1"), None);
        assert_eq!(peak_bytes("VmPeak:\t 9 kB\nVmHWM:\t    2048 kB\n"), 2_097_152);
        assert_eq!(peak_bytes("Name:\tzombie\n"), 0);
    }

    #[test]
    fn weighs_this_process() {
        assert!(Usage::of(std::process::id()).unwrap().peak_memory_bytes > 1_000_000);
        assert!(Usage::of(4_194_999).is_err());
    }
}
