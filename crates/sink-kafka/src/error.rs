//! Classifies errors as faults of a message or of the sink: the one place that decides, code by code.

use neurobridge_core::sink::{FaultKind, RejectionReason, SinkFault};
use rdkafka::types::RDKafkaErrorCode as Code;

/// The part at fault for an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    /// The message itself, or another message of its batch: each one has to be sent again alone.
    Message(RejectionReason),
    /// The sink as a whole. No message may be rejected for this error.
    Sink(FaultKind),
    /// Another instance, which has replaced this one.
    Fenced,
    /// No part is at fault: the client's queue is full.
    Full,
}

const CREATE_IT: &str = "create it, or set create = true with partitions and replicas";
const CREATE_THEM: &str = "create them, or set create = true with partitions and replicas";

/// Returns the part at fault for an error. A failed message may have been stored nevertheless, whatever is returned.
pub(crate) const fn blame(code: Code) -> Blame {
    use FaultKind::{Missing, Other, Timeout, Unauthorised, Unavailable, Unreachable};
    match code {
        // The message is larger than the topic allows. The broker rejects a whole batch, and librdkafka fails all of its
        // messages.
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize => {
            Blame::Message(RejectionReason::TooLarge)
        }
        // The broker has rejected the record, for example for a missing key in a compacted topic. Older brokers do not report
        // which record of the batch is invalid; newer ones do, and report the others as `InvalidDifferentRecord`.
        Code::InvalidRecord | Code::InvalidDifferentRecord => Blame::Message(RejectionReason::Invalid),

        Code::QueueFull => Blame::Full,

        // A newer instance writes with this producer's identity. A new producer would fence that instance in turn, and so on
        // forever. librdkafka converts `InvalidProducerEpoch` into `Fenced` where it can.
        Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch => Blame::Fenced,

        // Permanent in librdkafka, and fails every message of the topic. If the messages were blamed, one wrong access rule would
        // turn the whole backlog into dead letters.
        Code::TopicAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::GroupAuthorizationFailed => Blame::Sink(Unauthorised),
        // The broker does not accept our credentials or, with TLS, our client does not accept the broker's certificate. Files may
        // have been replaced since, and only a new client reads them.
        Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState
        | Code::SecurityDisabled
        | Code::SSL => Blame::Sink(Unauthorised),

        // A missing topic fails every message that has no partition yet.
        Code::UnknownTopic
        | Code::UnknownPartition
        | Code::UnknownTopicOrPartition
        | Code::UnknownTopicId
        | Code::InvalidTopic => Blame::Sink(Missing),

        // The topic or broker exists and is unavailable now. librdkafka retries most of these errors by itself, without limit;
        // the sink retries the ones that it reports nevertheless.
        Code::LeaderNotAvailable
        | Code::NotLeaderForPartition
        | Code::ReplicaNotAvailable
        | Code::BrokerNotAvailable
        | Code::NotEnoughReplicas
        | Code::NotEnoughReplicasAfterAppend
        | Code::ISRInsufficient
        | Code::KafkaStorageError
        | Code::ThrottlingQuotaExceeded
        | Code::NotController
        | Code::CoordinatorLoadInProgress
        | Code::CoordinatorNotAvailable
        | Code::NotCoordinator => Blame::Sink(Unavailable),

        Code::BrokerTransportFailure
        | Code::AllBrokersDown
        | Code::Resolve
        | Code::NetworkException
        | Code::UnknownBroker => Blame::Sink(Unreachable),

        Code::MessageTimedOut | Code::TimedOutQueue | Code::RequestTimedOut | Code::OperationTimedOut => {
            Blame::Sink(Timeout)
        }

        // All other codes, in particular these:
        // - `OutOfOrderSequenceNumber`, `UnknownProducerId`, `Fatal`, `Inconsistent`, `GaplessGuarantee`: this producer cannot
        //   continue without a gap; a new one can, from the cursor.
        // - `PurgeQueue`, `PurgeInflight`: this sink purged the message itself after another fault.
        // - `InvalidTimestamp`: the clocks differ, which affects all messages alike.
        // - `UnsupportedCompressionType`, `PolicyViolation`, `InvalidRequiredAcks`: a configuration error.
        // - `InvalidMessage`: a checksum failed in transit; the message itself is intact.
        // Blaming the sink for an unknown error costs time; blaming the message could cost the backlog.
        _ => Blame::Sink(Other),
    }
}

