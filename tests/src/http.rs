//! The least of HTTP: one GET, the whole answer.

use std::io::{BufRead, BufReader, Read, Write};
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

/// A listener to a stream of server-sent events.
#[derive(Debug)]
pub struct EventStream(BufReader<TcpStream>);

impl EventStream {
    /// Asks `host:port` for the stream at `path`; nothing when the answer is that there is no room for another listener.
    ///
    /// # Errors
    /// When nothing answers within 3 seconds, or with another status than 200 and 503.
    pub fn open(address: &str, path: &str) -> Result<Option<Self>> {
        let mut stream = BufReader::new(connect(address)?);
        write!(stream.get_mut(), "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n")?;
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head)? == 0 {
                bail!("{address}{path} hangs up: {head}");
            }
        }
        match head.split_ascii_whitespace().nth(1) {
            Some("200") => Ok(Some(Self(stream))),
            Some("503") => Ok(None),
            _ => bail!("{address}{path} answers {head}"),
        }
    }

    /// The data of the next event.
    ///
    /// # Errors
    /// When none comes within 3 seconds.
    pub fn next_event(&mut self) -> Result<String> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.0.read_line(&mut line).context("waiting for an event")? == 0 {
                bail!("the stream has ended");
            }
            if let Some(data) = line.strip_prefix("data: ") {
                return Ok(data.trim_end().to_owned());
            }
        }
    }
}
