//! Cleans up after a program that died and could not do it itself.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, Result};

/// A line on standard input means that no cleanup is needed; end of file without a line means that the owner died.
const SCRIPT: &str = r#"read -r _ || exec "$@""#;

/// A small process that waits for the death of this program and then runs a command.
///
/// It has the reading end of a pipe whose only writing end belongs to this program, so it notices every death,
/// including `kill -9`. The kernel's parent-death signal is not suitable: it is sent when the *thread* that started the
/// child ends, and a test's thread may end before a broker that it shares with other tests.
#[derive(Debug)]
pub struct Guardian {
    shell: Child,
    pipe: ChildStdin,
}

impl Guardian {
    /// Kills a process group when this program dies.
    ///
    /// # Errors
    /// Returns an error if `sh` cannot be started.
    pub fn of_group(group: u32) -> Result<Self> {
        Self::new(&["kill", "-KILL", "--", &format!("-{group}")])
    }

    /// Runs `command` when this program dies.
    ///
    /// # Errors
    /// Returns an error if `sh` cannot be started.
    pub fn new(command: &[&str]) -> Result<Self> {
        // A separate process group, since Ctrl-C would otherwise kill the guardian before it can act. No outputs, since
        // a reader of this program's outputs would otherwise wait for the guardian's end.
        let mut shell = Command::new("sh")
            .args(["-c", SCRIPT, "guardian"])
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("starting the shell that cleans up after this program")?;
        let pipe = shell.stdin.take().context("the pipe is missing")?;
        Ok(Self { shell, pipe })
    }

    /// Ends the guardian without running the command.
    pub fn retire(mut self) {
        // Failures are irrelevant here: they mean that the guardian has exited already.
        let _ = self.pipe.write_all(b"done\n");
        let _ = self.shell.wait();
    }

    #[cfg(test)]
    pub(super) fn into_pipe(self) -> ChildStdin {
        self.pipe
    }
}
