//! Runs other programs, with a log of their output and a time limit.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use neurobridge_tests::paths::target_dir;
use neurobridge_tests::process::Process;

/// Prints progress to standard error.
pub(crate) fn log(what: &str) {
    eprintln!("xtask: {what}");
}

/// Prints a line of a task's result to standard output.
///
/// # Errors
/// Returns an error if standard output is closed.
pub(crate) fn print(line: &str) -> Result<()> {
    writeln!(io::stdout().lock(), "{line}").context("writing to standard output")
}

/// Runs an installation command. The output of the command is written to a log; an error contains the end of the log.
///
/// # Errors
/// Returns an error if the program cannot be started, exits with a status other than 0, or takes longer than `limit`.
pub(crate) fn run_quietly(name: &str, command: &mut Command, limit: Duration) -> Result<()> {
    let dir = target_dir().join("brokers").join("logs");
    fs::create_dir_all(&dir).with_context(|| format!("creating the folder {}", dir.display()))?;
    let log = dir.join(format!("{}.log", name.replace(' ', "-")));
    let _ = fs::remove_file(&log);
    let started = Instant::now();
    let mut process = Process::spawn(name, command, &log)?;
    let status = process.wait(limit)?;
    if !status.success() {
        bail!(
            "{name} exited with {status} after {:.0?}; {}",
            started.elapsed(),
            process.log_tail()
        );
    }
    Ok(())
}

/// Returns whether a program exits with 0; its output is discarded.
pub(crate) fn succeeds(program: impl AsRef<Path>, args: &[&str]) -> bool {
    let mut command = Command::new(program.as_ref());
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Returns the output of a program, or `None` if it fails or is missing.
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
