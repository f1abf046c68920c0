//! `neurobridge spool replay`, with and without a running bridge: marked copies are delivered, and no cursor changes.

mod dead_letters;

use std::collections::BTreeMap;
use std::process::{Command, Output};
use std::time::Duration;

use neurobridge_spool::inspect;
use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::kafka::{admin::KafkaAdmin, records::read_topic};
use neurobridge_tests::nats::messages::{Message, each_message};
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::platform::Platform;
use neurobridge_tests::poll::wait_until;
use neurobridge_tests::program::neurobridge;
use neurobridge_tests::shared::{kafka_bootstrap, nats_url};
use neurobridge_tests::status::Status;
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(120);
const EVENTS: u64 = 2000;

fn replay(dir: &Scratch, args: &[&str]) -> Output {
    let mut command = Command::new(neurobridge());
    command
        .args(["spool", "replay", "-c"])
        .arg(dir.join("neurobridge.toml"))
        .args(args);
    command.output().unwrap()
}

fn counts(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Runs a bridge until its sink has delivered all events of the platform and saved its cursor.
fn deliver(dir: &Scratch, platform: &Platform, sink: &str) -> Bridge {
    let url = platform.url();
    let config = format!(
        "[sources.main]\nurl = \"{url}\"\ntoken = \"t\"\n[spool]\ntype = \"disk\"\n[sinks.out]\n{sink}"
    );
    let bridge = Bridge::start(dir, &config).unwrap();
    await_delivered(&bridge, EVENTS);
    // A replay ends at the saved cursor of the sink, which is written a moment after the delivery.
    let folder = bridge.data_dir().join("spool");
    wait_until("the sink's cursor on the disk", SOON, || {
        let cursors = inspect::list(&folder).unwrap().cursors;
        let mut positions = cursors.iter().filter_map(|state| state.cursor.as_ref());
        positions.any(|cursor| cursor.next.get() > EVENTS)
    })
    .unwrap();
    bridge
}

fn await_delivered(bridge: &Bridge, events: u64) -> Status {
    let all = |status: &Status| {
        let ledger = &status.sink("out").ledger;
        ledger.stored == events && ledger.pending == 0
    };
    bridge.wait("all events to be delivered", SOON, all).unwrap()
}

fn platform(dir: &Scratch) -> Platform {
    Platform::start(dir, &["--count", &EVENTS.to_string()]).unwrap()
}

fn number(sequence: &str) -> u64 {
    sequence.rsplit_once(':').unwrap().1.parse().unwrap()
}

fn messages(url: &str, stream: &str) -> Vec<Message> {
    let mut messages = Vec::new();
    each_message(url, stream, SOON, |message| {
        messages.push(message);
        Ok(())
    })
    .unwrap();
    messages
}

/// Returns the sequence of each message in a stream; `run` selects the messages of a replay, `None` the original ones.
fn sequences(messages: &[Message], run: Option<&str>) -> Vec<u64> {
    messages
        .iter()
        .filter(|message| message.header("ce-replay") == run)
        .map(|message| number(message.header("ce-sequence").unwrap()))
        .collect()
}

/// Checks the output of `spool ls --json` for one sink that has delivered these events.
fn has_json_listing(dir: &Scratch, delivered: u64) {
    let mut command = Command::new(neurobridge());
    command
        .args(["spool", "ls", "--json", "-c"])
        .arg(dir.join("neurobridge.toml"));
    let output = command.output().unwrap();
    let listing: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(
        listing["spool"].as_str().is_some_and(|id| id.len() == 36),
        "{listing}"
    );
    let segment = &listing["segments"][0];
    assert_eq!(segment["first"], 1, "{listing}");
    assert!(segment["bytes"].as_u64() > Some(0) && segment["received_at"].is_string());
    assert!(
        segment["file"].as_str().unwrap().ends_with(".segment"),
        "{listing}"
    );
    let cursor = &listing["cursors"][0];
    assert_eq!((&cursor["sink"], &cursor["damage"]), (&"out".into(), &().into()));
    assert_eq!(
        (&cursor["first"], &cursor["next"]),
        (&1.into(), &(delivered + 1).into())
    );
    assert_eq!(cursor["counts"]["delivered"], delivered, "{listing}");
}

#[test]
fn replay_with_a_running_bridge_marks_copies() {
    let Some(bootstrap) = kafka_bootstrap() else {
        return;
    };
    let dir = Scratch::new("replay-kafka").unwrap();
    let topic = format!("replay-{}", std::process::id());
    KafkaAdmin::new(&bootstrap)
        .unwrap()
        .create_topic(&topic, 3, &[])
        .unwrap();
    let platform = platform(&dir);
    let sink = format!("type = \"kafka\"\nbootstrap_servers = \"{bootstrap}\"\ntopic = \"{topic}\"\n");
    let bridge = deliver(&dir, &platform, &sink);
    let before = await_delivered(&bridge, EVENTS).sinks;

    let output = replay(
        &dir,
        &["--sink", "out", "--from", "501", "--to", "1500", "--run", "one"],
    );
    assert!(counts(&output).starts_with("run one: 1000 replayed = 1000 delivered"));
    let mut originals = BTreeMap::new();
    let mut copies = BTreeMap::new();
    let mut last = BTreeMap::new();
    for record in read_topic(&bootstrap, &topic, SOON).unwrap() {
        let sequence = number(record.header("ce_sequence").unwrap());
        let all = match record.header("ce_replay") {
            Some("one") => {
                assert!(
                    last.insert(record.partition, sequence) < Some(sequence),
                    "the replay is not in order"
                );
                &mut copies
            }
            Some(other) => panic!("{other}"),
            None => &mut originals,
        };
        let what = (
            record.key.clone(),
            record.value.clone(),
            record.header("ce_id").map(str::to_owned),
        );
        assert_eq!(all.insert(sequence, what), None, "{sequence} is duplicated");
    }
    assert_eq!(originals.len() as u64, EVENTS);
    assert!(copies.keys().copied().eq(501..=1500), "{}", copies.len());
    assert!(copies.iter().all(|(sequence, copy)| originals[sequence] == *copy));
    // The replay has not affected the bridge.
    assert_eq!(await_delivered(&bridge, EVENTS).sinks, before);

    // By default a replay ends at the cursor of the sink, and it never goes beyond.
    assert!(counts(&replay(&dir, &["--sink", "out", "--from", "1991"])).contains(": 10 replayed"));
    assert!(
        counts(&replay(
            &dir,
            &["--sink", "out", "--from", "1996", "--to", "9999"]
        ))
        .contains(": 5 replayed")
    );
    let future = replay(&dir, &["--sink", "out", "--from", "2100-01-01T00:00:00Z"]);
    assert_eq!(future.status.code(), Some(64), "{future:?}");
    let unknown = replay(&dir, &["--sink", "in", "--from", "1"]);
    assert_eq!(unknown.status.code(), Some(64), "{unknown:?}");
    let all = counts(&replay(
        &dir,
        &["--sink", "out", "--from", "2000-01-01T00:00:00Z"],
    ));
    assert!(all.contains(": 2000 replayed"), "{all}");
    for from in ["oldest", "1h"] {
        let all = counts(&replay(&dir, &["--sink", "out", "--from", from]));
        assert!(all.contains(": 2000 replayed"), "{from}: {all}");
    }
    let (_, _, id) = &originals[&777];
    let one = replay(
        &dir,
        &["--sink", "out", "--id", id.as_deref().unwrap(), "--run", "id"],
    );
    assert!(counts(&one).contains(": 1 replayed = 1 delivered"), "{one:?}");
    let records = read_topic(&bootstrap, &topic, SOON).unwrap();
    let mut copies = records
        .iter()
        .filter(|record| record.header("ce_replay") == Some("id"));
    let copy = copies.next().unwrap();
    assert_eq!(number(copy.header("ce_sequence").unwrap()), 777);
    assert!(copies.next().is_none());
    let unknown = replay(&dir, &["--sink", "out", "--id", "nobody's"]);
    assert_eq!(unknown.status.code(), Some(64), "{unknown:?}");
    has_json_listing(&dir, EVENTS);

    // The replay also works without a bridge.
    let (ended, log) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(ended.success(), "{log}");
    assert!(counts(&replay(&dir, &["--sink", "out", "--from", "1", "--to", "1"])).contains(": 1 replayed"));
}

#[test]
fn relaxed_stream_stores_replayed_copies() {
    let Some(url) = nats_url() else {
        return;
    };
    let dir = Scratch::new("replay-nats").unwrap();
    let stream = format!("REPLAY_{}", std::process::id());
    let platform = platform(&dir);
    let sink = format!(
        "type = \"nats\"\nservers = [\"{url}\"]\nsubject = \"{stream}.{{result}}\"\norder = \"relaxed\"\n\
         stream = {{ name = \"{stream}\", subjects = [\"{stream}.>\"], create = true, max_age = \"1h\", replicas = 1 }}\n"
    );
    let bridge = deliver(&dir, &platform, &sink);
    let output = replay(&dir, &["--sink", "out", "--from", "1901", "--run", "two"]);
    assert!(counts(&output).starts_with("run two: 100 replayed = 100 delivered"));
    // A repeated run has the same message ids.
    let again = replay(&dir, &["--sink", "out", "--from", "1901", "--run", "two"]);
    assert!(counts(&again).contains("100 duplicate"), "{again:?}");
    let stored = messages(&url, &stream);
    assert_eq!(stored.len() as u64, EVENTS + 100);
    let mut originals = sequences(&stored, None);
    originals.sort_unstable();
    assert!(originals.into_iter().eq(1..=EVENTS));
    assert!(sequences(&stored, Some("two")).into_iter().eq(1901..=EVENTS));
    let copy = stored.last().unwrap();
    let id = format!("main/{};replay=two", copy.header("ce-id").unwrap());
    assert_eq!(copy.header("Nats-Msg-Id"), Some(&*id));
    await_delivered(&bridge, EVENTS);
}

#[test]
fn replay_into_a_strict_stream_keeps_its_order() {
    let Some(url) = nats_url() else {
        return;
    };
    let dir = Scratch::new("replay-strict").unwrap();
    let stream = format!("REPLAY_STRICT_{}", std::process::id());
    let platform = platform(&dir);
    let sink = format!(
        "type = \"nats\"\nservers = [\"{url}\"]\nsubject = \"{stream}.{{result}}\"\n\
         stream = {{ name = \"{stream}\", subjects = [\"{stream}.>\"], create = true, max_age = \"1h\", replicas = 1, \
         duplicate_window = \"100ms\" }}\n"
    );
    let mut bridge = deliver(&dir, &platform, &sink);
    let refused = replay(&dir, &["--sink", "out", "--from", "1"]);
    assert_eq!(refused.status.code(), Some(75), "{refused:?}");
    let advice = String::from_utf8_lossy(&refused.stderr);
    assert!(
        advice.contains("next: stop the bridge, run this command, and start the bridge")
            && !advice.contains("later"),
        "{advice}"
    );

    // After a kill, the saved cursor may be older than the messages in the stream, and the duplicate window may have ended.
    bridge.process().kill().unwrap();
    let output = replay(
        &dir,
        &["--sink", "out", "--from", "1", "--to", "500", "--run", "three"],
    );
    assert!(counts(&output).contains("500 delivered"), "{output:?}");
    drop(bridge);
    platform.stop().unwrap();
    let platform = self::platform(&dir);
    let url_of_feed = platform.url();
    let config = format!(
        "[sources.second]\nurl = \"{url_of_feed}\"\ntoken = \"t\"\n[spool]\ntype = \"disk\"\n[sinks.out]\n{sink}"
    );
    let bridge = Bridge::start(&dir, &config).unwrap();
    await_delivered(&bridge, 2 * EVENTS);
    let stored = messages(&url, &stream);
    assert!(sequences(&stored, Some("three")).into_iter().eq(1..=500));
    assert!(
        sequences(&stored, None).into_iter().eq(1..=2 * EVENTS),
        "each copy once and in order"
    );
}
