//! What a misbehaving platform does, each fault rule of the simulator, and what the bridge makes of it: its own reason, its
//! own count, no event lost that came whole, and no hot loop.
//!
//! Which test covers which way for input to be bad, here and elsewhere:
//!
//! | what | test |
//! |---|---|
//! | frame that is no JSON, or JSON of no known kind | [`what_is_no_event_is_a_dead_letter_with_its_reason`] |
//! | text frame that is no UTF-8 | [`broken::a_frame_that_is_no_utf8`]; closed with 1007: listener, `what_the_protocol_forbids_is_answered_with_its_code` |
//! | binary frame | [`harmless::binary_frames`] |
//! | frame above the size limit | [`broken::a_frame_above_the_limit`]; closed with 1009: listener, as above |
//! | `{"error":…}` before authorisation, or an `auth` other than `ok` | [`refused::by_an_error`], [`refused::by_another_answer`]; readiness and exit code 77: `signals_and_exits`, `a_refused_token_ends_with_77_only_when_asked_to` |
//! | no answer to AUTH | [`refused::by_no_answer`] |
//! | HTTP 401, 403, 429, 503 instead of an upgrade | [`refused::by_http_401`] and the next; `Retry-After`: [`retry_after_is_honoured`] |
//! | delays that grow | [`no_hot_loop::of_refusals`] and the next |
//! | `{"error":…}` later | [`a_later_error_is_shown_and_the_connection_stays`] |
//! | no pong, a wrong pong, a half-open connection | [`broken::no_pong`], [`broken::a_wrong_pong`], [`broken::half_open`]; with a full spool: `full_spool`, `a_full_spool_stops_the_reading_and_goes_on_by_itself`, and the listener's `while_there_is_no_room_pings_go_on_and_silence_is_not_judged` |
//! | first of several addresses answers nothing | listener, `addresses_are_tried_one_after_the_other_but_not_for_long_each` |
//! | event too large for a broker | `kafka_and_file`, `oversize_event_is_stripped_or_dead_lettered` |
//! | one message refused for itself | the same; a bound on letters in a row: core, `too_many_dead_letters_in_a_row_stop_the_sink` |
//! | sink refused as a whole | `kafka_and_file`, `a_permission_taken_away_and_given_back_costs_time_alone`; `kafka_and_file`, `a_deleted_topic_holds_the_cursor_until_it_is_there_again`; a password exchanged: `kafka_sink`, `an_exchanged_password_is_picked_up` |
//! | another instance has fenced the producer | sink-kafka, `a_fenced_producer_stops_for_good` |
//! | a topic's partitions grow | `kafka_and_file`, `partitions_that_grow_are_said` |
//! | broker gone | `kafka_and_file`, `broker_faults_lose_nothing_and_delay_no_other_sink` |
//! | spool full | `full_spool`, all of it |
//! | no space on the disk, a failed sync | sink-file, `on_a_full_disk_no_line_is_torn`, `a_full_disk_is_a_fault_that_passes`, `a_failed_sync_is_a_final_fault` |
//! | too many open files | [`too_many_open_files_are_tried_again`] |
//! | the clock steps | listener, `times_of_receipt_never_run_backwards`; sink-file, `a_clock_that_is_set_back_breaks_nothing` |
//! | repeated ids | [`repeats_are_counted_and_changed_bodies_are_new_events`] |

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

/// A platform with these faults and [`EVENTS`] events, and a bridge that writes them into a file.
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

    fn wait(&self, what: &str, says: impl Fn(&Status) -> bool) -> Status {
        self.bridge.wait(what, SOON, says).unwrap()
    }

    fn wait_for_delivery(&self, events: u64) -> Status {
        self.wait("all to be delivered", |status| {
            status.delivered("events") == events
        })
    }

    fn wait_for_metric(&self, name: &str, labels: &[&str], value: f64) {
        self.wait(&format!("{name} {labels:?} to be {value}"), |_| {
            self.bridge.metric(name, labels).unwrap() == value
        });
    }

    /// Stops all; the bridge's log, and what it wrote.
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

struct Ending {
    log: String,
    written: String,
    sent: Vec<neurobridge_tests::platform::Sent>,
    _dir: Scratch,
}

impl Ending {
    /// Each event that was sent is there once.
    fn is_complete(&self) {
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
fn a_later_error_is_shown_and_the_connection_stays() {
    let scene = Scene::start(&["error=later,after=500,times=1"]);
    let status = scene.wait_for_delivery(EVENTS);
    assert_eq!(
        status.source("main").last_platform_error.as_deref(),
        Some("later")
    );
    assert_eq!(status.source("main").connections, 1);
    scene.wait_for_metric("neurobridge_source_platform_errors_total", &[], 1.0);
    let ending = scene.stop();
    ending.is_complete();
    assert!(
        ending.log.contains("the platform reports an error"),
        "{}",
        ending.log
    );
}

#[test]
fn retry_after_is_honoured() {
    let before = Instant::now();
    let scene = Scene::start(&["http=429,retry-after=3,times=1"]);
    scene.wait_for_delivery(EVENTS);
    // Without it the second attempt comes within 250 ms.
    assert!(before.elapsed() >= Duration::from_secs(3));
    scene.wait_for_metric(CONNECTIONS, &[], 2.0);
    scene.stop().is_complete();
}

#[test]
fn what_is_no_event_is_a_dead_letter_with_its_reason() {
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
        let letters = fs::read_to_string(scene.bridge.data_dir().join("dead-letters.jsonl")).unwrap();
        assert_eq!(letters.lines().count(), 2, "{letters}");
        for letter in letters.lines() {
            let letter: Value = serde_json::from_str(letter).unwrap();
            assert_eq!(letter["reason"], reason);
            assert!(
                letter["frame"].is_string() && letter["source"] == "main",
                "{letter}"
            );
        }
        scene.stop().is_complete();
    }
}

#[test]
fn repeats_are_counted_and_changed_bodies_are_new_events() {
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
fn too_many_open_files_are_tried_again() {
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
    // Files that are open stay so.
    limit(process.id(), "3");
    wait_until("the next attempt to connect", SOON, || {
        process.logged().unwrap().contains("no file descriptor is left")
    })
    .unwrap();
    limit(process.id(), "1024");
    let before = scene.wait("an answer, for which a file is needed too", |_| true);
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
        .wait("both", SOON, |status| status.delivered("events") == 1000)
        .unwrap();
    let text = fs::read_to_string(bridge.data_dir().join("events.jsonl")).unwrap();
    for source in ["/neuroio/one", "/neuroio/other"] {
        assert_eq!(text.lines().filter(|line| line.contains(source)).count(), 500);
    }
    bridge.stop(Signal::SIGTERM, SOON).unwrap();
}
