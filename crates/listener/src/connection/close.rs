//! Takes leave.

use std::{future::poll_fn, time::Duration};

use futures_util::FutureExt;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy, sink},
    time::timeout,
};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
use tokio_util::sync::CancellationToken;

use super::Session;
use crate::error::Lost;

/// How long what is still on its way is read and thrown away, so that our reason arrives: closing a socket with unread
/// data resets the connection, and the close frame with it.
const LINGER: Duration = Duration::from_secs(1);

/// Ends a connection, telling the server why where it does not know. Waits only where the server has to be told that it
/// did wrong, and never when stopping.
pub(crate) async fn close<S>(mut session: Session<S>, lost: &Lost, stop: &CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (code, reason) = match lost {
        Lost::Stopped => (CloseCode::Normal, ""),
        Lost::TokenRefused { .. } => (CloseCode::Normal, "token refused"),
        Lost::AuthTimeout { .. } => (CloseCode::Normal, "no answer to AUTH"),
        Lost::TooLarge { .. } => (CloseCode::Size, "frame too large"),
        Lost::InvalidUtf8 => (CloseCode::Invalid, "no UTF-8"),
        Lost::Protocol { .. } => (CloseCode::Protocol, "protocol violation"),
        Lost::EarlyEvents => (CloseCode::Policy, "events before the answer to AUTH"),
        Lost::BadPong { .. } => (CloseCode::Policy, "the answer to PING was not PONG"),
        Lost::PongTimeout { .. } => (CloseCode::Away, "no answer to PING"),
        Lost::Closed(_) => {
            // The answer to its close frame is queued already.
            flush(&mut session).now_or_never();
            return;
        }
        Lost::Broken { .. } | Lost::Blocked { .. } => return,
    };
    let frame = CloseFrame {
        code,
        reason: reason.into(),
    };
    session.send_close(frame);
    let is_told = matches!(
        lost,
        Lost::TooLarge { .. } | Lost::InvalidUtf8 | Lost::Protocol { .. } | Lost::EarlyEvents
    );
    if is_told {
        let farewell = timeout(LINGER, async {
            flush(&mut session).await;
            let stream = session.socket.get_mut();
            if stream.shutdown().await.is_ok() {
                // What comes is of no use, nor is how it ends.
                copy(stream, &mut sink()).await.ok();
            }
        });
        stop.run_until_cancelled(farewell).await;
    } else {
        flush(&mut session).now_or_never();
    }
}

/// Gets out what is written. That it fails is no news: the connection is given up anyway.
async fn flush<S: AsyncRead + AsyncWrite + Unpin>(session: &mut Session<S>) {
    poll_fn(|cx| session.poll_flush(cx)).await;
}
