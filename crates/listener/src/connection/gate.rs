//! Skips frames that exceed the size limit before the WebSocket library allocates memory for them.
//!
//! tungstenite reports an oversized frame after reading its header, and then cannot continue. The header states
//! the length of the frame, so the gate removes header and payload from the stream, and the following frames can be
//! read.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, ReadBuf};

/// The longest header of a frame, with a mask (RFC 6455, 5.2).
const MAX_HEADER: usize = 14;

/// Tracks the positions of the frames in a stream, and removes the frames that exceed the size limit.
#[derive(Debug)]
pub(crate) struct Gate {
    max_frame_size: usize,
    /// The number of payload bytes of the current frame that are not read yet.
    payload_left: u64,
    /// Whether the current frame is being skipped.
    is_skipping: bool,
    /// The size of a frame that exceeded the limit, until it is reported. Nothing is read before that.
    too_large: Option<usize>,
    /// The first bytes of a header that is not complete yet.
    header: Vec<u8>,
    /// The bytes that were read together with the header of a frame that exceeded the limit.
    rest: Vec<u8>,
    /// Whether a message arrived in more than one frame.
    has_fragments: bool,
}

/// The header of a frame.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    length: usize,
    payload: u64,
    is_fragment: bool,
}

impl Gate {
    /// Creates the gate of a new connection.
    pub(crate) const fn new(max_frame_size: usize) -> Self {
        Self {
            max_frame_size,
            payload_left: 0,
            is_skipping: false,
            too_large: None,
            header: Vec::new(),
            rest: Vec::new(),
            has_fragments: false,
        }
    }

    /// Returns the size of a frame that exceeded the limit, and the limit. Reading continues after this call.
    pub(crate) fn take_too_large(&mut self) -> Option<(usize, usize)> {
        Some((self.too_large.take()?, self.max_frame_size))
    }

    /// Returns whether a message arrived in more than one frame.
    pub(crate) const fn has_fragments(&self) -> bool {
        self.has_fragments
    }

    /// Reads whole headers, and payloads of frames within the limit.
    ///
    /// Returns `Pending` without registering a waker if an oversized frame has to be reported first.
    pub(crate) fn poll_read(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            if self.too_large.is_some() {
                return Poll::Pending;
            }
            let start = self.header.len();
            let Some(free) = buffer.get_mut(start..).filter(|free| !free.is_empty()) else {
                // tungstenite always has room for a whole header at the start of a frame.
                return Poll::Ready(Err(io::Error::other("no room for the header of a frame")));
            };
            let mut read = ReadBuf::new(free);
            if self.rest.is_empty() {
                ready!(Pin::new(&mut *stream).poll_read(cx, &mut read))?;
            } else {
                let length = self.rest.len().min(read.remaining());
                read.put_slice(&self.rest[..length]);
                self.rest.drain(..length);
            }
            let length = read.filled().len();
            if length == 0 {
                return Poll::Ready(Ok(0));
            }
            buffer[..start].copy_from_slice(&self.header);
            self.header.clear();
            let passed = self.pass(&mut buffer[..start + length]);
            if passed > 0 {
                return Poll::Ready(Ok(passed));
            }
        }
    }

    /// Moves the bytes that are not skipped to the start of `bytes` and returns their number.
    fn pass(&mut self, bytes: &mut [u8]) -> usize {
        let (mut at, mut passed) = (0, 0);
        while at < bytes.len() {
            let left = bytes.len() - at;
            let length = if self.payload_left > 0 {
                let length = usize::try_from(self.payload_left).map_or(left, |payload| payload.min(left));
                self.payload_left -= length as u64;
                length
            } else {
                let Some(header) = Header::parse(&bytes[at..]) else {
                    self.header.extend_from_slice(&bytes[at..]);
                    break;
                };
                self.payload_left = header.payload;
                self.has_fragments |= header.is_fragment;
                let size = usize::try_from(header.payload).unwrap_or(usize::MAX);
                self.is_skipping = size > self.max_frame_size;
                if self.is_skipping {
                    self.too_large = Some(size);
                    self.rest.splice(..0, bytes[at + header.length..].iter().copied());
                    break;
                }
                header.length
            };
            if !self.is_skipping {
                if passed < at {
                    bytes.copy_within(at..at + length, passed);
                }
                passed += length;
            }
            at += length;
        }
        passed
    }
}

