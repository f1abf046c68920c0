//! The neurobridge program: command line, configuration, commands, and the bridge that they start.

mod bridge;
pub mod cli;
mod commands;
pub mod config;
mod data_dir;
pub mod exit;
mod feed;
mod http;
mod intake;
pub mod logging;
mod output;
mod preview;
mod signals;
mod sinks;
mod spool;
mod state;
mod tap;
mod terminal;

use std::{io, process::ExitCode};

use clap::Parser;

pub use self::sinks::{AnyReader, AnySink, RegisteredSink};
use crate::{cli::Cli, exit::Exit};

/// As [`main`], with further sink types beside those of this build: a program with a sink of its own is this call.
pub fn main_with(sink_types: &'static [RegisteredSink]) -> ExitCode {
    // Only a second call in one process finds them added.
    sinks::add(sink_types);
    main()
}

/// The program: reads the command line, does what it says, and says with which exit code to end.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody is left to tell when even this can't be written.
            let _ = error.print();
            // clap's own code is 2, which says the same to nobody but shells.
            return if error.use_stderr() { Exit::Usage } else { Exit::Ok }.into();
        }
    };
    // Two providers are compiled in by what we depend on, and without a choice the first connection would panic.
    // It fails only where one was chosen before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let exit = match commands::execute(cli) {
        Ok(exit) => exit,
        Err(failure) => {
            logging::write_last(format!("{}\n", told(&failure)));
            failure.exit
        }
    };
    logging::flush();
    exit.into()
}

/// A failure as it stands on standard error.
fn told(failure: &exit::Failure) -> String {
    match failure.error.downcast_ref::<config::Report>() {
        Some(report) => {
            let stderr = io::stderr();
            let mut text = report.render(terminal::colours(&stderr), terminal::width_of(&stderr));
            // What a command says beside it, of what it wanted the configuration for.
            if let Some(around) = failure
                .error
                .chain()
                .next()
                .filter(|error| !error.is::<config::Report>())
            {
                text.push_str(&format!("\n\nnext: {around}"));
            }
            text
        }
        None => match failure.next_step() {
            Some(step) => format!("error: {failure}\n\nnext: {step}"),
            None => format!("error: {failure}"),
        },
    }
}
