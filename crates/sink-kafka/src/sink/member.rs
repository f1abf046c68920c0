//! The sink as a member of a cluster: follows, takes over, steps down.

use std::{sync::Arc, time::Duration};

use neurobridge_core::{
    connect::ConnectStep,
    event::{Event, Sequence},
    identity,
    sink::{Ack, AfterOutcomes, ConnectContext, Connected, FaultKind, PublishError, SinkFault},
};
use tokio::{join, sync::mpsc};

use super::{KafkaSink, on_thread};
use crate::{
    connection::{Connection, creation},
    following::{BATCHES, Limits, Offsets, RecordReader, Role, TopicToRead},
    properties::{self, QueueBounds},
    topics,
};

/// The time for which a takeover without transactions waits for open transactions of other producers.
const OPEN_LIMIT: Duration = Duration::from_secs(60);

impl KafkaSink {
    /// Returns whether this member publishes nothing and has nothing in flight, because another one leads.
    pub(super) fn is_follower(&self) -> bool {
        self.is_stepping_down() && self.connection.as_ref().is_none_or(Connection::is_idle)
    }

    /// Returns whether this member must not publish over the present connection.
    pub(super) fn is_stepping_down(&self) -> bool {
        self.membership
            .as_ref()
            .is_some_and(|membership| !membership.may_publish())
    }

    /// Returns whether this is a member of a cluster without the lease: another member may lead.
    pub(super) fn has_no_lease(&self) -> bool {
        self.membership
            .as_ref()
            .is_some_and(|membership| !membership.has_lease())
    }

    /// Returns why a follower receives nothing although the topic has further records.
    pub(super) fn follower_unavailable(&self) -> Option<SinkFault> {
        let membership = self.membership.as_ref()?;
        let unreachable = self.health.unreachable();
        let unreachable = unreachable.map(|reason| SinkFault::new(FaultKind::Unreachable, reason));
        unreachable.or_else(|| membership.unavailable())
    }

    /// Connects as a follower.
    pub(super) async fn follow(&mut self, context: &ConnectContext<'_>) -> Result<Connected, SinkFault> {
        let topic_to_read = self.topic_to_read(context).await?;
        let resume_offsets = self.resume_offsets(context, &topic_to_read);
        let (topic, steps) = (topic_to_read.clone(), context.steps.clone());
        let transactions = self.config.transactions();
        let limits = Limits::new(transactions.map_or(Duration::ZERO, |transactions| transactions.interval));
        let (reader, unread) = on_thread(move || {
            let unread = topic.unread(&resume_offsets, &steps)?;
            Ok((RecordReader::start(topic, &unread.offsets, limits)?, unread))
        })
        .await?;
        if let Some(membership) = &mut self.membership {
            membership.begin(&unread);
            membership.connected(Role::Follower(reader));
        }
        self.topic_to_read = Some(topic_to_read);
        Ok(Connected {
            acks_are_cumulative: false,
            committed_cursor: None,
        })
    }

    /// Reads the topic to its end, after earlier leaders were fenced, and settles what others have published.
    pub(super) async fn take_over(&mut self, context: &ConnectContext<'_>) -> Result<(), SinkFault> {
        let topic_to_read = self.topic_to_read(context).await?;
        let resume_offsets = self.resume_offsets(context, &topic_to_read);
        let limit = self
            .config
            .transactions()
            .map_or(OPEN_LIMIT, |transactions| transactions.timeout);
        let (topic, steps) = (topic_to_read.clone(), context.steps.clone());
        let (unread, topic) = on_thread(move || Ok((topic.unread(&resume_offsets, &steps)?, topic))).await?;
        let steps = context.steps.clone();
        steps.begin(
            ConnectStep::Cursor,
            format_args!(
                "the records of other members in the topic \"{}\"",
                topic_to_read.topic
            ),
        );
        if let Some(membership) = &mut self.membership {
            membership.begin(&unread);
            // Each batch is settled while more records are read: there may be millions, of which only the identities stay in
            // memory.
            let (sender, mut batches) = mpsc::channel(BATCHES);
            let read_to_end = on_thread(move || topic.read_to_end(&unread.offsets, limit, &steps, &sender));
            let settle = async {
                while let Some(batch) = batches.recv().await {
                    membership.read(batch);
                }
            };
            let (ends, ()) = join!(read_to_end, settle);
            // In exactly-once delivery the brokers refuse the records of a fenced leader.
            let in_flight = match self.config.transactions() {
                Some(_) => 0,
                None => QueueBounds::of(&self.config).messages as u64,
            };
            membership.taken_over(&ends?, in_flight);
        }
        self.topic_to_read = Some(topic_to_read);
        Ok(())
    }

