//! Sinks whose servers have host names, on a machine whose name server never answers: the reported reason names the
//! step and the host.
//!
//! The program runs in its own user, mount and network namespaces. There, `/etc/resolv.conf` names an address whose
//! packets are lost.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use neurobridge_tests::paths::Scratch;
use neurobridge_tests::poll::wait_until;
use neurobridge_tests::process::Process;
use neurobridge_tests::program::neurobridge;

/// The time limit of each wait: many times longer than the five seconds after which a sink without a connection counts as down.
const SOON: Duration = Duration::from_secs(60);

const KAFKA: &str = "kafka.example.test:9092";
const NATS: &str = "nats.example.test";

/// A script that makes packets to the name server disappear. The network 192.0.2.0/24 is reserved for documentation.
/// The route sends packets for these addresses to the loopback device, which has none of them, so the packets are
/// dropped without an error.
const SCRIPT: &str = "mount --bind \"$1\" /etc/resolv.conf && ip link set lo up && \
                      ip route add 192.0.2.0/24 dev lo && shift && exec \"$@\"";

/// Returns a command that runs a program where no name server answers.
fn isolated(dir: &Scratch, program: &Path) -> Command {
    let resolver = dir.join("resolv.conf");
    fs::write(&resolver, "nameserver 192.0.2.1\n").unwrap();
    let mut command = Command::new("unshare");
    command
        .args(["--map-root-user", "--mount", "--net", "sh", "-c", SCRIPT, "sh"])
        .args([&resolver, program])
        .env_remove("RUST_LOG");
    command
}

/// Writes the configuration, and fails if the machine cannot isolate a program.
fn configured(dir: &Scratch) -> PathBuf {
    let tried = isolated(dir, Path::new("true")).output();
    assert!(
        tried.as_ref().is_ok_and(|output| output.status.success()),
        "this test needs `unshare` and `ip`, and a kernel that permits user, mount and network namespaces: {tried:?}"
    );
    let file = dir.join("neurobridge.toml");
    let config = format!(
        "data_dir = {:?}\ndrain_timeout = \"1s\"\n[sources.main]\nurl = \"ws://127.0.0.1:1\"\ntoken = \"t\"\n\
         [sinks.kafka]\ntype = \"kafka\"\nbootstrap_servers = \"{KAFKA}\"\n\
         [sinks.nats]\ntype = \"nats\"\nservers = [\"nats://{NATS}:4222\"]\nmode = \"core\"\n",
        dir.join("data")
    );
    fs::write(&file, config).unwrap();
    file
}

/// Returns whether a line contains all these parts.
fn names(text: &str, parts: &[&str]) -> bool {
    text.lines()
        .any(|line| parts.iter().all(|part| line.contains(part)))
}

#[test]
fn running_bridge_names_an_unanswered_name_look_up() {
    let dir = Scratch::new("silent-names").unwrap();
    let file = configured(&dir);
    let mut command = isolated(&dir, &neurobridge());
    command.args(["run", "-c"]).arg(&file);
    let process = Process::spawn("bridge", &mut command, &dir.join("bridge.log")).unwrap();
    for (sink, host) in [("sink=\"kafka\"", KAFKA), ("sink=\"nats\"", NATS)] {
        let parts = [
            "the sink is down",
            sink,
            "name look-up",
            host,
            "name server of this machine",
        ];
        let found = wait_until("the reason", SOON, || names(&process.logged().unwrap(), &parts));
        found.unwrap_or_else(|error| panic!("{error:#}, {parts:?}:\n{}", process.log_tail()));
    }
}

#[test]
fn check_connect_names_an_unanswered_name_look_up() {
    let dir = Scratch::new("silent-names-check").unwrap();
    let file = configured(&dir);
    let mut command = isolated(&dir, &neurobridge());
    command.args(["check", "--connect", "-c"]).arg(&file);
    let mut process = Process::spawn("neurobridge", &mut command, &dir.join("output.log")).unwrap();
    let status = process.wait(SOON).unwrap();
    let output = process.logged().unwrap();
    assert_eq!(status.code(), Some(69), "{output}");
    assert!(names(&output, &["sink kafka", "name look-up", KAFKA]), "{output}");
    assert!(
        names(
            &output,
            &["sink nats", "name look-up", NATS, "name server of this machine"]
        ),
        "{output}"
    );
}
