//! The way from the spool into a sink: what all sinks have in common.
//!
//! One task for each sink reads the spool, filters, publishes, tracks acknowledgements, stores rejected events as dead letters,
//! and moves the cursor to the end of the settled prefix. A fault of the sink costs nothing but time: all that has no outcome is
//! sent again after the next connect.
//!
//! | file | what |
//! |---|---|
//! | `mod` | the loop: connect, publish, settle, commit, start again after a fault |
//! | `window` | the events between the reader and the cursor; it combines the next four |
//! | `inbox` | the batches that were read, and the position of publishing |
//! | `outstanding` | which events are in flight, which are settled |
//! | `refusals` | the state of each refused event |
//! | `dead_letters` | the bound on dead letters in a row |
//! | `commit_mode` | what counts at once, and what with the commit of a transaction |
//! | `health` | the states of a sink with their log lines |
//! | `connecting`, `replacement`, `backoff` | slow connection attempts, clients without progress, delays |
//! | `progress` | what `/status` and the metrics read |

mod backoff;
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

use std::{future::Future, sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::info;

pub use self::{
    backoff::Backoff,
    progress::{Progress, ProgressSnapshot, SinkState},
};
use self::{
    commit_mode::{CommitMode, PerEvent, PerTransaction},
    health::SinkHealth,
    replacement::{Call, Watch},
    window::{Step, Window},
};
use crate::{
    connect::ConnectSteps,
    dead_letter::DeadLetters,
    filter::Filter,
    identity::SpoolId,
    reader::{Read, ReadError, Reader},
    redact::Redaction,
    sink::{ConnectContext, Next, Outcome, Sink, SinkFault, SinkStatus, TransactionState},
};

/// How long a sink may take to close. With the bridge's eight seconds for what is left to deliver, less than the ten after
/// which Docker kills.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
/// How often the status of a sink is read.
const OBSERVE_INTERVAL: Duration = Duration::from_millis(500);
/// A connection that worked for so long has earned a fresh backoff.
const STABLE_AFTER: Duration = Duration::from_secs(30);

/// What a delivery needs besides its sink and its reader.
#[derive(Clone)]
pub struct Options {
    /// The sink's name in the configuration.
    pub name: String,
    /// The spool that numbers the events.
    pub spool: SpoolId,
    /// What this sink takes.
    pub filter: Filter,
    /// What is taken out of the events for this sink.
    pub redaction: Redaction,
    /// Where dead letters go unless the sink keeps them itself.
    pub dead_letters: Arc<dyn DeadLetters>,
    /// So many dead letters in a row stop the sink: then it is not the events that are wrong.
    pub max_dead_letters_in_a_row: u64,
}

/// When to stop.
#[derive(Clone, Debug)]
pub struct Shutdown {
    /// No more will come: deliver what is there and end.
    pub drain: CancellationToken,
    /// Time has run out: end now.
    pub abort: CancellationToken,
}

/// How a delivery ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// All that the spool had is settled.
    Drained,
    /// Time ran out, or the sink had a final fault.
    Unfinished,
}

/// Delivers until all is settled after [`Shutdown::drain`], or until [`Shutdown::abort`].
///
/// Dropping the future stops at once; what had no outcome is sent again by the next delivery from the same cursor.
///
/// # Errors
/// The spool can't be read.
pub async fn deliver<S: Sink, R: Reader>(
    mut sink: S,
    reader: R,
    options: Options,
    progress: Arc<Progress>,
    shutdown: Shutdown,
) -> Result<Ended, ReadError> {
    if sink.transactions().is_some() {
        deliver_with::<S, R, PerTransaction>(sink, reader, options, progress, shutdown).await
    } else {
        deliver_with::<S, R, PerEvent>(sink, reader, options, progress, shutdown).await
    }
}

async fn deliver_with<S: Sink, R: Reader, M: CommitMode>(
    sink: S,
    reader: R,
    options: Options,
    progress: Arc<Progress>,
    shutdown: Shutdown,
) -> Result<Ended, ReadError> {
    let cursor = reader.cursor().clone();
    let window = Window::<M>::new(options, cursor, Arc::clone(&progress));
    let mut delivery = Delivery {
        health: SinkHealth::new(window.name(), Arc::clone(&progress)),
        watch: Watch::new(window.settled_up_to()),
        sink,
        reader,
        window,
        progress,
        shutdown,
    };
    let ended = delivery.run().await?;
    // Bounded: a client that can't reach its broker would wait for it here.
    let _ = timeout(CLOSE_LIMIT, delivery.sink.close()).await;
    info!(
        sink = delivery.window.name(),
        ?ended,
        next = delivery.window.cursor().next.get(),
        "the sink has stopped"
    );
    Ok(ended)
}

/// What lives as long as the delivery, over all connections of its sink.
struct Delivery<S, R, M> {
    sink: S,
    reader: R,
    window: Window<M>,
    health: SinkHealth,
    watch: Watch,
    progress: Arc<Progress>,
    shutdown: Shutdown,
}

/// Why a connection has ended.
enum SessionEnd {
    Drained,
    Aborted,
    Fault(SinkFault),
    /// The client makes no progress and is replaced.
    Replace(SinkFault),
}

impl From<SinkFault> for SessionEnd {
    fn from(fault: SinkFault) -> Self {
        Self::Fault(fault)
    }
}

