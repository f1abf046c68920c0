//! How the program ends: exit codes, and errors that carry one.

use std::{fmt, process::ExitCode};

use neurobridge_spool::OpenError;

use crate::data_dir::DataDirError;

/// An exit code. The numbers are those of `sysexits.h`, which supervisors and shells know, and are part of the
/// contract: a supervisor restarts after 69 and 75, and should not after 64 and 78.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Fine.
    Ok = 0,
    /// `healthcheck` alone: the bridge is not well, or there is none.
    Unhealthy = 1,
    /// The command line can't be understood.
    Usage = 64,
    /// A needed service is not there.
    Unavailable = 69,
    /// A disk says no.
    Disk = 74,
    /// Come back later: another process has the data folder or the spool, the system lacks a resource, or time ran out before all events in memory were
    /// delivered.
    TryLater = 75,
    /// The platform refuses the token.
    TokenRefused = 77,
    /// The configuration has errors.
    Config = 78,
}

impl Exit {
    /// The number.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl Exit {
    /// What to do after an end of this kind, in a sentence; for those of which the error itself does not say it.
    pub const fn next_step(self) -> Option<&'static str> {
        match self {
            Self::Ok => None,
            Self::Unhealthy => {
                Some("see the log of the bridge for the cause, and `neurobridge check` for its configuration")
            }
            Self::Usage => Some("run `neurobridge COMMAND --help` for flags and examples"),
            Self::Unavailable => Some(
                "run `neurobridge check --connect` to test all connections; if the cause is temporary, start again",
            ),
            Self::Disk => Some(
                "free space, or fix the disk or the permissions, and start again: stored events are kept",
            ),
            Self::TryLater => Some("start again later, as a supervisor does after this exit code"),
            Self::TokenRefused => Some(
                "put a token that the platform takes where the configuration says; `neurobridge check --connect` tries it",
            ),
            Self::Config => Some("`neurobridge check` names all errors in the configuration at once"),
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// An error that ends the program, and the exit code that it ends with.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What went wrong, with its causes.
    pub error: anyhow::Error,
}

impl Failure {
    /// One of this error.
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self {
            exit,
            error: error.into(),
        }
    }

    /// What to do now, in a sentence.
    pub fn next_step(&self) -> Option<&'static str> {
        // Said only where nothing stands around the error: a replay says itself what to stop.
        let is_locked = self.error.chain().next().is_some_and(|error| {
            matches!(error.downcast_ref(), Some(OpenError::Locked { .. }))
                || matches!(error.downcast_ref(), Some(DataDirError::Locked { .. }))
        });
        if is_locked {
            Some("stop that process, or give this one a data_dir of its own")
        } else {
            self.exit.next_step()
        }
    }

    /// One with a sentence instead of an error.
    pub fn message(exit: Exit, message: impl fmt::Display + fmt::Debug + Send + Sync + 'static) -> Self {
        Self {
            exit,
            error: anyhow::Error::msg(message),
        }
    }
}

/// The error and its causes, on one line.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.error)
    }
}

/// Gives errors an exit code.
pub trait OrExit<T> {
    /// Turns an error into a [`Failure`] with this exit code.
    ///
    /// # Errors
    /// The one that was there.
    fn or_exit(self, exit: Exit) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> OrExit<T> for Result<T, E> {
    fn or_exit(self, exit: Exit) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(exit, error))
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_finds_the_spool_taken_learns_what_to_stop_or_to_set() {
        let locked = || OpenError::Locked {
            folder: "data/spool".into(),
        };
        let step = Failure::new(Exit::TryLater, locked()).next_step().unwrap();
        assert!(step.contains("stop") && step.contains("data_dir"), "{step}");
        let replay = Failure::new(
            Exit::TryLater,
            anyhow::anyhow!(locked()).context("stop the bridge"),
        );
        assert_eq!(replay.next_step(), Exit::TryLater.next_step());
    }
}
