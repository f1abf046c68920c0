//! Text from outside (feed, proxy, brokers, HTTP, events), made safe for a log line, `/status` and a terminal.
//!
//! Characters that control a terminal, break a line, change the text direction, or are invisible are written
//! as escapes (`\n`, `\u{1b}`): a reader sees them, and they have no effect.

use std::{borrow::Cow, fmt::Write};

/// The maximum length of foreign text that is shown, in characters; an ellipsis replaces the rest. Enough for
/// a sentence.
pub const MAX_CHARS: usize = 200;

/// Returns `text` with its unsafe characters escaped, of at most [`MAX_CHARS`] characters.
pub fn clean(text: &str) -> String {
    clean_to(text, MAX_CHARS)
}

/// Returns `text` with its unsafe characters escaped, of at most `max_chars` characters and an ellipsis. No escape is cut.
pub fn clean_to(text: &str, max_chars: usize) -> String {
    let (mut cleaned, mut length) = (String::new(), 0);
    let mut piece = String::new();
    for c in text.chars() {
        piece.clear();
        push_escaped(c, &mut piece);
        // An escape is ASCII, and anything else is one character.
        let added = if is_unsafe(c) { piece.len() } else { 1 };
        if length + added > max_chars {
            cleaned.push('…');
            break;
        }
        cleaned.push_str(&piece);
        length += added;
    }
    cleaned
}

/// Returns the whole of `text` with its unsafe characters escaped.
pub fn escape(text: &str) -> Cow<'_, str> {
    escape_except(text, |_| false)
}

/// As [`escape`], for text of several lines: line breaks and tabs stay.
pub fn escape_lines(text: &str) -> Cow<'_, str> {
    escape_except(text, |c| matches!(c, '\n' | '\t'))
}

/// Returns the whole of `text` with its unsafe characters escaped, except those that `keep` accepts.
pub fn escape_except(text: &str, keep: impl Fn(char) -> bool) -> Cow<'_, str> {
    let is_escaped = |c: char| is_unsafe(c) && !keep(c);
    if !text.contains(is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_escaped(c) {
            push_escaped(c, &mut escaped);
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

/// Returns whether a character must not be shown as it is: control characters, separators of lines and paragraphs,
/// controls of the text direction, and characters without a width or a glyph.
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

fn push_escaped(c: char, out: &mut String) {
    // Writing to a string cannot fail.
    let _ = match c {
        '\n' => out.write_str("\\n"),
        '\r' => out.write_str("\\r"),
        '\t' => out.write_str("\\t"),
        c if is_unsafe(c) => write!(out, "\\u{{{:x}}}", u32::from(c)),
        c => out.write_char(c),
    };
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn unsafe_characters_are_escaped() {
        assert_eq!(
            clean("a\u{1b}[2J\r\nb\tc\u{7f}\u{9b}d\u{202e}e\u{2028}f\u{200b}g\u{feff}"),
            "a\\u{1b}[2J\\r\\nb\\tc\\u{7f}\\u{9b}d\\u{202e}e\\u{2028}f\\u{200b}g\\u{feff}"
        );
        assert_eq!(escape_lines("a\nb\tc\u{1b}\u{2066}"), "a\nb\tc\\u{1b}\\u{2066}");
    }

    #[test]
    fn ordinary_text_is_unchanged() {
        for text in ["", "Tür 入口 \"x\\n\"", "emoji 🎉"] {
            assert_eq!(clean(text), text);
            assert!(matches!(escape(text), Cow::Borrowed(_)));
        }
    }

    #[test]
    fn long_text_is_cut_outside_of_escapes() {
        assert_eq!(clean(&"ü".repeat(1000)).chars().count(), MAX_CHARS + 1);
        assert_eq!(clean_to("abc\u{1b}d", 5), "abc…");
        assert_eq!(clean_to("abc", 3), "abc");
    }

    proptest! {
        #[test]
        fn cleaned_text_is_escaped_and_bounded(text in "(\\PC|\\pC|[\\x00-\\x20\u{202a}-\u{202e}\u{2028}\u{200b}]){0,80}", most in 0usize..90) {
            let cleaned = clean_to(&text, most);
            prop_assert!(!cleaned.contains(is_unsafe), "{cleaned:?}");
            prop_assert!(cleaned.chars().count() <= most + 1);
            prop_assert_eq!(escape(&cleaned), cleaned.as_str());
        }
    }
}
