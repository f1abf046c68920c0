//! The limits of topics: how large a message may be, how many replicas have to hold it, and how long it is kept.

use std::time::{Duration, Instant};

use rdkafka::admin::ResourceSpecifier;
use tracing::debug;

use super::{Inspection, PAUSE, options};
use crate::topic::Topic;

/// Kafka's default of `max.message.bytes`, assumed for a topic whose limit cannot be read.
pub(crate) const DEFAULT_MAX_MESSAGE: usize = 1_048_588;
/// The time limit for reading the limits from a broker that has answered before; without them the defaults apply.
const LIMITS_LIMIT: Duration = if cfg!(test) {
    // The mock cluster does not support the request, and a client waits for a broker that does.
    Duration::from_millis(50)
} else {
    Duration::from_secs(3)
};

impl Inspection {
    /// Reads the limits of the topics. Without the right to read them, Kafka's defaults apply.
    ///
    /// A broker that does not know a topic yet answers as if the right were missing, and without limits no risky setting is
    /// reported. So the request is repeated for a topic that was just created.
    pub(super) fn read_limits(&self, topics: &mut [Topic]) {
        let deadline = Instant::now() + LIMITS_LIMIT;
        self.describe(topics);
        while topics
            .iter()
            .any(|topic| topic.is_new && topic.max_message.is_none())
            && Instant::now() < deadline
        {
            std::thread::sleep(PAUSE);
            self.describe(topics);
        }
        for topic in topics.iter().filter(|topic| topic.max_message.is_none()) {
            self.health.warn(&format!(
                "cannot read the limits of the topic \"{}\" (requires DescribeConfigs); assuming {DEFAULT_MAX_MESSAGE} bytes",
                topic.name
            ));
        }
    }

    /// Requests the limits of all topics once.
    fn describe(&self, topics: &mut [Topic]) {
        let specifiers: Vec<_> = topics
            .iter()
            .map(|topic| ResourceSpecifier::Topic(&topic.name))
            .collect();
        let described = self
            .runtime
            .block_on(self.admin.describe_configs(&specifiers, &options(LIMITS_LIMIT)));
        let resources = match described {
            Ok(resources) => resources,
            Err(error) => {
                debug!(
                    sink = self.health.sink(),
                    "cannot read the limits of the topics: {error}"
                );
                Vec::new()
            }
        };
        for (topic, resource) in topics.iter_mut().zip(resources) {
            // Without the right to read the configuration of a topic, the answer has no entries for it.
            let Ok(resource) = resource else { continue };
            let number = |name: &str| resource.get(name)?.value.as_ref()?.parse().ok();
            topic.max_message = number("max.message.bytes");
            topic.min_insync = number("min.insync.replicas");
            topic.retention_ms = resource
                .get("retention.ms")
                .and_then(|entry| entry.value.as_ref()?.parse().ok());
            topic.cleanup = resource
                .get("cleanup.policy")
                .and_then(|entry| entry.value.clone());
        }
    }
}
