//! The pictures of the documents, made out of the running program.

mod svg;
mod terminal;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

/// Which pictures to make.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Of the terminal: `demo`, `check`, `tail`
    Terminal,
}

/// Makes pictures.
///
/// # Errors
/// When a program does not start, or does not show what is to be seen.
pub fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Terminal => terminal::run()?,
    }
    Ok(ExitCode::SUCCESS)
}
