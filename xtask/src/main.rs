//! The development tasks of neurobridge, as `cargo xtask …`.

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

/// Development tasks of neurobridge
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", version, about)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install, start and stop real brokers on this machine
    #[command(subcommand)]
    Brokers(brokers::Command),
    /// Run all tests of the workspace against real brokers, which are installed and started first
    Test(test::Args),
    /// Compare CPU, memory and latency of the bridge with bare loops, against real brokers
    Bench(bench::Args),
    /// Kill, freeze and disconnect the bridge, Kafka and NATS at random under load, and audit every event
    Chaos(chaos::Args),
    /// Build a tarball and a Debian package, with their checksums
    Dist(dist::Args),
    /// Regenerate the pictures of the documents from the running program: docs/pictures
    #[command(subcommand)]
    Pictures(pictures::Command),
    /// Generate the documents docs/metrics.md and docs/configuration.md from the program
    Docs,
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Brokers(command) => brokers::run(command),
        Task::Test(args) => test::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Chaos(args) => chaos::run(&args),
        Task::Dist(args) => dist::run(&args),
        Task::Pictures(command) => pictures::run(&command),
        Task::Docs => docs::run(),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
