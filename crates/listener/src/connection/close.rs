//! Closes a connection without losing the events that the server has already sent.

use std::{future::poll_fn, pin::pin, time::Duration};

use futures_util::FutureExt;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy, sink},
    select,
    sync::mpsc::{Permit, Sender},
    time::timeout,
};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};

use super::{
    Outlet, Session, SourceLink,
    receive::{Read, poll_batch},
};
use crate::error::ConnectionEnd;

/// The time limit for the server's close frame. Data in transit is read meanwhile: closing a socket with unread data
/// resets the connection, and the server may then not receive the close frame of this side.
const LINGER: Duration = Duration::from_secs(1);

/// Closes a connection with a code that states the reason, unless the server has closed it.
///
/// Events that the server sent before its close frame are received, for at most [`LINGER`], as far as the channel has
/// room. This also applies after a frame that cannot be read (too large, not UTF-8, a protocol violation), if the start
/// of the next frame can be found. Otherwise all further data is discarded, so that the server reads the close frame.
///
/// Returns whether all data that the server is known to have sent was read.
pub(crate) async fn close<S, O>(
    session: &mut Session<S>,
    link: &mut SourceLink<O>,
    lost: &ConnectionEnd,
) -> bool
where
    S: AsyncRead + AsyncWrite + Unpin,
    O: Outlet,
{
    let (code, reason) = match lost.root() {
        ConnectionEnd::Stopped => (CloseCode::Normal, ""),
        ConnectionEnd::TokenRefused { .. } => (CloseCode::Normal, "token refused"),
        ConnectionEnd::AuthTimeout { step: None, .. } => (CloseCode::Normal, "no answer to AUTH"),
        ConnectionEnd::AuthTimeout { .. } => (CloseCode::Normal, "no answer in the opening"),
        ConnectionEnd::TooLarge { .. } => (CloseCode::Size, "frame too large"),
        ConnectionEnd::InvalidUtf8 => (CloseCode::Invalid, "not UTF-8"),
        ConnectionEnd::Protocol { .. } => (CloseCode::Protocol, "protocol violation"),
        ConnectionEnd::BadPong { .. } => (CloseCode::Policy, "the answer to PING was not PONG"),
        ConnectionEnd::Ended { .. } => (CloseCode::Normal, "no more events are expected"),
        ConnectionEnd::PongTimeout { .. } => (CloseCode::Away, "no answer to PING"),
        ConnectionEnd::IdleTimeout { .. } => (CloseCode::Away, "no frame within the time limit"),
        ConnectionEnd::Closed(_) => {
            // The answer to the server's close frame is queued already.
            flush(session).now_or_never();
            return true;
        }
        ConnectionEnd::Broken { .. } | ConnectionEnd::Blocked { .. } | ConnectionEnd::Unread { .. } => {
            return true;
        }
    };
    session.send_close(CloseFrame {
        code,
        reason: reason.into(),
    });
    // The events are read now, without waiting until those of a gap are fetched, which may take longer than the close.
    link.hold.release();
    let mut is_all_read = true;
    // A batch is sent as soon as it is read, without an await in between, so the time limit loses nothing.
    timeout(LINGER, receive_remaining(session, link, &mut is_all_read))
        .await
        .ok();
    is_all_read
}

/// Receives frames until the server closes the connection or the receiver of the channel is dropped.
async fn receive_remaining<S, O>(session: &mut Session<S>, link: &mut SourceLink<O>, is_all_read: &mut bool)
where
    S: AsyncRead + AsyncWrite + Unpin,
    O: Outlet,
{
    let items = link.items.clone();
    let mut room = None;
    let mut is_frame_lost = false;
    while session.socket.is_readable() {
        let read = poll_fn(|cx| poll_batch(cx, session, link, &items, &mut room, &mut true, false)).await;
        match read {
            Read::Batch(_) | Read::Flushed => {}
            // The connection is being closed: a further reason to close it changes nothing, and events may follow.
            Read::Lost(
                ConnectionEnd::BadPong { .. }
                | ConnectionEnd::TokenRefused { .. }
                | ConnectionEnd::Ended { .. },
            ) => {}
            Read::Lost(
                ConnectionEnd::TooLarge { .. } | ConnectionEnd::InvalidUtf8 | ConnectionEnd::Protocol { .. },
            ) => {
                is_frame_lost = true;
                *is_all_read = false;
            }
            Read::NoRoom => {
                *is_all_read = false;
                link.hold.release();
                match wait_for_room(session, &items).await {
                    Some(permit) => room = Some(permit),
                    None => return,
                }
                *is_all_read = !is_frame_lost;
            }
            Read::Dry | Read::Lost(_) => return,
        }
    }
    *is_all_read = false;
    let stop = link.stop.clone();
    stop.run_until_cancelled(discard(session)).await;
}

async fn wait_for_room<'a, S, T>(session: &mut Session<S>, items: &'a Sender<T>) -> Option<Permit<'a, T>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut reserve = pin!(items.reserve());
    loop {
        select! {
            biased;
            room = &mut reserve => return room.ok(),
            // The close frame is sent meanwhile.
            () = flush(session), if session.is_flushing => {}
        }
    }
}

async fn discard<S: AsyncRead + AsyncWrite + Unpin>(session: &mut Session<S>) {
    flush(session).await;
    let stream = session.socket.stream();
    if stream.shutdown().await.is_ok() {
        // The data is discarded, and an error ends the connection like the end of the data.
        copy(stream, &mut sink()).await.ok();
    }
}

/// Flushes the written frames. An error is ignored, because the connection is being closed.
async fn flush<S: AsyncRead + AsyncWrite + Unpin>(session: &mut Session<S>) {
    poll_fn(|cx| session.poll_flush(cx)).await;
}

#[cfg(test)]
#[path = "close_tests.rs"]
mod tests;
