//! Warnings about legal settings of a stream that can lose events, or their order.

use std::time::Duration;

use neurobridge_core::units::format_duration;

use super::Stream;
use crate::{
    config::{MissingStream, NatsConfig, Order},
    subject,
};

/// The longest time between a fault and the next message: the delay before the next connection attempt, and the attempt.
const LONGEST_RETRY: Duration = Duration::from_secs(40);

impl Stream {
    /// Returns a sentence for each setting that can lose events, or their order.
    pub(crate) fn warnings(&self, config: &NatsConfig) -> Vec<String> {
        let stream = &self.config;
        let mut warnings = Vec::new();
        let pattern = subject::pattern(&config.subject);
        if !stream
            .subjects
            .iter()
            .any(|subject| subject::covers(subject, &pattern))
        {
            warnings.push(format!(
                "no subject of the stream covers all of \"{pattern}\": an event whose subject the stream does not \
                 accept {}, found {:?}",
                match config.missing_stream {
                    MissingStream::Wait => "stops the sink (missing_stream = \"wait\")",
                    MissingStream::DeadLetter => "becomes a dead letter (missing_stream = \"dead_letter\")",
                },
                stream.subjects
            ));
        }
        match stream.retention.as_str() {
            "interest" => warnings.push(
                "the stream's retention is \"interest\": an event without an interested consumer is removed at once".into(),
            ),
            "workqueue" => {
                warnings.push("the stream's retention is \"workqueue\": an event is removed after its first reader".into());
            }
            _ => {}
        }
        let limits: Vec<_> = [
            ("max_msgs", stream.max_msgs),
            ("max_bytes", stream.max_bytes),
            ("max_msgs_per_subject", stream.max_msgs_per_subject),
        ]
        .into_iter()
        .filter(|(_, limit)| *limit > 0)
        .map(|(key, limit)| format!("{key} = {limit}"))
        .collect();
        if stream.discard == "old" && !limits.is_empty() {
            warnings.push(format!(
                "at its limits ({}) the stream deletes its oldest events, read or not; with discard = \"new\" new events wait \
                 in the spool",
                limits.join(", ")
            ));
        }
        if stream.storage == "memory" {
            warnings.push("the stream is stored in memory: it is lost when its servers stop".into());
        }
        if stream.persist_mode == "async" {
            warnings.push(
                "the stream acknowledges events before they are written (persist_mode = \"async\")".into(),
            );
        }
        let is_clustered = self
            .cluster
            .as_ref()
            .is_some_and(|cluster| cluster.name.is_some());
        if stream.num_replicas < 2 && is_clustered {
            warnings.push("the stream is stored on only one server of a cluster, expected 3 replicas".into());
        }
        let window = Duration::from_nanos(stream.duplicate_window);
        if config.order() == Order::Relaxed && window < config.ack_timeout + LONGEST_RETRY {
            warnings.push(format!(
                "the stream detects duplicates for {}: events that are sent again later are stored twice; raise \
                 duplicate_window above the longest outage, or set order = \"strict\" if no other client publishes to the stream",
                format_duration(window)
            ));
        }
        warnings
    }
}
