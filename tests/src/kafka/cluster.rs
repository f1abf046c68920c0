//! Three brokers on one machine that replicate their topics.

use anyhow::Result;

use super::{Kafka, KafkaOptions, Member};

/// A cluster of three: the first is the controller too, the others may be struck while the cluster goes on.
#[derive(Debug)]
pub struct KafkaCluster {
    brokers: Vec<Kafka>,
}

impl KafkaCluster {
    /// Starts three brokers with the same options, one after the other, and waits until each answers.
    ///
    /// # Errors
    /// As [`Kafka::start`].
    pub fn start(options: &KafkaOptions) -> Result<Self> {
        let first = Kafka::start(options.clone())?;
        let controller = first.ports.controller;
        let mut brokers = vec![first];
        for node in 2..=3 {
            brokers.push(Kafka::start(KafkaOptions {
                member: Some(Member { node, controller }),
                ..options.clone()
            })?);
        }
        Ok(Self { brokers })
    }

    /// Returns `host:port` of all brokers, with commas between them.
    pub fn bootstrap(&self) -> String {
        let addresses: Vec<String> = self.brokers.iter().map(Kafka::bootstrap).collect();
        addresses.join(",")
    }

    /// Returns the brokers that are no controller, to be stopped, killed, frozen.
    pub fn followers(&mut self) -> &mut [Kafka] {
        &mut self.brokers[1..]
    }
}
