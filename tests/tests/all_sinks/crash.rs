//! A bridge with a disk spool is killed while events are in flight: the stream stores each event once and in order.

use std::collections::HashMap;
use std::thread::sleep;
use std::time::Duration;

use neurobridge_tests::audit;
use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::nats::NatsOptions;
use neurobridge_tests::nats::client::read_stream;
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::platform::Platform;
use neurobridge_tests::poll::wait_for;
use neurobridge_tests::shared::own_nats;
use nix::sys::signal::Signal;

use super::{LIMIT, STREAM, settled, stream_sink};

const KILLS: u64 = 4;
/// The number of events without an acknowledgement when the bridge is killed.
const IN_FLIGHT: f64 = 300.0;
/// The pause after a kill, longer than the duplicate window of the stream, so that the server does not deduplicate by message
/// id.
const PAST_THE_WINDOW: Duration = Duration::from_millis(300);

#[test]
fn kill_in_flight_stores_each_event_once_in_order() {
    let Some(mut nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let (dir, url) = (Scratch::new("killed-window").unwrap(), nats.url());
    let platform = Platform::start(&dir, &["--rate", "2000"]).unwrap();
    let config = format!(
        "drain_timeout = \"60s\"\n[sources.main]\nurl = \"{}\"\ntoken = \"t\"\n[spool]\ntype = \"disk\"\n{}",
        platform.url(),
        stream_sink("stream", &url, STREAM, "")
    );
    let (mut durable, mut stored_unacknowledged) = (0, 0);
    for _ in 0..KILLS {
        let mut bridge = Bridge::start(&dir, &config).unwrap();
        let status = bridge
            .wait("events in the stream", LIMIT, |status| {
                settled(status, "stream") > durable + 2000
            })
            .unwrap();
        nats.freeze().unwrap();
        wait_for("messages without an acknowledgement", LIMIT, || {
            let in_flight = bridge.metric("neurobridge_sink_inflight_events", &["sink=\"stream\""])?;
            Ok((in_flight > IN_FLIGHT).then_some(()))
        })
        .unwrap();
        let last = bridge.status().unwrap();
        bridge.process().kill().unwrap();
        // The server stores the messages that its socket buffer contains, but the killed bridge receives no acknowledgement.
        nats.thaw().unwrap();
        durable = last.spool.durable_sequence;
        let settled = settled(&last, "stream");
        assert!(settled >= super::settled(&status, "stream"));
        stored_unacknowledged += wait_for("the server to store the unacknowledged messages", LIMIT, || {
            let stored = stored(&nats);
            Ok((stored > settled).then(|| stored - settled))
        })
        .unwrap();
        sleep(PAST_THE_WINDOW);
    }
    let bridge = Bridge::start(&dir, &config).unwrap();
    bridge
        .wait("all durable events and 2,000 more", LIMIT, |status| {
            settled(status, "stream") > durable + 2000
        })
        .unwrap();
    let (status, log) = bridge.stop(Signal::SIGTERM, LIMIT).unwrap();
    assert!(status.success(), "{status}: {log}");
    assert!(
        stored_unacknowledged > 0,
        "no kill happened between a message and its acknowledgement"
    );

    let messages = read_stream(&url, STREAM, LIMIT).unwrap();
    let arrived = audit::nats_binary(&messages, "main", true).unwrap();
    let sequences: Vec<u64> = arrived
        .iter()
        .map(|event| event.sequence.rsplit_once(':').unwrap().1.parse().unwrap())
        .collect();
    assert!(sequences.len() as u64 > durable + 2000);
    let expected: Vec<u64> = (1..=sequences.len() as u64).collect();
    let wrong = sequences
        .iter()
        .zip(&expected)
        .find(|(found, expected)| found != expected);
    assert_eq!(wrong, None, "a sequence is missing or repeated (found, expected)");
    // Events that the platform sent while no bridge was connected are missing; the others must be unmodified.
    let sent: HashMap<u64, String> = platform
        .stop()
        .unwrap()
        .into_iter()
        .map(|event| (event.id, event.data))
        .collect();
    for event in &arrived {
        assert_eq!(sent.get(&event.id), Some(&event.data));
    }
}

/// Returns the number of messages in the stream.
fn stored(nats: &neurobridge_tests::nats::Nats) -> u64 {
    let answer: serde_json::Value = serde_json::from_str(&nats.get("/jsz").unwrap()).unwrap();
    answer["messages"].as_u64().unwrap_or(0)
}