impl Header {
    /// Parses the header at the start of the bytes, `None` if it is incomplete.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let [first, second, rest @ ..] = bytes else {
            return None;
        };
        let (payload, extended) = match second & 0x7F {
            126 => (u16::from_be_bytes(*rest.first_chunk()?).into(), 2),
            127 => (u64::from_be_bytes(*rest.first_chunk()?), 8),
            short => (short.into(), 0),
        };
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        let length = 2 + extended + mask;
        debug_assert!(length <= MAX_HEADER);
        let (is_final, opcode) = (first & 0x80 != 0, first & 0x0F);
        (bytes.len() >= length).then_some(Self {
            length,
            payload,
            is_fragment: opcode < 8 && (!is_final || opcode == 0),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::BufReader;

    use super::*;

    const LIMIT: usize = 300;

    fn frame(size: usize, is_masked: bool) -> Vec<u8> {
        let mask_bit = if is_masked { 0x80 } else { 0 };
        let mut frame = vec![0x81];
        match size {
            0..126 => frame.push(mask_bit | size as u8),
            126..0x1_0000 => {
                frame.push(mask_bit | 126);
                frame.extend((size as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask_bit | 127);
                frame.extend((size as u64).to_be_bytes());
            }
        }
        frame.extend(if is_masked { vec![9; 4] } else { Vec::new() });
        // The payload looks like close frames if it is parsed as headers.
        frame.extend(std::iter::repeat_n(0x88, size));
        frame
    }

    /// Reads to the end; returns the bytes that passed, and the sizes that exceeded the limit.
    fn read(bytes: &[u8], piece: usize, buffer: usize) -> (Vec<u8>, Vec<usize>) {
        let mut stream = BufReader::with_capacity(piece, bytes);
        let mut gate = Gate::new(LIMIT);
        let (mut passed, mut too_large) = (Vec::new(), Vec::new());
        let mut buffer = vec![0; buffer];
        let mut cx = Context::from_waker(std::task::Waker::noop());
        loop {
            match gate.poll_read(&mut stream, &mut cx, &mut buffer) {
                Poll::Ready(length) => match length.unwrap() {
                    0 => return (passed, too_large),
                    length => passed.extend(&buffer[..length]),
                },
                Poll::Pending => too_large.push(gate.take_too_large().expect("an oversized frame").0),
            }
        }
    }

    proptest! {
        #[test]
        fn only_oversized_frames_are_skipped(
            frames in proptest::collection::vec((prop_oneof![0usize..400, 65_530usize..65_540], any::<bool>()), 0..20),
            piece in 1usize..2000,
            buffer in MAX_HEADER..2000,
        ) {
            let (mut bytes, mut expected, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
            for (size, is_masked) in frames {
                let frame = frame(size, is_masked);
                bytes.extend(&frame);
                if size > LIMIT {
                    sizes.push(size);
                } else {
                    expected.extend(frame);
                }
            }
            prop_assert_eq!(read(&bytes, piece, buffer), (expected, sizes));
        }
    }

    #[test]
    fn fragments_of_messages_are_recognised() {
        for (bytes, expected) in [
            (&[0x81, 0][..], false),
            (&[0x89, 0], false),
            (&[0x82, 0], false),
            (&[0x01, 0], true),
            (&[0x80, 0], true),
        ] {
            assert_eq!(Header::parse(bytes).unwrap().is_fragment, expected, "{bytes:?}");
        }
    }
}
