//! Keeps each log entry on one line, whatever foreign text it contains.

use std::io::{self, Write};

use neurobridge_core::foreign_text;
use tracing_subscriber::fmt::MakeWriter;

/// Escapes the characters in each entry that are unsafe by [`foreign_text`]. ESC is left unchanged: tracing escapes it in
/// values, so the remaining ones are the colour sequences of this program.
pub(super) struct OneLine<W> {
    pub(super) writer: W,
    /// Whether entries are JSON; then the escapes are JSON escapes.
    pub(super) is_json: bool,
}

impl<'w, W: MakeWriter<'w>> MakeWriter<'w> for OneLine<W> {
    type Writer = OneLineWriter<W::Writer>;

    fn make_writer(&'w self) -> Self::Writer {
        OneLineWriter {
            writer: self.writer.make_writer(),
            is_json: self.is_json,
        }
    }

    fn make_writer_for(&'w self, metadata: &tracing::Metadata<'_>) -> Self::Writer {
        OneLineWriter {
            writer: self.writer.make_writer_for(metadata),
            is_json: self.is_json,
        }
    }
}

pub(super) struct OneLineWriter<W> {
    writer: W,
    is_json: bool,
}

impl<W: Write> Write for OneLineWriter<W> {
    /// Writes one entry. The layer writes each entry with one call, including its line break.
    fn write(&mut self, entry: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(entry);
        let line = text.strip_suffix('\n').unwrap_or(&text);
        let mut escaped = if self.is_json {
            json_escaped(line)
        } else {
            foreign_text::escape_except(line, |c| c == '\u{1b}').into_owned()
        };
        escaped.push_str(&text[line.len()..]);
        self.writer.write_all(escaped.as_bytes())?;
        Ok(entry.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Escapes unsafe characters in JSON. Non-ASCII characters occur only in strings, and control characters are escaped
/// already.
fn json_escaped(line: &str) -> String {
    let mut escaped = String::with_capacity(line.len() + 1);
    for c in line.chars() {
        if foreign_text::is_unsafe(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                escaped.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            escaped.push(c);
        }
    }
    escaped
}
