//! Tests of the output of the command line: help texts, results and error texts, recorded in `tests/cmd`.

#[test]
fn output_of_each_command_matches_its_recorded_output() {
    let cases = trycmd::TestCases::new();
    // The output must not depend on the environment of the person who runs the tests.
    cases
        .env("NO_COLOR", "1")
        .case("tests/cmd/*.trycmd")
        .register_bin(
            "neurobridge",
            std::path::Path::new(env!("CARGO_BIN_EXE_neurobridge")),
        );
    // The output of these commands depends on the sinks in the build.
    if cfg!(not(feature = "kafka")) {
        cases
            .skip("tests/cmd/check-kafka.trycmd")
            .skip("tests/cmd/errors.trycmd");
    }
}

/// In a repository the version includes the commit of git; elsewhere it has no commit.
#[test]
fn version_names_the_commit_of_the_repository() {
    use std::{path::Path, process::Command};

    if option_env!("NEUROBRIDGE_COMMIT").is_some_and(|commit| !commit.is_empty()) {
        return;
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .args(arguments)
            .current_dir(here)
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        output.status.success().then_some(text)
    };
    let root = git(&["rev-parse", "--show-toplevel"]).and_then(|root| Path::new(&root).canonicalize().ok());
    let workspace = here.join("../..").canonicalize().unwrap();
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).filter(|_| root == Some(workspace));
    let version = env!("CARGO_PKG_VERSION");
    let expected = match commit {
        Some(commit) => format!("neurobridge {version} ({commit})\n"),
        None => format!("neurobridge {version}\n"),
    };
    let output = Command::new(env!("CARGO_BIN_EXE_neurobridge"))
        .arg("--version")
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}
