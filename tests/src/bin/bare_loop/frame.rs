//! Extracts the required fields of a frame by text search, without a JSON parser.

use std::fmt::Write as _;

/// The `source` attribute of an event, in the bridge's format.
pub(crate) const SOURCE: &str = "/neuroio/main";

/// A spool id, the prefix of each sequence.
pub(crate) const SPOOL: &str = "019af0a0-0000-7000-8000-000000000000";
/// An epoch of the spool, with a realistic number of digits.
pub(crate) const EPOCH: u64 = 1_795_751_676_024_000;

/// Finds the fields in frames of one simulator.
pub(crate) struct Finders {
    id: Finder,
    created: Finder,
    result: Finder,
    person: Finder,
    data: Finder,
    space: Finder,
    camera: Finder,
    kind: String,
    sequence: String,
}

impl Finders {
    pub(crate) fn new() -> Self {
        Self {
            id: Finder::new("\"id\":"),
            created: Finder::new("\"created\":\""),
            result: Finder::new("\"result\":\""),
            person: Finder::new("\"pid\":\""),
            data: Finder::new("\"data\":"),
            space: Finder::new("\"space\":{\"id\":"),
            camera: Finder::new("\"source\":{\"id\":"),
            kind: String::new(),
            sequence: String::new(),
        }
    }

    pub(crate) fn id<'f>(&mut self, frame: &'f str) -> &'f str {
        self.id.after(frame).map(digits).unwrap_or_default()
    }

    pub(crate) fn person<'f>(&mut self, frame: &'f str) -> Option<&'f str> {
        self.person.after(frame).map(until_quote)
    }

    /// Returns the JSON of the entry.
    pub(crate) fn data<'f>(&mut self, frame: &'f str) -> Option<&'f str> {
        let data = self.data.after(frame)?;
        Some(data.strip_suffix('}').unwrap_or(data))
    }

    /// Returns the subject of the entry.
    pub(crate) fn subject(&mut self, frame: &str) -> String {
        let space = self.space.after(frame).map(digits).unwrap_or_default();
        let camera = self.camera.after(frame).map(digits).unwrap_or_default();
        let result = self.result.after(frame).map(until_quote).unwrap_or("unknown");
        let mut subject = String::with_capacity(64);
        // Writing to a string cannot fail.
        let _ = write!(subject, "neuroio.entries.{space}.{camera}.{result}");
        subject
    }

    /// Returns the six CloudEvents attributes as names and values.
    pub(crate) fn attributes<'a>(&'a mut self, frame: &'a str, number: u64) -> [(&'static str, &'a str); 6] {
        let id = self.id(frame);
        self.kind.clear();
        self.kind.push_str("com.neuroio.entry.");
        self.kind
            .push_str(self.result.after(frame).map(until_quote).unwrap_or("unknown"));
        self.sequence.clear();
        // Writing to a string cannot fail.
        let _ = write!(self.sequence, "{SPOOL}:{number:020}");
        let time = self.created.after(frame).map(until_quote).unwrap_or_default();
        [
            ("specversion", "1.0"),
            ("id", id),
            ("source", SOURCE),
            ("type", &self.kind),
            ("time", time),
            ("sequence", &self.sequence),
        ]
    }
}

/// Finds a text that is at nearly the same position in every frame.
struct Finder {
    word: &'static str,
    last: usize,
}

impl Finder {
    fn new(word: &'static str) -> Self {
        Self { word, last: 0 }
    }

    /// Returns the rest of the frame after the text.
    fn after<'f>(&mut self, frame: &'f str) -> Option<&'f str> {
        if let Some(rest) = frame
            .get(self.last..)
            .and_then(|rest| rest.strip_prefix(self.word))
        {
            return Some(rest);
        }
        self.last = frame.find(self.word)?;
        Some(&frame[self.last + self.word.len()..])
    }
}

fn digits(text: &str) -> &str {
    &text[..text.bytes().take_while(u8::is_ascii_digit).count()]
}

fn until_quote(text: &str) -> &str {
    text.split('"').next().unwrap_or(text)
}
