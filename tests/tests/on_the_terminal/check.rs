//! The output of `neurobridge check` on a terminal.

use std::fs;
use std::process::Command;

use neurobridge_tests::paths::Scratch;
use neurobridge_tests::program::neurobridge;
use neurobridge_tests::terminal::Terminal;

use super::SOON;

const BROKEN: &str = "\
drain_timeout = 8

[sources.main]
tokne = \"hunter2\"
url = \"https://someone:hunter2@example.com/\"

[sinks.archive]
type = \"file\"
max_sise = \"1 MiB\"
";

fn check(dir: &Scratch) -> Command {
    let mut command = Command::new(neurobridge());
    command
        .current_dir(dir.path())
        .arg("check")
        .env_remove("NO_COLOR")
        .env("NEUROBRIDGE__HTTP__LISTEN", "everywhere");
    command
}

#[test]
fn config_errors_show_their_line_and_hide_secrets() {
    let dir = Scratch::new("check").unwrap();
    fs::write(dir.join("neurobridge.toml"), BROKEN).unwrap();
    let seen = |command: &mut Command, columns: u16| {
        let mut terminal = Terminal::spawn(command, columns, 80).unwrap();
        assert_eq!(
            terminal.wait(SOON).unwrap().code(),
            Some(78),
            "{}",
            terminal.contents()
        );
        (terminal.written(), terminal.contents())
    };
    let (written, screen) = seen(&mut check(&dir), 100);
    assert!(written.contains("\u{1b}["), "{written}");
    assert!(!written.contains("hunter2"), "{written}");
    for expected in [
        "1 | drain_timeout = 8",
        "4 | tokne = …",
        "^^^^^ did you mean \"token\"?",
        "5 | url = …",
        "9 | max_sise = …",
        "environment variable NEUROBRIDGE__HTTP__LISTEN",
        "5 configuration errors; fix them and run `neurobridge check` again",
    ] {
        assert!(screen.contains(expected), "{expected} is missing in\n{screen}");
    }
    let (plain, _) = seen(check(&dir).env("NO_COLOR", "1"), 100);
    assert!(
        !plain.contains('\u{1b}') && plain.contains("tokne = …"),
        "{plain}"
    );
    let (narrow, _) = seen(&mut check(&dir), 40);
    assert!(!narrow.contains("hunter2"), "{narrow}");
}
