//! A validating scanner over JSON text that does not allocate and builds no tree.
//!
//! A frame is read once: the scanner checks every byte against the JSON grammar (RFC 8259) and returns the
//! positions of the values. The text itself is passed on unchanged. Up to [`MAX_DEPTH`] the scanner accepts
//! exactly the texts that `serde_json` accepts as a raw value; a test compares them.

mod at;
pub(crate) mod scalar;

use std::borrow::Cow;

pub use self::at::{any_element, at, index};
use self::scalar::SyntaxError;

/// The maximum nesting depth. Common parsers have a similar limit, so that consumers can parse every accepted
/// frame; it also bounds the stack.
pub const MAX_DEPTH: usize = 128;

/// The position of a value in a text: byte offsets, with an exclusive end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    /// Offset of the first byte.
    pub start: u32,
    /// Offset after the last byte; equal to `start` for a missing value.
    pub end: u32,
}

impl Span {
    /// The span of a missing value.
    pub const ABSENT: Self = Self { start: 0, end: 0 };

    /// Returns whether the value is missing. No JSON value is empty, so an empty span is unambiguous.
    pub const fn is_absent(self) -> bool {
        self.start == self.end
    }

    /// Returns the part of `text` that this span covers. `None` if the value is missing or the span is
    /// outside of `text`.
    pub fn of(self, text: &str) -> Option<&str> {
        if self.is_absent() {
            None
        } else {
            text.get(self.start as usize..self.end as usize)
        }
    }
}

/// Why a text is not JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// A byte that the grammar does not allow here.
    #[error("unexpected byte 0x{found:02x} at offset {offset}, expected {expected}")]
    Unexpected {
        /// The byte.
        found: u8,
        /// Its offset.
        offset: usize,
        /// What the grammar allows.
        expected: &'static str,
    },
    /// The text ends within a value.
    #[error("the text ends at offset {offset}, expected {expected}")]
    Truncated {
        /// The length of the text.
        offset: usize,
        /// What the grammar allows.
        expected: &'static str,
    },
    /// More than [`MAX_DEPTH`] arrays and objects within one another.
    #[error("nested deeper than {MAX_DEPTH} at offset {offset}")]
    TooDeep {
        /// The offset of the bracket or brace that exceeds the limit.
        offset: usize,
    },
    /// The text is too long for offsets of 32 bits.
    #[error("{length} bytes long, more than the 4 GiB that can be addressed")]
    TooLong {
        /// The length of the text.
        length: usize,
    },
}

/// A scanner with a position in a text.
#[derive(Clone, Debug)]
pub struct Scanner<'a> {
    text: &'a str,
    position: usize,
    depth: usize,
}

impl<'a> Scanner<'a> {
    /// Creates a scanner at the beginning of `text`.
    ///
    /// # Errors
    /// [`JsonError::TooLong`] for a text whose offsets need more than 32 bits.
    pub fn new(text: &'a str) -> Result<Self, JsonError> {
        if u32::try_from(text.len()).is_err() {
            return Err(JsonError::TooLong { length: text.len() });
        }
        Ok(Self {
            text,
            position: 0,
            depth: 0,
        })
    }

    /// Returns whether the next value is an object.
    pub fn at_object(&mut self) -> bool {
        self.white_space();
        self.peek() == Some(b'{')
    }

    /// Returns whether the next value is an array.
    pub fn at_array(&mut self) -> bool {
        self.white_space();
        self.peek() == Some(b'[')
    }

