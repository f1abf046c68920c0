//! Checks whether the brokers' addresses can be reached, because librdkafka waits for an unreachable address and reports an
//! error late or never.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::{Duration, Instant},
};

use neurobridge_core::{
    connect::{ConnectStep, ConnectSteps},
    sink::{FaultKind, SinkFault},
};

/// The time limit for resolving the names of `bootstrap_servers`. Longer than a resolver takes if the first of two name servers
/// does not answer.
const LOOKUP_LIMIT: Duration = Duration::from_secs(10);
/// The time limit of a dial, including the look-up of the name.
const DIAL_LIMIT: Duration = Duration::from_secs(2);
/// The maximum number of addresses that are dialled at the same time, each on a thread.
const MAX_ADDRESSES: usize = 32;
/// The reason for a broker that accepts connections and does not answer.
pub(crate) const SILENT: &str = "connections are accepted, requests have no answer";
/// librdkafka's default port, for an address without one.
const DEFAULT_PORT: u16 = 9092;

/// Returns the addresses in `bootstrap_servers`, each as `host:port`.
pub(crate) fn addresses(servers: &str) -> Vec<String> {
    servers
        .split(',')
        .map(str::trim)
        .filter(|server| !server.is_empty())
        .map(|server| {
            let has_port = server
                .rsplit_once(':')
                .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
            if has_port {
                server.to_owned()
            } else {
                format!("{server}:{DEFAULT_PORT}")
            }
        })
        .collect()
}

/// Looks up the names of the bootstrap servers, and waits until one of them has an address. Returns the time that it took.
///
/// # Errors
/// No name has an address, or the name server does not answer within a limit.
pub(crate) fn look_up(servers: &[String], steps: &ConnectSteps) -> Result<Duration, SinkFault> {
    let begin = Instant::now();
    let has_address = servers
        .iter()
        .any(|server| host(server).parse::<IpAddr>().is_ok());
    if has_address || servers.is_empty() {
        return Ok(Duration::ZERO);
    }
    let names = servers.join(", ");
    steps.begin(
        ConnectStep::NameLookup,
        format_args!("{names} (bootstrap_servers)"),
    );
    let answers = each(servers, |server| resolve(server).map(drop));
    let mut errors = Vec::new();
    loop {
        match answers.recv_timeout(LOOKUP_LIMIT.saturating_sub(begin.elapsed())) {
            Ok((_, Ok(()))) => return Ok(begin.elapsed()),
            Ok((server, Err(error))) => errors.push(format!("{server}: {error}")),
            Err(RecvTimeoutError::Timeout) => {
                let seconds = LOOKUP_LIMIT.as_secs();
                errors.push(format!("no answer of the name server within {seconds} seconds"));
                break;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let reason = format!(
        "the name look-up of {names} (bootstrap_servers) fails ({}); check bootstrap_servers, and the name server of this \
         machine",
        errors.join("; ")
    );
    Err(SinkFault::new(FaultKind::Unreachable, reason))
}

/// Opens a TCP connection to each address and closes it again, all at the same time. Returns the result for each address: `Ok`,
/// or why it cannot be reached. With `is_one_enough`, returns as soon as one address can be reached, without the pending ones.
pub(crate) fn dial(addresses: &[String], is_one_enough: bool) -> Vec<(String, Result<(), String>)> {
    let begin = Instant::now();
    let answers = each(addresses, |address| {
        open(address).map_err(|error| describe(&error))
    });
    let mut dialled = Vec::new();
    while let Ok((address, answer)) = answers.recv_timeout(DIAL_LIMIT.saturating_sub(begin.elapsed())) {
        let is_reached = answer.is_ok();
        dialled.push((address, answer));
        if is_reached && is_one_enough {
            return dialled;
        }
    }
    for address in addresses.iter().take(MAX_ADDRESSES) {
        if !dialled.iter().any(|(done, _)| done == address) {
            // The dial itself has a shorter limit, so the look-up must be pending.
            let why = format!(
                "no answer of the name server within {} seconds",
                DIAL_LIMIT.as_secs()
            );
            dialled.push((address.clone(), Err(why)));
        }
    }
    dialled
}

/// Dials each address, and describes the results.
pub(crate) fn dialled(addresses: &[String]) -> String {
    let each: Vec<_> = dial(addresses, false)
        .into_iter()
        .map(|(address, answer)| match answer {
            Ok(()) => format!("{address}: {SILENT}"),
            Err(why) => format!("{address}: {why}"),
        })
        .collect();
    each.join("; ")
}

/// A broker of the metadata that cannot be reached.
#[derive(Clone, Debug)]
pub(crate) struct Unreached {
    pub(crate) id: i32,
    /// `host:port`, from the `advertised.listeners` of the broker.
    pub(crate) address: String,
    pub(crate) why: String,
}

/// The advice for a broker that cannot be reached at an address that is known from the metadata only.
pub(crate) const ADVERTISED_ADVICE: &str =
    "set advertised.listeners of the broker to an address that this machine can reach";

/// Returns the origin of a broker's address, to be appended to the address, if it is not one of `servers`.
pub(crate) fn origin(servers: &[String], address: &str) -> &'static str {
    if servers.iter().any(|server| server == address) {
        ""
    } else {
        " (its advertised.listeners)"
    }
}

/// Returns which brokers cannot be reached, why, and what to do; `None` without brokers. `servers`: the addresses of
/// `bootstrap_servers`.
pub(crate) fn unreached_reason(servers: &[String], brokers: &[Unreached]) -> Option<String> {
    if brokers.is_empty() {
        return None;
    }
    let is_unreached = |server: &String| brokers.iter().any(|broker| broker.address == *server);
    let answering: Vec<_> = servers
        .iter()
        .filter(|server| !is_unreached(server))
        .map(String::as_str)
        .collect();
    let each: Vec<_> = brokers
        .iter()
        .map(|Unreached { id, address, why }| {
            format!("broker {id} at {address}{}: {why}", origin(servers, address))
        })
        .collect();
    let is_advertised = brokers.iter().any(|broker| !servers.contains(&broker.address));
    let advice = if is_advertised {
        ADVERTISED_ADVICE
    } else {
        "check the brokers and the network"
    };
    let each = each.join("; ");
    Some(if answering.is_empty() {
        format!("Kafka does not answer at {each}; {advice}")
    } else {
        let answering = answering.join(", ");
        format!("Kafka answers at {answering} (bootstrap_servers), but not {each}; {advice}")
    })
}

/// Runs the same work for each address, on a thread for each. A thread that hangs is abandoned; a resolver ends by itself.
fn each<T: Send + 'static>(
    addresses: &[String],
    work: impl Fn(&str) -> T + Send + Copy + 'static,
) -> Receiver<(String, T)> {
    // Has room for all results, so that no thread blocks on the receiver.
    let (done, results): (SyncSender<(String, T)>, _) = sync_channel(MAX_ADDRESSES);
    for address in addresses.iter().take(MAX_ADDRESSES).cloned() {
        let done = done.clone();
        // If no thread can be started, the address has no result.
        let _ = thread::Builder::new().name("kafka-dial".into()).spawn(move || {
            let result = work(&address);
            // If the receiver has stopped waiting, the result is not needed.
            let _ = done.send((address, result));
        });
    }
    results
}

fn resolve(address: &str) -> io::Result<Vec<SocketAddr>> {
    let found: Vec<_> = address.to_socket_addrs()?.collect();
    if found.is_empty() {
        return Err(io::Error::other("the name has no address"));
    }
    Ok(found)
}

fn open(address: &str) -> io::Result<()> {
    let found = resolve(address)?;
    let each = (DIAL_LIMIT - Duration::from_millis(500)) / u32::try_from(found.len()).unwrap_or(u32::MAX);
    let mut last = Ok(());
    for address in found {
        match TcpStream::connect_timeout(&address, each.max(Duration::from_millis(1))) {
            Ok(_) => return Ok(()),
            Err(error) => last = Err(error),
        }
    }
    last
}

fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut => "the connection attempt has no answer".to_owned(),
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        _ => error.to_string(),
    }
}

