//! A bridge whose NATS server sends an endless line or message: memory, reason, reconnection and stop of the bridge.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use neurobridge_tests::{bridge::Bridge, paths::Scratch, poll::wait_until};
use nix::sys::signal::Signal;

use super::support::LIMIT;

const INFO: &[u8] =
    b"INFO {\"server_id\":\"fake\",\"version\":\"2.15.2\",\"headers\":true,\"max_payload\":1048576}\r\n";
/// The number of bytes that each connection would receive if the program read them.
const OFFERED: u64 = 1 << 30;
/// The limit for the memory growth of the program.
const MAX_GROWTH: u64 = 256 << 20;
/// The number of connections that are opened and closed.
const CONNECTIONS: u64 = 3;
const STOP_LIMIT: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Server {
    /// Whether the server answers. Connections that arrive earlier are closed at once.
    is_open: AtomicBool,
    /// The number of connections on which the endless part was started.
    started: AtomicU64,
    sent: AtomicU64,
    /// The number of connections that accepted all offered bytes.
    exhausted: AtomicU64,
}

impl Server {
    fn start(begin: &'static str) -> (String, Arc<Self>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        let server = Arc::<Self>::default();
        let shared = Arc::clone(&server);
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let server = Arc::clone(&shared);
                thread::spawn(move || server.serve(socket, begin));
            }
        });
        (url, server)
    }

    fn serve(&self, mut socket: TcpStream, begin: &str) -> Option<()> {
        if !self.is_open.load(Ordering::Relaxed) {
            return None;
        }
        let lines = BufReader::new(socket.try_clone().ok()?).lines();
        socket.write_all(INFO).ok()?;
        for line in lines {
            if line.ok()?.starts_with("PING") {
                break;
            }
        }
        self.started.fetch_add(1, Ordering::Relaxed);
        socket.write_all(b"PONG\r\n").ok()?;
        socket.write_all(begin.as_bytes()).ok()?;
        let part = vec![b'x'; 64 << 10];
        for _ in 0..OFFERED / part.len() as u64 {
            socket.write_all(&part).ok()?;
            self.sent.fetch_add(part.len() as u64, Ordering::Relaxed);
        }
        self.exhausted.fetch_add(1, Ordering::Relaxed);
        None
    }
}

/// Runs a bridge with a server that sends `begin` and then bytes without end. Checks that the bridge reports the reason,
/// reconnects, needs bounded memory, and stops.
fn assert_bounded(name: &str, begin: &'static str) {
    let (url, server) = Server::start(begin);
    let dir = Scratch::new(name).unwrap();
    let config = format!(
        "drain_timeout = \"1s\"\n[sources.main]\nurl = \"ws://127.0.0.1:1/\"\ntoken = \"t\"\n\
         [sinks.nats]\ntype = \"nats\"\nservers = [\"{url}\"]\nmode = \"core\"\n"
    );
    let mut bridge = Bridge::start(&dir, &config).unwrap();
    let before = bridge.process().usage().unwrap().peak_memory_bytes;
    server.is_open.store(true, Ordering::Relaxed);
    bridge
        .wait("the reason", LIMIT, |status| {
            let reason = status.sink("nats").reason.as_deref();
            reason.is_some_and(|reason| reason.contains("of a message or a line without an end"))
        })
        .unwrap();
    wait_until("new connections", LIMIT, || {
        server.started.load(Ordering::Relaxed) >= CONNECTIONS
    })
    .unwrap();
    let grown = bridge.process().usage().unwrap().peak_memory_bytes - before;
    let (status, log) = bridge.stop(Signal::SIGTERM, STOP_LIMIT).unwrap();
    let sent = server.sent.load(Ordering::Relaxed);
    assert!(
        grown < MAX_GROWTH,
        "{name}: {} MiB more, {} MiB sent",
        grown >> 20,
        sent >> 20
    );
    assert_eq!(server.exhausted.load(Ordering::Relaxed), 0);
    assert!(status.success(), "{status}: {log}");
}

#[test]
fn endless_line_needs_bounded_memory() {
    assert_bounded("endless-line", "-ERR '");
}

#[test]
fn endless_message_needs_bounded_memory() {
    assert_bounded("endless-message", "MSG a 1 4294967296\r\n");
}
