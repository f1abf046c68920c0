//! Tests of declared feeds over real sockets: a client interprets the declaration that the simulator plays.

#![allow(clippy::unwrap_used, reason = "a helper of a test may fail the test")]

mod support;

use std::{collections::HashSet, fs};

use futures_util::{SinkExt, StreamExt};
use neurobridge_protocol::{Action, Declaration, Interpreter, Ping, SHIPPED, Secrets};
use neurobridge_simulator::{DeclaredFeed, Options, Script};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest, http::HeaderValue},
};

use self::support::{Running, start, within};

fn declaration(name: &str) -> Declaration {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/feeds");
    toml::from_str(&fs::read_to_string(format!("{folder}/{name}.toml")).unwrap()).unwrap()
}

async fn playing(name: &str, expected: &str) -> (Running, Interpreter) {
    let declaration = declaration(name);
    let feed = DeclaredFeed {
        secrets: secrets(&declaration, expected),
        ..DeclaredFeed::new(declaration.clone())
    };
    let options = Options {
        feed: Some(feed),
        ..Options::default()
    };
    (start(options).await, Interpreter::new(declaration, &[]).unwrap())
}

fn secrets(declaration: &Declaration, value: &str) -> Secrets {
    let names = declaration.secrets.keys();
    names.map(|name| (name.clone(), value.into())).collect()
}

/// Connects and receives at least `count` events; returns their ids, fewer if the connection ends.
async fn ids(simulator: &Running, feed: &mut Interpreter, secret: &str, count: usize) -> Vec<String> {
    let secrets = secrets(feed.declaration(), secret);
    let prepared = feed.request(&secrets, None);
    let mut request = format!("ws://localhost/?{}", prepared.query)
        .into_client_request()
        .unwrap();
    if !prepared.subprotocols.is_empty() {
        let offered = HeaderValue::from_str(&prepared.subprotocols.join(", ")).unwrap();
        request.headers_mut().insert("sec-websocket-protocol", offered);
    }
    let stream = TcpStream::connect(simulator.handle.local_addr()).await.unwrap();
    let (mut socket, _) = within(client_async(request, stream)).await.unwrap();
    let mut out = feed.begin(secrets);
    let mut ids = Vec::new();
    while ids.len() < count {
        for message in out.drain(..) {
            within(socket.send(Message::text(message.into_text())))
                .await
                .unwrap();
        }
        let Some(Ok(Message::Text(frame))) = within(socket.next()).await else {
            break;
        };
        feed.receive(&frame, &mut |action| match action {
            Action::Event(event) => ids.push(event.id().unwrap().into_owned()),
            Action::Reply(message) => out.push(message),
            Action::Malformed(text, reason) => panic!("{reason}: {text}"),
            _ => {}
        });
    }
    ids
}

#[tokio::test]
async fn shipped_feeds_open_and_send_distinct_events() {
    for (name, _) in SHIPPED {
        let (simulator, mut feed) = playing(name, "right").await;
        let ids = ids(&simulator, &mut feed, "right", 1_000).await;
        assert!(feed.is_ready() && ids.len() >= 1_000, "{name}: {}", ids.len());
        let distinct: HashSet<&String> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len(), "{name}");
    }
}

#[tokio::test]
async fn wrong_secret_is_refused() {
    for name in ["polygon", "graphql-transport-ws"] {
        let (simulator, mut feed) = playing(name, "right").await;
        assert!(ids(&simulator, &mut feed, "wrong", 1).await.is_empty(), "{name}");
        assert_eq!(simulator.handle.counters().refused, 1, "{name}");
    }
}

/// A feed with a heartbeat in plain text. Tests add resume or acknowledgements.
const FEED: &str = r#"
    heartbeat = { send = "ping", answer = "pong" }
    rules = [
        { when = { n = { present = true } }, is = "event" },
        { when = { error = { present = true } }, is = "error", text = "error" },
        { when = { end = true }, is = "end" },
    ]
    event = { id = "n", body = "data" }
"#;

/// An action of the client after a received frame.
#[derive(Debug)]
struct Seen {
    /// The id of an event, or the text of another action.
    what: String,
    body: String,
    resume: Option<String>,
    ack: Option<String>,
    length: usize,
    is_binary: bool,
}

struct Client {
    socket: WebSocketStream<TcpStream>,
    feed: Interpreter,
}

async fn playing_feed(more: &str, faults: &[&str]) -> (Running, Declaration) {
    let declaration: Declaration = toml::from_str(&format!("{more}\n{FEED}")).unwrap();
    let options = Options {
        feed: Some(DeclaredFeed::new(declaration.clone())),
        faults: faults.iter().map(|rule| rule.parse().unwrap()).collect(),
        // Fewer events than the feed retains, so that a connection can resume after any of them.
        count: Some(1000),
        ..Options::default()
    };
    (start(options).await, declaration)
}

impl Client {
    async fn connect(simulator: &Running, declaration: &Declaration, last: Option<&str>) -> Self {
        let mut feed = Interpreter::new(declaration.clone(), &[]).unwrap();
        let query = feed.request(&Secrets::new(), last).query;
        let stream = TcpStream::connect(simulator.handle.local_addr()).await.unwrap();
        let (socket, _) = within(client_async(format!("ws://localhost/?{query}"), stream))
            .await
            .unwrap();
        feed.begin(Secrets::new());
        Self { socket, feed }
    }

    async fn send(&mut self, message: neurobridge_protocol::Message) {
        let message = Message::text(message.into_text());
        within(self.socket.send(message)).await.unwrap();
    }

