//! A validating scanner over JSON text that allocates nothing and builds nothing.
//!
//! A frame is read once: the scanner checks every byte against the JSON grammar (RFC 8259) and tells where the values
//! stand. The text itself goes on unchanged. Up to [`MAX_DEPTH`] it accepts exactly what `serde_json` accepts as a
//! raw value, a property that the tests hold it to.

use std::borrow::Cow;

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

    /// Goes past a value that begins right here and holds no other values.
    #[inline]
    pub(crate) fn scalar(&mut self) -> Result<(), JsonError> {
        match self.peek() {
            Some(b'"') => self.string().map(drop),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true"),
            Some(b'f') => self.word("false"),
            Some(b'n') => self.word("null"),
            _ => Err(self.unexpected("a value")),
        }
    }

    /// Goes past `text`, if that is what stands here.
    #[inline]
    pub(crate) fn skip(&mut self, text: &[u8]) -> bool {
        let is_there = self.text.as_bytes()[self.position..].starts_with(text);
        if is_there {
            self.position += text.len();
        }
        is_there
    }

    /// How far it has come.
    pub(crate) const fn position(&self) -> u32 {
        // Fits: `new` refused a longer text.
        self.position as u32
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
        let has_escape = self.string()?;
        Ok(Key {
            quoted: &self.text[start..self.position],
            has_escape,
        })
    }

    /// At a quotation mark: goes past the string.
    fn string(&mut self) -> Result<bool, JsonError> {
        let mut has_escape = false;
        let bytes = self.text.as_bytes();
        let mut position = self.position + 1;
        loop {
            position = end_of_plain(bytes, position);
            match bytes.get(position) {
                Some(b'"') => {
                    self.position = position + 1;
                    return Ok(has_escape);
                }
                Some(b'\\') => {
                    has_escape = true;
                    position = self.escape(position)?;
                }
                found => {
                    self.position = position;
                    return Err(match found {
                        Some(_) => self.unexpected("no control character within a string"),
                        None => self.unexpected("'\"' at the end of a string"),
                    });
                }
            }
        }
    }

    /// At a backslash: the position after the escape.
    fn escape(&mut self, backslash: usize) -> Result<usize, JsonError> {
        let bytes = self.text.as_bytes();
        match bytes.get(backslash + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(backslash + 2),
            Some(b'u') => {
                for offset in backslash + 2..backslash + 6 {
                    if !bytes.get(offset).is_some_and(u8::is_ascii_hexdigit) {
                        self.position = offset;
                        return Err(self.unexpected("four hexadecimal digits"));
                    }
                }
                Ok(backslash + 6)
            }
            _ => {
                self.position = backslash + 1;
                Err(self.unexpected("one of \" \\ / b f n r t u after a backslash"))
            }
        }
    }

    fn number(&mut self) -> Result<(), JsonError> {
        self.eat(b'-');
        match self.peek() {
            Some(b'0') => self.position += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return Err(self.unexpected("a digit")),
        }
        if self.eat(b'.') {
            self.at_least_one_digit()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.position += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.position += 1;
            }
            self.at_least_one_digit()?;
        }
        Ok(())
    }

    fn at_least_one_digit(&mut self) -> Result<(), JsonError> {
        if !self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            return Err(self.unexpected("a digit"));
        }
        self.digits();
        Ok(())
    }

    fn digits(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.position += 1;
        }
    }

    fn word(&mut self, word: &'static str) -> Result<(), JsonError> {
        let rest = &self.text.as_bytes()[self.position..];
        if rest.starts_with(word.as_bytes()) {
            self.position += word.len();
            return Ok(());
        }
        let common = rest
            .iter()
            .zip(word.as_bytes())
            .take_while(|(found, expected)| found == expected)
            .count();
        self.position += common;
        Err(self.unexpected(word))
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
        match self.peek() {
            Some(found) => JsonError::Unexpected {
                found,
                offset: self.position,
                expected,
            },
            None => JsonError::Truncated {
                offset: self.position,
                expected,
            },
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

/// The offset of the first byte at or after `position` that a string can't hold as it is.
fn end_of_plain(bytes: &[u8], mut position: usize) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES << 7;
    while let Some((word, _)) = bytes
        .get(position..)
        .and_then(|rest| rest.split_first_chunk::<8>())
    {
        let word = u64::from_le_bytes(*word);
        let quote = word ^ (ONES * b'"' as u64);
        let backslash = word ^ (ONES * b'\\' as u64);
        let special = (quote.wrapping_sub(ONES) & !quote
            | backslash.wrapping_sub(ONES) & !backslash
            | word.wrapping_sub(ONES * 0x20) & !word)
            & HIGH;
        if special != 0 {
            return position + (special.trailing_zeros() / 8) as usize;
        }
        position += 8;
    }
    let special = |byte: &u8| *byte == b'"' || *byte == b'\\' || *byte < 0x20;
    bytes[position.min(bytes.len())..]
        .iter()
        .position(special)
        .map_or(bytes.len(), |offset| position + offset)
}

#[cfg(test)]
mod tests;
