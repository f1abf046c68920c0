//! `cargo xtask dist`: builds the release files, a tarball and a Debian package, with their checksums.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result};
use neurobridge_tests::paths::{Scratch, target_dir, workspace_root};
use neurobridge_tests::program::{Profile, build, cargo};

use crate::shell::{log, output, print, run_quietly};

/// The version of cargo-deb that builds the package.
const CARGO_DEB_VERSION: &str = "3.8.0";

/// The time limit of each command: cargo-deb, and `cargo install`, which compiles cargo-deb in a minute and a half of CPU time.
const LIMIT: Duration = Duration::from_secs(900);

/// The shells for which the packages contain completions.
const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];

/// The program to pack, and the output folder.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Program to pack [default: build it with --release]
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Output folder [default: target/dist]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Compress less, for a trial
    #[arg(long)]
    fast: bool,
}

/// Builds the program and packs it; the file names are printed to standard output.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let binary = match &args.binary {
        Some(binary) => binary.clone(),
        None => {
            log("building the program");
            build("neurobridge", "neurobridge", Profile::Release)?
        }
    };
    let out = args.out.clone().unwrap_or_else(|| target_dir().join("dist"));
    fs::create_dir_all(&out).with_context(|| format!("creating the folder {}", out.display()))?;
    let out = out.canonicalize()?;
    let scratch = Scratch::new("dist")?;
    // The name equals that of cargo's folder for the release profile, so that cargo-deb finds the files there.
    let made = scratch.join("release");
    make(&binary, &made)?;
    let tarball = tarball(&made, &scratch, &out)?;
    let package = package(&scratch, &out, args.fast)?;
    let sums = File::create(out.join("SHA256SUMS"))?;
    let mut sha256sum = Command::new("sha256sum");
    sha256sum
        .current_dir(&out)
        .args([&tarball, &package])
        .stdout(sums);
    run_program("sha256sum", &mut sha256sum)?;
    for name in [&*tarball, &*package, "SHA256SUMS"] {
        print(&out.join(name).display().to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the program without its debug information (function names remain, so that a panic is readable), its manual
/// page and its completions.
fn make(binary: &Path, made: &Path) -> Result<()> {
    fs::create_dir_all(made)?;
    let program = made.join("neurobridge");
    let mut strip = Command::new("strip");
    run_program(
        "strip",
        strip.arg("--strip-debug").arg("-o").arg(&program).arg(binary),
    )?;
    let write_output = |arguments: &[&str], file: &str| {
        let mut command = Command::new(&program);
        command.args(arguments).stdout(File::create(made.join(file))?);
        run_program(&format!("neurobridge {}", arguments.join(" ")), &mut command)
    };
    write_output(&["man"], "neurobridge.1")?;
    for shell in SHELLS {
        write_output(&["completions", shell], &format!("neurobridge.{shell}"))?;
    }
    Ok(())
}

/// Packs all files in one folder and returns the file's name. The same content produces the same bytes.
fn tarball(made: &Path, scratch: &Scratch, out: &Path) -> Result<String> {
    let folder = format!("neurobridge-{}-{}", env!("CARGO_PKG_VERSION"), host()?);
    let root = scratch.join(&folder);
    let copy = |from: &Path, to: &str| -> Result<()> {
        let to = root.join(to);
        fs::create_dir_all(to.parent().context("the file has no parent folder")?)?;
        let mut cp = Command::new("cp");
        run_program("cp", cp.arg("-R").arg(from).arg(to))
    };
    copy(&made.join("neurobridge"), "neurobridge")?;
    copy(&made.join("neurobridge.1"), "man/neurobridge.1")?;
    for shell in SHELLS {
        let file = format!("neurobridge.{shell}");
        copy(&made.join(&file), &format!("completions/{file}"))?;
    }
    for path in [
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "LICENSE",
        "config",
        "docs",
    ] {
        copy(&workspace_root().join(path), path)?;
    }
    let name = format!("{folder}.tar.gz");
    let mut tar = Command::new("tar");
    tar.current_dir(scratch.path())
        .args([
            "--sort=name",
            "--owner=0",
            "--group=0",
            "--numeric-owner",
            "--mode=go-w,a+rX",
        ])
        .arg(format!("--mtime=@{}", time_of_the_source()))
        .args(["--use-compress-program=gzip -n", "-cf"])
        .arg(out.join(&name))
        .arg(folder);
    run_program("tar", &mut tar)?;
    Ok(name)
}

/// Builds the Debian package defined in `crates/bridge/Cargo.toml` and returns the file's name.
fn package(scratch: &Scratch, out: &Path, fast: bool) -> Result<String> {
    let program = cargo_deb()?;
    let file = scratch.join("package");
    fs::create_dir_all(&file)?;
    let mut command = Command::new(program);
    command
        .current_dir(workspace_root())
        .env("CARGO_TARGET_DIR", scratch.path())
        .env("SOURCE_DATE_EPOCH", time_of_the_source())
        // The program is already stripped.
        .args([
            "deb",
            "--no-build",
            "--no-strip",
            "--package",
            "neurobridge",
            "--output",
        ])
        .arg(&file);
    if fast {
        command.arg("--fast");
    }
    run_quietly("cargo-deb", &mut command, LIMIT)?;
    let entry = fs::read_dir(&file)?
        .next()
        .context("cargo-deb produced no package")??;
    let name = entry
        .file_name()
        .into_string()
        .ok()
        .context("the name of cargo-deb's package is not valid Unicode")?;
    fs::copy(entry.path(), out.join(&name)).with_context(|| format!("writing {name}"))?;
    Ok(name)
}

/// Returns the path of cargo-deb, which is compiled if it is missing.
fn cargo_deb() -> Result<PathBuf> {
    let tools = target_dir().join("tools");
    let root = tools.join(format!("cargo-deb-{CARGO_DEB_VERSION}"));
    let program = root.join("bin/cargo-deb");
    if !program.is_file() {
        log("installing cargo-deb");
        let mut command = cargo();
        command
            // Compiled without optimisation, because cargo-deb packs only one program. Compiled without the built-in
            // compressor: cargo-deb then runs the program xz, which dpkg needs anyway.
            .args([
                "install",
                "--quiet",
                "--locked",
                "--debug",
                "--no-default-features",
                "--root",
            ])
            .arg(&root)
            .arg("--target-dir")
            .arg(tools.join("build"))
            .arg(format!("cargo-deb@{CARGO_DEB_VERSION}"));
        run_quietly("cargo install cargo-deb", &mut command, LIMIT)?;
    }
    Ok(program)
}

/// Returns the target triple of this machine.
fn host() -> Result<String> {
    let version = output("rustc", &["-vV"]).context("`rustc -vV` fails")?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("`rustc -vV` prints no host")
}

/// Returns the commit time in seconds since 1970, or the value from the environment, as specified by
/// <https://reproducible-builds.org>.
fn time_of_the_source() -> String {
    env::var("SOURCE_DATE_EPOCH")
        .ok()
        .or_else(|| output("git", &["log", "-1", "--format=%ct"]))
        .unwrap_or_else(|| "0".to_owned())
}

/// Runs a program that needs no time limit.
fn run_program(name: &str, command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("starting {name}"))?;
    anyhow::ensure!(status.success(), "{name} exited with {status}");
    Ok(())
}
