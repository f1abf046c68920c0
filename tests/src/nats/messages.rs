//! Reads the messages of a stream.

use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::jetstream::{self, consumer::pull::OrderedConfig, stream::Stream};
use futures_util::StreamExt;
use tokio::runtime;
use tokio::time::sleep;

use super::client::connect;
use crate::poll::{Patience, within};

/// A message as stored in a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The sequence in the stream.
    pub place: u64,
    /// The time at which the stream stored the message, in milliseconds since 1970. `None` for a message that no stream delivered.
    pub stored: Option<i64>,
    /// The subject of the message.
    pub subject: String,
    /// The headers, with the first value of each.
    pub headers: Vec<(String, String)>,
    /// The payload of the message.
    pub payload: Vec<u8>,
}

impl Message {
    /// Returns the first value of a header; names are case-sensitive.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(key, _)| key == name)?;
        Some(value)
    }
}

/// The interval between two requests for a stream or a consumer.
const INTERVAL: Duration = Duration::from_millis(50);

/// Waits for a stream that does not exist yet, has no leader, or does not answer in time.
async fn await_stream(urls: &str, name: &str, limit: Duration) -> Result<Stream> {
    let context = jetstream::new(connect(urls).await?);
    let mut patience = Patience::new(format!("the stream {name} at {urls}"), limit);
    loop {
        match context.get_stream(name).await {
            Ok(stream) => return Ok(stream),
            Err(error) => patience.check().context(error)?,
        }
        sleep(INTERVAL).await;
    }
}

/// Reads all current messages of a stream in order and calls `visit` with each. Blocks.
///
/// # Errors
/// Returns an error if the stream does not exist or the next message does not arrive within `limit` (see [`Patience`]), or if
/// `visit` fails.
pub fn each_message(
    urls: &str,
    stream: &str,
    limit: Duration,
    mut visit: impl FnMut(Message) -> Result<()>,
) -> Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stream = await_stream(urls, stream, limit).await?;
        let mut left = stream.cached_info().state.messages;
        let mut patience = Patience::new("a consumer of the stream", limit);
        let consumer = loop {
            match stream.create_consumer(OrderedConfig::default()).await {
                Ok(consumer) => break consumer,
                Err(error) => patience.check().context(error)?,
            }
            sleep(INTERVAL).await;
        };
        let mut messages = consumer.messages().await?;
        while left > 0 {
            let next = within("the next message", limit, messages.next())
                .await
                .with_context(|| format!("{left} messages of the stream were not read"))?;
            let message = next.context("the messages ended early")??;
            let info = message.info().map_err(|error| anyhow::anyhow!(error))?;
            let place = info.stream_sequence;
            let stored = i64::try_from(info.published.unix_timestamp_nanos() / 1_000_000).ok();
            let headers = message.headers.iter().flat_map(|headers| headers.iter());
            visit(Message {
                place,
                stored,
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
