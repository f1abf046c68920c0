//! The sink as a member of a cluster: follows, takes over, steps down.

use std::{sync::Arc, time::Duration};

use neurobridge_core::{
    connect::ConnectStep,
    event::{Event, Sequence},
    identity,
    sink::{Ack, ConnectContext, Connected, Next, PublishError, SinkFault},
};

use super::{KafkaSink, on_thread};
use crate::{
    connection::creation,
    following::{Offsets, Source, Turn},
    properties, topics,
};

/// The time for which a takeover without transactions waits for open transactions of other producers.
const OPEN_LIMIT: Duration = Duration::from_secs(60);

impl KafkaSink {
    /// Returns whether this member publishes nothing, or is about to step down.
    pub(super) fn is_follower(&self) -> bool {
        self.membership.is_some() && self.connection.is_none() || self.is_member_without_lead()
    }

    /// Returns whether this member must not publish.
    pub(super) fn is_member_without_lead(&self) -> bool {
        self.membership
            .as_ref()
            .is_some_and(|membership| !membership.lead.is_held())
    }

    /// Connects as a follower.
    pub(super) async fn follow(&mut self, context: &ConnectContext<'_>) -> Result<Connected, SinkFault> {
        let source = self.source(context).await?;
        let wanted = self.wanted(context, &source);
        let reading = source.clone();
        let (reader, offsets) = on_thread(move || {
            let offsets = reading.begin(&wanted)?;
            Ok((reading.start(offsets.clone())?, offsets))
        })
        .await?;
        if let Some(membership) = &mut self.membership {
            membership.begin(&offsets);
            membership.follow(reader);
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
        steps.begin(
            ConnectStep::Cursor,
            format_args!("the records of other members in the topic \"{}\"", source.topic),
        );
        let (found, ends) = on_thread(move || {
            let offsets = reading.begin(&wanted)?;
            reading.read_to_end(&offsets, limit, &steps)
        })
        .await?;
        if let Some(membership) = &mut self.membership {
            membership.read(found, &ends);
        }
        self.source = Some(source);
        Ok(())
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
    pub(super) fn takes_turn(&mut self, event: &Event<'_>) -> Result<bool, PublishError> {
        let Some(membership) = &mut self.membership else {
            return Ok(true);
        };
        let is_leading = match &self.connection {
            None => false,
            Some(_) if membership.lead.is_held() => true,
            Some(connection) if connection.is_idle() => false,
            // The lease has ended: the records in flight are settled first.
            Some(_) => return Err(PublishError::Full),
        };
        let text = membership.text();
        text.clear();
        identity::write_identity(event, &self.spool, text);
        match membership.turn(event.sequence, is_leading) {
            Turn::Publish => Ok(true),
            Turn::Stored | Turn::Expected => Ok(false),
            Turn::Full => Err(PublishError::Full),
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
        let is_held = membership.lead.is_held();
        match &self.connection {
            Some(connection) if is_held || !connection.is_idle() || connection.is_in_transaction() => {
                Ok(None)
            }
            Some(_) => Ok(Some(Next::Reconnect)),
            None if is_held => Ok(Some(Next::Reconnect)),
            None => {
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
