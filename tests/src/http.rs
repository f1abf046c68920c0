//! A minimal HTTP client: GET requests with complete responses, and subscriptions to server-sent events.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::poll::{Patience, wait_for};

/// The timeout of one request: long enough for a server that is not overloaded. It limits the wait for a frozen server, which
/// accepts the connection and sends no response.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The time for which a request is repeated: long enough for a server on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends one GET request and returns the body of the response. Suitable for a server that may be frozen.
///
/// # Errors
/// Returns an error if no response arrives within 3 seconds, or if its status is not 200; the error then contains the
/// body.
pub fn get(address: &str, path: &str) -> Result<String> {
    body(address, path, request(address, path)?)
}

/// Like [`get`], for a server that is expected to answer: repeats the request after a timeout.
///
/// # Errors
/// Returns an error if no response arrives in time (see [`Patience`]), or if its status is not 200; the error then
/// contains the body.
pub fn get_patiently(address: &str, path: &str) -> Result<String> {
    body(address, path, get_any(address, path)?)
}

/// Returns the status and the body of the response, for any status. Repeats the request after a timeout.
///
/// # Errors
/// Returns an error if the port is closed, if no response arrives in time (see [`Patience`]), or if it is not HTTP.
pub fn get_any(address: &str, path: &str) -> Result<(u16, String)> {
    wait_for(
        &format!("the response of {address}{path}"),
        PATIENCE,
        || match request(address, path) {
            Err(error) if is_late(&error) => Ok(None),
            answer => answer.map(Some),
        },
    )
}

/// Returns whether the error is a timeout, and not, for example, a closed port.
pub(crate) fn is_late(error: &anyhow::Error) -> bool {
    let error = error.root_cause().downcast_ref::<io::Error>();
    error.is_some_and(is_timeout)
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn body(address: &str, path: &str, (status, body): (u16, String)) -> Result<String> {
    if status != 200 {
        bail!("{address}{path} responded with {status}: {body}");
    }
    Ok(body)
}

fn request(address: &str, path: &str) -> Result<(u16, String)> {
    let mut stream = connect(address)?;
    // HTTP/1.0, so that the body is not chunked and ends with the connection.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")
        .with_context(|| format!("sending a request to {address}"))?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .with_context(|| format!("reading the response of {address}"))?;
    let parsed = answer.split_once("\r\n\r\n").and_then(|(head, body)| {
        let status = head.split_ascii_whitespace().nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    });
    parsed.with_context(|| format!("{address}{path} sent an invalid HTTP response: {answer}"))
}

pub(crate) fn connect(address: &str) -> Result<TcpStream> {
    let mut addresses = address
        .to_socket_addrs()
        .with_context(|| format!("resolving {address}"))?;
    let first = addresses
        .next()
        .with_context(|| format!("{address} has no address"))?;
    let stream =
        TcpStream::connect_timeout(&first, TIMEOUT).with_context(|| format!("connecting to {address}"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// A subscriber of a server-sent event stream.
#[derive(Debug)]
pub struct EventStream(BufReader<TcpStream>);

impl EventStream {
    /// Subscribes to the stream at `path` of `host:port`; returns `None` if the server has too many subscribers.
    ///
    /// # Errors
    /// Returns an error if no response arrives in time (see [`Patience`]), or if its status is neither 200 nor 503.
    pub fn open(address: &str, path: &str) -> Result<Option<Self>> {
        let mut stream = BufReader::new(connect(address)?);
        write!(stream.get_mut(), "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n")?;
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if read_line(&mut stream, &mut head)? == 0 {
                bail!("{address}{path} closed the connection: {head}");
            }
        }
        match head.split_ascii_whitespace().nth(1) {
            Some("200") => Ok(Some(Self(stream))),
            Some("503") => Ok(None),
            _ => bail!("{address}{path} responded with {head}"),
        }
    }

    /// Returns the data of the next event.
    ///
    /// # Errors
    /// Returns an error if no event arrives in time (see [`Patience`]).
    pub fn next_event(&mut self) -> Result<String> {
        let mut line = String::new();
        loop {
            line.clear();
            if read_line(&mut self.0, &mut line).context("waiting for an event")? == 0 {
                bail!("the stream ended");
            }
            if let Some(data) = line.strip_prefix("data: ") {
                return Ok(data.trim_end().to_owned());
            }
        }
    }
}

/// Reads a line, and continues after timeouts of the socket: `line` contains the part of the line that was read before.
fn read_line(stream: &mut BufReader<TcpStream>, line: &mut String) -> Result<usize> {
    let mut patience = Patience::new("a line", PATIENCE);
    loop {
        match stream.read_line(line) {
            Err(error) if is_timeout(&error) => patience.check()?,
            read => return Ok(read?),
        }
    }
}
