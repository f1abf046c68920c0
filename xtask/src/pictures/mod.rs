//! The pictures of the documents, made out of the running program.

mod page;
mod svg;
mod terminal;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

/// Which pictures to make.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Of the terminal: `demo` and `check`
    Terminal,
    /// Of the page, in both colour schemes, with real brokers and a real browser
    Page,
}

/// Makes pictures.
///
/// # Errors
/// When a program does not start, or does not show what is to be seen.
pub(crate) fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Terminal => terminal::run(),
        Command::Page => page::run(),
    }
}
