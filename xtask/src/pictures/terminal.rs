//! Draws the terminal output of `neurobridge demo` and `neurobridge check`.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use neurobridge_tests::paths::{Scratch, workspace_root};
use neurobridge_tests::poll::wait_until;
use neurobridge_tests::program::neurobridge;
use neurobridge_tests::terminal::Terminal;
use nix::sys::signal::Signal;

use super::svg;
use crate::shell::log;

/// The time limit for the first events of the demo, and for the exit of a program.
const LIMIT: Duration = Duration::from_secs(120);
/// The time between two screens of the demo, which is also how long each one is shown.
const TIME_PER_SCREEN: Duration = Duration::from_secs(2);
/// Enough screens to show each of the demo's three faults.
const SCREENS: usize = 24;

/// A configuration with five typical errors. One of them is in the line of a token, which the output must not contain.
const BROKEN: &str = "\
drain_timeout = 8

[sources.main]
tokne = \"f3a9c4d1-not-for-your-eyes\"
ping_interval = \"5 sec\"

[event]
redact = [\"*_image\"]

[spool]
type = \"dsik\"

[sinks.archive]
type = \"file\"
max_sise = \"128 MiB\"
";

pub(super) fn run() -> Result<ExitCode> {
    let folder = workspace_root().join("docs/pictures");
    fs::create_dir_all(&folder)?;
    let dir = Scratch::new("pictures")?;
    demo(&dir, &folder.join("demo.svg"))?;
    check(&dir, &folder.join("check.svg"))?;
    Ok(ExitCode::SUCCESS)
}

/// Draws the screens of the running demo, beginning with the first events.
fn demo(dir: &Scratch, picture: &Path) -> Result<()> {
    let mut command = Command::new(neurobridge());
    command.current_dir(dir.path()).args(["demo", "--rate", "50"]);
    let mut terminal = Terminal::spawn(&mut command, 80, 24)?;
    wait_until("the first events of the demo", LIMIT, || {
        terminal.contents().contains("events flow")
    })?;
    let mut screens = Vec::new();
    while screens.len() < SCREENS {
        screens.push(terminal.screen());
        thread::sleep(TIME_PER_SCREEN);
    }
    terminal.signal(Signal::SIGINT)?;
    let status = terminal.wait(LIMIT)?;
    ensure!(status.success(), "the demo exited with {status}");
    write(picture, &svg::draw("cargo demo", &screens, TIME_PER_SCREEN))
}

/// Draws the report of the errors in a configuration.
fn check(dir: &Scratch, picture: &Path) -> Result<()> {
    fs::write(dir.join("neurobridge.toml"), BROKEN)?;
    let mut command = Command::new(neurobridge());
    command.current_dir(dir.path()).arg("check");
    let mut terminal = Terminal::spawn(&mut command, 100, 60)?;
    let status = terminal.wait(LIMIT)?;
    ensure!(
        status.code() == Some(78),
        "check exited with {status}: {}",
        terminal.contents()
    );
    ensure!(
        !terminal.written().contains("not-for-your-eyes"),
        "check shows a token: {}",
        terminal.contents()
    );
    write(
        picture,
        &svg::draw("neurobridge check", &[terminal.screen()], TIME_PER_SCREEN),
    )
}

fn write(picture: &Path, svg: &str) -> Result<()> {
    fs::write(picture, svg).with_context(|| format!("writing {}", picture.display()))?;
    log(&format!("{} is written", picture.display()));
    Ok(())
}
