//! Reading back what a stream holds.

use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::jetstream::{self, consumer::pull::OrderedConfig};
use futures_util::StreamExt;
use tokio::runtime;
use tokio::time::timeout;

/// One message of a stream, as it lies in the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its place in the stream.
    pub place: u64,
    /// Its subject.
    pub subject: String,
    /// Its headers, the first value of each.
    pub headers: Vec<(String, String)>,
    /// Its payload.
    pub payload: Vec<u8>,
}

impl Message {
    /// Returns the first value of a header; names are case-sensitive.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(key, _)| key == name)?;
        Some(value)
    }
}

/// Reads all that a stream holds now, in its order; `visit` gets one message after the other. Blocks.
///
/// # Errors
/// When the stream is not there, the next message does not come within `patience`, or `visit` fails.
pub fn each_message(
    url: &str,
    stream: &str,
    patience: Duration,
    mut visit: impl FnMut(Message) -> Result<()>,
) -> Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = async_nats::connect(url)
            .await
            .with_context(|| format!("connecting to {url}"))?;
        let stream = jetstream::new(client)
            .get_stream(stream)
            .await
            .with_context(|| format!("asking {url} for the stream {stream}"))?;
        let mut left = stream.cached_info().state.messages;
        let consumer = stream.create_consumer(OrderedConfig::default()).await?;
        let mut messages = consumer.messages().await?;
        while left > 0 {
            let next = timeout(patience, messages.next())
                .await
                .with_context(|| format!("{left} messages are left, and none comes for {patience:?}"))?;
            let message = next.context("the messages ended early")??;
            let place = message
                .info()
                .map_err(|error| anyhow::anyhow!(error))?
                .stream_sequence;
            let headers = message.headers.iter().flat_map(|headers| headers.iter());
            visit(Message {
                place,
                subject: message.subject.to_string(),
                headers: headers
                    .filter_map(|(name, values)| Some((name.to_string(), values.first()?.to_string())))
                    .collect(),
                payload: message.payload.to_vec(),
            })?;
            left -= 1;
        }
        Ok(())
    })
}
