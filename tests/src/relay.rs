//! A TCP relay whose connections can be cut and held: between platform and bridge, between a bridge and a broker, or between a
//! broker and its controller.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result};

/// Relays bytes in both directions. The threads of a connection end with the connection; the accepting thread ends with
/// the program.
#[derive(Debug)]
pub struct Relay {
    address: String,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    is_cut: bool,
    /// The connections, the oldest first.
    open: Vec<Arc<Connection>>,
}

/// A relayed connection.
#[derive(Debug)]
struct Connection {
    /// The socket of the client.
    near: TcpStream,
    /// The socket of the server.
    far: TcpStream,
    /// The number of bytes that were relayed from the server.
    received: AtomicU64,
    /// Whether the bytes of both directions are dropped.
    is_stalled: AtomicBool,
    has_ended: AtomicBool,
    held: Mutex<Held>,
    released: Condvar,
}

/// The bytes to the server that are not relayed until [`Relay::release`].
#[derive(Debug, Default)]
struct Held {
    is_held: bool,
    /// The number of bytes that were read from the client and wait.
    bytes: usize,
}

impl Connection {
    fn close(&self) {
        self.has_ended.store(true, Ordering::Relaxed);
        // The connection may have ended already.
        let _ = self.near.shutdown(Shutdown::Both);
        let _ = self.far.shutdown(Shutdown::Both);
    }

    /// Waits until these bytes to the server may be relayed.
    fn wait_for_release(&self, bytes: usize) {
        let mut held = lock(&self.held);
        if held.is_held {
            held.bytes = bytes;
        }
        while held.is_held {
            held = self.released.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        held.bytes = 0;
    }

    fn works(&self) -> bool {
        !self.has_ended.load(Ordering::Relaxed) && !self.is_stalled.load(Ordering::Relaxed)
    }
}

impl Relay {
    /// Listens on a free port of 127.0.0.1 and relays each connection to the server at `host:port`.
    ///
    /// # Errors
    /// Returns an error if no port is free.
    pub fn to(server: String) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("opening a relay")?;
        let address = listener.local_addr()?.to_string();
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                // A failed connection to the server looks like a cut connection to the client.
                let _ = connect(near, &server, &shared);
            }
        });
        Ok(Self { address, state })
    }

    /// Returns `host:port` for clients.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Closes all connections, drops undelivered bytes, and refuses new connections.
    pub fn cut(&self) {
        let mut state = lock(&self.state);
        state.is_cut = true;
        state.open.drain(..).for_each(|connection| connection.close());
    }

    /// Closes the oldest working connection, and drops the undelivered bytes of this connection.
    pub fn cut_one(&self) {
        if let Some(oldest) = self.oldest() {
            oldest.close();
        }
    }

    /// Makes the oldest working connection half-open: it stays open, and the bytes of both directions are dropped.
    pub fn stall_one(&self) {
        if let Some(oldest) = self.oldest() {
            oldest.is_stalled.store(true, Ordering::Relaxed);
        }
    }

    /// Holds the bytes that the clients of the open connections send from now on, as a slow network would. The held bytes are
    /// relayed by [`release`](Self::release), even if the client has closed its connection meanwhile.
    pub fn hold(&self) {
        let state = lock(&self.state);
        state
            .open
            .iter()
            .for_each(|connection| lock(&connection.held).is_held = true);
    }

    /// Returns the number of held bytes that the relay has received so far.
    pub fn held(&self) -> usize {
        let state = lock(&self.state);
        state
            .open
            .iter()
            .map(|connection| lock(&connection.held).bytes)
            .sum()
    }

    /// Relays the held bytes, and all that follow.
    pub fn release(&self) {
        let state = lock(&self.state);
        for connection in &state.open {
            lock(&connection.held).is_held = false;
            connection.released.notify_all();
        }
    }

    /// Returns the number of connections that work and have received at least this many bytes from the server.
    pub fn working(&self, bytes: u64) -> usize {
        let state = lock(&self.state);
        let working = state.open.iter().filter(|connection| connection.works());
        working
            .filter(|connection| connection.received.load(Ordering::Relaxed) >= bytes)
            .count()
    }

    fn oldest(&self) -> Option<Arc<Connection>> {
        let state = lock(&self.state);
        state.open.iter().find(|connection| connection.works()).cloned()
    }

    /// Accepts connections again.
    pub fn restore(&self) {
        lock(&self.state).is_cut = false;
    }
}

