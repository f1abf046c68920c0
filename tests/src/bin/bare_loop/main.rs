//! The bare loop: a minimal program between the feed and a broker, which consists of a WebSocket client and a broker client.
//!
//! `bare-loop URL (kafka|core|relaxed|strict) SERVER NAME (plain|raw|cloudevents) COUNT` reads COUNT events, publishes
//! each event with the key (Kafka) or subject (NATS) that the bridge uses and the headers of the chosen format, waits for
//! all acknowledgements, and prints `delivered COUNT`. It then keeps running until it is killed, so that its resources can
//! be measured from outside. NAME is the topic, or the stream to create. There is no source identity, no deduplication, no
//! cursor and no reconnection.

mod frame;
mod kafka;
mod nats;

use std::env;
use std::io::Write as _;

use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

/// The allocator of the bridge. The choice affects the result, because the thread that frees memory is often not the one that
/// allocated it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const AUTH: &str = r#"{"action":"AUTH","data":{"token":"bench"}}"#;

/// The beginnings of frames without an event.
const CONTROL: [&str; 3] = [r#"{"error""#, r#"{"auth""#, r#"{"PING""#];

/// The content of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// The frame, without the message id that a stream uses for deduplication.
    Plain,
    /// The frame, with a message id.
    Raw,
    /// The entry, with the CloudEvents attributes as headers.
    Cloudevents,
}

/// A broker's client.
trait Client {
    /// Publishes the event with this number.
    async fn send(&mut self, frame: &str, number: u64) -> Result<()>;

    /// Waits for all acknowledgements.
    async fn finish(&mut self, count: u64) -> Result<()>;
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [url, sink, server, name, format, count] = &arguments[..] else {
        bail!("usage: bare-loop URL (kafka|core|relaxed|strict) SERVER NAME (plain|raw|cloudevents) COUNT");
    };
    let format = match format.as_str() {
        "plain" => Format::Plain,
        "raw" => Format::Raw,
        "cloudevents" => Format::Cloudevents,
        other => bail!("unknown format {other}; expected plain, raw or cloudevents"),
    };
    let count = count.parse().context("COUNT must be a number")?;
    match sink.as_str() {
        "kafka" => run(url, kafka::Kafka::connect(server, name, format)?, count).await?,
        "core" | "relaxed" | "strict" => {
            run(url, nats::Nats::connect(server, sink, name, format).await?, count).await?;
        }
        other => bail!("unknown sink {other}; expected kafka, core, relaxed or strict"),
    }
    Ok(())
}

async fn run(url: &str, mut client: impl Client, count: u64) -> Result<()> {
    let (mut socket, _) = connect_async(url)
        .await
        .with_context(|| format!("connecting to {url}"))?;
    socket.send(Message::text(AUTH)).await.context("sending AUTH")?;
    let mut sent = 0;
    while sent < count {
        let message = socket
            .next()
            .await
            .context("the feed ended early")?
            .context("reading the feed")?;
        let Message::Text(frame) = message else { continue };
        if CONTROL.iter().any(|start| frame.starts_with(start)) {
            ensure!(!frame.starts_with(CONTROL[0]), "the feed responded with {frame}");
            continue;
        }
        sent += 1;
        client.send(frame.as_str(), sent).await?;
    }
    client.finish(count).await?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "delivered {count}")
        .and_then(|()| stdout.flush())
        .context("writing to standard output")?;
    std::future::pending().await
}
