//! The errors of a source, with their texts, their labels in the metrics, and the delay that a server requests.

use std::{
    error::Error,
    fmt::{self, Write},
    io,
    net::SocketAddr,
    time::Duration,
};

use neurobridge_core::units::{ByteSize, format_duration};
use tokio_tungstenite::tungstenite;

use crate::{
    connection::{UpgradeError, head::HeadError, http_date},
    proxy::ProxyError,
    secrets::SecretsError,
    stats::{ConnectionOutcome, DisconnectReason},
    tls::{self, TlsError, TlsSetupError},
};

/// Why a source cannot be created, or has stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// A configuration error: the first one that [`SourceConfig::check`](crate::SourceConfig::check) returns.
    #[error("source {name}: {key}: {message}")]
    Config {
        /// The name of the source.
        name: String,
        /// The key, with dots between its parts.
        key: String,
        /// What was found, and what was expected.
        message: String,
    },
    /// The TLS files cannot be used.
    #[error("source {name}: TLS cannot be set up")]
    Tls {
        /// The name of the source.
        name: String,
        /// The reason.
        source: TlsSetupError,
    },
    /// The feed refused the token or the connection, and `exit_on_refused_token` is set.
    #[error("source {name}: {}: {answer}", refusal(*is_declared))]
    TokenRefused {
        /// The name of the source.
        name: String,
        /// The answer of the feed, shortened, without secrets.
        answer: String,
        /// Whether the feed is declared, so that not only a token may be the reason.
        is_declared: bool,
    },
}

/// Why no connection could be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    #[error("the host name {host} could not be resolved")]
    Resolve { host: String, source: io::Error },
    #[error("the host name {host} has no address")]
    NoAddress { host: String },
    #[error("could not connect to {address}")]
    Connect { address: SocketAddr, source: io::Error },
    #[error("no file descriptor is left for a connection: raise the limit of open files")]
    TooManyOpenFiles { source: io::Error },
    #[error("no connection to {target} within {}{}: {stage}", format_duration(*timeout), tried(*addresses))]
    Timeout {
        target: String,
        timeout: Duration,
        addresses: usize,
        stage: DialStage,
    },
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("{target} answered HTTP {status}: {words}")]
    Status {
        target: String,
        status: u16,
        words: &'static str,
        retry_after: Option<Duration>,
    },
    #[error("{target} did not answer with a WebSocket handshake")]
    Handshake { target: String, source: UpgradeError },
}

/// The steps of opening a connection, in order. `Display` states the step that was not complete at the time limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DialStage {
    #[default]
    Resolve,
    Connect,
    Proxy,
    Tls,
    Upgrade,
}

impl fmt::Display for DialStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolve => "the host name was not resolved",
            Self::Connect => "no TCP connection",
            Self::Proxy => "no complete answer of the proxy to CONNECT",
            Self::Tls => "the TLS handshake was not complete",
            Self::Upgrade => "no complete answer to the WebSocket upgrade",
        })
    }
}

/// Why an open connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionEnd {
    #[error("the source was stopped")]
    Stopped,
    #[error("the platform closed the connection ({0})")]
    Closed(String),
    #[error("the connection ended without a close frame")]
    Broken { source: Option<io::Error> },
    #[error("no answer to a ping within {}: the connection is dead", format_duration(*timeout))]
    PongTimeout { timeout: Duration },
    #[error("no frame within {}: the connection is dead", format_duration(*timeout))]
    IdleTimeout { timeout: Duration },
    #[error("the answer to a ping was {answer}, expected PONG")]
    BadPong { answer: String },
    #[error("the feed sends no more events on this connection: {text}")]
    Ended { text: String },
    #[error("a text frame was not UTF-8")]
    InvalidUtf8,
    #[error("a frame exceeds `max_frame_size`, {limit}{}", found(*size))]
    TooLarge { size: Option<usize>, limit: ByteSize },
    #[error("the platform violated the WebSocket protocol")]
    Protocol { source: tungstenite::Error },
    #[error("{}: {answer}", refusal(*is_declared))]
    TokenRefused { answer: String, is_declared: bool },
    #[error("no answer to {} within {}", opening_step(*step), format_duration(*timeout))]
    AuthTimeout { timeout: Duration, step: Option<usize> },
    #[error("the connection ended during backpressure")]
    Blocked { source: Box<ConnectionEnd> },
    #[error("the frames after an unreadable frame were discarded")]
    Unread { source: Box<ConnectionEnd> },
}

