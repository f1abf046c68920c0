//! Classifies errors as faults of a message or of the sink: the one place that decides, code by code.

use std::{error::Error, io};

use async_nats::{ConnectError, ConnectErrorKind, Event, RequestErrorKind, ServerError};
use neurobridge_core::{
    event::Sequence,
    sink::{FaultKind, RejectionReason, SinkFault},
    tls,
};
use serde::Deserialize;

/// The part at fault for an error of JetStream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    /// The message itself.
    Message(RejectionReason),
    /// The sink as a whole. No message may be rejected for this error.
    Sink(FaultKind),
    /// The last message of the stream is not the expected one.
    Order,
    /// A message with the same id is being stored: the result is not known yet.
    SameId,
}

/// An error in an answer of JetStream.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ApiError {
    /// The class of the error, as in HTTP.
    pub code: u16,
    /// The exact error; 0 from servers that do not report it.
    #[serde(default)]
    pub err_code: u32,
    /// The server's text.
    #[serde(default)]
    pub description: String,
}

/// The stream does not exist.
pub(crate) const STREAM_NOT_FOUND: u32 = 10059;
/// The stream has no message at that position.
pub(crate) const NO_MESSAGE: u32 = 10037;
/// A stream of this name exists with another configuration: another client has created it first.
pub(crate) const STREAM_NAME_IN_USE: u32 = 10058;

/// Returns the part at fault for an error. The numbers are those of nats-server's `errors.json`.
pub(crate) const fn blame(error: &ApiError) -> Blame {
    use FaultKind::{Missing, Other, Timeout, Unauthorised, Unavailable};
    match error.err_code {
        // Larger than the stream's `max_msg_size`; headers of more than 64 KiB.
        10054 | 10097 => Blame::Message(RejectionReason::TooLarge),

        // Wrong last message id, wrong last sequence (with the number in its text, and without).
        10070 | 10071 | 10164 => Blame::Order,

        STREAM_NOT_FOUND => Blame::Sink(Missing),
        // JetStream is off for this account, or on this server; another stream than the expected one has the subject.
        10039 | 10076 | 10060 => Blame::Sink(Missing),

        // The stream is full (`discard = new` and a limit reached, for all subjects or one), or the disk is.
        10077 => Blame::Sink(Unavailable),
        // The memory or disk quota of an account or server is used up.
        10002 | 10023 | 10028 | 10047 => Blame::Sink(Unavailable),
        // The cluster has no leader, or loses it at this moment; servers for the replicas are missing; it is offline.
        10004 | 10005 | 10007 | 10008 | 10009 | 10118 | 10194 => Blame::Sink(Unavailable),
        // An administrator has sealed the stream.
        10109 => Blame::Sink(Unavailable),
        // More messages are in flight to the stream than the server buffers for it.
        10167 => Blame::Sink(Unavailable),
        10158 => Blame::SameId,

        // Other numbers are classified by the class of the error. Blaming the sink for an unknown error costs time; blaming the
        // message could cost the backlog.
        _ => match error.code {
            401 | 403 => Blame::Sink(Unauthorised),
            408 => Blame::Sink(Timeout),
            429 | 503 => Blame::Sink(Unavailable),
            _ => Blame::Sink(Other),
        },
    }
}

