//! Tests of the files from `cargo xtask dist`: the tarball runs, and the Debian package is installed, run and removed.
//!
//! The installation changes this machine. The test therefore installs the package only as root and only if it is not
//! installed, and removes it afterwards.

mod unit;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use neurobridge_tests::http;
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::platform::Platform;
use neurobridge_tests::poll::wait_for;
use neurobridge_tests::ports::free_ports;
use neurobridge_tests::process::Process;
use neurobridge_tests::program::{cargo, neurobridge};
use neurobridge_tests::shared::report_skipped;
use neurobridge_tests::status::Status;
use nix::unistd::{User, geteuid};

use self::unit::Unit;

/// The time limit of each wait: far longer than any wait of these tests takes.
const SOON: Duration = Duration::from_secs(60);

const CONFIG: &str = "/etc/neurobridge/neurobridge.toml";
const DATA: &str = "/var/lib/neurobridge";
const ENVIRONMENT: &str = "/etc/default/neurobridge";

/// Runs a program that must succeed, and returns its output.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {stdout}{output:?}"
    );
    stdout
}

/// Returns the only file in `folder` whose name ends with `end`.
fn only(folder: &Path, end: &str) -> PathBuf {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files = files.filter(|path| path.to_str().unwrap().ends_with(end));
    let file = files
        .next()
        .unwrap_or_else(|| panic!("no {end} in {}", folder.display()));
    assert!(files.next().is_none());
    file
}

#[test]
fn release_files_install_run_and_uninstall() {
    let dir = Scratch::new("packages").unwrap();
    let mut dist = cargo();
    dist.args(["xtask", "dist", "--fast", "--binary"])
        .arg(neurobridge())
        .arg("--out")
        .arg(dir.join("made"));
    let output = dist.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let made = dir.join("made");
    let sums = Command::new("sha256sum")
        .args(["--check", "SHA256SUMS"])
        .current_dir(&made)
        .status();
    assert!(sums.unwrap().success());

    tarball_runs(&only(&made, ".tar.gz"), &dir);
    let package = only(&made, ".deb");
    check_package_contents(&package);
    let reason = if !geteuid().is_root() {
        "installing the package needs root"
    } else if succeeds("dpkg", &["--status", "neurobridge"]) {
        "neurobridge is installed on this machine already"
    } else {
        return package_installs_runs_and_uninstalls(&package, &dir);
    };
    report_skipped(reason);
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .output()
        .is_ok_and(|output| output.status.success())
}

fn tarball_runs(tarball: &Path, dir: &Scratch) {
    let unpacked = dir.join("unpacked");
    fs::create_dir(&unpacked).unwrap();
    run(
        "tar",
        &[
            "-xzf",
            tarball.to_str().unwrap(),
            "-C",
            unpacked.to_str().unwrap(),
        ],
    );
    let folder = only(&unpacked, "");
    let program = folder.join("neurobridge");
    let version = run(program.to_str().unwrap(), &["--version"]);
    // The version includes the commit if the program was built in a repository.
    let expected = format!("neurobridge {}", env!("CARGO_PKG_VERSION"));
    let rest = version.trim().strip_prefix(&expected);
    assert!(
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(" (")),
        "{version}"
    );
    let example = folder.join("config/examples/file.toml");
    run(
        program.to_str().unwrap(),
        &["check", "-c", example.to_str().unwrap()],
    );
    let sections = run("readelf", &["--sections", "--wide", program.to_str().unwrap()]);
    assert!(!sections.contains(".debug_info"), "the program is not stripped");
    assert!(
        sections.contains(".symtab"),
        "the program has no function names for panics"
    );
    for file in [
        "README.md",
        "LICENSE",
        "config/neurobridge.toml",
        "config/debian/neurobridge.service",
        "man/neurobridge.1",
        "completions/neurobridge.zsh",
    ] {
        assert!(folder.join(file).metadata().unwrap().len() > 0, "{file}");
    }
    run(
        "bash",
        &[
            "-n",
            folder.join("completions/neurobridge.bash").to_str().unwrap(),
        ],
    );
}

fn check_package_contents(package: &Path) {
    let package = package.to_str().unwrap();
    assert_eq!(
        run("dpkg-deb", &["--info", package, "conffiles"]),
        format!("{CONFIG}\n")
    );
    let control = run("dpkg-deb", &["--field", package]);
    for field in ["Package: neurobridge\n", "Depends: adduser, libc6 (>= "] {
        assert!(control.contains(field), "{field} in {control}");
    }
    let files = run("dpkg-deb", &["--contents", package]);
    for file in [
        "/usr/bin/neurobridge",
        "/usr/lib/systemd/system/neurobridge.service",
        "/usr/share/man/man1/neurobridge.1",
        "/usr/share/bash-completion/completions/neurobridge",
        "/usr/share/zsh/vendor-completions/_neurobridge",
        "/usr/share/fish/vendor_completions.d/neurobridge.fish",
        "/usr/share/doc/neurobridge/neurobridge.toml",
        "/usr/share/doc/neurobridge/examples/kafka.toml",
        "/usr/share/doc/neurobridge/copyright",
    ] {
        let line = files.lines().find(|line| line.ends_with(&format!(" .{file}")));
        let line = line.unwrap_or_else(|| panic!("{file} is not among {files}"));
        assert!(line.contains(" 0/0 "), "{line}");
    }
}

/// Removes the installed package when dropped, also after a failed assertion.
struct Installed {
    user_was_there: bool,
}

