//! Creates, changes and deletes topics with a client in this process. A request takes milliseconds; Kafka's own tools take a
//! second.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaResult;
use rdkafka::types::RDKafkaErrorCode;

use super::retry::{METADATA_TIMEOUT, code_of, is_temporary, may_be_done};
use crate::poll::{block_on, wait_for, wait_until};

/// The timeout of one request, which is repeated after a temporary error.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The time limit for a request with temporary errors, and for its effect to be visible.
const LIMIT: Duration = Duration::from_secs(120);

/// Administers the topics of a broker.
pub struct KafkaAdmin {
    bootstrap: String,
    /// Replaced after each temporary error: a client that received metadata without brokers may never connect again.
    client: Mutex<Client>,
    options: AdminOptions,
}

type Client = AdminClient<DefaultClientContext>;

impl KafkaAdmin {
    /// Creates a client of the broker at `host:port`, without encryption. It connects when it is first used.
    ///
    /// # Errors
    /// Returns an error if librdkafka refuses the address.
    pub fn new(bootstrap: &str) -> Result<Self> {
        let options = AdminOptions::new()
            .request_timeout(Some(REQUEST_TIMEOUT))
            .operation_timeout(Some(REQUEST_TIMEOUT));
        Ok(Self {
            client: Mutex::new(connect(bootstrap)?),
            bootstrap: bootstrap.to_owned(),
            options,
        })
    }

    /// Creates a topic with one replica and waits until it accepts records.
    ///
    /// # Errors
    /// Returns an error if the topic exists already, or if the broker refuses.
    pub fn create_topic(&self, topic: &str, partitions: u16, config: &[(&str, &str)]) -> Result<()> {
        let mut new = NewTopic::new(topic, i32::from(partitions), TopicReplication::Fixed(1));
        for (key, value) in config {
            new = new.set(key, value);
        }
        self.request(
            &format!("creating the topic {topic}"),
            Some(RDKafkaErrorCode::TopicAlreadyExists),
            |client| topic_result(block_on(client.create_topics([&new], &self.options))),
        )?;
        let partitions = usize::from(partitions);
        wait_until(&format!("the leaders of {topic}"), LIMIT, || {
            self.leaders(topic) == partitions
        })
    }

    /// Deletes a topic and waits until the broker no longer lists it.
    ///
    /// # Errors
    /// Returns an error if the topic does not exist, or if the broker refuses.
    pub fn delete_topic(&self, topic: &str) -> Result<()> {
        self.request(
            &format!("deleting the topic {topic}"),
            Some(RDKafkaErrorCode::UnknownTopicOrPartition),
            |client| topic_result(block_on(client.delete_topics(&[topic], &self.options))),
        )?;
        wait_until(&format!("the deletion of {topic}"), LIMIT, || {
            self.known_leaders(topic) == Some(0)
        })
    }

    /// Increases the number of a topic's partitions.
    ///
    /// # Errors
    /// Returns an error if the topic has this many partitions already, or if the broker refuses.
    pub fn grow_topic(&self, topic: &str, partitions: u16) -> Result<()> {
        let new = NewPartitions::new(topic, usize::from(partitions));
        self.request(
            &format!("adding partitions to {topic}"),
            Some(RDKafkaErrorCode::InvalidPartitions),
            |client| topic_result(block_on(client.create_partitions([&new], &self.options))),
        )?;
        let partitions = usize::from(partitions);
        wait_until(&format!("the leaders of {topic}"), LIMIT, || {
            self.leaders(topic) == partitions
        })
    }

    /// Replaces a topic's configuration; entries that are not listed return to their defaults.
    ///
    /// # Errors
    /// Returns an error if the broker refuses.
    pub fn configure_topic(&self, topic: &str, config: &[(&str, &str)]) -> Result<()> {
        let mut change = AlterConfig::new(ResourceSpecifier::Topic(topic));
        for (key, value) in config {
            change = change.set(key, value);
        }
        self.request(&format!("configuring the topic {topic}"), None, |client| {
            let results = block_on(client.alter_configs([&change], &self.options));
            only_result(
                results.map(|results| results.into_iter().map(|result| result.map_err(|(_, code)| code))),
            )
        })?;
        // The controller applies the change first, and the broker a moment later.
        wait_until("the broker to apply a topic's new configuration", LIMIT, || {
            self.is_configured(topic, config)
        })
    }

    /// Repeats a request until the broker accepts it or refuses it permanently.
    fn request(
        &self,
        what: &str,
        done: Option<RDKafkaErrorCode>,
        send: impl Fn(&Client) -> Result<(), RDKafkaErrorCode>,
    ) -> Result<()> {
        request(what, done, || {
            let result = send(&self.client());
            if result.is_err_and(is_temporary) {
                self.renew();
            }
            result
        })
    }

