//! Whose fault an error is: the one place where that is decided, code by code.

use neurobridge_core::sink::{FaultKind, RejectionReason, SinkFault};
use rdkafka::types::RDKafkaErrorCode as Code;

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    /// The message's own, or that of another one in its batch: each is to be sent once more alone.
    Message(RejectionReason),
    /// The sink's as a whole. No message is to suffer for it.
    Sink(FaultKind),
    /// Another instance's, which has taken this one's place.
    Fenced,
    /// Nobody's: the client's queue is full.
    Full,
}

const CREATE_IT: &str = "create it, or set create = true with partitions and replicas";
const CREATE_THEM: &str = "create them, or set create = true with partitions and replicas";

/// Decides whose fault an error is. Every failed message is possibly stored all the same, whatever is decided here.
pub(crate) const fn blame(code: Code) -> Blame {
    use FaultKind::{Missing, Other, Timeout, Unauthorised, Unavailable, Unreachable};
    match code {
        // Larger than the topic takes. The broker refuses a batch, and librdkafka fails all of it.
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize => {
            Blame::Message(RejectionReason::TooLarge)
        }
        // The broker found fault with the record: no key in a compacted topic, for one. Older brokers do not say with
        // which record of the batch, newer ones do and the others come as `InvalidDifferentRecord`.
        Code::InvalidRecord | Code::InvalidDifferentRecord => Blame::Message(RejectionReason::Invalid),

        Code::QueueFull => Blame::Full,

        // A newer instance writes in our name. A new producer would fence that one in turn, and so on for ever.
        // librdkafka folds `InvalidProducerEpoch` into `Fenced` where it can.
        Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch => Blame::Fenced,

        // Permanent in librdkafka, and it fails every message of the topic. Taken for the messages' fault, one wrong
        // access rule would put the whole backlog into the dead letters.
        Code::TopicAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::GroupAuthorizationFailed => Blame::Sink(Unauthorised),
        // Who we are is not accepted; or, with TLS, who they are. Files may have been exchanged since, and only a new
        // client reads them.
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

        // It is there and takes nothing now. librdkafka tries most of these again by itself, without limit; what comes
        // through anyhow is tried again by us.
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

        // The rest, and with it what must not go by unnamed:
        // - `OutOfOrderSequenceNumber`, `UnknownProducerId`, `Fatal`, `Inconsistent`, `GaplessGuarantee`: this producer
        //   can't go on without a gap; a new one can, from the cursor.
        // - `PurgeQueue`, `PurgeInflight`: taken back by ourselves after another fault.
        // - `InvalidTimestamp`: the clocks differ, and all messages suffer alike.
        // - `UnsupportedCompressionType`, `PolicyViolation`, `InvalidRequiredAcks`: the configuration's fault.
        // - `InvalidMessage`: a checksum failed on the way; the message itself is whole.
        // To blame the sink for what is unknown costs time, to blame the message could cost the backlog.
        _ => Blame::Sink(Other),
    }
}

/// What an error of a connection is about. Since TLS 1.3 a refused client certificate is told after the handshake, and
/// librdkafka takes it for any other connection that broke.
pub(crate) fn of_connection(code: Code, reason: &str) -> Code {
    if code == Code::BrokerTransportFailure && reason.contains("SSL alert number") {
        Code::SSL
    } else {
        code
    }
}

