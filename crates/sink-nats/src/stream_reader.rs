//! Reads the ids of a stream's messages in order, through a consumer that delivers headers only and expects no
//! acknowledgements.
//!
//! A consumer lives on one server and ends with it, or after some time without a request. Then another one begins at the
//! first message that was not read. A message that is lost between the server and the reader is not delivered again by its
//! consumer, so a gap in the numbers of the deliveries also ends the consumer.

use std::{
    collections::VecDeque,
    fmt::Write,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use async_nats::{Client, Message, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use neurobridge_core::sink::SinkFault;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    task::coop::unconstrained,
    time::{Instant, sleep_until},
};

use crate::{
    encode::MESSAGE_ID,
    error::{self, ApiError},
    events::Events,
    stream::Api,
};

/// The time for which the server keeps a request for messages. A short one shows soon that the end of the stream is reached.
const PULL_TIME: Duration = Duration::from_secs(1);
/// The time after a request without any answer after which the consumer counts as lost.
const PULL_LIMIT: Duration = Duration::from_secs(4);
/// The time without a request after which the server removes the consumer.
const INACTIVE_LIMIT: Duration = Duration::from_secs(30);
/// The time after the loss of a consumer before another one is created.
const RETRY_TIME: Duration = Duration::from_millis(200);
/// The header of an answer to a request that has expired: the number of messages that the request did not receive.
const UNUSED: &str = "Nats-Pending-Messages";
/// The largest number of messages in one request. Below the capacity of the client's channel, which drops what does not fit.
const MAX_PULLED: usize = 1000;

/// A message of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) place: u64,
    /// The value of the header by which JetStream detects a duplicate. `None` for a message without one.
    pub(crate) id: Option<String>,
}

/// How long the server keeps a request for messages.
#[derive(Clone, Copy, Debug)]
enum Pull {
    /// For [`PULL_TIME`], or until it has sent all requested messages.
    Waiting,
    /// Until it has sent the messages that are stored.
    Stored,
    /// For [`PULL_TIME`], or until it has sent one message.
    Next,
}

type Created = Pin<Box<dyn Future<Output = Result<Result<Consumer, ApiError>, SinkFault>> + Send>>;

/// The answer to the creation of a consumer.
#[derive(Debug, Deserialize)]
struct Consumer {
    name: String,
}

/// Reads the ids of a stream's messages, beginning at a place. Its methods are cancel-safe.
pub(crate) struct StreamReader {
    client: Client,
    events: Arc<Events>,
    stream: Arc<str>,
    messages: Subscriber,
    /// The prefix of reply subjects.
    inbox: String,
    /// The place of the next message.
    next: u64,
    consumer: Option<String>,
    /// The number of messages that the consumer has delivered.
    delivered: u64,
    creating: Option<Created>,
    /// The number of the last request.
    request: u64,
    /// The number of messages that the last request may still receive.
    wanted: usize,
    /// The time of the last request or message, for [`PULL_LIMIT`].
    requested_at: Instant,
    /// The time of the last request.
    pulled_at: Instant,
    max_pulled: usize,
    is_at_end: bool,
    /// Whether the last request has received no message.
    is_idle: bool,
    /// The earliest time of the next creation of a consumer.
    retry_at: Instant,
}

