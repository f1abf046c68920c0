//! Checks that a NATS server answers, by its greeting.

use std::io::Read;

use anyhow::{Context, Result, ensure};

use crate::http::connect;

/// Greetings are smaller than a kilobyte; a server that sends more is not NATS.
const GREETING_BYTES: usize = 4096;

/// Waits for the greeting of the server at `nats://host:port` or `host:port`.
///
/// # Errors
/// Returns an error if the port is closed, or if the server does not answer within 3 seconds or is not NATS.
pub fn answers(url: &str) -> Result<()> {
    let (_, address) = url.rsplit_once("://").unwrap_or(("", url));
    // A URL may contain a user and a password, which must not appear in an error.
    let (_, address) = address.rsplit_once('@').unwrap_or(("", address));
    let mut stream = connect(address.trim_end_matches('/'))?;
    let mut greeting = [0; GREETING_BYTES];
    let read = stream
        .read(&mut greeting)
        .with_context(|| format!("waiting for the greeting of {address}"))?;
    ensure!(
        greeting[..read].starts_with(b"INFO "),
        "{address} does not speak the NATS protocol"
    );
    Ok(())
}