/// Returns the code that describes an error of a connection. Since TLS 1.3 a refused client certificate is reported after the
/// handshake, and librdkafka reports it as a broken connection.
pub(crate) fn of_connection(code: Code, reason: &str) -> Code {
    if code == Code::BrokerTransportFailure && reason.contains("SSL alert number") {
        Code::SSL
    } else {
        code
    }
}

/// Creates the fault of a sink, with advice on what to do. `topic`: where the error occurred, if known; `detail`: librdkafka's
/// text in addition to the code.
pub(crate) fn fault(code: Code, topic: Option<&str>, detail: &str) -> SinkFault {
    let place = topic
        .map(|topic| format!("the topic \"{topic}\""))
        .unwrap_or_else(|| "Kafka".to_owned());
    let detail = match (without_state(detail), code) {
        ("", _) => words(code),
        // The code's text would repeat the detail.
        (detail, Code::BrokerTransportFailure) => detail.to_owned(),
        (detail, _) => format!("{}: {detail}", words(code)),
    };
    let kind = match blame(code) {
        Blame::Fenced => {
            let reason = format!(
                "another instance of this sink has taken over and fenced this instance ({detail}); stop one of the \
                 two instances, then restart the bridge"
            );
            return SinkFault::fatal(FaultKind::Fenced, reason);
        }
        Blame::Sink(kind) => kind,
        // The callers handle the errors of messages before they call this function.
        Blame::Message(_) | Blame::Full => FaultKind::Other,
    };
    let advice = match (kind, code) {
        (FaultKind::Unauthorised, Code::SSL) => "check the certificates on both sides, and tls.ca_file",
        (FaultKind::Unauthorised, Code::TopicAuthorizationFailed) => {
            "grant this user Write and Describe on the topic"
        }
        (FaultKind::Unauthorised, Code::ClusterAuthorizationFailed) => {
            "grant this user Write on the topic, or IdempotentWrite on the cluster"
        }
        (FaultKind::Unauthorised, _) => "check sasl and tls of this sink",
        (FaultKind::Missing, Code::InvalidTopic) => "choose a name that Kafka allows",
        (FaultKind::Missing, _) => CREATE_IT,
        (FaultKind::Unreachable, _) => {
            "check bootstrap_servers, the brokers' advertised listeners and the network"
        }
        (FaultKind::Unavailable, _) => "check the brokers",
        (FaultKind::Timeout, _) => "check the brokers and the network",
        (_, Code::InvalidTimestamp) => "correct the clocks of this machine and of the brokers",
        _ => "retried with a new producer",
    };
    let verb = match kind {
        FaultKind::Unauthorised => "denies access",
        FaultKind::Missing => "does not exist",
        FaultKind::Unreachable => "cannot be reached",
        FaultKind::Unavailable => "accepts no messages now",
        FaultKind::Timeout => "does not answer in time",
        _ => "fails",
    };
    SinkFault::new(kind, format!("{place} {verb} ({detail}); {advice}"))
}

/// Creates the fault of a sink with missing topics. The fault names all of them, so that the user creates them at once.
pub(crate) fn missing(topics: &[&str]) -> SinkFault {
    let [first, others @ ..] = topics else {
        return fault(Code::UnknownTopicOrPartition, None, "");
    };
    let fault = fault(Code::UnknownTopicOrPartition, Some(first), "");
    if others.is_empty() {
        return fault;
    }
    let names = topics
        .iter()
        .map(|topic| format!("\"{topic}\""))
        .collect::<Vec<_>>();
    SinkFault::new(
        fault.kind,
        format!("the topics {} do not exist; {CREATE_THEM}", names.join(", ")),
    )
}

/// Returns the text of a code without its name.
fn words(code: Code) -> String {
    let named = code.to_string();
    match named.split_once(" (") {
        Some((_, words)) => words.trim_end_matches(')').to_owned(),
        None => named,
    }
}

