//! Each fault rule of the simulator, applied to a bridge: every fault has its own reason and counter, no completely
//! received event is lost, and no fault causes a hot loop, which is reconnecting without delays.
//!
//! The tests for each type of bad input, in this module and elsewhere:
//!
//! | bad input | test |
//! |---|---|
//! | frame that is not JSON, or of an unknown kind | [`malformed_frame_becomes_a_dead_letter`] |
//! | text frame that is not UTF-8 | [`broken::invalid_utf8_reconnects`]; closed with 1007: listener, `unreadable_frame_is_answered_with_its_close_code` |
//! | binary frame | [`harmless::binary_frames_keep_the_connection`] |
//! | frame above the size limit | [`broken::oversize_frame_reconnects`]; closed with 1009: the listener's test for 1007 |
//! | `{"error":…}` before authentication, or an `auth` other than `ok` | [`refused::error_answer_is_token_refused`], [`refused::wrong_auth_answer_is_token_refused`]; readiness and exit code 77: `signals_and_exits`, `refused_token_exits_with_77_only_if_configured` |
//! | no answer to AUTH | [`refused::missing_auth_answer_is_a_timeout`] |
//! | HTTP 401, 403, 429, 503 instead of an upgrade | [`refused::http_401_is_unauthorized`] and the following ones; `Retry-After`: [`retry_after_delays_the_next_attempt`] |
//! | increasing delays | [`no_hot_loop::attempts_after_refused_tokens_are_delayed`] and the following ones |
//! | `{"error":…}` later | [`error_after_auth_is_shown_and_keeps_the_connection`] |
//! | no pong, a wrong pong, a half-open connection | [`broken::missing_pong_reconnects_without_loss`], [`broken::wrong_pong_reconnects`], [`broken::half_open_reconnects_without_loss`]; with a full spool: `full_spool`, `full_spool_blocks_reading_until_space_is_free`, and the listener's `backpressure_continues_pings_and_ignores_silence` |
//! | first of several addresses does not answer | listener, `each_address_has_a_limited_head_start` |
//! | event too large for a broker | `kafka_and_file`, `oversize_event_is_stripped_or_dead_lettered` |
//! | one message refused by the broker | the test for a too large event; a limit for consecutive dead letters: core, `too_many_consecutive_dead_letters_stop_the_sink` |
//! | sink refused as a whole | `kafka_and_file`, `revoked_permission_delays_but_loses_no_event`; `kafka_and_file`, `deleted_topic_holds_the_cursor_until_recreated`; a changed password: `kafka_sink`, `changed_password_is_used_on_reconnect` |
//! | another instance has fenced the producer | sink-kafka, `fenced_producer_is_final` |
//! | a topic's partitions grow | `kafka_and_file`, `added_partitions_are_reported` |
//! | broker gone | `kafka_and_file`, `broker_faults_lose_nothing_and_delay_no_other_sink` |
//! | spool full | `full_spool`, all of it |
//! | no space on the disk, a failed sync | sink-file, `full_disk_leaves_no_partial_line`, `full_disk_is_a_temporary_fault`, `failed_sync_loses_and_repeats_no_event`; spool, `every_error_of_a_sync_is_final` |
//! | too many open files | [`exhausted_file_descriptors_are_retried`] |
//! | the clock steps | core, `reverted_forward_step_is_never_adopted`, `lasting_forward_step_and_any_backward_step_are_adopted`; sink-file, `clock_set_back_loses_no_line` |
//! | repeated ids | [`repeated_events_are_counted_as_duplicates`] |

mod broken;
mod harmless;
mod no_hot_loop;
mod refused;

use std::fs;
use std::time::{Duration, Instant};

use neurobridge_tests::audit;
use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::platform::Platform;
use neurobridge_tests::poll::wait_until;
use neurobridge_tests::status::Status;
use nix::sys::signal::Signal;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);
const EVENTS: u64 = 2000;

const CONNECTIONS: &str = "neurobridge_source_connections_total";
const DISCONNECTIONS: &str = "neurobridge_source_disconnections_total";
const GAPS: &str = "neurobridge_source_gaps_total";

/// A platform with these faults and [`EVENTS`] events, and a bridge with a file sink.
struct Scene {
    platform: Platform,
    bridge: Bridge,
    dir: Scratch,
}

