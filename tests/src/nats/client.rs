//! A client of the tests' own: reads what a stream holds, listens where nothing is held.

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_nats::{Client, ConnectOptions, ServerAddr};
use futures_util::StreamExt;
use tokio::runtime::{self, Runtime};
use tokio::sync::oneshot;

use super::messages::{Message, each_message};

/// More than any test sends: the client drops what a subscription has no room for.
const SUBSCRIPTION_CAPACITY: usize = 1 << 20;

/// Connects a client that comes back by itself. Several servers stand with commas between.
///
/// # Errors
/// When a URL is none.
pub async fn connect(urls: &str) -> Result<Client> {
    let servers: Vec<ServerAddr> = urls
        .split(',')
        .map(str::parse)
        .collect::<Result<_, _>>()
        .with_context(|| format!("reading {urls}"))?;
    ConnectOptions::new()
        .retry_on_initial_connect()
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .connect(servers)
        .await
        .with_context(|| format!("connecting to {urls}"))
}

/// Reads all that a stream holds now, in its order. Waits for a stream that is not there yet, or has no leader. Blocks,
/// also inside of an asynchronous runtime.
///
/// # Errors
/// When the stream is not there, or the next message does not come, within `limit` (see [`crate::poll::Patience`]).
pub fn read_stream(urls: &str, name: &str, limit: Duration) -> Result<Vec<Message>> {
    let (urls, name) = (urls.to_owned(), name.to_owned());
    let reader = thread::spawn(move || {
        let mut all = Vec::new();
        each_message(&urls, &name, limit, |message| {
            all.push(message);
            Ok(())
        })?;
        Ok(all)
    });
    join(reader)
}

/// Listens to subjects, on a thread of its own, until it is asked for what came.
#[derive(Debug)]
pub struct Listener {
    heard: Arc<Mutex<Vec<Message>>>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Result<()>>,
}

impl Listener {
    /// Subscribes, and returns when the server has taken the subscription: whatever is published from then on is heard.
    ///
    /// # Errors
    /// When there is no server.
    pub fn start(url: &str, subject: &str) -> Result<Self> {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let (url, subject) = (url.to_owned(), subject.to_owned());
        let thread = thread::spawn({
            let heard = Arc::clone(&heard);
            move || runtime()?.block_on(listen(&url, subject, &heard, ready, stopped))
        });
        if is_ready.recv().is_err() {
            join(thread)?;
            bail!("the listener ended at once");
        }
        Ok(Self { heard, stop, thread })
    }

    /// How many messages came so far.
    pub fn count(&self) -> usize {
        // Nothing within the lock can panic half-way.
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Stops, and returns what came, in its order.
    ///
    /// # Errors
    /// When the listening had ended early.
    pub fn stop(self) -> Result<Vec<Message>> {
        // Whoever is gone already needs no word.
        let _ = self.stop.send(());
        join(self.thread)?;
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut *heard))
    }
}

async fn listen(
    url: &str,
    subject: String,
    heard: &Mutex<Vec<Message>>,
    ready: mpsc::Sender<()>,
    mut stopped: oneshot::Receiver<()>,
) -> Result<()> {
    let client = connect(url).await?;
    let mut messages = client.subscribe(subject).await.context("subscribing")?;
    // A request that nobody answers comes back behind the subscription.
    if client.request("nobody.answers", "".into()).await.is_ok() {
        bail!("somebody answers where nobody should");
    }
    // Whoever started this waits for the word.
    let _ = ready.send(());
    for place in 1.. {
        let message = tokio::select! {
            biased;
            message = messages.next() => message.context("the subscription ended")?,
            _ = &mut stopped => break,
        };
        let headers = message.headers.iter().flat_map(|headers| headers.iter());
        let message = Message {
            place,
            subject: message.subject.to_string(),
            headers: headers
                .filter_map(|(name, values)| Some((name.to_string(), values.first()?.to_string())))
                .collect(),
            payload: message.payload.to_vec(),
        };
        heard.lock().unwrap_or_else(PoisonError::into_inner).push(message);
    }
    Ok(())
}

fn runtime() -> Result<Runtime> {
    runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting a runtime")
}

fn join<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread
        .join()
        .map_err(|_| anyhow::anyhow!("the thread that reads from NATS has panicked"))?
}
