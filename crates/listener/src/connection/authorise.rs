//! Sends AUTH and waits for the answer.

use std::{future::poll_fn, pin::pin, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    select,
    time::sleep,
};

use super::{
    Link, Notice, Outlet, Session,
    receive::{MAX_BATCH_BYTES, MAX_BATCH_FRAMES, hold_back},
};
use crate::{error::Lost, stats::Reading};

/// Sends AUTH and waits for its answer, reading no further than that: what follows it is read where there is room.
///
/// Frames that come before the answer are sent where there is room. Else they wait, and are counted as received; with a
/// batch of them waiting reading is held back as after the answer, and that time does not count against the server.
pub(crate) async fn authorise<S, O>(
    session: &mut Session<S>,
    link: &mut Link<O>,
    timeout: Duration,
) -> Result<(), Lost>
where
    S: AsyncRead + AsyncWrite + Unpin,
    O: Outlet,
{
    let stop = link.stop.clone();
    let mut stopped = pin!(stop.cancelled());
    let mut timed_out = pin!(sleep(timeout));
    // The text read since nothing waited.
    let mut waiting_bytes = 0;
    link.outlet.notice(Notice::Connected);
    link.offer();
    session.send_auth();
    while !session.is_authorised {
        select! {
            biased;
            () = &mut stopped => return Err(Lost::Stopped),
            () = &mut timed_out => return Err(Lost::AuthTimeout { timeout }),
            taken = poll_fn(|cx| {
                // Ready or not: it goes on with the next poll.
                let _ = session.poll_flush(cx);
                session.poll_message(cx).map(|message| {
                    let mut reading = Reading::default();
                    let taken = message.and_then(|message| session.take(message, link, &mut reading));
                    waiting_bytes += reading.bytes;
                    link.count_only(reading);
                    taken
                })
            }) => taken?,
        }
        link.offer();
        link.outlet.count_waiting();
        if link.outlet.len() == 0 {
            waiting_bytes = 0;
        } else if link.outlet.len() >= MAX_BATCH_FRAMES || waiting_bytes >= MAX_BATCH_BYTES {
            let items = link.items.clone();
            let (room, held) = hold_back(session, link, &items).await?;
            link.deliver(room, Reading::default());
            waiting_bytes = 0;
            let deadline = timed_out.deadline() + held;
            timed_out.as_mut().reset(deadline);
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "authorise_tests.rs"]
mod tests;