impl Drop for Installed {
    fn drop(&mut self) {
        let _ = Command::new("dpkg").args(["--purge", "neurobridge"]).output();
        let _ = fs::remove_file(ENVIRONMENT);
        if !self.user_was_there {
            let _ = Command::new("userdel").arg("neurobridge").output();
        }
    }
}

/// Installs the package, runs the service, upgrades the package, removes and purges it.
fn package_installs_runs_and_uninstalls(package: &Path, dir: &Scratch) {
    let package = package.to_str().unwrap();
    let user_was_there = User::from_name("neurobridge").unwrap().is_some();
    assert!(!Path::new(ENVIRONMENT).exists() && !Path::new(DATA).exists());
    let _installed = Installed { user_was_there };
    run("dpkg", &["--install", package]);

    let user = User::from_name("neurobridge")
        .unwrap()
        .expect("the package created no user");
    assert_ne!(user.uid.as_raw(), 0);
    let is = |path: &str, owner: u32, group: u32, mode: u32| {
        let found = fs::metadata(path).unwrap();
        let of = (found.uid(), found.gid(), found.permissions().mode() & 0o7777);
        assert_eq!(of, (owner, group, mode), "{path}");
    };
    let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
    is("/etc/neurobridge", 0, gid, 0o750);
    is(CONFIG, 0, gid, 0o640);
    is(DATA, uid, gid, 0o700);
    let unit_file = "/usr/lib/systemd/system/neurobridge.service";
    if succeeds("systemd-analyze", &["--version"]) {
        run("systemd-analyze", &["verify", unit_file]);
        // The threshold of the exposure in tenths: the service needs the network and some other permissions, so zero
        // is impossible.
        run(
            "systemd-analyze",
            &["security", "--offline=true", "--threshold=15", unit_file],
        );
    } else {
        report_skipped("systemd-analyze is missing, so the unit is not verified");
    }
    let page = Command::new("man").args(["-P", "cat", "neurobridge"]).output();
    if let Ok(page) = page {
        assert!(
            String::from_utf8_lossy(&page.stdout).contains("neurobridge"),
            "{page:?}"
        );
    }

    run(
        "install",
        &[
            "-o",
            "root",
            "-g",
            "neurobridge",
            "-m",
            "0640",
            "/dev/null",
            "/etc/neurobridge/token",
        ],
    );
    fs::write("/etc/neurobridge/token", "a-token\n").unwrap();
    service_runs(&Unit::read(Path::new(unit_file)), uid, dir);

    // The operator's changes of the configuration and the stored data remain until the package is purged.
    let changed = fs::read_to_string(CONFIG).unwrap() + "# changed\n";
    fs::write(CONFIG, &changed).unwrap();
    run("dpkg", &["--install", package]);
    assert_eq!(fs::read_to_string(CONFIG).unwrap(), changed);
    assert!(Path::new(DATA).join("events.jsonl").is_file());
    run("dpkg", &["--remove", "neurobridge"]);
    assert!(!Path::new("/usr/bin/neurobridge").exists() && !Path::new(unit_file).exists());
    assert_eq!(fs::read_to_string(CONFIG).unwrap(), changed);
    assert!(Path::new(DATA).join("events.jsonl").is_file());
    run("dpkg", &["--purge", "neurobridge"]);
    for path in [DATA, "/etc/neurobridge"] {
        assert!(!Path::new(path).exists(), "{path} is left");
    }
    assert!(!succeeds("dpkg", &["--status", "neurobridge"]));
}

/// Runs the service as the unit specifies, but without systemd, which is not available on every test machine.
fn service_runs(unit: &Unit, uid: u32, dir: &Scratch) {
    let platform = Platform::start(dir, &["--token", "a-token", "--rate", "200"]).unwrap();
    let [port] = free_ports().unwrap();
    let address = format!("127.0.0.1:{port}");
    let variables = format!(
        "NEUROBRIDGE__SOURCES__MAIN__URL={}\nNEUROBRIDGE__HTTP__LISTEN={address}\n",
        platform.url()
    );
    fs::write(ENVIRONMENT, variables).unwrap();
    let mut bridge = Process::spawn("the service", &mut unit.command(), &dir.join("service.log")).unwrap();
    wait_for("events in the file", SOON, || {
        if let Some(status) = bridge.exit_status()? {
            anyhow::bail!("the service exited with {status}");
        }
        let Ok(status) = http::get(&address, "/status") else {
            return Ok(None);
        };
        let status = Status::read(&status)?;
        Ok((status.delivered("events") > 100).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}: {}", bridge.log_tail()));
    let status = fs::read_to_string(format!("/proc/{}/status", bridge.id())).unwrap();
    let line = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!(line("Uid:"), uid.to_string());
    assert_eq!(
        (line("NoNewPrivs:").as_str(), line("CapBnd:").as_str()),
        ("1", "0000000000000000")
    );
    run(
        "/usr/bin/neurobridge",
        &["healthcheck", "--ready", "--url", &format!("http://{address}")],
    );
    let stopped = bridge.terminate(SOON).unwrap();
    assert!(stopped.success(), "{stopped}: {}", bridge.log_tail());
    let file = fs::metadata(Path::new(DATA).join("events.jsonl")).unwrap();
    assert_eq!((file.uid(), file.permissions().mode() & 0o7777), (uid, 0o600));
    assert!(Path::new(DATA).join("spool").is_dir());
}
