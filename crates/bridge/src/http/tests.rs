//! Tests of the accept loop with misbehaving clients.

use std::{sync::Arc, time::Duration};

use axum::{Router, routing::get};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::server;
use crate::http_connections::{Connections, MAX_CONNECTIONS, Refusal};

const SOON: Duration = Duration::from_secs(60);

struct Server {
    address: std::net::SocketAddr,
    connections: Arc<Connections>,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

/// Starts a server that responds with "ok" to `/livez`, and with more than any socket buffer to `/large`.
async fn start() -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(Connections::default());
    let stop = CancellationToken::new();
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/large", get(|| async { "x".repeat(64 << 20) }));
    let accepting = {
        let (connections, stop) = (Arc::clone(&connections), stop.clone());
        async move { server::accept(listener, router, &Arc::default(), &connections, stop).await }
    };
    Server {
        address,
        connections,
        stop,
        running: tokio::spawn(accepting),
    }
}

impl Server {
    async fn send(&self, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }

    async fn livez(&self) -> String {
        let request = "GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        rest(self.send(request).await).await
    }
}

/// Reads until the connection ends or fails.
async fn rest(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    let read = timeout(SOON, stream.read_to_end(&mut answer)).await;
    drop(read.expect("the connection does not end"));
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn health_check_is_answered_despite_unfinished_heads() {
    let server = start().await;
    let mut clients = Vec::new();
    for _ in 0..3 * MAX_CONNECTIONS {
        clients.push(server.send("GET /livez HTTP/1.1\r\nHost: x\r\nX: ").await);
        assert!(server.connections.open() <= MAX_CONNECTIONS);
    }
    assert!(server.livez().await.ends_with("ok\n"));
    assert!(server.connections.open() <= MAX_CONNECTIONS);
    assert!(server.connections.refused(Refusal::ConnectionLimit) >= 2 * MAX_CONNECTIONS as u64);
    // The oldest connections were closed, the newest were not.
    assert_eq!(rest(clients.remove(0)).await, "");
    let mut newest = clients.pop().unwrap();
    newest.write_all(b"\r\nConnection: close\r\n\r\n").await.unwrap();
    assert!(rest(newest).await.ends_with("ok\n"));
    server.stop.cancel();
    timeout(SOON, server.running).await.unwrap().unwrap();
}

#[tokio::test]
async fn head_of_more_than_16_kib_is_refused() {
    let server = start().await;
    let head = format!(
        "GET /livez HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n",
        "y".repeat(17 * 1024)
    );
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    // The server may close the connection before the head is written completely.
    let _ = stream.write_all(head.as_bytes()).await;
    let answer = rest(stream).await;
    assert!(!answer.contains("200 OK"), "{answer}");
    let fine = format!(
        "GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: {}\r\n\r\n",
        "y".repeat(8 * 1024)
    );
    assert!(rest(server.send(&fine).await).await.ends_with("ok\n"));
}

#[tokio::test(start_paused = true)]
async fn unfinished_head_and_idle_connection_are_closed() {
    let server = start().await;
    assert_eq!(
        rest(server.send("GET /livez HTTP/1.1\r\nHost: x\r\nX: ").await).await,
        ""
    );
    assert_eq!(server.connections.refused(Refusal::HeadTimeout), 1);
    // An idle connection without a next request is not a head timeout.
    let answer = rest(server.send("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await).await;
    assert!(answer.ends_with("ok\n"), "{answer}");
    assert_eq!(rest(server.send("").await).await, "");
    assert_eq!(server.connections.refused(Refusal::HeadTimeout), 1);
    assert_eq!(server.connections.open(), 0);
}

#[tokio::test(start_paused = true)]
async fn unread_response_is_aborted_after_the_write_timeout() {
    let server = start().await;
    let _client = server.send("GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let aborted = async {
        while server.connections.refused(Refusal::WriteTimeout) == 0 {
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(SOON, aborted).await.unwrap();
    while server.connections.open() > 0 {
        tokio::task::yield_now().await;
    }
}
