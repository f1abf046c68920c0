//! Requests about the group: the client, the topic, the committed lease, the members.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use neurobridge_core::sink::{FaultKind, SinkFault};
use neurobridge_sink_kafka::client;
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};
use tokio::time::Instant;

use super::{Context, Group, GroupDriver};
use crate::{
    record::{self, LeaseRecord},
    role::MemberState,
};

/// The interval of heartbeats, which is also the longest time until a member notices that the leader has left.
const HEARTBEAT: Duration = Duration::from_millis(250);
/// The time limit of a request before the member has joined.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// The largest number of members that are published.
const MAX_MEMBERS: usize = 64;

/// The last committed lease.
pub(super) struct Committed {
    /// The term of the last leader; 0 if there was none.
    pub(super) offset: u64,
    /// The lease, or a description of the metadata that were found instead.
    pub(super) lease: Result<Option<LeaseRecord>, String>,
}

impl GroupDriver {
    /// Creates the client. Reads the files of secrets.
    pub(super) fn consumer(&self) -> Result<BaseConsumer<Context>, SinkFault> {
        let mut config = client::client_config(&self.connection(), "lease")?;
        let ttl = self.lease.ttl.as_millis();
        config
            // The list of the group's members contains the client id, so the id is the name of the member.
            .set("client.id", &self.me.member)
            .set("group.id", &self.lease.group)
            // The leader is the member with the partition. This strategy moves the partition only if its member has left.
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", ttl.to_string())
            .set("heartbeat.interval.ms", HEARTBEAT.as_millis().to_string())
            // Much longer than the session time-out, which alone has to exclude a silent member: the validity of the
            // leadership is based on it.
            .set("max.poll.interval.ms", (ttl * 10).max(60_000).to_string())
            .set("socket.timeout.ms", ttl.to_string())
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "latest");
        config
            .create_with_context(Context::new(Arc::clone(&self.shared)))
            .map_err(|error| self.fault(&error))
    }

    /// Checks that the topic exists and has one partition.
    pub(super) fn check_topic(&self, consumer: &BaseConsumer<Context>) -> Result<(), SinkFault> {
        let topic = &self.lease.topic;
        let metadata = consumer
            .fetch_metadata(Some(topic), REQUEST_LIMIT)
            .map_err(|error| self.fault(&error))?;
        let partitions = metadata
            .topics()
            .iter()
            .find(|found| found.name() == topic)
            .map_or(0, |found| found.partitions().len());
        match partitions {
            1 => Ok(()),
            0 => Err(SinkFault::new(
                FaultKind::Missing,
                format!(
                    "the topic \"{topic}\" of the lease does not exist; create it with one partition, or set cluster.lease.topic to an \
                     existing topic with one partition. The bridge writes nothing to this topic"
                ),
            )),
            more => Err(SinkFault::new(
                FaultKind::Other,
                format!(
                    "the topic \"{topic}\" of the lease has {more} partitions, expected 1: with more, the leadership would move \
                     whenever a member joins; use another topic"
                ),
            )),
        }
    }

    /// Reads the last committed lease.
    pub(super) fn committed(&self, group: &Group) -> Result<Committed, SinkFault> {
        let mut requested = TopicPartitionList::new();
        requested.add_partition(&self.lease.topic, 0);
        let found = group
            .consumer
            .committed_offsets(requested, REQUEST_LIMIT)
            .map_err(|error| self.fault(&error))?;
        let elements = found.elements();
        let Some(element) = elements.first() else {
            return Ok(Committed {
                offset: 0,
                lease: Ok(None),
            });
        };
        let offset = match element.offset() {
            Offset::Offset(offset) => u64::try_from(offset).unwrap_or(0),
            _ => 0,
        };
        // The library panics on text that is not UTF-8, which only another program would have committed.
        let text = catch_unwind(AssertUnwindSafe(|| element.metadata().to_owned()));
        let lease = match text {
            Err(_) => Err("a text that is not UTF-8".to_owned()),
            Ok(_) if offset == 0 => Ok(None),
            Ok(text) => record::lease(text.as_bytes()).map(Some),
        };
        Ok(Committed { offset, lease })
    }

    /// Reads the members of the group.
    pub(super) fn members(&self, group: &Group) -> Result<Vec<MemberState>, SinkFault> {
        let list = group
            .consumer
            .fetch_group_list(Some(&self.lease.group), REQUEST_LIMIT)
            .map_err(|error| self.fault(&error))?;
        let now = Instant::now();
        let members = list.groups().iter().flat_map(|group| group.members());
        let members = members.take(MAX_MEMBERS).map(|member| MemberState {
            name: neurobridge_core::foreign_text::clean(member.client_id()),
            instance: neurobridge_core::foreign_text::clean(member.id()),
            config_hash: String::new(),
            term: None,
            report: None,
            written_after: None,
            last_seen: now,
            is_alive: true,
            is_self: group.is_subscribed && member.client_id() == self.me.member,
        });
        Ok(members.collect())
    }
}
