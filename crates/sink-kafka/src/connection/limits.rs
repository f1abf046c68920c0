//! The size limits of records, from the limits of their topics.

use crate::{
    config::KafkaConfig,
    properties::{Limits, QueueBounds},
    topic::Topic,
    topics::DEFAULT_MAX_MESSAGE,
};

/// Returns the limits of a producer for these topics.
pub(super) fn limits<'a>(topics: impl Iterator<Item = &'a Topic>, config: &KafkaConfig) -> Limits {
    let bounds = topics
        .map(topic_limit)
        .fold(None, |bounds: Option<(usize, usize)>, limit| {
            let (least, most) = bounds.unwrap_or((limit, limit));
            Some((least.min(limit), most.max(limit)))
        });
    let (least, most) = bounds.unwrap_or((DEFAULT_MAX_MESSAGE, DEFAULT_MAX_MESSAGE));
    Limits::between(least, most, config)
}

fn topic_limit(topic: &Topic) -> usize {
    topic.max_message.unwrap_or(DEFAULT_MAX_MESSAGE)
}

/// Returns the maximum size of a record for a topic in bytes: at most the size of librdkafka's queue, because the queue never
/// accepts a larger record.
pub(super) fn most_bytes(topic: &Topic, config: &KafkaConfig) -> usize {
    topic_limit(topic).min(QueueBounds::of(config).bytes)
}
