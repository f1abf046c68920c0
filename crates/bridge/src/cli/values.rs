//! Parsers of the values on the command line.

use neurobridge_core::{event::FieldPath, units::ByteSize};

/// Parses log levels, separated by commas. Rejects any other word: the log filter would treat it as the name of a part of the
/// program, and hide the lines of all other parts.
pub(super) fn log_level(text: &str) -> Result<String, String> {
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    match text
        .split(',')
        .find(|part| !part.contains('=') && !levels.contains(part))
    {
        Some(part) => Err(format!(
            "found \"{part}\", expected error, warn, info, debug, trace, or off"
        )),
        None => Ok(text.to_owned()),
    }
}

/// Parses a number of events per second.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate >= 0.0 => Ok(rate),
        _ => Err("expected a number of 0 or more".to_owned()),
    }
}

/// Parses a field and a value.
pub(super) fn condition(text: &str) -> Result<(String, String), String> {
    let expected = || "expected field=value, such as result=new or space.id=1".to_owned();
    let (field, value) = text.split_once('=').ok_or_else(expected)?;
    if FieldPath::parse(field).is_none() {
        return Err(expected());
    }
    Ok((field.to_owned(), value.to_owned()))
}

/// Parses the name of a run, which is part of headers and file names.
pub(super) fn run_name(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if (1..=64).contains(&text.len()) && text.chars().all(is_plain) {
        Ok(text.to_owned())
    } else {
        Err("expected at most 64 letters, digits, - and _".to_owned())
    }
}

/// Parses a number of bytes, with or without a unit.
pub(super) fn size(text: &str) -> Result<usize, String> {
    let bytes = match text.parse::<u64>() {
        Ok(bytes) => bytes,
        Err(_) => text
            .parse::<ByteSize>()
            .map_err(|error| error.to_string())?
            .bytes(),
    };
    usize::try_from(bytes).map_err(|_| "larger than the address space of this machine".to_owned())
}

/// The address of an HTTP server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpAddress {
    /// `host:port`.
    pub authority: String,
    /// Whether the server uses TLS.
    pub is_tls: bool,
}

/// Parses `http://host:port`, `https://host:port`, or `host:port`, which means `http`.
pub(super) fn http_address(url: &str) -> Result<HttpAddress, String> {
    let (rest, is_tls) = match url.strip_prefix("https://") {
        Some(rest) => (rest, true),
        None => (url.strip_prefix("http://").unwrap_or(url), false),
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let has_port = authority
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if has_port && !authority.contains('/') {
        Ok(HttpAddress {
            authority: authority.to_owned(),
            is_tls,
        })
    } else {
        Err("expected http://host:port or https://host:port".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_values_are_parsed_and_invalid_ones_rejected() {
        assert_eq!(size("600"), Ok(600));
        assert_eq!(size("2 MiB"), Ok(2 << 20));
        assert!(size("2 apples").is_err());
        let address = |authority: &str, is_tls| HttpAddress {
            authority: authority.to_owned(),
            is_tls,
        };
        assert_eq!(
            http_address("http://[::1]:9797/"),
            Ok(address("[::1]:9797", false))
        );
        assert_eq!(http_address("https://bridge:1"), Ok(address("bridge:1", true)));
        assert_eq!(condition("space.id=a=b"), Ok(("space.id".into(), "a=b".into())));
        assert!(condition("result").is_err() && condition("a..b=1").is_err());
        assert_eq!(http_address("localhost:1"), Ok(address("localhost:1", false)));
        for wrong in ["ftp://localhost:1", "localhost", "http://localhost:1/livez", ":1"] {
            assert!(http_address(wrong).is_err(), "{wrong}");
        }
    }
}
