//! The delivery from the spool to a sink, common to all sinks.
//!
//! One task for each sink reads the spool, filters, publishes, tracks acknowledgements, stores rejected events as dead letters,
//! and moves the cursor to the end of the settled prefix. A fault of the sink only delays events: all events without an outcome
//! are published again after the next connection.
//!
//! | file | what |
//! |---|---|
//! | `mod` | the loop: connect, publish, settle, commit, restart after a fault |
//! | `window` | the events between the reader and the cursor; combines the parts in the next five rows |
//! | `inbox` | the batches that were read, and the publishing position |
//! | `outstanding` | which events are in flight, which are settled |
//! | `refusals` | the state of each refused event |
//! | `dead_letters` | the limit of consecutive dead letters, and their log lines |
//! | `commit_mode` | whether outcomes are final immediately or with the commit of a transaction |
//! | `redacted` | the redaction of events and dead letters for the sink |
//! | `health` | the states of a sink with their log lines |
//! | `connecting`, `replacement` | slow connection attempts, clients without progress |
//! | `progress` | the state for `/status` and the metrics |

mod commit_mode;
mod connecting;
mod dead_letters;
mod health;
mod inbox;
mod outstanding;
mod progress;
mod redacted;
mod refusals;
mod replacement;
mod window;

use std::{
    future::{Future, pending},
    sync::Arc,
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug_span, info};

pub use self::progress::{HealthChange, HealthChanges, Progress, ProgressSnapshot, SinkState};
use self::{
    commit_mode::{CommitMode, PerEvent, PerTransaction},
    dead_letters::DeadLetterLog,
    health::SinkHealth,
    replacement::{Call, Watch},
    window::{Step, Window},
};
pub use crate::backoff::Backoff;
use crate::{
    connect::ConnectSteps,
    dead_letter::DeadLetters,
    filter::Filter,
    identity::SpoolId,
    lead::Lead,
    reader::{Cursor, Read, ReadError, Reader},
    redact::Redaction,
    sink::{AfterOutcomes, ConnectContext, Outcome, Sink, SinkFault, SinkStatus, TransactionState},
};

/// The time limit for closing a sink. Together with the default drain timeout of eight seconds, less than the ten seconds after
/// which Docker kills the process.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
/// The interval at which the status of a sink is read.
const OBSERVE_INTERVAL: Duration = Duration::from_millis(500);
/// The duration after which a connection counts as stable and resets the backoff.
const STABLE_AFTER: Duration = Duration::from_secs(30);

/// The options of a delivery.
#[derive(Clone)]
pub struct DeliveryOptions {
    /// The sink's name in the configuration.
    pub name: String,
    /// The spool that numbers the events.
    pub spool: SpoolId,
    /// Selects the events for this sink.
    pub filter: Filter,
    /// The redaction of the events for this sink.
    pub redaction: Redaction,
    /// The store of dead letters for a sink that does not store them itself.
    pub dead_letters: Arc<dyn DeadLetters>,
    /// The place where this sink's dead letters are stored, as the log shows it: a file, a topic or a subject.
    pub dead_letter_place: String,
    /// The maximum number of consecutive dead letters. If it is exceeded, the sink stops, because the cause is most likely not
    /// in the events.
    pub max_dead_letters_in_a_row: u64,
    /// The right to publish, for a member of a cluster. When it is acquired while the sink is not connected, the sink
    /// connects at once.
    pub lead: Option<Lead>,
}

/// The signals to stop a delivery.
#[derive(Clone, Debug)]
pub struct Shutdown {
    /// No more events are stored: deliver the remaining ones and end.
    pub drain: CancellationToken,
    /// The drain timeout has passed: end immediately.
    pub abort: CancellationToken,
}

/// The end of a delivery.
#[derive(Debug, PartialEq, Eq)]
pub enum DeliveryEnd {
    /// All events of the spool are settled.
    Drained,
    /// The delivery was aborted, or the sink had a final fault.
    Unfinished,
}

