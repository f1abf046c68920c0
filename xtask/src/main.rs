//! The chores of neurobridge, as `cargo xtask …`.

mod bench;
mod brokers;
mod chaos;
mod chromium;
mod dist;
mod docs;
mod packages;
mod pictures;
mod prometheus;
mod shell;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The chores of neurobridge.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", version, about)]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Real brokers on this machine: fetched, started, stopped
    #[command(subcommand)]
    Brokers(brokers::Command),
    /// Every test of the workspace, against real brokers, which are fetched and started first
    Test(test::Args),
    /// CPU, memory and latency of the bridge beside bare loops, against real brokers
    Bench(bench::Args),
    /// The bridge, Kafka and NATS killed, frozen and cut off at random under load; and the audit of every event
    Chaos(chaos::Args),
    /// A tarball and a Debian package, with their checksums
    Dist(dist::Args),
    /// Makes the pictures of the documents anew, out of the running program: docs/pictures
    #[command(subcommand)]
    Pictures(pictures::Command),
    /// Writes the documents that are made from the program: docs/metrics.md and docs/configuration.md
    Docs,
}

fn main() -> ExitCode {
    let result = match Cli::parse().chore {
        Chore::Brokers(command) => brokers::run(command),
        Chore::Test(args) => test::run(&args),
        Chore::Bench(args) => bench::run(&args),
        Chore::Chaos(args) => chaos::run(&args),
        Chore::Dist(args) => dist::run(&args),
        Chore::Pictures(command) => pictures::run(&command),
        Chore::Docs => docs::run(),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
