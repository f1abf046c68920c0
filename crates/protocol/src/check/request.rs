//! Validates and compiles headers, and the additions to the request that opens a connection.

use std::collections::BTreeMap;

use super::{Check, Compiled, is_token};
use crate::{declaration::Declaration, text::Text};

/// Headers that only the client may set.
const RESERVED_HEADERS: [&str; 8] = [
    "host",
    "connection",
    "upgrade",
    "content-length",
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-protocol",
    "sec-websocket-extensions",
];

impl Check<'_> {
    pub(super) fn headers(
        &mut self,
        table: &[&str],
        headers: &BTreeMap<String, String>,
    ) -> Vec<(String, Text)> {
        let mut compiled = Vec::new();
        for (name, value) in headers {
            let key = [table, &[name.as_str()]].concat();
            if !is_token(name) {
                self.add(
                    &key,
                    "found an invalid header name, expected letters, digits and \"-\"",
                );
            } else if RESERVED_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
                let instead = match name.to_ascii_lowercase().as_str() {
                    "sec-websocket-protocol" => "expected \"request.subprotocols\" instead",
                    _ => "expected a header that the client does not set itself",
                };
                self.add(&key, format!("found \"{name}\", {instead}"));
            }
            if value.contains(char::is_control) {
                self.add(&key, "found a control character, expected a text in one line");
            }
            if let Some(text) = self.text(&key, value, false) {
                compiled.push((name.clone(), text));
            }
        }
        compiled
    }

    pub(super) fn request(&mut self, declaration: &Declaration, compiled: &mut Compiled) {
        let request = &declaration.request;
        compiled.headers = self.headers(&["request", "headers"], &request.headers);
        for (name, values) in &request.query {
            let key = ["request", "query", name.as_str()];
            if name.is_empty() {
                self.add(
                    &key,
                    "found an empty name, expected the name of a query parameter",
                );
            }
            for value in values.iter() {
                if let Some(text) = self.text(&key, value, false) {
                    compiled.query.push((name.clone(), text));
                }
            }
        }
        for (index, name) in request.subprotocols.iter().enumerate() {
            if !is_token(name) {
                let key = ["request", "subprotocols", &index.to_string()];
                self.add(
                    &key,
                    format!("found \"{name}\", expected the name of a sub-protocol without blanks"),
                );
            }
        }
    }
}
