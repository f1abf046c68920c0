//! The neurobridge program: command line, configuration, commands, and the bridge that they start.

mod backfill;
mod bridge;
pub mod cli;
mod cluster;
mod commands;
pub mod config;
mod control;
mod data_dir;
mod deliveries;
pub mod exit;
mod feed;
mod frames;
mod gap_report;
mod gaps;
mod history;
mod http;
mod http_connections;
mod intake;
pub mod logging;
mod member;
mod output;
mod parts;
mod preview;
mod redaction;
mod reload;
mod resume;
mod signals;
mod sink_reader;
mod sinks;
mod spool;
mod state;
mod systemd;
mod table;
mod task;
mod terminal;
mod tokens;
mod view;
mod workers;

use std::{io, process::ExitCode};

use clap::Parser;

pub use self::{
    sink_reader::SinkReader,
    sinks::{AnyReader, AnySink, RegisteredSink},
};
use crate::{cli::Cli, exit::Exit};

/// As [`main`], with additional sink types: the `main` function of a program with a custom sink.
pub fn main_with(sink_types: &'static [RegisteredSink]) -> ExitCode {
    // Only the first call in a process has an effect.
    sinks::add(sink_types);
    main()
}

/// Runs the program: parses the command line, executes the command, and returns the exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // An error of this write cannot be reported anywhere.
            let _ = error.print();
            // clap's own code for an error is 2, a convention of shells only.
            return if error.use_stderr() { Exit::Usage } else { Exit::Ok }.into();
        }
    };
    // The dependencies compile two cryptography providers into rustls, so without a default the first TLS connection would
    // panic. An error means that a default is set already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let exit = match commands::execute(cli) {
        Ok(exit) => exit,
        Err(failure) => {
            logging::write_last(format!("{}\n", render(&failure)));
            failure.exit
        }
    };
    logging::flush();
    exit.into()
}

/// Renders a failure for standard error.
fn render(failure: &exit::Failure) -> String {
    match failure.error.downcast_ref::<config::Report>() {
        Some(report) => {
            let stderr = io::stderr();
            let mut text = report.render(terminal::colours(&stderr), terminal::width_of(&stderr));
            // The outermost context, if a command has added one to the report.
            if let Some(context) = failure
                .error
                .chain()
                .next()
                .filter(|error| !error.is::<config::Report>())
            {
                text.push_str(&format!("\n\nnext: {context}"));
            }
            text
        }
        None => match failure.next_step() {
            Some(step) => format!("error: {failure}\n\nnext: {step}"),
            None => format!("error: {failure}"),
        },
    }
}
