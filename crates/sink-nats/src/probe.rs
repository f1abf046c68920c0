//! The probe of a server before the client connects: name look-up, connection, INFO line.

use std::{io, net::SocketAddr};

use neurobridge_core::{
    connect::{ConnectStep, ConnectSteps},
    sink::{FaultKind, SinkFault},
};
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::{TcpStream, lookup_host},
    time::timeout,
};

use crate::dial::OPEN_LIMIT;

/// The largest INFO line. It lists the servers of the cluster; with a hundred servers it has 3 KiB.
const MAX_INFO_BYTES: u64 = 1 << 20;
/// The length to which an invalid first line is cut in errors.
const SHOWN_CHARS: usize = 100;

/// The fields of the INFO line that the sink needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Info {
    pub(crate) tls_required: bool,
}

/// Looks up the addresses of a server.
///
/// # Errors
/// Returns a fault if the name has no address, or no name server responds in time.
pub(crate) async fn addresses(
    host: &str,
    port: u16,
    steps: &ConnectSteps,
) -> Result<Vec<SocketAddr>, SinkFault> {
    steps.begin(ConnectStep::NameLookup, host);
    let unknown = |detail: String| {
        SinkFault::new(
            FaultKind::Unreachable,
            format!(
                "the name look-up of {host} (servers) fails ({detail}); check servers, and the name server of this machine"
            ),
        )
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let found = timeout(OPEN_LIMIT, lookup_host((host, port)))
        .await
        .map_err(|_| unknown(format!("no answer within {} s", OPEN_LIMIT.as_secs())))?
        .map_err(|error| unknown(error.to_string()))?;
    let addresses: Vec<_> = found.collect();
    if addresses.is_empty() {
        return Err(unknown("the answer is empty".to_owned()));
    }
    Ok(addresses)
}

/// Reads the INFO line from the first address that sends one.
///
/// # Errors
/// Returns the fault of the last address if none accepts a connection and sends an INFO line.
pub(crate) async fn info(
    server: &str,
    addresses: Vec<SocketAddr>,
    steps: &ConnectSteps,
) -> Result<Info, SinkFault> {
    let mut fault = None;
    for address in addresses {
        let target = if address.to_string() == server {
            server.to_owned()
        } else {
            format!("{server} ({address})")
        };
        match info_of(&target, address, steps).await {
            Ok(info) => return Ok(info),
            Err(error) => fault = Some(error),
        }
    }
    Err(fault.unwrap_or_else(crate::error::broken))
}

async fn info_of(target: &str, address: SocketAddr, steps: &ConnectSteps) -> Result<Info, SinkFault> {
    steps.begin(ConnectStep::Dial, target);
    let limit = OPEN_LIMIT.as_secs();
    let unreachable = |detail: String| {
        SinkFault::new(
            FaultKind::Unreachable,
            format!("{target} cannot be reached ({detail}); check servers and the network"),
        )
    };
    let stream = timeout(OPEN_LIMIT, TcpStream::connect(address))
        .await
        .map_err(|_| unreachable(format!("no answer within {limit} s")))?
        .map_err(|error| unreachable(error.to_string()))?;
    steps.begin(ConnectStep::Dial, format_args!("the first line of {target}"));
    steps.advise("check that a NATS server listens at this address, and that it is not frozen");
    let other = |what: String| {
        SinkFault::new(
            FaultKind::Unreachable,
            format!(
                "{target} accepts connections, but {what}; check that a NATS server listens at this address"
            ),
        )
    };
    let mut line = Vec::new();
    timeout(OPEN_LIMIT, first_line(stream, &mut line))
        .await
        .map_err(|_| other(format!("sends no complete first line within {limit} s")))?
        .map_err(|error| other(format!("its first line cannot be read ({error})")))?;
    let json = line.strip_prefix(b"INFO ").filter(|_| line.ends_with(b"\n"));
    let Some(json) = json else {
        let line = String::from_utf8_lossy(&line);
        let shown: String = line.trim_end().chars().take(SHOWN_CHARS).collect();
        return Err(other(format!(
            "its first line is not the INFO of a NATS server, found \"{shown}\""
        )));
    };
    serde_json::from_slice(json).map_err(|error| other(format!("its INFO cannot be read ({error})")))
}

async fn first_line(stream: TcpStream, line: &mut Vec<u8>) -> io::Result<()> {
    let mut reader = BufReader::new(stream.take(MAX_INFO_BYTES));
    reader.read_until(b'\n', line).await.map(drop)
}
