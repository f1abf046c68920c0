//! The scripts in `config/feeds/scripts`, which the simulator plays for the shipped declarations of feeds: frames
//! from the documentation of each feed, and the faults of the feed.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::paths::{Scratch, workspace_root};
use neurobridge_tests::platform::Platform;
use neurobridge_tests::program::neurobridge;
use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::shipped_feeds::{FEEDS, Feed, assert_in_order};

/// The time limit of each wait: far longer than any wait of these tests takes on two busy cores.
const LIMIT: Duration = Duration::from_secs(300);
/// The number of events of each feed, so that each script reaches its last fault before the last event.
const EVENTS: usize = 8000;

/// The expectations of a script.
struct ExpectedScript {
    feed: &'static str,
    /// How `check --frames` classifies each frame of the script: the beginnings of its rows, in order.
    meanings: &'static [&'static str],
    /// Texts that the log must contain, compared without quotes and backslashes, in any order.
    log: &'static [&'static str],
}

const SCRIPTS: [ExpectedScript; 6] = [
    ExpectedScript {
        feed: "binance",
        meanings: &[
            "event",
            "event",
            "error: Invalid request",
            "error: serverShutdown",
        ],
        log: &[
            "error=serverShutdown",
            "HTTP 429",
            "(code 1001",
            "without a close frame",
            "no answer to a ping",
        ],
    },
    ExpectedScript {
        feed: "bluesky-jetstream",
        meanings: &["event", "event", "event", "event"],
        log: &[
            "without a close frame",
            "HTTP 503",
            "(code 1008",
            "no frame within",
        ],
    },
    ExpectedScript {
        feed: "coinbase-exchange",
        meanings: &[
            "completes the opening",
            "ignored",
            "event",
            "alive",
            "error: Failed to subscribe",
            "ignored",
            "error: error message",
        ],
        log: &[
            "error=error message",
            "the feed refused the connection: Failed to subscribe",
            "without a close frame",
            "no frame within",
        ],
    },
    ExpectedScript {
        feed: "graphql-transport-ws",
        meanings: &[
            "completes step 1 of the opening",
            "completes the opening",
            "event",
            "event",
            "is answered with a message",
            "alive",
            "error: [{\"message\":\"not allowed\"}]",
            "ends the connection: complete",
            "ends the connection: [{\"message\"",
        ],
        log: &[
            "no more events on this connection: complete",
            "no more events on this connection: [{",
            "(code 4403",
            "without a close frame",
            "no answer to a ping",
        ],
    },
    ExpectedScript {
        feed: "okx",
        meanings: &[
            "completes the opening",
            "ignored",
            "ignored",
            "event",
            "event",
            "event",
            "alive",
            "error: Wrong URL or channel",
            "ignored",
            "ignored",
            "error: The connection will soon be closed",
        ],
        log: &[
            "error=The connection will soon be closed",
            "the feed refused the connection: Wrong URL or channel",
            "without a close frame",
            "no answer to a ping",
        ],
    },
    ExpectedScript {
        feed: "polygon",
        meanings: &[
            "completes step 1 of the opening",
            "completes step 2 of the opening",
            "completes the opening",
            "ignored",
            "event",
            "event",
            "event",
            "ignored",
            "error: Maximum number of connections exceeded.",
            "error: Maximum number of connections exceeded.",
        ],
        log: &[
            "error=Maximum number of connections exceeded.",
            "the feed refused the connection: authentication failed",
            "without a close frame",
            "no answer to a ping",
        ],
    },
];

impl ExpectedScript {
    fn shipped(&self) -> &'static Feed {
        FEEDS.iter().find(|feed| feed.name == self.feed).unwrap()
    }

    fn path(&self) -> PathBuf {
        workspace_root().join(format!("config/feeds/scripts/{}.ndjson", self.feed))
    }

    /// Writes the declaration with shorter intervals and timeouts, so that a silent connection is detected soon.
    /// Returns the path.
    fn declaration(&self, dir: &Scratch) -> PathBuf {
        let path = self.shipped().declaration(dir);
        let mut text = fs::read_to_string(&path).unwrap();
        for (key, short) in [("interval", "1s"), ("timeout", "5s"), ("idle_timeout", "5s")] {
            for long in ["10s", "15s", "20s", "30s", "1m"] {
                text = text.replace(&format!("{key} = \"{long}\""), &format!("{key} = \"{short}\""));
            }
        }
        fs::write(&path, text).unwrap();
        path
    }
}

