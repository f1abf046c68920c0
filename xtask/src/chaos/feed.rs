//! The wire between the platform and the bridge, which can be cut.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result};

/// Passes bytes on both ways; its threads end with their connections, the one that accepts with the program.
#[derive(Debug)]
pub(super) struct Wire {
    address: String,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    is_cut: bool,
    /// Both ends of each connection.
    open: Vec<TcpStream>,
}

impl Wire {
    /// Listens for the bridge, and connects each connection with the platform at `host:port`.
    pub(super) fn to(platform: String) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("making the feed's wire")?;
        let address = listener.local_addr()?.to_string();
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                // A connection that can't be made looks to the bridge like one that is cut.
                let _ = connect(near, &platform, &shared);
            }
        });
        Ok(Self { address, state })
    }

    /// The URL of the feed.
    pub(super) fn url(&self) -> String {
        format!("ws://{}/", self.address)
    }

    /// Ends all connections in the midst of what they carry, and refuses new ones.
    pub(super) fn cut(&self) {
        let mut state = lock(&self.state);
        state.is_cut = true;
        for stream in state.open.drain(..) {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub(super) fn mend(&self) {
        lock(&self.state).is_cut = false;
    }
}

fn connect(near: TcpStream, platform: &str, shared: &Mutex<State>) -> io::Result<()> {
    let mut state = lock(shared);
    if state.is_cut {
        return Ok(());
    }
    let far = TcpStream::connect(platform)?;
    // Those that have ended are of no use any more.
    state.open.retain(|stream| stream.peer_addr().is_ok());
    state.open.extend([near.try_clone()?, far.try_clone()?]);
    drop(state);
    for (from, to) in [(near.try_clone()?, far.try_clone()?), (far, near)] {
        thread::spawn(move || carry(&from, &to));
    }
    Ok(())
}

/// When one way ends, so does the other: the feed knows no half-closed connections.
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
    fn a_cut_ends_what_is_open_and_refuses_what_comes() {
        let platform = TcpListener::bind("127.0.0.1:0").unwrap();
        let wire = Wire::to(platform.local_addr().unwrap().to_string()).unwrap();
        let mut near = TcpStream::connect(&wire.address).unwrap();
        let (mut far, _) = platform.accept().unwrap();
        near.write_all(b"ping").unwrap();
        let mut bytes = [0; 4];
        far.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"ping");

        wire.cut();
        assert_eq!(near.read(&mut bytes).unwrap(), 0);
        let mut refused = TcpStream::connect(&wire.address).unwrap();
        assert_eq!(refused.read(&mut bytes).unwrap_or(0), 0);

        wire.mend();
        let mut near = TcpStream::connect(&wire.address).unwrap();
        let (mut far, _) = platform.accept().unwrap();
        far.write_all(b"pong").unwrap();
        near.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"pong");
    }
}
