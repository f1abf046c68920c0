//! The pictures in the documents, generated from the running program.

mod page;
mod svg;
mod terminal;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

/// The pictures to generate.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The terminal: `demo` and `check`
    Terminal,
    /// The page in both colour schemes, with real brokers and a real browser
    Page,
}

/// Generates pictures.
///
/// # Errors
/// Returns an error if a program does not start or does not show the expected content.
pub(crate) fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Terminal => terminal::run(),
        Command::Page => page::run(),
    }
}
