//! The way from the spool into a sink: what all sinks have in common.
//!
//! One task for each sink reads its reader, leaves out what the sink's filter leaves out, publishes, tracks
//! acknowledgements, puts what is refused for itself into the dead letters, and moves the cursor behind what is
//! settled. A sink's fault costs nothing but time: all that has no outcome is sent again after the next connect.

mod backoff;
mod connecting;
mod letters;
mod outage;
mod progress;
mod replacement;
mod transaction;
mod window;

use std::{future::Future, sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use self::{
    backoff::Backoff,
    progress::{Progress, ProgressSnapshot, SinkState},
};
use self::{
    outage::{Outage, told},
    progress::Change,
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
    sink::{ConnectContext, Outcome, Sink, SinkFault, Transaction},
};

/// How long a sink may take to close. With the bridge's eight seconds for what is left to deliver, less than the ten after
/// which Docker kills.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
/// How often a silent sink is asked whether something keeps it from working.
const TROUBLE_INTERVAL: Duration = Duration::from_millis(500);
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
    mut reader: R,
    options: Options,
    progress: Arc<Progress>,
    shutdown: Shutdown,
) -> Result<Ended, ReadError> {
    let is_transactional = sink.transaction() != Transaction::Unused;
    let mut window = Window::new(
        options,
        reader.cursor().clone(),
        Arc::clone(&progress),
        is_transactional,
    );
    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));
    let mut standing = Standing {
        is_in_doubt: false,
        outage: None,
        connected_at: None,
        watch: Watch::new(window.settled_up_to()),
    };
    let ended = loop {
        let before = window.settled_up_to();
        let end = session(
            &mut sink,
            &mut reader,
            &mut window,
            &progress,
            &shutdown,
            &mut standing,
        )
        .await?;
        let fault = match end {
            SessionEnd::Drained => break Ended::Drained,
            SessionEnd::Aborted => break Ended::Unfinished,
            SessionEnd::Fault(fault) => fault,
            SessionEnd::Replace(fault) => {
                progress.client_replaced();
                fault
            }
        };
        progress.fault(&fault);
        if fault.is_final {
            warn!(
                sink = window.name(),
                kind = fault.kind.label(),
                "the sink stops until restart: {fault}"
            );
            shutdown.drain.cancelled().await;
            break Ended::Unfinished;
        }
        let was_stable = standing
            .connected_at
            .take()
            .is_some_and(|at| at.elapsed() > STABLE_AFTER);
        // A connection that settled events worked, however short it was.
        if was_stable || window.settled_up_to() > before {
            backoff.reset();
        }
        let delay = backoff.next_delay();
        Outage::tell(&mut standing.outage, window.name(), &fault, delay);
        standing.is_in_doubt |= !window.is_empty();
        reader.rewind(window.restart());
        tokio::select! {
            biased;
            () = shutdown.abort.cancelled() => break Ended::Unfinished,
            () = sleep(delay) => {}
        }
    };
    // Bounded: a client that can't reach its broker would wait for it here.
    let _ = timeout(CLOSE_LIMIT, sink.close()).await;
    info!(
        sink = window.name(),
        ?ended,
        next = window.cursor().next.get(),
        "the sink has stopped"
    );
    Ok(ended)
}

/// What is known of a sink from one session to the next.
struct Standing {
    /// Events wait for it, or the last session ended with some that had no outcome: to be connected does not mean that they
    /// can be delivered, and a sink that cannot would be called up before each fault.
    is_in_doubt: bool,
    outage: Option<Outage>,
    /// Since when it has been connected.
    connected_at: Option<Instant>,
    watch: Watch,
}

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

