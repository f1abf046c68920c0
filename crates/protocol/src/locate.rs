//! The units of a frame, and the positions of an event's fields.

use neurobridge_core::json::{self, JsonError, Scanner, Span};

use crate::notation::FeedPath;

/// Checks that a text is JSON.
pub(crate) fn check(frame: &str) -> Result<(), JsonError> {
    let mut scanner = Scanner::new(frame)?;
    scanner.value()?;
    scanner.end()
}

/// Returns the positions of the values at `paths` in the text of an event, with [`Span::ABSENT`] for those that are missing.
///
/// Scans the text once for each step of each path. This is the only place that looks fields of events up.
pub(crate) fn locate(text: &str, unit: Span, paths: &[FeedPath], positions: &mut Vec<Span>) {
    let unit = unit.of(text).unwrap_or(text);
    positions.clear();
    positions.extend(paths.iter().map(|path| {
        path.of(unit, text)
            .map_or(Span::ABSENT, |value| span(text, value))
    }));
}

/// The array of the events in a frame.
pub(crate) struct Elements<'a> {
    /// The array in the frame, as written, and its position.
    array: &'a str,
    at: Span,
    count: usize,
}

impl<'a> Elements<'a> {
    /// Finds the array; `None` if the value at the path is none.
    pub(crate) fn find(frame: &'a str, path: &FeedPath) -> Option<Self> {
        // The frame around a frame is itself. White space before the first bracket belongs to no value.
        let array = path.of(frame, frame)?.trim_ascii();
        if !array.starts_with('[') {
            return None;
        }
        let mut count = 0;
        json::any_element(array, |_| {
            count += 1;
            false
        });
        Some(Self {
            array,
            at: span(frame, array),
            count,
        })
    }

    /// Calls `each` with each element: its own text, which is the frame with only that element in the array, and the position
    /// of the element in it.
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
            // Shorter than the frame, whose length fits.
            let end = start + element.len() as u32;
            each(scratch, Span { start, end });
            false
        });
    }
}

/// Returns the position of a part of a text.
fn span(text: &str, part: &str) -> Span {
    // Both are parts of one allocation, and a text of more than 4 GiB is not JSON for `check`.
    let start = (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize) as u32;
    Span {
        start,
        end: start + part.len() as u32,
    }
}
