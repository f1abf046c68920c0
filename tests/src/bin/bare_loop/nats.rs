//! Publishes to NATS: to core NATS, or to a stream with custom reply subjects and one subscription for all
//! acknowledgements.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_nats::jetstream::{self, stream};
use async_nats::{ConnectOptions, HeaderMap, HeaderName, Message, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};

use crate::frame::{EPOCH, Finders, SPOOL};
use crate::{Client, Format};

/// The bridge's default number of messages in flight.
const IN_FLIGHT: u64 = 4096;
/// Additional capacity for messages that are not acknowledgements.
const SPARE: usize = 64;

/// How the server stores the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Storage {
    None,
    Stream,
    /// A stream in strict order, where each message names its predecessor.
    Chain,
}

pub(crate) struct Nats {
    client: async_nats::Client,
    replies: Subscriber,
    inbox: String,
    storage: Storage,
    format: Format,
    finders: Finders,
    in_flight: u64,
    /// The id of the previous message.
    last: Option<String>,
}

impl Nats {
    /// Connects, and creates the stream if the events are stored in one.
    pub(crate) async fn connect(url: &str, sink: &str, name: &str, format: Format) -> Result<Self> {
        let storage = match sink {
            "core" => Storage::None,
            "strict" => Storage::Chain,
            _ => Storage::Stream,
        };
        let capacity = IN_FLIGHT as usize + SPARE;
        let client = ConnectOptions::new()
            .client_capacity(capacity)
            .subscription_capacity(capacity)
            .skip_subject_validation(true)
            .connect(url)
            .await
            .with_context(|| format!("connecting to {url}"))?;
        if storage != Storage::None {
            let config = stream::Config {
                name: name.to_owned(),
                subjects: vec!["neuroio.entries.*.*.*".to_owned()],
                max_age: Duration::from_secs(3600),
                ..stream::Config::default()
            };
            jetstream::new(client.clone())
                .create_stream(config)
                .await
                .with_context(|| format!("creating the stream {name}"))?;
        }
        let inbox = format!("{}.", client.new_inbox());
        let replies = client
            .subscribe(format!("{inbox}*"))
            .await
            .context("subscribing to the acknowledgements")?;
        Ok(Self {
            client,
            replies,
            inbox,
            storage,
            format,
            finders: Finders::new(),
            in_flight: 0,
            last: None,
        })
    }

    /// Returns the headers that the bridge sends with a message.
    fn headers(&mut self, frame: &str, number: u64) -> Option<HeaderMap> {
        let has_id = self.storage != Storage::None && self.format != Format::Plain;
        if !has_id && self.format != Format::Cloudevents {
            return None;
        }
        let mut headers = HeaderMap::new();
        let mut add = |name, value: String| headers.insert(HeaderName::from_static(name), value);
        if has_id {
            let id = format!("main/{}", self.finders.id(frame));
            if self.storage == Storage::Chain {
                match self.last.replace(id.clone()) {
                    Some(last) => add("Nats-Expected-Last-Msg-Id", last),
                    None => add("Nats-Expected-Last-Sequence", "0".to_owned()),
                }
                add("Neurobridge-Chain", format!("bare/{SPOOL}/{EPOCH}:{number:020}"));
            }
            add("Nats-Msg-Id", id);
        }
        if self.format == Format::Cloudevents {
            for (name, value) in self.finders.attributes(frame, number) {
                let name = match name {
                    "specversion" => "ce-specversion",
                    "id" => "ce-id",
                    "source" => "ce-source",
                    "type" => "ce-type",
                    "time" => "ce-time",
                    _ => "ce-sequence",
                };
                add(name, value.to_owned());
            }
            add("ce-datacontenttype", "application/json".to_owned());
        }
        Some(headers)
    }

    /// Counts an acknowledgement.
    fn take(&mut self, reply: Option<Message>) -> Result<()> {
        let reply = reply.context("the connection was lost")?;
        if reply.status.is_some() || reply.payload.windows(7).any(|word| word == b"\"error\"") {
            bail!(
                "the server refused a message: {:?} {}",
                reply.status,
                String::from_utf8_lossy(&reply.payload)
            );
        }
        self.in_flight -= 1;
        Ok(())
    }
}

impl Client for Nats {
    async fn send(&mut self, frame: &str, number: u64) -> Result<()> {
        let subject = self.finders.subject(frame);
        let headers = self.headers(frame, number);
        let payload = match self.format {
            Format::Cloudevents => self.finders.data(frame).context("the frame has no data")?,
            Format::Plain | Format::Raw => frame,
        };
        // A slice of the read buffer would keep the whole buffer alive until the message is sent.
        let payload = Bytes::copy_from_slice(payload.as_bytes());
        let client = &self.client;
        if self.storage == Storage::None {
            match headers {
                Some(headers) => client.publish_with_headers(subject, headers, payload).await,
                None => client.publish(subject, payload).await,
            }
            .context("publishing")?;
            return Ok(());
        }
        let reply = format!("{}{number}", self.inbox);
        match headers {
            Some(headers) => {
                client
                    .publish_with_reply_and_headers(subject, reply, headers, payload)
                    .await
            }
            None => client.publish_with_reply(subject, reply, payload).await,
        }
        .context("publishing")?;
        self.in_flight += 1;
        if self.in_flight == IN_FLIGHT {
            let reply = self.replies.next().await;
            self.take(reply)?;
            while let Some(reply) = self.replies.next().now_or_never() {
                self.take(reply)?;
            }
        }
        Ok(())
    }

    async fn finish(&mut self, _: u64) -> Result<()> {
        if self.storage == Storage::None {
            // The message is published after all events, so its receipt proves that the server has received all events.
            let echo = format!("{}echo", self.inbox);
            self.client
                .publish(echo, Bytes::new())
                .await
                .context("publishing")?;
            self.in_flight = 1;
        }
        while self.in_flight > 0 {
            let reply = self.replies.next().await;
            self.take(reply)?;
        }
        Ok(())
    }
}