/// One connection of the sink, from its first attempt to its fault. A sink in doubt is up when an event is settled, any
/// other one when it is connected.
async fn session<S: Sink, R: Reader>(
    sink: &mut S,
    reader: &mut R,
    window: &mut Window,
    progress: &Progress,
    shutdown: &Shutdown,
    standing: &mut Standing,
) -> Result<SessionEnd, ReadError> {
    progress.set_state(SinkState::Connecting);
    let epochs = reader.epochs();
    let steps = ConnectSteps::default();
    let context = ConnectContext {
        spool: window.spool(),
        cursor: window.cursor(),
        epochs: &epochs,
        steps: &steps,
    };
    let connected = tokio::select! {
        biased;
        () = shutdown.abort.cancelled() => return Ok(SessionEnd::Aborted),
        connected = connecting::connect(sink, window.name(), &context, progress, &mut standing.outage) => connected,
    };
    if let Err(end) = connected {
        return Ok(end);
    }
    standing.connected_at = Some(Instant::now());
    window.adopt(sink.committed_cursor(), reader);
    let began_at = window.cursor().next;
    match waiting(window, reader) {
        // Also what had no outcome has it, by the cursor that the broker has kept.
        Some(0) => standing.is_in_doubt = false,
        Some(_) => standing.is_in_doubt = true,
        None => {}
    }
    if !standing.is_in_doubt {
        say_up(window, reader, progress, standing);
    }
    standing.watch.connected(window);

    let mut acks = Vec::new();
    let mut log_ended = false;
    let mut trouble = interval(TROUBLE_INTERVAL);
    trouble.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        if window.must_abort() {
            if let Err(end) = sink_call::<S>(Call::Abort, shutdown, sink.abort()).await {
                return Ok(end);
            }
            reader.rewind(window.restart());
            log_ended = false;
        }
        let step = match publish(sink, window, shutdown).await {
            Ok(step) => step,
            Err(end) => {
                // What has its outcome counts, also if this was the last session.
                window.commit(sink, reader);
                return Ok(end);
            }
        };
        window.commit(sink, reader);
        let is_last = log_ended && step == Step::Read;
        if let Some(cursor) = window.cursor_to_commit(sink, is_last) {
            if let Err(end) = sink_call::<S>(Call::Commit, shutdown, sink.commit(&cursor)).await {
                return Ok(end);
            }
            window.committed(cursor, reader);
            // What had to wait for the commit is published now.
            continue;
        }
        if standing.is_in_doubt && window.cursor().next > began_at {
            standing.is_in_doubt = false;
            say_up(window, reader, progress, standing);
        }
        let transaction = sink.transaction();
        let is_open = matches!(transaction, Transaction::Open | Transaction::Due);
        if log_ended && window.is_empty() && !is_open {
            return Ok(SessionEnd::Drained);
        }
        tokio::select! {
            biased;
            () = shutdown.abort.cancelled() => return Ok(SessionEnd::Aborted),
            outcome = sink.outcomes(&mut acks), if window.in_sink() > 0 || is_open => {
                if acks.iter().any(|ack| ack.outcome != Outcome::Deferred) {
                    standing.watch.outcome();
                }
                let settled = window.settle(&mut acks);
                if let Err(fault) = outcome.and(settled) {
                    // What was told before it counts, also if this was the last session.
                    window.commit(sink, reader);
                    return Ok(fault.into());
                }
                if sink.must_resend() {
                    window.commit(sink, reader);
                    reader.rewind(window.restart());
                    log_ended = false;
                }
            }
            read = reader.next(), if step == Step::Read && !log_ended => match read? {
                Read::Events(batch) => window.take(batch),
                Read::Skipped { from, events, reason } => window.skip(from, events, reason),
                Read::End => log_ended = true,
            },
            _ = trouble.tick() => {
                if let Some(fault) = sink.fault() {
                    return Ok(fault.into());
                }
                progress.set_notice(sink.notice());
                progress.set_lost(sink.lost());
                let waiting = waiting(window, reader);
                let watch = &mut standing.watch;
                watch.observe(window);
                let trouble = sink.unavailable();
                if S::REPLACES_CLIENT
                    && let Some(fault) = watch.replacement(waiting, trouble.as_ref())
                {
                    return Ok(SessionEnd::Replace(fault));
                }
                let trouble = trouble.or_else(|| watch.stall());
                tell_trouble(window.name(), waiting.unwrap_or(0), progress, trouble, standing.is_in_doubt);
            }
        }
        if shutdown.drain.is_cancelled() && !standing.is_in_doubt {
            progress.set_state(SinkState::Draining);
        }
    }
}

