//! The label values of a source's metrics and `/status`, as closed sets: states, outcomes and reasons.

use neurobridge_core::labels;
pub use neurobridge_core::labels::{Counts, Label};

labels! {
    /// The state of a source.
    #[non_exhaustive]
    pub enum SourceState {
        /// Opening a connection: name, TCP, proxy, TLS, upgrade.
        Dialling = "dialling",
        /// Connected, waiting for the answer to AUTH or to a step of a declared opening.
        Opening = "opening",
        /// Authenticated and reading. For a declared feed: its opening is complete.
        Authenticated = "authenticated",
        /// The token or the connection was refused; retrying with growing delay.
        Refused = "refused",
        /// Between two attempts.
        Waiting = "waiting",
        /// Authenticated, but not reading because of backpressure.
        Blocked = "blocked",
        /// Not connecting, because the program does not allow it: another member of a cluster connects.
        Standby = "standby",
    }
}

labels! {
    /// The result of a connection attempt. Each attempt has one, unless it was stopped.
    #[non_exhaustive]
    pub enum ConnectionOutcome {
        /// The token was accepted.
        Authenticated = "authenticated",
        /// A secret is not available: its file cannot be read or is empty, its variable is not set, or the token provider failed.
        TokenUnreadable = "token_unreadable",
        /// The host name could not be resolved, or has no address.
        ResolveFailed = "resolve_failed",
        /// No address accepted the TCP connection.
        ConnectFailed = "connect_failed",
        /// The connection was not open within `open_timeout`.
        OpenTimeout = "open_timeout",
        /// The process has no file descriptor left.
        TooManyOpenFiles = "too_many_open_files",
        /// The proxy refused the connection, did not answer with HTTP, or its password cannot be read.
        ProxyFailed = "proxy_failed",
        /// The TLS handshake failed, usually because of a certificate.
        TlsFailed = "tls_failed",
        /// HTTP 401 instead of an upgrade.
        HttpUnauthorized = "http_unauthorized",
        /// HTTP 403 instead of an upgrade.
        HttpForbidden = "http_forbidden",
        /// HTTP 429 instead of an upgrade.
        HttpTooManyRequests = "http_too_many_requests",
        /// HTTP 503 instead of an upgrade.
        HttpUnavailable = "http_unavailable",
        /// Another HTTP status instead of an upgrade.
        HttpOther = "http_other",
        /// The answer to the upgrade is not a WebSocket handshake.
        HandshakeFailed = "handshake_failed",
        /// The feed refused the token or the connection.
        TokenRefused = "token_refused",
        /// No answer to AUTH, or to a step of a declared opening, within the time limit.
        AuthTimeout = "auth_timeout",
        /// The connection was lost before AUTH was answered.
        LostBeforeAuthenticated = "lost_before_authenticated",
    }
}

labels! {
    /// Why an open WebSocket connection ended. Each open connection has one reason.
    #[non_exhaustive]
    pub enum DisconnectReason {
        /// The platform closed the connection with a close frame.
        Closed = "closed",
        /// The connection ended without a close frame.
        Broken = "broken",
        /// No answer to a ping.
        PongTimeout = "pong_timeout",
        /// No frame within the `idle_timeout` of a declared feed.
        IdleTimeout = "idle_timeout",
        /// An unexpected answer to a ping.
        BadPong = "bad_pong",
        /// A message of a declared feed that ends the events of the connection.
        Ended = "ended",
        /// A text frame that is not UTF-8.
        InvalidUtf8 = "invalid_utf8",
        /// A frame above `max_frame_size`.
        FrameTooLarge = "frame_too_large",
        /// A violation of the WebSocket protocol.
        ProtocolViolation = "protocol_violation",
        /// The connection ended during backpressure, or before the data that had accumulated meanwhile was
        /// read.
        Blocked = "blocked",
        /// The feed refused the token or the connection.
        TokenRefused = "token_refused",
        /// No answer to AUTH, or to a step of a declared opening, within the time limit.
        AuthTimeout = "auth_timeout",
        /// Another connection replaced this one: at its maximum age, after a change of a secret, token or address, because
        /// another source replaced this one, or because the feed allows one connection for each token.
        Replaced = "replaced",
        /// The source was stopped.
        Stopped = "stopped",
    }
}

labels! {
    /// The kinds of frames.
    #[non_exhaustive]
    pub enum FrameKind {
        /// One or more events.
        Event = "event",
        /// An answer to a ping.
        Pong = "pong",
        /// An answer of the opening, such as that to AUTH.
        Auth = "auth",
        /// An error of the feed.
        Error = "error",
        /// A message that requires a reply, such as a ping of a declared feed.
        Request = "request",
        /// A message that the declaration of the feed ignores.
        Ignored = "ignored",
        /// A frame that is not JSON or not UTF-8.
        NotJson = "not_json",
        /// JSON of a kind that the protocol of the feed does not define.
        Unknown = "unknown",
        /// A binary frame of a feed with text frames only: dropped, as by the platform's own clients.
        Binary = "binary",
        /// A ping or pong of the WebSocket protocol itself.
        Control = "control",
    }
}

labels! {
    /// The result of a gap: the time from the loss of an authenticated connection until the next one is
    /// authenticated.
    #[non_exhaustive]
    pub enum GapOutcome {
        /// The events that the feed sent during the gap are unknown to this process.
        Unrecovered = "unrecovered",
        /// The feed has `resume`: the next connection continued from the last stored event.
        Recovered = "recovered",
    }
}

/// Counts of connection attempts.
pub type ConnectionCounts = Counts<ConnectionOutcome, { ConnectionOutcome::ALL.len() }>;
/// Counts of connections that ended.
pub type DisconnectCounts = Counts<DisconnectReason, { DisconnectReason::ALL.len() }>;
/// Counts of frames.
pub type FrameCounts = Counts<FrameKind, { FrameKind::ALL.len() }>;
/// Counts of gaps.
pub type GapCounts = Counts<GapOutcome, { GapOutcome::ALL.len() }>;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn words<L: Label>() {
        let words: HashSet<_> = L::ALL.iter().map(|label| label.as_str()).collect();
        assert_eq!(words.len(), L::ALL.len());
        assert!(words.iter().all(|word| {
            word.chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        }));
        for (index, label) in L::ALL.iter().enumerate() {
            assert_eq!(label.index(), index);
        }
    }

    #[test]
    fn labels_are_unique_and_snake_case() {
        words::<SourceState>();
        words::<ConnectionOutcome>();
        words::<DisconnectReason>();
        words::<FrameKind>();
        words::<GapOutcome>();
    }

    #[test]
    fn all_labels_exist_from_the_start() {
        let mut counts = FrameCounts::default();
        assert_eq!(counts.iter().count(), FrameKind::ALL.len());
        counts.add(FrameKind::Binary, 2);
        let mut sum = counts;
        sum.merge(&counts);
        assert_eq!((sum.get(FrameKind::Binary), sum.total()), (4, 4));
    }
}
