//! A simulator in this process, and clients that connect over real sockets.

#![allow(dead_code, reason = "each test program uses only some of the helpers")]

use std::{fmt::Debug, future::Future, time::Duration};

use futures_util::{SinkExt, StreamExt};
use neurobridge_simulator::{Handle, Options, RunError, Simulator};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite};
use tokio_util::sync::{CancellationToken, DropGuard};
use tungstenite::{Error, Message, protocol::CloseFrame};

/// The longest wait of a test before it fails.
const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) struct Running {
    pub(crate) handle: Handle,
    stop: DropGuard,
    task: JoinHandle<Result<(), RunError>>,
}

pub(crate) async fn start(options: Options) -> Running {
    let simulator = Simulator::bind(options).await.unwrap();
    let (handle, stop) = (simulator.handle(), CancellationToken::new());
    let task = tokio::spawn(simulator.run(stop.clone()));
    Running {
        handle,
        stop: stop.drop_guard(),
        task,
    }
}

pub(crate) async fn start_with(faults: &[&str], count: Option<u64>) -> Running {
    let faults = faults.iter().map(|rule| rule.parse().unwrap()).collect();
    start(Options {
        faults,
        count,
        keep_frames: 10_000,
        ..Options::default()
    })
    .await
}

impl Running {
    pub(crate) async fn stop(self) -> Result<(), RunError> {
        drop(self.stop);
        within(self.task).await.unwrap()
    }

    /// Returns the sent frames as text.
    pub(crate) fn frames(&self) -> Vec<String> {
        self.handle
            .frames()
            .iter()
            .map(|frame| String::from_utf8(frame.to_vec()).unwrap())
            .collect()
    }

    pub(crate) async fn connect(&self) -> Result<Client, Error> {
        let stream = TcpStream::connect(self.handle.local_addr()).await.unwrap();
        let (socket, _) = within(client_async("ws://localhost/", stream)).await?;
        Ok(Client { socket })
    }

    pub(crate) async fn authenticated(&self) -> Client {
        let mut client = self.connect().await.unwrap();
        client.send(AUTH).await;
        assert_eq!(client.json().await, serde_json::json!({ "auth": "ok" }));
        client
    }
}

/// The answer to a REST request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

impl Running {
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.request("GET", path, Some("secret"), "").await
    }

    pub(crate) async fn request(&self, method: &str, path: &str, token: Option<&str>, body: &str) -> Answer {
        let mut stream = TcpStream::connect(self.handle.local_addr()).await.unwrap();
        let token = token.map_or_else(String::new, |token| format!("Authorization: Token {token}\r\n"));
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{token}\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        within(stream.read_to_string(&mut answer)).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        Answer {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }
}

pub(crate) const AUTH: &str = r#"{"action":"AUTH","data":{"token":"secret"}}"#;
pub(crate) const PING: &str = r#"{"action":"PING"}"#;

pub(crate) struct Client {
    pub(crate) socket: WebSocketStream<TcpStream>,
}

impl Client {
    pub(crate) async fn send(&mut self, text: &str) {
        within(self.socket.send(Message::text(text))).await.unwrap();
    }

    pub(crate) async fn next(&mut self) -> Option<Result<Message, Error>> {
        within(self.socket.next()).await
    }

    pub(crate) async fn text(&mut self) -> String {
        match self.next().await {
            Some(Ok(Message::Text(text))) => text.to_string(),
            other => panic!("expected a text, found {other:?}"),
        }
    }

    pub(crate) async fn json(&mut self) -> Value {
        serde_json::from_str(&self.text().await).unwrap()
    }

    /// Receives an event and returns its id.
    pub(crate) async fn id(&mut self) -> u64 {
        self.json().await["id"].as_u64().unwrap()
    }

    pub(crate) async fn ids(&mut self, count: usize) -> Vec<u64> {
        let mut ids = Vec::new();
        while ids.len() < count {
            ids.push(self.id().await);
        }
        ids
    }

    /// Receives all texts until the connection ends, and returns them with the close code.
    pub(crate) async fn rest(&mut self) -> (Vec<String>, Option<u16>) {
        let (mut texts, mut code) = (Vec::new(), None);
        while let Some(message) = self.next().await {
            match message {
                Ok(Message::Text(text)) => texts.push(text.to_string()),
                Ok(Message::Close(close)) => code = close.map(|CloseFrame { code, .. }| code.into()),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        (texts, code)
    }

    /// Sends a ping and skips events until its answer arrives.
    pub(crate) async fn ping(&mut self) -> Value {
        self.send(PING).await;
        loop {
            let message = self.json().await;
            if message.get("PING").is_some() {
                return message;
            }
        }
    }
}

pub(crate) fn id_of(frame: &str) -> u64 {
    serde_json::from_str::<Value>(frame).unwrap()["id"]
        .as_u64()
        .unwrap()
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(DEADLINE, future)
        .await
        .expect("a wait of the test exceeded its deadline")
}

/// Asserts that the future stays pending. The wait is many times longer than an expected message takes to arrive.
pub(crate) async fn assert_silent<T: Debug>(future: impl Future<Output = T>) {
    if let Ok(received) = timeout(Duration::from_millis(300), future).await {
        panic!("expected no message, found {received:?}");
    }
}
