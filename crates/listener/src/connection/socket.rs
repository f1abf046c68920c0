//! A WebSocket that can continue reading after a frame that could not be read.
//!
//! tokio-tungstenite's `WebSocketStream` yields nothing after its first error. tungstenite itself continues
//! after a frame that it has removed from its buffer. A frame that is too large never reaches it, because the
//! [`Gate`] skips it.

use std::{
    io::{self, Read, Write},
    pin::Pin,
    task::{Context, Poll},
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

use super::{Recent, gate::Gate};
use crate::stats::MAX_UNREAD;

/// The client end of a WebSocket.
#[derive(Debug)]
pub(crate) struct Socket<S> {
    stream: Recent<S>,
    gate: Gate,
    context: WebSocketContext,
    /// Whether the start of the next frame is known and the frame can be interpreted.
    is_readable: bool,
    /// The time of the last read before a pause, until all data that accumulated is read, and a message after it: if the connection
    /// is lost meanwhile, the unread data is lost with it, and the time of its arrival is unknown.
    unread_since: Option<Instant>,
    /// Whether all data that accumulated during the pause is read.
    has_read_backlog: bool,
    has_sent_close: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// Creates a WebSocket on a stream after the upgrade.
    pub(crate) fn new(stream: S, config: WebSocketConfig) -> Self {
        Self {
            stream: Recent::new(stream),
            gate: Gate::new(config.max_frame_size.unwrap_or(usize::MAX)),
            context: WebSocketContext::new(Role::Client, Some(config)),
            is_readable: true,
            unread_since: None,
            has_read_backlog: false,
            has_sent_close: false,
        }
    }

    /// Reads a message. After an error reading can continue if [`Socket::is_readable`].
    pub(crate) fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<tungstenite::Result<Message>> {
        let read = self.context.read(&mut Polled {
            stream: &mut self.stream,
            gate: &mut self.gate,
            cx,
        });
        let error = match read {
            Ok(message) => {
                if std::mem::take(&mut self.has_read_backlog) {
                    self.unread_since = None;
                }
                if message.is_close() && self.has_sent_close {
                    // The last message of the server, and later than the close frame sent. Without one it may have arrived at any
                    // time of a pause.
                    self.unread_since = None;
                }
                return Poll::Ready(Ok(message));
            }
            Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                // All frames before the oversized one are read.
                match self.gate.take_too_large() {
                    None => {
                        // Without budget, more data may be available.
                        if coop::has_budget_remaining() {
                            self.has_read_backlog = self.unread_since.is_some();
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
        self.has_read_backlog = false;
        let last_read = self.last_read();
        let oldest = Instant::now().checked_sub(MAX_UNREAD);
        self.unread_since = Some(oldest.map_or(last_read, |oldest| oldest.max(last_read)));
    }

    /// Returns whether data that accumulated during a pause may be unread, or nothing is known to have arrived after the pause.
    pub(crate) const fn is_behind(&self) -> bool {
        self.unread_since.is_some()
    }

    /// Returns whether the following frames can be read, also after an error.
    pub(crate) const fn is_readable(&self) -> bool {
        self.is_readable
    }

    /// Queues a message.
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

    /// Returns the close frame that the server sent, given the one that was read.
    pub(crate) fn as_sent(&self, reported: CloseFrame) -> CloseFrame {
        self.stream.as_sent(reported)
    }

    /// Returns the time at which the last byte of the server was read.
    pub(crate) const fn last_read(&self) -> Instant {
        if let Some(unread_since) = self.unread_since {
            return unread_since;
        }
        self.stream.last_read()
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

/// The stream as a blocking one for tungstenite: operations that would wait return `WouldBlock` and register
/// the waker.
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