/// The fault of a sink, with a sentence that says what to do. `topic` is where it happened, if it is known; `detail`
/// what librdkafka says besides the code.
pub(crate) fn fault(code: Code, topic: Option<&str>, detail: &str) -> SinkFault {
    let place = topic
        .map(|topic| format!("the topic \"{topic}\""))
        .unwrap_or_else(|| "Kafka".to_owned());
    let detail = match (without_state(detail), code) {
        ("", _) => words(code),
        // Says again what the sentence says.
        (detail, Code::BrokerTransportFailure) => detail.to_owned(),
        (detail, _) => format!("{}: {detail}", words(code)),
    };
    let kind = match blame(code) {
        Blame::Fenced => {
            let reason = format!(
                "another instance of this sink has taken over and fenced this one ({detail}); stop one of the two, then restart"
            );
            return SinkFault::fatal(FaultKind::Fenced, reason);
        }
        Blame::Sink(kind) => kind,
        // The callers ask about messages' faults first.
        Blame::Message(_) | Blame::Full => FaultKind::Other,
    };
    let advice = match (kind, code) {
        (FaultKind::Unauthorised, Code::SSL) => "check the certificates on both sides, and tls.ca_file",
        (FaultKind::Unauthorised, Code::TopicAuthorizationFailed) => {
            "give this user Write and Describe on it"
        }
        (FaultKind::Unauthorised, Code::ClusterAuthorizationFailed) => {
            "give this user Write on the topic, or IdempotentWrite on the cluster"
        }
        (FaultKind::Unauthorised, _) => "check sasl and tls of this sink",
        (FaultKind::Missing, Code::InvalidTopic) => "choose a name that Kafka allows",
        (FaultKind::Missing, _) => CREATE_IT,
        (FaultKind::Unreachable, _) => {
            "check bootstrap_servers, the brokers' advertised listeners and the network"
        }
        (FaultKind::Unavailable, _) => "look after the brokers",
        (FaultKind::Timeout, _) => "look after the brokers and the network",
        (_, Code::InvalidTimestamp) => "set the clocks of this machine and the brokers right",
        _ => "it is tried again with a new producer",
    };
    let verb = match kind {
        FaultKind::Unauthorised => "refuses us",
        FaultKind::Missing => "is not there",
        FaultKind::Unreachable => "can't be reached",
        FaultKind::Unavailable => "takes nothing now",
        FaultKind::Timeout => "does not answer in time",
        _ => "fails",
    };
    SinkFault::new(kind, format!("{place} {verb} ({detail}); {advice}"))
}

/// The fault of a sink some of whose topics are not there: all of them are named, so that they are made at once.
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
        format!("the topics {} are not there; {CREATE_THEM}", names.join(", ")),
    )
}

/// What a code means, without its name: librdkafka's own tools say no more.
fn words(code: Code) -> String {
    let named = code.to_string();
    match named.split_once(" (") {
        Some((_, words)) => words.trim_end_matches(')').to_owned(),
        None => named,
    }
}

/// What librdkafka says, without how long a connection was in which of its states, and how often it said so: "(after 2ms in
/// state CONNECT, 3 identical error(s) suppressed)".
pub(crate) fn without_state(detail: &str) -> &str {
    match detail.rfind(" (after ") {
        Some(end) if detail.ends_with(')') => &detail[..end],
        _ => detail,
    }
}

/// The fault of a producer in transactions that Kafka takes for an old one. Not the last word: Kafka says the same when
/// a transaction has outlived its time. What stands in the topic of cursors tells the two apart, at the next connect.
pub(crate) fn outdated(detail: &str) -> SinkFault {
    SinkFault::new(
        FaultKind::Fenced,
        format!(
            "Kafka takes this producer for an old one ({detail}): its transaction has taken too long, or another instance of \
             this sink has taken over; that is looked at now"
        ),
    )
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    /// All codes between the two ends of librdkafka's list.
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
        insta::assert_snapshot!(missing(&["entries", "letters"]), @r#"the topics "entries", "letters" are not there; create them, or set create = true with partitions and replicas"#);
    }

    #[test]
    fn faults_have_texts_and_only_fencing_is_final() {
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
        insta::assert_snapshot!(fault(Code::TopicAuthorizationFailed, Some("entries"), ""), @r#"the topic "entries" refuses us (Broker: Topic authorization failed); give this user Write and Describe on it"#);
        insta::assert_snapshot!(fault(Code::UnknownTopic, Some("entries"), ""), @r#"the topic "entries" is not there (Local: Unknown topic); create it, or set create = true with partitions and replicas"#);
        let away = "localhost:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused (after 0ms in state CONNECT, 1 identical error(s) suppressed)";
        insta::assert_snapshot!(fault(Code::BrokerTransportFailure, None, away), @"Kafka can't be reached (localhost:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused); check bootstrap_servers, the brokers' advertised listeners and the network");
        insta::assert_snapshot!(fault(Code::Authentication, None, "SASL authentication error: Authentication failed"), @"Kafka refuses us (Local: Authentication failure: SASL authentication error: Authentication failed); check sasl and tls of this sink");
    }
}
