//! A TCP server on a free port, for feeds whose behaviour is scripted by a test.

use std::net::{TcpListener, TcpStream};
use std::thread;

use anyhow::Result;

/// Starts a server whose thread passes each connection to `serve`, one after the other, until this process ends. Returns the
/// `ws://` URL of the server.
///
/// # Errors
/// Returns an error if no port is free.
pub fn serve_connections(mut serve: impl FnMut(TcpStream) + Send + 'static) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("ws://{}/", listener.local_addr()?);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            serve(stream);
        }
    });
    Ok(url)
}
