//! `cargo xtask bench --instructions`: counts the instructions that the bridge executes for each event, and compares them with
//! the stored counts.
//!
//! Unlike times, counts are the same on a busy machine: the same program executes the same instructions. They depend on the
//! compiler and on the processor's features, which are therefore stored with them.

mod counts;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};
use neurobridge_tests::paths::{Scratch, target_dir, workspace_root};
use neurobridge_tests::program::cargo;

use self::counts::{CASES, Counts, STEPS, Steps, Tools, Verdict, compare};
use crate::shell::{log, output, print};

/// The package with the measured program.
const PROGRAM: &str = "neurobridge-hot-path";
/// The number of events in the shorter run. The longer run has twice as many: the difference of the counts does not contain the
/// instructions of the start.
const EVENTS: u64 = 4096;

/// Counts the instructions, and compares the counts with the stored ones or, if `accept` is set, replaces the stored ones.
pub(super) fn run(accept: bool) -> Result<ExitCode> {
    let Some(valgrind) = output("valgrind", &["--version"]) else {
        bail!(
            "counting instructions needs valgrind, which is not installed; run: sudo apt-get install valgrind, or install it with \
             your system's package manager"
        );
    };
    log("building the program");
    let program = build()?;
    let scratch = Scratch::new("instructions")?;
    let tools = Tools {
        rustc: output(
            &env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned()),
            &["--version"],
        )
        .context("`rustc --version` fails")?,
        valgrind,
        // Queried in valgrind, because valgrind does not offer every feature of the processor.
        processor: output("valgrind", &["-q", "--tool=none", path(&program)?, "processor"])
            .context("the program does not run in valgrind")?,
    };
    let mut found = Counts {
        tools,
        ..Counts::default()
    };
    for case in CASES {
        let mut before = 0;
        let mut steps = Steps::new();
        for step in STEPS {
            let all = per_event(&program, &scratch.join("callgrind"), case, step)?;
            // The count of a step includes the earlier steps.
            steps.insert(step.to_owned(), all.saturating_sub(before));
            before = all;
        }
        found.cases.insert(case.to_owned(), steps);
    }
    let file = workspace_root().join("xtask/instructions.toml");
    if accept {
        fs::write(&file, found.to_text()).with_context(|| format!("writing {}", file.display()))?;
        print(&format!("stored in {}", file.display()))?;
    }
    let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let stored = Counts::parse(&text).with_context(|| format!("reading {}", file.display()))?;
    let Verdict { lines, is_accepted } = compare(&stored, &found);
    for line in lines {
        print(&line)?;
    }
    Ok(if is_accepted {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Builds the program with the release profile, without the environment variables that change its machine code: the compiler of
/// clippy, for example, optimises less.
fn build() -> Result<PathBuf> {
    let mut command = cargo();
    command
        .args(["build", "--quiet", "--release", "--package", PROGRAM])
        .env("CARGO_INCREMENTAL", "0")
        .env_remove("RUSTC_WORKSPACE_WRAPPER");
    for (name, _) in env::vars_os() {
        let changes_code = name
            .to_str()
            .is_some_and(|name| name.ends_with("RUSTFLAGS") || name.starts_with("CARGO_PROFILE_RELEASE_"));
        if changes_code {
            command.env_remove(name);
        }
    }
    let status = command.status().context("starting cargo")?;
    ensure!(
        status.success(),
        "`cargo build --release --package {PROGRAM}` exited with {status}"
    );
    Ok(target_dir().join("release").join(PROGRAM))
}

/// Returns the instructions for each event up to a step.
fn per_event(program: &Path, file: &Path, case: &str, step: &str) -> Result<u64> {
    let mut totals = [0; 2];
    for (total, events) in totals.iter_mut().zip([EVENTS, 2 * EVENTS]) {
        let mut out = std::ffi::OsString::from("--callgrind-out-file=");
        out.push(file);
        let done = Command::new("valgrind")
            .args(["-q", "--tool=callgrind"])
            .arg(out)
            .arg(program)
            .args([case, step, &events.to_string()])
            .stdin(Stdio::null())
            .output()
            .context("starting valgrind")?;
        ensure!(
            done.status.success(),
            "{PROGRAM} {case} {step} {events} in valgrind exited with {}: {}",
            done.status,
            String::from_utf8_lossy(&done.stderr).trim()
        );
        let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        *total = counts::total(&text).with_context(|| format!("no total in {}", file.display()))?;
    }
    let difference = totals[1].saturating_sub(totals[0]);
    ensure!(
        difference > 0,
        "{case} {step}: twice the number of events executed no more instructions"
    );
    Ok((difference + EVENTS / 2) / EVENTS)
}

fn path(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))
}