impl<S: Sink, R: Reader, M: CommitMode> Delivery<S, R, M> {
    /// Connects again after each fault, until all is delivered or time has run out.
    async fn run(&mut self) -> Result<Ended, ReadError> {
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));
        loop {
            let before = self.window.settled_up_to();
            let end = match self.connect().await {
                Ok(()) => self.serve().await?,
                Err(end) => end,
            };
            let fault = match end {
                SessionEnd::Drained => return Ok(Ended::Drained),
                SessionEnd::Aborted => return Ok(Ended::Unfinished),
                SessionEnd::Fault(fault) => fault,
                SessionEnd::Replace(fault) => {
                    self.progress.client_replaced();
                    fault
                }
            };
            if fault.is_final {
                self.health.stopped(&fault);
                self.shutdown.drain.cancelled().await;
                return Ok(Ended::Unfinished);
            }
            // A connection that settled events worked, however short it was.
            let was_stable = self.health.take_connected_for() > STABLE_AFTER;
            if was_stable || self.window.settled_up_to() > before {
                backoff.reset();
            }
            let delay = backoff.next_delay();
            self.health.failed(&fault, delay, !self.window.is_empty());
            self.restart();
            tokio::select! {
                biased;
                () = self.shutdown.abort.cancelled() => return Ok(Ended::Unfinished),
                () = sleep(delay) => {}
            }
        }
    }

    async fn connect(&mut self) -> Result<(), SessionEnd> {
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
            () = self.shutdown.abort.cancelled() => return Err(SessionEnd::Aborted),
            connected = connecting::connect(&mut self.sink, &context, &mut self.health) => connected?,
        };
        self.window.connected(connected, &mut self.reader);
        self.health.connected(self.window.cursor().next, self.waiting());
        self.watch.connected(&self.window);
        Ok(())
    }

    /// Publishes and settles over one connection, until its end.
    async fn serve(&mut self) -> Result<SessionEnd, ReadError> {
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
            // What has its outcome counts, also if this was the last connection.
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
                self.window.committed(cursor, &mut self.reader);
                // What had to wait for the commit is published now.
                continue;
            }
            let next = self.window.cursor().next;
            if next > connected_at && self.health.needs_proof() {
                self.health.delivered(next, self.waiting());
            }
            let is_open = transaction_state(&mut self.sink) != TransactionState::Closed;
            if log_ended && self.window.is_empty() && !is_open {
                return Ok(SessionEnd::Drained);
            }
            tokio::select! {
                biased;
                () = self.shutdown.abort.cancelled() => return Ok(SessionEnd::Aborted),
                reported = self.sink.outcomes(&mut acks), if self.window.in_flight() > 0 || is_open => {
                    if acks.iter().any(|ack| ack.outcome != Outcome::Deferred) {
                        self.watch.outcome();
                    }
                    let settled = self.window.settle(&mut acks);
                    match reported.and_then(|next| settled.map(|()| next)) {
                        Ok(Next::Continue) => {}
                        Ok(Next::Resend { acks_are_cumulative }) => {
                            self.window.commit(&mut self.sink, &mut self.reader);
                            self.window.set_acks_are_cumulative(acks_are_cumulative);
                            self.restart();
                            log_ended = false;
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

    /// Reads the status of the sink, and ends the connection if that is broken or makes no progress.
    fn observe(&mut self) -> Result<(), SessionEnd> {
        let SinkStatus {
            broken,
            unavailable,
            notice,
            lost,
            client,
        } = self.sink.status();
        if let Some(fault) = broken {
            return Err(fault.into());
        }
        self.progress.set_status(notice, lost, client);
        let waiting = self.waiting();
        self.watch.observe(&self.window);
        if S::REPLACES_CLIENT
            && let Some(fault) = self.watch.replacement(waiting, unavailable.as_ref())
        {
            return Err(SessionEnd::Replace(fault));
        }
        let unavailable = unavailable.or_else(|| self.watch.stall());
        let next = self.window.cursor().next;
        self.health.unavailable(unavailable.as_ref(), next, waiting);
        Ok(())
    }

    /// Goes back to the first event that has no result.
    fn restart(&mut self) {
        let next = self.window.restart();
        self.reader.rewind(next);
    }

    /// How many events are stored and not settled by this sink, where that is known.
    fn waiting(&self) -> Option<u64> {
        let end = self.reader.end()?;
        Some(end.since(self.window.cursor().next))
    }

    /// Publishes as much as can be, and stores the dead letters that this brought.
    async fn publish(&mut self) -> Result<Step, SessionEnd> {
        let mut step = self.window.publish(&mut self.sink)?;
        while self.window.has_dead_letters() && self.sink.dead_letters().is_none() {
            tokio::select! {
                biased;
                () = self.shutdown.abort.cancelled() => return Err(SessionEnd::Aborted),
                stored = self.window.store_dead_letters() => stored?,
            }
            // Events that waited for the dead letters are published now.
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

/// Waits for a call of the sink, unless time runs out. A client that can be replaced is given up after the call's limit.
async fn call<S: Sink>(
    call: Call,
    shutdown: &Shutdown,
    work: impl Future<Output = Result<(), SinkFault>>,
) -> Result<(), SessionEnd> {
    let limited = async {
        if !S::REPLACES_CLIENT {
            return work.await.map_err(SessionEnd::from);
        }
        let done = call.within_limit(work).await;
        done.ok_or_else(|| SessionEnd::Replace(call.overdue()))?
            .map_err(SessionEnd::from)
    };
    tokio::select! {
        biased;
        () = shutdown.abort.cancelled() => Err(SessionEnd::Aborted),
        done = limited => done,
    }
}

#[cfg(test)]
mod tests;
