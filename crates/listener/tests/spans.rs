//! The tracing spans of a source. An integration test, so that it has its own process: `tracing` caches for the whole process
//! which log statements are enabled.

use std::{fs, sync::Mutex};

use futures_util::{SinkExt, StreamExt};
use neurobridge_listener::{EventListener, Message};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_tungstenite::{accept_async, tungstenite};

#[tokio::test]
async fn log_lines_are_in_the_spans_of_source_and_connection() {
    let file = tempfile::NamedTempFile::new().unwrap();
    tracing_subscriber::fmt()
        .json()
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(Mutex::new(file.reopen().unwrap()))
        .init();
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", server.local_addr().unwrap());
    let mut messages = EventListener::new("t").url(url).stream().unwrap();
    let answer = async {
        let (stream, _) = server.accept().await.unwrap();
        let mut socket = accept_async(stream).await.unwrap();
        socket.next().await.unwrap().unwrap();
        let answer = tungstenite::Message::text(r#"{"auth":"ok"}"#);
        socket.send(answer).await.unwrap();
        socket
    };
    let authenticated =
        async { while !matches!(messages.next().await.unwrap().unwrap(), Message::Authenticated) {} };
    let (_socket, ()) = tokio::join!(answer, authenticated);
    let log = fs::read_to_string(file.path()).unwrap();
    let lines = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let spans: Vec<Value> = lines
        .filter(|line| line["fields"]["message"] == "authenticated")
        .map(|line| line["spans"].clone())
        .collect();
    let expected = json!([{"name": "source", "source": "neuroio"}, {"name": "connection", "number": 1}]);
    assert_eq!(spans, [expected], "{log}");
}
