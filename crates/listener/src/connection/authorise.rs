//! Asks to be let in.

use std::{future::poll_fn, pin::pin, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    select,
    time::sleep,
};

use super::{Link, Notice, Outlet, Session};
use crate::{error::Lost, stats::Reading};

/// As many frames may come before the answer to AUTH. None should; what comes is not thrown away.
const MAX_EARLY_FRAMES: usize = 1024;

/// Sends AUTH and waits for its answer, reading no further than that: what follows it is read where there is room.
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
                    link.count_only(reading);
                    taken
                })
            }) => taken?,
        }
        link.offer();
        if link.outlet.len() > MAX_EARLY_FRAMES {
            return Err(Lost::EarlyEvents);
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "authorise_tests.rs"]
mod tests;