    /// Records that the connection is that of a leader.
    pub(super) fn lead(&mut self) {
        if let Some(membership) = &mut self.membership {
            membership.connected(Role::Leader);
        }
    }

    async fn topic_to_read(&self, context: &ConnectContext<'_>) -> Result<TopicToRead, SinkFault> {
        let config = Arc::clone(&self.config);
        let (name, health, steps) = (self.name.clone(), Arc::clone(&self.health), context.steps.clone());
        on_thread(move || {
            let client = properties::client(&config, &name)?;
            let name = config.topic.constant().unwrap_or_default().to_owned();
            steps.begin(ConnectStep::Topic, format_args!("the topic \"{name}\""));
            let topics = topics::inspect(
                &client,
                &health,
                std::slice::from_ref(&name),
                creation(&config, true),
            )?;
            let partitions = topics.first().map_or(0, |topic| topic.partitions);
            Ok(TopicToRead {
                client,
                topic: name,
                partitions,
                health,
            })
        })
        .await
    }

    /// Returns the offsets from which this member reads the topic: those at which this process stopped reading, otherwise those
    /// stored with the cursor.
    fn resume_offsets(&self, context: &ConnectContext<'_>, topic_to_read: &TopicToRead) -> Offsets {
        let note = context.cursor.note.as_deref();
        self.membership
            .as_ref()
            .map(|membership| membership.resume_offsets(note, topic_to_read.partitions))
            .unwrap_or_default()
    }

    /// Returns whether an event has to be published by this member.
    pub(super) fn must_publish(&mut self, event: &Event<'_>) -> Result<bool, PublishError> {
        let Some(membership) = &mut self.membership else {
            return Ok(true);
        };
        let text = membership.text();
        text.clear();
        identity::write_identity(event, &self.spool, text);
        membership.must_publish(event.sequence)
    }

    /// Returns whether dead letters may be sent now. A leader whose lease has ended still completes its open transaction, which
    /// Kafka refuses if another member has taken over.
    pub(super) fn may_send_dead_letter(&mut self) -> bool {
        let Some(membership) = &mut self.membership else {
            return true;
        };
        match membership.role() {
            Role::Leader => true,
            Role::FormerLeader => self
                .connection
                .as_ref()
                .is_some_and(Connection::is_in_transaction),
            Role::Disconnected | Role::Follower(_) => false,
        }
    }

    /// Returns the outcomes that do not come from the producer, or the request for another connection where the role has changed.
    pub(super) async fn outcomes_of_member(
        &mut self,
        acks: &mut Vec<Ack>,
    ) -> Result<Option<AfterOutcomes>, SinkFault> {
        let Some(membership) = &mut self.membership else {
            return Ok(None);
        };
        if membership.take_known(acks) {
            return Ok(Some(AfterOutcomes::Continue));
        }
        let is_settled = |connection: &Connection| connection.is_idle() && !connection.is_in_transaction();
        let has_lease = membership.has_lease();
        match membership.role() {
            Role::Disconnected | Role::Leader => Ok(None),
            Role::FormerLeader if self.connection.as_ref().is_some_and(is_settled) => {
                Ok(Some(AfterOutcomes::Reconnect))
            }
            Role::FormerLeader => Ok(None),
            Role::Follower(_) if has_lease => Ok(Some(AfterOutcomes::Reconnect)),
            Role::Follower(_) => {
                membership.outcomes(acks).await?;
                Ok(Some(AfterOutcomes::Continue))
            }
        }
    }

    /// Records that the own records up to the acknowledged offsets are settled, so that this member does not read them again.
    /// Only for a leader without transactions.
    pub(super) fn acknowledged(&mut self) {
        if let (Some(membership), Some(topic_to_read)) = (&mut self.membership, &self.topic_to_read) {
            membership.acknowledged(&self.health.positions().ends(&topic_to_read.topic));
        }
    }

    /// Records that everything that was published is committed.
    pub(super) fn committed(&mut self, next: Sequence) {
        if let (Some(membership), Some(topic_to_read)) = (&mut self.membership, &self.topic_to_read) {
            let ends = self.health.positions().ends(&topic_to_read.topic);
            membership.committed(&ends, next);
        }
    }
}
