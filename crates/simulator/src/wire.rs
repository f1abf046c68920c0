//! Encoding and decoding of WebSocket frames (RFC 6455) on the server's side.
//!
//! The simulator does not use a library for frames, because the faults need frames that no library produces, and because
//! events are generated directly in the socket's buffer without a copy of each event.

use std::ops::Range;

use thiserror::Error;

/// The longest message accepted from a client, in bytes. The messages of the public clients have a few hundred bytes.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// The frame types that the simulator sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opcode {
    Text = 0x1,
    Binary = 0x2,
    Close = 0x8,
    Ping = 0x9,
    Pong = 0xa,
}

/// Appends an unmasked frame and returns the range of its payload.
pub(crate) fn push_frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) -> Range<usize> {
    push_header(out, opcode, payload.len());
    let start = out.len();
    out.extend_from_slice(payload);
    start..out.len()
}

/// Appends a frame whose payload `write` produces in place. The header is sized for a payload of about `expected`
/// bytes; the payload is moved only if its length needs a header of another size.
pub(crate) fn push_frame_with(
    out: &mut Vec<u8>,
    opcode: Opcode,
    expected: usize,
    write: impl FnOnce(&mut Vec<u8>),
) -> Range<usize> {
    let frame = out.len();
    push_header(out, opcode, expected);
    let payload = out.len();
    write(out);
    let length = out.len() - payload;
    let (header, size) = header(opcode, length);
    if size == payload - frame {
        out[frame..payload].copy_from_slice(&header[..size]);
    } else {
        out.splice(frame..payload, header[..size].iter().copied());
    }
    frame + size..out.len()
}

/// Appends a close frame with any code, including codes that RFC 6455 does not allow.
pub(crate) fn push_close(out: &mut Vec<u8>, code: u16, reason: &str) {
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(reason.as_bytes());
    // The payload of a control frame has at most 125 bytes.
    payload.truncate(125);
    push_frame(out, Opcode::Close, &payload);
}

fn push_header(out: &mut Vec<u8>, opcode: Opcode, length: usize) {
    let (header, size) = header(opcode, length);
    out.extend_from_slice(&header[..size]);
}

fn header(opcode: Opcode, length: usize) -> ([u8; 10], usize) {
    const FINAL: u8 = 0x80;
    let mut header = [0; 10];
    header[0] = FINAL | opcode as u8;
    let size = match length {
        0..=125 => {
            header[1] = length as u8;
            2
        }
        126..=0xffff => {
            header[1] = 126;
            header[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            4
        }
        _ => {
            header[1] = 127;
            header[2..].copy_from_slice(&(length as u64).to_be_bytes());
            10
        }
    };
    (header, size)
}

/// A message from a client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Text(String),
    Binary,
    Ping(Vec<u8>),
    Pong,
    /// A close frame, with its code if it has one.
    Close(Option<u16>),
}

/// A violation of the WebSocket protocol by a client.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum ReadError {
    #[error("the client's frame is not masked")]
    NotMasked,
    #[error("the client's frame has the reserved opcode {0:#x} or reserved bits")]
    Reserved(u8),
    #[error("the client's control frame is fragmented or longer than 125 bytes")]
    Control,
    #[error("the client sent an unexpected continuation frame, or began a message inside another")]
    Continuation,
    #[error("the client's message is longer than {MAX_MESSAGE_BYTES} bytes")]
    TooLong,
    #[error("the client's text is not UTF-8")]
    NotUtf8,
}

impl ReadError {
    /// Returns the close code for this violation (RFC 6455, 7.4.1).
    pub(crate) fn close_code(&self) -> u16 {
        match self {
            Self::TooLong => 1009,
            Self::NotUtf8 => 1007,
            _ => 1002,
        }
    }
}

/// Splits a client's bytes into messages.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    bytes: Vec<u8>,
    /// The opcode of a fragmented message and its payload so far.
    begun: Option<(u8, Vec<u8>)>,
}

