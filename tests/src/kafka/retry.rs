//! Classifies the errors that a Kafka broker returns temporarily: while it is fenced, while it elects a leader, or on a busy
//! machine.

use std::time::Duration;

use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

/// The timeout of one metadata request, which is repeated if the broker does not answer.
pub(super) const METADATA_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns whether a request with this result should be repeated.
///
/// A cluster whose only broker is fenced refuses each new topic with "invalid replication factor".
pub(super) fn is_temporary(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::AllBrokersDown
            | Code::BrokerNotAvailable
            | Code::BrokerTransportFailure
            | Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::InvalidReplicationFactor
            | Code::LeaderNotAvailable
            | Code::NetworkException
            | Code::NotController
            | Code::NotCoordinator
            | Code::NotLeaderForPartition
            | Code::OperationTimedOut
            | Code::RequestTimedOut
            | Code::Resolve
            | Code::TimedOutQueue
            | Code::WaitingForCoordinator
    )
}

/// Returns whether a request with this result may have been executed, although its response was lost.
pub(super) fn may_be_done(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::BrokerTransportFailure
            | Code::NetworkException
            | Code::OperationTimedOut
            | Code::RequestTimedOut
    )
}

/// Returns the code of an error, including errors of administrative requests, for which rdkafka returns no code.
pub(super) fn code_of(error: &KafkaError) -> RDKafkaErrorCode {
    match error {
        KafkaError::AdminOp(code) => *code,
        error => error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_a_fenced_broker_are_temporary() {
        for code in [
            RDKafkaErrorCode::InvalidReplicationFactor,
            RDKafkaErrorCode::AllBrokersDown,
            RDKafkaErrorCode::RequestTimedOut,
        ] {
            assert!(is_temporary(code), "{code}");
        }
        for code in [
            RDKafkaErrorCode::UnknownTopicOrPartition,
            RDKafkaErrorCode::TopicAlreadyExists,
            RDKafkaErrorCode::InvalidConfig,
            RDKafkaErrorCode::TopicAuthorizationFailed,
        ] {
            assert!(!is_temporary(code), "{code}");
        }
    }
}
