//! The part of librdkafka's statistics that the sink reads.
//!
//! The format is documented in `STATISTICS.md` of librdkafka.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use neurobridge_core::sink::ClientGauges;
use serde::Deserialize;

/// A broker of the metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KnownBroker {
    pub(crate) id: i32,
    /// `host:port`, from the `advertised.listeners` of the broker.
    pub(crate) address: String,
    /// The state of the connection to the broker, in librdkafka's words.
    pub(crate) state: String,
}

impl KnownBroker {
    pub(crate) fn is_up(&self) -> bool {
        self.state == "UP"
    }

    /// Returns whether a connection was attempted and is not established. Before librdkafka needs a broker, it attempts none.
    pub(crate) fn is_without_connection(&self) -> bool {
        !self.is_up() && self.state != "INIT"
    }
}

/// The statistics of one client.
#[derive(Deserialize)]
pub(crate) struct Statistics {
    /// The number of messages in the queues of the producer, and their bytes.
    msg_cnt: Option<u64>,
    msg_size: Option<u64>,
    brokers: HashMap<String, Broker>,
    topics: HashMap<String, Topic>,
}

#[derive(Deserialize)]
struct Broker {
    state: String,
    rtt: Option<Window>,
}

/// A rolling window of measurements, in microseconds.
#[derive(Deserialize)]
struct Window {
    avg: u64,
    cnt: u64,
}

#[derive(Deserialize)]
struct Topic {
    partitions: HashMap<i32, Partition>,
}

#[derive(Deserialize)]
struct Partition {
    /// The id of the broker that leads the partition, or -1.
    leader: Option<i32>,
    /// Of a consumer: the last end that the consumer has reached, and the end of all records; negative if unknown.
    eof_offset: Option<i64>,
    hi_offset: Option<i64>,
}

/// How far a consumer has read a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Consumed {
    pub(crate) partition_count: usize,
    /// By the number of the partition.
    pub(crate) partitions: BTreeMap<u32, ConsumedPartition>,
}

/// How far a consumer has read a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConsumedPartition {
    /// The last end of the committed records that the consumer has reached; 0 before the first one.
    pub(crate) end_reached: u64,
    /// The end of all records, also uncommitted ones, in the last answer of a broker.
    pub(crate) high: u64,
}

impl Consumed {
    /// Reads the statistics of a consumer; `None` if they do not contain the topic.
    pub(crate) fn read(json: &[u8], topic: &str) -> Option<Self> {
        let statistics: Statistics = serde_json::from_slice(json).ok()?;
        let topic = statistics.topics.get(topic)?;
        let offset = |offset: Option<i64>| u64::try_from(offset.unwrap_or(-1)).unwrap_or(0);
        // The number -1 stands for no partition.
        let partitions = topic.partitions.iter().filter_map(|(number, partition)| {
            let consumed = ConsumedPartition {
                end_reached: offset(partition.eof_offset),
                high: offset(partition.hi_offset),
            };
            Some((u32::try_from(*number).ok()?, consumed))
        });
        let partitions: BTreeMap<_, _> = partitions.collect();
        Some(Self {
            partition_count: partitions.len(),
            partitions,
        })
    }
}

impl Statistics {
    /// Returns the brokers of the metadata. The bootstrap servers, which have no id, are not among them.
    pub(crate) fn brokers(&self) -> impl Iterator<Item = KnownBroker> {
        self.brokers.iter().filter_map(|(name, statistics)| {
            let (address, id) = broker_name(name)?;
            Some(KnownBroker {
                id: id?,
                address: address.to_owned(),
                state: statistics.state.clone(),
            })
        })
    }

    /// Returns the ids of the brokers that lead a partition of a topic to which the client writes.
    ///
    /// The statistics do not contain which partitions have unsent messages: `xmit_msgq_cnt` is always 0.
    pub(crate) fn leaders(&self) -> BTreeSet<i32> {
        let partitions = self.topics.values().flat_map(|topic| topic.partitions.values());
        partitions.filter_map(|partition| partition.leader).collect()
    }

    /// Returns the number of partitions of each topic. 0 stands for a topic without metadata.
    pub(crate) fn partitions(&self) -> impl Iterator<Item = (&str, usize)> {
        self.topics.iter().map(|(name, topic)| {
            // The number -1 stands for messages without a partition yet.
            let partitions = topic.partitions.keys().filter(|partition| **partition >= 0);
            (name.as_str(), partitions.count())
        })
    }

    /// Returns the queue and the round-trip time of the slowest broker. Without a request in the last interval, the round-trip
    /// time is that of `before`.
    pub(crate) fn gauges(&self, before: ClientGauges) -> ClientGauges {
        let rtts = self.brokers.values().filter_map(|broker| {
            let rtt = broker.rtt.as_ref().filter(|rtt| rtt.cnt > 0)?;
            Some(Duration::from_micros(rtt.avg))
        });
        ClientGauges {
            queued_messages: self.msg_cnt,
            queued_bytes: self.msg_size,
            round_trip: rtts.max().or(before.round_trip),
        }
    }
}

/// Parses librdkafka's name of a broker: `[protocol://]host:port/id`, with the word `bootstrap` in place of an id.
pub(crate) fn broker_name(name: &str) -> Option<(&str, Option<i32>)> {
    let name = name.split_once("://").map_or(name, |(_, name)| name);
    let (address, id) = name.rsplit_once('/')?;
    Some((address, id.parse().ok()))
}
