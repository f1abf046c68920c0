//! The `Socket`: a WebSocket that can continue reading after a frame that could not be read.
//!
//! tokio-tungstenite's `WebSocketStream` yields nothing after its first error. tungstenite itself continues
//! after a frame that it has removed from its buffer. A frame that is too large never reaches it, because the
//! [`Gate`] skips it.

use std::{
    io::{self, Read, Write},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::coop,
    time::Instant,
};
use tokio_tungstenite::tungstenite::{
    self, Message,
    error::{CapacityError, ProtocolError},
    protocol::{CloseFrame, Role, WebSocketConfig, WebSocketContext},
};

use super::{Recent, gate::Gate, low_water::LowWater};

/// The client end of a WebSocket.
#[derive(Debug)]
pub(crate) struct Socket<S> {
    stream: Recent<S>,
    gate: Gate,
    context: WebSocketContext,
    /// Whether the start of the next frame is known and the frame can be interpreted.
    is_readable: bool,
    /// The data that may have accumulated during a pause; `None` if everything up to the last read is read.
    backlog: Option<Backlog>,
    has_sent_close: bool,
    low_water: LowWater,
}

/// Data that accumulates while reading pauses, here and at the server: if the connection is lost before all of it is read, the
/// rest is lost too, and the time at which the server sent what was read is unknown.
#[derive(Clone, Copy, Debug)]
struct Backlog {
    /// The time up to which everything that the server sent is read.
    since: Instant,
    /// The time for which reading has to continue until the accumulated data counts as read. At the start of a pause: what is
    /// left from earlier pauses. At its end, the duration of the pause is added.
    owed: Duration,
    paused_at: Instant,
    /// The end of the last pause; `None` during the pause.
    resumed_at: Option<Instant>,
    /// Whether all available data was read at least once since `resumed_at`. The server may have more data that waits for the
    /// receive window.
    is_dry: bool,
}

impl Backlog {
    /// Returns the time for which reading still has to continue. In total that is the time for which reading paused.
    /// *Assumed*: a connection transmits events at least twice as fast as they occur.
    fn owed(&self, now: Instant) -> Duration {
        let read_for = self
            .resumed_at
            .map(|resumed_at| now.saturating_duration_since(resumed_at));
        self.owed.saturating_sub(read_for.unwrap_or_default())
    }

    /// Returns whether the accumulated data is read, so that the next message was sent just before it is read.
    fn is_read(&self) -> bool {
        self.is_dry && self.resumed_at.is_some() && self.owed(Instant::now()).is_zero()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// Creates a WebSocket on a stream after the upgrade.
    pub(crate) fn new(stream: S, config: WebSocketConfig) -> Self {
        Self {
            stream: Recent::new(stream),
            gate: Gate::new(config.max_frame_size.unwrap_or(usize::MAX)),
            context: WebSocketContext::new(Role::Client, Some(config)),
            is_readable: true,
            backlog: None,
            has_sent_close: false,
            low_water: LowWater::default(),
        }
    }

    /// Sets the low-water mark that is raised by [`rest`](Self::rest).
    pub(crate) fn with_low_water(self, low_water: LowWater) -> Self {
        Self { low_water, ..self }
    }

    /// Raises the low-water mark until the next read or pause.
    pub(crate) fn rest(&mut self) {
        self.low_water.raise();
    }

    /// Reads a message. After an error, reading can continue if [`Socket::is_readable`] returns true.
    pub(crate) fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<tungstenite::Result<Message>> {
        self.low_water.lower();
        let read = self.context.read(&mut Polled {
            stream: &mut self.stream,
            gate: &mut self.gate,
            cx,
        });
        let error = match read {
            Ok(message) => {
                // A close frame that answers the one of this side is the last message of the server: everything is read. Any
                // other close frame may have been sent at any time of a pause.
                let is_last = message.is_close() && self.has_sent_close;
                self.backlog = self.backlog.filter(|backlog| !is_last && !backlog.is_read());
                return Poll::Ready(Ok(message));
            }
            Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                // If the gate has found an oversized frame, all frames before it are read.
                match self.gate.take_too_large() {
                    None => {
                        // Without budget of the runtime, `Pending` does not mean that no data is available.
                        if let Some(backlog) = &mut self.backlog
                            && coop::has_budget_remaining()
                        {
                            backlog.is_dry = true;
                        }
                        return Poll::Pending;
                    }
                    Some((size, max_size)) => CapacityError::MessageTooLong { size, max_size }.into(),
                }
            }
            Err(error) => error,
        };
        // If a fragment is skipped, its message is incomplete.
        self.is_readable = self.is_readable && leaves_next_frame(&error) && !self.gate.has_fragments();
        Poll::Ready(Err(error))
    }

    /// Records that reading pauses, so that unread data accumulates.
    pub(crate) fn pause(&mut self) {
        self.low_water.lower();
        let now = Instant::now();
        let (since, owed) = match &self.backlog {
            Some(backlog) => (backlog.since, backlog.owed(now)),
            None => (self.stream.last_read(), Duration::ZERO),
        };
        self.backlog = Some(Backlog {
            since,
            owed,
            paused_at: now,
            resumed_at: None,
            is_dry: false,
        });
    }

    /// Records that reading continues after a pause.
    pub(crate) fn resume(&mut self) {
        let now = Instant::now();
        if let Some(backlog) = &mut self.backlog {
            backlog.owed += now.saturating_duration_since(backlog.paused_at);
            backlog.resumed_at = Some(now);
        }
    }

