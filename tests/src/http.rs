//! The least of HTTP: one GET, the whole answer.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Enough for a server that is not overloaded; a frozen one accepts the connection and stays silent.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Asks `host:port` for `path` and returns the body of the answer.
///
/// # Errors
/// When nothing answers within 3 seconds, or with another status than 200; the error then has the body.
pub fn get(address: &str, path: &str) -> Result<String> {
    let (status, body) = get_any(address, path)?;
    if status != 200 {
        bail!("{address}{path} answers {status}: {body}");
    }
    Ok(body)
}

/// Asks `host:port` for `path` and returns status and body of the answer, whatever the status.
///
/// # Errors
/// When nothing answers within 3 seconds, or not in HTTP.
pub fn get_any(address: &str, path: &str) -> Result<(u16, String)> {
    let mut stream = connect(address)?;
    // Version 1.0, so that the body comes in one piece and ends with the connection.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")
        .with_context(|| format!("asking {address}"))?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .with_context(|| format!("reading the answer of {address}"))?;
    let parsed = answer.split_once("\r\n\r\n").and_then(|(head, body)| {
        let status = head.split_ascii_whitespace().nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    });
    parsed.with_context(|| format!("{address}{path} does not answer in HTTP: {answer}"))
}

pub(crate) fn connect(address: &str) -> Result<TcpStream> {
    let mut addresses = address
        .to_socket_addrs()
        .with_context(|| format!("looking up {address}"))?;
    let first = addresses
        .next()
        .with_context(|| format!("{address} has no address"))?;
    let stream =
        TcpStream::connect_timeout(&first, TIMEOUT).with_context(|| format!("connecting to {address}"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    Ok(stream)
}
