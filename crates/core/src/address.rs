//! Parses addresses of a configuration (`wss://host:port/path`, `host:port`) and shows only the parts that
//! cannot be a user or a password.

use std::net::Ipv6Addr;

/// Schemes that users may enter. Errors name no other scheme, because the text before `://` may be part of a
/// secret.
const KNOWN_SCHEMES: [&str; 11] = [
    "http", "https", "ws", "wss", "socks4", "socks5", "socks5h", "tcp", "nats", "tls", "kafka",
];

/// The `format` in the JSON Schema of a key with one address or several. The value of such a key is shown
/// only by [`shown`].
pub const SCHEMA_FORMAT: &str = "address";

/// The text in place of the hidden parts of an address.
const HIDDEN: &str = "…";

/// Returns the parts of an address that may be shown: scheme, host and port, with an ellipsis for a path or a
/// query. Returns an ellipsis alone if the address is invalid or contains a user.
pub fn shown(text: &str) -> String {
    let Some(length) = shown_bytes(text) else {
        return HIDDEN.to_owned();
    };
    match &text[length..] {
        "" | "/" => text.to_owned(),
        _ => format!("{}/{HIDDEN}", &text[..length]),
    }
}

/// As [`shown`], for a list with commas. A password may contain a comma, so all parts are hidden if a single
/// part has to be.
pub fn shown_list(text: &str) -> String {
    let parts: Vec<String> = text.split(',').map(|part| shown(part.trim())).collect();
    if parts.iter().any(|part| part == HIDDEN) {
        return HIDDEN.to_owned();
    }
    parts.join(", ")
}

/// Returns the length of the part of an address that may be shown: scheme, host and port. `None` if the
/// address is invalid or contains a user.
pub fn shown_bytes(text: &str) -> Option<usize> {
    let address = Address::parse(text).ok()?;
    let is_known = address.scheme.is_none_or(|scheme| known_scheme(scheme).is_some());
    (is_known && address.user.is_none()).then(|| text.len() - address.rest.len())
}

/// A parsed address: `[scheme://][user@]host[:port][rest]`.
#[derive(Debug, PartialEq, Eq)]
pub struct Address<'a> {
    /// The part before `://`.
    pub scheme: Option<&'a str>,
    /// The part before the `@`, unchanged, including the password.
    pub user: Option<&'a str>,
    /// The host, without the brackets of an IPv6 address.
    pub host: &'a str,
    /// The port, if the address contains one.
    pub port: Option<u16>,
    /// Path and query: empty, or starting with `/` or `?`.
    pub rest: &'a str,
}

impl<'a> Address<'a> {
    /// Parses an address. Rejects text that could be a password with a `/`, `?` or `#`: otherwise the user
    /// would be taken for the host and sent to a name server.
    ///
    /// # Errors
    /// A description of what was found, which repeats no part of `text`.
    pub fn parse(text: &'a str) -> Result<Self, String> {
        if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err("found a blank or a control character".into());
        }
        if text.contains('#') {
            return Err("found a \"#\" (in a password, write %23)".into());
        }
        let (scheme, text) = match text.split_once("://") {
            Some((scheme, text)) => (Some(scheme), text),
            None => (None, text),
        };
        let (authority, rest) = text.split_at(text.find(['/', '?']).unwrap_or(text.len()));
        if rest.contains('@') {
            return Err(
                "found an \"@\" after a \"/\" or \"?\" (write %40; in a password, %2F for / and %3F for ?)"
                    .into(),
            );
        }
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, authority),
        };
        let (host, port) = host_and_port(place)?;
        Ok(Self {
            scheme,
            user,
            host,
            port,
            rest,
        })
    }
}

/// Returns the description of a wrong scheme for an error.
pub fn describe_scheme(scheme: Option<&str>) -> String {
    match scheme {
        None => "found no scheme".to_owned(),
        Some(scheme) => known_scheme(scheme).map_or_else(
            || "found an unknown scheme".to_owned(),
            |known| format!("found the scheme {known}://"),
        ),
    }
}

fn known_scheme(scheme: &str) -> Option<&'static str> {
    KNOWN_SCHEMES
        .into_iter()
        .find(|known| known.eq_ignore_ascii_case(scheme))
}

