//! Free ports that stay free while the server that uses them is down.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};

/// The range of the ports, below Linux's range of ephemeral ports (32768 and up). Otherwise the system could assign the port of a
/// stopped broker as the local port of a client that dials the broker: the client would connect to itself, and the broker could
/// not restart.
const RANGE: std::ops::Range<u16> = 12_000..32_000;

/// Returns free ports of 127.0.0.1, each only once per process.
///
/// # Errors
/// Returns an error if not enough free ports are found.
pub fn free_ports<const N: usize>() -> Result<[u16; N]> {
    static USED: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut used = USED.lock().unwrap_or_else(PoisonError::into_inner);
    let used = used.get_or_insert_default();
    // A random start, so that two programs that search at the same time find different ports.
    let seed = RandomState::new().hash_one(std::process::id());
    let span = RANGE.end - RANGE.start;
    let mut offset = u16::try_from(seed % u64::from(span)).unwrap_or_default();
    let mut ports = [0; N];
    let mut found = 0;
    for _ in 0..span {
        if found == N {
            return Ok(ports);
        }
        let port = RANGE.start + offset;
        offset = (offset + 1) % span;
        if !used.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            used.insert(port);
            ports[found] = port;
            found += 1;
        }
    }
    bail!(
        "no {N} free ports on 127.0.0.1 between {} and {}",
        RANGE.start,
        RANGE.end
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_is_returned_once() {
        let first = free_ports::<4>().unwrap();
        let second = free_ports::<4>().unwrap();
        let all: HashSet<u16> = first.into_iter().chain(second).collect();
        assert_eq!(all.len(), 8);
        assert!(all.iter().all(|port| RANGE.contains(port)));
    }
}