/// Delivers events until all are settled after [`Shutdown::drain`], or until [`Shutdown::abort`].
///
/// Runs in the tracing span `sink` with the name of the sink, of the level `debug`.
///
/// Dropping the future stops the delivery immediately. Events without an outcome are published again by the next delivery
/// from the same cursor.
///
/// # Errors
/// Returns an error if the spool cannot be read.
pub async fn deliver<S: Sink, R: Reader>(
    mut sink: S,
    reader: R,
    options: DeliveryOptions,
    progress: Arc<Progress>,
    shutdown: Shutdown,
) -> Result<DeliveryEnd, ReadError> {
    let span = debug_span!("sink", sink = %options.name);
    if sink.transactions().is_some() {
        deliver_with::<S, R, PerTransaction>(sink, reader, options, progress, shutdown)
            .instrument(span)
            .await
    } else {
        deliver_with::<S, R, PerEvent>(sink, reader, options, progress, shutdown)
            .instrument(span)
            .await
    }
}

async fn deliver_with<S: Sink, R: Reader, M: CommitMode>(
    sink: S,
    reader: R,
    options: DeliveryOptions,
    progress: Arc<Progress>,
    shutdown: Shutdown,
) -> Result<DeliveryEnd, ReadError> {
    let cursor = reader.cursor().clone();
    let window = Window::<M>::new(options, cursor, Arc::clone(&progress));
    let mut delivery = Delivery {
        dead_letter_log: DeadLetterLog::default(),
        health: SinkHealth::new(&window.options().name, Arc::clone(&progress)),
        watch: Watch::new(window.settled_up_to()),
        sink,
        reader,
        window,
        progress,
        shutdown,
        is_follower: false,
    };
    let ended = delivery.run().await;
    delivery.log_dead_letters(true);
    let ended = ended?;
    // With a time limit: a client without a connection would wait for its broker.
    let _ = timeout(CLOSE_LIMIT, delivery.sink.close()).await;
    info!(
        sink = delivery.window.options().name,
        ?ended,
        next = delivery.window.cursor().next.get(),
        "the sink has stopped"
    );
    Ok(ended)
}

/// Waits until this member becomes the leader. Never returns if this member leads already, or belongs to no cluster.
async fn becomes_leader(lead: Option<Lead>) {
    match lead {
        Some(mut lead) if !lead.is_held() => lead.held().await,
        _ => pending().await,
    }
}

/// The state of a delivery across all connections of its sink.
struct Delivery<S, R, M> {
    sink: S,
    reader: R,
    window: Window<M>,
    dead_letter_log: DeadLetterLog,
    health: SinkHealth,
    watch: Watch,
    progress: Arc<Progress>,
    shutdown: Shutdown,
    /// [`SinkStatus::is_follower`] when the status was last read.
    is_follower: bool,
}

/// The reason for the end of a connection.
enum ConnectionEnd {
    Drained,
    Aborted,
    Fault(SinkFault),
    /// The client makes no progress and is replaced.
    Replace(SinkFault),
    /// The sink has to reconnect without a fault, because its role in the cluster has changed.
    Reconnect,
}

impl From<SinkFault> for ConnectionEnd {
    fn from(fault: SinkFault) -> Self {
        Self::Fault(fault)
    }
}

impl<S: Sink, R: Reader, M: CommitMode> Delivery<S, R, M> {
    /// Reconnects after each fault, until all events are delivered or the delivery is aborted.
    async fn run(&mut self) -> Result<DeliveryEnd, ReadError> {
        let mut backoff = Backoff::new(Duration::from_millis(125), Duration::from_secs(30));
        loop {
            let before = self.window.settled_up_to();
            let end = match self.connect().await {
                Ok(()) => self.serve().await?,
                Err(end) => end,
            };
            self.log_dead_letters(false);
            let fault = match end {
                ConnectionEnd::Drained => return Ok(DeliveryEnd::Drained),
                ConnectionEnd::Aborted => return Ok(DeliveryEnd::Unfinished),
                ConnectionEnd::Reconnect => {
                    self.restart();
                    continue;
                }
                ConnectionEnd::Fault(fault) => fault,
                ConnectionEnd::Replace(fault) => {
                    self.progress.client_replaced();
                    fault
                }
            };
            if fault.is_final {
                self.health.stopped(&fault);
                self.shutdown.drain.cancelled().await;
                return Ok(DeliveryEnd::Unfinished);
            }
            // A connection that settled events was successful, however short it was.
            let was_stable = self.health.take_connected_for() > STABLE_AFTER;
            if was_stable || self.window.settled_up_to() > before {
                backoff.reset();
            }
            let delay = backoff.next_delay();
            let pending = self.waiting();
            self.health
                .failed(&fault, delay, pending, !self.window.is_empty());
            self.restart();
            tokio::select! {
                biased;
                () = self.shutdown.abort.cancelled() => return Ok(DeliveryEnd::Unfinished),
                // No member publishes until the new leader is connected.
                () = becomes_leader(self.window.options().lead.clone()) => backoff.reset(),
                () = sleep(delay) => {}
            }
        }
    }

