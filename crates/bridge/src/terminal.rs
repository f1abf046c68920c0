//! Terminal properties and formatting: colours, size and column widths.

use std::{
    borrow::Cow,
    env,
    io::{self, IsTerminal},
};

use terminal_size::{Height, Width};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// The size assumed for a terminal that does not report one.
const DEFAULT_SIZE: (usize, usize) = (80, 24);

/// A colour, or bold or faint text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Bold,
    Dim,
    Red,
    Green,
    Yellow,
    Blue,
    Magenta,
    Cyan,
}

impl Style {
    const fn code(self) -> u8 {
        match self {
            Self::Bold => 1,
            Self::Dim => 2,
            Self::Red => 31,
            Self::Green => 32,
            Self::Yellow => 33,
            Self::Blue => 34,
            Self::Magenta => 35,
            Self::Cyan => 36,
        }
    }
}

/// Adds colour sequences to texts, or returns texts unchanged if colours are off.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    colours: bool,
}

impl Paint {
    #[cfg(test)]
    pub(crate) const PLAIN: Self = Self { colours: false };

    /// Enables colours if the stream supports them; see [`colours`].
    pub(crate) fn of(stream: &impl IsTerminal) -> Self {
        Self {
            colours: colours(stream),
        }
    }

    pub(crate) fn paint(self, style: Style, text: &str) -> Cow<'_, str> {
        if self.colours && !text.is_empty() {
            Cow::Owned(format!("\x1b[{}m{text}\x1b[0m", style.code()))
        } else {
            Cow::Borrowed(text)
        }
    }
}

/// A line of styled parts that is cut to a width when it is rendered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line {
    parts: Vec<(Option<Style>, String)>,
}

impl Line {
    pub(crate) fn text(mut self, text: impl Into<String>) -> Self {
        self.parts.push((None, text.into()));
        self
    }

    pub(crate) fn styled(mut self, style: impl Into<Option<Style>>, text: impl Into<String>) -> Self {
        self.parts.push((style.into(), text.into()));
        self
    }

    /// Returns the number of columns of the uncut line.
    pub(crate) fn columns(&self) -> usize {
        self.parts.iter().map(|(_, text)| columns(text)).sum()
    }

    /// Returns the part of the line that fits, without a line break and without trailing blanks.
    pub(crate) fn render(&self, width: usize, paint: Paint) -> String {
        let (mut line, mut blanks, mut left) = (String::new(), 0, width);
        for (style, text) in &self.parts {
            let part = fit(text, left);
            left -= columns(&part);
            let painted = part.trim_end_matches(' ');
            if !painted.is_empty() {
                line.extend(std::iter::repeat_n(' ', blanks));
                blanks = 0;
                match style {
                    Some(style) => line.push_str(&paint.paint(*style, painted)),
                    None => line.push_str(painted),
                }
            }
            blanks += part.len() - painted.len();
            if part.len() < text.len() {
                break;
            }
        }
        line
    }
}

/// Returns whether to use colours on a stream: on a terminal, unless `NO_COLOR` is set and not empty
/// (<https://no-color.org>) or `TERM` is `dumb`.
pub(crate) fn colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal()
        && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && env::var_os("TERM").is_none_or(|value| value != "dumb")
}

/// Returns the columns and rows of the terminal at standard output.
pub(crate) fn size() -> (usize, usize) {
    match terminal_size::terminal_size_of(io::stdout()) {
        Some((Width(columns), Height(rows))) if columns > 0 && rows > 0 => {
            (usize::from(columns), usize::from(rows))
        }
        _ => DEFAULT_SIZE,
    }
}

/// Returns the columns of a stream's terminal, or the default line width for other streams.
pub(crate) fn width_of(stream: &impl std::os::fd::AsFd) -> usize {
    match terminal_size::terminal_size_of(stream) {
        Some((Width(columns), _)) if columns > 0 => usize::from(columns),
        _ => 100,
    }
}

/// Returns the number of columns of a text.
pub(crate) fn columns(text: &str) -> usize {
    text.width()
}

/// Cuts a text to a number of columns; an ellipsis replaces the rest.
pub(crate) fn fit(text: &str, max: usize) -> Cow<'_, str> {
    if columns(text) <= max {
        return Cow::Borrowed(text);
    }
    let mut taken = 0;
    let mut fitting: String = text
        .chars()
        .take_while(|c| {
            taken += c.width().unwrap_or(0);
            taken < max
        })
        .collect();
    if max > 0 {
        fitting.push('…');
    }
    Cow::Owned(fitting)
}

/// Cuts or pads a text to exactly this number of columns.
pub(crate) fn pad(text: &str, width: usize) -> String {
    let fitting = fit(text, width);
    let blanks = width.saturating_sub(columns(&fitting));
    format!("{fitting}{}", " ".repeat(blanks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_to_a_number_of_columns() {
        assert_eq!(fit("short", 5), "short");
        assert_eq!(fit("longer", 5), "long…");
        // Wide characters take two columns each, and none is cut in half.
        assert_eq!(fit("入口入口", 5), "入口…");
        assert_eq!(fit("入口入口", 4), "入…");
        assert_eq!(columns(&pad("入口入口", 6)), 6);
        assert_eq!(pad("a", 3), "a  ");
        assert_eq!(fit("x", 0), "");
    }

    #[test]
    fn line_is_cut_at_its_width() {
        let line = Line::default()
            .text("ab ")
            .styled(Style::Red, "cd ")
            .text("")
            .text("efg  ");
        assert_eq!(line.columns(), 11);
        assert_eq!(line.render(20, Paint::PLAIN), "ab cd efg");
        assert_eq!(line.render(8, Paint::PLAIN), "ab cd e…");
        assert_eq!(
            line.render(5, Paint { colours: true }),
            "ab \u{1b}[31mc…\u{1b}[0m"
        );
        assert_eq!(line.render(0, Paint::PLAIN), "");
    }

    #[test]
    fn text_is_unchanged_without_colours() {
        assert_eq!(Paint::PLAIN.paint(Style::Red, "x"), "x");
        assert_eq!(
            Paint { colours: true }.paint(Style::Red, "x"),
            "\u{1b}[31mx\u{1b}[0m"
        );
        assert_eq!(Paint { colours: true }.paint(Style::Red, ""), "");
    }
}
