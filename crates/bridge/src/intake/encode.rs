//! From frames to records, in the task that reads the socket: all that can be done with an event alone.

use std::{borrow::Cow, sync::Arc};

use jiff::Timestamp;
use neurobridge_core::{
    dead_letter,
    envelope::{self, Envelope, Field, Kind},
    event::{Event, Sequence},
    filter::Filter,
    identity,
    record::Batch,
    redact::Redaction,
};
use neurobridge_listener::{Batcher, Content, Frame};

use super::IntakeStats;
use crate::exit::chain;

/// The most that a source keeps between two batches for frames that it redacts: pictures in them may be megabytes.
const MAX_REDACTED: usize = 64 << 10;

/// What is done with every event before it is stored, whatever came before it.
pub(crate) struct Rules {
    pub(crate) filter: Filter,
    pub(crate) redaction: Redaction,
    /// Frames that can't be parsed are kept whole: only where no sink and no setting redacts anything.
    pub(crate) keep_malformed: bool,
}

/// What one wake-up of a source's socket gave.
pub(crate) struct Encoded {
    /// The source's place among the sources.
    pub(super) source: usize,
    pub(super) received_at: Timestamp,
    /// The events that the filter lets through.
    pub(super) records: Batch,
    /// All events, in the order of the feed.
    pub(super) arrivals: Vec<Arrival>,
    /// Lines of dead letters.
    pub(super) letters: String,
    /// How many these are.
    pub(super) dead_lettered: u64,
}

/// An event, as far as the intake needs to know it.
pub(super) struct Arrival {
    /// The hash of its identity; `None` for an event without an id, which is never a duplicate.
    pub(super) identity: Option<u128>,
    /// The hash of its body, as it is stored: with that it is compared after a restart.
    pub(super) body: u128,
    /// Whether it has a record.
    pub(super) is_encoded: bool,
}

/// Encodes the frames of a source.
pub(crate) struct Encoder {
    name: Arc<str>,
    source: usize,
    stats: Arc<IntakeStats>,
    rules: Arc<Rules>,
    records: Batch,
    arrivals: Vec<Arrival>,
    malformed: Vec<Malformed>,
    /// Room for the bytes and the events of a batch like the last one. Taken with the first event: most sources are quiet.
    usual: (usize, usize),
    /// When the batch's first event was made, if that is the first frame and says so.
    created: Option<Timestamp>,
    redacted: String,
}

struct Malformed {
    frame: Frame,
    reason: &'static str,
    detail: String,
    keep: bool,
}

impl Encoder {
    pub(crate) fn new(name: Arc<str>, source: usize, stats: Arc<IntakeStats>, rules: Arc<Rules>) -> Self {
        Self {
            name,
            source,
            stats,
            rules,
            records: Batch::default(),
            arrivals: Vec::new(),
            malformed: Vec::new(),
            usual: (0, 0),
            created: None,
            redacted: String::new(),
        }
    }

    fn encode(&mut self, frame: Frame, envelope: Envelope) {
        let text = frame.text.as_str();
        if self.arrivals.is_empty() && self.malformed.is_empty() {
            self.created = created(&envelope, text);
        }
        if self.arrivals.is_empty() {
            let (bytes, events) = self.usual;
            self.records = Batch::with_capacity(bytes);
            self.arrivals.reserve(events);
        }
        let event = Event {
            // Both are given later.
            sequence: Sequence::FIRST,
            received_at: Timestamp::UNIX_EPOCH,
            source: &self.name,
            conflict: None,
            envelope,
            frame: text,
        };
        let is_wanted = self.rules.filter.matches(&event);
        let stored = if self.rules.redaction.apply(text, &mut self.redacted) {
            let Ok(Kind::Event(envelope)) = envelope::read(&self.redacted) else {
                // Before all else: it can't be told from others, nor stored.
                self.refuse(
                    frame,
                    "unrenderable",
                    "what is left after redaction is no event".to_owned(),
                    false,
                );
                return;
            };
            Event {
                envelope,
                frame: &self.redacted,
                ..event
            }
        } else {
            event
        };
        if is_wanted {
            self.records.push(&stored);
        }
        // After the copy, which the processor finishes meanwhile: the frame's end waits for it.
        let identity = event
            .text(Field::Id)
            .map(|id| identity::identity_hash(&self.name, &id));
        // Without an identity it is compared with nothing.
        let body = identity.map_or(0, |_| identity::body_hash(stored.data()));
        self.arrivals.push(Arrival {
            identity,
            body,
            is_encoded: is_wanted,
        });
    }

