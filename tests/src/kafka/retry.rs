//! What a broker refuses for a moment: while it is fenced, elects a leader, or runs on a busy machine.

use std::time::Duration;

use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

/// One metadata request; a broker that does not answer is asked again.
pub(super) const METADATA_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns whether a request with this result is to be sent again.
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

/// Returns whether a request with this result may have been executed: its answer was lost.
pub(super) fn was_perhaps_done(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::BrokerTransportFailure
            | Code::NetworkException
            | Code::OperationTimedOut
            | Code::RequestTimedOut
    )
}

/// Returns the code of an error, of the requests of administrators too (rdkafka leaves these out).
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
    fn a_fenced_broker_is_temporary_and_a_missing_topic_final() {
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
