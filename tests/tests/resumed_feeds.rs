//! A declared feed with `[resume]` continues after the last stored event, also after a kill of the process.

use std::fs;
use std::net::TcpStream;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::tcp_server::serve_connections;
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio_tungstenite::tungstenite::{
    self, Message,
    handshake::server::{ErrorResponse, Request, Response},
};

const SOON: Duration = Duration::from_secs(60);
const RUNS: u64 = 4;
/// The number of events in a run.
const EVENTS: u64 = 3000;

/// A feed of numbered events. A client receives the events after the number in the query of its URL.
#[derive(Default)]
struct Feed {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The number of the last event that exists.
    last: u64,
    queries: Vec<String>,
}

impl Feed {
    fn start() -> (Arc<Self>, String) {
        let feed = Arc::new(Self::default());
        let served = Arc::clone(&feed);
        let url = serve_connections(move |stream| {
            let feed = Arc::clone(&served);
            // Ends with an error when the client has closed the connection.
            thread::spawn(move || feed.serve(stream));
        });
        (feed, url.unwrap())
    }

    #[allow(clippy::result_large_err, reason = "the callback's type is tungstenite's")]
    fn serve(&self, stream: TcpStream) -> Option<()> {
        let mut query = String::new();
        let accept = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
            query.push_str(request.uri().query().unwrap_or_default());
            Ok(response)
        };
        let mut socket = tungstenite::accept_hdr(stream, accept).ok()?;
        let after = query.strip_prefix("after=").unwrap_or("0").parse::<u64>().ok();
        self.state.lock().unwrap().queries.push(query);
        let mut next = after? + 1;
        loop {
            let state = self.state.lock().unwrap();
            let last = self
                .changed
                .wait_while(state, |state| state.last < next)
                .unwrap()
                .last;
            while next <= last {
                socket.write(Message::text(format!(r#"{{"n":{next}}}"#))).ok()?;
                next += 1;
            }
            socket.flush().ok()?;
        }
    }

    fn add(&self, events: u64) {
        self.state.lock().unwrap().last += events;
        self.changed.notify_all();
    }

    fn queries(&self) -> Vec<String> {
        self.state.lock().unwrap().queries.clone()
    }
}

/// Returns a configuration without deduplication, so that the file contains an event twice if it is received twice.
fn config(url: &str) -> String {
    format!(
        r#"
[sources.main]
url = "{url}"
[sources.main.feed]
heartbeat = {{ idle_timeout = "5m" }}
rules = [{{ when = {{ n = {{ present = true }} }}, is = "event" }}]
event = {{ id = "n" }}
resume = {{ value = "n", query = "after" }}
[deduplicate]
max_events = 0
[spool]
type = "disk"
"#
    )
}

#[test]
fn killed_bridge_resumes_after_the_last_stored_event() {
    let dir = Scratch::new("resumed-feed").unwrap();
    let (feed, url) = Feed::start();
    for run in 0..RUNS {
        let mut bridge = Bridge::start(&dir, &config(&url)).unwrap();
        feed.add(EVENTS);
        // The kill happens while events are received.
        let reached = run * EVENTS + EVENTS / 3;
        bridge
            .wait("events in the file", SOON, |status| {
                status.delivered("events") > reached
            })
            .unwrap();
        bridge.process().kill().unwrap();
    }
    // The first of these runs receives all remaining events and shuts down cleanly, so the second run resumes with
    // the saved resume value.
    let all = RUNS * EVENTS;
    for is_last in [false, true] {
        let bridge = Bridge::start(&dir, &config(&url)).unwrap();
        let expected = if is_last { all + 1 } else { all };
        if is_last {
            feed.add(1);
        }
        bridge
            .wait("all events in the file", SOON, |status| {
                status.delivered("events") >= expected
            })
            .unwrap();
        let file = bridge.data_dir().join("events.jsonl");
        let (status, log) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
        assert!(status.success(), "{status}: {log}");
        let text = fs::read_to_string(file).unwrap();
        let numbers: Vec<u64> = text
            .lines()
            .map(|line| {
                serde_json::from_str::<Value>(line).unwrap()["data"]["n"]
                    .as_u64()
                    .unwrap()
            })
            .collect();
        assert_eq!(
            numbers,
            (1..=expected).collect::<Vec<_>>(),
            "{:?}",
            feed.queries()
        );
    }
    assert_eq!(feed.queries().last(), Some(&format!("after={all}")));
    assert_eq!(feed.queries().first().map(String::as_str), Some(""));
}