impl Scene {
    fn start(rules: &[&str]) -> Self {
        Self::start_with(rules, &["--count", &EVENTS.to_string()], "1s")
    }

    fn start_with(rules: &[&str], more: &[&str], pong_timeout: &str) -> Self {
        let dir = Scratch::new("fault").unwrap();
        let mut args = more.to_vec();
        for rule in rules {
            args.extend(["--fault", rule]);
        }
        let platform = Platform::start(&dir, &args).unwrap();
        let bridge = Bridge::start(&dir, &config(&platform.url(), pong_timeout)).unwrap();
        Self {
            platform,
            bridge,
            dir,
        }
    }

    fn wait(&self, what: &str, condition: impl Fn(&Status) -> bool) -> Status {
        self.bridge.wait(what, SOON, condition).unwrap()
    }

    fn wait_for_delivery(&self, events: u64) -> Status {
        self.wait("all events to be delivered", |status| {
            status.delivered("events") == events
        })
    }

    fn wait_for_metric(&self, name: &str, labels: &[&str], value: f64) {
        self.wait(&format!("{name} {labels:?} to be {value}"), |_| {
            self.bridge.metric(name, labels).unwrap() == value
        });
    }

    /// Stops both processes.
    fn stop(self) -> Ending {
        let file = self.bridge.data_dir().join("events.jsonl");
        let (status, log) = self.bridge.stop(Signal::SIGTERM, SOON).unwrap();
        assert!(status.success(), "{status}: {log}");
        Ending {
            log,
            written: fs::read_to_string(file).unwrap(),
            sent: self.platform.stop().unwrap(),
            _dir: self.dir,
        }
    }
}

/// The results after both processes were stopped.
struct Ending {
    /// The log of the bridge.
    log: String,
    /// The content of the file sink.
    written: String,
    /// The events sent by the platform.
    sent: Vec<neurobridge_tests::platform::Sent>,
    _dir: Scratch,
}

impl Ending {
    /// Checks that each sent event was delivered exactly once.
    fn assert_complete(&self) {
        let arrived = audit::structured(&self.written).unwrap();
        let found = audit::audit(&self.sent, &[arrived]).unwrap();
        assert_eq!(found.duplicates, 0);
    }
}

fn config(url: &str, pong_timeout: &str) -> String {
    format!(
        "[sources.main]\nurl = \"{url}\"\ntoken = \"t\"\nping_interval = \"200ms\"\n\
         pong_timeout = \"{pong_timeout}\"\nauth_timeout = \"500ms\"\nmax_frame_size = \"1 MiB\"\n\
         [sources.main.backoff]\nmax = \"2s\"\n"
    )
}

#[test]
fn error_after_auth_is_shown_and_keeps_the_connection() {
    let scene = Scene::start(&["error=later,after=500,times=1"]);
    let status = scene.wait_for_delivery(EVENTS);
    assert_eq!(
        status.source("main").last_platform_error.as_deref(),
        Some("later")
    );
    assert_eq!(status.source("main").connections, 1);
    scene.wait_for_metric("neurobridge_source_platform_errors_total", &[], 1.0);
    let ending = scene.stop();
    ending.assert_complete();
    assert!(ending.log.contains("the feed reports an error"), "{}", ending.log);
}

#[test]
fn retry_after_delays_the_next_attempt() {
    let before = Instant::now();
    let scene = Scene::start(&["http=429,retry-after=3,times=1"]);
    scene.wait_for_delivery(EVENTS);
    // Without the header, the second attempt would follow within 250 ms.
    assert!(before.elapsed() >= Duration::from_secs(3));
    scene.wait_for_metric(CONNECTIONS, &[], 2.0);
    scene.stop().assert_complete();
}