#[test]
fn frames_of_each_script_are_classified_as_documented() {
    for script in &SCRIPTS {
        let dir = Scratch::new("script").unwrap();
        let declaration = script.declaration(&dir);
        let config = dir.join("neurobridge.toml");
        fs::write(&config, format!("[sources.feed]\nfeed = {declaration:?}\n")).unwrap();
        // The frames that a fault sends are classified too.
        let output = Command::new(neurobridge())
            .args(["check", "--source", "feed", "-c"])
            .arg(&config)
            .arg("--frames")
            .arg(script.path())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}: {text}", script.feed);
        assert!(text.contains(" 0 malformed frames"), "{text}");
        let rows = text.lines().skip(1).take_while(|line| !line.is_empty());
        let meanings: Vec<&str> = rows
            .map(|row| row.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start())
            .collect();
        assert_eq!(meanings.len(), script.meanings.len(), "{}: {text}", script.feed);
        for (found, expected) in meanings.iter().zip(script.meanings) {
            assert!(
                found.starts_with(expected),
                "{}: {found}, expected {expected}",
                script.feed
            );
        }
    }
}

/// A line of the file sink.
#[derive(Deserialize)]
struct Line {
    id: String,
    source: String,
    data: Box<RawValue>,
}

#[test]
fn bridge_recovers_after_each_fault_of_each_script() {
    let dir = Scratch::new("scripted-feeds").unwrap();
    let mut config = "drain_timeout = \"60s\"\n[deduplicate]\nmax_events = 262_144\n".to_owned();
    let mut platforms = Vec::new();
    for script in &SCRIPTS {
        let folder = Scratch::new(script.feed).unwrap();
        let declaration = script.declaration(&folder).display().to_string();
        let count = EVENTS.to_string();
        let args = ["--feed", &declaration, "--count", &count, "--script", script.feed];
        let platform = Platform::start(&folder, &args).unwrap();
        let (name, url) = (script.shipped().source(), platform.url());
        config.push_str(&format!(
            "[sources.{name}]\nurl = \"{url}\"\nfeed = \"{declaration}\"\nbackoff = {{ min = \"10ms\", max = \"200ms\" }}\n"
        ));
        platforms.push((platform, folder));
    }
    config.push_str("[spool]\ntype = \"disk\"\n");
    let bridge = Bridge::start(&dir, &config).unwrap();
    bridge
        .wait("all events in the file", LIMIT, |status| {
            status.delivered("events") >= (SCRIPTS.len() * EVENTS) as u64
        })
        .unwrap();
    for kind in ["not_json", "unknown"] {
        let kind = format!("kind=\"{kind}\"");
        let malformed = bridge
            .metric("neurobridge_source_frames_total", &[&kind])
            .unwrap();
        assert!(malformed < 0.5, "{kind}: {malformed}");
    }
    let file = bridge.data_dir().join("events.jsonl");
    let (status, log) = bridge.stop(Signal::SIGTERM, LIMIT).unwrap();
    assert!(status.success(), "{status}: {log}");
    let text = fs::read_to_string(file).unwrap();
    let lines: Vec<Line> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for (script, (platform, _folder)) in SCRIPTS.iter().zip(platforms) {
        let name = script.shipped().source();
        let of_feed: Vec<&str> = log
            .lines()
            .filter(|line| {
                line.contains(&format!("source=\"{name}\"")) || line.contains(&format!("source={name} "))
            })
            .collect();
        for expected in script.log {
            assert!(
                of_feed
                    .iter()
                    .any(|line| line.replace(['"', '\\'], "").contains(expected)),
                "{name}: {expected} is missing: {of_feed:#?}"
            );
        }
        let sent = platform.stop_declared().unwrap();
        let source = format!("/feeds/{name}");
        let lane = lines.iter().filter(|line| line.source == source);
        let lane = lane.map(|line| (line.id.clone(), line.data.get().to_owned()));
        assert_eq!(sent.len(), EVENTS, "{name}");
        assert_eq!(
            assert_in_order(script.feed, &sent, &[lane.collect()]),
            EVENTS,
            "{name}"
        );
    }
}
