//! Reads the ids of the messages that other members publish without a stream (core NATS).
//!
//! No server stores these messages, so the ones published while this reader was not subscribed are unknown. When the leader has reported
//! that everything it had received until after the subscription is published, the events of that time count as published.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_nats::{Client, Message, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use jiff::Timestamp;
use neurobridge_core::{
    clock,
    lead::Lead,
    sink::{FaultKind, SinkFault},
};
use tokio::{sync::mpsc, time::Instant};

use crate::{encode::MESSAGE_ID, error, events::Events, stream_reader::Found};

/// The largest difference between the times at which two members receive the same event.
const MAX_SKEW: Duration = Duration::from_secs(2);
/// The largest number of ids that wait for the delivery.
const MAX_WAITING: usize = 1 << 17;
/// The time after a subscription in which [`is_catching_up`](SubjectReader::is_catching_up) may be true: a leader that publishes
/// nothing must not keep this member from being its successor.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(30);

/// What the subscriptions have received.
enum Received {
    /// The id of a message; `None` for one of another program.
    Message(Option<String>),
    /// The own message to the inbox: the server had processed everything before it.
    Echo,
}

/// A subscription to the subjects of the events, and to an inbox.
struct Subscription {
    received: mpsc::Receiver<Received>,
    inbox: String,
    /// The numbers of requested and received echoes.
    requested: u64,
    returned: u64,
    /// `None` until the server has confirmed the subscription.
    confirmed: Option<Confirmed>,
}

/// The time at which the server confirmed a subscription.
struct Confirmed {
    at: Instant,
    /// The messages of events that were received before this time may have been missed.
    missed_until: Timestamp,
    is_caught_up: bool,
}

/// Reads the ids of the messages of other members. Its methods are cancel-safe.
pub(crate) struct SubjectReader {
    client: Client,
    events: Arc<Events>,
    lead: Lead,
    pattern: String,
    subscription: Option<Subscription>,
    /// The number of the next message, which stands for its place.
    next: u64,
    /// The echo that ends [`read_to_end`](Self::read_to_end).
    end: Option<u64>,
}

impl SubjectReader {
    /// Creates a reader that is not subscribed yet. `lead`: the reports of the leader.
    pub(crate) fn new(client: &Client, events: &Arc<Events>, lead: Lead, pattern: String) -> Self {
        Self {
            client: client.clone(),
            events: Arc::clone(events),
            lead,
            pattern,
            subscription: None,
            next: 1,
            end: None,
        }
    }

    /// Ends the subscription. The next message has this number.
    pub(crate) fn restart(&mut self, next: u64) {
        self.subscription = None;
        self.end = None;
        self.next = next;
    }

    /// Forgets how far [`read_to_end`](Self::read_to_end) has read.
    pub(crate) const fn reset_end(&mut self) {
        self.end = None;
    }

    /// Returns whether the leader may have published events whose messages this reader has missed, and has not reported it yet.
    pub(crate) fn is_catching_up(&self) -> bool {
        let Some(Subscription {
            confirmed: Some(confirmed),
            ..
        }) = &self.subscription
        else {
            return true;
        };
        !confirmed.is_caught_up && confirmed.at.elapsed() < CATCH_UP_LIMIT
    }

    /// Returns whether an event counts as published although its message was not received.
    pub(crate) fn counts_as_published(&self, received_at: Timestamp) -> bool {
        let confirmed = self.subscription.as_ref().and_then(|all| all.confirmed.as_ref());
        let was_missed = confirmed
            .is_some_and(|confirmed| confirmed.is_caught_up && received_at <= confirmed.missed_until);
        // By the age, so that a clock that was set back does not make a new event an old one.
        let age = SystemTime::from(clock::now()).duration_since(received_at.into());
        let published = self.lead.published_until();
        was_missed && published.is_some_and(|until| age.is_ok_and(|age| age >= until.elapsed() + MAX_SKEW))
    }

    /// Waits until messages arrive, and appends them. Returns true if from now on the missed events count as published.
    ///
    /// # Errors
    /// The connection is broken, or too many messages arrived meanwhile.
    pub(crate) async fn read(&mut self, found: &mut VecDeque<Found>) -> Result<bool, SinkFault> {
        self.subscribe().await?;
        let mut lead = self.lead.clone();
        loop {
            if self.catches_up() {
                return Ok(true);
            }
            tokio::select! {
                biased;
                received = self.receive(found) => received?,
                () = lead.published_until_changed() => {}
            }
            if !found.is_empty() {
                return Ok(self.catches_up());
            }
        }
    }