fn say_up<R: Reader>(window: &Window, reader: &R, progress: &Progress, standing: &mut Standing) {
    progress.set_state(SinkState::Up);
    // Whatever kept it from delivering is over with it, and is not to end a second time.
    let _ = progress.set_trouble(None, 0);
    let (sink, next) = (window.name(), window.cursor().next.get());
    let waiting = waiting(window, reader);
    match standing.outage.take() {
        None => info!(sink, next, waiting, "the sink is up"),
        Some(outage) => info!(
            sink,
            next,
            waiting,
            lasted = told(outage.lasted()),
            "the sink is up again"
        ),
    }
}

/// How many events are stored and not settled by this sink.
fn waiting<R: Reader>(window: &Window, reader: &R) -> Option<u64> {
    reader.end().map(|end| end.since(window.cursor().next))
}

/// Says when something keeps a connected sink from delivering, when it becomes something else, and when it has passed.
fn tell_trouble(
    sink: &str,
    waiting: u64,
    progress: &Progress,
    trouble: Option<SinkFault>,
    is_in_doubt: bool,
) {
    match (progress.set_trouble(trouble.as_ref(), waiting), trouble) {
        (Some(Change::Began), Some(fault)) => {
            warn!(sink, kind = fault.kind.label(), "the sink is down: {fault}");
        }
        (Some(Change::OfKind), Some(fault)) => {
            warn!(sink, kind = fault.kind.label(), "the sink is still down: {fault}");
        }
        // A sink in doubt is called up when it has settled something.
        (Some(Change::Ended { lasted, waited }), _) if !is_in_doubt => {
            info!(sink, lasted = told(lasted), waited, "the sink is up again")
        }
        _ => {}
    }
}

/// Publishes as much as can be, and stores the dead letters that this brought.
async fn publish<S: Sink>(
    sink: &mut S,
    window: &mut Window,
    shutdown: &Shutdown,
) -> Result<Step, SessionEnd> {
    let mut step = window.publish(sink)?;
    while !sink.keeps_dead_letters() && !window.rejected.is_empty() {
        until_abort(shutdown, window.store_dead_letters()).await?;
        // What waited for them goes on.
        step = window.publish(sink)?;
    }
    if window.published_since_flush() {
        sink_call::<S>(Call::Flush, shutdown, sink.flush()).await?;
    }
    Ok(step)
}

/// Waits for a call of the sink, unless time runs out or the call takes too long.
async fn sink_call<S: Sink>(
    call: Call,
    shutdown: &Shutdown,
    work: impl Future<Output = Result<(), SinkFault>>,
) -> Result<(), SessionEnd> {
    tokio::select! {
        biased;
        () = shutdown.abort.cancelled() => Err(SessionEnd::Aborted),
        done = limited(call, S::REPLACES_CLIENT, work) => done,
    }
}

/// Waits for a call of the sink. A client that can be replaced is given up after the call's limit.
async fn limited(
    call: Call,
    is_limited: bool,
    work: impl Future<Output = Result<(), SinkFault>>,
) -> Result<(), SessionEnd> {
    let done = if is_limited {
        call.within_limit(work)
            .await
            .ok_or_else(|| SessionEnd::Replace(call.overdue()))?
    } else {
        work.await
    };
    done.map_err(SessionEnd::from)
}

/// Waits for a part of the work, unless time runs out.
async fn until_abort(
    shutdown: &Shutdown,
    work: impl Future<Output = Result<(), SinkFault>>,
) -> Result<(), SessionEnd> {
    tokio::select! {
        biased;
        () = shutdown.abort.cancelled() => Err(SessionEnd::Aborted),
        done = work => done.map_err(SessionEnd::from),
    }
}

#[cfg(test)]
mod tests;