fn host_and_port(place: &str) -> Result<(&str, Option<u16>), String> {
    let (host, port) = if let Some(inner) = place.strip_prefix('[') {
        let (host, port) = inner
            .split_once(']')
            .filter(|(host, _)| host.parse::<Ipv6Addr>().is_ok())
            .ok_or("found no IPv6 address between brackets")?;
        match port.strip_prefix(':') {
            None if !port.is_empty() => return Err("found no port after the IPv6 address".into()),
            port => (host, port),
        }
    } else {
        match place.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        }
    };
    if host.is_empty() {
        return Err("found no host".into());
    }
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    if !host.chars().all(is_of_name) {
        return Err("found characters in the host that a host name cannot contain".into());
    }
    let port = match port {
        None => None,
        Some(port) => {
            let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
            let number = port.parse().ok().filter(|port| is_number && *port != 0);
            Some(number.ok_or("found no port number (1 to 65535) after the host")?)
        }
    };
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Address<'_> {
        Address::parse(text).unwrap()
    }

    #[test]
    fn address_parts_are_parsed() {
        assert_eq!(
            parsed("wss://u:p@h.example:81/a?b=c%40d"),
            Address {
                scheme: Some("wss"),
                user: Some("u:p"),
                host: "h.example",
                port: Some(81),
                rest: "/a?b=c%40d",
            }
        );
        assert_eq!((parsed("[::1]:8").host, parsed("[::1]:8").port), ("::1", Some(8)));
        assert_eq!((parsed("h").host, parsed("u:p@x@h").user), ("h", Some("u:p@x")));
    }

    #[test]
    fn invalid_address_is_rejected_and_its_password_not_shown() {
        for text in [
            "",
            "http://",
            "http://bob:hunter2",
            "http://bob:hunter2/x@proxy:3128",
            "http://bob:12/hunter2@proxy:3128",
            "http://bob:12?hunter2@proxy:3128",
            "http://bob:12/?hunter2@proxy:3128",
            "http://bob:12#hunter2@proxy:3128",
            "http://bob:hunter2@:3128",
            "http://bob:hunt er2@proxy",
            "bob:hunter2@pr^oxy",
            "proxy:abc",
            "proxy:99999",
            "proxy:0",
            "proxy:+1",
            "proxy:",
            ":3128",
            "[::1",
            "[hunter2]",
            "[::1]x",
            "::1",
        ] {
            let error = Address::parse(text).unwrap_err();
            assert!(
                error.starts_with("found") && !error.contains("hunt"),
                "{text}: {error}"
            );
        }
        assert_eq!(describe_scheme(Some("SOCKS5")), "found the scheme socks5://");
        assert_eq!(describe_scheme(Some("hunter2")), "found an unknown scheme");
    }

    #[test]
    fn only_an_address_without_credentials_is_shown() {
        for (text, expected) in [
            ("wss://events.neuroio.com", "wss://events.neuroio.com"),
            ("wss://h:81/", "wss://h:81/"),
            ("wss://h/feed/hunter2", "wss://h/…"),
            ("wss://h?token=hunter2", "wss://h/…"),
            ("nats://bob:hunter2@h", "…"),
            ("hunter2://h", "…"),
            ("bob:hunter2", "…"),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
        assert_eq!(shown_list("a:1,b:2"), "a:1, b:2");
        assert_eq!(shown_list("nats://bob:hunter,2@h:4222"), "…");
        assert_eq!(shown_list("nats://bob:123,hunter2@h:4222"), "…");
    }

    proptest! {
        #[test]
        fn password_is_never_taken_for_the_host(
            scheme in "(|http://|wss://)",
            password in "[ -~]{0,6}hunter2[ -~]{0,6}",
            port in "(|:3128)", rest in "(|/|/feed)",
        ) {
            let text = format!("{scheme}bob:{password}@proxy{port}{rest}");
            match Address::parse(&text) {
                Ok(address) if address.scheme.is_none_or(|scheme| !scheme.contains(':')) => {
                    prop_assert_eq!(address.host, "proxy", "{}", text);
                }
                // The password contains `://`, so the text before it counts as the scheme, which callers reject.
                Ok(address) => prop_assert_eq!(describe_scheme(address.scheme), "found an unknown scheme"),
                Err(error) => prop_assert!(!error.contains("hunter2"), "{}", error),
            }
        }
    }
}
