//! Sets `NEUROBRIDGE_VERSION`: the version, with the commit where it is known.

use std::{env, path::Path, process::Command};

/// Names the commit where the build has no repository: in a container.
const COMMIT: &str = "NEUROBRIDGE_COMMIT";

fn main() {
    println!("cargo:rerun-if-env-changed={COMMIT}");
    let version = env!("CARGO_PKG_VERSION");
    let commit = env::var(COMMIT).ok().filter(|commit| !commit.is_empty());
    let version = match commit.or_else(commit_of_repository) {
        Some(commit) => format!("{version} ({commit})"),
        None => version.to_owned(),
    };
    println!("cargo:rustc-env=NEUROBRIDGE_VERSION={version}");
}

/// Returns the commit of the repository, if git is available and the workspace is one: not that of a repository around it,
/// into which this source was copied.
fn commit_of_repository() -> Option<String> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .ok()?;
    let root = git(&["rev-parse", "--show-toplevel"])?;
    if Path::new(&root).canonicalize().ok()? != workspace {
        return None;
    }
    // It changes with each commit and each checkout.
    let log = git(&["rev-parse", "--path-format=absolute", "--git-path", "logs/HEAD"])?;
    if Path::new(&log).exists() {
        println!("cargo:rerun-if-changed={log}");
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