    /// Records the answer to a ping that was sent at `pinged_at`. *Assumed*: the server sends the answer after all data that it
    /// had to send at that time.
    pub(crate) fn answered(&mut self, pinged_at: Instant) {
        self.backlog = self.backlog.and_then(|backlog| {
            let is_read = backlog
                .resumed_at
                .is_some_and(|resumed_at| pinged_at >= resumed_at);
            (!is_read).then(|| Backlog {
                since: backlog.since.max(pinged_at),
                ..backlog
            })
        });
    }

    /// Returns the time up to which everything that the server sent is read, while data that accumulated during a pause may be
    /// unread.
    pub(crate) fn behind_since(&self) -> Option<Instant> {
        self.backlog.map(|backlog| backlog.since)
    }

    /// Returns whether the following frames can be read, also after an error.
    pub(crate) const fn is_readable(&self) -> bool {
        self.is_readable
    }

    /// Queues a message, and writes as much of the queued data as the socket accepts.
    ///
    /// # Errors
    /// The connection fails, or the write buffer is full.
    pub(crate) fn queue(&mut self, message: Message) -> tungstenite::Result<()> {
        self.has_sent_close |= message.is_close();
        // Data that the socket does not accept is buffered, and sent with a flush.
        let mut no_task = Context::from_waker(std::task::Waker::noop());
        let written = self.context.write(
            &mut Polled {
                stream: &mut self.stream,
                gate: &mut self.gate,
                cx: &mut no_task,
            },
            message,
        );
        match written {
            Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            written => written,
        }
    }

    /// Sends the queued data.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<tungstenite::Result<()>> {
        let flushed = self.context.flush(&mut Polled {
            stream: &mut self.stream,
            gate: &mut self.gate,
            cx,
        });
        match flushed {
            Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            Err(tungstenite::Error::ConnectionClosed) => Poll::Ready(Ok(())),
            flushed => Poll::Ready(flushed),
        }
    }

    /// Returns the close frame as the server sent it, given the one that tungstenite reports.
    pub(crate) fn as_sent(&self, reported: CloseFrame) -> CloseFrame {
        self.stream.as_sent(reported)
    }

    /// Returns the time up to which everything that the server sent is read: that of the last read, or after a pause
    /// [`behind_since`](Self::behind_since).
    pub(crate) fn last_read(&self) -> Instant {
        self.behind_since().unwrap_or(self.stream.last_read())
    }

    /// Returns the underlying stream, for reading bytes that are not parsed as frames.
    pub(crate) const fn stream(&mut self) -> &mut Recent<S> {
        &mut self.stream
    }
}

/// Returns whether the frame with the error was read to its end, so that the next frame starts at the current
/// position. False for a frame with a reserved opcode: tungstenite leaves its header in the buffer and fails
/// on it again.
const fn leaves_next_frame(error: &tungstenite::Error) -> bool {
    matches!(
        error,
        tungstenite::Error::Utf8(_)
            | tungstenite::Error::Capacity(_)
            | tungstenite::Error::Protocol(
                ProtocolError::NonZeroReservedBits
                    | ProtocolError::MaskedFrameFromServer
                    | ProtocolError::FragmentedControlFrame
                    | ProtocolError::ControlFrameTooBig
                    | ProtocolError::UnexpectedContinueFrame
                    | ProtocolError::InvalidCloseSequence
            )
    )
}

/// Presents the stream to tungstenite as a non-blocking one: operations that would wait register the waker and
/// return `WouldBlock`.
struct Polled<'a, 'b, S> {
    stream: &'a mut Recent<S>,
    gate: &'a mut Gate,
    cx: &'a mut Context<'b>,
}

impl<S: AsyncRead + Unpin> Read for Polled<'_, '_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        or_would_block(self.gate.poll_read(self.stream, self.cx, buffer))
    }
}

impl<S: AsyncWrite + Unpin> Write for Polled<'_, '_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        or_would_block(Pin::new(&mut *self.stream).poll_write(self.cx, bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        or_would_block(Pin::new(&mut *self.stream).poll_flush(self.cx))
    }
}

fn or_would_block<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::connection::testing::{event, sockets};

    #[tokio::test(start_paused = true)]
    async fn answer_to_a_ping_proves_data_before_the_ping_is_read() {
        let (mut socket, mut platform) = sockets().await;
        platform.send_text(event(1)).await;
        poll_fn(|cx| socket.poll_message(cx)).await.unwrap();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        socket.pause();
        tokio::time::advance(at(20) - start).await;
        socket.resume();
        assert_eq!(socket.behind_since(), Some(start));
        socket.answered(at(5));
        assert_eq!(
            socket.behind_since(),
            Some(at(5)),
            "data that the server had after the ping may be unread"
        );
        socket.answered(at(4));
        assert_eq!(socket.behind_since(), Some(at(5)));
        socket.answered(at(20));
        assert_eq!(socket.behind_since(), None);
        assert_eq!(socket.last_read(), start);
    }

    #[tokio::test(start_paused = true)]
    async fn short_pauses_do_not_extend_a_long_one() {
        let (mut socket, mut platform) = sockets().await;
        let start = Instant::now();
        socket.pause();
        tokio::time::advance(Duration::from_secs(60)).await;
        socket.resume();
        for _ in 0..120 {
            platform.send_text(event(1)).await;
            poll_fn(|cx| socket.poll_message(cx)).await.unwrap();
            let is_dry = poll_fn(|cx| Poll::Ready(socket.poll_message(cx).is_pending())).await;
            assert!(is_dry);
            tokio::time::advance(Duration::from_millis(990)).await;
            platform.send_text(event(2)).await;
            poll_fn(|cx| socket.poll_message(cx)).await.unwrap();
            socket.pause();
            tokio::time::advance(Duration::from_millis(10)).await;
            socket.resume();
        }
        assert!(socket.behind_since().unwrap() > start + Duration::from_secs(60));
    }
}
