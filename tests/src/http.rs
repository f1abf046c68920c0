//! The least of HTTP: one GET, the whole answer.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::poll::{Patience, wait_for};

/// Enough for a server that is not overloaded; a frozen one accepts the connection and stays silent.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Enough for a server on a busy machine, which is asked again.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends one GET request and returns the body of the answer: a look at a server that may be frozen.
///
/// # Errors
/// When the answer does not come within 3 seconds, or has another status than 200; the error then has the body.
pub fn get(address: &str, path: &str) -> Result<String> {
    body(address, path, request(address, path)?)
}

/// Like [`get`], from a server that is expected to answer: a late answer is requested again.
///
/// # Errors
/// When no answer comes in time (see [`Patience`]), or it has another status than 200; the error then has the body.
pub fn get_patiently(address: &str, path: &str) -> Result<String> {
    body(address, path, get_any(address, path)?)
}

/// Returns status and body of the answer, whatever the status. A late answer is requested again.
///
/// # Errors
/// When nobody listens, no answer comes in time (see [`Patience`]), or it is not HTTP.
pub fn get_any(address: &str, path: &str) -> Result<(u16, String)> {
    wait_for(
        &format!("the answer of {address}{path}"),
        PATIENCE,
        || match request(address, path) {
            Err(error) if is_late(&error) => Ok(None),
            answer => answer.map(Some),
        },
    )
}

/// Returns whether an answer did not come in time, from a server that listens.
pub(crate) fn is_late(error: &anyhow::Error) -> bool {
    let error = error.root_cause().downcast_ref::<io::Error>();
    error.is_some_and(is_timeout)
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn body(address: &str, path: &str, (status, body): (u16, String)) -> Result<String> {
    if status != 200 {
        bail!("{address}{path} answers {status}: {body}");
    }
    Ok(body)
}

fn request(address: &str, path: &str) -> Result<(u16, String)> {
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
    /// When no answer comes in time (see [`Patience`]), or it has another status than 200 and 503.
    pub fn open(address: &str, path: &str) -> Result<Option<Self>> {
        let mut stream = BufReader::new(connect(address)?);
        write!(stream.get_mut(), "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n")?;
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if read_line(&mut stream, &mut head)? == 0 {
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
    /// When none comes in time (see [`Patience`]).
    pub fn next_event(&mut self) -> Result<String> {
        let mut line = String::new();
        loop {
            line.clear();
            if read_line(&mut self.0, &mut line).context("waiting for an event")? == 0 {
                bail!("the stream has ended");
            }
            if let Some(data) = line.strip_prefix("data: ") {
                return Ok(data.trim_end().to_owned());
            }
        }
    }
}

/// Reads on after each time-out of the socket; what was read before stays in `line`.
fn read_line(stream: &mut BufReader<TcpStream>, line: &mut String) -> Result<usize> {
    let mut patience = Patience::new("a line", PATIENCE);
    loop {
        match stream.read_line(line) {
            Err(error) if is_timeout(&error) => patience.check()?,
            read => return Ok(read?),
        }
    }
}
