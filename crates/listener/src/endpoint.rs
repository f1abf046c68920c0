//! The parsed address of a feed, or of an HTTP interface of its platform.

use neurobridge_core::address::{self, Address, describe_scheme};
use tokio_tungstenite::tungstenite::http::Uri;

/// The parsed address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) uri: Uri,
    pub(crate) is_tls: bool,
    /// The host, without the brackets of an IPv6 address.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Endpoint {
    /// Parses `wss://host[:port][/path]`. No error repeats a part of `url`, which may contain a
    /// password.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected wss://host[:port][/path], or ws:// without TLS";
        let address = Address::parse(url).map_err(|error| format!("{error}, {EXPECTED}"))?;
        let is_tls = match address.scheme {
            Some(scheme) if scheme.eq_ignore_ascii_case("wss") => true,
            Some(scheme) if scheme.eq_ignore_ascii_case("ws") => false,
            scheme => {
                let found = describe_scheme(scheme);
                // `shown` contains only scheme, host and port, and nothing if the URL contains a user.
                let shown = address::shown(url);
                let corrected = |scheme| match shown.split_once("://") {
                    Some((_, rest)) => format!("\"{scheme}://{rest}\""),
                    None => format!("{scheme}://host[:port][/path]"),
                };
                return Err(match scheme.map(str::to_ascii_lowercase).as_deref() {
                    Some("https") => format!("{found}, expected {}", corrected("wss")),
                    Some("http") => {
                        format!("{found}, expected {}, or wss:// with TLS", corrected("ws"))
                    }
                    _ => format!("{found}, {EXPECTED}"),
                });
            }
        };
        // A user and password in the address would be shown with it, and the platform supports only tokens.
        if address.user.is_some() {
            return Err(format!("found a user or password in the URL, {EXPECTED}"));
        }
        let uri: Uri = url
            .parse()
            .map_err(|error| format!("not a URL ({error}), {EXPECTED}"))?;
        Ok(Self {
            is_tls,
            host: address.host.to_owned(),
            port: address.port.unwrap_or(if is_tls { 443 } else { 80 }),
            uri,
        })
    }

    /// Returns `host:port`, with the brackets of an IPv6 address, for CONNECT and logs.
    pub(crate) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_urls_parse_and_errors_hide_passwords() {
        let endpoint = Endpoint::parse("wss://events.neuroio.com").unwrap();
        assert_eq!(
            (endpoint.host.as_str(), endpoint.port, endpoint.is_tls),
            ("events.neuroio.com", 443, true)
        );
        for (url, is_tls) in [("WSS://host", true), ("Ws://host", false)] {
            assert_eq!(Endpoint::parse(url).unwrap().is_tls, is_tls, "{url}");
        }
        let endpoint = Endpoint::parse("ws://[::1]:81/a?b").unwrap();
        assert_eq!(
            (endpoint.host.as_str(), endpoint.port, endpoint.is_tls),
            ("::1", 81, false)
        );
        for bad in [
            "",
            "events",
            "ws://",
            "wss://u:p@host",
            "ws://host:port",
            "ws://host:99999",
            "ws://host:",
            "wss://bob:hunter2",
            "wss://bob:12/hunter2@host",
            "wss://bob:12?hunter2@host",
            "wss://bob:12#hunter2@host",
            "wss://host/#hunter2",
            "bob:hunter2@host/",
            "hunter2://host/",
        ] {
            let error = Endpoint::parse(bad).unwrap_err();
            assert!(
                error.contains("expected") && !error.contains("hunter2"),
                "{bad}: {error}"
            );
        }
        assert!(Endpoint::parse("WSS://host/feed?user=a%40b").unwrap().is_tls);
    }
}