    /// Receives until `count` events or other actions were seen.
    async fn see(&mut self, count: usize) -> Vec<Seen> {
        let mut seen = Vec::new();
        while seen.len() < count {
            let (bytes, is_binary) = match within(self.socket.next()).await.unwrap().unwrap() {
                Message::Text(text) => (text.as_bytes().to_vec(), false),
                Message::Binary(bytes) => (bytes.to_vec(), true),
                other => panic!("{other:?}"),
            };
            let frame = String::from_utf8(bytes).unwrap();
            self.feed.receive(&frame, &mut |action| {
                let mut one = Seen {
                    what: String::new(),
                    body: String::new(),
                    resume: None,
                    ack: None,
                    length: frame.len(),
                    is_binary,
                };
                match action {
                    Action::Event(event) => {
                        one.what = event.id().unwrap().into_owned();
                        one.body = event.body().to_owned();
                        one.resume = event.resume.map(str::to_owned);
                        one.ack = event.ack.map(str::to_owned);
                    }
                    Action::Alive => "alive".clone_into(&mut one.what),
                    Action::Error(text) => one.what = format!("error {text}"),
                    Action::Ended(_) => "ended".clone_into(&mut one.what),
                    other => panic!("{other:?}"),
                }
                seen.push(one);
            });
        }
        seen
    }

    /// Sends a ping and receives frames up to the answer. After that, the simulator has handled all earlier messages.
    async fn ping(&mut self) {
        let Some(Ping::Message(ping)) = self.feed.ping() else {
            panic!("expected a ping message");
        };
        self.send(ping).await;
        while self.see(1).await[0].what != "alive" {}
    }
}

fn whats(seen: &[Seen]) -> Vec<&str> {
    seen.iter().map(|seen| seen.what.as_str()).collect()
}

#[tokio::test]
async fn connection_resumes_after_the_named_event() {
    let (simulator, declaration) = playing_feed(r#"resume = { value = "n", query = "after" }"#, &[]).await;
    let mut first = Client::connect(&simulator, &declaration, None).await;
    let seen = first.see(30).await;
    assert_eq!(seen[19].what, "x20");
    let mut second = Client::connect(&simulator, &declaration, seen[19].resume.as_deref()).await;
    assert_eq!(whats(&second.see(3).await)[..3], ["x21", "x22", "x23"]);
}

#[tokio::test]
async fn unacknowledged_events_are_sent_again() {
    let more = r#"ack = { value = "n", send = { ack = "{values:json}" } }"#;
    let (simulator, declaration) = playing_feed(more, &[]).await;
    let mut first = Client::connect(&simulator, &declaration, None).await;
    let seen = first.see(10).await;
    let values: Vec<&str> = seen[..5].iter().filter_map(|seen| seen.ack.as_deref()).collect();
    for message in first.feed.acknowledge(&values) {
        first.send(message).await;
    }
    first.ping().await;
    assert_eq!(simulator.handle.acknowledged(), ["x1", "x2", "x3", "x4", "x5"]);
    drop(first);
    let mut second = Client::connect(&simulator, &declaration, None).await;
    assert_eq!(whats(&second.see(2).await)[..2], ["x6", "x7"]);
}

#[tokio::test]
async fn silent_feed_answers_pings() {
    let (simulator, declaration) = playing_feed("", &["silence,after=2"]).await;
    let mut client = Client::connect(&simulator, &declaration, None).await;
    client.ping().await;
    client.ping().await;
    assert_eq!(simulator.handle.counters().pings, 2);
}

#[tokio::test]
async fn faults_repeat_enlarge_and_interrupt_events() {
    let faults = [
        "same-id,after=3",
        "huge=64KiB,after=3",
        "duplicate=2,after=5",
        "error=no\\, never,after=5",
        r#"send={"end":true},after=6"#,
    ];
    let (simulator, declaration) = playing_feed("", &faults).await;
    let mut client = Client::connect(&simulator, &declaration, None).await;
    let seen = client.see(11).await;
    assert_eq!(
        whats(&seen),
        [
            "x1",
            "x2",
            "x3",
            "x3",
            "x4",
            "x5",
            "x4",
            "x5",
            "error no, never",
            "x6",
            "ended"
        ]
    );
    assert_ne!(seen[2].body, seen[3].body, "the same id, and another body");
    assert_eq!(seen[4].length, 64 * 1024);
    assert_eq!(seen[5].body, seen[7].body, "a copy");
}

#[tokio::test]
async fn binary_feed_sends_binary_frames_only() {
    let (simulator, declaration) = playing_feed("binary = true", &["error,after=2"]).await;
    let mut client = Client::connect(&simulator, &declaration, None).await;
    let seen = client.see(5).await;
    assert!(seen.iter().all(|seen| seen.is_binary), "{seen:?}");
    assert_eq!(
        whats(&seen)[..4],
        ["x1", "x2", "error something went wrong", "x3"]
    );
}

#[tokio::test]
async fn script_sends_its_frames_and_executes_its_faults() {
    let declaration: Declaration = toml::from_str(FEED).unwrap();
    let script = "{\"n\":\"a1\",\"data\":{\"x\":[1]}}\n#! send,after=1\n{\"error\":\"from the script\"}\n";
    let options = Options {
        feed: Some(DeclaredFeed {
            script: Script::parse(script).unwrap(),
            ..DeclaredFeed::new(declaration.clone())
        }),
        ..Options::default()
    };
    let simulator = start(options).await;
    let mut client = Client::connect(&simulator, &declaration, None).await;
    let seen = client.see(3).await;
    assert_eq!(whats(&seen), ["a1", "error from the script", "a2"]);
    assert_eq!(seen[0].body, r#"{"x":[1]}"#);
}
