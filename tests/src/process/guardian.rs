//! A small process that runs a cleanup command after the death of this program.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, Result};

/// The script of the guardian. A line on standard input means that no cleanup is needed, and the end of the input without a line
/// means that the owner died.
const SCRIPT: &str = r#"read -r _ || exec "$@""#;

/// A small process that waits for the death of this program and then runs a command.
///
/// The guardian reads a pipe whose only writing end belongs to this program, so it detects every death of this program,
/// including one by `kill -9`. The parent-death signal of the kernel is not suitable: the kernel sends it when the *thread*
/// that started the child ends, and the thread of a test may end before a broker that several tests share.
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
        // The guardian is in a separate process group, because Ctrl-C would otherwise kill it before it can act. It inherits no
        // outputs, because a reader of the outputs of this program would otherwise wait for the end of the guardian.
        let mut shell = Command::new("sh")
            .args(["-c", SCRIPT, "guardian"])
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("starting the shell that cleans up after this program")?;
        let pipe = shell.stdin.take().context("the shell has no standard input")?;
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
