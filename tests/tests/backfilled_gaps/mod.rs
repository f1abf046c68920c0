//! Events that the platform recognised while the bridge was not connected are fetched, or the gap is reported to the consumers.

mod declared;
mod delayed;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::kafka::records::read_topic;
use neurobridge_tests::nats::{NatsOptions, client::read_stream};
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::platform::Platform;
use neurobridge_tests::poll::{wait_for, wait_until};
use neurobridge_tests::program::neurobridge;
use neurobridge_tests::shared::{kafka_bootstrap, own_nats};
use neurobridge_tests::sinks::KafkaAndStream;
use nix::sys::signal::Signal;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(120);
/// The number of events that the platform recognises, at the rate of [`RATE`].
const EVENTS: u64 = 6000;
const RATE: &str = "200";

fn source(platform: &Platform) -> String {
    let address = platform.address();
    format!(
        r#"
[sources.main]
url = "ws://{address}/"
token = "t"
backoff = {{ min = "20ms", max = "200ms" }}
[sources.main.backfill]
url = "http://{address}"
rate = 500
"#
    )
}

/// A feed with missed events, as the bridge and the consumers see it.
struct Feed {
    /// The name of folders and destinations.
    name: &'static str,
    /// The configuration of the source `main`.
    source: fn(&Platform) -> String,
    /// The field of the body that names the person: the events of a person are in order.
    person: &'static str,
    /// The template of the NATS subject.
    subject: &'static str,
}

const NEUROIO: Feed = Feed {
    name: "backfilled-gaps",
    source,
    person: "pid",
    subject: "gaps.{result}",
};

/// Returns the number of events that the platform has recognised so far.
fn recognised(record: &Path) -> usize {
    fs::read_to_string(record).map_or(0, |text| text.lines().count())
}