/// Creates the fault of the stream that answered with an error, with advice on what to do.
pub(crate) fn fault(error: &ApiError, stream: &str) -> SinkFault {
    let detail = format!("{} (error {})", error.description, error.err_code);
    let kind = match blame(error) {
        Blame::Sink(kind) => kind,
        Blame::Order => {
            return SinkFault::new(
                FaultKind::Other,
                format!(
                    "the last message of the stream \"{stream}\" is not the expected one: {detail}; the sink reads the stream, \
                     and publishes the missing events again. If this repeats, another client publishes to the stream: use a \
                     separate stream for the sink, or set order = \"relaxed\""
                ),
            );
        }
        Blame::SameId => FaultKind::Unavailable,
        // The callers handle messages' errors before they call this function.
        Blame::Message(_) => FaultKind::Other,
    };
    let advice = match (kind, error.err_code) {
        (FaultKind::Missing, 10039 | 10076) => "enable JetStream, or set mode = \"core\"",
        (FaultKind::Missing, 10060) => "configure only one stream with the subjects of this sink",
        (FaultKind::Missing, _) => "create it, or set stream.create = true with max_age and replicas",
        (FaultKind::Unavailable, 10077) => {
            "free space in the stream: it is full, and its discard policy rejects new messages"
        }
        (FaultKind::Unavailable, 10109) => "use another stream",
        (FaultKind::Unavailable, 10167) => "lower max_in_flight, or raise the server's max_buffered_msgs",
        (FaultKind::Unauthorised, _) => "check auth, and the permissions of this user",
        _ => "check the servers",
    };
    let verb = match kind {
        FaultKind::Missing if error.err_code == STREAM_NOT_FOUND => "does not exist",
        FaultKind::Missing => "cannot be used",
        FaultKind::Unavailable => "accepts no messages now",
        FaultKind::Unauthorised => "denies access",
        FaultKind::Timeout => "does not answer in time",
        _ => "fails",
    };
    SinkFault::new(
        kind,
        format!("the stream \"{stream}\" {verb}: {detail}; {advice}"),
    )
}

/// Creates the fault of the stream that stores the subject of dead letters.
pub(crate) fn of_dead_letter(error: &ApiError, subject: &str) -> SinkFault {
    SinkFault::new(
        fault(error, subject).kind,
        format!(
            "cannot store a dead letter under \"{subject}\": {} (error {}); check the stream of that subject; no event is lost \
             meanwhile",
            error.description, error.err_code
        ),
    )
}

/// Creates the fault of a stream that has stored a message at another position than the requested one.
pub(crate) fn misplaced(stream: &str, expected: u64, found: u64) -> SinkFault {
    SinkFault::new(
        FaultKind::Other,
        format!(
            "the stream \"{stream}\" has stored an event at {found}, expected {expected}: the server ignores \
             Nats-Expected-Last-Sequence; update the server, or set order = \"relaxed\""
        ),
    )
}

/// Creates the fault of a subject without a receiver: status 503, "no responders".
pub(crate) fn no_responders(what: &str, sequence: Sequence, subject: &str) -> SinkFault {
    SinkFault::new(
        FaultKind::Unavailable,
        format!(
            "no stream accepts {what} {sequence} (\"{subject}\") now: the stream of this subject has no leader or \
             was removed, or JetStream is disabled; check the servers; retried"
        ),
    )
}

/// Creates the fault of a request to JetStream's API that was not answered.
pub(crate) fn of_request(kind: RequestErrorKind) -> SinkFault {
    match kind {
        RequestErrorKind::NoResponders => SinkFault::new(
            FaultKind::Missing,
            "JetStream does not answer: it is disabled on this server or for this account, or its cluster has no \
             leader; enable JetStream, or set mode = \"core\"",
        ),
        RequestErrorKind::TimedOut => SinkFault::new(
            FaultKind::Timeout,
            "JetStream does not answer in time; check the servers and the network",
        ),
        other => SinkFault::new(
            FaultKind::Unreachable,
            format!("the connection to NATS broke during a request ({other}); retried"),
        ),
    }
}

/// The text that a server sends before it closes a connection because a line exceeded its `max_control_line`.
const LINE_TOO_LONG: &str = "maximum control line";

/// Creates the fault of an answer of JetStream that cannot be parsed. `what`: the request.
pub(crate) fn unreadable(what: &str, cause: &serde_json::Error) -> SinkFault {
    SinkFault::new(
        FaultKind::Other,
        format!(
            "JetStream's answer to {what} cannot be read: {cause}; expected an answer of nats-server 2.9 or later"
        ),
    )
}

/// Returns whether the server reports that a protocol line is too long.
pub(crate) fn is_line_too_long(event: &Event) -> bool {
    matches!(event, Event::ServerError(ServerError::Other(text)) if text.to_lowercase().contains(LINE_TOO_LONG))
}

