//! The elements of the array of events in a frame.

use neurobridge_core::json::{self, Span};

/// The maximum number of elements of a frame; each may become a dead letter.
const MAX_ELEMENTS: usize = 65_536;
/// The maximum number of bytes of the frame around the array, counted once for each element.
const MAX_REPEATED_BYTES: usize = 64 * 1024 * 1024;

/// The array of events in a frame.
pub(crate) struct Elements<'a> {
    /// The text of the array.
    array: &'a str,
    /// The position of the array in the frame.
    at: Span,
    count: usize,
}

impl<'a> Elements<'a> {
    /// Counts the elements of the array at a position; `None` if the value there is no array.
    pub(crate) fn at(frame: &'a str, at: Span) -> Option<Self> {
        let array = at.of(frame).filter(|array| array.starts_with('['))?;
        let mut count = 0;
        json::any_element(array, |_| {
            count += 1;
            false
        });
        Some(Self { array, at, count })
    }

    /// Returns whether the texts of all elements fit into the memory that one frame may need: each text contains the frame
    /// around the array.
    pub(crate) fn are_bounded(&self, frame: &str) -> bool {
        let around = frame.len() - self.array.len();
        self.count <= MAX_ELEMENTS && self.count.saturating_mul(around) <= MAX_REPEATED_BYTES
    }

    /// Calls `each` for each element, with the frame reduced to this element of the array, and the position of the element in
    /// the reduced frame.
    pub(crate) fn each(&self, frame: &str, scratch: &mut String, mut each: impl FnMut(&str, Span)) {
        let (head, tail) = (&frame[..self.at.start as usize], &frame[self.at.end as usize..]);
        json::any_element(self.array, |element| {
            if self.count == 1 {
                each(frame, span(frame, element));
                return false;
            }
            scratch.clear();
            for part in [head, "[", element, "]", tail] {
                scratch.push_str(part);
            }
            let start = self.at.start + 1;
            // The reduced frame is shorter than the frame, whose length fits into 32 bits.
            let end = start + element.len() as u32;
            each(scratch, Span { start, end });
            false
        });
    }
}

/// Returns the position of a part of a text.
fn span(text: &str, part: &str) -> Span {
    // Both are parts of one allocation, and a text of more than 4 GiB is not read as JSON.
    let start = (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize) as u32;
    Span {
        start,
        end: start + part.len() as u32,
    }
}
