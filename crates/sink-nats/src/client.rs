//! A connection to NATS for other purposes than a sink, with the same settings, limits and error texts.

use std::sync::Arc;

use async_nats::{Client, HeaderMap, RequestErrorKind, Subscriber};
use bytes::Bytes;
use neurobridge_core::{connect::ConnectSteps, sink::SinkFault};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

pub use crate::error::ApiError;
use crate::{config::NatsConfig, dial, error, events::Events, receive_limit::ReceiveLimit, stream::Api};

/// A connection to one of the servers of a configuration. It never reconnects: after a fault, a new one has to be opened.
#[derive(Debug)]
pub struct NatsClient {
    client: Client,
    events: Arc<Events>,
    _receive_limit: ReceiveLimit,
}

impl NatsClient {
    /// Connects to one of `servers` with the settings `auth` and `tls`; the other keys of the configuration are not used. The
    /// servers show `name` in their list of connections.
    ///
    /// # Errors
    /// Returns a fault if no server responds or the authentication fails.
    pub async fn connect(config: &NatsConfig, name: &str, steps: &ConnectSteps) -> Result<Self, SinkFault> {
        let events = Arc::new(Events::default());
        let (client, addresses) = dial::connect(config, name, &events, steps).await?;
        let receive_limit = ReceiveLimit::start(&client, addresses, Arc::clone(&events));
        Ok(Self {
            client,
            events,
            _receive_limit: receive_limit,
        })
    }

    /// Sends a request to JetStream's API, such as `STREAM.INFO.name`, and waits for its answer for at most five seconds.
    ///
    /// # Errors
    /// Returns a fault if no readable answer arrives. An error that JetStream answers with is the inner result.
    pub async fn request<T: DeserializeOwned>(
        &self,
        what: &str,
        request: &Value,
    ) -> Result<Result<T, ApiError>, SinkFault> {
        let api = Api {
            client: &self.client,
            events: &self.events,
        };
        api.request(what, request).await
    }

    /// Publishes a message to a stream and returns its place in the stream.
    ///
    /// # Errors
    /// Returns a fault if no readable answer arrives; the message may be stored then. An error that the stream answers with is
    /// the inner result.
    pub async fn publish(
        &self,
        subject: String,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Result<u64, ApiError>, SinkFault> {
        #[derive(Deserialize)]
        struct Answer {
            error: Option<ApiError>,
            #[serde(default)]
            seq: u64,
        }
        let answered = tokio::select! {
            biased;
            fault = self.events.faulted() => return Err(fault),
            answered = self.client.request_with_headers(subject.clone(), headers, body) => answered,
        };
        let answer = answered.map_err(|error| match error.kind() {
            kind @ (RequestErrorKind::NoResponders | RequestErrorKind::TimedOut) => error::of_request(kind),
            kind => self.events.fault().unwrap_or_else(|| error::of_request(kind)),
        })?;
        let answer: Answer =
            serde_json::from_slice(&answer.payload).map_err(|cause| error::unreadable(&subject, &cause))?;
        Ok(answer.error.map_or(Ok(answer.seq), Err))
    }

    /// Subscribes to a subject, for few messages: if more messages arrive than the buffer holds, the connection is in fault.
    ///
    /// # Errors
    /// Returns a fault if the connection is broken.
    pub async fn subscribe(&self, subject: String) -> Result<Subscriber, SinkFault> {
        let subscribed = self.client.subscribe(subject).await;
        subscribed.map_err(|_| self.events.fault().unwrap_or_else(error::broken))
    }

    /// Waits until the connection is broken or refused.
    pub async fn faulted(&self) -> SinkFault {
        self.events.faulted().await
    }
}
