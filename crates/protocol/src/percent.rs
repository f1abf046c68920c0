//! Percent-encoding of the parts of a URL.

use std::fmt::Write as _;

/// The characters that RFC 3986 allows in a query and that do not separate parameters.
const QUERY: &[u8] = b"-._~!$'()*,;:@/?";
/// The characters that have no meaning in any part of a URL.
const UNRESERVED: &[u8] = b"-._~";

/// Returns a parameter of a query.
pub(crate) fn pair(name: &str, value: &str) -> String {
    format!("{}={}", encode(name, QUERY), encode(value, QUERY))
}

/// Percent-encodes a text that is inserted into a path.
pub(crate) fn segment(text: &str) -> String {
    encode(text, UNRESERVED)
}

fn encode(text: &str, unchanged: &[u8]) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || unchanged.contains(&byte) {
            encoded.push(byte as char);
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// Returns the decoded names and values of a query.
pub(crate) fn pairs(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        })
        .collect()
}

pub(crate) fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let digit = |at: usize| after.get(at).and_then(|byte| (*byte as char).to_digit(16));
        rest = after;
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &after[2..];
            }
            (b'+', ..) => bytes.push(b' '),
            (byte, ..) => bytes.push(*byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
