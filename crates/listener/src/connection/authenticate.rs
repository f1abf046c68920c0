//! Performs the opening of a feed on a new connection: AUTH and the answer to it, or the steps of a declared feed.

use std::{future::poll_fn, pin::pin, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    select,
    time::{Instant, sleep},
};

use neurobridge_protocol::{Protocol, Secrets};

use super::{
    Notice, Outlet, Session, SourceLink,
    receive::{MAX_BATCH_BYTES, MAX_BATCH_FRAMES, wait_until_unblocked},
};
use crate::{error::ConnectionEnd, stats::Reading};

/// Performs the steps of the opening with these secrets; each step has its own time limit. Reads nothing after the answer
/// to the last step: the following frames are read when the channel has room.
///
/// Frames that arrive before that answer are sent if the channel has room. Otherwise they are counted as received, and
/// wait. While a full batch waits, nothing is read, as after authentication, and the backpressure does not count against
/// the time limit.
pub(crate) async fn authenticate<S, O>(
    session: &mut Session<S>,
    link: &mut SourceLink<O>,
    secrets: Secrets,
) -> Result<(), ConnectionEnd>
where
    S: AsyncRead + AsyncWrite + Unpin,
    O: Outlet,
{
    let stop = link.stop.clone();
    let mut stopped = pin!(stop.cancelled());
    // Set by the first step.
    let mut timed_out = pin!(sleep(Duration::ZERO));
    // The step that waits for an answer, with its time limit.
    let mut step = None;
    // The size of the text that waits for room in the channel.
    let mut waiting_bytes = 0;
    link.outlet.notice(Notice::Connected);
    link.offer();
    session.begin(secrets);
    if session.is_authenticated() {
        link.outlet.notice(Notice::Authenticated);
    }
    while let Some(next @ (index, timeout)) = session.protocol.deadline() {
        if step != Some(next) {
            step = Some(next);
            timed_out.as_mut().reset(Instant::now() + timeout);
        }
        select! {
            biased;
            () = &mut stopped => return Err(ConnectionEnd::Stopped),
            () = &mut timed_out => {
                let step = matches!(session.protocol, Protocol::Declared(_)).then_some(index);
                return Err(ConnectionEnd::AuthTimeout { timeout, step });
            }
            handled = poll_fn(|cx| {
                // If not everything was flushed, the next poll continues.
                let _ = session.poll_flush(cx);
                session.poll_message(cx).map(|message| {
                    let mut reading = Reading::default();
                    let handled = message.and_then(|message| session.handle(message, link, &mut reading));
                    waiting_bytes += reading.bytes;
                    link.count_only(reading);
                    handled
                })
            }) => handled?,
        }
        link.offer();
        link.outlet.count_waiting();
        if link.outlet.len() == 0 {
            waiting_bytes = 0;
        } else if link.outlet.len() >= MAX_BATCH_FRAMES || waiting_bytes >= MAX_BATCH_BYTES {
            let items = link.items.clone();
            let (room, held) = wait_until_unblocked(session, link, &items).await?;
            link.deliver(room, Reading::default());
            waiting_bytes = 0;
            let deadline = timed_out.deadline() + held;
            timed_out.as_mut().reset(deadline);
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "authenticate_tests.rs"]
mod tests;
