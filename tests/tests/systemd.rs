//! The notifications of the bridge to systemd, received by a socket of the test.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::platform::Platform;
use neurobridge_tests::ports::free_ports;
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(60);
/// The period of the watchdog in the environment of the bridge.
const WATCHDOG: Duration = Duration::from_secs(6);

/// The notification socket, in place of the socket of systemd.
struct Systemd {
    socket: UnixDatagram,
    path: String,
}

impl Systemd {
    fn bind(dir: &Scratch) -> Self {
        let path = dir.join("notify");
        Self {
            socket: UnixDatagram::bind(&path).unwrap(),
            path: path.to_str().unwrap().to_owned(),
        }
    }

    /// Starts a bridge as systemd does.
    fn start(&self, dir: &Scratch, config: &str) -> Bridge {
        let watchdog = WATCHDOG.as_micros().to_string();
        let variables = [
            ("NOTIFY_SOCKET", self.path.as_str()),
            ("WATCHDOG_USEC", watchdog.as_str()),
        ];
        Bridge::start_with(dir, config, &variables).unwrap()
    }

    /// Returns the next notification, one line for each variable; `None` if none arrives in time.
    fn next(&self, limit: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(limit)).unwrap();
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    /// Receives notifications until a line satisfies a condition, and returns all lines.
    fn until(&self, what: &str, condition: impl Fn(&str) -> bool) -> Vec<String> {
        let deadline = Instant::now() + SOON;
        let mut lines = Vec::new();
        while Instant::now() < deadline {
            let Some(text) = self.next(SOON) else { break };
            lines.extend(text.lines().map(str::to_owned));
            if lines.iter().any(|line| condition(line)) {
                return lines;
            }
        }
        panic!("no {what} in {lines:#?}");
    }
}

fn source(url: &str) -> String {
    format!("[sources.main]\nurl = \"{url}\"\ntoken = \"t\"\n")
}

#[test]
fn start_state_and_stop_are_notified() {
    let dir = Scratch::new("systemd").unwrap();
    let systemd = Systemd::bind(&dir);
    let mut platform = Platform::start(&dir, &["--rate", "50"]).unwrap();
    let bridge = systemd.start(&dir, &source(&platform.url()));
    let lines = systemd.until("healthy state", |line| {
        line == "STATUS=losing events: no; 1 of 1 sources connected, 1 of 1 sinks up"
    });
    assert_eq!(lines[0], "READY=1", "{lines:#?}");
    assert_eq!(lines.iter().filter(|line| *line == "READY=1").count(), 1);
    platform.process().kill().unwrap();
    systemd.until("state without the source", |line| {
        line.starts_with("STATUS=losing events: yes; 0 of 1 sources connected")
            && line.contains("main is not connected")
    });
    let (status, log) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(status.success(), "{log}");
    systemd.until("stop", |line| line == "STOPPING=1");
}

#[test]
fn watchdog_pings_stop_while_the_bridge_is_frozen() {
    let dir = Scratch::new("watchdog").unwrap();
    let systemd = Systemd::bind(&dir);
    // An unavailable source and sink are no reason for a restart.
    let [port] = free_ports().unwrap();
    let config = source("ws://127.0.0.1:1/")
        + &format!(
            "[sinks.nats]\ntype = \"nats\"\nservers = [\"nats://127.0.0.1:{port}\"]\nmode = \"core\"\n"
        );
    let mut bridge = systemd.start(&dir, &config);
    systemd.until("first ping", |line| line == "WATCHDOG=1");
    for number in 2..=4 {
        let since = Instant::now();
        systemd.until(&format!("ping {number}"), |line| line == "WATCHDOG=1");
        let late = since.elapsed();
        assert!(
            late < WATCHDOG,
            "ping {number} after {late:?}: systemd would have killed the bridge"
        );
    }
    bridge.process().freeze().unwrap();
    // Discards the notifications that were sent before the freeze.
    let emptied = std::iter::from_fn(|| systemd.next(WATCHDOG)).take(100).count();
    assert!(emptied < 100, "a frozen bridge must send no watchdog ping");
    bridge.process().thaw().unwrap();
    systemd.until("ping after the freeze", |line| line == "WATCHDOG=1");
}