impl StreamReader {
    /// Creates a reader that begins at the first message. `capacity`: that of the client's channel of a subscription.
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) async fn new(
        client: &Client,
        events: &Arc<Events>,
        stream: &str,
        capacity: usize,
    ) -> Result<Self, SinkFault> {
        let inbox = format!("{}.", client.new_inbox());
        let messages = client
            .subscribe(format!("{inbox}*"))
            .await
            .map_err(|_| events.fault().unwrap_or_else(error::broken))?;
        Ok(Self {
            client: client.clone(),
            events: Arc::clone(events),
            stream: stream.into(),
            messages,
            inbox,
            next: 1,
            consumer: None,
            delivered: 0,
            creating: None,
            request: 0,
            wanted: 0,
            requested_at: Instant::now(),
            pulled_at: Instant::now(),
            max_pulled: capacity.min(MAX_PULLED),
            is_at_end: false,
            is_idle: false,
            retry_at: Instant::now(),
        })
    }

    /// Continues at another place.
    pub(crate) fn restart(&mut self, next: u64) {
        self.next = next.max(1);
        self.consumer = None;
        self.creating = None;
        self.is_at_end = false;
    }

    /// Returns whether the server had no later message at its last answer. A server that lags behind the leader of the stream
    /// answers so too early.
    pub(crate) const fn is_at_end(&self) -> bool {
        self.is_at_end
    }

    /// Waits until messages arrive or the [end](Self::is_at_end) is reached, and appends the messages.
    ///
    /// # Errors
    /// The connection is broken, or no consumer can be created.
    pub(crate) async fn read(&mut self, found: &mut VecDeque<Found>) -> Result<(), SinkFault> {
        self.read_by(Pull::Waiting, found).await
    }

    /// As [`read`](Self::read), but at the end of the stream waits for `interval` between requests, so that the messages that
    /// arrive meanwhile are received together.
    pub(crate) async fn read_every(
        &mut self,
        interval: Duration,
        found: &mut VecDeque<Found>,
    ) -> Result<(), SinkFault> {
        if self.is_at_end && self.wanted == 0 {
            sleep_until(self.pulled_at + interval).await;
        }
        // Where nothing is published, the server waits instead of this reader.
        let pull = if self.is_idle { Pull::Next } else { Pull::Stored };
        self.read_by(pull, found).await
    }

    async fn read_by(&mut self, pull: Pull, found: &mut VecDeque<Found>) -> Result<(), SinkFault> {
        loop {
            if self.consumer.is_none() {
                self.create().await?;
            }
            if self.wanted == 0 {
                self.pull(pull)?;
            }
            let message = tokio::select! {
                biased;
                message = self.messages.next() => message,
                () = sleep_until(self.requested_at + PULL_LIMIT) => {
                    self.lose_consumer();
                    continue;
                }
            };
            self.is_at_end = false;
            self.take(message.as_ref(), found)?;
            while let Some(message) = unconstrained(pin!(self.messages.next())).now_or_never() {
                self.take(message.as_ref(), found)?;
            }
            if !found.is_empty() || self.is_at_end {
                return Ok(());
            }
        }
    }

    async fn create(&mut self) -> Result<(), SinkFault> {
        sleep_until(self.retry_at).await;
        let creating = self.creating.get_or_insert_with(|| {
            let (client, events) = (self.client.clone(), Arc::clone(&self.events));
            let (stream, next) = (Arc::clone(&self.stream), self.next);
            Box::pin(async move {
                let api = Api {
                    client: &client,
                    events: &events,
                };
                let name = client.new_inbox().replace('.', "-");
                let request = creation(&stream, &name, next);
                api.request(&format!("CONSUMER.CREATE.{stream}.{name}"), &request)
                    .await
            })
        });
        let created = creating.as_mut().await;
        self.creating = None;
        let consumer = created?.map_err(|error| error::of_consumer(&error, &self.stream))?;
        self.consumer = Some(consumer.name);
        self.delivered = 0;
        self.wanted = 0;
        Ok(())
    }

    /// Requests the next messages.
    fn pull(&mut self, pull: Pull) -> Result<(), SinkFault> {
        let Some(consumer) = &self.consumer else {
            return Ok(());
        };
        let batch = match pull {
            Pull::Waiting | Pull::Stored => self.max_pulled,
            Pull::Next => 1,
        };
        let request = match pull {
            Pull::Waiting | Pull::Next => json!({ "batch": batch, "expires": nanoseconds(PULL_TIME) }),
            Pull::Stored => json!({ "batch": batch, "no_wait": true }),
        };
        self.request += 1;
        let mut reply = self.inbox.clone();
        // Writing to a string cannot fail.
        let _ = write!(reply, "{}", self.request);
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{consumer}", self.stream);
        let request = Bytes::from(request.to_string());
        let sent =
            unconstrained(pin!(self.client.publish_with_reply(subject, reply, request))).now_or_never();
        if !matches!(sent, Some(Ok(()))) {
            return Err(self.events.fault().unwrap_or_else(error::broken));
        }
        self.wanted = batch;
        self.is_idle = true;
        self.requested_at = Instant::now();
        self.pulled_at = self.requested_at;
        Ok(())
    }

    /// Handles a delivered message, or the status of a request.
    fn take(&mut self, message: Option<&Message>, found: &mut VecDeque<Found>) -> Result<(), SinkFault> {
        let Some(message) = message else {
            return Err(self.events.fault().unwrap_or_else(error::broken));
        };
        let Some(delivered) = message.reply.as_ref().and_then(|reply| Delivered::read(reply)) else {
            self.take_status(message);
            return Ok(());
        };
        if self.consumer.as_deref() != Some(delivered.consumer) {
            // A late message of an earlier consumer.
            return Ok(());
        }
        if delivered.number != self.delivered + 1 {
            self.lose_consumer();
            return Ok(());
        }
        self.delivered = delivered.number;
        self.wanted = self.wanted.saturating_sub(1);
        self.is_idle = false;
        self.requested_at = Instant::now();
        self.is_at_end = delivered.waiting == 0;
        self.next = delivered.place + 1;
        let id = message
            .headers
            .as_ref()
            .and_then(|headers| headers.get(MESSAGE_ID));
        found.push_back(Found {
            place: delivered.place,
            id: id.map(|id| id.as_str().to_owned()),
        });
        Ok(())
    }

    /// Handles a status, an answer of the server without a message. The status of an earlier request is ignored.
    fn take_status(&mut self, message: &Message) {
        let number = message
            .subject
            .strip_prefix(self.inbox.as_str())
            .and_then(|number| number.parse().ok());
        if number != Some(self.request) {
            return;
        }
        let unused = message.headers.as_ref().and_then(|headers| headers.get(UNUSED));
        let unused = unused.and_then(|unused| unused.as_str().parse().ok());
        let has_lost = unused.is_some_and(|unused: usize| unused != self.wanted);
        self.wanted = 0;
        match message.status.map(|status| status.as_u16()) {
            // No further message until the request expired.
            Some(404 | 408) if !has_lost => self.is_at_end = true,
            // The last messages were lost, the consumer was removed, or its server is down.
            _ => self.lose_consumer(),
        }
    }

    /// Gives the consumer up. Another one begins at the first message that was not read.
    fn lose_consumer(&mut self) {
        self.consumer = None;
        self.is_at_end = false;
        self.retry_at = Instant::now() + RETRY_TIME;
    }
}