/// Returns the gaps in the history, or none before the bridge has written the history for the first time.
fn gaps(dir: &Scratch) -> Vec<Value> {
    let mut command = Command::new(neurobridge());
    command
        .args(["gaps", "ls", "--json", "-c"])
        .arg(dir.join("neurobridge.toml"));
    let output = command.output().unwrap();
    if String::from_utf8_lossy(&output.stderr).contains("no history in the data_dir") {
        return Vec::new();
    }
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Waits until a number of gaps have a final outcome.
fn wait_for_outcomes(dir: &Scratch, count: usize) -> Vec<Value> {
    let is_final = |gap: &Value| gap["outcome"] != "open" && gap["outcome"] != "filling";
    wait_for("the outcomes of all gaps", SOON, || {
        let gaps = gaps(dir);
        Ok((gaps.len() >= count && gaps.iter().all(is_final)).then_some(gaps))
    })
    .unwrap()
}

/// An event as received by a consumer.
struct Arrived {
    id: u64,
    person: Option<String>,
    is_backfill: bool,
    is_late: bool,
}

impl Arrived {
    fn new(id: &str, body: &[u8], person: &str, header: impl Fn(&str) -> Option<String>) -> Self {
        let body: Value = serde_json::from_slice(body).unwrap();
        Self {
            id: id.parse().unwrap(),
            person: body[person].as_str().map(str::to_owned),
            is_backfill: header("origin").as_deref() == Some("backfill"),
            is_late: header("late").as_deref() == Some("true"),
        }
    }
}

/// Checks that each recognised event arrived once, and in the order of its person unless it is marked as late.
fn assert_complete(destination: &str, events: &[Arrived]) {
    let ids: HashSet<u64> = events.iter().map(|event| event.id).collect();
    assert_eq!(events.len(), ids.len(), "{destination}: an event arrived twice");
    assert_eq!(ids, (1..=EVENTS).collect(), "{destination}");
    let mut last: HashMap<&str, u64> = HashMap::new();
    for event in events.iter().filter(|event| !event.is_late) {
        let Some(person) = event.person.as_deref() else {
            continue;
        };
        let before = last.insert(person, event.id);
        assert!(
            before.is_none_or(|before| before < event.id),
            "{destination}: {} of {person} is out of order",
            event.id
        );
    }
    let fetched = events.iter().filter(|event| event.is_backfill).count();
    let late = events.iter().filter(|event| event.is_late).count();
    assert!(
        fetched > 300 && late < fetched / 2,
        "{destination}: {fetched} fetched, {late} of them late"
    );
}

#[test]
fn missed_events_are_fetched_once_and_in_order() {
    let dir = Scratch::new(NEUROIO.name).unwrap();
    assert_fetched_once_and_in_order(&NEUROIO, &dir, &[]);
}

/// Checks that Kafka and NATS store each event once, after a crash and a restart of the bridge while the platform recognises
/// events.
fn assert_fetched_once_and_in_order(feed: &Feed, dir: &Scratch, args: &[&str]) {
    let Some(bootstrap) = kafka_bootstrap() else {
        return;
    };
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let topic = format!("{}-{}", feed.name, std::process::id());
    let record = dir.join("recognised.jsonl");
    let path = record.display().to_string();
    let count = EVENTS.to_string();
    let own = ["--rate", RATE, "--count", &count, "--recognised", &path];
    let platform = Platform::start(dir, &[&own, args].concat()).unwrap();
    let sinks = KafkaAndStream {
        bootstrap: &bootstrap,
        topic: &topic,
        nats: &nats.url(),
        stream: "GAPS",
        subject: feed.subject,
    };
    let config = format!(
        "{}[spool]\ntype = \"disk\"\n{}",
        (feed.source)(&platform),
        sinks.tables()
    );

    let mut bridge = Bridge::start(dir, &config).unwrap();
    let wait_for_events = |bridge: &Bridge, more_than: u64| {
        bridge
            .wait("events", SOON, |status| status.delivered("stream") > more_than)
            .unwrap();
    };
    wait_for_events(&bridge, 200);
    // A crash, then a clean shutdown. The platform recognises some hundred events before each restart.
    for is_crash in [true, false] {
        if is_crash {
            bridge.process().kill().unwrap();
        } else {
            let (status, log) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
            assert!(status.success(), "{log}");
        }
        // The record of the platform may be delayed by some events, so more events may be missed than the assertions require.
        let until = recognised(&record) + 600;
        wait_until("events without a connection", SOON, || {
            recognised(&record) >= until
        })
        .unwrap();
        bridge = Bridge::start(dir, &config).unwrap();
        wait_for_events(&bridge, 300);
        wait_for_outcomes(dir, if is_crash { 1 } else { 2 });
    }
    bridge
        .wait("all events", SOON, |status| {
            ["kafka", "stream"]
                .iter()
                .all(|sink| status.sink(sink).ledger.delivered + status.sink(sink).ledger.duplicate >= EVENTS)
        })
        .unwrap();
    let gaps = wait_for_outcomes(dir, 2);
    let facts = |gap: &Value| {
        let text = |key: &str| gap[key].as_str().unwrap().to_owned();
        (
            text("reason"),
            text("outcome"),
            gap["fetched"].as_u64().unwrap() >= 350,
        )
    };
    assert_eq!(
        gaps.iter().map(facts).collect::<Vec<_>>(),
        [("crash", true), ("restart", true)].map(|(reason, many)| (reason.into(), "recovered".into(), many)),
        "{gaps:#?}"
    );
    assert!(
        bridge
            .metric("neurobridge_source_backfilled_events_total", &[])
            .unwrap()
            >= 350.0
    );
    assert_eq!(
        bridge.metric("neurobridge_source_filling_gaps", &[]).unwrap(),
        0.0
    );
    let (status, log) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(status.success(), "{log}");

    let stream = read_stream(&nats.url(), "GAPS", SOON).unwrap();
    let stream: Vec<Arrived> = stream
        .iter()
        .map(|message| {
            let header = |name: &str| message.header(&format!("ce-{name}")).map(str::to_owned);
            Arrived::new(&header("id").unwrap(), &message.payload, feed.person, header)
        })
        .collect();
    assert_complete("NATS", &stream);
    let topic = read_topic(&bootstrap, &topic, SOON).unwrap();
    let topic: Vec<Arrived> = topic
        .iter()
        .map(|record| {
            let header = |name: &str| record.header(&format!("ce_{name}")).map(str::to_owned);
            let body = record.value.as_deref().unwrap();
            Arrived::new(&header("id").unwrap(), body, feed.person, header)
        })
        .collect();
    assert_complete("Kafka", &topic);
}

/// Returns the ids of the events in a file.
fn event_ids(file: &Path) -> Vec<u64> {
    let text = fs::read_to_string(file).unwrap();
    let id = |line: &str| {
        serde_json::from_str::<Value>(line).unwrap()["id"]
            .as_str()
            .map(str::to_owned)
    };
    text.lines()
        .map(|line| id(line).unwrap().parse().unwrap())
        .collect()
}

#[test]
fn gap_that_is_not_filled_is_an_event_in_every_sink() {
    let dir = Scratch::new("reported-gaps").unwrap();
    let platform = Platform::start(
        &dir,
        &[
            "--rate",
            RATE,
            "--fault",
            "cut,after=100,times=1",
            "--fault",
            "rest-http=503",
        ],
    )
    .unwrap();
    let config = source(&platform)
        + r#"
give_up_after = "1s"
[sinks.all]
type = "file"
path = "all.jsonl"
[sinks.none]
type = "file"
path = "none.jsonl"
filter = { result = ["a result that does not exist"] }
"#;
    let bridge = Bridge::start(&dir, &config).unwrap();
    let gaps = wait_for_outcomes(&dir, 1);
    assert_eq!(
        (&gaps[0]["outcome"], &gaps[0]["reason"]),
        (&"unrecovered".into(), &"broken".into())
    );
    bridge
        .wait("the report", SOON, |status| status.delivered("none") == 1)
        .unwrap();
    let labels = ["reason=\"broken\"", "outcome=\"unrecovered\""];
    assert_eq!(
        bridge.metric("neurobridge_source_gaps_total", &labels).unwrap(),
        1.0
    );
    assert!(
        bridge
            .metric("neurobridge_source_backfill_failures_total", &[])
            .unwrap()
            >= 1.0
    );
    let data_dir = bridge.data_dir().to_owned();
    let (status, log) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(status.success(), "{log}");
    assert!(log.contains("missed events were not fetched"), "{log}");
    let read = |file: &str| -> Vec<Value> {
        let text = fs::read_to_string(data_dir.join(file)).unwrap();
        text.lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .filter(|event| event["type"] == "neurobridge.gap")
            .collect()
    };
    let reports = read("none.jsonl");
    assert_eq!((reports.len(), read("all.jsonl").len()), (1, 1), "{reports:?}");
    let data = &reports[0]["data"];
    assert_eq!(
        (&data["source"], &data["gap"], &data["outcome"], &data["began"]),
        (
            &"main".into(),
            &gaps[0]["id"],
            &"unrecovered".into(),
            &gaps[0]["began"]
        ),
        "{data}"
    );
    assert!(data["error"].as_str().unwrap().contains("503"), "{data}");
}

#[test]
fn gap_events_are_switched_on_and_off_by_source() {
    let dir = Scratch::new("gap-events").unwrap();
    let platform = Platform::start(
        &dir,
        &[
            "--rate",
            RATE,
            "--fault",
            "cut,after=100,times=2",
            "--fault",
            "rest-http=503",
        ],
    )
    .unwrap();
    let (url, address) = (platform.url(), platform.address());
    let config = format!(
        r#"
[sources.reported]
url = "{url}"
token = "t"
gap_events = true
[sources.silent]
url = "{url}"
token = "t"
gap_events = false
backfill = {{ url = "http://{address}", give_up_after = "0s" }}
[sinks.reports]
type = "file"
path = "reports.jsonl"
filter = {{ result = ["a result that does not exist"] }}
"#
    );
    let bridge = Bridge::start(&dir, &config).unwrap();
    let gaps = wait_for_outcomes(&dir, 2);
    assert!(
        gaps.iter().all(|gap| gap["outcome"] == "unrecovered"),
        "{gaps:#?}"
    );
    bridge
        .wait("the report", SOON, |status| status.delivered("reports") > 0)
        .unwrap();
    let file = bridge.data_dir().join("reports.jsonl");
    let (status, log) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(status.success(), "{log}");
    let text = fs::read_to_string(file).unwrap();
    let sources: Vec<String> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["data"]["source"].to_string())
        .collect();
    assert_eq!(sources, ["\"reported\""], "{text}");
}