impl Decoder {
    /// Creates a decoder that starts with the bytes read after the upgrade request.
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, begun: None }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Returns the next complete message, or `None` if more bytes are needed.
    pub(crate) fn next(&mut self) -> Result<Option<Message>, ReadError> {
        loop {
            let Some((first, payload)) = self.next_frame()? else {
                return Ok(None);
            };
            let (is_final, opcode) = (first & 0x80 != 0, first & 0x0f);
            if opcode >= 0x8 {
                return control(opcode, payload).map(Some);
            }
            let (opcode, payload) = match (opcode, self.begun.take()) {
                (0x0, Some((begun, mut so_far))) => {
                    so_far.extend_from_slice(&payload);
                    (begun, so_far)
                }
                (0x1 | 0x2, None) => (opcode, payload),
                (0x0..=0x2, _) => return Err(ReadError::Continuation),
                _ => return Err(ReadError::Reserved(opcode)),
            };
            if payload.len() > MAX_MESSAGE_BYTES {
                return Err(ReadError::TooLong);
            }
            if !is_final {
                self.begun = Some((opcode, payload));
                continue;
            }
            return match opcode {
                0x1 => String::from_utf8(payload)
                    .map(Message::Text)
                    .map_err(|_| ReadError::NotUtf8),
                _ => Ok(Message::Binary),
            }
            .map(Some);
        }
    }

    fn next_frame(&mut self) -> Result<Option<(u8, Vec<u8>)>, ReadError> {
        let [first, second, rest @ ..] = self.bytes.as_slice() else {
            return Ok(None);
        };
        let (first, second) = (*first, *second);
        if first & 0x70 != 0 {
            return Err(ReadError::Reserved(first));
        }
        if second & 0x80 == 0 {
            return Err(ReadError::NotMasked);
        }
        let (length, extended) = match second & 0x7f {
            126 => match rest.first_chunk::<2>() {
                Some(length) => (u64::from(u16::from_be_bytes(*length)), 2),
                None => return Ok(None),
            },
            127 => match rest.first_chunk::<8>() {
                Some(length) => (u64::from_be_bytes(*length), 8),
                None => return Ok(None),
            },
            length => (u64::from(length), 0),
        };
        if first & 0x08 != 0 && (length > 125 || first & 0x80 == 0) {
            return Err(ReadError::Control);
        }
        let length = match usize::try_from(length) {
            Ok(length) if length <= MAX_MESSAGE_BYTES => length,
            _ => return Err(ReadError::TooLong),
        };
        let payload = 2 + extended + 4;
        if self.bytes.len() < payload + length {
            return Ok(None);
        }
        let mask = &self.bytes[payload - 4..payload];
        let unmasked = self.bytes[payload..payload + length]
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask)
            .collect();
        self.bytes.drain(..payload + length);
        Ok(Some((first, unmasked)))
    }
}

fn control(opcode: u8, payload: Vec<u8>) -> Result<Message, ReadError> {
    match opcode {
        0x8 => Ok(Message::Close(
            payload.first_chunk::<2>().map(|code| u16::from_be_bytes(*code)),
        )),
        0x9 => Ok(Message::Ping(payload)),
        0xa => Ok(Message::Pong),
        _ => Err(ReadError::Reserved(opcode)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        push_header(&mut frame, Opcode::Text, payload.len());
        frame[0] = first;
        frame[1] |= 0x80;
        let mask = [0x1d, 0xc3, 0x05, 0xf0];
        frame.extend_from_slice(&mask);
        frame.extend(
            payload
                .iter()
                .zip(mask.iter().cycle())
                .map(|(byte, mask)| byte ^ mask),
        );
        frame
    }

    #[test]
    fn short_text_and_close_have_exact_bytes() {
        let mut out = Vec::new();
        assert_eq!(push_frame(&mut out, Opcode::Text, b"{}"), 2..4);
        push_close(&mut out, 102, "bye");
        assert_eq!(out, [&b"\x81\x02{}"[..], b"\x88\x05\x00\x66bye"].concat());
    }

    #[test]
    fn protocol_violations_are_reported() {
        let read = |bytes: Vec<u8>| Decoder::new(bytes).next();
        assert_eq!(read(vec![0x81, 0x00]), Err(ReadError::NotMasked));
        assert_eq!(read(masked(0xc1, b"x")), Err(ReadError::Reserved(0xc1)));
        assert_eq!(read(masked(0x09, b"x")), Err(ReadError::Control));
        assert_eq!(read(masked(0x80, b"x")), Err(ReadError::Continuation));
        assert_eq!(
            read(masked(0x81, &vec![b'x'; MAX_MESSAGE_BYTES + 1])),
            Err(ReadError::TooLong)
        );
        assert_eq!(read(masked(0x81, b"\xff")), Err(ReadError::NotUtf8));
    }

    #[test]
    fn ping_between_fragments_is_decoded_first() {
        let mut decoder =
            Decoder::new([masked(0x01, b"ab"), masked(0x89, b"!"), masked(0x80, b"cd")].concat());
        assert_eq!(decoder.next(), Ok(Some(Message::Ping(b"!".to_vec()))));
        assert_eq!(decoder.next(), Ok(Some(Message::Text("abcd".to_owned()))));
        assert_eq!(decoder.next(), Ok(None));
    }

    proptest! {
        #[test]
        fn in_place_text_equals_copied_text(length in 0_usize..70_000, expected in 0_usize..70_000) {
            let payload = vec![b'x'; length];
            let (mut plain, mut in_place) = (vec![1, 2, 3], vec![1, 2, 3]);
            let first = push_frame(&mut plain, Opcode::Text, &payload);
            let second = push_frame_with(&mut in_place, Opcode::Text, expected, |out| out.extend_from_slice(&payload));
            prop_assert_eq!(first, second);
            prop_assert!(plain == in_place);
        }

        #[test]
        fn split_input_yields_the_same_messages(texts in prop::collection::vec(".{0,200}", 0..5), piece in 1_usize..50) {
            let bytes: Vec<u8> = texts.iter().flat_map(|text| masked(0x81, text.as_bytes())).collect();
            let mut decoder = Decoder::default();
            let mut read = Vec::new();
            for piece in bytes.chunks(piece) {
                decoder.push(piece);
                while let Some(message) = decoder.next().unwrap() {
                    read.push(message);
                }
            }
            prop_assert_eq!(read, texts.into_iter().map(Message::Text).collect::<Vec<_>>());
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes: Vec<u8>) {
            let mut decoder = Decoder::new(bytes);
            while let Ok(Some(_)) = decoder.next() {}
        }
    }
}