/// The position of a message, from the subject for its acknowledgement.
#[derive(Debug, PartialEq, Eq)]
struct Delivered<'a> {
    consumer: &'a str,
    place: u64,
    /// The number of messages that the consumer has delivered with this one.
    number: u64,
    /// The number of messages after this one that the consumer has not delivered.
    waiting: u64,
}

impl<'a> Delivered<'a> {
    /// Parses a subject of the form `$JS.ACK.<stream>.<consumer>.<deliveries>.<place>.<number>.<time>.<waiting>`, or of the
    /// later form, which has the domain and the account before the stream.
    fn read(subject: &'a str) -> Option<Self> {
        let tokens: Vec<&str> = subject.strip_prefix("$JS.ACK.")?.split('.').collect();
        let rest = match tokens.len() {
            7 => tokens.as_slice(),
            9.. => tokens.get(2..)?,
            _ => return None,
        };
        Some(Self {
            consumer: rest.get(1)?,
            place: rest.get(3)?.parse().ok()?,
            number: rest.get(4)?.parse().ok()?,
            waiting: rest.get(6)?.parse().ok()?,
        })
    }
}

/// Returns the request that creates a consumer.
fn creation(stream: &str, name: &str, next: u64) -> Value {
    json!({
        "stream_name": stream,
        "config": {
            "name": name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": next.max(1),
            "ack_policy": "none",
            "headers_only": true,
            "mem_storage": true,
            "num_replicas": 1,
            "inactive_threshold": nanoseconds(INACTIVE_LIMIT),
        },
    })
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