/// Returns the fault for an event of the client, if the event is a fault.
pub(crate) fn of_event(event: &Event) -> Option<SinkFault> {
    match event {
        Event::Disconnected | Event::Closed => Some(broken()),
        Event::ServerError(error) => of_server(error),
        // The buffer has room for the acknowledgements of all messages in flight. In a cluster without JetStream, the
        // messages of the leader may exceed it.
        Event::SlowConsumer(_) => Some(SinkFault::new(
            FaultKind::Other,
            "the client's buffer for received messages is full, so some messages were dropped; reconnecting",
        )),
        // After announcing lame-duck mode the server closes the connection; only then does the sink look for another server.
        // Reports about the client's reconnects are ignored: the client is configured not to reconnect.
        Event::Connected | Event::LameDuckMode | Event::Draining | Event::ClientError(_) => None,
    }
}

/// Creates the fault of a consumer that the server does not create.
pub(crate) fn of_consumer(error: &ApiError, stream: &str) -> SinkFault {
    let SinkFault { kind, reason, .. } = fault(error, stream);
    SinkFault::new(
        kind,
        format!("cannot create the consumer through which a member of a cluster reads the stream: {reason}"),
    )
}

/// Creates the fault of a broken connection for which the client has reported no cause.
pub(crate) fn broken() -> SinkFault {
    SinkFault::new(
        FaultKind::Unreachable,
        "the connection to NATS broke; unacknowledged events are sent again",
    )
}

/// Creates the fault for an error of a server. The text decides, because the protocol has no codes.
fn of_server(error: &ServerError) -> Option<SinkFault> {
    let ServerError::Other(text) = error else {
        return Some(unauthorised(&error.to_string(), "check auth"));
    };
    let lower = text.to_lowercase();
    if lower.contains(LINE_TOO_LONG) {
        return Some(SinkFault::new(
            FaultKind::Unavailable,
            format!(
                "the server closed the connection: {text}; events with such long subjects become dead letters; raise the \
                 server's max_control_line, or shorten subject"
            ),
        ));
    }
    if lower.contains("permissions violation") {
        let advice = if lower.contains("for subscription") {
            "grant this user the right to subscribe to _INBOX.>, and in a cluster without JetStream to the subjects of the events"
        } else {
            "grant this user the right to publish to this subject"
        };
        return Some(unauthorised(text, advice));
    }
    // "User Authentication Expired", "Account Authentication Expired", "User Authentication Revoked", …
    if lower.contains("authentication") || lower.contains("authorization") {
        return Some(unauthorised(text, "check auth"));
    }
    // Other errors of a server ("Stale Connection", "Maximum Connections Exceeded") precede the close of the connection.
    Some(SinkFault::new(
        FaultKind::Unavailable,
        format!("the server reports \"{text}\"; check the servers; retried"),
    ))
}

fn unauthorised(text: &str, advice: &str) -> SinkFault {
    SinkFault::new(
        FaultKind::Unauthorised,
        format!("NATS denies access: {text}; {advice}"),
    )
}

/// Creates the fault of a failed connection attempt.
pub(crate) fn of_connect(error: &ConnectError, server: &str) -> SinkFault {
    let detail = causes(error);
    let tls_error = tls_error(error);
    if let Some(rustls::Error::InvalidCertificate(refusal)) = tls_error {
        return SinkFault::new(
            FaultKind::Unauthorised,
            format!(
                "no encrypted connection to {server}: its certificate {}",
                tls::describe_certificate_error(refusal, "servers")
            ),
        );
    }
    if tls_error.is_some() {
        return SinkFault::new(
            FaultKind::Unauthorised,
            format!(
                "no encrypted connection to {server} ({detail}); check the certificates on both sides, and tls"
            ),
        );
    }
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            unauthorised(&detail, "check auth")
        }
        // Errors of certificates were handled above; this error concerns the setup of TLS.
        ConnectErrorKind::Tls => SinkFault::new(
            FaultKind::Unauthorised,
            format!("TLS fails ({detail}); check tls"),
        ),
        ConnectErrorKind::ServerParse => SinkFault::new(
            FaultKind::Other,
            format!("an address in servers cannot be parsed ({detail}); check servers"),
        ),
        _ if detail.to_lowercase().contains("authentication") => unauthorised(&detail, "check auth"),
        _ => SinkFault::new(
            FaultKind::Unreachable,
            format!("{server} cannot be reached ({detail}); check servers and the network"),
        ),
    }
}

