//! Reads the ids of the messages that other members publish without a stream (core NATS).
//!
//! No server stores these messages, so the ones published while this reader was not subscribed are never received. Their
//! events wait until this member leads, and are then published again.

use std::{collections::VecDeque, pin::pin, sync::Arc};

use async_nats::{Client, Message, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use neurobridge_core::sink::{FaultKind, SinkFault};
use tokio::{sync::mpsc, task::coop::unconstrained};

use crate::{encode::MESSAGE_ID, error, events::Events, stream_reader::Found};

/// The largest number of ids that wait for the delivery.
const MAX_WAITING: usize = 1 << 17;

/// An item received by the subscriptions.
enum Received {
    /// The [`identity`] of a message; `None` for one of another program.
    Message(Option<String>),
    /// The own message to the inbox: the server had processed everything before it.
    Echo,
}

/// The subscriptions to the subjects of the events, and to an inbox.
struct Subscription {
    received: mpsc::Receiver<Received>,
    inbox: String,
    /// The number of requested echoes.
    requested: u64,
    /// The number of received echoes.
    returned: u64,
}

/// Reads the ids of the messages of other members. Its methods are cancel-safe.
pub(crate) struct SubjectReader {
    client: Client,
    events: Arc<Events>,
    pattern: String,
    subscription: Option<Subscription>,
    /// The number of the next message, which stands for its place.
    next: u64,
    /// The number of the echo that ends [`read_to_end`](Self::read_to_end).
    end: Option<u64>,
}

impl SubjectReader {
    /// Creates a reader that is not subscribed yet.
    pub(crate) fn new(client: &Client, events: &Arc<Events>, pattern: String) -> Self {
        Self {
            client: client.clone(),
            events: Arc::clone(events),
            pattern,
            subscription: None,
            next: 1,
            end: None,
        }
    }

    /// Ends the subscriptions, because a leader would receive its own messages.
    pub(crate) fn unsubscribe(&mut self) {
        self.subscription = None;
        self.end = None;
    }

    /// Sets the number of the next message.
    pub(crate) const fn restart(&mut self, next: u64) {
        self.next = next;
        self.end = None;
    }

    /// Resets the end of [`read_to_end`](Self::read_to_end), because others may publish after it.
    pub(crate) const fn reset_end(&mut self) {
        self.end = None;
    }

    /// Subscribes without waiting, so that the subscription exists before another member publishes. If this would have to
    /// wait, the next call that reads subscribes.
    pub(crate) fn subscribe_now(&mut self) {
        // A fault is reported by the next call that reads.
        let _ = unconstrained(pin!(self.subscribe())).now_or_never();
    }

    /// Waits until messages arrive, and appends them.
    ///
    /// # Errors
    /// The connection is broken, or too many messages arrived meanwhile.
    pub(crate) async fn read(&mut self, found: &mut VecDeque<Found>) -> Result<(), SinkFault> {
        self.subscribe().await?;
        while found.is_empty() {
            self.receive(found).await?;
        }
        Ok(())
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

    async fn subscribe(&mut self) -> Result<(), SinkFault> {
        if self.subscription.is_none() {
            let inbox = self.client.new_inbox();
            let echoes = self.client.subscribe(inbox.clone()).await;
            let messages = self.client.subscribe(self.pattern.clone()).await;
            let (Ok(echoes), Ok(messages)) = (echoes, messages) else {
                return Err(self.events.fault().unwrap_or_else(error::broken));
            };
            let (sender, received) = mpsc::channel(MAX_WAITING);
            tokio::spawn(pass_on(messages, echoes, sender));
            self.subscription = Some(Subscription {
                received,
                inbox,
                requested: 0,
                returned: 0,
            });
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

    /// Waits for a message or an echo, and appends all received ones.
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
                Received::Echo => subscription.returned += 1,
            }
            next = match subscription.received.try_recv() {
                Ok(received) => Some(received),
                Err(mpsc::error::TryRecvError::Empty) => return Ok(()),
                Err(mpsc::error::TryRecvError::Disconnected) => None,
            };
        }
        Err(self.events.fault().unwrap_or_else(|| {
            let reason = format!(
                "more than {MAX_WAITING} messages of the leader arrived before this member could compare them; reconnecting"
            );
            SinkFault::new(FaultKind::Other, reason)
        }))
    }
}

/// Passes on the ids of messages without their bodies, so that a pause of the delivery costs little memory. Ends when the
/// receiver is dropped or full.
async fn pass_on(mut messages: Subscriber, mut echoes: Subscriber, received: mpsc::Sender<Received>) {
    let pass = |next| received.try_send(next).is_ok();
    let of = |message: &Message| Received::Message(id_of(message));
    loop {
        let is_open = tokio::select! {
            biased;
            message = messages.next() => message.is_some_and(|message| pass(of(&message))),
            echo = echoes.next() => {
                // When an echo arrives, the client has already passed on all messages before it.
                let mut is_open = echo.is_some();
                while is_open && let Some(message) = unconstrained(messages.next()).now_or_never() {
                    is_open = message.is_some_and(|message| pass(of(&message)));
                }
                is_open && pass(Received::Echo)
            }
            () = received.closed() => false,
        };
        if !is_open {
            return;
        }
    }
}

fn id_of(message: &Message) -> Option<String> {
    let id = message.headers.as_ref()?.get(MESSAGE_ID)?;
    Some(identity(&message.subject, id.as_str()))
}

/// Returns the text that identifies a message of this sink. It contains the subject, because another sink may publish the
/// same event to another subject of the pattern.
pub(crate) fn identity(subject: &str, id: &str) -> String {
    format!("{subject} {id}")
}

#[cfg(test)]
mod tests;
