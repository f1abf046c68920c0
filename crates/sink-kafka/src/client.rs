//! Settings and faults of Kafka clients outside of a sink, such as that of a cluster's lease: with the configuration keys, files
//! and error texts of a sink.

use neurobridge_core::sink::SinkFault;
use rdkafka::{ClientConfig, error::KafkaError};

use crate::{config::KafkaConfig, error, properties};

/// Returns the properties of a client with the settings `bootstrap_servers`, `tls`, `sasl` and `properties`; the other keys are
/// not used. Reads the files of secrets, and blocks meanwhile, at most for the time limit of each file.
///
/// # Errors
/// Returns a fault if a file cannot be read.
pub fn client_config(config: &KafkaConfig, name: &str) -> Result<ClientConfig, SinkFault> {
    properties::client(config, name)
}

/// Creates the fault of an error, with advice on what to do. `topic`: the topic at which the error occurred.
pub fn fault(error: &KafkaError, topic: &str) -> SinkFault {
    let code = error.rdkafka_error_code();
    code.map_or_else(
        || SinkFault::new(neurobridge_core::sink::FaultKind::Other, error.to_string()),
        |code| error::fault(code, Some(topic), ""),
    )
}