/// Removes the time that a connection spent in a state, and the number of repetitions, from librdkafka's text: "(after 2ms in
/// state CONNECT, 3 identical error(s) suppressed)".
pub(crate) fn without_state(detail: &str) -> &str {
    match detail.rfind(" (after ") {
        Some(end) if detail.ends_with(')') => &detail[..end],
        _ => detail,
    }
}

/// Creates the fault of a transactional producer that Kafka considers outdated. Kafka reports the same error when a transaction
/// has timed out, so the fault is not final: the next connect reads the cursor topic, which distinguishes the two cases.
pub(crate) fn outdated(detail: &str) -> SinkFault {
    SinkFault::new(
        FaultKind::Fenced,
        format!(
            "Kafka considers this producer outdated ({detail}): its transaction exceeded the time limit, or another \
             instance of this sink has taken over; the next connect determines which of the two is the cause"
        ),
    )
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    /// Returns all codes between the two ends of librdkafka's list.
    fn all() -> impl Iterator<Item = Code> {
        (-200..200)
            .filter_map(|number| rdkafka::types::RDKafkaRespErr::try_from(number).ok())
            .map(Code::from)
            .filter(|code| !matches!(code, Code::NoError | Code::Begin | Code::End | Code::EndAll))
    }

    #[test]
    fn every_error_code_is_classified() {
        let mut table = String::new();
        for code in all() {
            writeln!(table, "{code:?}: {:?}", blame(code)).unwrap();
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn only_size_and_invalid_record_reject_a_message() {
        let own: Vec<_> = all()
            .filter(|code| matches!(blame(*code), Blame::Message(_)))
            .collect();
        assert_eq!(
            own,
            [
                Code::InvalidDifferentRecord,
                Code::InvalidMessageSize,
                Code::MessageSizeTooLarge,
                Code::MessageBatchTooLarge,
                Code::InvalidRecord
            ]
        );
    }

    #[test]
    fn rejected_client_certificate_is_named() {
        let alert =
            "Receive failed: error:0A000412:SSL routines::ssl/tls alert bad certificate: SSL alert number 42";
        assert_eq!(of_connection(Code::BrokerTransportFailure, alert), Code::SSL);
        assert_eq!(
            of_connection(Code::BrokerTransportFailure, "Connection refused"),
            Code::BrokerTransportFailure
        );
    }

    #[test]
    fn all_missing_topics_are_reported() {
        let one = missing(&["entries"]);
        assert_eq!((one.kind, one.reason), {
            let fault = fault(Code::UnknownTopicOrPartition, Some("entries"), "");
            (FaultKind::Missing, fault.reason)
        });
        insta::assert_snapshot!(missing(&["entries", "letters"]), @r#"the topics "entries", "letters" do not exist; create them, or set create = true with partitions and replicas"#);
    }

    #[test]
    fn faults_are_explained_and_only_fencing_is_final() {
        for code in all().filter(|code| matches!(blame(*code), Blame::Sink(_))) {
            let fault = fault(code, Some("entries"), "");
            assert!(!fault.is_final, "{code:?}");
            assert!(
                fault.reason.contains("\"entries\"") && fault.reason.contains("; "),
                "{fault}"
            );
        }
        for code in [Code::Fenced, Code::InvalidProducerEpoch, Code::ProducerFenced] {
            let fault = fault(code, None, "");
            assert!(fault.is_final && fault.kind == FaultKind::Fenced, "{fault}");
        }
        insta::assert_snapshot!(fault(Code::TopicAuthorizationFailed, Some("entries"), ""), @r#"the topic "entries" denies access (Broker: Topic authorization failed); grant this user Write and Describe on the topic"#);
        insta::assert_snapshot!(fault(Code::UnknownTopic, Some("entries"), ""), @r#"the topic "entries" does not exist (Local: Unknown topic); create it, or set create = true with partitions and replicas"#);
        let away = "localhost:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused (after 0ms in state CONNECT, 1 identical error(s) suppressed)";
        insta::assert_snapshot!(fault(Code::BrokerTransportFailure, None, away), @"Kafka cannot be reached (localhost:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused); check bootstrap_servers, the brokers' advertised listeners and the network");
        insta::assert_snapshot!(fault(Code::Authentication, None, "SASL authentication error: Authentication failed"), @"Kafka denies access (Local: Authentication failure: SASL authentication error: Authentication failed); check sasl and tls of this sink");
    }
}
