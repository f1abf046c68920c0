//! The settings of other Kafka clients than a sink's producer, with the same keys, files and error texts.

use neurobridge_core::sink::SinkFault;
use rdkafka::{ClientConfig, error::KafkaError};

use crate::{config::KafkaConfig, error, properties};

/// Returns the properties of a client with the settings `bootstrap_servers`, `tls`, `sasl` and `properties`; the other keys are not
/// used. Reads the files of secrets; blocks for as long as this takes, within the limit of each file.
///
/// # Errors
/// Returns a fault if a file cannot be read.
pub fn client_config(config: &KafkaConfig, name: &str) -> Result<ClientConfig, SinkFault> {
    properties::client(config, name)
}

/// Creates the fault of an error, with advice on what to do. `topic`: where it occurred.
pub fn fault(error: &KafkaError, topic: &str) -> SinkFault {
    let code = error.rdkafka_error_code();
    code.map_or_else(
        || SinkFault::new(neurobridge_core::sink::FaultKind::Other, error.to_string()),
        |code| error::fault(code, Some(topic), ""),
    )
}
