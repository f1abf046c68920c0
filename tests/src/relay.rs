//! A relay of TCP connections that can be cut: between the platform and the bridge, between a broker and its controller.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result};

/// Relays bytes both ways. The threads of a connection end with it, the thread that accepts ends with the program.
#[derive(Debug)]
pub struct Relay {
    address: String,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    is_cut: bool,
    /// Both ends of each connection.
    open: Vec<TcpStream>,
}

impl Relay {
    /// Listens on a free port of 127.0.0.1, and connects each connection to the server at `host:port`.
    ///
    /// # Errors
    /// When no port is free.
    pub fn to(server: String) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("opening a relay")?;
        let address = listener.local_addr()?.to_string();
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                // For the client, a connection that cannot be made is like one that is cut.
                let _ = connect(near, &server, &shared);
            }
        });
        Ok(Self { address, state })
    }

    /// Returns `host:port` for clients.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Closes all connections without delivering what is under way, and refuses new ones.
    pub fn cut(&self) {
        let mut state = lock(&self.state);
        state.is_cut = true;
        for stream in state.open.drain(..) {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
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
    // Those that have ended are of no use any more.
    state.open.retain(|stream| stream.peer_addr().is_ok());
    state.open.extend([near.try_clone()?, far.try_clone()?]);
    drop(state);
    for (from, to) in [(near.try_clone()?, far.try_clone()?), (far, near)] {
        thread::spawn(move || carry(&from, &to));
    }
    Ok(())
}

/// When one direction ends, so does the other: none of the relayed protocols uses half-closed connections.
fn carry(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_cut_closes_connections_and_refuses_new_ones() {
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
}
