//! The layout of a frame: the text between its values. Frames of one feed have the same keys in the same order,
//! with different values.
//!
//! Most of the time for reading a frame is spent on its keys. If the text between the values of a frame
//! equals, byte for byte, that of an earlier frame, its keys are known, and only the values have to be read.
//! Because the text between the values is that of a valid frame and every value is a valid scalar, the frame
//! is valid as well, and each field is at the same place relative to the values.

use crate::json::{JsonError, Scanner, Span, scalar};

/// The maximum number of values of a layout. The entries of NeuroIO have 25; frames with many more rarely have the
/// same layout twice.
pub(super) const MAX_VALUES: usize = 64;
/// The maximum number of bytes that a layout stores. The entries of NeuroIO have 400 bytes between their values.
pub(super) const MAX_BYTES: usize = 4096;
/// The number of bytes of a separator that are compared in one operation.
const HEAD: usize = 16;

/// The text between the values of a frame, and the places in this text at which fields begin and end.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// The separator before each value.
    before: Vec<Separator>,
    /// The text after the last value.
    after: Vec<u8>,
    /// The start and the end of each field.
    fields: Vec<Option<(Place, Place)>>,
}

/// The text between two values.
#[derive(Clone, Debug)]
struct Separator {
    /// The first bytes, padded with zeros.
    head: u128,
    /// A mask with ones for the used bytes of `head`.
    mask: u128,
    text: Vec<u8>,
}

impl Separator {
    fn of(text: &[u8]) -> Self {
        let (mut head, mut mask) = ([0; HEAD], [0; HEAD]);
        for ((head, mask), byte) in head.iter_mut().zip(&mut mask).zip(text) {
            (*head, *mask) = (*byte, u8::MAX);
        }
        Self {
            head: u128::from_ne_bytes(head),
            mask: u128::from_ne_bytes(mask),
            text: text.to_vec(),
        }
    }

    /// Returns the position after this separator, if the text at `position` equals it.
    ///
    /// A separator usually has some fifteen bytes: up to [`HEAD`] are compared in one operation, the rest
    /// afterwards.
    #[inline]
    fn end(&self, bytes: &[u8], position: usize) -> Option<usize> {
        let end = position + self.text.len();
        let rest = bytes.get(position..)?;
        let is_same = match rest.split_first_chunk::<HEAD>() {
            Some((head, rest)) => {
                (u128::from_ne_bytes(*head) ^ self.head) & self.mask == 0
                    && (self.text.len() <= HEAD || rest.starts_with(&self.text[HEAD..]))
            }
            None => rest.starts_with(&self.text),
        };
        is_same.then_some(end)
    }
}

/// A place in the text between two values.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// The index of the value that follows this text; the number of values for the text after the last one.
    text: usize,
    offset: u32,
}

impl Layout {
    /// Creates the layout of a frame whose fields are at `spans`. `None` if the layout would be too large.
    pub(super) fn of(frame: &str, spans: &[Span]) -> Option<Self> {
        let mut values = Vec::new();
        gather_values(&mut Scanner::new(frame).ok()?, &mut values).ok()?;
        if values.len() > MAX_VALUES {
            return None;
        }
        let (mut before, mut starts) = (Vec::with_capacity(values.len()), vec![0]);
        for value in &values {
            let text = frame.get(*starts.last()? as usize..value.start as usize)?;
            before.push(Separator::of(text.as_bytes()));
            starts.push(value.end);
        }
        let after = frame.get(*starts.last()? as usize..)?.as_bytes().to_vec();
        let bytes: usize = before.iter().map(|between| between.text.len()).sum();
        if bytes + after.len() > MAX_BYTES {
            return None;
        }
        // A field begins and ends where a value does, or between two values.
        let place = |offset: u32| {
            let text = starts.partition_point(|start| *start <= offset).checked_sub(1)?;
            Some(Place {
                text,
                offset: offset - starts[text],
            })
        };
        let mut fields = vec![None; spans.len()];
        for (field, span) in fields.iter_mut().zip(spans) {
            if !span.is_absent() {
                *field = Some((place(span.start)?, place(span.end)?));
            }
        }
        Some(Self {
            before,
            after,
            fields,
        })
    }

    /// Writes the positions of the fields of a frame with this layout. Returns false for another layout; then the
    /// positions are unchanged.
    pub(super) fn read(&self, frame: &str, spans: &mut [Span]) -> bool {
        // Offsets have 32 bits.
        if u32::try_from(frame.len()).is_err() {
            return false;
        }
        let bytes = frame.as_bytes();
        let mut starts = [0; MAX_VALUES + 1];
        let mut position = 0;
        for (start, between) in starts.iter_mut().zip(&self.before) {
            *start = position as u32;
            let Some(value) = between.end(bytes, position) else {
                return false;
            };
            position = match scalar::fast_end(bytes, value) {
                Some(end) => end,
                None => match scalar::end(bytes, value) {
                    Ok(end) => end,
                    Err(_) => return false,
                },
            };
        }
        starts[self.before.len()] = position as u32;
        if bytes.get(position..) != Some(&self.after) {
            return false;
        }
        let place = |place: Place| starts[place.text] + place.offset;
        for (span, field) in spans.iter_mut().zip(&self.fields) {
            *span = field.map_or(Span::ABSENT, |(start, end)| Span {
                start: place(start),
                end: place(end),
            });
        }
        true
    }
}

/// Collects the positions of all scalar values.
fn gather_values(scanner: &mut Scanner<'_>, values: &mut Vec<Span>) -> Result<(), JsonError> {
    if scanner.at_object() {
        scanner.object(|scanner, _| gather_values(scanner, values))?;
    } else if scanner.at_array() {
        scanner.array(|scanner| gather_values(scanner, values))?;
    } else {
        values.push(scanner.value()?);
    }
    Ok(())
}
