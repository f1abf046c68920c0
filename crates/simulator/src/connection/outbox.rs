//! The frames that wait to be written to a socket. An outbox reports the events of each frame as sent when the socket has
//! accepted the last byte of the frame.

use std::ops::RangeInclusive;

use crate::{
    entries::Entries,
    platform::Platform,
    wire::{Opcode, push_close, push_frame, push_frame_with},
};

/// The number of bytes that are generated before a write: large enough to amortise the system call, small enough for the
/// cache of a core.
pub(super) const BATCH_BYTES: usize = 64 * 1024;

/// A write buffer that is divided into frames.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    frames: Vec<Frame>,
    /// The number of bytes that the socket accepted.
    written: usize,
    /// The number of frames that were reported as sent.
    reported: usize,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    /// The position of the payload in the buffer.
    payload: usize,
    /// The position after the frame in the buffer.
    end: usize,
    content: Content,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Content {
    /// The events of a range of positions: one entry of NeuroIO, or the events in a frame of a declared feed.
    Events { first: u64, last: u64 },
    /// A copy of an entry that was sent before, unchanged or with another body.
    Copy,
    /// No event: an answer, an error, or a malformed frame.
    Other,
}

impl Outbox {
    /// Returns whether the socket accepted all bytes.
    pub(super) fn is_done(&self) -> bool {
        self.written == self.bytes.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= BATCH_BYTES
    }

    /// Returns the bytes that the socket has not accepted yet.
    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    /// Clears the buffer, which must have been written completely.
    pub(super) fn reset(&mut self) {
        debug_assert!(self.is_done(), "frames would be lost");
        self.bytes.clear();
        self.frames.clear();
        self.written = 0;
        self.reported = 0;
    }

    pub(super) fn push(&mut self, opcode: Opcode, payload: &[u8]) {
        let place = push_frame(&mut self.bytes, opcode, payload);
        self.frames.push(Frame {
            payload: place.start,
            end: place.end,
            content: Content::Other,
        });
    }

    pub(super) fn push_json(&mut self, json: &serde_json::Value) {
        self.push(Opcode::Text, json.to_string().as_bytes());
    }

    /// Appends the entry at a position, in its usual size or padded to `bytes` bytes.
    pub(super) fn push_entry(&mut self, entries: &Entries, position: u64, bytes: Option<usize>) {
        let content = Content::Events {
            first: position,
            last: position,
        };
        match bytes {
            None => self.push_event(content, Opcode::Text, entries.frame_bytes_hint(), |out| {
                entries.write_frame(position, out)
            }),
            Some(bytes) => self.push_event(content, Opcode::Text, bytes, |out| {
                entries.write_frame_of_size(position, bytes, out)
            }),
        }
    }

    /// Appends a frame of a declared feed with the events of a range.
    pub(super) fn push_events(&mut self, opcode: Opcode, frame: &str, numbers: RangeInclusive<u64>) {
        let content = Content::Events {
            first: *numbers.start(),
            last: *numbers.end(),
        };
        self.push_event(content, opcode, frame.len(), |out| {
            out.extend_from_slice(frame.as_bytes())
        });
    }

    /// Appends a copy of a frame of a declared feed.
    pub(super) fn push_frame_copy(&mut self, opcode: Opcode, frame: &str) {
        self.push_event(Content::Copy, opcode, frame.len(), |out| {
            out.extend_from_slice(frame.as_bytes())
        });
    }

    /// Appends a copy of an entry that was sent before.
    pub(super) fn push_copy(&mut self, entries: &Entries, position: u64) {
        self.push_event(Content::Copy, Opcode::Text, entries.frame_bytes_hint(), |out| {
            entries.write_frame(position, out)
        });
    }

    /// Appends an entry that was sent before, with the same id and another body; `variant`, from 1, selects the body.
    pub(super) fn push_variant(&mut self, entries: &Entries, position: u64, variant: u64) {
        self.push_event(Content::Copy, Opcode::Text, entries.frame_bytes_hint(), |out| {
            entries.write_variant(position, variant, out)
        });
    }

