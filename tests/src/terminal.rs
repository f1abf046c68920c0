//! A terminal for a program under test, which converts the output of the program to the screen that a person would see.

use std::fs::{self, File};
use std::io::Read;
use std::num::NonZeroU16;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::poll::wait_for;
use crate::process::Guardian;

/// A program in its own terminal, which is its standard input and both outputs.
///
/// When dropped, the program is killed, like a [`crate::process::Process`].
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    controller: File,
    shown: Arc<Mutex<Shown>>,
    reader: Option<JoinHandle<()>>,
    guardian: Option<Guardian>,
}

/// The sequences between which a program writes a screen that the terminal shows in one step, after it is complete.
const BEGIN_SCREEN: &[u8] = b"\x1b[?2026h";
const END_SCREEN: &[u8] = b"\x1b[?2026l";

struct Shown {
    bytes: Vec<u8>,
    /// The number of `bytes` that are on the screen.
    drawn: usize,
    parser: vt100::Parser,
}

impl Shown {
    /// Adds output; an incomplete screen is not shown yet.
    fn write(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        // A sequence may arrive in two parts.
        let from = self.drawn.saturating_sub(BEGIN_SCREEN.len());
        let begun = last(&self.bytes[from..], BEGIN_SCREEN);
        let until = match begun {
            Some(begun) if last(&self.bytes[from..], END_SCREEN) < Some(begun) => {
                (from + begun).max(self.drawn)
            }
            _ => self.bytes.len(),
        };
        self.draw(until);
    }

    fn draw(&mut self, until: usize) {
        self.parser.process(&self.bytes[self.drawn..until]);
        self.drawn = until;
    }
}

fn last(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    bytes.windows(mark.len()).rposition(|window| window == mark)
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.parser.screen().contents())
    }
}

impl Terminal {
    /// Starts a program in a terminal of this size.
    ///
    /// # Errors
    /// Returns an error if no terminal can be opened, or if the program cannot be started.
    pub fn spawn(command: &mut Command, columns: u16, rows: u16) -> Result<Self> {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).context("opening a terminal")?;
        grantpt(&controller)?;
        unlockpt(&controller)?;
        let name = ptsname(&controller, Vec::new())?;
        let user = File::from(rustix::fs::open(
            name.as_c_str(),
            OFlags::RDWR | OFlags::NOCTTY,
            Mode::empty(),
        )?);
        tcsetwinsize(&controller, size(columns, rows))?;
        let child = command
            .stdin(user.try_clone()?)
            .stdout(user.try_clone()?)
            .stderr(user)
            .env("TERM", "xterm-256color")
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        // Closes the terminal in `command`: while this process has it open, the reading thread does not detect the end of
        // the program.
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let controller = File::from(controller);
        let shown = Arc::new(Mutex::new(Shown {
            bytes: Vec::new(),
            drawn: 0,
            parser: vt100::Parser::new(nonzero(rows), nonzero(columns), 0),
        }));
        let reader = read(controller.try_clone()?, Arc::clone(&shown));
        let guardian = Guardian::of_group(child.id())?;
        Ok(Self {
            child,
            controller,
            shown,
            reader: Some(reader),
            guardian: Some(guardian),
        })
    }

    /// Changes the size of the terminal, as a terminal emulator does when its window is resized.
    ///
    /// # Errors
    /// Returns an error if the system refuses the size.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        // The parser is resized before the program learns of the new size, because the program's next output is for
        // that size.
        self.lock().parser.set_size(nonzero(rows), nonzero(columns));
        tcsetwinsize(&self.controller, size(columns, rows))?;
        Ok(())
    }

    /// Returns the text on the screen, without colours.
    pub fn contents(&self) -> String {
        self.lock().parser.screen().contents()
    }

    /// Returns the screen.
    pub fn screen(&self) -> vt100::Screen {
        self.lock().parser.screen().clone()
    }

    /// Returns the complete output of the program, with escape sequences.
    pub fn written(&self) -> String {
        String::from_utf8_lossy(&self.lock().bytes).into_owned()
    }

    /// Sends a signal to the program.
    ///
    /// # Errors
    /// Returns an error if the program has exited.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let id = i32::try_from(self.child.id()).context("the process id is out of range")?;
        kill(Pid::from_raw(id), signal).context("sending a signal to the program on the terminal")
    }

    /// Returns whether the program is stopped by a signal, until SIGCONT.
    pub fn is_stopped(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        status.is_ok_and(|status| status.contains("\nState:\tT"))
    }

    /// Waits until the program has exited and all its output is read.
    ///
    /// # Errors
    /// Returns an error if `timeout` passes first; the error contains the text on the screen.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let child = &mut self.child;
        let status = wait_for("the end of the program on the terminal", timeout, || {
            child.try_wait().context("reading the status of the program")
        });
        let status = status.with_context(|| self.contents())?;
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        Ok(status)
    }

    fn lock(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(guardian) = self.guardian.take() {
            guardian.retire();
        }
    }
}

/// Raises a size of zero to one, the minimum for a terminal.
fn nonzero(size: u16) -> NonZeroU16 {
    NonZeroU16::new(size).unwrap_or(NonZeroU16::MIN)
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// Reads until no process has the terminal open, which the kernel reports as an error.
fn read(mut controller: File, shown: Arc<Mutex<Shown>>) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = controller.read(&mut buffer) {
            let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
            shown.write(&buffer[..length]);
        }
        // A program may exit in the middle of a screen.
        let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        let until = shown.bytes.len();
        shown.draw(until);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::poll::wait_until;

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn screen_is_shown_after_it_is_complete() {
        let whole = b"\x1b[?2026h\x1b[Hfirst\x1b[?2026l\x1b[?2026h\x1b[2J\x1b[Hsecond\x1b[?2026l!";
        for step in 1..whole.len() {
            let mut shown = Shown {
                bytes: Vec::new(),
                drawn: 0,
                parser: vt100::Parser::new(nonzero(2), nonzero(20), 0),
            };
            let mut seen = Vec::new();
            for piece in whole.chunks(step) {
                shown.write(piece);
                let contents = shown.parser.screen().contents();
                if seen.last() != Some(&contents) {
                    seen.push(contents);
                }
            }
            assert!(
                seen.iter()
                    .all(|contents| ["", "first", "second", "second!"].contains(&contents.as_str())),
                "{seen:?} in pieces of {step}"
            );
            assert_eq!(seen.last().map(String::as_str), Some("second!"));
        }
    }

    #[test]
    fn program_sees_a_terminal_and_its_size() {
        let script = "test -t 1 && printf '\\033[31mred\\033[0m '; stty size; read -r _; stty size; exit 3";
        let mut terminal = Terminal::spawn(Command::new("sh").args(["-c", script]), 70, 20).unwrap();
        wait_until("the size", SOON, || terminal.contents().contains("20 70")).unwrap();
        assert!(terminal.contents().starts_with("red"), "{}", terminal.contents());
        assert!(terminal.written().contains("\u{1b}[31mred"));
        terminal.resize(40, 10).unwrap();
        std::io::Write::write_all(&mut &terminal.controller, b"\n").unwrap();
        assert_eq!(terminal.wait(SOON).unwrap().code(), Some(3));
        assert!(terminal.contents().contains("10 40"), "{}", terminal.contents());
    }
}