/// Returns the host of `host:port`, without the brackets of an IPv6 address.
fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn address_without_a_port_has_the_default_port() {
        assert_eq!(
            addresses("a, b:1,,[::1]:2"),
            ["a:9092", "b:1", "[::1]:2"].map(str::to_owned)
        );
        assert_eq!(host("[::1]:2"), "::1");
    }

    #[test]
    fn dial_reports_refused_and_open_addresses_separately() {
        let open = TcpListener::bind("127.0.0.1:0").unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").unwrap();
        let [open_at, closed_at] = [&open, &closed].map(|one| one.local_addr().unwrap().to_string());
        drop(closed);
        let refused = Err("connection refused".to_owned());
        assert_eq!(
            dial(std::slice::from_ref(&closed_at), false),
            [(closed_at.clone(), refused)]
        );
        let all = dial(&[closed_at, open_at.clone()], false);
        assert_eq!(all.len(), 2);
        assert!(all.contains(&(open_at, Ok(()))));
    }

    #[test]
    fn name_without_an_address_is_named() {
        let steps = ConnectSteps::default();
        let fault = look_up(&["no-such-name.invalid:9092".to_owned()], &steps).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Unreachable);
        assert!(
            fault
                .reason
                .contains("no-such-name.invalid:9092 (bootstrap_servers)"),
            "{fault}"
        );
        assert_eq!(look_up(&["127.0.0.1:1".to_owned()], &steps), Ok(Duration::ZERO));
    }
}
