//! The sink as a member of a cluster: follows, takes over, steps down.

use std::{sync::Arc, time::Duration};

use neurobridge_core::{
    connect::ConnectStep,
    event::{Event, Sequence},
    identity,
    sink::{Ack, ConnectContext, Connected, FaultKind, Next, PublishError, SinkFault},
};
use tokio::{join, sync::mpsc};

use super::{KafkaSink, on_thread};
use crate::{
    connection::{Connection, creation},
    following::{BATCHES, Limits, Offsets, RecordReader, Role, Source},
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

    /// Returns whether another member may lead.
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
        let source = self.source(context).await?;
        let wanted = self.wanted(context, &source);
        let (reading, steps) = (source.clone(), context.steps.clone());
        let transactions = self.config.transactions();
        let limits = Limits::new(transactions.map_or(Duration::ZERO, |transactions| transactions.interval));
        let (reader, unread) = on_thread(move || {
            let unread = reading.unread(&wanted, &steps)?;
            Ok((RecordReader::start(reading, &unread.offsets, limits)?, unread))
        })
        .await?;
        if let Some(membership) = &mut self.membership {
            membership.begin(&unread);
            membership.connected(Role::Follower(reader));
        }
        self.source = Some(source);
        Ok(Connected {
            acks_are_cumulative: false,
            committed_cursor: None,
        })
    }

    /// Reads the topic to its end, after earlier leaders were fenced, and settles what others have published.
    pub(super) async fn take_over(&mut self, context: &ConnectContext<'_>) -> Result<(), SinkFault> {
        let source = self.source(context).await?;
        let wanted = self.wanted(context, &source);
        let limit = self
            .config
            .transactions()
            .map_or(OPEN_LIMIT, |transactions| transactions.timeout);
        let (reading, steps) = (source.clone(), context.steps.clone());
        let (unread, reading) = on_thread(move || Ok((reading.unread(&wanted, &steps)?, reading))).await?;
        let steps = context.steps.clone();
        steps.begin(
            ConnectStep::Cursor,
            format_args!("the records of other members in the topic \"{}\"", source.topic),
        );
        if let Some(membership) = &mut self.membership {
            membership.begin(&unread);
            // Settled while more are read: there may be millions, of which only the identities stay in memory.
            let (sender, mut batches) = mpsc::channel(BATCHES);
            let reading = on_thread(move || reading.read_to_end(&unread.offsets, limit, &steps, &sender));
            let settling = async {
                while let Some(found) = batches.recv().await {
                    membership.read(found);
                }
            };
            let (ends, ()) = join!(reading, settling);
            // In exactly-once delivery the brokers refuse the records of a fenced leader.
            let in_flight = match self.config.transactions() {
                Some(_) => 0,
                None => QueueBounds::of(&self.config).messages as u64,
            };
            membership.taken_over(&ends?, in_flight);
        }
        self.source = Some(source);
        Ok(())
    }

    /// Records that the connection is that of a leader.
    pub(super) fn lead(&mut self) {
        if let Some(membership) = &mut self.membership {
            membership.connected(Role::Leader);
        }
    }

    async fn source(&self, context: &ConnectContext<'_>) -> Result<Source, SinkFault> {
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
            Ok(Source {
                client,
                topic: name,
                partitions,
                health,
            })
        })
        .await
    }

    fn wanted(&self, context: &ConnectContext<'_>, source: &Source) -> Offsets {
        let note = context.cursor.note.as_deref();
        self.membership
            .as_ref()
            .map(|membership| membership.wanted(note, source.partitions))
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

    /// Returns whether dead letters may be sent now. A leader whose lease has ended still completes its open transaction, which Kafka
    /// refuses if another member has taken over.
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
    ) -> Result<Option<Next>, SinkFault> {
        let Some(membership) = &mut self.membership else {
            return Ok(None);
        };
        if membership.take_known(acks) {
            return Ok(Some(Next::Continue));
        }
        let is_settled = |connection: &Connection| connection.is_idle() && !connection.is_in_transaction();
        let has_lease = membership.has_lease();
        match membership.role() {
            Role::Disconnected | Role::Leader => Ok(None),
            Role::FormerLeader if self.connection.as_ref().is_some_and(is_settled) => {
                Ok(Some(Next::Reconnect))
            }
            Role::FormerLeader => Ok(None),
            Role::Follower(_) if has_lease => Ok(Some(Next::Reconnect)),
            Role::Follower(_) => {
                membership.outcomes(acks).await?;
                Ok(Some(Next::Continue))
            }
        }
    }

    /// Records the outcomes of a leader without transactions.
    pub(super) fn acknowledged(&mut self) {
        if let (Some(membership), Some(source)) = (&mut self.membership, &self.source) {
            membership.acknowledged(&self.health.positions().ends(&source.topic));
        }
    }

    /// Records that everything that was published is committed.
    pub(super) fn committed(&mut self, next: Sequence) {
        if let (Some(membership), Some(source)) = (&mut self.membership, &self.source) {
            let ends = self.health.positions().ends(&source.topic);
            membership.committed(&ends, next);
        }
    }
}