impl DialError {
    /// Converts the error of creating or connecting a socket.
    pub(crate) fn of_connect(address: SocketAddr, source: io::Error) -> Self {
        if is_too_many_open_files(&source) {
            Self::TooManyOpenFiles { source }
        } else {
            Self::Connect { address, source }
        }
    }

    /// Converts the error of an upgrade.
    pub(crate) fn of_upgrade(target: String, host: &str, error: UpgradeError) -> Self {
        match error {
            UpgradeError::Status(head) => Self::Status {
                target,
                status: head.status,
                words: explain_status(head.status),
                retry_after: http_date::retry_after(&head),
            },
            UpgradeError::Send(error) | UpgradeError::Head(HeadError::Io(error))
                if tls::is_tls_error(&error) =>
            {
                tls::explain(host, error).into()
            }
            source => Self::Handshake { target, source },
        }
    }

    pub(crate) const fn outcome(&self) -> ConnectionOutcome {
        match self {
            Self::Secrets(_) => ConnectionOutcome::TokenUnreadable,
            Self::Resolve { .. } | Self::NoAddress { .. } => ConnectionOutcome::ResolveFailed,
            Self::Connect { .. } => ConnectionOutcome::ConnectFailed,
            Self::TooManyOpenFiles { .. } => ConnectionOutcome::TooManyOpenFiles,
            Self::Timeout { .. } => ConnectionOutcome::OpenTimeout,
            Self::Proxy(_) => ConnectionOutcome::ProxyFailed,
            Self::Tls(_) => ConnectionOutcome::TlsFailed,
            Self::Status { status: 401, .. } => ConnectionOutcome::HttpUnauthorized,
            Self::Status { status: 403, .. } => ConnectionOutcome::HttpForbidden,
            Self::Status { status: 429, .. } => ConnectionOutcome::HttpTooManyRequests,
            Self::Status { status: 503, .. } => ConnectionOutcome::HttpUnavailable,
            Self::Status { .. } => ConnectionOutcome::HttpOther,
            Self::Handshake { .. } => ConnectionOutcome::HandshakeFailed,
        }
    }

    pub(crate) const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } | Self::Proxy(ProxyError::Refused { retry_after, .. }) => {
                *retry_after
            }
            _ => None,
        }
    }

    /// Returns whether another address of the host may succeed. False if a host has answered, or the error is
    /// local.
    pub(crate) const fn may_succeed_elsewhere(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. } | Self::Proxy(_) | Self::Tls(_) | Self::Handshake { .. }
        )
    }
}

impl ConnectionEnd {
    /// Converts an error of the WebSocket.
    pub(crate) fn of_socket(error: tungstenite::Error, limit: ByteSize) -> Self {
        use tungstenite::error::{CapacityError, ProtocolError};
        match error {
            tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => {
                Self::Broken { source: None }
            }
            tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
                Self::Broken { source: None }
            }
            tungstenite::Error::Io(source) => Self::Broken { source: Some(source) },
            tungstenite::Error::Utf8(_) => Self::InvalidUtf8,
            tungstenite::Error::Capacity(CapacityError::MessageTooLong { size, .. }) => Self::TooLarge {
                size: Some(size),
                limit,
            },
            tungstenite::Error::Capacity(_) => Self::TooLarge { size: None, limit },
            source => Self::Protocol { source },
        }
    }

    pub(crate) fn reason(&self) -> DisconnectReason {
        match self {
            Self::Unread { source } => source.reason(),
            Self::Stopped => DisconnectReason::Stopped,
            Self::Closed(_) => DisconnectReason::Closed,
            Self::Broken { .. } => DisconnectReason::Broken,
            Self::PongTimeout { .. } => DisconnectReason::PongTimeout,
            Self::IdleTimeout { .. } => DisconnectReason::IdleTimeout,
            Self::BadPong { .. } => DisconnectReason::BadPong,
            Self::Ended { .. } => DisconnectReason::Ended,
            Self::InvalidUtf8 => DisconnectReason::InvalidUtf8,
            Self::TooLarge { .. } => DisconnectReason::FrameTooLarge,
            Self::Protocol { .. } => DisconnectReason::ProtocolViolation,
            Self::TokenRefused { .. } => DisconnectReason::TokenRefused,
            Self::AuthTimeout { .. } => DisconnectReason::AuthTimeout,
            Self::Blocked { .. } => DisconnectReason::Blocked,
        }
    }

    /// Returns the original reason, without [`ConnectionEnd::Blocked`] and [`ConnectionEnd::Unread`] around it.
    pub(crate) fn root(&self) -> &Self {
        match self {
            Self::Blocked { source } | Self::Unread { source } => source.root(),
            lost => lost,
        }
    }

    /// Returns whether the connection ended because a frame of the server could not be read.
    pub(crate) fn is_unreadable_frame(&self) -> bool {
        matches!(
            self.root(),
            Self::TooLarge { .. } | Self::InvalidUtf8 | Self::Protocol { .. }
        )
    }

    /// Returns the outcome of the attempt, for a connection that was not authenticated.
    pub(crate) const fn outcome(&self) -> ConnectionOutcome {
        match self {
            Self::TokenRefused { .. } => ConnectionOutcome::TokenRefused,
            Self::AuthTimeout { .. } => ConnectionOutcome::AuthTimeout,
            _ => ConnectionOutcome::LostBeforeAuthenticated,
        }
    }
}

