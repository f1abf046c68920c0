//! Gaps that are filled late: far more events were stored since the gap than the deduplication window holds.

use std::path::PathBuf;

use super::*;

/// A deduplication window of far fewer events than are stored in a second.
const SMALL_WINDOW: &str = "[deduplicate]\nmax_events = 100\n[spool]\ntype = \"disk\"\n";
/// An address at which no program listens.
const NO_LIST: &str = "http://127.0.0.1:1";

/// Checks that a source stores each event once if the bridge cannot reach the list of events until `repair` is called, which
/// happens after the feed has sent the event with the id `sent`. `repair` makes the bridge read its configuration file again, which
/// then contains the correct address of the list.
fn assert_stored_once(name: &str, sent: u64, repair: impl FnOnce(&mut Bridge, &Path)) {
    let dir = Scratch::new(name).unwrap();
    let count = EVENTS.to_string();
    let args = [
        "--rate",
        RATE,
        "--count",
        &count,
        "--fault",
        "cut,after=500,times=1",
    ];
    let platform = Platform::start(&dir, &args).unwrap();
    let list = format!("http://{}", platform.address());
    let config = format!("{SMALL_WINDOW}{}", source(&platform).replace(&list, NO_LIST));
    let mut bridge = Bridge::start(&dir, &config).unwrap();
    let is_filling = || gaps(&dir).iter().any(|gap| gap["outcome"] == "filling");
    wait_until("a gap that is not filled", SOON, is_filling).unwrap();
    let sent_event = format!("\"id\":\"{sent}\"");
    wait_until("events of the feed", SOON, || {
        fs::read_to_string(events_file(&bridge)).is_ok_and(|events| events.contains(&sent_event))
    })
    .unwrap();

    let file = dir.join("neurobridge.toml");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(NO_LIST), "{text}");
    fs::write(&file, text.replace(NO_LIST, &list)).unwrap();
    repair(&mut bridge, &file);
    let gaps = wait_for_outcomes(&dir, 1);
    assert!(gaps.iter().all(|gap| gap["outcome"] == "recovered"), "{gaps:#?}");
    assert_all_stored_once(bridge);
}

fn events_file(bridge: &Bridge) -> PathBuf {
    bridge.data_dir().join("events.jsonl")
}

/// Waits until all events are delivered, and checks that the sink's file has each event once.
fn assert_all_stored_once(bridge: Bridge) {
    bridge
        .wait("all events", SOON, |status| status.delivered("events") >= EVENTS)
        .unwrap();
    let events = events_file(&bridge);
    let (status, log) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(status.success(), "{log}");
    let ids = event_ids(&events);
    let distinct: HashSet<u64> = ids.iter().copied().collect();
    assert_eq!(distinct, (1..=EVENTS).collect());
    assert_eq!(ids.len(), distinct.len(), "an event is stored twice");
}

#[test]
fn delayed_fill_stores_no_event_twice() {
    // During a reload two connections deliver the same events. The window is certain to contain only the latest 50 events, too few
    // if one connection is slower, so the reload follows the last event.
    assert_stored_once("delayed-fill", EVENTS, |_, file| {
        let mut reload = Command::new(neurobridge());
        let output = reload.args(["reload", "-c"]).arg(file).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    });
}

#[test]
fn delayed_fill_after_a_crash_stores_no_event_twice() {
    assert_stored_once("delayed-fill-crash", 1500, |bridge, _| {
        bridge.process().kill().unwrap();
        bridge.start_again().unwrap();
    });
}

/// After a crash, the bridge also fetches events that it had stored since its last proof of life, and events that the feed sends
/// later.
#[test]
fn crash_with_a_small_window_stores_no_event_twice() {
    let dir = Scratch::new("small-window-crash").unwrap();
    let count = EVENTS.to_string();
    let platform = Platform::start(&dir, &["--rate", RATE, "--count", &count]).unwrap();
    let config = format!("{SMALL_WINDOW}{}", source(&platform));
    let mut bridge = Bridge::start(&dir, &config).unwrap();
    for crash in 1..=3 {
        bridge
            .wait("events", SOON, |status| status.delivered("events") > 1000 * crash)
            .unwrap();
        bridge.process().kill().unwrap();
        bridge.start_again().unwrap();
    }
    wait_for_outcomes(&dir, 3);
    assert_all_stored_once(bridge);
}
