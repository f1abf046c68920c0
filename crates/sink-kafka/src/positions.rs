//! The offsets of stored records, to detect that a topic was deleted and created again.
//!
//! The offsets of a partition only grow. A smaller offset than before, or an end of the partition before a known offset, means
//! that the topic is another one with the same name, or that its partition was truncated.

use std::collections::{BTreeMap, HashMap};

use neurobridge_core::recreation::Recreations;
use serde::{Deserialize, Serialize};

/// The limits on the stored offsets.
const MAX_TOPICS: usize = 1000;
const MAX_PARTITIONS: usize = 10_000;

/// The largest offsets of a sink, over all of its connections.
#[derive(Debug, Default)]
pub(crate) struct Positions {
    /// The last offset by topic and partition; -1 without a record.
    topics: HashMap<String, Vec<i64>>,
    /// The position with the largest offset.
    largest: Option<Position>,
    recreations: Recreations,
}

/// The offset of a record. Stored with the cursor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

impl Position {
    /// Returns the position in the note of a cursor, if there is one.
    pub(crate) fn of_note(note: Option<&str>) -> Option<Self> {
        serde_json::from_str(note?).ok()
    }
}

impl Positions {
    /// Records the offset of a stored record.
    pub(crate) fn stored(&mut self, sink: &str, topic: &str, partition: i32, offset: i64) {
        let Ok(index) = usize::try_from(partition) else {
            return;
        };
        // The broker has reported no offset.
        if offset < 0 || index >= MAX_PARTITIONS {
            return;
        }
        let has_room = self.topics.len() < MAX_TOPICS;
        let before = match self.topics.get_mut(topic) {
            Some(partitions) => replace(partitions, index, offset),
            None if !has_room => return,
            None => replace(self.topics.entry(topic.to_owned()).or_default(), index, offset),
        };
        if offset <= before {
            let found = format!("partition {partition} continues at offset {offset}, previously at {before}");
            self.recreated(sink, topic, &found);
            return;
        }
        match &mut self.largest {
            Some(largest) if largest.offset >= offset => {}
            Some(largest) if largest.topic == topic => {
                largest.partition = partition;
                largest.offset = offset;
            }
            largest => {
                *largest = Some(Position {
                    topic: topic.to_owned(),
                    partition,
                    offset,
                });
            }
        }
    }

    /// Returns the position with the largest known offset. If none is known, `from_note`, the position stored with the cursor, is
    /// recorded as known and returned.
    pub(crate) fn largest_or(&mut self, from_note: Option<Position>) -> Option<Position> {
        if self.largest.is_none()
            && let Some(Position {
                topic,
                partition,
                offset,
            }) = from_note
        {
            self.stored("", &topic, partition, offset);
        }
        self.largest.clone()
    }

    /// Compares a known position with the end of its partition. `end`: the offset of the next record; `None` if the topic no
    /// longer has the partition.
    pub(crate) fn ends_at(&mut self, sink: &str, position: &Position, end: Option<i64>) {
        let Position {
            topic,
            partition,
            offset,
        } = position;
        let found = match end {
            Some(end) if end > *offset => return,
            Some(end) => format!(
                "partition {partition} ends at offset {end}, previously at {}",
                offset + 1
            ),
            None => format!("partition {partition} no longer exists"),
        };
        self.recreated(sink, topic, &found);
    }

    fn recreated(&mut self, sink: &str, topic: &str, found: &str) {
        // Removes all partitions, so that the recreation is reported once.
        self.topics.remove(topic);
        self.largest.take_if(|largest| largest.topic == topic);
        self.recreations
            .note(sink, &format!("the topic \"{topic}\""), found);
    }

    /// Returns the offsets after the last stored records of a topic, by partition.
    pub(crate) fn ends(&self, topic: &str) -> BTreeMap<u32, u64> {
        let partitions = self.topics.get(topic).map(Vec::as_slice).unwrap_or_default();
        let ends = (0..).zip(partitions);
        ends.filter_map(|(partition, last)| Some((partition, u64::try_from(*last + 1).ok()?)))
            .collect()
    }

    /// Returns the text to store with the cursor.
    pub(crate) fn note(&self) -> Option<String> {
        serde_json::to_string(self.largest.as_ref()?).ok()
    }

    pub(crate) fn recreations(&self) -> Recreations {
        self.recreations.clone()
    }
}

/// Sets the offset of a partition, and returns the previous one.
fn replace(partitions: &mut Vec<i64>, index: usize, offset: i64) -> i64 {
    if partitions.len() <= index {
        partitions.resize(index + 1, -1);
    }
    std::mem::replace(&mut partitions[index], offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled() -> Positions {
        let mut positions = Positions::default();
        for (partition, offset) in [(0, 5), (1, 9), (0, 6), (2, 0)] {
            positions.stored("kafka", "t", partition, offset);
        }
        positions.stored("kafka", "other", 0, 3);
        positions
    }

    #[test]
    fn smaller_offset_is_a_new_topic_and_counted_once() {
        let mut positions = filled();
        assert_eq!(positions.recreations().count, 0);
        positions.stored("kafka", "t", 1, 0);
        let last = positions.recreations().last.unwrap();
        assert!(
            last.contains("the topic \"t\" was recreated") && last.contains("offset 0, previously at 9"),
            "{last}"
        );
        for (partition, offset) in [(0, 0), (0, 1), (1, 1), (2, 0)] {
            positions.stored("kafka", "t", partition, offset);
        }
        // Unknown offsets and partitions are ignored.
        positions.stored("kafka", "t", 0, -1001);
        positions.stored("kafka", "t", -1, 7);
        assert_eq!(positions.recreations().count, 1);
        positions.stored("kafka", "other", 0, 4);
        assert_eq!(positions.recreations().count, 1, "another topic");
    }

    #[test]
    fn end_before_the_noted_offset_is_a_new_topic() {
        let note = filled().note();
        let from_note = || Position::of_note(note.as_deref());
        for (end, count) in [
            (Some(10), 0),
            (Some(11), 0),
            (Some(9), 1),
            (Some(0), 1),
            (None, 1),
        ] {
            let mut positions = Positions::default();
            let position = positions.largest_or(from_note()).unwrap();
            assert_eq!(
                (&*position.topic, position.partition, position.offset),
                ("t", 1, 9)
            );
            positions.ends_at("kafka", &position, end);
            assert_eq!(positions.recreations().count, count, "{end:?}");
        }
        assert_eq!(Position::of_note(Some("{\"stream\":\"S\"}")), None);
        assert_eq!(Positions::default().largest_or(None), None);
        let mut restarted = Positions::default();
        restarted.largest_or(from_note());
        restarted.stored("kafka", "t", 1, 3);
        assert_eq!(restarted.recreations().count, 1);
    }
}
