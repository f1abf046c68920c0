//! Dead letters: rejected events, stored with the reason so that an operator can find and fix them.

use std::{collections::VecDeque, fmt::Write, future::Future, io, pin::Pin};

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    event::{Event, Sequence},
    foreign_text,
    identity::{self, SpoolId},
};

/// The maximum length of the detail of a dead letter, in characters.
const MAX_DETAIL_CHARS: usize = 2000;

/// A store for dead letters outside of a sink's destination: a file of JSON lines.
pub trait DeadLetters: Send + Sync + 'static {
    /// Stores lines, each with its line break, durably. The future completes when they are durable.
    ///
    /// # Errors
    /// Not all lines are stored.
    fn store<'a>(&'a self, lines: &'a str) -> Pin<Box<dyn Future<Output = io::Result<()>> + Send + 'a>>;

    /// Returns the number of dead letters that were discarded because a limit was exceeded. Their `store`
    /// calls succeeded nevertheless: the sender of undeliverable events must not be able to fill a disk.
    fn discarded(&self) -> u64 {
        0
    }
}

/// A dead letter as a sink publishes it.
#[derive(Clone, Debug)]
pub struct DeadLetter<'a> {
    /// The position of the event in the spool.
    pub sequence: Sequence,
    /// One JSON object on one line, without a line break.
    pub json: &'a str,
}

/// A summary of a dead letter that may be shown to everybody: it contains no part of the event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeadLetterSummary {
    /// The time at which the dead letter was stored.
    pub at: Timestamp,
    /// The kind of reason, as in the dead letter.
    pub reason: &'static str,
    /// The position of the event in the spool, which identifies the dead letter. `None` for a frame that was
    /// never stored.
    pub sequence: Option<Sequence>,
}

/// The most recent dead letters of a source or a sink, up to [`Self::MAX`].
#[derive(Clone, Debug, Default)]
pub struct RecentDeadLetters(VecDeque<DeadLetterSummary>);

impl RecentDeadLetters {
    /// The maximum number: enough to see whether the dead letters have one cause.
    pub const MAX: usize = 8;

    /// Adds a summary, and removes the oldest one if the maximum is exceeded.
    pub fn push(&mut self, summary: DeadLetterSummary) {
        if self.0.len() == Self::MAX {
            self.0.pop_back();
        }
        self.0.push_front(summary);
    }

    /// Returns the summaries, the most recent first.
    pub fn iter(&self) -> impl Iterator<Item = &DeadLetterSummary> {
        self.0.iter()
    }
}

/// Appends the dead letter of an event as one JSON object on one line. `with_event` is false if the
/// destination of dead letters has rejected the event too, or if the redaction of the event has failed.
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

/// Appends the dead letter of a malformed frame as one JSON object on one line. `with_frame` must be false if
/// anything is to be redacted: a frame that cannot be parsed cannot be redacted.
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
        // The detail may quote an answer; a terminal that shows the dead letter must not execute control
        // characters.
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
    use crate::testing;

    #[test]
    fn only_recent_dead_letters_are_listed() {
        let mut newest = RecentDeadLetters::default();
        for sequence in 1..=20 {
            newest.push(DeadLetterSummary {
                at: Timestamp::UNIX_EPOCH,
                reason: "invalid",
                sequence: Sequence::new(sequence),
            });
        }
        let kept: Vec<u64> = newest
            .iter()
            .filter_map(|summary| summary.sequence)
            .map(Sequence::get)
            .collect();
        assert_eq!(kept, [20, 19, 18, 17, 16, 15, 14, 13]);
    }

    #[test]
    fn dead_letters_are_single_lines_of_json() {
        let frame = "{\"id\":7,\n\"data\":{\"pid\":\"p\"}}";
        let event = Event {
            sequence: Sequence::new(42).unwrap(),
            ..testing::event(frame)
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
