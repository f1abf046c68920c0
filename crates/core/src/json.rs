//! A validating scanner over JSON text that allocates nothing and builds nothing.
//!
//! A frame is read once: the scanner checks every byte against the JSON grammar (RFC 8259) and tells where the values
//! stand. The text itself goes on unchanged. Up to [`MAX_DEPTH`] it accepts exactly what `serde_json` accepts as a
//! raw value, a property that the tests hold it to.

pub(crate) mod scalar;

use std::borrow::Cow;

use self::scalar::Wrong;

/// The deepest nesting accepted. Common parsers stop at about this depth, so that whoever reads our output can; and it
/// bounds the stack.
pub const MAX_DEPTH: usize = 128;

/// Where a value stands in a text: byte offsets, the end exclusive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    /// Offset of the first byte.
    pub start: u32,
    /// Offset after the last byte; equal to `start` when there is no value.
    pub end: u32,
}

impl Span {
    /// The span of a value that is not there.
    pub const ABSENT: Self = Self { start: 0, end: 0 };

    /// Whether there is no value. No JSON value is empty, so an empty span can mean nothing else.
    pub const fn is_absent(self) -> bool {
        self.start == self.end
    }

    /// The part of `text` that this span covers, `None` when absent or not within `text`.
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
        /// Where the one too many opens.
        offset: usize,
    },
    /// Offsets are kept in 32 bits.
    #[error("{length} bytes long, more than the 4 GiB that can be addressed")]
    TooLong {
        /// The length of the text.
        length: usize,
    },
}

/// The scanner: a position in a text.
#[derive(Clone, Debug)]
pub struct Scanner<'a> {
    text: &'a str,
    position: usize,
    depth: usize,
}

impl<'a> Scanner<'a> {
    /// Starts at the beginning of `text`.
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

    /// Whether the next value is an object.
    pub fn at_object(&mut self) -> bool {
        self.white_space();
        self.peek() == Some(b'{')
    }

    /// Whether the next value is an array.
    pub fn at_array(&mut self) -> bool {
        self.white_space();
        self.peek() == Some(b'[')
    }

    /// Reads an object, calling `member` with each key; `member` must read the value.
    ///
    /// # Errors
    /// What stands here is no object, or `member` failed.
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
                // Whatever reads a value goes past the white space before it.
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

    /// Reads an array, calling `element` for each element; `element` must read it.
    ///
    /// # Errors
    /// What stands here is no array, or `element` failed.
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

    /// Reads any value and tells where it stands.
    ///
    /// # Errors
    /// What stands here is no JSON value.
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

    /// Checks that nothing but white space follows.
    ///
    /// # Errors
    /// Something else follows.
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
        let string = scalar::string(self.text.as_bytes(), start).map_err(|wrong| self.told(wrong))?;
        self.position = string.end;
        Ok(Key {
            quoted: &self.text[start..string.end],
            has_escape: string.has_escape,
        })
    }

    fn scalar(&mut self) -> Result<(), JsonError> {
        self.position = scalar::end(self.text.as_bytes(), self.position).map_err(|wrong| self.told(wrong))?;
        Ok(())
    }

    #[inline]
    fn white_space(&mut self) {
        // The feed has hardly any: one comparison mostly.
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
        self.told(Wrong {
            offset: self.position,
            expected,
        })
    }

    fn told(&self, Wrong { offset, expected }: Wrong) -> JsonError {
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
        // Both fit: `new` refused a longer text.
        Span {
            start: start as u32,
            end: self.position as u32,
        }
    }
}

/// A key of an object, as it stands in the text.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    quoted: &'a str,
    has_escape: bool,
}

impl<'a> Key<'a> {
    /// The key without quotes and escapes: `"face\u005fimage"` is the same key as `"face_image"`.
    pub fn name(self) -> Cow<'a, str> {
        let inner = &self.quoted[1..self.quoted.len() - 1];
        if self.has_escape {
            return text(self.quoted).unwrap_or(Cow::Borrowed(inner));
        }
        Cow::Borrowed(inner)
    }
}

/// The text of a scalar value: a string without quotes and escapes; a number, `true` or `false` as written.
///
/// `None` for null, an object, an array, and for a string with half a surrogate pair, which no text can hold.
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
