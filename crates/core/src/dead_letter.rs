//! Dead letters: what could not be delivered, and why, kept where a person can find it.

use std::{collections::VecDeque, fmt::Write, future::Future, io, pin::Pin};

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    event::{Event, Sequence},
    foreign_text,
    identity::{self, SpoolId},
};

/// The longest detail of a dead letter, in characters.
const MAX_DETAIL_CHARS: usize = 2000;

/// A place for dead letters outside of a sink: a file of JSON lines.
pub trait DeadLetters: Send + Sync + 'static {
    /// Stores lines, each with its line break, durably; the future ends when they are.
    ///
    /// # Errors
    /// They are not stored, or not all of them.
    fn store<'a>(&'a self, lines: &'a str) -> Pin<Box<dyn Future<Output = io::Result<()>> + Send + 'a>>;

    /// Returns how many dead letters were not kept because there were too many of them. Storing them succeeded nevertheless:
    /// whoever writes what cannot be delivered is not to fill a disk.
    fn not_kept(&self) -> u64 {
        0
    }
}

/// A dead letter of a sink.
#[derive(Clone, Debug)]
pub struct DeadLetter<'a> {
    /// The event's place in the spool.
    pub sequence: Sequence,
    /// One JSON object on one line, without a line break.
    pub json: &'a str,
}

/// A dead letter as anybody may see it: nothing in it comes out of the event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Notice {
    /// When it was stored.
    pub at: Timestamp,
    /// The kind of reason, as it stands in the letter.
    pub reason: &'static str,
    /// By which the letter is found: the event's place in the spool, where it has one.
    pub sequence: Option<Sequence>,
}

/// The newest dead letters of a source or a sink, a bounded number of them.
#[derive(Clone, Debug, Default)]
pub struct Newest(VecDeque<Notice>);

impl Newest {
    /// Enough to see whether they have one cause.
    pub const KEPT: usize = 8;

    /// Takes one up; the oldest goes when there are too many.
    pub fn push(&mut self, notice: Notice) {
        if self.0.len() == Self::KEPT {
            self.0.pop_back();
        }
        self.0.push_front(notice);
    }

    /// Those that are kept, the newest first.
    pub fn iter(&self) -> impl Iterator<Item = &Notice> {
        self.0.iter()
    }
}

/// Appends an event's dead letter as one JSON object on one line. Without its body (`with_event` false) where the
/// body is too large even for the place of the dead letters.
pub fn write_event(
    event: &Event<'_>,
    spool: &SpoolId,
    sink: &str,
    reason: &str,
    detail: &str,
    with_event: bool,
    out: &mut String,
) {
    let mut id = String::new();
    identity::write_identity(event, spool, &mut id);
    write_head(reason, detail, event.source, event.received_at, event.frame, out);
    // Writing to a string cannot fail.
    let _ = write!(
        out,
        ",\"sink\":{},\"id\":{},\"sequence\":{}",
        quoted(sink),
        quoted(&id),
        event.sequence
    );
    if with_event {
        out.push_str(",\"event\":");
        crate::cloudevents::push_one_line(event.frame, out);
    }
    out.push('}');
}

/// Appends the dead letter of a frame that is no event, as one JSON object on one line. `with_frame` only where
/// nothing is to be redacted: what can't be parsed can't be redacted either.
pub fn write_frame(
    source: &str,
    received_at: Timestamp,
    reason: &str,
    detail: &str,
    frame: &str,
    with_frame: bool,
    out: &mut String,
) {
    write_head(reason, detail, source, received_at, frame, out);
    if with_frame {
        let _ = write!(out, ",\"frame\":{}", quoted(frame));
    }
    out.push('}');
}

fn write_head(
    reason: &str,
    detail: &str,
    source: &str,
    received_at: Timestamp,
    body: &str,
    out: &mut String,
) {
    let _ = write!(
        out,
        "{{\"reason\":{},\"detail\":{},\"source\":{},\"received_at\":\"{received_at}\",\"length\":{},\"hash\":\"{:032x}\"",
        quoted(reason),
        // Quotes of an answer: whoever reads a dead letter in a terminal must not obey them.
        quoted(&foreign_text::clean_to(detail, MAX_DETAIL_CHARS)),
        quoted(source),
        body.len(),
        identity::body_hash(body),
    );
}

fn quoted(text: &str) -> serde_json::Value {
    serde_json::Value::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::{Kind, read};

    #[test]
    fn newest_dead_letters_are_kept() {
        let mut newest = Newest::default();
        for sequence in 1..=20 {
            newest.push(Notice {
                at: Timestamp::UNIX_EPOCH,
                reason: "invalid",
                sequence: Sequence::new(sequence),
            });
        }
        let kept: Vec<u64> = newest
            .iter()
            .filter_map(|notice| notice.sequence)
            .map(Sequence::get)
            .collect();
        assert_eq!(kept, [20, 19, 18, 17, 16, 15, 14, 13]);
    }

    #[test]
    fn dead_letters_are_single_lines_of_json() {
        let frame = "{\"id\":7,\n\"data\":{\"pid\":\"p\"}}";
        let Kind::Event(envelope) = read(frame).unwrap() else {
            panic!("no event")
        };
        let event = Event {
            sequence: Sequence::new(42).unwrap(),
            received_at: Timestamp::UNIX_EPOCH,
            source: "main",
            conflict: None,
            envelope,
            frame,
        };
        let mut out = String::new();
        write_event(
            &event,
            &SpoolId::from_bytes([0; 16]),
            "kafka",
            "too_large",
            "2 \"MiB\"",
            true,
            &mut out,
        );
        insta::assert_snapshot!(out);
        out.clear();
        write_event(
            &event,
            &SpoolId::from_bytes([0; 16]),
            "kafka",
            "too_large",
            "2 MiB",
            false,
            &mut out,
        );
        assert!(
            serde_json::from_str::<serde_json::Value>(&out)
                .unwrap()
                .get("event")
                .is_none()
        );
        out.clear();
        write_frame(
            "main",
            Timestamp::UNIX_EPOCH,
            "not_json",
            "found x\nat 0",
            "x\ny",
            true,
            &mut out,
        );
        insta::assert_snapshot!(out);
        out.clear();
        write_frame(
            "main",
            Timestamp::UNIX_EPOCH,
            "not_json",
            "found x",
            "secret",
            false,
            &mut out,
        );
        assert!(!out.contains("secret"));
    }
}
