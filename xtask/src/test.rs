//! `cargo xtask test`: every test of the workspace, against real brokers.

use std::env;
use std::fs;
use std::io::BufReader;
use std::num::NonZero;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};
use neurobridge_tests::paths::{Scratch, sweep_scratch};
use neurobridge_tests::process::Guardian;
use neurobridge_tests::program::{self, BINARY_VARIABLE, Profile, build};
use neurobridge_tests::shared::{Broker, SKIP_VARIABLE, SKIPPED_FILE_VARIABLE};
use neurobridge_tests::{browser, prometheus::SKIP_WORD};
use serde::Deserialize;

use crate::brokers::{Provided, provide};
use crate::shell::say;
use crate::{chromium, prometheus};

/// So many tests at a time at least: the long ones wait for brokers more than they compute.
const LEAST_THREADS: usize = 4;
/// By this the test harness is told.
const THREADS_VARIABLE: &str = "RUST_TEST_THREADS";

/// Starts the test programs with no signal ignored. The bridge leaves a signal ignored that was ignored at its start, as SIGINT is
/// in a script's background jobs and SIGHUP under `nohup`, and the tests send both.
const SIGNALS_RUNNER: &str =
    r#"target."cfg(target_os = \"linux\")".runner = ["env", "--default-signal=HUP,INT,TERM"]"#;

/// Which tests.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
NEUROBRIDGE_TEST_KAFKA=host:port and NEUROBRIDGE_TEST_NATS=url name brokers to use instead of new ones.
NEUROBRIDGE_TEST_SKIP=kafka,nats,prometheus,chromium skips the tests that need these, and says which.")]
pub(crate) struct Args {
    /// The packages whose tests to run; the whole workspace, when none is given
    #[arg(short, long)]
    package: Vec<String>,
    /// Parts of the names of the tests to run; all of them, when none is given
    filters: Vec<String>,
}

/// Builds, starts the brokers, runs the tests, and stops the brokers whatever came of it.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    sweep_scratch()?;
    let binary = build_tests(args)?;
    let scratch = Scratch::new("test")?;
    let skipped = scratch.join("skipped");
    let brokers = start_brokers()?;
    // Without it only the tests that need it fail, each with the way to get it.
    if !is_skipped(SKIP_WORD)
        && let Err(error) = prometheus::install()
    {
        say(&format!("{error:#}"));
    }
    if !is_skipped(browser::SKIP_WORD)
        && let Err(error) = chromium::install()
    {
        say(&format!("{error:#}"));
    }

    let mut cargo = cargo_test(args);
    if can_reset_signals() {
        cargo.args(["--config", SIGNALS_RUNNER]);
    }
    cargo.arg("--no-fail-fast").arg("--").args(&args.filters);
    if env::var_os(THREADS_VARIABLE).is_none() {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        cargo.env(THREADS_VARIABLE, cores.max(LEAST_THREADS).to_string());
    }
    cargo.env(SKIPPED_FILE_VARIABLE, &skipped);
    if let Some(binary) = binary {
        cargo.env(BINARY_VARIABLE, binary);
    }
    for (broker, provided) in &brokers {
        cargo.env(broker.variable(), provided.address());
    }
    // A group of its own, that ends with this program however it is ended: the tests would go on without their brokers.
    let mut tests = cargo.process_group(0).spawn().context("starting cargo")?;
    let guardian = Guardian::of_group(tests.id())?;
    let status = tests.wait().context("awaiting the tests")?;
    guardian.retire();
    drop(brokers);
    say_skipped(&skipped);
    if status.success() {
        say("all tests passed");
        return Ok(ExitCode::SUCCESS);
    }
    say(&format!("`cargo test` ended with {status}"));
    Ok(ExitCode::FAILURE)
}

/// Compiles before any broker runs: both want all cores, and a mistake in the code should not wait for a broker.
fn build_tests(args: &Args) -> Result<Option<PathBuf>> {
    say("building the tests");
    let mut cargo = cargo_test(args);
    cargo
        .args(["--no-run", "--message-format=json-render-diagnostics"])
        .stdout(Stdio::piped());
    let mut child = cargo.spawn().context("starting cargo")?;
    let output = child.stdout.take().context("a pipe was asked for")?;
    let mut program = None;
    for message in serde_json::Deserializer::from_reader(BufReader::new(output)).into_iter::<Message>() {
        let message = message.context("reading what cargo says")?;
        program = message.program().or(program);
    }
    let status = child.wait().context("awaiting cargo")?;
    if !status.success() {
        bail!("the tests could not be built: cargo ended with {status}");
    }
    if program.is_none() && args.package.is_empty() {
        // Cargo builds a package's programs beside its tests only while it has integration tests.
        program = Some(build("neurobridge", "neurobridge", Profile::Dev)?);
    }
    Ok(program)
}

/// Returns whether `env` is one that resets signals: that of GNU, since version 8.31.
fn can_reset_signals() -> bool {
    let status = Command::new("env")
        .args(["--default-signal=HUP", "true"])
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

fn cargo_test(args: &Args) -> Command {
    let mut cargo = program::cargo();
    cargo.stdin(Stdio::null()).arg("test");
    if args.package.is_empty() {
        cargo.arg("--workspace");
    }
    for package in &args.package {
        cargo.args(["--package", package]);
    }
    if env::var_os("CI").is_some() {
        cargo.arg("--locked");
    }
    cargo
}

fn start_brokers() -> Result<Vec<(Broker, Provided)>> {
    let wanted = [Broker::Kafka, Broker::Nats].into_iter();
    let wanted = wanted.filter(|broker| !is_skipped(broker.word()));
    wanted.map(|broker| Ok((broker, provide(broker)?))).collect()
}

fn is_skipped(word: &str) -> bool {
    let skipped = env::var(SKIP_VARIABLE).unwrap_or_default();
    skipped.split(',').any(|skipped| skipped.trim() == word)
}

/// The lines went by between those of the tests; here they are again, where they are seen.
fn say_skipped(file: &Path) {
    let lines = fs::read_to_string(file).unwrap_or_default();
    for line in lines.lines() {
        say(line);
    }
}

/// The part of cargo's messages that tells where a program was put.
#[derive(Debug, Deserialize)]
struct Message {
    reason: String,
    target: Option<Target>,
    profile: Option<MessageProfile>,
    executable: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct MessageProfile {
    test: bool,
}

impl Message {
    fn program(self) -> Option<PathBuf> {
        let target = self.target?;
        let is_program = self.reason == "compiler-artifact"
            && target.name == "neurobridge"
            && target.kind.iter().any(|kind| kind == "bin")
            && !self.profile?.test;
        if is_program { self.executable } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_program_among_the_messages() {
        let program = r#"{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"neurobridge","src_path":"x"},
            "profile":{"opt_level":"0","test":false},"executable":"/t/neurobridge","fresh":true}"#;
        let parse = |text: &str| serde_json::from_str::<Message>(text).unwrap().program();
        assert_eq!(parse(program), Some(PathBuf::from("/t/neurobridge")));
        assert_eq!(parse(&program.replace("\"test\":false", "\"test\":true")), None);
        assert_eq!(parse(&program.replace("\"bin\"", "\"lib\"")), None);
        assert_eq!(parse(r#"{"reason":"build-finished","success":true}"#), None);
    }
}
