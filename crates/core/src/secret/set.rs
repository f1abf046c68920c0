//! Removes secrets from text that a server sends back.

use std::{
    borrow::Cow,
    collections::{HashSet, VecDeque},
    fmt,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use secrecy::{ExposeSecret, SecretString};

use super::REDACTED;
use crate::foreign_text;

/// The length of the pieces of a secret that are searched for. A shorter piece occurs in ordinary words, and
/// does not help to guess the rest.
const PIECE_BYTES: usize = 8;

/// The minimum length of a secret that is hidden. A shorter secret, made up for a trial, may occur in ordinary words;
/// hiding such words would disclose the secret.
const MIN_SECRET_BYTES: usize = 6;

/// The maximum number of stored secrets. A source uses fewer at a time; secrets that were replaced stay until newer
/// secrets need the space.
const MAX_SECRETS: usize = 32;

/// The maximum length of a text that is searched; the rest is not shown. [`foreign_text::MAX_CHARS`] characters need
/// less, including their escapes, unless most of the text is hidden.
const MAX_SEARCHED_BYTES: usize = 8 * 1024;

/// The maximum depth of nested escapes: a gateway may quote JSON within JSON.
const MAX_DEPTH: usize = 3;

/// The secrets of a source, which must not be shown when a server repeats them. Clones share the set.
#[derive(Clone, Default)]
pub struct SecretSet(Arc<Mutex<VecDeque<SecretString>>>);

impl SecretSet {
    /// Adds a secret, unless it is too short to be hidden. Must be called before the secret is sent. Removes the oldest
    /// secret if there are too many.
    pub fn add(&self, secret: &str) {
        if secret.len() < MIN_SECRET_BYTES {
            return;
        }
        let mut secrets = self.lock();
        secrets.retain(|known| known.expose_secret() != secret);
        if secrets.len() == MAX_SECRETS {
            secrets.pop_front();
        }
        secrets.push_back(secret.into());
    }

    /// Returns a foreign text that may be shown: without any piece of 8 or more bytes of a secret, cleaned
    /// and shortened as by [`foreign_text::clean`].
    pub fn clean(&self, text: &str) -> String {
        self.clean_to(text, foreign_text::MAX_CHARS)
    }

    /// As [`clean`](Self::clean), of at most `max_chars` characters.
    pub fn clean_to(&self, text: &str, max_chars: usize) -> String {
        let searched = &text[..text.floor_char_boundary(MAX_SEARCHED_BYTES)];
        let redacted = self.redact(searched);
        if searched.len() == text.len() {
            return foreign_text::clean_to(&redacted, max_chars);
        }
        foreign_text::clean_to(&(redacted.into_owned() + "…"), max_chars)
    }

    /// Replaces each piece of a secret in `text`, also if it is escaped as in JSON or in a URL.
    fn redact<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let secrets = self.lock();
        let pieces = Pieces::of(&secrets);
        let hidden = hidden_ranges(text, &pieces);
        if hidden.is_empty() {
            return Cow::Borrowed(text);
        }
        let (mut redacted, mut copied) = (String::with_capacity(text.len()), 0);
        for range in hidden {
            redacted.push_str(&text[copied..range.start]);
            redacted.push_str(REDACTED);
            copied = range.end;
        }
        redacted.push_str(&text[copied..]);
        Cow::Owned(redacted)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<SecretString>> {
        // Nothing within the lock can panic half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SecretSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

/// The parts of secrets that are searched for.
struct Pieces<'s> {
    /// All pieces of [`PIECE_BYTES`] of long secrets; longer pieces consist of these.
    long: HashSet<&'s [u8]>,
    /// Shorter secrets, searched as a whole.
    short: Vec<&'s [u8]>,
}

impl<'s> Pieces<'s> {
    fn of(secrets: &'s VecDeque<SecretString>) -> Self {
        let all = || secrets.iter().map(|secret| secret.expose_secret().as_bytes());
        Self {
            long: all().flat_map(|secret| secret.windows(PIECE_BYTES)).collect(),
            short: all().filter(|secret| secret.len() < PIECE_BYTES).collect(),
        }
    }

    /// Calls `found` with each range of `bytes` to hide.
    fn find(&self, bytes: &[u8], mut found: impl FnMut(Range<usize>)) {
        for (at, window) in bytes.windows(PIECE_BYTES).enumerate() {
            if self.long.contains(window) {
                found(at..at + PIECE_BYTES);
            }
        }
        for secret in &self.short {
            for (at, window) in bytes.windows(secret.len()).enumerate() {
                if window == *secret {
                    found(at..at + secret.len());
                }
            }
        }
    }
}

/// Returns the ranges of `text` that contain pieces, in order and not overlapping.
fn hidden_ranges(text: &str, pieces: &Pieces<'_>) -> Vec<Range<usize>> {
    if pieces.long.is_empty() && pieces.short.is_empty() {
        return Vec::new();
    }
    let mut is_hidden = vec![false; text.len()];
    let mut views = vec![View::of(text)];
    for depth in 0..=MAX_DEPTH {
        for view in &views {
            pieces.find(&view.bytes, |range| {
                let (from, to) = (view.sources[range.start].start, view.sources[range.end - 1].end);
                is_hidden[from as usize..to as usize].fill(true);
            });
        }
        if depth < MAX_DEPTH {
            views = views
                .iter()
                .flat_map(|view| [view.decoded(json_escape), view.decoded(percent_escape)])
                .flatten()
                .collect();
        }
    }
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for (at, c) in text.char_indices() {
        let char_range = at..at + c.len_utf8();
        if !is_hidden[char_range.clone()].contains(&true) {
            continue;
        }
        match ranges.last_mut() {
            Some(last) if last.end == at => last.end = char_range.end,
            _ => ranges.push(char_range),
        }
    }
    ranges
}

/// A text with some of its escapes decoded.
struct View {
    bytes: Vec<u8>,
    /// For each byte, the bytes of the text that it was decoded from.
    sources: Vec<Range<u32>>,
}

impl View {
    fn of(text: &str) -> Self {
        Self {
            bytes: text.as_bytes().to_vec(),
            // At most a few KiB of a text are searched.
            sources: (0..text.len() as u32).map(|at| at..at + 1).collect(),
        }
    }

    /// Decodes the escapes that `escape` recognises; `None` if there are none. `escape` returns the length of
    /// the escape at the start of its argument, and the decoded character or byte.
    fn decoded(&self, escape: fn(&[u8]) -> Option<(usize, Decoded)>) -> Option<Self> {
        let mut view = Self {
            bytes: Vec::with_capacity(self.bytes.len()),
            sources: Vec::with_capacity(self.bytes.len()),
        };
        let mut at = 0;
        while at < self.bytes.len() {
            let mut buffer = [0; 4];
            let (length, decoded) = match escape(&self.bytes[at..]) {
                Some((length, Decoded::Char(c))) => (length, c.encode_utf8(&mut buffer).as_bytes()),
                Some((length, Decoded::Byte(byte))) => {
                    buffer[0] = byte;
                    (length, &buffer[..1])
                }
                None => (1, &self.bytes[at..=at]),
            };
            let source = self.sources[at].start..self.sources[at + length - 1].end;
            view.bytes.extend_from_slice(decoded);
            view.sources.resize(view.bytes.len(), source);
            at += length;
        }
        (view.bytes.len() < self.bytes.len()).then_some(view)
    }
}

enum Decoded {
    Char(char),
    Byte(u8),
}

/// Recognises an escape of JSON, or one in the format in which programs print text (`\u{1b}`, `\x1b`).
fn json_escape(bytes: &[u8]) -> Option<(usize, Decoded)> {
    let [b'\\', kind, rest @ ..] = bytes else {
        return None;
    };
    let byte = |byte| Some((2, Decoded::Byte(byte)));
    match kind {
        b'"' | b'\\' | b'/' | b'\'' => byte(*kind),
        b'b' => byte(8),
        b'f' => byte(12),
        b'n' => byte(b'\n'),
        b'r' => byte(b'\r'),
        b't' => byte(b'\t'),
        b'x' => Some((4, Decoded::Byte(u8::try_from(hex(rest.get(..2)?)?).ok()?))),
        b'u' if rest.first() == Some(&b'{') => {
            let end = rest.iter().take(8).position(|byte| *byte == b'}')?;
            let c = char::from_u32(hex(rest.get(1..end)?)?)?;
            Some((end + 3, Decoded::Char(c)))
        }
        b'u' => {
            let unit = hex(rest.get(..4)?)?;
            if let Some(c) = char::from_u32(unit) {
                return Some((6, Decoded::Char(c)));
            }
            let low = rest.get(4..)?.strip_prefix(b"\\u")?.get(..4).and_then(hex)?;
            let units = [u16::try_from(unit).ok()?, u16::try_from(low).ok()?];
            let c = char::decode_utf16(units).next()?.ok()?;
            Some((12, Decoded::Char(c)))
        }
        _ => None,
    }
}

/// Recognises an escape of a URL.
fn percent_escape(bytes: &[u8]) -> Option<(usize, Decoded)> {
    let [b'%', high, low, ..] = bytes else {
        return None;
    };
    let byte = u8::try_from(hex(&[*high, *low])?).ok()?;
    Some((3, Decoded::Byte(byte)))
}

fn hex(digits: &[u8]) -> Option<u32> {
    // `from_str_radix` would accept a sign.
    let is_hex = !digits.is_empty() && digits.iter().all(u8::is_ascii_hexdigit);
    let digits = str::from_utf8(digits).ok().filter(|_| is_hex)?;
    u32::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(secrets: &[&str]) -> SecretSet {
        let set = SecretSet::default();
        secrets.iter().for_each(|secret| set.add(secret));
        set
    }

    /// Returns the longest piece of `secret` in `text`, after any decoding.
    fn longest_piece(text: &str, secret: &str) -> usize {
        let mut views = vec![View::of(text)];
        let mut longest = 0;
        for _ in 0..=MAX_DEPTH {
            for view in &views {
                for length in 1..=secret.len() {
                    let found = secret
                        .as_bytes()
                        .windows(length)
                        .any(|piece| view.bytes.windows(length).any(|window| window == piece));
                    if !found {
                        break;
                    }
                    longest = longest.max(length);
                }
            }
            views = views
                .iter()
                .flat_map(|view| [view.decoded(json_escape), view.decoded(percent_escape)])
                .flatten()
                .collect();
        }
        longest
    }

    #[test]
    fn secret_in_a_text_is_redacted_in_every_encoding() {
        let set = set(&["Zm9v/YmFyK/2J+hei9", "s3cret"]);
        for (text, expected) in [
            ("bad Zm9v/YmFyK/2J+hei9!", "bad [redacted]!"),
            ("bad Zm9v\\/YmFyK\\/2J+hei9!", "bad [redacted]!"),
            ("bad Zm9v%2FYmFyK%2f2J%2Bhei9!", "bad [redacted]!"),
            ("bad Zm9v\\\\/YmFyK\\\\/2J+hei9!", "bad [redacted]!"),
            ("bad \\u005am9v\\u002fYmFyK!", "bad [redacted]!"),
            ("the middle: YmFyK/2J", "the middle: [redacted]"),
            ("too short: YmFyK/2", "too short: YmFyK/2"),
            ("s3cret, s3cre", "[redacted], s3cre"),
            ("nothing \\u00 % \\", "nothing \\u00 % \\"),
        ] {
            assert_eq!(set.clean(text), expected, "{text}");
        }
    }

    #[test]
    fn text_is_searched_before_it_is_cut() {
        let secret = "secret-token-0123456789";
        let set = set(&[secret]);
        for before in 150..220 {
            let cleaned = set.clean(&("x".repeat(before) + secret));
            // If the text were cut first, it could end with a piece of the secret that is too short to be found.
            assert!(!cleaned.contains("sec"), "{before}: {cleaned}");
        }
        let long = "0123456789".repeat(900);
        let cleaned = self::set(&[&long]).clean(&long);
        assert_eq!(cleaned, "[redacted]…");
    }

    #[test]
    fn replaced_secrets_are_remembered_up_to_a_bound() {
        let set = SecretSet::default();
        for number in 0..=MAX_SECRETS {
            set.add(&format!("secret-number-{number:03}"));
            set.add("stays-in-use");
        }
        assert_eq!(set.clean("stays-in-use"), REDACTED);
        assert_eq!(set.lock().len(), MAX_SECRETS);
    }

    /// Escapes some characters of a text.
    fn escaped(text: &str, ways: &[u8]) -> String {
        text.chars()
            .zip(ways.iter().cycle())
            .map(|(c, way)| match way {
                0 => serde_json::to_string(&c.to_string())
                    .unwrap()
                    .trim_matches('"')
                    .to_owned(),
                1 => c
                    .encode_utf16(&mut [0; 2])
                    .iter()
                    .map(|unit| format!("\\u{unit:04X}"))
                    .collect(),
                2 => c
                    .encode_utf8(&mut [0; 4])
                    .bytes()
                    .map(|byte| format!("%{byte:02x}"))
                    .collect(),
                3 if c == '/' => "\\/".to_owned(),
                _ if c == '"' => "\\\"".to_owned(),
                _ if c == '\\' => "\\\\".to_owned(),
                _ => c.to_string(),
            })
            .collect()
    }

    proptest! {
        #[test]
        fn cleaned_text_contains_no_long_part_of_a_secret(
            secret in "[!-~üß入🎉]{8,60}",
            before in "[ -$&-\\[\\]-~]{0,40}", after in "[ -~]{0,40}",
            ways in proptest::collection::vec(0u8..8, 1..12), wrapped: bool,
            start in 0usize..60, cut in 0usize..400,
        ) {
            // If the secret contains a percent sign or a backslash, the text can be decoded in several ways.
            let mixes = ways.contains(&2) && ways.iter().any(|way| *way != 2);
            let secret = if mixes { secret.replace(['%', '\\'], "x") } else { secret };
            prop_assume!(!secret.contains("redacted"));
            let part = &secret[secret.floor_char_boundary(start.min(secret.len()))..];
            let mut text = escaped(part, &ways);
            if wrapped {
                text = serde_json::to_string(&text).unwrap();
            }
            let text = format!("{before}{text}{after}");
            let text = &text[..text.floor_char_boundary(cut)];
            let cleaned = set(&[&secret]).clean_to(text, 120);
            prop_assert!(longest_piece(&cleaned, &secret) < PIECE_BYTES, "{text} -> {cleaned}");
        }
    }
}
