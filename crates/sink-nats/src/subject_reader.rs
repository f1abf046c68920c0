//! Reads the ids of the messages that other members publish without a stream (core NATS).
//!
//! No server stores these messages, so the ones published while this reader was not subscribed are unknown. A later message shows
//! that another member leads, and has published what it had received: the events of that time then count as published.

use std::{
    collections::VecDeque,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::{Client, Message, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use jiff::Timestamp;
use neurobridge_core::{clock, sink::SinkFault};
use tokio::task::coop::unconstrained;

use crate::{encode::MESSAGE_ID, error, events::Events, stream_reader::Found};

/// The largest difference between the times at which two members receive the same event.
const MAX_SKEW: Duration = Duration::from_secs(2);
/// The time after a subscription before a message shows that the leader has published what it received earlier: a leader whose
/// connection broke at the same time connects and publishes its backlog first.
const CATCH_UP_TIME: Duration = Duration::from_secs(5);

/// The subscription to the subjects of the events.
pub(crate) struct SubjectReader {
    client: Client,
    events: Arc<Events>,
    pattern: String,
    messages: Option<Subscriber>,
    /// The number of the next message, which stands for its place.
    next: u64,
    /// The messages of events that were received before this time may have been missed.
    missed_until: Timestamp,
    subscribed_at: Instant,
    /// Whether the missed messages count as published.
    is_caught_up: bool,
}

impl SubjectReader {
    /// Creates a reader that is not subscribed yet.
    pub(crate) fn new(client: &Client, events: &Arc<Events>, pattern: String) -> Self {
        Self {
            client: client.clone(),
            events: Arc::clone(events),
            pattern,
            messages: None,
            next: 1,
            missed_until: Timestamp::MAX,
            subscribed_at: Instant::now(),
            is_caught_up: false,
        }
    }

    /// Ends the subscription. The next message has this number.
    pub(crate) fn restart(&mut self, next: u64) {
        self.messages = None;
        self.next = next;
        self.is_caught_up = false;
    }

    /// Returns whether an event counts as published although its message was not received.
    pub(crate) fn counts_as_published(&self, received_at: Timestamp) -> bool {
        self.is_caught_up && received_at <= self.missed_until
    }

    /// Waits until messages arrive, and appends them. Returns whether the missed messages count as published from now on. Cancel-safe.
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) async fn read(&mut self, found: &mut VecDeque<Found>) -> Result<bool, SinkFault> {
        let message = self.subscription().await?.next().await;
        self.take(message.as_ref(), found)?;
        self.take_received(found)?;
        let is_of_leader = found.iter().any(|found| found.id.is_some());
        let has_caught_up = is_of_leader && self.subscribed_at.elapsed() >= CATCH_UP_TIME;
        Ok(has_caught_up && !std::mem::replace(&mut self.is_caught_up, true))
    }

    /// Appends all messages that the server has received before this call. Returns the number of the last message. Cancel-safe.
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) async fn read_to_end(&mut self, found: &mut VecDeque<Found>) -> Result<u64, SinkFault> {
        self.subscription().await?;
        // The server sends the messages of a connection in order.
        let inbox = self.client.new_inbox();
        let broken = || self.events.fault().unwrap_or_else(error::broken);
        let mut echoes = self.client.subscribe(inbox.clone()).await.map_err(|_| broken())?;
        self.client
            .publish(inbox, Bytes::new())
            .await
            .map_err(|_| broken())?;
        tokio::select! {
            biased;
            echo = echoes.next() => if echo.is_none() { return Err(broken()) },
            fault = self.events.faulted() => return Err(fault),
        }
        self.take_received(found)?;
        Ok(self.next.saturating_sub(1))
    }

    async fn subscription(&mut self) -> Result<&mut Subscriber, SinkFault> {
        if self.messages.is_none() {
            let subscribed = self.client.subscribe(self.pattern.clone()).await;
            let messages = subscribed.map_err(|_| self.events.fault().unwrap_or_else(error::broken))?;
            self.messages = Some(messages);
            self.missed_until = clock::now() + MAX_SKEW;
            self.subscribed_at = Instant::now();
            self.is_caught_up = false;
        }
        self.messages.as_mut().ok_or_else(error::broken)
    }

    fn take_received(&mut self, found: &mut VecDeque<Found>) -> Result<(), SinkFault> {
        while let Some(messages) = &mut self.messages
            && let Some(message) = unconstrained(pin!(messages.next())).now_or_never()
        {
            self.take(message.as_ref(), found)?;
        }
        Ok(())
    }

    fn take(&mut self, message: Option<&Message>, found: &mut VecDeque<Found>) -> Result<(), SinkFault> {
        let Some(message) = message else {
            return Err(self.events.fault().unwrap_or_else(error::broken));
        };
        let headers = message.headers.as_ref();
        let id = headers.and_then(|headers| headers.get(MESSAGE_ID));
        found.push_back(Found {
            place: self.next,
            id: id.map(|id| id.as_str().to_owned()),
        });
        self.next += 1;
        Ok(())
    }
}
