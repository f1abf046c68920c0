//! The errors of requests to the platform, and the description of an error in an answer.

use std::{fmt, time::Duration};

use neurobridge_core::{
    secret::{SecretError, SecretSet},
    units::{ByteSize, format_duration},
};
use neurobridge_listener::{HttpDialError, SecretsError};
use serde::Deserialize;

/// Why a request has no usable answer. No text contains the token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The token is empty or cannot be read.
    #[error("the token cannot be used")]
    Token(#[source] SecretError),
    /// The token contains a character that no header can contain.
    #[error("the token contains a control character; expected the text of the token alone")]
    TokenText,
    /// A secret of a declared feed cannot be read.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// The address of the next page contains a character that no URL contains.
    #[error(
        "the address of the next page in the list of past events is not a valid URL; check `feed.backfill.pages`"
    )]
    Target,
    /// No connection could be opened.
    #[error(transparent)]
    Dial(#[from] HttpDialError),
    /// The connection failed before the answer was complete.
    #[error("the connection to {host} failed before the answer was complete")]
    Connection {
        /// The host of the interface.
        host: String,
        /// The reason.
        source: hyper::Error,
    },
    /// The answer was not complete in time.
    #[error(
        "{host} did not answer completely within {}; raise `backfill.timeout` if the server is slow",
        format_duration(*timeout)
    )]
    Timeout {
        /// The host of the interface.
        host: String,
        /// The time limit.
        timeout: Duration,
    },
    /// The answer is larger than the limit.
    #[error(
        "the answer of {host} is larger than {limit}; check the address of the interface, or request fewer entries \
         on a page"
    )]
    TooLarge {
        /// The host of the interface.
        host: String,
        /// The limit.
        limit: ByteSize,
    },
    /// The platform does not accept the token.
    #[error("{host} refused the token (HTTP 401){answer}; replace the token")]
    Unauthorised {
        /// The host of the interface.
        host: String,
        /// The answer.
        answer: PlatformAnswer,
    },
    /// The platform received too many requests.
    #[error("{host} rejected the request: too many requests (HTTP 429){}", retry_text(*retry_after))]
    RateLimited {
        /// The host of the interface.
        host: String,
        /// The delay that the platform requests.
        retry_after: Option<Duration>,
    },
    /// The interface is at another address. The client does not follow, because it would send the token there.
    #[error(
        "{host} redirects to {location} (HTTP {status}); redirects are not followed, configure the final address instead"
    )]
    Redirected {
        /// The host of the interface.
        host: String,
        /// The status.
        status: u16,
        /// Scheme, host and port of the other address.
        location: String,
    },
    /// Another error of the platform.
    #[error("{host} answered HTTP {status}{answer}{}", advice(*status))]
    Status {
        /// The host of the interface.
        host: String,
        /// The status.
        status: u16,
        /// The answer.
        answer: PlatformAnswer,
        /// The delay that the platform requests.
        retry_after: Option<Duration>,
    },
    /// The answer is not JSON.
    #[error("the answer of {host} is not JSON: found {found:?}; check the address of the interface")]
    NotJson {
        /// The host of the interface.
        host: String,
        /// The beginning of the answer.
        found: String,
    },
    /// The answer is JSON of an unknown shape.
    #[error("the answer of {host} has an unknown shape: {problem}; expected {expected}")]
    OtherShape {
        /// The host of the interface.
        host: String,
        /// What was found.
        problem: String,
        /// What was expected.
        expected: &'static str,
    },
}

impl RequestError {
    /// Returns whether the same request may succeed later.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Dial(_) | Self::Connection { .. } | Self::Timeout { .. } | Self::RateLimited { .. } => true,
            Self::Status { status, .. } => *status >= 500 || *status == 408,
            _ => false,
        }
    }

    /// Returns the delay that the platform or a proxy requests.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } | Self::Status { retry_after, .. } => *retry_after,
            Self::Dial(error) => error.retry_after(),
            _ => None,
        }
    }
}

fn retry_text(retry_after: Option<Duration>) -> String {
    retry_after.map_or_else(String::new, |delay| {
        format!(", retry after {}", format_duration(delay))
    })
}

const fn advice(status: u16) -> &'static str {
    match status {
        403 => "; expected a token with the rights for this request",
        404 => "; check the address of the interface",
        _ => "",
    }
}

/// The error that the platform describes in the body of an answer:
/// `{"message":…,"error_codes":[602],"fields":[{"name":…,"message":…,"error_code":400}]}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlatformAnswer {
    /// The message, cleaned and shortened; empty if there is none.
    pub message: String,
    /// The codes.
    pub codes: Vec<i64>,
    /// The wrong fields: name, message and code.
    pub fields: Vec<(String, String, Option<i64>)>,
}

/// The largest number of codes and of fields that are kept.
const MAX_PARTS: usize = 8;

impl PlatformAnswer {
    /// Reads the body of an answer; empty if it has another shape. Removes secrets.
    pub(crate) fn read(body: &[u8], secrets: &SecretSet) -> Self {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Body {
            message: Option<String>,
            error_codes: Option<Vec<i64>>,
            fields: Option<Vec<Field>>,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Field {
            name: String,
            message: Option<String>,
            error_code: Option<i64>,
        }
        let body: Body = serde_json::from_slice(body).unwrap_or_default();
        let clean = |text: Option<String>| secrets.clean(text.as_deref().unwrap_or_default());
        let mut codes = body.error_codes.unwrap_or_default();
        codes.truncate(MAX_PARTS);
        Self {
            message: clean(body.message),
            codes,
            fields: body
                .fields
                .unwrap_or_default()
                .into_iter()
                .take(MAX_PARTS)
                .map(|field| (clean(Some(field.name)), clean(field.message), field.error_code))
                .collect(),
        }
    }
}

/// Writes `: MESSAGE (error 602; field "x": MESSAGE (400))`, or nothing.
impl fmt::Display for PlatformAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        let mut notes = Vec::new();
        if !self.codes.is_empty() {
            let codes: Vec<_> = self.codes.iter().map(ToString::to_string).collect();
            notes.push(format!("error {}", codes.join(", ")));
        }
        for (name, message, code) in &self.fields {
            let code = code.map_or_else(String::new, |code| format!(" ({code})"));
            notes.push(format!("field \"{name}\": {message}{code}"));
        }
        if notes.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", notes.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_shows_codes_and_fields_without_secrets() {
        let secrets = SecretSet::default();
        secrets.add("hunter2hunter2");
        let body = br#"{"message":"hunter2hunter2 is bad","error_codes":[602,7],
            "fields":[{"name":"limit","message":"expects a number","error_code":400},{"name":"x"}],"more":1}"#;
        let answer = PlatformAnswer::read(body, &secrets);
        insta::assert_snapshot!(answer, @r#": [redacted] is bad (error 602, 7; field "limit": expects a number (400); field "x": )"#);
        for body in ["", "<html>", "[]", r#"{"message":7}"#] {
            assert_eq!(PlatformAnswer::read(body.as_bytes(), &secrets).to_string(), "");
        }
    }
}
