//! `cargo xtask pictures`: generates the pictures of the documents from the running program.

mod page;
mod svg;
mod terminal;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

/// The pictures to generate.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Draw the terminal output of `demo` and `check` as SVG
    Terminal,
    /// Take screenshots of the bridge's page in both colour schemes, with real brokers and a real browser
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
