//! Files on a disk that hangs, simulated by pipes without a writer: only the sources and sinks that read such a file
//! wait. A start that needs the file, and `check --connect`, fail and name the file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::platform::Platform;
use neurobridge_tests::ports::free_ports;
use neurobridge_tests::process::Process;
use neurobridge_tests::program::neurobridge;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

const SOON: Duration = Duration::from_secs(60);

fn pipe(dir: &Scratch, name: &str) -> PathBuf {
    let path = dir.join(name);
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    path
}

fn source(url: &str) -> String {
    format!("[sources.main]\nurl = \"{url}\"\ntoken = \"t\"\n")
}

/// Returns the configuration of sources and sinks, each of which needs a file that hangs.
fn hanging(dir: &Scratch, url: &str) -> String {
    let [ca, token, password, key, root] =
        ["ca", "token", "password", "key", "root"].map(|name| pipe(dir, name));
    let [nats, kafka] = free_ports().unwrap();
    format!(
        "[sources.ca]\nurl = \"wss://127.0.0.1:{nats}\"\ntoken = \"t\"\ntls.ca_file = {ca:?}\n\
         [sources.token]\nurl = \"{url}\"\ntoken_file = {token:?}\n\
         [sinks.nats]\ntype = \"nats\"\nservers = [\"nats://127.0.0.1:{nats}\"]\nmode = \"core\"\n\
         auth = {{ user = \"u\", password_file = {password:?} }}\n\
         [sinks.kafka]\ntype = \"kafka\"\nbootstrap_servers = \"127.0.0.1:{kafka}\"\n\
         tls = {{ ca_file = {root:?} }}\nsasl = {{ mechanism = \"plain\", username = \"u\", password_file = {key:?} }}\n\
         [sinks.events]\ntype = \"file\"\npath = \"events.jsonl\"\n"
    )
}

#[test]
fn hanging_file_delays_only_the_parts_that_read_it() {
    let dir = Scratch::new("hanging").unwrap();
    let platform = Platform::start(&dir, &["--rate", "100"]).unwrap();
    let config = format!(
        "drain_timeout = \"1s\"\n{}{}",
        source(&platform.url()),
        hanging(&dir, &platform.url())
    );
    let bridge = Bridge::start(&dir, &config).unwrap();
    let names = |reason: &Option<String>, file: &str| {
        let reason = reason.as_deref().unwrap_or_default();
        reason.contains(file) && reason.contains("nothing was read within")
    };
    bridge
        .wait("the reasons", SOON, |status| {
            names(&status.source("ca").reason, "/ca")
                && names(&status.source("token").reason, "/token")
                && names(&status.sink("nats").reason, "/password")
                && names(&status.sink("kafka").reason, "/root")
                && status.delivered("events") > 100
        })
        .unwrap();
    // A pipe whose writer finally delivers the content is read like a regular file.
    fs::write(dir.join("token"), "t\n").unwrap();
    bridge
        .wait("the token", SOON, |status| {
            status.source("token").ledger.received > 0
        })
        .unwrap();
    let (_, log) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(log.contains("source main:"), "{log}");
}

/// Runs a command with this configuration until it exits, and returns its exit code and its log.
fn run_to_end(dir: &Scratch, args: &[&str], config: &str) -> (Option<i32>, String) {
    let [port] = free_ports().unwrap();
    let file = dir.join("neurobridge.toml");
    let whole = format!(
        "data_dir = {:?}\n{config}\n[http]\nlisten = \"127.0.0.1:{port}\"\n",
        dir.join("data")
    );
    fs::write(&file, whole).unwrap();
    let mut command = Command::new(neurobridge());
    command.args(args).arg("-c").arg(&file).env_remove("RUST_LOG");
    let log: &Path = &dir.join("output.log");
    let mut process = Process::spawn("neurobridge", &mut command, log).unwrap();
    let status = process.wait(SOON).unwrap();
    (status.code(), process.logged().unwrap())
}

#[test]
fn hanging_key_file_fails_the_start() {
    let dir = Scratch::new("hanging-key").unwrap();
    let key = pipe(&dir, "key");
    let config = format!(
        "{}[event.pseudonymise]\nfields = [\"pid\"]\nkey_file = {key:?}\n",
        source("ws://127.0.0.1:1")
    );
    let (code, log) = run_to_end(&dir, &["run"], &config);
    assert_eq!(code, Some(69), "{log}");
    assert!(
        log.contains("/key") && log.contains("nothing was read within"),
        "{log}"
    );
}

#[test]
fn check_connect_names_hanging_files() {
    let dir = Scratch::new("hanging-check").unwrap();
    let (code, log) = run_to_end(&dir, &["check", "--connect"], &hanging(&dir, "ws://127.0.0.1:1"));
    assert_eq!(code, Some(69), "{log}");
    for file in ["/ca", "/token", "/password", "/root"] {
        assert!(log.contains(file), "{file}: {log}");
    }
}
