//! What is legal in a stream and can lose events, or their order.

use std::time::Duration;

use neurobridge_core::units::format_duration;

use super::Stream;
use crate::{
    config::{MissingStream, NatsConfig, Order},
    subject,
};

/// The longest time between a fault and the next message: the delay before a connect, and the connect.
const LONGEST_RETRY: Duration = Duration::from_secs(40);

impl Stream {
    /// Returns a sentence for each setting that can lose events, or their order.
    pub(crate) fn dangers(&self, config: &NatsConfig) -> Vec<String> {
        let stream = &self.config;
        let mut dangers = Vec::new();
        let pattern = subject::pattern(&config.subject);
        if !stream
            .subjects
            .iter()
            .any(|subject| subject::covers(subject, &pattern))
        {
            dangers.push(format!(
                "no subject of the stream takes all of \"{pattern}\": an event beside them {}, found {:?}",
                match config.missing_stream {
                    MissingStream::Wait => "stops the sink (missing_stream = \"wait\")",
                    MissingStream::DeadLetter => "becomes a dead letter (missing_stream = \"dead_letter\")",
                },
                stream.subjects
            ));
        }
        match stream.retention.as_str() {
            "interest" => dangers.push(
                "the stream's retention is \"interest\": what no consumer waits for at that moment is gone at once".into(),
            ),
            "workqueue" => {
                dangers.push("the stream's retention is \"workqueue\": an event is gone with its first reader".into());
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
            dangers.push(format!(
                "at its limits ({}) the stream deletes its oldest events, read or not: discard = \"new\" would let them wait in the spool",
                limits.join(", ")
            ));
        }
        if stream.storage == "memory" {
            dangers.push("the stream is kept in memory: it is gone when its servers end".into());
        }
        if stream.persist_mode == "async" {
            dangers.push(
                "the stream acknowledges events before they are written (persist_mode = \"async\")".into(),
            );
        }
        let is_clustered = self
            .cluster
            .as_ref()
            .is_some_and(|cluster| cluster.name.is_some());
        if stream.num_replicas < 2 && is_clustered {
            dangers.push(
                "the stream is kept on one server only, of a cluster of several: expected 3 replicas".into(),
            );
        }
        let window = Duration::from_nanos(stream.duplicate_window);
        if config.order() == Order::Relaxed && window < config.ack_timeout + LONGEST_RETRY {
            dangers.push(format!(
                "the stream knows an event again for {}: what is sent again after that is stored twice; raise duplicate_window \
                 above the longest outage, or set order = \"strict\" where nobody else writes into the stream",
                format_duration(window)
            ));
        }
        dangers
    }
}
