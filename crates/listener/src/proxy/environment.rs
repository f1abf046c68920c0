//! Selects a proxy from the environment variables (`HTTPS_PROXY` and so on), with the exceptions in `NO_PROXY`.
//!
//! Does not use the matcher of hyper-util, which ignores an invalid value instead of reporting it, and does not support
//! ports in exceptions.

use std::net::IpAddr;

use super::Proxy;
use crate::endpoint::Endpoint;

/// Returns the proxy of the environment variables with the usual conventions: lower case precedes upper case,
/// an empty value means none, and `NO_PROXY` lists the hosts that are reached directly.
pub(super) fn from_environment(
    endpoint: &Endpoint,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Proxy>, String> {
    let lookup = |names: [&'static str; 2]| {
        names
            .into_iter()
            .find_map(|name| Some((name, variable(name).filter(|value| !value.trim().is_empty())?)))
    };
    let names = if endpoint.is_tls {
        ["https_proxy", "HTTPS_PROXY"]
    } else {
        ["http_proxy", "HTTP_PROXY"]
    };
    let Some((name, value)) = lookup(names) else {
        return Ok(None);
    };
    let exceptions = lookup(["no_proxy", "NO_PROXY"]).map(|(_, value)| value);
    if is_loopback(&endpoint.host) || is_excepted(endpoint, exceptions.as_deref().unwrap_or_default()) {
        return Ok(None);
    }
    Proxy::parse(value.trim())
        .map(Some)
        .map_err(|error| format!("the environment variable {name} is not a valid proxy: {error}"))
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Returns whether `NO_PROXY` lists the host: as `*`, a name (which covers its subdomains, with or without a
/// leading dot), an address, or a network such as `10.0.0.0/8`. A name or address may have a port.
fn is_excepted(endpoint: &Endpoint, exceptions: &str) -> bool {
    let host = endpoint.host.trim_end_matches('.').to_ascii_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    exceptions
        .split([',', ' '])
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .any(|entry| {
            if entry == "*" {
                return true;
            }
            if let Some((network, bits)) = entry.split_once('/') {
                let network = network.trim_matches(['[', ']']).parse().ok();
                return match (address, network, bits.parse().ok()) {
                    (Some(address), Some(network), Some(bits)) => is_within(address, network, bits),
                    _ => false,
                };
            }
            let (name, port) = split_port(entry);
            if port.is_some_and(|port| port != endpoint.port) {
                return false;
            }
            let name = name.trim_matches(['[', ']']);
            if let (Some(address), Ok(named)) = (address, name.parse::<IpAddr>()) {
                return address == named;
            }
            let name = name
                .trim_start_matches("*.")
                .trim_matches('.')
                .to_ascii_lowercase();
            host == name
                || host
                    .strip_suffix(&name)
                    .is_some_and(|front| !name.is_empty() && front.ends_with('.'))
        })
}

fn split_port(entry: &str) -> (&str, Option<u16>) {
    match entry.rsplit_once(':') {
        // An IPv6 address without brackets has no port.
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => match port.parse() {
            Ok(port) => (name, Some(port)),
            Err(_) => (entry, None),
        },
        _ => (entry, None),
    }
}

fn is_within(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            address.to_bits() & mask == network.to_bits() & mask
        }
        (IpAddr::V6(address), IpAddr::V6(network)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            address.to_bits() & mask == network.to_bits() & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Endpoint {
        Endpoint::parse(url).unwrap()
    }

    fn chosen(url: &str, variables: &[(&str, &str)]) -> Result<Option<String>, String> {
        from_environment(&endpoint(url), |name| {
            variables
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        })
        .map(|proxy| proxy.map(|proxy| proxy.shown()))
    }

    #[test]
    fn proxy_environment_follows_the_conventions() {
        let proxy = Ok(Some("p:3128".to_owned()));
        assert_eq!(chosen("wss://h", &[]), Ok(None));
        assert_eq!(chosen("wss://h", &[("HTTPS_PROXY", "http://p:3128")]), proxy);
        assert_eq!(
            chosen("wss://h", &[("HTTPS_PROXY", "x"), ("https_proxy", "p:3128")]),
            proxy
        );
        assert_eq!(
            chosen("wss://h", &[("HTTPS_PROXY", " "), ("HTTP_PROXY", "p:3128")]),
            Ok(None)
        );
        assert_eq!(chosen("ws://h", &[("HTTP_PROXY", "p:3128")]), proxy);
        assert_eq!(chosen("ws://127.0.0.1:8", &[("HTTP_PROXY", "p:3128")]), Ok(None));
        assert_eq!(
            chosen("wss://h", &[("HTTPS_PROXY", "p:3128"), ("NO_PROXY", "x,h")]),
            Ok(None)
        );
        let error = chosen("wss://h", &[("HTTPS_PROXY", "socks5://u:hunter2@p")]).unwrap_err();
        assert!(
            error.contains("HTTPS_PROXY") && error.contains("socks5"),
            "{error}"
        );
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn no_proxy_matches_names_networks_and_ports() {
        for (url, exceptions, expected) in [
            ("wss://events.neuroio.com", "neuroio.com", true),
            ("wss://events.neuroio.com", ".neuroio.com", true),
            ("wss://events.neuroio.com", "*.NeuroIO.com", true),
            ("wss://events.neuroio.com.", "neuroio.com", true),
            ("wss://events.neuroio.com", "roio.com", false),
            ("wss://events.neuroio.com", "a, events.neuroio.com:443", true),
            ("wss://events.neuroio.com", "events.neuroio.com:444", false),
            ("wss://events.neuroio.com", "*", true),
            ("wss://events.neuroio.com", "", false),
            ("wss://10.1.2.3", "10.0.0.0/8", true),
            ("wss://10.1.2.3", "11.0.0.0/8", false),
            ("wss://10.1.2.3", "0.0.0.0/0", true),
            ("wss://10.1.2.3", "10.1.2.3", true),
            ("wss://[fd00::1]", "fd00::/8", true),
            ("wss://[fd00::1]", "[fd00::1]:443", true),
            ("wss://[fd00::1]", "fd00::2", false),
        ] {
            assert_eq!(
                is_excepted(&endpoint(url), exceptions),
                expected,
                "{url} {exceptions}"
            );
        }
    }
}
