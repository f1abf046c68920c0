//! The least that has to be done with the feed: WebSocket in, a broker's client out, nothing between.
//!
//! `bare-loop URL (kafka|core|relaxed|strict) SERVER NAME (plain|raw|cloudevents) COUNT` reads COUNT events, sends each
//! with the key or the subject and the headers that sink and format give, awaits all acknowledgements, prints
//! `delivered COUNT` and stays until it is killed, so that it can be weighed from outside. NAME is the topic, or the stream
//! that is made. It looks at nothing else: no identity, no duplicates, no cursor, no reconnection.

mod frame;
mod kafka;
mod nats;

use std::env;
use std::io::Write as _;

use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

/// As in the bridge: what one thread allocates another frees.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const AUTH: &str = r#"{"action":"AUTH","data":{"token":"bench"}}"#;

/// How frames begin that carry no event.
const CONTROL: [&str; 3] = [r#"{"error""#, r#"{"auth""#, r#"{"PING""#];

/// What is sent with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// The frame, and not even an id by which a stream knows it again.
    Plain,
    /// The frame.
    Raw,
    /// The entry, and the attributes as headers.
    Cloudevents,
}

/// A broker's client.
trait Client {
    /// Sends an event, the nth one.
    async fn send(&mut self, frame: &str, number: u64) -> Result<()>;

    /// Awaits all acknowledgements.
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
        other => bail!("the format is plain, raw or cloudevents, not {other}"),
    };
    let count = count.parse().context("COUNT is a number")?;
    match sink.as_str() {
        "kafka" => run(url, kafka::Kafka::connect(server, name, format)?, count).await?,
        "core" | "relaxed" | "strict" => {
            run(url, nats::Nats::connect(server, sink, name, format).await?, count).await?;
        }
        other => bail!("the sink is kafka, core, relaxed or strict, not {other}"),
    }
    Ok(())
}

async fn run(url: &str, mut client: impl Client, count: u64) -> Result<()> {
    let (mut socket, _) = connect_async(url)
        .await
        .with_context(|| format!("connecting to {url}"))?;
    socket.send(Message::text(AUTH)).await.context("authorising")?;
    let mut sent = 0;
    while sent < count {
        let message = socket
            .next()
            .await
            .context("the feed ended early")?
            .context("reading the feed")?;
        let Message::Text(frame) = message else { continue };
        if CONTROL.iter().any(|start| frame.starts_with(start)) {
            ensure!(!frame.starts_with(CONTROL[0]), "the feed answers {frame}");
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
