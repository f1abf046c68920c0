//! librdkafka's mock cluster, and the records in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    mocking::MockCluster,
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey, RDKafkaRespErr as Resp},
};

use super::LIMIT;
use crate::KafkaConfig;

pub(super) const TOPIC: &str = "neuroio.entries";

pub(super) struct Kafka {
    pub(super) cluster: MockCluster<'static, DefaultProducerContext>,
}

impl Kafka {
    pub(super) fn start(partitions: i32) -> Self {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic(TOPIC, partitions, 1).unwrap();
        Self { cluster }
    }

    pub(super) fn config(&self) -> KafkaConfig {
        KafkaConfig::new(self.cluster.bootstrap_servers())
    }

    pub(super) fn fail_produce(&self, errors: &[Resp]) {
        self.cluster.request_errors(RDKafkaApiKey::Produce, errors);
    }

    /// Returns the values by partition, in order, once there are `count` different ones.
    pub(super) fn records(&self, topic: &str, count: usize) -> BTreeMap<i32, Vec<String>> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.cluster.bootstrap_servers())
            .set("group.id", "test")
            .create()
            .unwrap();
        let metadata = consumer.fetch_metadata(Some(topic), LIMIT).unwrap();
        let mut assignment = TopicPartitionList::new();
        for partition in metadata.topics()[0].partitions() {
            assignment
                .add_partition_offset(topic, partition.id(), Offset::Beginning)
                .unwrap();
        }
        consumer.assign(&assignment).unwrap();
        let mut records: BTreeMap<i32, Vec<String>> = BTreeMap::new();
        let deadline = Instant::now() + LIMIT;
        let mut different = BTreeSet::new();
        while different.len() < count {
            assert!(Instant::now() < deadline, "{count} expected, found {different:?}");
            if let Some(message) = consumer.poll(Duration::from_millis(50)) {
                let message = message.unwrap();
                let value = String::from_utf8(message.payload().unwrap().to_vec()).unwrap();
                different.insert(value.clone());
                records.entry(message.partition()).or_default().push(value);
            }
        }
        records
    }

    /// Returns the ids of all events of a topic with one partition.
    pub(super) fn ids(&self, count: usize) -> Vec<u64> {
        let records = self.records(TOPIC, count);
        records.values().flatten().map(|value| id(value)).collect()
    }
}

pub(super) fn id(value: &str) -> u64 {
    let value: serde_json::Value = serde_json::from_str(value).unwrap();
    value["id"].as_u64().unwrap()
}

pub(super) fn frame(id: u64) -> String {
    format!(
        r#"{{"id":{id},"data":{{"id":{id},"result":"new","pid":"p{}"}}}}"#,
        id % 5
    )
}