/// Returns the beginning of the text about a refusal.
const fn refusal(is_declared: bool) -> &'static str {
    if is_declared {
        "the feed refused the connection"
    } else {
        "the platform refused the token"
    }
}

/// Returns the name of a step of the opening, by its index; `None` for AUTH.
fn opening_step(step: Option<usize>) -> String {
    step.map_or_else(
        || "AUTH".to_owned(),
        |index| format!("step {} of the opening", index + 1),
    )
}

/// Formats an error and its causes as one sentence. Omits a cause whose text the sentence already ends with.
pub(crate) fn sentence(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.ends_with(&words) {
            write!(text, ": {words}").expect("a String takes all");
        }
        cause = error.source();
    }
    text
}

fn is_too_many_open_files(error: &io::Error) -> bool {
    // EMFILE for the process, ENFILE for the system; the standard library has no kind for them.
    matches!(error.raw_os_error(), Some(24 | 23))
}

/// Returns what an HTTP status other than 101 means, and what to do.
const fn explain_status(status: u16) -> &'static str {
    match status {
        401 => {
            "authentication required, but the feed authenticates with a token after the upgrade; check for a gateway \
             between the bridge and the feed"
        }
        403 => "access forbidden; check whether this address or network is allowed",
        404 => "no feed at this path; check `url`",
        407 => "a proxy requires a password; set the user and the password in `proxy`",
        429 => "too many connections or requests; retrying less often",
        500..=599 => "the server is temporarily unavailable",
        300..=399 => "the feed has moved; check `url`",
        200 => "not a WebSocket server; check `url`",
        _ => "expected 101, the upgrade to a WebSocket; check `url`",
    }
}

/// Returns the number of addresses that were tried, in parentheses.
fn tried(addresses: usize) -> String {
    match addresses {
        0 => String::new(),
        1 => " (1 address tried)".to_owned(),
        n => format!(" ({n} addresses tried)"),
    }
}

/// Returns the size that was found, in parentheses.
fn found(size: Option<usize>) -> String {
    size.map_or_else(String::new, |size| format!(" (found {size} bytes)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_text_contains_each_cause_once() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let address = "127.0.0.1:1".parse().unwrap();
        let error = DialError::of_connect(address, refused);
        assert_eq!(
            sentence(&error),
            "could not connect to 127.0.0.1:1: connection refused"
        );
        let broken = ConnectionEnd::of_socket(
            tungstenite::Error::Io(io::Error::from(io::ErrorKind::ConnectionReset)),
            ByteSize::from_mib(1),
        );
        assert_eq!(
            sentence(&broken),
            "the connection ended without a close frame: connection reset"
        );
    }

    #[test]
    fn too_many_open_files_has_its_own_outcome() {
        for code in [23, 24] {
            let error =
                DialError::of_connect("127.0.0.1:1".parse().unwrap(), io::Error::from_raw_os_error(code));
            assert_eq!(error.outcome(), ConnectionOutcome::TooManyOpenFiles);
            assert!(!error.may_succeed_elsewhere());
        }
    }
}
