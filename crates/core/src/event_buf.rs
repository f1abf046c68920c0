//! An event whose frame was changed: values replaced by redaction or left out because of their size.

use crate::{
    event::Event,
    json::{JsonError, Span},
    positions::PositionsBuf,
};

/// The frame of an event after changes, and the positions of its fields in it. The buffers are reused from one event to
/// the next.
#[derive(Debug, Default)]
pub struct EventBuf {
    frame: String,
    positions: PositionsBuf,
    /// The replaced values, in the order of the frame. No value is within another.
    edits: Vec<Edit>,
}

/// A replaced value.
#[derive(Clone, Copy, Debug)]
struct Edit {
    /// The value in the original frame.
    from: Span,
    /// Its replacement in the new frame.
    to: Span,
}

impl EventBuf {
    /// Returns the changed event. All attributes except the frame and the positions are those of the original event.
    pub fn event<'a>(&'a self, original: &Event<'a>) -> Event<'a> {
        Event {
            positions: self.positions.positions(),
            frame: &self.frame,
            ..*original
        }
    }

    /// Returns the number of bytes that the buffer of the frame occupies.
    pub const fn capacity(&self) -> usize {
        self.frame.capacity()
    }

    /// Clears the buffer of the frame and reduces it to a capacity.
    pub fn shrink_to(&mut self, capacity: usize) {
        self.frame.clear();
        self.frame.shrink_to(capacity);
    }

    /// Clears the buffers, to change another frame.
    pub(crate) fn begin(&mut self) {
        self.frame.clear();
        self.edits.clear();
    }

    /// Replaces a value of `frame` by the text that `replacement` appends. Values are replaced in the order of the frame.
    pub(crate) fn replace(&mut self, frame: &str, value: Span, replacement: impl FnOnce(&mut String)) {
        self.frame.push_str(&frame[self.copied()..value.start as usize]);
        let start = self.end();
        replacement(&mut self.frame);
        self.edits.push(Edit {
            from: value,
            to: Span {
                start,
                end: self.end(),
            },
        });
    }

    /// Completes the change of the event's frame. Returns the changed event; the event itself if nothing was replaced.
    ///
    /// # Errors
    /// The frame has become too long for positions of 32 bits.
    pub(crate) fn finish<'a>(&'a mut self, event: &Event<'a>) -> Result<Event<'a>, JsonError> {
        if self.edits.is_empty() {
            return Ok(*event);
        }
        self.frame.push_str(&event.frame[self.copied()..]);
        if u32::try_from(self.frame.len()).is_err() {
            return Err(JsonError::TooLong {
                length: self.frame.len(),
            });
        }
        let Self { positions, edits, .. } = self;
        positions.set_shifted(event.positions, |span| shifted(edits, span));
        Ok(self.event(event))
    }

    /// Returns the length of the part of the original frame that was copied or replaced.
    fn copied(&self) -> usize {
        self.edits.last().map_or(0, |edit| edit.from.end as usize)
    }

    /// Returns the length of the new frame. A length of more than 32 bits is truncated; [`finish`](Self::finish) rejects such a
    /// frame.
    fn end(&self) -> u32 {
        self.frame.len() as u32
    }
}

/// Returns the position in the new frame of a value that was at `span`; missing if it was within a replaced value.
fn shifted(edits: &[Edit], span: Span) -> Span {
    if span.is_absent() {
        return span;
    }
    // The last edit that begins at or before the value.
    let at = edits.partition_point(|edit| edit.from.start <= span.start);
    if let Some(edit) = at.checked_sub(1).map(|index| edits[index])
        && span.end <= edit.from.end
    {
        return if span == edit.from { edit.to } else { Span::ABSENT };
    }
    Span {
        start: moved(edits, span.start),
        end: moved(edits, span.end),
    }
}

/// Returns the offset in the new frame of text that is not within a replaced value.
fn moved(edits: &[Edit], offset: u32) -> u32 {
    match edits
        .partition_point(|edit| edit.from.end <= offset)
        .checked_sub(1)
    {
        Some(last) => edits[last].to.end + (offset - edits[last].from.end),
        None => offset,
    }
}