#[test]
fn malformed_frame_becomes_a_dead_letter() {
    for (rule, reason, kind) in [
        (
            "bad-json,after=10,every=10,times=2",
            "not_json",
            "kind=\"not_json\"",
        ),
        (
            "unknown-kind,after=10,every=10,times=2",
            "unknown_kind",
            "kind=\"unknown\"",
        ),
    ] {
        let scene = Scene::start(&[rule]);
        let status = scene.wait(rule, |status| {
            status.source("main").ledger.dead_lettered == 2 && status.delivered("events") == EVENTS
        });
        assert_eq!(status.source("main").ledger.received, EVENTS + 2);
        assert_eq!(status.source("main").connections, 1, "the connection stays");
        scene.wait_for_metric("neurobridge_source_frames_total", &[kind], 2.0);
        let dead_letters = fs::read_to_string(scene.bridge.data_dir().join("dead-letters.jsonl")).unwrap();
        assert_eq!(dead_letters.lines().count(), 2, "{dead_letters}");
        for dead_letter in dead_letters.lines() {
            let dead_letter: Value = serde_json::from_str(dead_letter).unwrap();
            assert_eq!(dead_letter["reason"], reason);
            assert!(
                dead_letter["frame"].is_string() && dead_letter["source"] == "main",
                "{dead_letter}"
            );
        }
        scene.stop().assert_complete();
    }
}

#[test]
fn repeated_events_are_counted_as_duplicates() {
    let scene = Scene::start(&["duplicate=5,after=100,times=1", "same-id,after=200,times=1"]);
    let status = scene.wait("duplicates", |status| {
        status.source("main").ledger.duplicate == 5 && status.delivered("events") == EVENTS + 1
    });
    assert_eq!(status.source("main").ledger.received, EVENTS + 6);
    scene.wait_for_metric("neurobridge_source_id_conflicts_total", &[], 1.0);
    let ending = scene.stop();
    let lines = ending
        .written
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let conflicts: Vec<String> = lines
        .filter_map(|line| {
            line["id"]
                .as_str()
                .filter(|id| id.contains('~'))
                .map(str::to_owned)
        })
        .collect();
    assert_eq!(conflicts.len(), 1);
    let (feed, hash) = conflicts[0].split_once('~').unwrap();
    assert_eq!(feed, "200");
    assert!(
        hash.len() == 8 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{hash}"
    );
}

#[test]
fn exhausted_file_descriptors_are_retried() {
    let mut scene = Scene::start_with(&["cut,every=2s"], &["--rate", "1000"], "1s");
    scene.wait("events", |status| status.delivered("events") > 0);
    let process = scene.bridge.process();
    let limit = |process: u32, files: &str| {
        let mut command = std::process::Command::new("prlimit");
        command
            .arg(format!("--pid={process}"))
            .arg(format!("--nofile={files}:"));
        assert!(command.status().unwrap().success(), "{command:?}");
    };
    // A lower limit does not close open files, but prevents the bridge from opening more.
    limit(process.id(), "3");
    wait_until("the next attempt to connect", SOON, || {
        process.logged().unwrap().contains("no file descriptor is left")
    })
    .unwrap();
    limit(process.id(), "1024");
    let before = scene.wait("a response, for which the bridge needs a file descriptor", |_| {
        true
    });
    scene.wait("events", |status| {
        status.delivered("events") > before.delivered("events")
    });
    let labels = &["outcome=\"too_many_open_files\""];
    assert!(scene.bridge.metric(CONNECTIONS, labels).unwrap() >= 1.0);
    scene.stop();
}

#[test]
fn slow_feed_and_equal_ids_of_two_sources_are_delivered() {
    let dir = Scratch::new("two").unwrap();
    let other_dir = Scratch::new("two-other").unwrap();
    let one = Platform::start(&dir, &["--count", "500"]).unwrap();
    let drip = ["--count", "500", "--fault", "drip=200000,times=1"];
    let other = Platform::start(&other_dir, &drip).unwrap();
    let config = format!(
        "[sources.one]\nurl = \"{}\"\ntoken = \"a\"\n[sources.other]\nurl = \"{}\"\ntoken = \"b\"\n",
        one.url(),
        other.url()
    );
    let bridge = Bridge::start(&dir, &config).unwrap();
    bridge
        .wait("the events of both sources", SOON, |status| {
            status.delivered("events") == 1000
        })
        .unwrap();
    let text = fs::read_to_string(bridge.data_dir().join("events.jsonl")).unwrap();
    for source in ["/neuroio/one", "/neuroio/other"] {
        assert_eq!(text.lines().filter(|line| line.contains(source)).count(), 500);
    }
    bridge.stop(Signal::SIGTERM, SOON).unwrap();
}
