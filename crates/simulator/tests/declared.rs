//! Tests of declared feeds over real sockets: a client interprets the declaration that the simulator plays.

#![allow(clippy::unwrap_used, reason = "a helper of a test may fail the test")]

mod support;

use std::{collections::HashSet, fs};

use futures_util::{SinkExt, StreamExt};
use neurobridge_protocol::{Action, Declaration, Declared, SHIPPED, Secrets};
use neurobridge_simulator::{DeclaredFeed, Options};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    client_async,
    tungstenite::{Message, client::IntoClientRequest, http::HeaderValue},
};

use self::support::{Running, start, within};

fn declaration(name: &str) -> Declaration {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/feeds");
    toml::from_str(&fs::read_to_string(format!("{folder}/{name}.toml")).unwrap()).unwrap()
}

async fn playing(name: &str, expected: &str) -> (Running, Declared) {
    let declaration = declaration(name);
    let feed = DeclaredFeed {
        secrets: secrets(&declaration, expected),
        ..DeclaredFeed::new(declaration.clone())
    };
    let options = Options {
        feed: Some(feed),
        ..Options::default()
    };
    (start(options).await, Declared::new(declaration, &[]).unwrap())
}

fn secrets(declaration: &Declaration, value: &str) -> Secrets {
    let names = declaration.secrets.keys();
    names.map(|name| (name.clone(), value.into())).collect()
}

/// Connects and receives at least `count` events; returns their ids, fewer if the connection ends.
async fn ids(simulator: &Running, feed: &mut Declared, secret: &str, count: usize) -> Vec<String> {
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
