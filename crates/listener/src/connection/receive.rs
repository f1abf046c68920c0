//! Reads what the platform sends, as fast as it is taken.

use std::{
    future::poll_fn,
    pin::pin,
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

use super::{Link, Outlet, Session};
use crate::{error::Lost, stats::Reading};

/// What one batch may hold: enough to make the cost of handing it on small, and little enough that a bound on batches
/// is a bound on memory. One frame more may come on top, of up to `max_frame_size`.
pub(super) const MAX_BATCH_FRAMES: usize = 1024;
pub(super) const MAX_BATCH_BYTES: u64 = 128 * 1024;

/// From then on it counts: a shorter hold is the ordinary to and fro of a full channel, and no server has closed a
/// connection over it.
const LONG_HOLD: Duration = Duration::from_secs(1);

/// How much longer an answer is looked for in what is unread when its time is up. It may be there already: this
/// process may have been stopped, or short of CPU.
const LAST_LOOK: Duration = Duration::from_secs(1);

/// What a look at the socket gave.
pub(super) enum Read {
    /// Something was read, and handed on.
    Batch,
    /// Nothing is there (reported on demand only).
    Dry,
    /// There is no room for what might be there.
    NoRoom,
    Lost(Lost),
}

/// Reads until the connection ends, and says why it did.
///
/// Where there is no room for a batch nothing is read. A batch is read and sent without a pause in between, so that
/// nothing that was read is lost when this future is dropped.
pub(crate) async fn receive<S, O>(session: &mut Session<S>, link: &mut Link<O>) -> Lost
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
    link: &mut Link<O>,
) -> Result<std::convert::Infallible, Lost>
where
    S: AsyncRead + AsyncWrite + Unpin,
    O: Outlet,
{
    let (stop, items) = (link.stop.clone(), link.items.clone());
    let mut stopped = pin!(stop.cancelled());
    let mut timer = pin!(sleep_until(session.heartbeat.due()));
    let mut room = None;
    // Whether all that piled up during a long hold is read.
    let mut is_caught_up = true;
    // Since when an answer is looked for whose time is up.
    let mut last_look: Option<Instant> = None;
    if link.outlet.len() > 0 {
        // Came before or with the answer to AUTH.
        let permit = match items.try_reserve() {
            Ok(permit) => permit,
            Err(_) => {
                let (permit, held) = hold_back(session, link, &items).await?;
                is_caught_up = held < LONG_HOLD;
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
            last_look = None;
        }
        let wake = match (session.heartbeat.dead_at(), last_look) {
            (_, Some(since)) => session.heartbeat.due().min(since + LAST_LOOK),
            (Some(dead_at), None) => session.heartbeat.due().min(dead_at),
            (None, None) => session.heartbeat.due(),
        };
        if timer.deadline() != wake {
            timer.as_mut().reset(wake);
        }
        let is_last_look = last_look.is_some();
        let read = select! {
            biased;
            () = &mut stopped => return Err(Lost::Stopped),
            () = &mut timer => {
                let now = Instant::now();
                if session.heartbeat.due() <= now {
                    session.ping();
                }
                match last_look {
                    Some(since) if now >= since + LAST_LOOK => return Err(dead(session)),
                    None if session.heartbeat.dead_at().is_some_and(|dead_at| dead_at <= now) => {
                        last_look = Some(now);
                    }
                    _ => {}
                }
                continue;
            }
            read = poll_fn(|cx| poll_batch(cx, session, link, &items, &mut room, &mut is_caught_up, is_last_look)) => read,
        };
        match read {
            Read::Batch => {}
            Read::Dry => return Err(dead(session)),
            Read::NoRoom => {
                let (permit, held) = hold_back(session, link, &items).await?;
                room = Some(permit);
                is_caught_up = is_caught_up && held < LONG_HOLD;
            }
            Read::Lost(lost) if is_caught_up => return Err(lost),
            Read::Lost(lost) => return Err(blocked(lost)),
        }
    }
}

/// Reads what is there, if there is room for it.
pub(super) fn poll_batch<'a, S, O>(
    cx: &mut Context<'_>,
    session: &mut Session<S>,
    link: &mut Link<O>,
    items: &'a Sender<O::Item>,
    room: &mut Option<Permit<'a, O::Item>>,
    is_caught_up: &mut bool,
    report_dry: bool,
) -> Poll<Read>
where
    S: AsyncRead + AsyncWrite + Unpin,
    O: Outlet,
{
    // Ready or not: it goes on with the next poll.
    let _ = session.poll_flush(cx);
    // Asked for at each look, and given back when nothing is there: a hundred idle sources must not hold all the room.
    let permit = match room.take().map_or_else(|| items.try_reserve(), Ok) {
        Ok(permit) => permit,
        Err(TrySendError::Full(())) => return Poll::Ready(Read::NoRoom),
        // Nobody will ever take anything again.
        Err(TrySendError::Closed(())) => return Poll::Ready(Read::Lost(Lost::Stopped)),
    };
    let mut reading = Reading::default();
    let mut messages = 0;
    let lost = loop {
        if messages >= MAX_BATCH_FRAMES || reading.bytes >= MAX_BATCH_BYTES {
            break None;
        }
        let taken = match session.poll_message(cx) {
            Poll::Ready(message) => message.and_then(|message| session.take(message, link, &mut reading)),
            Poll::Pending => {
                // Without budget the runtime wants its turn; there may be more to read.
                let is_dry = coop::has_budget_remaining();
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
        if let Err(lost) = taken {
            break Some(lost);
        }
    };
    if messages == 0 {
        return Poll::Pending;
    }
    link.deliver(permit, reading);
    Poll::Ready(lost.map_or(Read::Batch, Read::Lost))
}

/// Waits for room, reading nothing; also says how long that took. Pings and pongs go on as far as the server reads
/// them, so that it sees us alive; its silence is not judged, because its answers wait unread behind events. Nor does a
/// connection that broke end here: what it has left unread is read when there is room.
pub(super) async fn hold_back<'a, S, O>(
    session: &mut Session<S>,
    link: &mut Link<O>,
    items: &'a Sender<O::Item>,
) -> Result<(Permit<'a, O::Item>, Duration), Lost>
where
    S: AsyncRead + AsyncWrite + Unpin,
    O: Outlet,
{
    let stop = link.stop.clone();
    let mut stopped = pin!(stop.cancelled());
    // Asked once, and kept: whoever asks anew loses its place in the queue.
    let mut reserve = pin!(items.reserve());
    let since = Instant::now();
    let mut look_at = since + LONG_HOLD;
    let (mut is_long, mut is_logged) = (false, false);
    link.stats.held_back();
    let room = loop {
        select! {
            biased;
            () = &mut stopped => return Err(Lost::Stopped),
            room = &mut reserve => break room.map_err(|_| Lost::Stopped)?,
            () = sleep_until(look_at) => {
                look_at += LONG_HOLD;
                if !std::mem::replace(&mut is_long, true) {
                    link.stats.held_back_for_long();
                }
                // Once a minute, however often reading stops and goes on: of a hold that lasts there is always a line.
                if link.throttle.allow("blocked").is_some() {
                    is_logged = true;
                    let lasted = format_duration(since.elapsed());
                    warn!(source = %link.name, lasted, "reading is held back: there is no room for more events");
                }
            }
            // AUTH comes before all else, also before pings.
            () = sleep_until(session.heartbeat.due()), if session.is_authorised => session.ping(),
            () = poll_fn(|cx| session.poll_flush(cx)), if session.is_flushing => {}
        }
    };
    let now = Instant::now();
    let held = now.saturating_duration_since(since);
    link.stats.released();
    session.heartbeat.released(held, now);
    // Of a hold that was logged, so that the last line is true.
    if is_logged {
        info!(source = %link.name, held_seconds = held.as_secs_f64(), "reading again");
    }
    Ok((room, held))
}

fn blocked(lost: Lost) -> Lost {
    match lost {
        Lost::Stopped => Lost::Stopped,
        lost => Lost::Blocked {
            source: Box::new(lost),
        },
    }
}

fn dead<S>(session: &Session<S>) -> Lost {
    Lost::PongTimeout {
        timeout: session.heartbeat.timeout(),
    }
}

#[cfg(test)]
#[path = "receive_tests.rs"]
mod tests;