    fn refuse(&mut self, frame: Frame, reason: &'static str, detail: String, keep: bool) {
        self.malformed.push(Malformed {
            frame,
            reason,
            detail,
            keep,
        });
    }
}

impl Batcher for Encoder {
    type Batch = Encoded;

    fn push(&mut self, frame: Frame) {
        match frame.content {
            Content::Event(envelope) => self.encode(frame, envelope),
            Content::Malformed(reason) => {
                let keep = self.rules.keep_malformed;
                self.refuse(frame, reason.as_str(), chain(&reason), keep);
            }
        }
    }

    fn take(&mut self, received_at: Timestamp) -> Encoded {
        if let Some(created) = self.created.take() {
            let age = received_at.as_microsecond() - created.as_microsecond();
            self.stats.event_age.observe(age as f64 / 1e6);
        }
        let mut letters = String::new();
        let dead_lettered = self.malformed.len() as u64;
        for malformed in self.malformed.drain(..) {
            let Malformed {
                frame,
                reason,
                detail,
                keep,
            } = malformed;
            self.stats.dead_letter(reason);
            dead_letter::write_frame(
                &self.name,
                received_at,
                reason,
                &detail,
                &frame.text,
                keep,
                &mut letters,
            );
            letters.push('\n');
        }
        self.redacted.clear();
        self.redacted.shrink_to(MAX_REDACTED);
        self.usual = (room_for(self.records.len()), self.arrivals.len());
        let mut records = std::mem::take(&mut self.records).fitted();
        records.set_received_at(received_at);
        Encoded {
            source: self.source,
            received_at,
            records,
            arrivals: std::mem::take(&mut self.arrivals),
            letters,
            dead_lettered,
        }
    }
}

/// Room for about so many bytes. Large batches have one of few sizes, so that their buffers can be used again.
const fn room_for(bytes: usize) -> usize {
    const STEP: usize = 32 << 10;
    if bytes < STEP {
        bytes
    } else {
        (bytes + bytes / 64).next_multiple_of(STEP)
    }
}

fn created(envelope: &Envelope, frame: &str) -> Option<Timestamp> {
    let created: Cow<'_, str> = envelope.text(Field::Created, frame)?;
    neurobridge_core::cloudevents::timestamp(&created)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_for_a_large_redacted_frame_is_given_back() {
        let rules = Rules {
            filter: Filter::default(),
            redaction: Redaction::new(&["secret".parse().unwrap()], None).unwrap(),
            keep_malformed: false,
        };
        let mut encoder = Encoder::new("one".into(), 0, Arc::default(), Arc::new(rules));
        let picture = "x".repeat(1 << 20);
        let text = format!(r#"{{"id":1,"data":{{"picture":"{picture}","secret":1}}}}"#);
        let Ok(Kind::Event(envelope)) = envelope::read(&text) else {
            panic!("no event");
        };
        encoder.push(Frame {
            text: text.into(),
            content: Content::Event(envelope),
        });
        assert!(encoder.redacted.capacity() > picture.len());
        assert_eq!(encoder.take(Timestamp::UNIX_EPOCH).records.events(), 1);
        assert!(encoder.redacted.capacity() <= MAX_REDACTED);
    }
}
