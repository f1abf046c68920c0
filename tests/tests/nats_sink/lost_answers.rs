//! Acknowledgements that are lost between a real server and the sink, and the exact bytes that the sink sends.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use neurobridge_core::sink::FaultKind;
use neurobridge_sink_nats::Order;
use neurobridge_tests::{nats::NatsOptions, shared::own_nats};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinHandle,
};

use super::support::{Delivery, Feed, assert_once_and_in_order, creating, stored};

const STREAM: &str = "ENTRIES";
/// The largest number of bytes from clients that the proxy records: more than the handshake and some messages.
const RECORDED_BYTES: usize = 64 << 10;

/// A proxy between clients and a server that drops some acknowledgements.
struct Proxy {
    url: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    server: String,
    /// The acknowledgements to drop, by position in the stream, and their maximum number.
    loses: fn(u64) -> bool,
    most: u64,
    lost: AtomicU64,
    recorded: Mutex<Vec<u8>>,
}

impl Proxy {
    async fn start(server: &str, loses: fn(u64) -> bool, most: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            server: server.to_owned(),
            loses,
            most,
            lost: AtomicU64::new(0),
            recorded: Mutex::new(Vec::new()),
        });
        let task = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move {
                loop {
                    let (client, _) = listener.accept().await.unwrap();
                    tokio::spawn(Arc::clone(&shared).forward(client));
                }
            }
        });
        Self { url, shared, task }
    }

    fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    fn recorded(&self) -> String {
        String::from_utf8_lossy(&self.shared.recorded.lock().unwrap()).into_owned()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    /// Forwards one connection until either side closes it.
    async fn forward(self: Arc<Self>, client: TcpStream) {
        let server = TcpStream::connect(&self.server).await.unwrap();
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        tokio::select! {
            _ = self.forward_to_server(from_client, to_server) => {}
            _ = self.forward_to_client(BufReader::new(from_server), to_client) => {}
        }
    }

    async fn forward_to_server(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> Option<()> {
        let mut bytes = vec![0; 16 << 10];
        loop {
            let read = from.read(&mut bytes).await.ok().filter(|read| *read > 0)?;
            {
                let mut recorded = self.recorded.lock().unwrap();
                let room = RECORDED_BYTES.saturating_sub(recorded.len());
                recorded.extend_from_slice(&bytes[..read.min(room)]);
            }
            to.write_all(&bytes[..read]).await.ok()?;
        }
    }

    async fn forward_to_client(
        &self,
        mut from: BufReader<OwnedReadHalf>,
        mut to: OwnedWriteHalf,
    ) -> Option<()> {
        let mut line = Vec::new();
        loop {
            line.clear();
            from.read_until(b'\n', &mut line)
                .await
                .ok()
                .filter(|read| *read > 0)?;
            // MSG and HMSG end with the length of the following payload.
            if line.starts_with(b"MSG ") || line.starts_with(b"HMSG ") {
                let head = String::from_utf8(line.clone()).unwrap();
                let length: usize = head.split_ascii_whitespace().last()?.parse().unwrap();
                let mut payload = vec![0; length + b"\r\n".len()];
                from.read_exact(&mut payload).await.ok()?;
                if self.is_lost(&payload) {
                    continue;
                }
                line.extend_from_slice(&payload);
            }
            to.write_all(&line).await.ok()?;
        }
    }

    /// Returns whether a payload is an acknowledgement to drop, and counts it as lost. The server's other messages
    /// have different keys.
    fn is_lost(&self, payload: &[u8]) -> bool {
        let Ok(answer) = serde_json::from_slice::<serde_json::Value>(payload) else {
            return false;
        };
        let Some(place) = answer["seq"].as_u64().filter(|_| answer["stream"] == STREAM) else {
            return false;
        };
        (self.loses)(place)
            && self
                .lost
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |lost| {
                    (lost < self.most).then_some(lost + 1)
                })
                .is_ok()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_acknowledgements_lose_no_event_in_strict_order() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let proxy = Proxy::start(&nats.address(), |place| place % 10 == 5, u64::MAX).await;
    let mut feed = Feed::new();
    let delivery = Delivery::start(&feed, creating(&proxy.url, STREAM));
    for _ in 0..20 {
        feed.append_many(1000).await;
    }
    let ending = delivery.finish(&feed).await;
    assert_eq!(proxy.lost(), 2000);
    // The acknowledgement of an event proves that the event before it is stored, also without an acknowledgement. So
    // no event remains in flight.
    assert_eq!((ending.faults.total(), ending.resent), (0, 0));
    assert_eq!((ending.cursor.counts.delivered, ending.in_flight), (20_000, 0));
    assert_once_and_in_order(&stored(&nats.url(), STREAM).await, 20_000);

    // Header names are case-sensitive, so the sink must not use the case that the client library prefers.
    let recorded = proxy.recorded();
    for header in [
        "\r\nce-specversion: 1.0\r\n",
        "\r\nce-datacontenttype: application/json\r\n",
        "\r\nNats-Msg-Id: main/2\r\n",
        "\r\nNats-Expected-Last-Msg-Id: main/1\r\n",
        "\r\nNats-Expected-Last-Sequence: 0\r\n",
        "\r\nNeurobridge-Chain: nats/",
    ] {
        assert!(recorded.contains(header), "{header:?} is not in {recorded}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_last_acknowledgement_stores_no_event_twice() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let proxy = Proxy::start(&nats.address(), |place| place == 100, 1).await;
    let mut feed = Feed::new();
    let delivery = Delivery::start(&feed, creating(&proxy.url, STREAM));
    feed.append_many(100).await;
    let down = delivery.until_down("no acknowledgement").await;
    assert_eq!(down.cursor.counts.settled(), 99);
    let ending = delivery.finish(&feed).await;
    // The end of the stream proves that the event is stored: it is not resent.
    assert_eq!((proxy.lost(), ending.cursor.counts.duplicate), (1, 0));
    assert_once_and_in_order(&stored(&nats.url(), STREAM).await, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn relaxed_sink_resends_unacknowledged_events() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let proxy = Proxy::start(&nats.address(), |place| place == 500, 1).await;
    let mut config = creating(&proxy.url, STREAM);
    config.order = Some(Order::Relaxed);
    config.ack_timeout = std::time::Duration::from_secs(1);
    let mut feed = Feed::new();
    feed.append_many(1000).await;
    let delivery = Delivery::start(&feed, config);
    let ending = delivery.finish(&feed).await;
    assert!(ending.faults.get(FaultKind::Timeout) > 0, "{ending:?}");
    // Within the stream's duplicate window the server detects and reports the duplicate.
    let counts = &ending.cursor.counts;
    assert!(counts.duplicate > 0, "{ending:?}");
    assert_eq!(counts.delivered + counts.duplicate, 1000);
    assert_once_and_in_order(&stored(&nats.url(), STREAM).await, 1000);
}
