//! Handles topics that events name for the first time.

use std::{collections::HashMap, sync::Arc, time::Duration};

use neurobridge_core::{
    connect::ConnectSteps,
    sink::{Ack, Outcome, Rejection, RejectionReason, SinkFault},
};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{Connection, MAX_TOPICS};
use crate::{
    config::{KafkaConfig, MissingTopic, is_internal},
    error,
    sink::on_thread,
    topics::{Creation, Found, Inspector},
};

/// The time after which a topic that accepts no events is inspected again, since it may have been created meanwhile.
const UNROUTABLE_FOR: Duration = Duration::from_secs(60);

/// Topics that accept no events, with the reasons. Bounded: if [`MAX_TOPICS`] is exceeded, all are removed.
#[derive(Debug, Default)]
pub(super) struct Unroutable(HashMap<String, (String, Instant)>);

impl Unroutable {
    pub(super) fn reason(&self, topic: &str) -> Option<&str> {
        let (reason, until) = self.0.get(topic)?;
        (*until > Instant::now()).then_some(reason)
    }

    fn insert(&mut self, topic: String, reason: String) {
        if self.0.len() >= MAX_TOPICS {
            self.0.clear();
        }
        self.0.insert(topic, (reason, Instant::now() + UNROUTABLE_FOR));
    }
}

impl KafkaConfig {
    /// Returns why no event may be sent to a topic rendered from the template, regardless of the cluster's state.
    pub(crate) fn reserved(&self, topic: &str) -> Option<Rejection> {
        let transactions = self.transaction.as_ref().map(|one| one.cursor_topic.as_str());
        let whose = if is_internal(topic) {
            "a topic of Kafka itself"
        } else if transactions == Some(topic) || self.dead_letter_topic() == Some(topic) {
            "this sink's topic of cursors or dead letters"
        } else {
            return None;
        };
        Some(rejection(format!(
            "found the topic \"{topic}\", which is {whose}, expected a topic for events; change the template of the \
             sink's topic"
        )))
    }
}

pub(super) fn rejection(detail: String) -> Rejection {
    Rejection {
        reason: RejectionReason::Unroutable,
        detail,
    }
}

impl Connection {
    /// Inspects the topic that an event waits for, and reports the event's outcome: published again, or a
    /// dead letter.
    pub(super) async fn inspect_waiting(&mut self) -> Result<(), SinkFault> {
        let Some((name, sequence)) = self.waiting.clone() else {
            return Ok(());
        };
        let is_dead_letter = self.config.missing_topic == MissingTopic::DeadLetter;
        let outcome = match self.find_or_create(name.clone(), is_dead_letter).await? {
            Found::Topic(topic) => {
                self.make_room();
                self.update_topics(vec![topic]);
                // No later event was published meanwhile, so the event keeps its position.
                Outcome::Deferred
            }
            Found::Impossible(reason) => self.unroutable(name, reason),
            Found::Missing if is_dead_letter => {
                let reason = format!(
                    "the topic \"{name}\" does not exist; create it, set create = true with partitions and replicas, or set \
                     missing_topic = \"wait\""
                );
                self.unroutable(name, reason)
            }
            Found::Missing => {
                let fault = error::missing(&[&name]);
                let reason = format!(
                    "event {sequence}: {}, or set missing_topic = \"dead_letter\"",
                    fault.reason
                );
                return Err(SinkFault { reason, ..fault });
            }
        };
        self.waiting = None;
        self.own.push(Ack { sequence, outcome });
        Ok(())
    }

    fn unroutable(&mut self, topic: String, reason: String) -> Outcome {
        warn!(
            sink = self.health.sink(),
            "events for the topic \"{topic}\" become dead letters: {reason}"
        );
        self.unroutable.insert(topic, reason.clone());
        Outcome::Rejected(rejection(reason))
    }

    /// Inspects one topic over connections that are reused for the next one.
    async fn find_or_create(&mut self, name: String, is_patient: bool) -> Result<Found, SinkFault> {
        let kept = self.inspector.take();
        let client = self.client.clone();
        let health = Arc::clone(&self.health);
        let creation = creation(&self.config, true);
        let (found, inspector) = on_thread(move || {
            let mut inspector = match kept {
                Some(inspector) => inspector,
                None => Inspector::new(&client, &health, ConnectSteps::default(), Duration::ZERO)?,
            };
            let found = inspector.find_or_create(&name, creation, is_patient)?;
            Ok((found, inspector))
        })
        .await?;
        self.inspector = Some(inspector);
        Ok(found)
    }

    #[cfg(test)]
    pub(crate) const fn keeps_inspector(&self) -> bool {
        self.inspector.is_some()
    }

    /// Removes all known topics when their number exceeds the limit. Not within a transaction: an unknown topic aborts the
    /// transaction, so a transaction with more topics than the limit would never complete.
    fn make_room(&mut self) {
        let is_open = self
            .transactions
            .as_ref()
            .is_some_and(|transactions| transactions.opened.is_some());
        if self.topics.len() >= MAX_TOPICS && !is_open {
            debug!(
                "clearing the cache of {MAX_TOPICS} inspected topics; each is inspected again when an event names it"
            );
            self.topics.clear();
        }
    }
}

/// Returns how a topic for events or dead letters is created, if it may be.
pub(crate) fn creation(config: &KafkaConfig, may_create: bool) -> Option<Creation> {
    // The configuration check rejects numbers that exceed the protocol's limits.
    (may_create && config.create).then(|| Creation {
        partitions: config
            .partitions
            .and_then(|partitions| partitions.try_into().ok())
            .unwrap_or(1),
        replicas: config.replicas.map_or(1, i32::from),
        is_compacted: false,
    })
}

/// Creates the rejection of an event without a key for a compacted topic.
pub(super) fn keyless(topic: &str) -> Rejection {
    let detail = format!(
        "found no key, expected one for the topic \"{topic}\", which is compacted; give each event a key, or set \
         cleanup.policy=delete for the topic"
    );
    Rejection {
        reason: RejectionReason::MissingKey,
        detail,
    }
}