    async fn connect(&mut self) -> Result<(), ConnectionEnd> {
        let epochs = self.reader.epochs();
        let steps = ConnectSteps::default();
        let context = ConnectContext {
            spool: self.window.spool(),
            cursor: self.window.cursor(),
            epochs: &epochs,
            steps: &steps,
        };
        let connected = tokio::select! {
            biased;
            () = self.shutdown.abort.cancelled() => return Err(ConnectionEnd::Aborted),
            connected = connecting::connect(&mut self.sink, &context, &mut self.health, &mut self.reader) => connected?,
        };
        self.window.connected(connected, &mut self.reader);
        self.is_follower = self.sink.status().is_follower;
        if self.is_follower {
            self.window.follow();
        }
        self.health
            .connected(self.window.cursor().next, self.waiting(), self.is_follower);
        self.watch.connected(&self.window);
        Ok(())
    }

    /// Publishes and settles events over one connection, until its end.
    async fn serve(&mut self) -> Result<ConnectionEnd, ReadError> {
        let connected_at = self.window.cursor().next;
        let mut acks = Vec::new();
        let mut log_ended = false;
        let mut observe = interval(OBSERVE_INTERVAL);
        observe.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if self.window.must_abort()
                && let Some(transactions) = self.sink.transactions()
            {
                if let Err(end) = call::<S>(Call::Abort, &self.shutdown, transactions.abort()).await {
                    return Ok(end);
                }
                self.restart();
                log_ended = false;
            }
            let published = self.publish().await;
            // Outcomes received so far count even if the connection ends now.
            self.window.commit(&mut self.sink, &mut self.reader);
            let step = match published {
                Ok(step) => step,
                Err(end) => return Ok(end),
            };
            let is_last = log_ended && step == Step::Read;
            if let Some(transactions) = self.sink.transactions()
                && let Some(cursor) = self.window.cursor_to_commit(transactions.state(), is_last)
            {
                let commit = transactions.commit(&cursor);
                if let Err(end) = call::<S>(Call::Commit, &self.shutdown, commit).await {
                    return Ok(end);
                }
                let note = self.sink.cursor_note();
                self.window.committed(Cursor { note, ..cursor }, &mut self.reader);
                // Events that had to wait for the commit are published now.
                continue;
            }
            let next = self.window.cursor().next;
            if next > connected_at && self.health.needs_proof() {
                self.health.delivered(next, self.waiting());
            }
            let is_open = transaction_state(&mut self.sink) != TransactionState::Closed;
            if log_ended && self.window.is_empty() && !is_open {
                return Ok(ConnectionEnd::Drained);
            }
            tokio::select! {
                biased;
                () = self.shutdown.abort.cancelled() => return Ok(ConnectionEnd::Aborted),
                // A follower reads the destination even while it expects no message, so that a takeover has little left to read.
                reported = self.sink.outcomes(&mut acks), if self.window.in_flight() > 0 || is_open || self.is_follower => {
                    if acks.iter().any(|ack| ack.outcome != Outcome::Deferred) {
                        self.watch.outcome();
                    }
                    let settled = self.window.settle(&mut acks);
                    match reported.and_then(|next| settled.map(|()| next)) {
                        Ok(AfterOutcomes::Continue) => {}
                        Ok(AfterOutcomes::Resend { acks_are_cumulative }) => {
                            self.window.commit(&mut self.sink, &mut self.reader);
                            self.window.set_acks_are_cumulative(acks_are_cumulative);
                            self.restart();
                            log_ended = false;
                        }
                        Ok(AfterOutcomes::Reconnect) => {
                            self.window.commit(&mut self.sink, &mut self.reader);
                            return Ok(ConnectionEnd::Reconnect);
                        }
                        Err(fault) => {
                            self.window.commit(&mut self.sink, &mut self.reader);
                            return Ok(fault.into());
                        }
                    }
                }
                read = self.reader.next(), if step == Step::Read && !log_ended => match read? {
                    Read::Events(batch) => self.window.take(batch),
                    Read::Skipped { from, events, reason } => self.window.skip(from, events, reason),
                    Read::End => log_ended = true,
                },
                _ = observe.tick() => {
                    if let Err(end) = self.observe() {
                        return Ok(end);
                    }
                }
            }
            if self.shutdown.drain.is_cancelled() {
                self.health.draining();
            }
        }
    }

    /// Reads the status of the sink. Ends the connection if it is broken or makes no progress.
    fn observe(&mut self) -> Result<(), ConnectionEnd> {
        let SinkStatus {
            broken,
            unavailable,
            notice,
            file_changes,
            recreations,
            client,
            is_follower,
            copies,
        } = self.sink.status();
        self.progress.set_destination(recreations, file_changes);
        self.progress.set_copies(copies);
        if let Some(fault) = broken {
            return Err(fault.into());
        }
        self.progress.set_status(notice, client);
        self.log_dead_letters(false);
        let waiting = self.waiting();
        self.is_follower = is_follower;
        if is_follower {
            // The events of a follower are settled by the messages of another member, which may arrive at any time.
            self.watch.connected(&self.window);
        }
        self.watch.observe(&self.window);
        if S::REPLACES_CLIENT
            && let Some(fault) = self.watch.replacement(waiting, unavailable.as_ref())
        {
            return Err(ConnectionEnd::Replace(fault));
        }
        let unavailable = unavailable.or_else(|| self.watch.stall());
        let next = self.window.cursor().next;
        self.health.unavailable(unavailable.as_ref(), next, waiting);
        Ok(())
    }

    /// Logs dead letters that are not logged yet, see [`DeadLetterLog`].
    fn log_dead_letters(&mut self, is_last: bool) {
        let counts = self.progress.dead_letters();
        self.dead_letter_log
            .write(self.window.options(), &counts, is_last);
    }

    /// Restarts at the first event without a result.
    fn restart(&mut self) {
        let next = self.window.restart();
        self.reader.rewind(next);
    }

    /// Returns the number of stored events that this sink has not settled, if it is known.
    fn waiting(&self) -> Option<u64> {
        let end = self.reader.end()?;
        Some(end.since(self.window.cursor().next))
    }

    /// Publishes as many events as possible, and stores the resulting dead letters.
    async fn publish(&mut self) -> Result<Step, ConnectionEnd> {
        let mut step = self.window.publish(&mut self.sink)?;
        while self.window.has_dead_letters() && self.sink.dead_letters().is_none() {
            tokio::select! {
                biased;
                () = self.shutdown.abort.cancelled() => return Err(ConnectionEnd::Aborted),
                stored = self.window.store_dead_letters() => stored?,
            }
            // Publishes the events that waited for the dead letters.
            step = self.window.publish(&mut self.sink)?;
        }
        if self.window.take_unflushed() {
            call::<S>(Call::Flush, &self.shutdown, self.sink.flush()).await?;
        }
        Ok(step)
    }
}

/// Returns the state of the sink's transaction; closed for a sink without transactions.
fn transaction_state<S: Sink>(sink: &mut S) -> TransactionState {
    sink.transactions()
        .map_or(TransactionState::Closed, |transactions| transactions.state())
}

/// Waits for a call of the sink. An abort ends the wait; so does the time limit of the call if the client can be replaced.
async fn call<S: Sink>(
    call: Call,
    shutdown: &Shutdown,
    work: impl Future<Output = Result<(), SinkFault>>,
) -> Result<(), ConnectionEnd> {
    let limited = async {
        if !S::REPLACES_CLIENT {
            return work.await.map_err(ConnectionEnd::from);
        }
        let done = call.within_limit(work).await;
        done.ok_or_else(|| ConnectionEnd::Replace(call.overdue()))?
            .map_err(ConnectionEnd::from)
    };
    tokio::select! {
        biased;
        () = shutdown.abort.cancelled() => Err(ConnectionEnd::Aborted),
        done = limited => done,
    }
}

#[cfg(test)]
mod tests;
