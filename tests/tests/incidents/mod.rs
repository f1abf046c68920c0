//! Twelve incidents, each with a simulated platform and a real broker or disk. For each incident the page (the data
//! of `/status`), the log, the metrics, the alerts and the history must show the cause, the start, the lost or missed
//! events, and the fix. A real Prometheus evaluates the shipped rules; a pending alert is sufficient, because the
//! rules wait for minutes.
//!
//! | incident | test | alert | changes in the history |
//! |---|---|---|---|
//! | broker killed | [`sinks::killed_broker_is_reported_until_the_sink_recovers`] | NeurobridgeSinkDown | `sink_down`, `sink_recovered` |
//! | broker frozen | [`sinks::frozen_broker_is_reported_until_the_sink_recovers`] | NeurobridgeSinkDown | `sink_down`, `sink_recovered` |
//! | topic deleted | [`sinks::deleted_topic_is_reported_with_the_replay_command`] | NeurobridgeDestinationRecreated | `destination_recreated` |
//! | stream deleted | [`sinks::deleted_stream_is_reported_with_the_replay_command`] | NeurobridgeDestinationRecreated | `destination_recreated` |
//! | file moved, then removed | [`sinks::moved_and_removed_files_are_reported_with_lost_lines`] | none while nothing is lost; then NeurobridgeEventsDropped | `file_changed` |
//! | token refused | [`feeds::refused_token_is_reported_as_the_cause_of_the_gap`] | NeurobridgeTokenRefused, NeurobridgeGap | `source_refused`, `gap` |
//! | feed silent | [`feeds::silent_feed_reports_a_gap_from_its_last_byte`] | NeurobridgeNoOpenConnection, NeurobridgeGap | `source_disconnected`, `gap` |
//! | feed cut | [`feeds::cut_feed_reports_an_open_gap_until_it_reconnects`] | NeurobridgeNoOpenConnection, NeurobridgeGap | `source_disconnected`, `gap` |
//! | disk full | [`bridges::full_disk_is_reported_until_there_is_space`] | NeurobridgeSpoolFull | `disk_full`, `spool_recovered` |
//! | bridge killed | [`bridges::killed_bridge_reports_the_gap_of_the_crash`] | NeurobridgeDown, NeurobridgeGap | `bridge_started`, `gap` |
//! | bridge stopped | [`bridges::stopped_bridge_reports_the_gap_of_the_restart`] | NeurobridgeDown, NeurobridgeGap | `bridge_stopped`, `gap` |
//! | configuration changed | [`bridges::changed_configuration_is_in_log_and_history`] | NeurobridgeGap | `configuration_loaded`, `gap` |

mod bridges;
mod feeds;
mod sinks;

use std::process::Command;
use std::time::Duration;

use jiff::Timestamp;
use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::platform::Platform;
use neurobridge_tests::poll::{wait_for, wait_until};
use neurobridge_tests::program::neurobridge;
use neurobridge_tests::prometheus::{Alert, Prometheus, PrometheusInstallation};
use serde_json::Value;

use crate::operator_stack::support::write_config;

const SOON: Duration = Duration::from_secs(120);
const MAIN: &str = "sources.main";

