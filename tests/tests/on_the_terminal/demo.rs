//! The output of `neurobridge demo` on a terminal, from the first event to the ledger.

use std::process::Command;

use neurobridge_tests::paths::Scratch;
use neurobridge_tests::poll::wait_until;
use neurobridge_tests::program::neurobridge;
use neurobridge_tests::terminal::Terminal;
use nix::sys::signal::Signal;

use super::SOON;

fn demo(dir: &Scratch) -> Command {
    let mut command = Command::new(neurobridge());
    command
        .current_dir(dir.path())
        .args(["demo", "--rate", "100"])
        .env_remove("NO_COLOR");
    command
}

fn wait(terminal: &Terminal, what: &str) {
    wait_until(what, SOON, || terminal.contents().contains(what))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", terminal.contents()));
}

#[test]
fn screen_shows_each_fault_and_restores_the_terminal() {
    let dir = Scratch::new("demo-screen").unwrap();
    let mut terminal = Terminal::spawn(&mut demo(&dir), 80, 24).unwrap();
    for line in [
        "events flow into the file",
        "cuts the connection",
        "authenticated again",
        "missed in the gap: fetched, none lost",
        "stops for 4 s",
        "has caught up",
        "refuses the token once",
        "connecting failed (token refused)",
    ] {
        wait(&terminal, line);
    }
    let screen = terminal.screen();
    assert!(screen.alternate_screen() && screen.hide_cursor());
    assert!(terminal.written().contains("\u{1b}[32m"), "no colours");
    let contents = terminal.contents();
    for part in [
        "feed",
        "spool",
        "file",
        "exact",
        "events   demo-data/events.jsonl",
        "metrics",
        "Ctrl-C",
    ] {
        assert!(contents.contains(part), "{part} is missing in\n{contents}");
    }

    // After each change of the size, down to a single cell, the demo draws the screen again.
    for (columns, rows) in [(50, 12), (20, 4), (1, 1), (132, 43)] {
        terminal.resize(columns, rows).unwrap();
        let first = "  neurobridge demo"
            .chars()
            .take(usize::from(columns) - 1)
            .collect::<String>();
        let drawn = terminal.written().len();
        wait_until("another screen", SOON, || {
            terminal.written().len() > drawn + 10_000 || {
                let contents = terminal.contents();
                terminal.written().len() > drawn + 200
                    && contents
                        .lines()
                        .next()
                        .unwrap_or("")
                        .starts_with(first.trim_end())
            }
        })
        .unwrap();
    }
    wait(&terminal, "Ctrl-C");

    terminal.signal(Signal::SIGINT).unwrap();
    assert!(terminal.wait(SOON).unwrap().success(), "{}", terminal.contents());
    let screen = terminal.screen();
    assert!(
        !screen.alternate_screen() && !screen.hide_cursor(),
        "the cursor and the mode of the terminal must be restored"
    );
    let contents = terminal.contents();
    assert!(
        contents.contains("The ledger: the result of every event") && contents.contains(" 0 pending"),
        "{contents}"
    );
}

#[test]
fn suspended_demo_restores_the_terminal_until_it_continues() {
    let dir = Scratch::new("demo-suspended").unwrap();
    let mut terminal = Terminal::spawn(&mut demo(&dir), 80, 24).unwrap();
    wait(&terminal, "events flow into the file");
    for _ in 0..2 {
        terminal.signal(Signal::SIGTSTP).unwrap();
        wait_until("the terminal to be restored", SOON, || {
            let screen = terminal.screen();
            !screen.alternate_screen() && !screen.hide_cursor()
        })
        .unwrap();
        wait_until("the process to be stopped", SOON, || terminal.is_stopped()).unwrap();
        terminal.signal(Signal::SIGCONT).unwrap();
        wait_until("the screen again", SOON, || {
            let screen = terminal.screen();
            screen.alternate_screen() && screen.hide_cursor()
        })
        .unwrap();
        wait(&terminal, "Ctrl-C");
    }
    terminal.signal(Signal::SIGINT).unwrap();
    assert!(terminal.wait(SOON).unwrap().success(), "{}", terminal.contents());
}

#[test]
fn no_color_writes_no_colour_sequences() {
    let dir = Scratch::new("demo-plain").unwrap();
    let mut terminal =
        Terminal::spawn(demo(&dir).env("NO_COLOR", "1").args(["--duration", "3s"]), 80, 24).unwrap();
    assert!(terminal.wait(SOON).unwrap().success(), "{}", terminal.contents());
    assert!(!terminal.written().contains("\u{1b}[3"), "{}", terminal.written());
    assert!(terminal.contents().contains("ledger"), "{}", terminal.contents());
}
