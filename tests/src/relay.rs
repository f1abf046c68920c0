//! A TCP relay whose connections can be cut: between platform and bridge, or between a broker and its controller.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    /// Both sockets of each connection.
    open: Vec<TcpStream>,
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
        for stream in state.open.drain(..) {
            // The connection may have ended already.
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
    // Removes connections that have ended.
    state.open.retain(|stream| stream.peer_addr().is_ok());
    state.open.extend([near.try_clone()?, far.try_clone()?]);
    drop(state);
    for (from, to) in [(near.try_clone()?, far.try_clone()?), (far, near)] {
        thread::spawn(move || carry(&from, &to));
    }
    Ok(())
}

/// Copies bytes in one direction. Its end closes the other direction too, because no relayed protocol uses half-closed
/// connections.
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
}
