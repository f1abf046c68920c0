//! Three brokers on one machine that replicate their topics.

use anyhow::Result;

use super::{Kafka, KafkaOptions, Member};

/// A cluster of three brokers. The first is also the controller; tests may stop the others while the cluster keeps
/// running.
#[derive(Debug)]
pub struct KafkaCluster {
    brokers: Vec<Kafka>,
}

impl KafkaCluster {
    /// Starts three brokers with the same options in sequence, and waits until each answers.
    ///
    /// # Errors
    /// Returns an error in the same cases as [`Kafka::start`].
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

    /// Returns `host:port` of all brokers, separated by commas.
    pub fn bootstrap(&self) -> String {
        let addresses: Vec<String> = self.brokers.iter().map(Kafka::bootstrap).collect();
        addresses.join(",")
    }

    /// Returns the brokers other than the controller, which tests may stop, kill and freeze.
    pub fn followers(&mut self) -> &mut [Kafka] {
        &mut self.brokers[1..]
    }
}