    /// Appends all messages that the server has received before the first call. Returns the number of the last message.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub(crate) async fn read_to_end(&mut self, found: &mut VecDeque<Found>) -> Result<u64, SinkFault> {
        self.subscribe().await?;
        let end = match self.end {
            Some(end) => end,
            None => {
                let end = self.request_echo().await?;
                *self.end.insert(end)
            }
        };
        while self.subscription.as_ref().is_some_and(|all| all.returned < end) {
            self.receive(found).await?;
        }
        Ok(self.next.saturating_sub(1))
    }

    /// Returns true once, when the leader has published everything that it had received until after the subscription.
    fn catches_up(&mut self) -> bool {
        let published = self.lead.published_until();
        let confirmed = self.subscription.as_mut().and_then(|all| all.confirmed.as_mut());
        let Some(confirmed) = confirmed.filter(|confirmed| !confirmed.is_caught_up) else {
            return false;
        };
        // The event that was received last in that time may be the first one here and a later one there, or the reverse.
        confirmed.is_caught_up = published >= Some(confirmed.at + 2 * MAX_SKEW);
        confirmed.is_caught_up
    }

    async fn subscribe(&mut self) -> Result<(), SinkFault> {
        if self.subscription.is_none() {
            let inbox = self.client.new_inbox();
            let broken = |events: &Events| events.fault().unwrap_or_else(error::broken);
            let echoes = self.client.subscribe(inbox.clone()).await;
            let messages = self.client.subscribe(self.pattern.clone()).await;
            let (Ok(echoes), Ok(messages)) = (echoes, messages) else {
                return Err(broken(&self.events));
            };
            let (sender, received) = mpsc::channel(MAX_WAITING);
            tokio::spawn(pass_on(messages, echoes, sender));
            self.subscription = Some(Subscription {
                received,
                inbox,
                requested: 0,
                returned: 0,
                confirmed: None,
            });
            self.request_echo().await?;
        }
        Ok(())
    }

    /// Requests an echo, and returns its number.
    async fn request_echo(&mut self) -> Result<u64, SinkFault> {
        let Some(subscription) = &mut self.subscription else {
            return Err(error::broken());
        };
        let sent = self
            .client
            .publish(subscription.inbox.clone(), Bytes::new())
            .await;
        sent.map_err(|_| self.events.fault().unwrap_or_else(error::broken))?;
        subscription.requested += 1;
        Ok(subscription.requested)
    }

    /// Waits for a message or an echo, and takes all that were received.
    async fn receive(&mut self, found: &mut VecDeque<Found>) -> Result<(), SinkFault> {
        let Some(subscription) = &mut self.subscription else {
            return Err(error::broken());
        };
        let mut next = subscription.received.recv().await;
        while let Some(received) = next {
            match received {
                Received::Message(id) => {
                    found.push_back(Found { place: self.next, id });
                    self.next += 1;
                }
                Received::Echo => {
                    subscription.returned += 1;
                    subscription.confirmed.get_or_insert_with(|| Confirmed {
                        at: Instant::now(),
                        missed_until: clock::now() + MAX_SKEW,
                        is_caught_up: false,
                    });
                }
            }
            next = match subscription.received.try_recv() {
                Ok(received) => Some(received),
                Err(mpsc::error::TryRecvError::Empty) => return Ok(()),
                Err(mpsc::error::TryRecvError::Disconnected) => None,
            };
        }
        Err(self.events.fault().unwrap_or_else(|| {
            let reason = format!(
                "more than {MAX_WAITING} messages of the leader arrived before this member could compare them; subscribing again"
            );
            SinkFault::new(FaultKind::Other, reason)
        }))
    }
}

/// Passes on the ids of messages without their bodies, so that a pause of the delivery costs little memory. Ends when the receiver is
/// dropped or full.
async fn pass_on(mut messages: Subscriber, mut echoes: Subscriber, received: mpsc::Sender<Received>) {
    loop {
        let next = tokio::select! {
            // The messages first: the client has passed on those before an echo when the echo arrives.
            biased;
            message = messages.next() => message.map(|message| Received::Message(id_of(&message))),
            echo = echoes.next() => echo.map(|_| Received::Echo),
            () = received.closed() => None,
        };
        if next.is_none_or(|next| received.try_send(next).is_err()) {
            return;
        }
    }
}

fn id_of(message: &Message) -> Option<String> {
    let id = message.headers.as_ref()?.get(MESSAGE_ID)?;
    Some(id.as_str().to_owned())
}

#[cfg(test)]
mod tests;
