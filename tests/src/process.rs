//! A child process that can be stopped, killed, frozen and measured, and that never outlives the program that started
//! it.

mod guardian;
mod usage;

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

pub use self::guardian::Guardian;
pub use self::usage::Usage;
use crate::poll::{wait_for, wait_with_progress};

/// The number of log lines in an error: enough for the beginning of a Java stack trace.
const TAIL_LINES: usize = 40;
/// The time limit for a freeze: many times longer than the kernel needs to stop all threads.
const FREEZE_LIMIT: Duration = Duration::from_secs(20);

/// A running child process in its own process group.
///
/// When dropped, the group is killed and awaited. If this program exits without a drop (after a signal, by
/// `process::exit`, or with the process in a static), a [`Guardian`] kills the group.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    status: Option<ExitStatus>,
    log: PathBuf,
    log_start: u64,
    guardian: Option<Guardian>,
}

impl Process {
    /// Starts `command` with an empty standard input; both outputs are appended to the file `log`.
    ///
    /// # Errors
    /// Returns an error if the log cannot be opened or the program cannot be started.
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let output = append(log)?;
        command.stdout(output);
        Self::start(name, command, append(log)?.into(), log)
    }

    /// Like [`Process::spawn`], with the standard output appended to a separate file.
    ///
    /// # Errors
    /// Returns an error if a file cannot be opened or the program cannot be started.
    pub fn spawn_split(name: &str, command: &mut Command, stdout: &Path, log: &Path) -> Result<Self> {
        command.stdout(append(stdout)?);
        Self::start(name, command, append(log)?.into(), log)
    }

    /// Like [`Process::spawn`], with another destination for standard output.
    ///
    /// # Errors
    /// Returns an error if the log cannot be opened or the program cannot be started.
    pub fn spawn_onto(name: &str, command: &mut Command, stdout: Stdio, log: &Path) -> Result<Self> {
        command.stdout(stdout);
        Self::start(name, command, append(log)?.into(), log)
    }

    /// Like [`Process::spawn`], with another destination for standard error.
    ///
    /// # Errors
    /// Returns an error if the log cannot be opened or the program cannot be started.
    pub fn spawn_logging_to(name: &str, command: &mut Command, stderr: Stdio, log: &Path) -> Result<Self> {
        command.stdout(append(log)?);
        Self::start(name, command, stderr, log)
    }

    fn start(name: &str, command: &mut Command, stderr: Stdio, log: &Path) -> Result<Self> {
        let log_start = append(log)?
            .metadata()
            .with_context(|| format!("reading the size of {}", log.display()))?
            .len();
        // A separate process group: a Ctrl-C in the terminal does not signal the child directly, and a kill of the group includes
        // the processes that the child has started.
        let child = command
            .stdin(Stdio::null())
            .stderr(stderr)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {name}: {}", command.get_program().display()))?;
        let mut process = Self {
            name: name.to_owned(),
            child,
            status: None,
            log: log.to_path_buf(),
            log_start,
            guardian: None,
        };
        process.guardian = Some(Guardian::of_group(process.id())?);
        Ok(process)
    }

    /// Returns the name that error messages use for the process.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the process id, which is also the id of the process group.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the file with the standard error and, with [`Process::spawn`], the standard output.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Returns the log of this process, without that of an earlier process with the same file.
    ///
    /// # Errors
    /// Returns an error if the log cannot be read.
    pub fn logged(&self) -> Result<String> {
        let bytes = fs::read(&self.log).with_context(|| format!("reading {}", self.log.display()))?;
        let start = usize::try_from(self.log_start)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        Ok(String::from_utf8_lossy(&bytes[start..]).into_owned())
    }

    /// Returns the last lines of the log, for an error message.
    pub fn log_tail(&self) -> String {
        log_tail(&self.log)
    }

    /// Sends a signal to the process, but not to its group.
    ///
    /// # Errors
    /// Returns an error if the process has exited.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.exit_status()? {
            bail!("cannot send {signal} to {}: it exited with {status}", self.name);
        }
        kill(self.pid()?, signal).with_context(|| format!("sending {signal} to {}", self.name))
    }

    /// Stops the process (SIGSTOP) until [`Process::thaw`], and returns when all threads are stopped, because threads may still
    /// run for a short time after the signal.
    ///
    /// # Errors
    /// Returns an error if the process has exited.
    pub fn freeze(&mut self) -> Result<()> {
        self.signal(Signal::SIGSTOP)?;
        let pid = self.pid()?;
        let options = WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG;
        wait_for(
            &format!("all threads of {} to stop", self.name),
            FREEZE_LIMIT,
            || {
                let status = waitid(Id::Pid(pid), options)
                    .with_context(|| format!("reading the status of {}", self.name))?;
                Ok(matches!(status, WaitStatus::Stopped(..)).then_some(()))
            },
        )
    }

    /// Resumes a frozen process (SIGCONT).
    ///
    /// # Errors
    /// Returns an error if the process has exited.
    pub fn thaw(&mut self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Returns the exit status, or `None` while the process runs.
    ///
    /// # Errors
    /// Returns an error if the operating system cannot report the status.
    pub fn exit_status(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self
                .child
                .try_wait()
                .with_context(|| format!("reading the status of {}", self.name))?;
        }
        Ok(self.status)
    }

    /// Waits until the process has exited by itself. Any log output counts as progress.
    ///
    /// # Errors
    /// Returns an error if `limit` (see [`crate::poll::Patience`]) is exceeded; the error contains the last lines of the
    /// log.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        let ended = wait_with_progress(&what, limit, |patience| {
            patience.observe(self.log_bytes());
            self.exit_status()
        });
        ended.with_context(|| self.log_tail())
    }

    /// Returns the size of the log as a measure of progress, or 0 if it cannot be read.
    pub fn log_bytes(&self) -> u64 {
        fs::metadata(&self.log).map_or(0, |metadata| metadata.len())
    }

    /// Sends SIGTERM and waits until the process has exited.
    ///
    /// # Errors
    /// Returns an error if the process has exited before, or if `limit` (see [`crate::poll::Patience`]) is exceeded.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(limit)
    }

    /// Kills the process and its group (SIGKILL) and waits until the process has exited. Has no effect if the process has
    /// exited already.
    ///
    /// # Errors
    /// Returns an error if the operating system refuses the signal.
    pub fn kill(&mut self) -> Result<()> {
        if self.exit_status()?.is_some() {
            return Ok(());
        }
        killpg(self.pid()?, Signal::SIGKILL).with_context(|| format!("killing {}", self.name))?;
        let status = self
            .child
            .wait()
            .with_context(|| format!("waiting for the end of {}", self.name))?;
        self.status = Some(status);
        Ok(())
    }

    /// Returns the resources that the process has used.
    ///
    /// # Errors
    /// Returns an error if the kernel's statistics cannot be read, which includes a process that has exited and was awaited.
    pub fn usage(&self) -> Result<Usage> {
        Usage::of(self.id())
    }

    /// Keeps the process running when this program exits, and returns its process id.
    pub fn detach(mut self) -> u32 {
        if let Some(guardian) = self.guardian.take() {
            guardian.retire();
        }
        let id = self.id();
        // Dropping the value would kill the process. The leaked value is small, and the operating system reaps the
        // process.
        std::mem::forget(self);
        id
    }

    fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(
            i32::try_from(self.id()).context("the process id is out of range")?,
        ))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
        // The guardian ends last, because it is needed if this program dies before this point.
        if let Some(guardian) = self.guardian.take() {
            guardian.retire();
        }
    }
}

