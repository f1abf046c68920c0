//! The reason that a NATS sink reports when it cannot connect, and the limit of the data that it receives from a
//! server that sends endlessly.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use neurobridge_core::sink::FaultKind;
use neurobridge_sink_nats::NatsConfig;
use neurobridge_tests::{
    nats::{NatsCluster, NatsOptions},
    poll::within,
    shared::{own_nats, with_own_nats},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use super::support::{LIMIT, connect, creating, eventually};

const BANNER: &[u8] =
    b"INFO {\"server_id\":\"fake\",\"version\":\"2.15.2\",\"headers\":true,\"max_payload\":1048576}\r\n";
/// The limit of the data that the server may send: more than the stored part of a message, the spare capacity of a growing
/// buffer and the socket buffers together.
const MOST_SENT: u64 = 256 << 20;

/// The behaviour of a server that is not a nats-server.
#[derive(Clone, Copy)]
enum Behaviour {
    /// Accepts connections and sends nothing.
    Silent,
    /// Sends a first line without a line break.
    EndlessFirstLine,
    /// Sends the greeting of a server, and does not answer the client.
    SilentAfterInfo,
    /// Accepts a client, and answers a request with this text followed by endless zeros.
    Endless(&'static str),
}

struct Server {
    url: String,
    sent: Arc<AtomicU64>,
    /// The number of closed connections.
    ended: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        let sent = Arc::new(AtomicU64::new(0));
        let (ended_to, ended) = watch::channel(0);
        let task = tokio::spawn({
            let sent = Arc::clone(&sent);
            async move {
                let ended_to = Arc::new(ended_to);
                loop {
                    let (socket, _) = listener.accept().await.unwrap();
                    let (sent, ended) = (Arc::clone(&sent), Arc::clone(&ended_to));
                    tokio::spawn(async move {
                        serve(socket, behaviour, &sent).await;
                        ended.send_modify(|ended| *ended += 1);
                    });
                }
            }
        });
        Self {
            url,
            sent,
            ended,
            task,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(socket: TcpStream, behaviour: Behaviour, sent: &AtomicU64) -> Option<()> {
    let (from, mut to) = socket.into_split();
    let mut lines = BufReader::new(from).lines();
    match behaviour {
        Behaviour::Silent => {}
        Behaviour::EndlessFirstLine => loop {
            to.write_all(&[b'x'; 4096]).await.ok()?;
            sent.fetch_add(4096, Ordering::Relaxed);
        },
        Behaviour::SilentAfterInfo | Behaviour::Endless(_) => to.write_all(BANNER).await.ok()?,
    }
    while let Ok(Some(line)) = lines.next_line().await {
        let Behaviour::Endless(begin) = behaviour else {
            continue;
        };
        if line.starts_with("PING") {
            to.write_all(b"PONG\r\n").await.ok()?;
        }
        if line.starts_with("PUB") {
            to.write_all(begin.as_bytes()).await.ok()?;
            let zeros = vec![0; 64 << 10];
            loop {
                to.write_all(&zeros).await.ok()?;
                sent.fetch_add(zeros.len() as u64, Ordering::Relaxed);
            }
        }
    }
    None
}

/// Connects to a server that sends endlessly, and returns the server once the sink has reported the reason.
async fn refused(begin: &'static str) -> Server {
    let server = Server::start(Behaviour::Endless(begin)).await;
    let fault = connect(NatsConfig::new(&server.url, "ENTRIES"))
        .await
        .unwrap_err();
    let sent = server.sent.load(Ordering::Relaxed);
    assert!(
        fault.reason.contains("of a message or a line without an end"),
        "{fault}"
    );
    assert!(sent < MOST_SENT, "{sent} bytes were sent");
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn message_without_end_ends_the_connection() {
    let mut server = refused("MSG a 1 4294967296\r\n").await;
    // Two connections: the sink's probe of the server, and the client's connection.
    within(
        "the client to end",
        LIMIT,
        server.ended.wait_for(|ended| *ended == 2),
    )
    .await
    .unwrap()
    .unwrap();
    let sent = server.sent.load(Ordering::Relaxed);
    assert!(sent < MOST_SENT, "{sent} bytes were sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn line_without_end_ends_the_connection() {
    // The time at which the client closes the connection is not asserted. The client searches the whole line again
    // for each received part, and while the client is slower than the server, only the client's pings close the
    // connection.
    refused("-ERR '").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn first_line_without_end_is_refused() {
    let server = Server::start(Behaviour::EndlessFirstLine).await;
    let fault = connect(NatsConfig::new(&server.url, "ENTRIES"))
        .await
        .unwrap_err();
    assert!(fault.reason.contains("its first line is not the INFO"), "{fault}");
    let sent = server.sent.load(Ordering::Relaxed);
    assert!(sent < 16 << 20, "{sent} bytes were sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_server_is_named_with_its_address() {
    let server = Server::start(Behaviour::Silent).await;
    let fault = connect(NatsConfig::new(&server.url, "ENTRIES"))
        .await
        .unwrap_err();
    let address = server.url.strip_prefix("nats://").unwrap();
    let expected = format!("{address} accepts connections, but sends no complete first line within 5 s");
    assert!(fault.reason.contains(&expected), "{fault}");
}

#[tokio::test(flavor = "multi_thread")]
async fn server_silent_at_sign_in_is_named_with_its_address() {
    let server = Server::start(Behaviour::SilentAfterInfo).await;
    let fault = connect(NatsConfig::new(&server.url, "ENTRIES"))
        .await
        .unwrap_err();
    let address = server.url.strip_prefix("nats://").unwrap();
    assert!(
        fault.kind == FaultKind::Timeout
            && fault.reason.contains("sign-in")
            && fault.reason.contains(address),
        "{fault}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn each_unreachable_server_is_named() {
    let closed = async || {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let (one, other) = (closed().await, closed().await);
    let mut config = NatsConfig::new(&one, "ENTRIES");
    config.servers.push(other.clone());
    let fault = connect(config).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Unreachable);
    for address in [one, other] {
        assert!(
            fault.reason.contains(&format!("{address} cannot be reached")),
            "{fault}"
        );
    }
    let fault = connect(NatsConfig::new("no-such-host.invalid", "ENTRIES"))
        .await
        .unwrap_err();
    assert!(
        fault.reason.contains("the name look-up of no-such-host.invalid"),
        "{fault}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_server_does_not_prevent_a_connection() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let silent = Server::start(Behaviour::Silent).await;
    let mut config = creating(&nats.url(), "ENTRIES");
    config.servers.push(silent.url.clone());
    config.servers.push("127.0.0.1:1".into());
    for _ in 0..3 {
        connect(config.clone()).await.unwrap();
    }
}

/// The sink connects only to the servers in its configuration, because advertised addresses may be unreachable.
#[tokio::test(flavor = "multi_thread")]
async fn advertised_addresses_are_not_used() {
    let silent = Server::start(Behaviour::Silent).await;
    let advertised = silent.url.strip_prefix("nats://").unwrap();
    let options = NatsOptions::default().config(&format!("client_advertise: \"{advertised}\""));
    let Some(cluster) = with_own_nats(|| NatsCluster::start(&options)) else {
        return;
    };
    let cluster = cluster.unwrap();
    let mut config = creating(&cluster.urls()[0], "ENTRIES");
    config.servers = cluster.urls();
    // Servers that have just started may not have elected a leader yet.
    eventually("the sink to connect", async || connect(config.clone()).await.ok()).await;
    assert_eq!(*silent.ended.borrow(), 0);
    assert_eq!(silent.sent.load(Ordering::Relaxed), 0);
}
