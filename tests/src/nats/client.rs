//! A NATS client for tests, which reads streams and subscribes to core subjects.

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_nats::{Client, ConnectOptions, ServerAddr};
use futures_util::StreamExt;
use tokio::runtime::{self, Runtime};
use tokio::sync::oneshot;

use super::messages::{Message, each_message};

/// More messages than any test sends, because the client drops messages that exceed a subscription's capacity.
const SUBSCRIPTION_CAPACITY: usize = 1 << 20;

/// Connects a client that reconnects automatically. Several servers are separated by commas.
///
/// # Errors
/// Returns an error if a URL is invalid.
pub async fn connect(urls: &str) -> Result<Client> {
    let servers: Vec<ServerAddr> = urls
        .split(',')
        .map(str::parse)
        .collect::<Result<_, _>>()
        .with_context(|| format!("parsing {urls}"))?;
    ConnectOptions::new()
        .retry_on_initial_connect()
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .connect(servers)
        .await
        .with_context(|| format!("connecting to {urls}"))
}

/// Reads all current messages of a stream in order. Waits for a stream that does not exist yet or has no leader.
/// Blocks, also within an asynchronous runtime.
///
/// # Errors
/// Returns an error if the stream does not exist or the next message does not arrive within `limit` (see
/// [`crate::poll::Patience`]).
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

/// A thread that receives the messages of a subject until it is stopped.
#[derive(Debug)]
pub struct Listener {
    received: Arc<Mutex<Vec<Message>>>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Result<()>>,
}

impl Listener {
    /// Subscribes and returns after the server has processed the subscription, so that every later message is received.
    ///
    /// # Errors
    /// Returns an error if the server cannot be reached.
    pub fn start(url: &str, subject: &str) -> Result<Self> {
        let received = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let (url, subject) = (url.to_owned(), subject.to_owned());
        let thread = thread::spawn({
            let received = Arc::clone(&received);
            move || runtime()?.block_on(listen(&url, subject, &received, ready, stopped))
        });
        if is_ready.recv().is_err() {
            join(thread)?;
            bail!("the listener exited immediately");
        }
        Ok(Self {
            received,
            stop,
            thread,
        })
    }

    /// Returns the number of messages received so far.
    pub fn count(&self) -> usize {
        // The messages of a poisoned lock are complete, because no code panics in the middle of a change.
        self.received.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Returns whether a message that meets a condition was received.
    pub fn has(&self, condition: impl Fn(&Message) -> bool) -> bool {
        // As in `count`.
        let received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        received.iter().any(condition)
    }

    /// Stops the thread and returns the received messages in order.
    ///
    /// # Errors
    /// Returns an error if the thread has ended early.
    pub fn stop(self) -> Result<Vec<Message>> {
        // The send fails only if the thread has ended already.
        let _ = self.stop.send(());
        join(self.thread)?;
        let mut received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut *received))
    }
}

async fn listen(
    url: &str,
    subject: String,
    received: &Mutex<Vec<Message>>,
    ready: mpsc::Sender<()>,
    mut stopped: oneshot::Receiver<()>,
) -> Result<()> {
    let client = connect(url).await?;
    let mut messages = client.subscribe(subject).await.context("subscribing")?;
    // The response to a request without a responder arrives after the server has processed the subscription.
    if client.request("nobody.answers", "".into()).await.is_ok() {
        bail!("the subject nobody.answers has a responder");
    }
    // The send fails only if the starting thread no longer waits.
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
            stored: None,
            subject: message.subject.to_string(),
            headers: headers
                .filter_map(|(name, values)| Some((name.to_string(), values.first()?.to_string())))
                .collect(),
            payload: message.payload.to_vec(),
        };
        received
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(message);
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
