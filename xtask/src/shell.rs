//! Running other programs, with their output in sight and a limit on their time.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use neurobridge_tests::paths::target_dir;
use neurobridge_tests::process::Process;

/// Says on standard error what is about to take its time.
pub(crate) fn say(what: &str) {
    eprintln!("xtask: {what}");
}

/// Writes a line of the chore's result to standard output.
///
/// # Errors
/// When nobody reads it any more.
pub(crate) fn print(line: &str) -> Result<()> {
    writeln!(io::stdout().lock(), "{line}").context("writing to standard output")
}

/// Runs a program that gets something; its output goes to a log, of which an error shows the tail.
///
/// # Errors
/// When it can't be started, ends with anything but 0, or takes longer than `limit`.
pub(crate) fn run_quietly(name: &str, command: &mut Command, limit: Duration) -> Result<()> {
    let dir = target_dir().join("brokers").join("logs");
    fs::create_dir_all(&dir).with_context(|| format!("making the folder {}", dir.display()))?;
    let log = dir.join(format!("{}.log", name.replace(' ', "-")));
    let _ = fs::remove_file(&log);
    let started = Instant::now();
    let mut process = Process::spawn(name, command, &log)?;
    let status = process.wait(limit)?;
    if !status.success() {
        bail!(
            "{name} ended with {status} after {:.0?}; {}",
            started.elapsed(),
            process.log_tail()
        );
    }
    Ok(())
}

/// Returns whether a program ends with 0; its output is thrown away.
pub(crate) fn succeeds(program: impl AsRef<Path>, args: &[&str]) -> bool {
    let mut command = Command::new(program.as_ref());
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Returns what a program prints, or nothing when it fails or is not there.
pub(crate) fn output(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