/// Returns the last lines of a log file, headed by its name, for an error message.
pub fn log_tail(log: &Path) -> String {
    let mut text = Vec::new();
    let read = fs::File::open(log).and_then(|mut file| file.read_to_end(&mut text));
    if let Err(error) = read {
        return format!("(cannot read {}: {error})", log.display());
    }
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
    format!("the last lines of {}:\n{tail}", log.display())
}

fn append(path: &Path) -> Result<fs::File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("opening {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths::Scratch;
    use crate::poll::wait_until;

    const SOON: Duration = Duration::from_secs(10);

    fn shell(scratch: &Scratch, script: &str) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::spawn("a shell", &mut command, &scratch.join("log")).unwrap()
    }

    #[test]
    fn exited_process_leaves_its_log() {
        let scratch = Scratch::new("process").unwrap();
        let mut process = shell(&scratch, "echo out; echo err >&2; exit 3");
        assert_eq!(process.wait(SOON).unwrap().code(), Some(3));
        assert_eq!(process.logged().unwrap(), "out\nerr\n");
        assert!(
            process
                .signal(Signal::SIGTERM)
                .unwrap_err()
                .to_string()
                .contains("exit status: 3")
        );
        let second = shell(&scratch, "exit 0");
        assert_eq!(
            second.logged().unwrap(),
            "",
            "the log must not contain the output of an earlier process"
        );
    }

    #[test]
    fn process_is_frozen_measured_and_stopped() {
        let scratch = Scratch::new("process").unwrap();
        let mut process = shell(&scratch, "trap 'exit 7' TERM; echo ready; while :; do :; done");
        wait_until("the trap", SOON, || process.logged().unwrap() == "ready\n").unwrap();
        process.freeze().unwrap();
        let stat = format!("/proc/{}/stat", process.id());
        let is = |state| move || fs::read_to_string(&stat).unwrap().contains(state);
        wait_until("the freeze", SOON, is.clone()(") T ")).unwrap();
        process.thaw().unwrap();
        wait_until("the thaw", SOON, is(") R ")).unwrap();
        wait_until("some work", SOON, || {
            process.usage().unwrap().cpu > Duration::ZERO
        })
        .unwrap();
        assert!(process.usage().unwrap().peak_memory_bytes > 100_000);
        assert_eq!(process.terminate(SOON).unwrap().code(), Some(7));
    }

    #[test]
    fn timeout_error_contains_the_log() {
        let scratch = Scratch::new("process").unwrap();
        let mut process = shell(&scratch, "echo what I was doing; exec sleep 60");
        wait_until("the line", SOON, || process.logged().unwrap().contains("doing")).unwrap();
        let error = format!("{:#}", process.wait(Duration::ZERO).unwrap_err());
        assert!(
            error.contains("what I was doing") && error.contains("the end of a shell"),
            "{error}"
        );
    }

    #[test]
    fn drop_kills_the_whole_group() {
        let scratch = Scratch::new("process").unwrap();
        let process = shell(&scratch, "sleep 600 & echo $!; wait");
        wait_until("the child", SOON, || process.logged().unwrap().ends_with('\n')).unwrap();
        let child: u32 = process.logged().unwrap().trim().parse().unwrap();
        assert!(alive(child));
        drop(process);
        wait_until("the child's end", SOON, || !alive(child)).unwrap();
    }

    #[test]
    fn guardian_kills_process_of_a_dead_owner() {
        let scratch = Scratch::new("process").unwrap();
        let victim = shell(&scratch, "exec sleep 600");
        let id = victim.id();
        // The test closes the guardian's pipe, as the kernel does when the owner is killed.
        let Process { guardian, .. } = &mut *std::mem::ManuallyDrop::new(victim);
        drop(guardian.take().unwrap().into_pipe());
        wait_until("the victim's end", SOON, || !alive(id)).unwrap();
    }

    #[test]
    fn frozen_process_dies_with_its_owner() {
        let scratch = Scratch::new("process").unwrap();
        let mut dropped = shell(&scratch, "exec sleep 600");
        dropped.freeze().unwrap();
        let id = dropped.id();
        drop(dropped);
        assert!(!alive(id));
        let mut orphan = shell(&scratch, "exec sleep 600");
        orphan.freeze().unwrap();
        let id = orphan.id();
        let Process { guardian, .. } = &mut *std::mem::ManuallyDrop::new(orphan);
        drop(guardian.take().unwrap().into_pipe());
        wait_until("the orphan's end", SOON, || !alive(id)).unwrap();
    }

    /// A zombie counts as dead.
    fn alive(id: u32) -> bool {
        let stat = fs::read_to_string(format!("/proc/{id}/stat"));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    }
}
