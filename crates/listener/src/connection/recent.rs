//! Stores the last bytes that were read and the time of the last read: for close codes as the server sent
//! them, and for the start of a gap.
//!
//! If the code of a close frame must not be sent (0, 1005, 65535), tungstenite reports a frame with code 1002 instead.
//! So the original code is read from the stored bytes.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};

/// The longest close frame of a server: a header of two bytes and a payload of 125 (RFC 6455, 5.5).
const MAX_CLOSE_FRAME: usize = 2 + 125;

/// The first byte of a close frame: final, opcode 8.
const CLOSE: u8 = 0x88;

/// A stream that stores the last bytes that were read from it.
#[derive(Debug)]
pub(crate) struct Recent<S> {
    stream: S,
    /// At most [`MAX_CLOSE_FRAME`] bytes.
    bytes: Vec<u8>,
    last_read: Instant,
}

impl<S> Recent<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            bytes: Vec::with_capacity(MAX_CLOSE_FRAME),
            last_read: Instant::now(),
        }
    }

    /// Returns the time at which the last byte was read; before the first one, the time of creation.
    pub(crate) const fn last_read(&self) -> Instant {
        self.last_read
    }

    /// Returns the close frame that the server sent, given the one that the WebSocket library reports.
    pub(crate) fn as_sent(&self, reported: CloseFrame) -> CloseFrame {
        if reported != replacement() {
            return reported;
        }
        // Usually nothing follows the close frame. Of several matches, the one nearest to the end is the most likely.
        let frames = (0..self.bytes.len()).filter_map(|start| {
            let (frame, rest) = close_frame(&self.bytes[start..])?;
            (!frame.code.is_allowed()).then_some((rest, frame))
        });
        frames
            .min_by_key(|(rest, _)| *rest)
            .map_or(reported, |(_, frame)| frame)
    }

    fn keep(&mut self, read: &[u8]) {
        let read = &read[read.len().saturating_sub(MAX_CLOSE_FRAME)..];
        let excess = (self.bytes.len() + read.len()).saturating_sub(MAX_CLOSE_FRAME);
        self.bytes.drain(..excess);
        self.bytes.extend_from_slice(read);
    }
}

/// Returns the frame that tungstenite reports instead of a close frame that must not be sent.
fn replacement() -> CloseFrame {
    CloseFrame {
        code: CloseCode::Protocol,
        reason: "Protocol violation".into(),
    }
}

/// Parses the close frame at the start of `bytes`; also returns the number of bytes after it.
fn close_frame(bytes: &[u8]) -> Option<(CloseFrame, usize)> {
    let [CLOSE, length, payload @ ..] = bytes else {
        return None;
    };
    let (payload, rest) = payload.split_at_checked(usize::from(*length))?;
    let (code, reason) = payload.split_first_chunk()?;
    let frame = CloseFrame {
        code: u16::from_be_bytes(*code).into(),
        reason: std::str::from_utf8(reason).ok()?.into(),
    };
    Some((frame, rest.len()))
}

impl<S: AsyncRead + Unpin> AsyncRead for Recent<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let read = &buffer.filled()[before..];
        self.keep(read);
        if !read.is_empty() {
            self.last_read = Instant::now();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Recent<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn close_code_is_found_in_any_fragmentation(
            code in any::<u16>(),
            reason in "\\PC{0,30}",
            // Excludes the first byte of a close frame: bytes that form a close frame by chance cannot be distinguished from one.
            before in proptest::collection::vec(any::<u8>().prop_filter("no close", |byte| *byte != CLOSE), 0..300),
            piece in 1usize..40,
        ) {
            let sent = CloseFrame { code: code.into(), reason: reason.into() };
            let mut bytes = before;
            bytes.extend([CLOSE, 2 + sent.reason.len() as u8]);
            bytes.extend(code.to_be_bytes());
            bytes.extend(sent.reason.as_bytes());
            let mut recent = Recent::new(());
            bytes.chunks(piece).for_each(|read| recent.keep(read));
            prop_assert!(recent.bytes.len() <= MAX_CLOSE_FRAME);
            let reported = if sent.code.is_allowed() { sent.clone() } else { replacement() };
            prop_assert_eq!(recent.as_sent(reported), sent);
        }
    }

    #[test]
    fn close_code_1002_of_the_server_is_reported_unchanged() {
        let sent = CloseFrame {
            code: CloseCode::Protocol,
            reason: "mask missing".into(),
        };
        let mut recent = Recent::new(());
        recent.keep(b"{\"id\":1}\x88\x0e\x03\xeamask missing");
        assert_eq!(recent.as_sent(sent.clone()), sent);
        // Also if the server sent the text that tungstenite uses, because no other close frame is stored.
        assert_eq!(recent.as_sent(replacement()), replacement());
    }
}
