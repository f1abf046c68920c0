//! Exit codes, and errors with an exit code.

use std::{fmt, process::ExitCode};

use neurobridge_spool::OpenError;

/// The advice if another process has locked the data folder or the spool.
pub(crate) const STOP_OTHER: &str = "stop that process, or set a separate data_dir for this bridge";

/// An exit code. The numbers are those of `sysexits.h` and a stable interface: a supervisor should restart the program
/// after 69 and 75, and should not after 64 and 78.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Success.
    Ok = 0,
    /// Only `healthcheck`: the bridge is unhealthy or does not run.
    Unhealthy = 1,
    /// The command line is invalid.
    Usage = 64,
    /// A required service is unavailable.
    Unavailable = 69,
    /// A disk error.
    Disk = 74,
    /// A temporary condition: another process has locked the data folder or the spool, the system lacks a resource, or
    /// events in memory were not delivered in time.
    TryLater = 75,
    /// The platform refused the token.
    TokenRefused = 77,
    /// The configuration has errors.
    Config = 78,
}

impl Exit {
    /// All exit codes.
    pub const ALL: [Self; 8] = [
        Self::Ok,
        Self::Unhealthy,
        Self::Usage,
        Self::Unavailable,
        Self::Disk,
        Self::TryLater,
        Self::TokenRefused,
        Self::Config,
    ];

    /// Returns what the code means, for the manual page.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "Success.",
            Self::Unhealthy => "healthcheck: the bridge is unhealthy or does not run.",
            Self::Usage => "The command line is invalid.",
            Self::Unavailable => "A required service or address is unavailable.",
            Self::Disk => "A disk error.",
            Self::TryLater => {
                "Temporary: events in memory were lost at the stop, another bridge uses this data_dir, or the system lacks \
                 open files, memory or space. Start again later."
            }
            Self::TokenRefused => "The platform refused the token.",
            Self::Config => "The configuration has errors.",
        }
    }

    /// Returns the number.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl Exit {
    /// Returns advice on what to do after an exit with this code.
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
            Self::TokenRefused => {
                Some("replace the token with a valid one; `neurobridge check --connect` tests it")
            }
            Self::Config => Some("run `neurobridge check` to list all configuration errors"),
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// An error that ends the program, with its exit code.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// The error with its causes.
    pub error: anyhow::Error,
    /// Advice on what to do next, if the advice of the exit code does not fit.
    step: Option<&'static str>,
}

impl Failure {
    /// Creates a failure from an error.
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self {
            exit,
            error: error.into(),
            step: None,
        }
    }

    /// Replaces the advice on what to do next.
    #[must_use]
    pub fn with_step(mut self, step: &'static str) -> Self {
        self.step = Some(step);
        self
    }

    /// Returns advice on what to do next.
    pub fn next_step(&self) -> Option<&'static str> {
        let mut causes = self.error.chain();
        let is_locked = causes.any(|error| matches!(error.downcast_ref(), Some(OpenError::Locked { .. })));
        if self.step.is_none() && is_locked {
            Some(STOP_OTHER)
        } else {
            self.step.or_else(|| self.exit.next_step())
        }
    }

    /// Creates a failure for a name on the command line that is not configured. `what` is the kind of part, such as `sink`.
    pub(crate) fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a String>) -> Self {
        let known: Vec<&str> = known.map(String::as_str).collect();
        Self::message(
            Exit::Usage,
            format!("unknown {what} \"{name}\", expected one of {}", known.join(", ")),
        )
    }

    /// Creates a failure from a message.
    pub fn message(exit: Exit, message: impl fmt::Display + fmt::Debug + Send + Sync + 'static) -> Self {
        Self::new(exit, anyhow::Error::msg(message))
    }
}

/// Formats the error and its causes on one line.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.error)
    }
}

/// Adds an exit code to errors.
pub trait OrExit<T> {
    /// Converts an error to a [`Failure`] with this exit code.
    ///
    /// # Errors
    /// Returns the original error with the exit code.
    fn or_exit(self, exit: Exit) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> OrExit<T> for Result<T, E> {
    fn or_exit(self, exit: Exit) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(exit, error))
    }
}

/// Formats an error with its causes on one line.
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
    fn locked_spool_has_its_own_advice_unless_another_is_given() {
        let locked = || OpenError::Locked {
            folder: "data/spool".into(),
        };
        let step = Failure::new(Exit::TryLater, locked()).next_step().unwrap();
        assert!(step.contains("stop") && step.contains("data_dir"), "{step}");
        let replay = Failure::new(Exit::TryLater, locked()).with_step("stop the bridge");
        assert_eq!(replay.next_step(), Some("stop the bridge"));
    }
}
