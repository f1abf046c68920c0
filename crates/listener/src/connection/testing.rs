//! Helpers for tests of connections: a scripted platform at the other end of an in-memory stream.

use std::{sync::Arc, time::Duration};

use futures_util::{SinkExt, StreamExt};
use jiff::Timestamp;
use neurobridge_core::{
    secret::{Secret, SecretSet},
    units::ByteSize,
};
use neurobridge_protocol::{Neuroio, Protocol, Secrets};
use tokio::{
    io::{AsyncWriteExt, DuplexStream, duplex},
    sync::mpsc,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{CloseFrame, Role, frame::coding::CloseCode},
    },
};
use tokio_util::sync::CancellationToken;

use super::{Notice, Outlet, Session, Socket, SourceLink, websocket_config};
use crate::{received::Received, stats::SourceStats};

pub(crate) const TOKEN: &str = "s3cret";
pub(crate) const AUTH: &str = r#"{"action":"AUTH","data":{"token":"s3cret"}}"#;
pub(crate) const PING: &str = r#"{"action":"PING"}"#;
pub(crate) const LIMIT: ByteSize = ByteSize::from_kib(64);

/// Collects the frames that a connection delivers, as text.
#[derive(Default)]
pub(crate) struct TestOutlet(Vec<String>);

impl Outlet for TestOutlet {
    type Item = Vec<String>;

    fn for_connection(&self) -> Self {
        Self::default()
    }

    fn begin(&mut self, _: u64) {}

    fn push(&mut self, received: Received<'_>) {
        self.0.push(match received {
            Received::Event(event) => event.text.to_owned(),
            Received::Malformed { text, .. } => text.to_owned(),
        });
    }

    fn notice(&mut self, _: Notice<'_>) {}

    fn len(&self) -> usize {
        self.0.len()
    }

    fn count_waiting(&mut self) {}

    fn take(&mut self, _: Timestamp) -> Option<Vec<String>> {
        (!self.0.is_empty()).then(|| std::mem::take(&mut self.0))
    }
}

/// Returns a link with a channel for `capacity` batches.
pub(crate) fn link(capacity: usize) -> (SourceLink<TestOutlet>, mpsc::Receiver<Vec<String>>) {
    let (items, batches) = mpsc::channel(capacity);
    let link = SourceLink::new(
        "test".into(),
        TestOutlet::default(),
        items,
        CancellationToken::new(),
        Arc::new(SourceStats::new()),
        Arc::default(),
    );
    (link, batches)
}

/// Returns a connection and the platform's end of it.
pub(crate) async fn connection() -> (Session<DuplexStream>, Platform) {
    let (socket, platform) = sockets().await;
    let secrets = SecretSet::default();
    secrets.add(TOKEN);
    (Session::new(socket, neuroio(), secrets, LIMIT), platform)
}

/// Returns NeuroIO's protocol with a time limit of 10 s for each answer, and a ping every 5 s.
pub(crate) fn neuroio() -> Protocol {
    let seconds = Duration::from_secs;
    Protocol::Neuroio(Box::new(Neuroio::new(seconds(10), seconds(5), seconds(10), &[])))
}

/// Returns the secrets of a connection: the token.
pub(crate) fn token() -> Secrets {
    Secrets::from([(neurobridge_protocol::TOKEN.to_owned(), Secret::new(TOKEN))])
}

/// As [`connection`], already authenticated.
pub(crate) async fn authenticated_connection() -> (Session<DuplexStream>, Platform) {
    let (mut session, platform) = connection().await;
    session.protocol.receive(r#"{"auth":"ok"}"#, &mut |_| ());
    (session, platform)
}

/// Returns the two ends of an open WebSocket.
pub(crate) async fn sockets() -> (Socket<DuplexStream>, Platform) {
    let (ours, theirs) = duplex(1 << 20);
    let ours = Socket::new(ours, websocket_config(LIMIT));
    let theirs = WebSocketStream::from_raw_socket(theirs, Role::Server, None).await;
    (ours, Platform(theirs))
}

pub(crate) fn event(id: usize) -> String {
    format!(r#"{{"id":{id},"data":{{"result":"new"}}}}"#)
}

/// The platform's end of a connection.
pub(crate) struct Platform(pub(crate) WebSocketStream<DuplexStream>);

impl Platform {
    pub(crate) async fn send_text(&mut self, text: impl Into<String>) {
        self.0.send(Message::text(text.into())).await.unwrap();
    }

    /// Sends several texts at once, so that one wake-up of the reader finds all of them.
    pub(crate) async fn send_texts(&mut self, texts: impl IntoIterator<Item = String>) {
        for text in texts {
            self.0.feed(Message::text(text)).await.unwrap();
        }
        self.0.flush().await.unwrap();
    }

    pub(crate) async fn send(&mut self, message: Message) {
        self.0.send(message).await.unwrap();
    }

    /// Sends bytes that no WebSocket library would send.
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        let stream = self.0.get_mut();
        stream.write_all(bytes).await.unwrap();
        stream.flush().await.unwrap();
    }

    /// Returns the next text, or a description of another message.
    pub(crate) async fn receive_text(&mut self) -> String {
        match self.0.next().await {
            Some(Ok(Message::Text(text))) => text.to_string(),
            Some(Ok(Message::Close(Some(frame)))) => format!("[close {}]", u16::from(frame.code)),
            Some(Ok(message)) => format!("[{message:?}]"),
            Some(Err(error)) => format!("[{error}]"),
            None => "[end]".to_owned(),
        }
    }

    pub(crate) async fn authenticate(&mut self) {
        assert_eq!(self.receive_text().await, AUTH);
        self.send_text(r#"{"auth":"ok"}"#).await;
    }

    /// Answers each ping until the connection ends.
    pub(crate) async fn answer_pings(&mut self) {
        while let Some(Ok(message)) = self.0.next().await {
            if message.to_text().is_ok_and(|text| text == PING)
                && self.0.send(Message::text(r#"{"PING":"PONG"}"#)).await.is_err()
            {
                return;
            }
        }
    }

    pub(crate) async fn close(&mut self, code: CloseCode) {
        let reason = "bye".into();
        self.0.close(Some(CloseFrame { code, reason })).await.unwrap();
    }
}