    /// Reads an object and calls `member` with each key; `member` must read the value.
    ///
    /// # Errors
    /// The next value is not an object, or `member` failed.
    pub fn object<F>(&mut self, mut member: F) -> Result<Span, JsonError>
    where
        F: FnMut(&mut Self, Key<'a>) -> Result<(), JsonError>,
    {
        self.white_space();
        let start = self.position;
        self.expect(b'{', "an object")?;
        self.descend(start)?;
        self.white_space();
        if !self.eat(b'}') {
            loop {
                let key = self.key()?;
                if !self.eat(b':') {
                    self.white_space();
                    self.expect(b':', "':' after a key")?;
                }
                // Every reading method skips the white space before its value.
                member(self, key)?;
                self.white_space();
                if self.eat(b',') {
                    self.white_space();
                    continue;
                }
                self.expect(b'}', "',' or '}'")?;
                break;
            }
        }
        self.depth -= 1;
        Ok(self.span_from(start))
    }

    /// Reads an array and calls `element` for each element; `element` must read it.
    ///
    /// # Errors
    /// The next value is not an array, or `element` failed.
    pub fn array<F>(&mut self, mut element: F) -> Result<Span, JsonError>
    where
        F: FnMut(&mut Self) -> Result<(), JsonError>,
    {
        self.white_space();
        let start = self.position;
        self.expect(b'[', "an array")?;
        self.descend(start)?;
        self.white_space();
        if !self.eat(b']') {
            loop {
                element(self)?;
                self.white_space();
                if self.eat(b',') {
                    continue;
                }
                self.expect(b']', "',' or ']'")?;
                break;
            }
        }
        self.depth -= 1;
        Ok(self.span_from(start))
    }

    /// Reads any value and returns its position.
    ///
    /// # Errors
    /// There is no valid value at the position.
    pub fn value(&mut self) -> Result<Span, JsonError> {
        self.white_space();
        let start = self.position;
        match self.peek() {
            Some(b'{') => return self.object(|scanner, _| scanner.value().map(drop)),
            Some(b'[') => return self.array(|scanner| scanner.value().map(drop)),
            _ => self.scalar()?,
        }
        Ok(self.span_from(start))
    }

    /// Checks that only white space follows.
    ///
    /// # Errors
    /// Other text follows.
    pub fn end(&mut self) -> Result<(), JsonError> {
        self.white_space();
        if self.position == self.text.len() {
            Ok(())
        } else {
            Err(self.unexpected("the end of the text"))
        }
    }

    fn key(&mut self) -> Result<Key<'a>, JsonError> {
        let start = self.position;
        if self.peek() != Some(b'"') {
            return Err(self.unexpected("a key in quotes"));
        }
        let string = scalar::string(self.text.as_bytes(), start).map_err(|wrong| self.error_at(wrong))?;
        self.position = string.end;
        Ok(Key {
            quoted: &self.text[start..string.end],
            has_escape: string.has_escape,
        })
    }

    fn scalar(&mut self) -> Result<(), JsonError> {
        self.position =
            scalar::end(self.text.as_bytes(), self.position).map_err(|wrong| self.error_at(wrong))?;
        Ok(())
    }

    #[inline]
    fn white_space(&mut self) {
        // The feed has hardly any white space: usually one comparison is enough.
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.position += 1;
        }
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.position).copied()
    }

    #[inline]
    fn eat(&mut self, byte: u8) -> bool {
        let eaten = self.peek() == Some(byte);
        self.position += usize::from(eaten);
        eaten
    }

    #[inline]
    fn expect(&mut self, byte: u8, expected: &'static str) -> Result<(), JsonError> {
        if self.eat(byte) {
            Ok(())
        } else {
            Err(self.unexpected(expected))
        }
    }

    fn descend(&mut self, offset: usize) -> Result<(), JsonError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            Err(JsonError::TooDeep { offset })
        } else {
            Ok(())
        }
    }

    fn unexpected(&self, expected: &'static str) -> JsonError {
        self.error_at(SyntaxError {
            offset: self.position,
            expected,
        })
    }

    fn error_at(&self, SyntaxError { offset, expected }: SyntaxError) -> JsonError {
        match self.text.as_bytes().get(offset) {
            Some(found) => JsonError::Unexpected {
                found: *found,
                offset,
                expected,
            },
            None => JsonError::Truncated { offset, expected },
        }
    }

    fn span_from(&self, start: usize) -> Span {
        // Both offsets fit into 32 bits, because `new` rejected longer texts.
        Span {
            start: start as u32,
            end: self.position as u32,
        }
    }
}

/// A key of an object, as written in the text.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    quoted: &'a str,
    has_escape: bool,
}

impl<'a> Key<'a> {
    /// Returns the key without quotes and escapes: `"face\u005fimage"` is the same key as `"face_image"`.
    pub fn name(self) -> Cow<'a, str> {
        let inner = &self.quoted[1..self.quoted.len() - 1];
        if self.has_escape {
            return text(self.quoted).unwrap_or(Cow::Borrowed(inner));
        }
        Cow::Borrowed(inner)
    }
}

/// Returns the text of a scalar value: a string without quotes and escapes; a number, `true` or `false` as
/// written.
///
/// `None` for null, an object, an array, and for a string with an unpaired surrogate, which text cannot
/// contain.
pub fn text(value: &str) -> Option<Cow<'_, str>> {
    match value.as_bytes().first()? {
        b'"' => {
            let inner = value.get(1..value.len().checked_sub(1)?)?;
            if inner.contains('\\') {
                serde_json::from_str::<String>(value).ok().map(Cow::Owned)
            } else {
                Some(Cow::Borrowed(inner))
            }
        }
        b'{' | b'[' | b'n' => None,
        _ => Some(Cow::Borrowed(value)),
    }
}

#[cfg(test)]
mod tests;