    fn client(&self) -> MutexGuard<'_, Client> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn renew(&self) {
        // The address was valid for the first client. If no other client can be created for lack of memory, the current
        // one stays.
        if let Ok(client) = connect(&self.bootstrap) {
            *self.client() = client;
        }
    }

    fn is_configured(&self, topic: &str, config: &[(&str, &str)]) -> bool {
        let specifier = ResourceSpecifier::Topic(topic);
        let described = block_on(self.client().describe_configs([&specifier], &self.options));
        let Some(Ok(described)) = described.ok().and_then(|all| all.into_iter().next()) else {
            return false;
        };
        let is_applied = |(key, value): &(&str, &str)| {
            let entry = described.get(key);
            entry.is_some_and(|entry| entry.value.as_deref() == Some(*value))
        };
        config.iter().all(is_applied)
    }

    /// Returns the number of a topic's partitions that have a leader, or 0 if the topic does not exist.
    pub fn leaders(&self, topic: &str) -> usize {
        self.known_leaders(topic).unwrap_or(0)
    }

    /// Returns the number of brokers in the cluster's metadata, or `None` if no broker answers. A fenced broker is not
    /// included.
    pub fn brokers(&self) -> Option<usize> {
        let metadata = self.client().inner().fetch_metadata(None, METADATA_TIMEOUT);
        let Ok(metadata) = metadata else {
            self.renew();
            return None;
        };
        let brokers = metadata.brokers().len();
        if brokers == 0 {
            self.renew();
        }
        Some(brokers)
    }

    /// Like [`KafkaAdmin::leaders`], but returns `None` if the broker temporarily does not know the number.
    fn known_leaders(&self, topic: &str) -> Option<usize> {
        let metadata = self
            .client()
            .inner()
            .fetch_metadata(Some(topic), METADATA_TIMEOUT);
        let Some(metadata) = metadata.ok().filter(|metadata| !metadata.brokers().is_empty()) else {
            self.renew();
            return None;
        };
        let found = metadata.topics().first()?;
        match found.error().map(RDKafkaErrorCode::from) {
            None => {
                let led = found
                    .partitions()
                    .iter()
                    .filter(|partition| partition.leader() >= 0);
                Some(led.count())
            }
            Some(RDKafkaErrorCode::UnknownTopicOrPartition) => Some(0),
            Some(_) => None,
        }
    }
}

fn connect(bootstrap: &str) -> Result<Client> {
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .create()
        .with_context(|| format!("creating a client of {bootstrap}"))
}

/// Repeats a request until the broker accepts it or refuses it permanently. `done` is the error of a repeated request
/// whose first response was lost.
fn request(
    what: &str,
    done: Option<RDKafkaErrorCode>,
    mut send: impl FnMut() -> Result<(), RDKafkaErrorCode>,
) -> Result<()> {
    let mut may_be_done_before = false;
    let mut refusal = None;
    let accepted = wait_for(what, LIMIT, || match send() {
        Ok(()) => Ok(Some(())),
        Err(code) if may_be_done_before && done == Some(code) => Ok(Some(())),
        Err(code) if is_temporary(code) => {
            may_be_done_before |= may_be_done(code);
            refusal = Some(code);
            Ok(None)
        }
        Err(code) => Err(anyhow!("{code}")),
    });
    accepted.with_context(|| match refusal {
        Some(code) => format!("{what} (temporary refusal: {code})"),
        None => what.to_owned(),
    })
}

/// Returns the result of a request about one topic.
fn topic_result(
    results: KafkaResult<Vec<Result<String, (String, RDKafkaErrorCode)>>>,
) -> Result<(), RDKafkaErrorCode> {
    only_result(results.map(|results| results.into_iter().map(|result| result.map_err(|(_, code)| code))))
}

/// Returns the only result, because each request here has exactly one.
fn only_result<T>(
    results: KafkaResult<impl Iterator<Item = Result<T, RDKafkaErrorCode>>>,
) -> Result<(), RDKafkaErrorCode> {
    let mut results = results.map_err(|error| code_of(&error))?;
    results.next().unwrap_or(Err(RDKafkaErrorCode::Unknown)).map(drop)
}

#[cfg(test)]
mod tests {
    use rdkafka::types::RDKafkaErrorCode::{
        InvalidPartitions, InvalidReplicationFactor, RequestTimedOut, TopicAlreadyExists,
    };

    use super::*;

    fn answered(answers: &[Result<(), RDKafkaErrorCode>]) -> (Result<()>, usize) {
        let mut sent = 0;
        let result = request("creating t", Some(TopicAlreadyExists), || {
            sent += 1;
            answers[sent - 1]
        });
        (result, sent)
    }

    #[test]
    fn request_is_repeated_after_temporary_errors() {
        let (result, sent) = answered(&[Err(InvalidReplicationFactor), Err(RequestTimedOut), Ok(())]);
        result.unwrap();
        assert_eq!(sent, 3);
    }

    #[test]
    fn existing_topic_is_an_error_unless_a_request_timed_out() {
        answered(&[Err(RequestTimedOut), Err(TopicAlreadyExists)])
            .0
            .unwrap();
        for answers in [
            &[Err(TopicAlreadyExists)][..],
            &[Err(InvalidReplicationFactor), Err(TopicAlreadyExists)],
            &[Err(RequestTimedOut), Err(InvalidPartitions)],
        ] {
            let (result, sent) = answered(answers);
            assert!(format!("{:#}", result.unwrap_err()).starts_with("creating t"));
            assert_eq!(sent, answers.len());
        }
    }
}