/// A report to the operator, and the expected content of the report. A text is expected as a part of the report.
enum Seen<'a> {
    /// The answer to "Losing events?" on the page, and one of its reasons.
    Page(&'a str, &'a str),
    Log(&'a str),
    /// A metric with these labels and its value.
    Metric(&'a str, &'a [&'a str], f64),
    Alert(&'a str),
    /// The kind of a change since the incident began, its part of the bridge, and its text.
    History(&'a str, &'a str, &'a str),
}

/// A bridge, and a Prometheus with the shipped rules that observes it.
struct Scene {
    dir: Scratch,
    platform: Platform,
    bridge: Bridge,
    prometheus: Prometheus,
    /// The time at which the incident began.
    began: Timestamp,
}

impl Scene {
    /// Starts all processes, and waits until events are delivered and Prometheus has scraped them. `config` returns the whole
    /// configuration. Returns `None` if the test is to be skipped.
    fn start(dir: Scratch, sink: &str, config: impl FnOnce(&Scratch, &Platform) -> String) -> Option<Self> {
        let installation = PrometheusInstallation::for_test()?;
        let platform = Platform::start(&dir, &["--rate", "200", "--token", "right"]).unwrap();
        let bridge = Bridge::start(&dir, &config(&dir, &platform)).unwrap();
        write_config(&dir, &[bridge.address().to_owned()]);
        let prometheus = Prometheus::start(&installation, &dir.join("prometheus.yml"), &dir).unwrap();
        let mut scene = Self {
            dir,
            platform,
            bridge,
            prometheus,
            began: Timestamp::now(),
        };
        scene.delivers(sink);
        // Prometheus computes an increase only from an earlier value.
        wait_for("the first values", SOON, || {
            let query = "neurobridge_source_open_connections == 1";
            Ok((!scene.prometheus.query(query)?.is_empty()).then_some(()))
        })
        .unwrap();
        scene.sees(&[Seen::Page("no", "")]);
        scene.began = Timestamp::now();
        Some(scene)
    }

    /// Waits until the sink delivers further events.
    fn delivers(&self, sink: &str) {
        let before = self.bridge.status().unwrap().delivered(sink);
        self.bridge
            .wait("events", SOON, |status| status.delivered(sink) > before + 20)
            .unwrap();
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.bridge.get("/status").unwrap()).unwrap()
    }

    /// Waits until each report has its expected content.
    fn sees(&self, all: &[Seen<'_>]) {
        for seen in all {
            match *seen {
                Seen::Page(answer, reason) => {
                    let mut last = Value::Null;
                    wait_until("the page", SOON, || {
                        last = self.status()["losing_events"].clone();
                        let mut reasons = last["because"].as_array().unwrap().iter();
                        last["answer"] == answer
                            && (reason.is_empty()
                                || reasons.any(|found| found.as_str().unwrap().contains(reason)))
                    })
                    .unwrap_or_else(|error| panic!("{error:#}: {answer:?}, {reason:?} in {last:#}"));
                }
                Seen::Log(text) => {
                    let log = || std::fs::read_to_string(self.dir.join("bridge.log")).unwrap();
                    wait_until("the log", SOON, || log().contains(text))
                        .unwrap_or_else(|error| panic!("{error:#}: {text:?} in {}", log()));
                }
                Seen::Metric(name, labels, value) => {
                    let metric = || self.bridge.metric(name, labels).unwrap();
                    wait_until("the metric", SOON, || metric() == value)
                        .unwrap_or_else(|error| panic!("{error:#}: {name} is {}, not {value}", metric()));
                }
                Seen::Alert(name) => {
                    self.alert(name);
                }
                Seen::History(kind, part, text) => {
                    self.change(kind, part, text);
                }
            }
        }
    }

    /// Waits for an alert, and checks that the bridge serves the runbook of the alert, with the section "What to do".
    fn alert(&self, name: &str) -> Alert {
        let instance = self.bridge.address();
        let mut last = Vec::new();
        let alert = wait_for(name, SOON, || {
            last = self.prometheus.alerts()?;
            Ok(last.iter().find(|alert| alert.is(name, instance)).cloned())
        });
        let alert = alert.unwrap_or_else(|error| panic!("{error:#}: {last:#?}"));
        let url = &alert.annotations["runbook_url"];
        let (page, anchor) = url.split_once('#').unwrap();
        assert_eq!(page, format!("http://{instance}/runbooks"));
        // A stopped bridge serves no runbook.
        if name != "NeurobridgeDown" {
            let runbooks = self.bridge.get("/runbooks").unwrap();
            let (_, section) = runbooks.split_once(&format!("<h3 id=\"{anchor}\">")).unwrap();
            let section = section.split("<h3 ").next().unwrap();
            assert!(section.contains("What to do."), "{section}");
        }
        alert
    }

    /// Returns whether an alert is pending or firing now.
    fn has_alert(&self, name: &str) -> bool {
        let alerts = self.prometheus.alerts().unwrap();
        alerts.iter().any(|alert| alert.is(name, self.bridge.address()))
    }

    /// Waits for a change in `/status` since the start of the incident, and returns it.
    fn change(&self, kind: &str, part: &str, text: &str) -> Value {
        let mut last = Value::Null;
        let found = wait_for(kind, SOON, || {
            last = self.status()["history"].clone();
            let found = last.as_array().unwrap().iter().find(|entry| {
                let at = entry["last"].as_str().or(entry["at"].as_str()).unwrap();
                let of = |key: &str| entry[key].as_str().map(|name| format!("{key}s.{name}"));
                let is_part = match (of("source"), of("sink")) {
                    (None, None) => ["bridge", "spool"].contains(&part),
                    (source, sink) => source.or(sink).is_some_and(|found| found == part),
                };
                entry["kind"] == kind
                    && is_part
                    && entry["text"].as_str().unwrap().contains(text)
                    && at.parse::<Timestamp>().unwrap() >= self.began
            });
            Ok(found.cloned())
        });
        found.unwrap_or_else(|error| panic!("{error:#}: {kind} of {part}, {text:?} in {last:#}"))
    }

    /// Waits for the gap of the incident. Checks that the gap began with the incident, that the page and the metrics
    /// show the duration, and that `neurobridge gaps ls` lists the gap.
    fn gap(&self, reason: &str) {
        let change = self.change("gap", MAIN, "");
        assert_eq!(change["reason"], reason, "{change}");
        let (began, seconds) = (moment(&change["began"]), change["seconds"].as_f64().unwrap());
        // The gap of a crash begins at the last proof of life in the history file, and a busy disk delays the writes
        // of this file.
        let tolerance = Duration::from_secs(10);
        assert!(began >= self.began - tolerance, "{change}, not {}", self.began);
        assert!(seconds > 0.0, "{change}");
        self.sees(&[
            Seen::Page("no", "main was without a connection once"),
            Seen::Metric(
                "neurobridge_source_gaps_total",
                &[&format!("reason=\"{reason}\"")],
                1.0,
            ),
            Seen::Alert("NeurobridgeGap"),
        ]);
        let counted = self
            .bridge
            .metric("neurobridge_source_gap_seconds_total", &[])
            .unwrap();
        let missed = self.status()["losing_events"]["missed_seconds"].as_f64().unwrap();
        for found in [counted, missed] {
            assert!((found - seconds).abs() < 0.1, "{found}, not {seconds}");
        }
        let gaps = self.command(&["gaps", "ls", "--json"]);
        assert!(gaps.contains(&format!("\"reason\":\"{reason}\"")), "{gaps}");
    }

    /// Returns the output of a command with the configuration of the bridge.
    fn command(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(neurobridge());
        command
            .args(arguments)
            .arg("-c")
            .arg(self.dir.join("neurobridge.toml"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Waits until `neurobridge history` prints these kinds of changes since the incident, in this order.
    fn lists(&self, kinds: &[&str]) {
        let since = self.began.to_string();
        let mut last = String::new();
        wait_until("the history", SOON, || {
            last = self.command(&["history", "--json", "--since", &since]);
            let found = last
                .lines()
                .map(|line| serde_json::from_str::<Value>(line).unwrap());
            let found: Vec<String> = found
                .map(|entry| entry["kind"].as_str().unwrap().to_owned())
                .collect();
            let mut rest = found.iter();
            kinds.iter().all(|kind| rest.any(|found| found == kind))
        })
        .unwrap_or_else(|error| panic!("{error:#}: {kinds:?} in {last}"));
    }
}

fn moment(text: &Value) -> Timestamp {
    text.as_str().unwrap().parse().unwrap()
}

/// Returns a source whose token is in a file, with pings and attempts to connect in short intervals.
fn source(dir: &Scratch, address: &str) -> String {
    let token = dir.join("token");
    std::fs::write(&token, "right\n").unwrap();
    format!(
        "[sources.main]\nurl = \"ws://{address}/\"\ntoken_file = {token:?}\nping_interval = \"200ms\"\npong_timeout = \"3s\"\n\
         [sources.main.backoff]\nmax = \"1s\"\n"
    )
}