/// Creates the fault of an attempt at several servers: the first fault of a server that was reached, otherwise the reasons of
/// all.
pub(crate) fn of_servers(mut faults: Vec<SinkFault>) -> SinkFault {
    let furthest = faults
        .iter()
        .position(|fault| fault.kind != FaultKind::Unreachable);
    if let Some(furthest) = furthest {
        return faults.swap_remove(furthest);
    }
    let reasons: Vec<&str> = faults.iter().map(|fault| fault.reason.as_str()).collect();
    match reasons.as_slice() {
        [one] => SinkFault::new(FaultKind::Unreachable, *one),
        all => SinkFault::new(
            FaultKind::Unreachable,
            format!("none of {} servers can be reached: {}", all.len(), all.join("; ")),
        ),
    }
}

fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Many errors repeat their cause in their own text.
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// Returns the TLS error among the causes: one side does not accept the other's certificate. Since TLS 1.3 a refused client
/// certificate is reported after the handshake, as a read error.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    // An `io::Error` contains its inner error in addition to its source.
    let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    error
        .downcast_ref()
        .or_else(|| inner?.downcast_ref())
        .or_else(|| tls_error(error.source()?))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    fn error(code: u16, err_code: u32, description: &str) -> ApiError {
        ApiError {
            code,
            err_code,
            description: description.into(),
        }
    }

    #[test]
    fn every_error_code_is_classified() {
        let mut table = String::new();
        for err_code in 10_000..10_300 {
            let blame = blame(&error(400, err_code, ""));
            if blame != Blame::Sink(FaultKind::Other) {
                writeln!(table, "{err_code}: {blame:?}").unwrap();
            }
        }
        for code in [400, 401, 403, 404, 408, 409, 429, 500, 503] {
            writeln!(table, "{code}: {:?}", blame(&error(code, 0, ""))).unwrap();
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn only_size_rejects_a_message() {
        let own: Vec<_> = (0..20_000)
            .filter(|err_code| matches!(blame(&error(400, *err_code, "")), Blame::Message(_)))
            .collect();
        assert_eq!(own, [10054, 10097]);
    }

    #[test]
    fn faults_are_explained_and_none_is_final() {
        for err_code in (10_000..10_300)
            .filter(|err_code| !matches!(blame(&error(400, *err_code, "")), Blame::Message(_)))
        {
            let fault = fault(&error(400, err_code, "so it is"), "ENTRIES");
            assert!(
                !fault.is_final && fault.reason.contains("\"ENTRIES\"") && fault.reason.contains("; "),
                "{fault}"
            );
        }
        insta::assert_snapshot!(fault(&error(503, 10077, "maximum messages exceeded"), "ENTRIES"), @r#"the stream "ENTRIES" accepts no messages now: maximum messages exceeded (error 10077); free space in the stream: it is full, and its discard policy rejects new messages"#);
        insta::assert_snapshot!(fault(&error(404, 10059, "stream not found"), "ENTRIES"), @r#"the stream "ENTRIES" does not exist: stream not found (error 10059); create it, or set stream.create = true with max_age and replicas"#);
    }

    #[test]
    fn server_errors_are_classified() {
        let kind = |text: &str| {
            of_event(&Event::ServerError(ServerError::Other(text.into())))
                .unwrap()
                .kind
        };
        for refusal in [
            "Permissions Violation for Publish to \"a\"",
            "Permissions Violation for Subscription to \"_INBOX.x.*\"",
            "User Authentication Expired",
            "Account Authentication Expired",
        ] {
            assert_eq!(kind(refusal), FaultKind::Unauthorised, "{refusal}");
        }
        assert_eq!(kind("Stale Connection"), FaultKind::Unavailable);
        assert_eq!(
            of_event(&Event::ServerError(ServerError::AuthorizationViolation))
                .unwrap()
                .kind,
            FaultKind::Unauthorised
        );
        assert_eq!(
            of_event(&Event::Disconnected).unwrap().kind,
            FaultKind::Unreachable
        );
        assert!(of_event(&Event::Connected).is_none() && of_event(&Event::LameDuckMode).is_none());
    }
}