#[test]
fn backfill_command_stores_missed_events_once() {
    let first_dir = Scratch::new("backfill-first").unwrap();
    let record = first_dir.join("recognised.jsonl");
    let path = record.display().to_string();
    let platform = Platform::start(&first_dir, &["--rate", RATE, "--recognised", &path]).unwrap();
    // The platform recognises events from the first connection on.
    let first = Bridge::start(&first_dir, &source(&platform)).unwrap();
    wait_until("events", SOON, || recognised(&record) > 300).unwrap();
    drop(first);

    // The first start with a new data folder records no gap.
    let dir = Scratch::new("backfill-by-hand").unwrap();
    let bridge = Bridge::start(&dir, &source(&platform)).unwrap();
    bridge
        .wait("live events", SOON, |status| status.delivered("events") > 0)
        .unwrap();
    let backfill = || {
        let mut command = Command::new(neurobridge());
        command
            .args(["backfill", "--source", "main", "--from", "1h", "-c"])
            .arg(dir.join("neurobridge.toml"));
        command.output().unwrap()
    };
    let output = backfill();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    let (stored, _) = text.split_once(" missed events were stored").unwrap();
    let stored: u64 = stored.parse().unwrap();
    assert!(stored >= 300, "{text}");
    let again = backfill();
    let text = String::from_utf8_lossy(&again.stdout);
    assert!(text.starts_with("0 missed events were stored"), "{again:?}");

    bridge
        .wait("the fetched events", SOON, |status| {
            status.delivered("events") > stored
        })
        .unwrap();
    let file = bridge.data_dir().join("events.jsonl");
    let (status, log) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(status.success(), "{log}");
    let ids = event_ids(&file);
    let distinct: HashSet<u64> = ids.iter().copied().collect();
    assert_eq!(ids.len(), distinct.len(), "an event is stored twice");
    assert_eq!(distinct, (1..=ids.len() as u64).collect());

    let output = backfill();
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("no bridge runs with the data_dir"), "{text}");
}
