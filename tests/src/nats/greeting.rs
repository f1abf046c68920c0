//! The greeting by which a NATS server is known.

use std::io::Read;

use anyhow::{Context, Result, ensure};

use crate::http::connect;

/// Greetings are below a kilobyte; whatever sends more is something else.
const GREETING_BYTES: usize = 4096;

/// Awaits the greeting of the server at `nats://host:port` or `host:port`.
///
/// # Errors
/// When nobody listens there, or what listens is silent for 3 seconds or no NATS server.
pub fn answers(url: &str) -> Result<()> {
    let (_, address) = url.rsplit_once("://").unwrap_or(("", url));
    // A URL may carry a user and a password, which are nobody's business in an error.
    let (_, address) = address.rsplit_once('@').unwrap_or(("", address));
    let mut stream = connect(address.trim_end_matches('/'))?;
    let mut greeting = [0; GREETING_BYTES];
    let read = stream
        .read(&mut greeting)
        .with_context(|| format!("awaiting the greeting of {address}"))?;
    ensure!(
        greeting[..read].starts_with(b"INFO "),
        "{address} does not speak the NATS protocol"
    );
    Ok(())
}
