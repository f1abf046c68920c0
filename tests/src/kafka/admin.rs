//! Topics: made, changed, removed, by a client in this process (milliseconds, where Kafka's own tools take a second).

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::types::RDKafkaErrorCode;

use crate::poll::{block_on, wait_until};

const TIMEOUT: Duration = Duration::from_secs(30);

/// Administers the topics of one broker.
pub struct KafkaAdmin {
    client: AdminClient<DefaultClientContext>,
    options: AdminOptions,
}

impl KafkaAdmin {
    /// Makes a client of the broker at `host:port`, over plain text. It connects when first used.
    ///
    /// # Errors
    /// When librdkafka refuses the address.
    pub fn new(bootstrap: &str) -> Result<Self> {
        let client = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .create()
            .with_context(|| format!("making a client of {bootstrap}"))?;
        let options = AdminOptions::new()
            .request_timeout(Some(TIMEOUT))
            .operation_timeout(Some(TIMEOUT));
        Ok(Self { client, options })
    }

    /// Creates a topic of one replica and waits until it can be written to.
    ///
    /// # Errors
    /// When it exists already, or the broker refuses.
    pub fn create_topic(&self, topic: &str, partitions: u16, config: &[(&str, &str)]) -> Result<()> {
        let mut new = NewTopic::new(topic, i32::from(partitions), TopicReplication::Fixed(1));
        for (key, value) in config {
            new = new.set(key, value);
        }
        let results = block_on(self.client.create_topics([&new], &self.options));
        one(results.with_context(|| format!("creating the topic {topic}"))?)
            .with_context(|| format!("creating the topic {topic}"))?;
        let partitions = usize::from(partitions);
        wait_until(&format!("the leaders of {topic}"), TIMEOUT, || {
            self.leaders(topic) == partitions
        })
    }

    /// Deletes a topic and waits until the broker knows it no longer.
    ///
    /// # Errors
    /// When there is no such topic, or the broker refuses.
    pub fn delete_topic(&self, topic: &str) -> Result<()> {
        let results = block_on(self.client.delete_topics(&[topic], &self.options));
        one(results.with_context(|| format!("deleting the topic {topic}"))?)
            .with_context(|| format!("deleting the topic {topic}"))?;
        wait_until(&format!("the end of {topic}"), TIMEOUT, || {
            self.leaders(topic) == 0
        })
    }

    /// Raises the number of a topic's partitions.
    ///
    /// # Errors
    /// When the topic has as many already, or the broker refuses.
    pub fn grow_topic(&self, topic: &str, partitions: u16) -> Result<()> {
        let new = NewPartitions::new(topic, usize::from(partitions));
        let results = block_on(self.client.create_partitions([&new], &self.options));
        one(results.with_context(|| format!("adding partitions to {topic}"))?)
            .with_context(|| format!("adding partitions to {topic}"))?;
        let partitions = usize::from(partitions);
        wait_until(&format!("the leaders of {topic}"), TIMEOUT, || {
            self.leaders(topic) == partitions
        })
    }

    /// Replaces a topic's configuration: entries that are not named go back to their defaults.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn configure_topic(&self, topic: &str, config: &[(&str, &str)]) -> Result<()> {
        let mut change = AlterConfig::new(ResourceSpecifier::Topic(topic));
        for (key, value) in config {
            change = change.set(key, value);
        }
        let results = block_on(self.client.alter_configs([&change], &self.options));
        let results = results.with_context(|| format!("configuring the topic {topic}"))?;
        let results = results
            .into_iter()
            .map(|result| result.map(drop).map_err(|(_, code)| code))
            .collect();
        first(results).with_context(|| format!("configuring the topic {topic}"))?;
        // The controller has it; the broker learns of it a moment later.
        wait_until("the broker to know a topic's configuration", TIMEOUT, || {
            self.is_configured(topic, config)
        })
    }

    fn is_configured(&self, topic: &str, config: &[(&str, &str)]) -> bool {
        let specifier = ResourceSpecifier::Topic(topic);
        let described = block_on(self.client.describe_configs([&specifier], &self.options));
        let Some(Ok(described)) = described.ok().and_then(|all| all.into_iter().next()) else {
            return false;
        };
        let is_so = |(key, value): &(&str, &str)| {
            let entry = described.get(key);
            entry.is_some_and(|entry| entry.value.as_deref() == Some(*value))
        };
        config.iter().all(is_so)
    }

    /// Returns how many of a topic's partitions have a leader; 0 when there is no such topic.
    pub fn leaders(&self, topic: &str) -> usize {
        let Ok(metadata) = self.client.inner().fetch_metadata(Some(topic), TIMEOUT) else {
            return 0;
        };
        let found = metadata.topics().iter().filter(|found| found.error().is_none());
        found
            .flat_map(|found| found.partitions())
            .filter(|partition| partition.leader() >= 0)
            .count()
    }
}

fn one(results: Vec<Result<String, (String, RDKafkaErrorCode)>>) -> Result<()> {
    first(
        results
            .into_iter()
            .map(|result| result.map(drop).map_err(|(_, code)| code))
            .collect(),
    )
}

fn first(results: Vec<Result<(), RDKafkaErrorCode>>) -> Result<()> {
    match results.into_iter().next() {
        Some(result) => result.map_err(|code| anyhow!("{code}")),
        None => Err(anyhow!("the broker answered with no result")),
    }
}
