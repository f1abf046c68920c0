//! Receives the frames of an authenticated connection and sends them in batches through the channel. While the channel is
//! full (backpressure), nothing is read.

use std::{
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use neurobridge_core::units::format_duration;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    select,
    sync::mpsc::{Permit, Sender, error::TrySendError},
    task::coop,
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

use super::{
    Outlet, Session, SourceLink,
    pace::{Amount, Pace},
};
use crate::{
    error::ConnectionEnd,
    stats::{BACKPRESSURE, Reading, SourceStats},
};

/// The maximum number of frames and bytes of a batch: enough to make the cost of sending it small, and few
/// enough that a bound on batches is a bound on memory. The last frame may exceed the limit by up to
/// `max_frame_size`.
pub(super) const MAX_BATCH_FRAMES: usize = 1024;
pub(super) const MAX_BATCH_BYTES: u64 = 128 * 1024;

/// The duration from which backpressure is reported. Shorter waits are normal for a full channel, and no server has
/// closed a connection because of a short wait.
const LONG_BLOCK: Duration = Duration::from_secs(1);

/// The time for which reading continues after the time limit of an answer: the answer may be among the unread data,
/// because this process may have been suspended, or short of CPU.
const GRACE_PERIOD: Duration = Duration::from_secs(1);

/// The result of polling the socket.
pub(super) enum Read {
    /// Frames were read and sent.
    Batch(Amount),
    /// No data is available (reported only on request).
    Dry,
    /// All data is written, so that acknowledgements can be sent.
    Flushed,
    /// The channel has no room for a batch, or reading waits until the events of a gap are fetched.
    NoRoom,
    Lost(ConnectionEnd),
}

/// Receives frames until the connection ends, and returns the reason.
///
/// If the channel has no room for a batch, nothing is read. A batch is sent as soon as it is read, without an
/// await in between, so that dropping this future loses nothing that was read.
pub(crate) async fn receive<S, O>(session: &mut Session<S>, link: &mut SourceLink<O>) -> ConnectionEnd
where
    S: AsyncRead + AsyncWrite + Unpin,
    O: Outlet,
{
    match receive_until_lost(session, link).await {
        Ok(never) => match never {},
        Err(lost) => lost,
    }
}

async fn receive_until_lost<S, O>(
    session: &mut Session<S>,
    link: &mut SourceLink<O>,
) -> Result<std::convert::Infallible, ConnectionEnd>
where
    S: AsyncRead + AsyncWrite + Unpin,
    O: Outlet,
{
    let (stop, items, acknowledgements) = (
        link.stop.clone(),
        link.items.clone(),
        link.acknowledgements.clone(),
    );
    let acknowledges = session.protocol.acknowledges();
    let mut stopped = pin!(stop.cancelled());
    let mut timer = pin!(sleep_until(session.heartbeat.due()));
    let mut room = None;
    // Whether all data that accumulated during a long backpressure is read.
    let mut is_caught_up = true;
    // The start of the grace period: the time limit of an answer has passed, and unread data is read.
    let mut grace_since: Option<Instant> = None;
    let mut pace = Pace::new(Instant::now());
    // The end of the current rest, before which the socket is not read.
    let mut rests_until = None;
    if link.outlet.len() > 0 {
        // Frames that arrived before or with the answer to AUTH.
        // No permit is reserved during a hold: the fetched events of the gap need the room.
        let room = (!link.hold.is_active())
            .then(|| items.try_reserve().ok())
            .flatten();
        let permit = match room {
            Some(permit) => permit,
            None => {
                let (permit, held) = wait_until_unblocked(session, link, &items).await?;
                is_caught_up = held < LONG_BLOCK;
                permit
            }
        };
        link.deliver(permit, Reading::default());
    }
    loop {
        let overdue = session
            .heartbeat
            .dead_at()
            .filter(|dead_at| *dead_at <= Instant::now());
        if overdue.is_none() {
            grace_since = None;
        }
        // No rest while an answer is expected: its time is measured, and a late answer may have arrived since the last
        // read.
        if overdue.is_some() || session.heartbeat.is_waiting() {
            rests_until = None;
        }
        let wake = match (session.heartbeat.dead_at(), grace_since) {
            (_, Some(since)) => session.heartbeat.due().min(since + GRACE_PERIOD),
            (Some(dead_at), None) => session.heartbeat.due().min(dead_at),
            (None, None) => session.heartbeat.due(),
        };
        if timer.deadline() != wake {
            timer.as_mut().reset(wake);
        }
        let is_grace_period = grace_since.is_some();
        let read = select! {
            biased;
            () = &mut stopped => return Err(ConnectionEnd::Stopped),
            () = &mut timer => {
                let now = Instant::now();
                if session.heartbeat.due() <= now {
                    session.ping();
                }
                match grace_since {
                    Some(since) if now >= since + GRACE_PERIOD => return Err(session.heartbeat.lost()),
                    None if session.heartbeat.dead_at().is_some_and(|dead_at| dead_at <= now) => {
                        grace_since = Some(now);
                    }
                    _ => {}
                }
                continue;
            }
            values = acknowledgements.next(), if acknowledges && !session.is_flushing => {
                session.acknowledge(&values);
                continue;
            }
            () = sleep_until(rests_until.unwrap_or_else(Instant::now)), if rests_until.is_some() => {
                rests_until = None;
                continue;
            }
            read = poll_fn(|cx| {
                let was_flushing = session.is_flushing;
                let read = poll_batch(cx, session, link, &items, &mut room, &mut is_caught_up, is_grace_period);
                if read.is_pending() && acknowledges && was_flushing && !session.is_flushing {
                    return Poll::Ready(Read::Flushed);
                }
                read
            }), if rests_until.is_none() => read,
        };
        match read {
            Read::Batch(amount) => {
                let rest = pace.rest(link.read_interval(), amount, Instant::now());
                rests_until = rest.filter(|_| !session.heartbeat.is_waiting());
                // Not if silence can end the connection: with a raised low-water mark, waiting data could look like silence.
                if rests_until.is_some() && session.heartbeat.dead_at().is_none() {
                    session.socket.rest();
                }
                if session.heartbeat.counts_frames() {
                    session.heartbeat.frames_read(Instant::now());
                }
            }
            Read::Flushed => {}
            Read::Dry => return Err(session.heartbeat.lost()),
            Read::NoRoom => {
                let (permit, held) = wait_until_unblocked(session, link, &items).await?;
                room = Some(permit);
                is_caught_up = is_caught_up && held < LONG_BLOCK;
            }
            Read::Lost(lost) if is_caught_up => return Err(lost),
            Read::Lost(lost) => return Err(blocked(lost)),
        }
    }
}

/// Reads the available frames, if the channel has room for them.
pub(super) fn poll_batch<'a, S, O>(
    cx: &mut Context<'_>,
    session: &mut Session<S>,
    link: &mut SourceLink<O>,
    items: &'a Sender<O::Item>,
    room: &mut Option<Permit<'a, O::Item>>,
    is_caught_up: &mut bool,
    report_dry: bool,
) -> Poll<Read>
where
    S: AsyncRead + AsyncWrite + Unpin,
    O: Outlet,
{
    // If not everything was flushed, the next poll continues.
    let _ = session.poll_flush(cx);
    if link.hold.is_active() {
        *room = None;
        return Poll::Ready(Read::NoRoom);
    }
    // Reserved at each poll and returned if no data is available: a hundred idle sources must not hold all
    // places.
    let permit = match room.take().map_or_else(|| items.try_reserve(), Ok) {
        Ok(permit) => permit,
        Err(TrySendError::Full(())) => return Poll::Ready(Read::NoRoom),
        // The receiver is dropped.
        Err(TrySendError::Closed(())) => return Poll::Ready(Read::Lost(ConnectionEnd::Stopped)),
    };
    let mut reading = Reading::default();
    let mut messages = 0;
    let mut is_dry = false;
    let lost = loop {
        if messages >= MAX_BATCH_FRAMES || reading.bytes >= MAX_BATCH_BYTES {
            break None;
        }
        let handled = match session.poll_message(cx) {
            Poll::Ready(message) => message.and_then(|message| session.handle(message, link, &mut reading)),
            Poll::Pending => {
                // Without budget, `Pending` means that the runtime must run other tasks; more data may be
                // available.
                is_dry = coop::has_budget_remaining();
                if is_dry && messages == 0 {
                    *is_caught_up = true;
                    if report_dry {
                        return Poll::Ready(Read::Dry);
                    }
                }
                break None;
            }
        };
        messages += 1;
        if let Err(lost) = handled {
            break Some(lost);
        }
    };
    if messages == 0 {
        return Poll::Pending;
    }
    let amount = Amount {
        messages,
        bytes: reading.bytes,
        is_dry,
    };
    reading.behind_since = session.socket.behind_since();
    link.deliver(permit, reading);
    Poll::Ready(lost.map_or(Read::Batch(amount), Read::Lost))
}

