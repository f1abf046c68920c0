//! The connection of a member of a cluster: how it follows the leader, takes over, and steps down.

use neurobridge_core::{
    event::Event,
    sink::{Ack, AfterOutcomes, Outcome, PublishError, SinkFault},
};

use super::Connection;
use crate::{
    backend::Backend,
    chain::{Chain, End},
    following::{Following, MAX_CHAINED, Membership},
    recovery::Recovery,
};

/// The answer to the delivery after a change of the role: all events without an outcome are published again. Acknowledgements
/// are cumulative, because the place stored with the cursor stands for all events before the last stored one.
const RESENT: AfterOutcomes = AfterOutcomes::Resend {
    acks_are_cumulative: true,
};

impl Connection {
    /// Returns whether this member publishes nothing, or is about to step down.
    pub(crate) fn is_follower(&self) -> bool {
        self.following
            .as_ref()
            .is_some_and(|following| !following.is_leading() || !following.may_publish())
    }

    /// Returns the largest number of messages in flight, and of events that a follower expects to be published.
    pub(super) fn most_in_flight(&self) -> usize {
        let is_chained = self.following.is_some() && self.backend.chain().is_some();
        if is_chained {
            self.max_in_flight.min(MAX_CHAINED)
        } else {
            self.max_in_flight
        }
    }

    /// Returns whether the next message has to wait until nothing is in flight.
    pub(super) fn sends_alone(&self) -> bool {
        self.backend.chain().is_some_and(Chain::sends_alone)
            || self.backend.recovery().is_some_and(Recovery::is_contended)
            || self.is_contested()
    }

    /// Returns whether the stream may still accept messages that an earlier leader has sent.
    fn is_contested(&self) -> bool {
        self.backend.chain().is_some() && self.following.as_ref().is_some_and(Following::is_contested)
    }

    /// Returns the place from which the stream has to be read after a restart; `None` outside of a cluster.
    pub(crate) fn resume(&self) -> Option<u64> {
        self.membership()?.resume()
    }

    /// Returns the membership; `None` outside of a cluster.
    pub(crate) fn membership(&self) -> Option<&Membership> {
        self.following.as_ref().map(Following::membership)
    }

    pub(crate) fn into_membership(self) -> Option<Membership> {
        self.following.map(Following::into_membership)
    }

    /// Steps down when the lease has ended: nothing is sent any more, and once all messages are answered, the remaining
    /// events are settled by what the next leader publishes.
    pub(super) fn check_lead(&mut self) -> Result<(), PublishError> {
        let Some(following) = self.following.as_mut().filter(|following| following.is_leading()) else {
            return Ok(());
        };
        if following.may_publish() {
            return Ok(());
        }
        following.lease_ended();
        if self.in_flight.len() > 0 {
            return Err(PublishError::Full);
        }
        following.step_down();
        self.end_chain();
        Ok(())
    }

    /// Returns an event as the leader of a cluster publishes it; `None` outside of a cluster, or for a follower.
    pub(crate) fn with_origin<'a>(&self, event: &Event<'a>) -> Option<Event<'a>> {
        self.following.as_ref()?.with_origin(event)
    }

    /// Returns whether this member does not send an event: because the event is already published, or because this member
    /// follows.
    pub(super) fn is_not_sent(&mut self, event: &Event<'_>, subject: &str, id: Option<&str>) -> bool {
        let (Some(following), Some(id)) = (&mut self.following, id) else {
            return false;
        };
        let is_published = following.is_published(event, subject, id);
        if is_published {
            self.known.push(Ack {
                sequence: event.sequence,
                outcome: Outcome::Duplicate,
            });
        }
        is_published || !following.is_leading()
    }

    /// Waits for outcomes, or takes over. To be called only by a follower without messages in flight.
    pub(super) async fn follow(&mut self, acks: &mut Vec<Ack>) -> Result<AfterOutcomes, SinkFault> {
        let Some(following) = &mut self.following else {
            return Ok(AfterOutcomes::Continue);
        };
        if following.may_publish() {
            return self.take_over(acks).await;
        }
        if following.is_leading() || self.backend.chain().is_some() {
            following.step_down();
            self.end_chain();
            // Events that a broken chain has refused have no outcome.
            return Ok(RESENT);
        }
        following.follow(acks).await?;
        Ok(AfterOutcomes::Continue)
    }

    /// Reads the stream to its end and continues as the leader: all events without an outcome are sent. Cancel-safe.
    pub(super) async fn take_over(&mut self, acks: &mut Vec<Ack>) -> Result<AfterOutcomes, SinkFault> {
        let Some(following) = &mut self.following else {
            return Ok(AfterOutcomes::Continue);
        };
        let Some(place) = following.take_over(acks).await? else {
            self.end_chain();
            return Ok(RESENT);
        };
        if let (Some(by), Backend::Stream { chain, .. }) = (self.chained_by, &mut self.backend) {
            let end = End {
                place,
                by,
                // The events in the stream are known by their ids.
                own_events: Vec::new(),
                log_end: None,
                is_last_own: true,
            };
            let mut recovery = chain
                .take()
                .map_or_else(|| Recovery::new(place), |(_, recovery)| recovery);
            recovery.continued(place, false);
            *chain = Some((Chain::new(&self.ownership.owner(), end), recovery));
        }
        Ok(RESENT)
    }

    /// Records the place of a stored message.
    pub(super) fn stored_in_cluster(&mut self, place: u64) {
        if self.following.is_none() {
            return;
        }
        let open = self.in_flight.oldest().map(|sent| sent.sequence);
        let most_overtaken = if self.backend.chain().is_some() {
            0
        } else {
            self.max_in_flight as u64
        };
        if let Some(following) = &mut self.following {
            following.stored(place, most_overtaken, open);
        }
    }

    fn end_chain(&mut self) {
        if let Backend::Stream { chain, .. } = &mut self.backend {
            *chain = None;
        }
    }
}
