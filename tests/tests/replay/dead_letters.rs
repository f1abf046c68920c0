//! `neurobridge dead-letters` while a bridge runs: each dead letter is replayed once, with the present filter and redaction.

use std::fs;

use async_nats::jetstream::{self, stream};
use neurobridge_tests::nats::client::connect;
use serde_json::Value;

use super::*;

/// Returns a `dead-letters` command with the configuration `today.toml`, which may differ from the configuration of
/// the bridge.
fn dead_letters(dir: &Scratch, args: &[&str]) -> Command {
    let mut command = Command::new(neurobridge());
    let (name, rest) = args.split_first().unwrap();
    command
        .args(["dead-letters", name, "-c"])
        .arg(dir.join("today.toml"))
        .args(rest);
    command
}

/// Returns the rows of `dead-letters ls --json`.
fn listed(dir: &Scratch) -> Vec<Value> {
    let output = dead_letters(dir, &["ls", "--json"]).output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    document["dead_letters"].as_array().unwrap().clone()
}

/// Creates a stream, or changes the subjects that it accepts.
fn set_subjects(url: &str, name: &str, subject: &str) {
    let config = stream::Config {
        name: name.to_owned(),
        subjects: vec![subject.to_owned()],
        ..stream::Config::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let context = jetstream::new(connect(url).await.unwrap());
        let _ = context.create_stream(&config).await;
        context.update_stream(&config).await.unwrap();
    });
}

/// Returns a sink that publishes to the stream and stores events without a subject in it as dead letters.
fn sink(url: &str, stream: &str) -> String {
    format!(
        "type = \"nats\"\nservers = [\"{url}\"]\nsubject = \"{stream}.{{result}}\"\norder = \"relaxed\"\n\
         missing_stream = \"dead_letter\"\nstream = {{ name = \"{stream}\" }}\n"
    )
}