/// Waits without reading until the events of a gap are fetched, and then for room in the channel. Returns the permit, and
/// the duration of the second wait (the backpressure).
///
/// Pings and pongs are sent as far as the server reads them, so that it keeps the connection open. A missing pong does
/// not end the connection, because the pong may be among the unread data, after events. A connection that breaks does not
/// end here either: its unread data is read when the channel has room.
pub(super) async fn wait_until_unblocked<'a, S, O>(
    session: &mut Session<S>,
    link: &mut SourceLink<O>,
    items: &'a Sender<O::Item>,
) -> Result<(Permit<'a, O::Item>, Duration), ConnectionEnd>
where
    S: AsyncRead + AsyncWrite + Unpin,
    O: Outlet,
{
    session.socket.pause();
    let stop = link.stop.clone();
    let mut stopped = pin!(stop.cancelled());
    let hold = Arc::clone(&link.hold);
    // One reservation for the whole wait: a new one would lose its place in the queue.
    let mut reserve = pin!(items.reserve());
    let began = Instant::now();
    // The start of the backpressure: set again at the end of a hold, which does not count as backpressure.
    let mut since = began;
    let mut next_report = since + LONG_BLOCK;
    let mut is_logged = false;
    let mut blockage = None;
    let acknowledges = session.protocol.acknowledges();
    let acknowledgements = link.acknowledgements.clone();
    let room = loop {
        let is_held = hold.is_active();
        if !is_held {
            blockage.get_or_insert_with(|| Blockage::begin(&link.stats));
        }
        select! {
            biased;
            () = &mut stopped => return Err(ConnectionEnd::Stopped),
            () = hold.ended(), if is_held => {
                since = Instant::now();
                next_report = since + LONG_BLOCK;
            }
            room = &mut reserve, if !is_held => break room.map_err(|_| ConnectionEnd::Stopped)?,
            () = sleep_until(next_report), if !is_held => {
                next_report += LONG_BLOCK;
                let Some(blockage) = &mut blockage else {
                    continue;
                };
                blockage.lasts_long();
                // At most one line a minute, however often backpressure ends and returns. The wait is checked each second,
                // so a lasting one always has a line.
                if link.throttle.allow("blocked").is_some() {
                    is_logged = true;
                    let lasted = format_duration(since.elapsed());
                    warn!(source = %link.name, lasted, "{BACKPRESSURE}");
                }
            }
            // Not before the authentication: AUTH must be the first message.
            () = sleep_until(session.heartbeat.due()), if session.is_authenticated() => session.ping(),
            () = poll_fn(|cx| session.poll_flush(cx)), if session.is_flushing => {}
            // Events that are stored meanwhile are acknowledged, because the feed may have a time limit for acknowledgements.
            values = acknowledgements.next(), if acknowledges && !session.is_flushing => session.acknowledge(&values),
        }
    };
    drop(blockage);
    session.socket.resume();
    let now = Instant::now();
    let held = now.saturating_duration_since(since);
    session
        .heartbeat
        .reading_resumed(now.saturating_duration_since(began), now);
    // Only if the start was logged, so that the last line about backpressure states the present condition.
    if is_logged {
        info!(source = %link.name, lasted = format_duration(held), "backpressure ended: the socket is read again");
    }
    Ok((room, held))
}

/// The backpressure of one connection, which ends when this is dropped, however the wait ends.
struct Blockage {
    stats: Arc<SourceStats>,
    is_long: bool,
}

impl Blockage {
    fn begin(stats: &Arc<SourceStats>) -> Self {
        stats.backpressure_began();
        Self {
            stats: Arc::clone(stats),
            is_long: false,
        }
    }

    fn lasts_long(&mut self) {
        if !std::mem::replace(&mut self.is_long, true) {
            self.stats.backpressure_lasts();
        }
    }
}

impl Drop for Blockage {
    fn drop(&mut self) {
        self.stats.unblocked(self.is_long);
    }
}

fn blocked(lost: ConnectionEnd) -> ConnectionEnd {
    match lost {
        ConnectionEnd::Stopped => ConnectionEnd::Stopped,
        lost => ConnectionEnd::Blocked {
            source: Box::new(lost),
        },
    }
}

#[cfg(test)]
#[path = "receive_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "rest_tests.rs"]
mod rest_tests;