fn connect(near: TcpStream, server: &str, shared: &Mutex<State>) -> io::Result<()> {
    let mut state = lock(shared);
    if state.is_cut {
        return Ok(());
    }
    let far = TcpStream::connect(server)?;
    for stream in [&near, &far] {
        // Otherwise a small request waits for the TCP acknowledgement of the previous one.
        stream.set_nodelay(true)?;
    }
    let connection = Arc::new(Connection {
        near,
        far,
        received: AtomicU64::new(0),
        is_stalled: AtomicBool::new(false),
        has_ended: AtomicBool::new(false),
        held: Mutex::default(),
        released: Condvar::new(),
    });
    state
        .open
        .retain(|connection| !connection.has_ended.load(Ordering::Relaxed));
    state.open.push(Arc::clone(&connection));
    drop(state);
    for is_from_server in [false, true] {
        let connection = Arc::clone(&connection);
        thread::spawn(move || {
            // An error of a socket ends the connection.
            let _ = carry(&connection, is_from_server);
            // The end of one direction closes the other one too, because no relayed protocol uses half-closed connections.
            connection.close();
        });
    }
    Ok(())
}

/// Copies bytes in one direction.
fn carry(connection: &Connection, is_from_server: bool) -> io::Result<()> {
    let (mut from, mut to) = (&connection.near, &connection.far);
    if is_from_server {
        std::mem::swap(&mut from, &mut to);
    }
    let mut bytes = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut bytes)?;
        if read == 0 {
            return Ok(());
        }
        if !is_from_server {
            connection.wait_for_release(read);
        }
        if !connection.is_stalled.load(Ordering::Relaxed) {
            to.write_all(&bytes[..read])?;
            if is_from_server {
                connection.received.fetch_add(read as u64, Ordering::Relaxed);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn cut_closes_connections_and_refuses_new_ones() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Relay::to(server.local_addr().unwrap().to_string()).unwrap();
        let mut near = TcpStream::connect(&relay.address).unwrap();
        let (mut far, _) = server.accept().unwrap();
        near.write_all(b"ping").unwrap();
        let mut bytes = [0; 4];
        far.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"ping");

        relay.cut();
        assert_eq!(near.read(&mut bytes).unwrap(), 0);
        let mut refused = TcpStream::connect(&relay.address).unwrap();
        assert_eq!(refused.read(&mut bytes).unwrap_or(0), 0);

        relay.restore();
        let mut near = TcpStream::connect(&relay.address).unwrap();
        let (mut far, _) = server.accept().unwrap();
        far.write_all(b"pong").unwrap();
        near.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"pong");
    }

    #[test]
    fn held_bytes_arrive_after_their_client_has_ended() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Relay::to(server.local_addr().unwrap().to_string()).unwrap();
        let mut near = TcpStream::connect(&relay.address).unwrap();
        let (mut far, _) = server.accept().unwrap();
        let mut bytes = [0; 4];
        far.write_all(b"pong").unwrap();
        near.read_exact(&mut bytes).unwrap();
        relay.hold();
        near.write_all(b"late").unwrap();
        let is_held = || Ok((relay.held() == 4).then_some(()));
        crate::poll::wait_for("the bytes", std::time::Duration::from_secs(60), is_held).unwrap();
        // The other direction is not held.
        far.write_all(b"soon").unwrap();
        near.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"soon");
        drop(near);
        relay.release();
        far.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"late");
        assert_eq!(relay.held(), 0);
    }

    #[test]
    fn single_connections_are_cut_and_stalled() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Relay::to(server.local_addr().unwrap().to_string()).unwrap();
        let mut bytes = [0; 4];
        let mut connections: Vec<(TcpStream, TcpStream)> = (0..3)
            .map(|_| {
                let mut near = TcpStream::connect(&relay.address).unwrap();
                let (mut far, _) = server.accept().unwrap();
                far.write_all(b"pong").unwrap();
                near.read_exact(&mut bytes).unwrap();
                (near, far)
            })
            .collect();
        let count = |bytes, expected| {
            let is_met = || Ok((relay.working(bytes) == expected).then_some(()));
            crate::poll::wait_for("the count", std::time::Duration::from_secs(60), is_met).unwrap();
        };
        count(4, 3);
        assert_eq!(relay.working(5), 0);
        relay.cut_one();
        assert_eq!(connections[0].0.read(&mut bytes).unwrap(), 0);
        relay.stall_one();
        count(4, 1);
        connections[1].1.write_all(b"lost").unwrap();
        connections[1].1.shutdown(Shutdown::Write).unwrap();
        assert_eq!(
            connections[1].0.read(&mut bytes).unwrap(),
            0,
            "nothing was relayed"
        );
        connections[2].1.write_all(b"last").unwrap();
        connections[2].0.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"last");
    }
}
