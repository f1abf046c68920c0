//! A declared feed that expects acknowledgements: an event is acknowledged after it is stored, and never before.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::poll::wait_for;
use neurobridge_tests::tcp_server::serve_connections;
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio_tungstenite::tungstenite::{self, Message};

const SOON: Duration = Duration::from_secs(60);
const RUNS: usize = 4;
/// The number of events of the feed.
const EVENTS: u64 = 20_000;
/// The largest number of events that the feed sends without an acknowledgement.
const WINDOW: usize = 2000;

/// A feed of numbered events, which sends each event on every connection until the event is acknowledged.
#[derive(Default)]
struct Feed {
    /// The acknowledged events, in the order of their acknowledgements.
    acknowledged: Mutex<Vec<u64>>,
}

impl Feed {
    fn start() -> (Arc<Self>, String) {
        let feed = Arc::new(Self::default());
        let served = Arc::clone(&feed);
        // One connection after the other: a connection ends with its bridge.
        let url = serve_connections(move |stream| drop(served.serve(stream)));
        (feed, url.unwrap())
    }

    fn serve(&self, stream: TcpStream) -> tungstenite::Result<()> {
        stream.set_nodelay(true)?;
        let mut socket = tungstenite::accept(stream).map_err(|error| io::Error::other(error.to_string()))?;
        socket
            .get_mut()
            .set_read_timeout(Some(Duration::from_millis(2)))?;
        let known: BTreeSet<u64> = self.acknowledged().into_iter().collect();
        let mut waiting: BTreeSet<u64> = BTreeSet::new();
        let mut next = (1..=EVENTS).filter(|number| !known.contains(number));
        loop {
            while waiting.len() < WINDOW
                && let Some(number) = next.next()
            {
                socket.write(Message::text(format!(r#"{{"n":{number}}}"#)))?;
                waiting.insert(number);
            }
            socket.flush()?;
            match socket.read() {
                Ok(Message::Text(text)) => {
                    let message: Value = serde_json::from_str(&text).expect("JSON");
                    let numbers = message["ack"].as_array().expect("a list").iter();
                    for number in numbers.map(|number| number.as_u64().expect("a number")) {
                        assert!(
                            waiting.remove(&number),
                            "{number} was not sent on this connection"
                        );
                        self.acknowledged.lock().unwrap().push(number);
                    }
                }
                Ok(_) => {}
                Err(tungstenite::Error::Io(error))
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn acknowledged(&self) -> Vec<u64> {
        self.acknowledged.lock().unwrap().clone()
    }
}

#[test]
fn killed_bridge_has_acknowledged_only_stored_events() {
    let dir = Scratch::new("acknowledged-feed").unwrap();
    let (feed, url) = Feed::start();
    let config = format!(
        r#"
[sources.main]
url = "{url}"
[sources.main.feed]
heartbeat = {{ idle_timeout = "5m" }}
rules = [{{ when = {{ n = {{ present = true }} }}, is = "event" }}]
event = {{ id = "n" }}
ack = {{ value = "n", send = {{ ack = "{{values:json}}" }} }}
[spool]
type = "disk"
"#
    );
    let step = usize::try_from(EVENTS).unwrap() / (RUNS + 1);
    for run in 1..=RUNS {
        let mut bridge = Bridge::start(&dir, &config).unwrap();
        wait_for("acknowledgements", SOON, || {
            Ok((feed.acknowledged().len() >= run * step).then_some(()))
        })
        .unwrap();
        bridge.process().kill().unwrap();
    }
    let bridge = Bridge::start(&dir, &config).unwrap();
    bridge
        .wait("all events in the file", SOON, |status| {
            status.delivered("events") >= EVENTS
        })
        .unwrap();
    wait_for("all acknowledgements", SOON, || {
        Ok((feed.acknowledged().len() as u64 == EVENTS).then_some(()))
    })
    .unwrap();
    let file = bridge.data_dir().join("events.jsonl");
    let (status, log) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(status.success(), "{status}: {log}");
    // The feed never repeats an acknowledged event, so an event that was acknowledged before it was stored would be missing.
    let text = fs::read_to_string(file).unwrap();
    let mut numbers: Vec<u64> = text
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["data"]["n"]
                .as_u64()
                .unwrap()
        })
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers.len() as u64, EVENTS, "each event once");
    assert_eq!(numbers, (1..=EVENTS).collect::<Vec<_>>());
}