    fn push_event(
        &mut self,
        content: Content,
        opcode: Opcode,
        expected: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let place = push_frame_with(&mut self.bytes, opcode, expected, write);
        self.frames.push(Frame {
            payload: place.start,
            end: place.end,
            content,
        });
    }

    /// Drops the frames of which the socket has accepted no byte, and appends a close frame.
    pub(super) fn close(&mut self, code: u16, reason: &str) {
        let complete = self.frames.partition_point(|frame| frame.end <= self.written);
        let (frames, bytes) = match self.frames.get(complete) {
            // A partly written frame has to be completed.
            Some(frame) if self.begin_of(complete) < self.written => (complete + 1, frame.end),
            _ => (complete, self.written),
        };
        self.frames.truncate(frames);
        self.bytes.truncate(bytes);
        push_close(&mut self.bytes, code, reason);
    }

    fn begin_of(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |before| self.frames[before].end)
    }

    /// Records bytes that the socket accepted. For each frame that is now completely written, marks its events as sent, counts the
    /// frame, and writes it to the journal: an event only if no connection has sent it before, and a deliberate copy always
    /// (copies of a declared feed never).
    pub(super) fn advance(&mut self, bytes: usize, connection: u64, platform: &Platform) {
        self.written += bytes;
        let through = self.frames[self.reported..].partition_point(|frame| frame.end <= self.written);
        let frames = &self.frames[self.reported..self.reported + through];
        self.reported += through;
        let mut sent_frames = 0;
        // Ranges of consecutive positions, almost always the whole batch, are reported in one call.
        for run in frames.chunk_by(|one, next| follows(one.content, next.content)) {
            match (run[0].content, run[run.len() - 1].content) {
                (Content::Other, _) => continue,
                (Content::Events { first, .. }, Content::Events { last, .. }) => {
                    // The positions that no connection had sent before.
                    let fresh = platform.mark_sent(connection, first..=last);
                    let is_fresh = |position: u64| fresh.iter().any(|range| range.contains(&position));
                    match &platform.declared {
                        Some(service) if platform.journal.is_active() => {
                            let numbers = fresh.into_iter().flatten();
                            let lines: Vec<String> = numbers.map(|number| service.record(number)).collect();
                            platform.journal.write(lines.iter().map(String::as_bytes));
                        }
                        Some(_) => {}
                        None => platform.journal.write(
                            run.iter()
                                .filter(|frame| {
                                    matches!(frame.content, Content::Events { first, .. } if is_fresh(first))
                                })
                                .map(|frame| &self.bytes[frame.payload..frame.end]),
                        ),
                    }
                }
                // The journal of a declared feed contains each event once, so copies are not written.
                _ if platform.declared.is_some() => {}
                _ => platform
                    .journal
                    .write(run.iter().map(|frame| &self.bytes[frame.payload..frame.end])),
            }
            sent_frames += run.len() as u64;
        }
        if sent_frames > 0 {
            platform.count_frames(sent_frames);
        }
    }
}

fn follows(one: Content, next: Content) -> bool {
    match (one, next) {
        (Content::Events { last, .. }, Content::Events { first, .. }) => first == last + 1,
        (one, next) => one == next,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn close_keeps_only_the_partly_written_frame() {
        let entries = Entries::new(1, None, Duration::ZERO, None);
        let mut outbox = Outbox::default();
        for id in 1..=3 {
            outbox.push_entry(&entries, id, None);
        }
        let (first, second) = (outbox.frames[0].end, outbox.frames[1].end);

        outbox.written = first;
        outbox.close(1000, "");
        assert_eq!(outbox.rest(), b"\x88\x02\x03\xe8");

        let mut outbox = Outbox::default();
        for id in 1..=3 {
            outbox.push_entry(&entries, id, None);
        }
        outbox.written = first + 1;
        outbox.close(1000, "");
        assert_eq!(outbox.rest().len(), second - first - 1 + 4);
    }
}
