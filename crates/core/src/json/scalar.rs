//! Scans the values that contain no other values: strings, numbers, and the words `true`, `false` and `null`.
//!
//! Every function takes a position and returns the next one in a register, instead of updating a field in memory:
//! an event consists mostly of consecutive scalars, and the scan of each would wait until the position after the
//! previous one is stored and loaded. For the same reason [`fast_end`] returns no error: a result with an error
//! does not fit into a register.

use wide::u8x16;

/// A syntax error: its offset, and what the grammar allows there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    pub(crate) offset: usize,
    pub(crate) expected: &'static str,
}

/// A scanned string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quoted {
    /// The position after the closing quotation mark.
    pub(crate) end: usize,
    pub(crate) has_escape: bool,
}

/// Returns the end of a common value: a string without escapes, a number without an exponent. `None` for any
/// other value: [`end`] decides.
#[inline]
pub(crate) fn fast_end(bytes: &[u8], position: usize) -> Option<usize> {
    match bytes.get(position)? {
        b'"' => {
            let plain = end_of_plain(bytes, position + 1);
            (bytes.get(plain) == Some(&b'"')).then_some(plain + 1)
        }
        b'-' | b'0'..=b'9' => {
            let integer = position + usize::from(bytes[position] == b'-');
            let mut end = end_of_digits(bytes, integer);
            if end == integer || end > integer + 1 && bytes[integer] == b'0' {
                return None;
            }
            if bytes.get(end) == Some(&b'.') {
                let fraction = end + 1;
                end = end_of_digits(bytes, fraction);
                if end == fraction {
                    return None;
                }
            }
            (!matches!(bytes.get(end), Some(b'e' | b'E'))).then_some(end)
        }
        _ => None,
    }
}

/// Returns the end of the scalar that begins at `position`.
pub(crate) fn end(bytes: &[u8], position: usize) -> Result<usize, SyntaxError> {
    match bytes.get(position) {
        Some(b'"') => string(bytes, position).map(|string| string.end),
        Some(b'-' | b'0'..=b'9') => number(bytes, position),
        Some(b't') => word(bytes, position, "true"),
        Some(b'f') => word(bytes, position, "false"),
        Some(b'n') => word(bytes, position, "null"),
        _ => wrong(position, "a value"),
    }
}

/// Reads the string whose opening quotation mark is at `position`.
#[inline]
pub(crate) fn string(bytes: &[u8], position: usize) -> Result<Quoted, SyntaxError> {
    let plain = end_of_plain(bytes, position + 1);
    if bytes.get(plain) == Some(&b'"') {
        return Ok(Quoted {
            end: plain + 1,
            has_escape: false,
        });
    }
    string_with_escapes(bytes, plain)
}

/// Scans the rest of a string, from the first byte that is an escape or an error.
#[inline(never)]
fn string_with_escapes(bytes: &[u8], mut position: usize) -> Result<Quoted, SyntaxError> {
    loop {
        position = match bytes.get(position) {
            Some(b'"') => {
                return Ok(Quoted {
                    end: position + 1,
                    has_escape: true,
                });
            }
            Some(b'\\') => end_of_plain(bytes, escape(bytes, position)?),
            Some(_) => return wrong(position, "no control character within a string"),
            None => return wrong(position, "'\"' at the end of a string"),
        };
    }
}

/// Returns the position after the escape whose backslash is at `position`.
fn escape(bytes: &[u8], position: usize) -> Result<usize, SyntaxError> {
    match bytes.get(position + 1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(position + 2),
        Some(b'u') => {
            let is_digit = |offset: &usize| bytes.get(*offset).is_some_and(u8::is_ascii_hexdigit);
            match (position + 2..position + 6).find(|offset| !is_digit(offset)) {
                Some(offset) => wrong(offset, "four hexadecimal digits"),
                None => Ok(position + 6),
            }
        }
        _ => wrong(position + 1, "one of \" \\ / b f n r t u after a backslash"),
    }
}

fn number(bytes: &[u8], position: usize) -> Result<usize, SyntaxError> {
    let integer = position + usize::from(bytes[position] == b'-');
    let mut position = match bytes.get(integer) {
        Some(b'0') => integer + 1,
        _ => digits(bytes, integer)?,
    };
    if bytes.get(position) == Some(&b'.') {
        position = digits(bytes, position + 1)?;
    }
    if matches!(bytes.get(position), Some(b'e' | b'E')) {
        let sign = matches!(bytes.get(position + 1), Some(b'+' | b'-'));
        position = digits(bytes, position + 1 + usize::from(sign))?;
    }
    Ok(position)
}

/// Returns the end of the digits at `position`; at least one is required.
fn digits(bytes: &[u8], position: usize) -> Result<usize, SyntaxError> {
    let end = end_of_digits(bytes, position);
    if end == position {
        return wrong(position, "a digit");
    }
    Ok(end)
}

/// Returns the end of the digits at `position`. Checks one digit after the other: numbers are short, and the
/// processor predicts their length and continues speculatively.
#[inline]
fn end_of_digits(bytes: &[u8], position: usize) -> usize {
    let mut end = position;
    while bytes.get(end).is_some_and(u8::is_ascii_digit) {
        end += 1;
    }
    end
}

fn word(bytes: &[u8], position: usize, word: &'static str) -> Result<usize, SyntaxError> {
    let rest = &bytes[position..];
    if rest.starts_with(word.as_bytes()) {
        return Ok(position + word.len());
    }
    let is_same = |(found, expected): &(&u8, &u8)| found == expected;
    let common = rest.iter().zip(word.as_bytes()).take_while(is_same).count();
    wrong(position + common, word)
}

/// Returns the offset of the first byte at or after `position` that cannot be an unescaped character of a
/// string.
#[inline]
pub(super) fn end_of_plain(bytes: &[u8], mut position: usize) -> usize {
    while let Some((block, _)) = bytes
        .get(position..)
        .and_then(|rest| rest.split_first_chunk::<16>())
    {
        let found = specials(*block);
        if found != 0 {
            return position + found.trailing_zeros() as usize;
        }
        position += 16;
    }
    let is_special = |byte: &u8| *byte == b'"' || *byte == b'\\' || *byte < 0x20;
    bytes[position.min(bytes.len())..]
        .iter()
        .position(is_special)
        .map_or(bytes.len(), |offset| position + offset)
}

/// Returns a bit for each byte that cannot be an unescaped character of a string; the lowest bit is for the
/// first byte.
#[inline]
fn specials(block: [u8; 16]) -> u32 {
    let block = u8x16::new(block);
    let quote = block.simd_eq(u8x16::splat(b'"'));
    let backslash = block.simd_eq(u8x16::splat(b'\\'));
    let control = block.min(u8x16::splat(0x1f)).simd_eq(block);
    (quote | backslash | control).to_bitmask()
}

#[cold]
const fn wrong<T>(offset: usize, expected: &'static str) -> Result<T, SyntaxError> {
    Err(SyntaxError { offset, expected })
}
