//! A topic that exists: its limits and its risky settings.

use rdkafka::metadata::MetadataTopic;

/// A shorter retention causes a warning: events would be deleted while a reader restarts.
const MIN_RETENTION_MS: i64 = 3_600_000;

/// A topic that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Topic {
    pub(crate) name: String,
    pub(crate) partitions: usize,
    /// The number of replicas of the partition with the fewest replicas.
    pub(crate) replicas: usize,
    /// `max.message.bytes`; `None` if the right to read it is missing.
    pub(crate) max_message: Option<usize>,
    /// `min.insync.replicas`; `None` if the right to read it is missing.
    pub(crate) min_insync: Option<usize>,
    /// `cleanup.policy`; `None` if the right to read it is missing.
    pub(crate) cleanup: Option<String>,
    /// `retention.ms`; `None` if the right to read it is missing.
    pub(crate) retention_ms: Option<i64>,
    /// The number of brokers in the cluster.
    pub(crate) brokers: usize,
    /// Whether the topic was just created: some brokers may not know it yet.
    pub(crate) is_new: bool,
}

impl Topic {
    /// Returns whether the topic retains only the last record of each key, and so rejects records without a key.
    pub(crate) fn is_compacted(&self) -> bool {
        self.cleanup
            .as_ref()
            .is_some_and(|policies| policies.split(',').any(|one| one.trim() == "compact"))
    }

    /// Returns the legal settings that can lose events, for a topic of events or dead letters.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let name = &self.name;
        let mut warnings = self.replication_warnings();
        if self.is_compacted() {
            warnings.push(format!(
                "the topic \"{name}\" is compacted (cleanup.policy): it rejects events without a key, which become \
                 dead letters, and stores only the newest event of each key; expected cleanup.policy=delete"
            ));
        }
        if let Some(retention @ 0..MIN_RETENTION_MS) = self.retention_ms {
            warnings.push(format!(
                "retention.ms of the topic \"{name}\" is {retention}: events are deleted before a reader that is slow or \
                 restarts has read them, expected {MIN_RETENTION_MS} or more"
            ));
        }
        warnings
    }

    /// Returns the legal settings that lose records when a broker fails.
    pub(crate) fn replication_warnings(&self) -> Vec<String> {
        let Self { name, brokers, .. } = self;
        // A cluster with a single broker cannot replicate.
        if *brokers < 2 {
            return Vec::new();
        }
        if self.replicas < 2 {
            return vec![format!(
                "the topic \"{name}\" is stored on only one broker and is lost with it: expected a replication factor of 2 or \
                 more, the cluster has {brokers} brokers"
            )];
        }
        if self.min_insync == Some(1) {
            return vec![format!(
                "min.insync.replicas of the topic \"{name}\" is 1: an acknowledged event that only one broker has stored is lost \
                 with this broker, expected 2 or more"
            )];
        }
        Vec::new()
    }
}

pub(crate) fn has_a_leader(topic: &MetadataTopic) -> bool {
    // One leader is enough: events for the other partitions wait in librdkafka until these have leaders.
    topic.partitions().iter().any(|partition| partition.leader() >= 0)
}

/// Creates a topic from its metadata; the settings of its configuration are unknown.
pub(crate) fn topic_of_metadata(topic: &MetadataTopic, brokers: usize) -> Topic {
    Topic {
        name: topic.name().to_owned(),
        partitions: topic.partitions().len(),
        replicas: topic
            .partitions()
            .iter()
            .map(|partition| partition.replicas().len())
            .min()
            .unwrap_or(0),
        max_message: None,
        min_insync: None,
        cleanup: None,
        retention_ms: None,
        brokers,
        is_new: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn risky_settings_have_warnings() {
        let warnings = |brokers, replicas, min_insync| {
            Topic {
                name: "t".into(),
                partitions: 1,
                replicas,
                max_message: None,
                min_insync,
                cleanup: None,
                retention_ms: None,
                brokers,
                is_new: false,
            }
            .warnings()
            .len()
        };
        assert_eq!(warnings(1, 1, Some(1)), 0);
        assert_eq!(warnings(3, 1, Some(1)), 1);
        assert_eq!(warnings(3, 3, Some(1)), 1);
        assert_eq!(warnings(3, 3, Some(2)), 0);
        assert_eq!(warnings(3, 3, None), 0);
    }

    #[test]
    fn compacted_and_short_lived_topics_have_warnings() {
        let topic = |cleanup: &str, retention_ms| Topic {
            name: "t".into(),
            partitions: 1,
            replicas: 1,
            max_message: None,
            min_insync: None,
            cleanup: Some(cleanup.into()),
            retention_ms,
            brokers: 1,
            is_new: false,
        };
        for (cleanup, is_compacted) in [("compact", true), ("delete, compact", true), ("delete", false)] {
            let topic = topic(cleanup, None);
            assert_eq!(
                (topic.is_compacted(), topic.warnings().len()),
                (is_compacted, usize::from(is_compacted))
            );
            assert_eq!(topic.replication_warnings().len(), 0);
        }
        // -1 means unlimited.
        for (retention, warnings) in [(-1, 0), (0, 1), (1_000, 1), (3_600_000, 0)] {
            assert_eq!(
                topic("delete", Some(retention)).warnings().len(),
                warnings,
                "{retention}"
            );
        }
    }
}
