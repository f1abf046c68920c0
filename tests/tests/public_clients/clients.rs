//! The platform's public clients in pinned versions, installed in the same way as by their users.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use neurobridge_tests::paths::target_dir;
use neurobridge_tests::process::Process;
use neurobridge_tests::shared::{SKIP_VARIABLE, report_skipped, skipped_by_name};

const REQUIREMENTS: &str = include_str!("python/requirements.txt");
const NODE_PACKAGE: &str = include_str!("node/package.json");
const NODE_LOCK: &str = include_str!("node/package-lock.json");

/// The time limit for a dozen small packages on a slow network.
const INSTALL_LIMIT: Duration = Duration::from_secs(300);

/// A language with a public client of the platform.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Language {
    /// The package `neuroio` from the Python Package Index.
    Python,
    /// The package `@neuroio/websocket` from npm.
    JavaScript,
}

/// An installed client.
#[derive(Debug)]
pub(crate) struct Client {
    language: Language,
    dir: PathBuf,
}

impl Language {
    /// Installs the client unless an earlier run has installed it. Reports the skip and returns `None` if the test is
    /// to be skipped.
    ///
    /// # Panics
    /// Panics if the client cannot be installed on a machine that has the language.
    pub(crate) fn client(self) -> Option<Client> {
        if skipped_by_name(self.word()) {
            return None;
        }
        let Some(versions) = self.versions() else {
            report_skipped(&format!("{} is missing", self.needs()));
            return None;
        };
        let dir = target_dir().join("tools/public-clients").join(self.word());
        if let Err(error) = self.provide(&dir, &versions) {
            let word = self.word();
            panic!(
                "installing the public client: {error:#}\n{SKIP_VARIABLE}={word} skips the tests that need it"
            );
        }
        Some(Client { language: self, dir })
    }

    fn word(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::JavaScript => "node",
        }
    }

    fn needs(self) -> &'static str {
        match self {
            Self::Python => "python3 with venv and pip",
            Self::JavaScript => "node with npm",
        }
    }

    /// Returns the versions of all programs that the installation needs, or `None` if one is missing.
    fn versions(self) -> Option<String> {
        match self {
            // Some distributions package `venv` separately; then the module exists, but `ensurepip` does not.
            Self::Python => output_of(
                Command::new("python3").args(["-c", "import ensurepip, sys, venv; print(sys.version)"]),
            ),
            Self::JavaScript => {
                let node = output_of(Command::new("node").arg("--version"))?;
                Some(node + &output_of(Command::new("npm").arg("--version"))?)
            }
        }
    }

    /// Installs the pinned versions in `dir`. A note with all versions is written last. Without the same note, an earlier
    /// installation is incomplete or has other versions, and is replaced.
    fn provide(self, dir: &Path, versions: &str) -> Result<()> {
        let parent = dir.parent().context("the folder has no parent")?;
        fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
        // Tests run in parallel, in one or several processes. The lock is released when its file is closed.
        let lock = dir.with_extension("lock");
        let lock = File::create(&lock).with_context(|| format!("opening {}", lock.display()))?;
        lock.lock()
            .context("waiting for another test that installs the client")?;

        let wanted = match self {
            Self::Python => format!("{versions}\n{REQUIREMENTS}"),
            Self::JavaScript => format!("{versions}\n{NODE_PACKAGE}\n{NODE_LOCK}"),
        };
        let note = dir.join("installed");
        if fs::read_to_string(&note).is_ok_and(|found| found == wanted) {
            return Ok(());
        }
        if dir.exists() {
            fs::remove_dir_all(dir).with_context(|| format!("removing the old {}", dir.display()))?;
        }
        fs::create_dir(dir).with_context(|| format!("creating {}", dir.display()))?;
        self.install(dir)?;
        fs::write(&note, wanted).with_context(|| format!("writing {}", note.display()))
    }

    fn install(self, dir: &Path) -> Result<()> {
        match self {
            Self::Python => {
                run(dir, Command::new("python3").args(["-m", "venv", "venv"]))?;
                fs::write(dir.join("requirements.txt"), REQUIREMENTS)?;
                // `--no-deps`, because pip would install unlisted dependencies in their current versions.
                run(
                    dir,
                    Command::new(dir.join("venv/bin/python"))
                        .args([
                            "-m",
                            "pip",
                            "install",
                            "--no-input",
                            "--disable-pip-version-check",
                            "--no-deps",
                        ])
                        .args(["--requirement", "requirements.txt"]),
                )?;
                run(
                    dir,
                    Command::new(dir.join("venv/bin/python")).args(["-m", "pip", "check"]),
                )
            }
            Self::JavaScript => {
                fs::write(dir.join("package.json"), NODE_PACKAGE)?;
                fs::write(dir.join("package-lock.json"), NODE_LOCK)?;
                run(
                    dir,
                    Command::new("npm").args([
                        "ci",
                        "--ignore-scripts",
                        "--no-audit",
                        "--no-fund",
                        "--no-update-notifier",
                    ]),
                )
            }
        }
    }
}

impl Client {
    /// Returns a command that runs a script with the installed client.
    pub(crate) fn script(&self, name: &str) -> Command {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/public_clients")
            .join(self.language.word());
        let (mut command, extension) = match self.language {
            Language::Python => {
                let mut command = Command::new(self.dir.join("venv/bin/python"));
                // Isolated mode: no packages of the user, no `PYTHONPATH`.
                command.arg("-I");
                (command, "py")
            }
            Language::JavaScript => {
                let mut command = Command::new("node");
                command.env("NODE_PATH", self.dir.join("node_modules"));
                (command, "js")
            }
        };
        let script = scripts.join(name).with_extension(extension);
        // The simulator is on this machine, so no proxy is used.
        command
            .env("NO_PROXY", "127.0.0.1")
            .env("no_proxy", "127.0.0.1")
            .arg(script);
        command
    }
}

/// Returns the output of a command, or `None` if the command is missing or fails.
fn output_of(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn run(dir: &Path, command: &mut Command) -> Result<()> {
    let mut process = Process::spawn(
        "the installer",
        command.current_dir(dir),
        &dir.join("install.log"),
    )?;
    let status = process.wait(INSTALL_LIMIT)?;
    ensure!(
        status.success(),
        "{command:?} exited with {status}; {}",
        process.log_tail()
    );
    Ok(())
}
