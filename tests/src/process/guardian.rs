//! The one that cleans up after a program that could not do it itself.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, Result};

/// A line on standard input means "all is well", its end without one that the owner is dead.
const SCRIPT: &str = r#"read -r _ || exec "$@""#;

/// A small process that waits for the death of this program, and then runs a command.
///
/// It holds the reading end of a pipe whose writing end only this program has, so that it notices every death,
/// `kill -9` included. The kernel's parent-death signal would not do: it comes when the *thread* that started the
/// child ends, and a test's thread ends before the broker that it shares with others may.
#[derive(Debug)]
pub struct Guardian {
    shell: Child,
    pipe: ChildStdin,
}

impl Guardian {
    /// Watches over a process group, to be killed when this program dies.
    ///
    /// # Errors
    /// When `sh` can't be started.
    pub fn of_group(group: u32) -> Result<Self> {
        Self::new(&["kill", "-KILL", "--", &format!("-{group}")])
    }

    /// Runs `command` when this program dies.
    ///
    /// # Errors
    /// When `sh` can't be started.
    pub fn new(command: &[&str]) -> Result<Self> {
        // A group of its own, since Ctrl-C would otherwise end it before it can act; no outputs, since whoever reads
        // ours to the end would wait for it.
        let mut shell = Command::new("sh")
            .args(["-c", SCRIPT, "guardian"])
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("starting the shell that cleans up after this program")?;
        let pipe = shell.stdin.take().context("a pipe was asked for")?;
        Ok(Self { shell, pipe })
    }

    /// Sends it home without running the command.
    pub fn retire(mut self) {
        // Neither can fail in a way that matters: a guardian that is gone needs no word.
        let _ = self.pipe.write_all(b"done\n");
        let _ = self.shell.wait();
    }

    #[cfg(test)]
    pub(super) fn into_pipe(self) -> ChildStdin {
        self.pipe
    }
}