#[test]
fn dead_letters_are_replayed_once_with_the_current_rules() {
    let Some(url) = nats_url() else {
        return;
    };
    let dir = Scratch::new("dead-letters").unwrap();
    let stream = format!("LETTERS_{}", std::process::id());
    set_subjects(&url, &stream, &format!("{stream}.new"));
    let platform = platform(&dir);
    let sink = sink(&url, &stream);
    let bridge = deliver(&dir, &platform, &sink);
    let before = await_delivered(&bridge, EVENTS);
    let ledger = &before.sink("out").ledger;
    let file = bridge.data_dir().join("dead-letters.jsonl");
    let stored: Vec<Value> = fs::read_to_string(&file)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(stored.len() as u64, ledger.dead_lettered);
    let is_junk = |dead_letter: &Value| dead_letter["event"]["data"]["result"] == "junk";
    let mut wanted: Vec<u64> = stored
        .iter()
        .filter(|dead_letter| !is_junk(dead_letter))
        .map(|dead_letter| dead_letter["sequence"].as_u64().unwrap())
        .collect();
    wanted.sort_unstable();
    assert!(
        wanted.len() > 100 && wanted.len() < stored.len(),
        "{}",
        wanted.len()
    );

    // Now the stream accepts the subjects, and the sink has another filter and redaction.
    set_subjects(&url, &stream, &format!("{stream}.>"));
    let config = fs::read_to_string(dir.join("neurobridge.toml")).unwrap();
    let today = config.replace(
        "missing_stream",
        "redact = [\"pid\"]\nfilter = { result = [\"new\", \"exact\", \"ha\", \"nm\", \"reinit\", \"det\"] }\nmissing_stream",
    );
    fs::write(dir.join("today.toml"), today).unwrap();
    let rows = listed(&dir);
    assert_eq!(rows.len(), stored.len());
    assert!(
        rows.iter()
            .all(|row| row["sink"] == "out" && row["replayed_at"].is_null())
    );
    let id = rows[0]["id"].as_str().unwrap();
    let shown = dead_letters(&dir, &["show", &id[..10]]).output().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&shown.stdout).unwrap(), stored[0]);
    let unknown = dead_letters(&dir, &["show", "none"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(64), "{unknown:?}");

    // Replays a single dead letter; then starts replays that are killed after they have recorded some dead letters; then
    // completes the replay.
    let one = dead_letters(&dir, &["replay", id]).output().unwrap();
    assert!(counts(&one).starts_with("sink out: 1 dead letters"), "{one:?}");
    let record = bridge.data_dir().join("dead-letters-replayed.jsonl");
    let recorded_bytes = || fs::metadata(&record).map_or(0, |file| file.len());
    for _ in 0..3 {
        let before = recorded_bytes();
        let mut child = dead_letters(&dir, &["replay", "--sink", "out"]).spawn().unwrap();
        wait_until("dead letters to be recorded", SOON, || {
            recorded_bytes() > before || child.try_wait().unwrap().is_some()
        })
        .unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let rest = dead_letters(&dir, &["replay"]).output().unwrap();
    assert!(counts(&rest).contains(" were replayed before"), "{rest:?}");
    let again = dead_letters(&dir, &["replay"]).output().unwrap();
    assert_eq!(counts(&again), format!("{} were replayed before\n", stored.len()));
    assert!(listed(&dir).iter().all(|row| row["replayed_at"].is_string()));

    let stored_in_stream = messages(&url, &stream);
    let mut copies = sequences(&stored_in_stream, Some("dead-letters"));
    copies.sort_unstable();
    assert_eq!(copies, wanted, "each dead letter once");
    let originals = sequences(&stored_in_stream, None);
    assert_eq!(originals.len() as u64, ledger.delivered);
    for message in &stored_in_stream {
        let body: Value = serde_json::from_slice(&message.payload).unwrap();
        let is_copy = message.header("ce-replay").is_some();
        assert_eq!(body["pid"].is_null(), is_copy, "{body}");
    }
    assert_eq!(await_delivered(&bridge, EVENTS).sinks, before.sinks);
}

#[test]
fn dead_letter_rejected_again_is_not_marked_as_replayed() {
    let Some(url) = nats_url() else {
        return;
    };
    let dir = Scratch::new("dead-letters-again").unwrap();
    let stream = format!("AGAIN_{}", std::process::id());
    set_subjects(&url, &stream, &format!("{stream}.new"));
    let platform = platform(&dir);
    let sink = sink(&url, &stream);
    let bridge = deliver(&dir, &platform, &sink);
    let config = fs::read_to_string(dir.join("neurobridge.toml")).unwrap();
    fs::write(dir.join("today.toml"), config).unwrap();
    let all = listed(&dir).len();
    let output = dead_letters(&dir, &["replay"]).output().unwrap();
    let expected = format!(
        "{all} dead letters = 0 delivered + 0 filtered + 0 duplicate + {all} rejected again + 0 left"
    );
    assert!(counts(&output).contains(&expected), "{output:?}");
    let rows = listed(&dir);
    assert_eq!(rows.len(), all, "none is stored a second time");
    assert!(rows.iter().all(|row| row["replayed_at"].is_null()));
    drop(bridge);
}

#[test]
fn damaged_dead_letter_does_not_stop_the_replay() {
    let dir = Scratch::new("dead-letters-damaged").unwrap();
    let config = "data_dir = \"data\"\n[sources.main]\ntoken = \"t\"\n[sinks.out]\ntype = \"file\"\npath = \"out.jsonl\"\n";
    fs::write(dir.join("today.toml"), config).unwrap();
    fs::create_dir(dir.join("data")).unwrap();
    let line = |sequence: u32, event: &str| {
        format!(
            "{{\"reason\":\"too_large\",\"detail\":\"\",\"source\":\"main\",\"received_at\":\"2026-01-02T03:04:05Z\",\"length\":2,\
             \"hash\":\"{sequence:032x}\",\"sink\":\"out\",\"id\":\"main/{sequence}\",\"sequence\":{sequence},\"event\":{event}}}\n"
        )
    };
    let lines = [
        "not a dead letter\n".to_owned(),
        line(1, "{}"),
        line(2, "{\"id\":2,\"data\":{}}"),
        // An incomplete line, which the bridge is still writing.
        line(3, "{\"id\":3,\"data\":{}}").trim_end().to_owned(),
    ];
    fs::write(dir.join("data/dead-letters.jsonl"), lines.concat()).unwrap();
    let replay = || {
        dead_letters(&dir, &["replay"])
            .current_dir(dir.path())
            .output()
            .unwrap()
    };
    for delivered in [1, 0] {
        let output = replay();
        let (out, log) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert_eq!(output.status.code(), Some(74), "{log}");
        let all = delivered + 1;
        assert!(
            out.contains(&format!("{all} dead letters = {delivered} delivered + "))
                && out.contains(" + 1 left"),
            "{out}"
        );
        for part in [
            "its event is damaged",
            "lines omitted",
            "damaged=1",
            "dead letters without a valid event: 1",
        ] {
            assert!(log.contains(part), "no {part:?} in {log}");
        }
    }
    let stored = fs::read_to_string(dir.join("data/out-replay-dead-letters.jsonl")).unwrap();
    assert_eq!(stored.lines().count(), 1, "{stored}");
}
