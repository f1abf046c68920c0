//! `cargo xtask test`: runs all tests of the workspace against real brokers.

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
use crate::shell::log;
use crate::{chromium, prometheus};

/// The minimum number of tests that run in parallel, also on fewer cores, because long tests mostly wait for brokers.
const LEAST_THREADS: usize = 4;
/// The variable from which the test harness reads the number of threads.
const THREADS_VARIABLE: &str = "RUST_TEST_THREADS";

/// Starts the test programs without ignored signals. The bridge continues to ignore a signal that was ignored when it
/// started: SIGINT in the background jobs of a script, SIGHUP under `nohup`. The tests send both signals.
const SIGNALS_RUNNER: &str =
    r#"target."cfg(target_os = \"linux\")".runner = ["env", "--default-signal=HUP,INT,TERM"]"#;

/// The tests to run.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
NEUROBRIDGE_TEST_KAFKA=host:port and NEUROBRIDGE_TEST_NATS=url set running brokers to use instead of new ones.
NEUROBRIDGE_TEST_SKIP=kafka,nats,prometheus,chromium skips the tests that need these programs, and lists the skipped tests.")]
pub(crate) struct Args {
    /// Packages to test [default: the whole workspace]
    #[arg(short, long)]
    package: Vec<String>,
    /// Parts of test names [default: all tests]
    filters: Vec<String>,
}

/// Builds the tests, starts the brokers, runs the tests, and stops the brokers regardless of the result.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    sweep_scratch()?;
    let binary = build_tests(args)?;
    let scratch = Scratch::new("test")?;
    let skipped = scratch.join("skipped");
    let brokers = start_brokers()?;
    // Without Prometheus or Chromium, only the tests that need the missing program fail. Each failure names the command that
    // installs it.
    if !is_skipped(SKIP_WORD)
        && let Err(error) = prometheus::install()
    {
        log(&format!("{error:#}"));
    }
    if !is_skipped(browser::SKIP_WORD)
        && let Err(error) = chromium::install()
    {
        log(&format!("{error:#}"));
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
    // A separate process group, which is killed together with this program; otherwise the tests would continue without
    // brokers.
    let mut tests = cargo.process_group(0).spawn().context("starting cargo")?;
    let guardian = Guardian::of_group(tests.id())?;
    let status = tests.wait().context("waiting for the tests")?;
    guardian.retire();
    drop(brokers);
    print_skipped(&skipped);
    if status.success() {
        log("all tests passed");
        return Ok(ExitCode::SUCCESS);
    }
    log(&format!("`cargo test` exited with {status}"));
    Ok(ExitCode::FAILURE)
}

/// Builds the tests and returns the path of the program under test. This happens before a broker is started, because a
/// compilation and a starting broker use all cores, and because a compilation error should not wait for a broker.
fn build_tests(args: &Args) -> Result<Option<PathBuf>> {
    log("building the tests");
    let mut cargo = cargo_test(args);
    cargo
        .args(["--no-run", "--message-format=json-render-diagnostics"])
        .stdout(Stdio::piped());
    let mut child = cargo.spawn().context("starting cargo")?;
    let output = child.stdout.take().context("the pipe is missing")?;
    let mut program = None;
    for message in serde_json::Deserializer::from_reader(BufReader::new(output)).into_iter::<Message>() {
        let message = message.context("reading cargo's messages")?;
        program = message.program().or(program);
    }
    let status = child.wait().context("waiting for cargo")?;
    if !status.success() {
        bail!("cannot build the tests: cargo exited with {status}");
    }
    if program.is_none() && args.package.is_empty() {
        // Cargo builds a package's programs next to its tests only if the package has integration tests.
        program = Some(build("neurobridge", "neurobridge", Profile::Dev)?);
    }
    Ok(program)
}

/// Returns whether `env` can reset signals, as GNU's can since version 8.31.
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

/// Prints the skipped tests once more at the end, because their lines are hard to find among those of the other tests.
fn print_skipped(file: &Path) {
    let lines = fs::read_to_string(file).unwrap_or_default();
    for line in lines.lines() {
        log(line);
    }
}

/// The part of cargo's messages that contains the path of a built program.
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
    fn program_is_found_in_cargo_messages() {
        let program = r#"{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"neurobridge","src_path":"x"},
            "profile":{"opt_level":"0","test":false},"executable":"/t/neurobridge","fresh":true}"#;
        let parse = |text: &str| serde_json::from_str::<Message>(text).unwrap().program();
        assert_eq!(parse(program), Some(PathBuf::from("/t/neurobridge")));
        assert_eq!(parse(&program.replace("\"test\":false", "\"test\":true")), None);
        assert_eq!(parse(&program.replace("\"bin\"", "\"lib\"")), None);
        assert_eq!(parse(r#"{"reason":"build-finished","success":true}"#), None);
    }
}
