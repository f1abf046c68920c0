//! The trial of a lease for `check --connect`.

use neurobridge_core::sink::SinkFault;

use crate::config::{ClusterConfig, LeaseConfig};
#[cfg(feature = "nats")]
use crate::nats::NatsEngine;

impl ClusterConfig {
    /// Connects to the engine of the lease and checks that it is suitable; creates and writes nothing. Returns a text for
    /// each thing that is still missing and that `run` creates.
    ///
    /// # Errors
    /// Returns a fault if the engine cannot be reached, or is unsuitable.
    pub async fn probe(&self, member: &str) -> Result<Vec<String>, SinkFault> {
        match self.lease {
            #[cfg(feature = "kafka")]
            LeaseConfig::Kafka(ref lease) => crate::kafka::probe(lease.clone(), member.to_owned()).await,
            #[cfg(feature = "nats")]
            LeaseConfig::Nats(ref lease) => {
                let engine = NatsEngine::new(lease.clone(), self.name.clone(), member.to_owned());
                let exists = engine.probe().await?;
                let created = format!(
                    "the bucket \"{}\" does not exist; the bridge creates the bucket when it starts",
                    lease.bucket
                );
                Ok(if exists { Vec::new() } else { vec![created] })
            }
        }
    }
}
