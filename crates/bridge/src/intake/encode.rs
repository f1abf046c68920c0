//! Encodes frames as records in the task that reads the socket: everything that needs no knowledge of other events.

use std::sync::Arc;

use jiff::Timestamp;
use neurobridge_core::{
    clock, cloudevents, dead_letter,
    event::{Event, Origin},
    event_buf::EventBuf,
    filter::Filter,
    identity, neuroio,
    record::Batch,
    redact::Redaction,
};
use neurobridge_listener::{Batcher, EventAttributes, FeedEvent, Received};

use super::{IntakeSource, dedupe::ANY_BODY};
use crate::{
    exit::chain,
    gap_report::{self, Report},
};

/// The largest capacity of the redaction buffer that a source keeps between two batches: frames may contain pictures of
/// several megabytes.
const MAX_REDACTED_CAPACITY: usize = 64 << 10;
/// The longest id that is stored as the id of the last event.
const MAX_LAST_ID_BYTES: usize = 128;

/// The filter and the redaction that apply to every event before it is stored.
pub(crate) struct Rules {
    pub(crate) filter: Filter,
    pub(crate) redaction: Redaction,
    /// Whether dead letters contain the malformed frame. False if the configuration redacts anything, here or for a
    /// sink: a frame that cannot be parsed cannot be redacted.
    pub(crate) keep_malformed: bool,
}

/// The events and malformed frames that one wake-up of a source's socket received, encoded.
pub(crate) struct Encoded {
    pub(super) source: Arc<IntakeSource>,
    /// The number of the connection; 0 for events that were not received from the feed.
    pub(super) connection: u64,
    pub(super) received_at: Timestamp,
    /// The events that pass the filter.
    pub(super) records: Batch,
    /// All events, in the order of the feed.
    pub(super) arrivals: Vec<Arrival>,
    /// The dead letters, one per line.
    pub(super) dead_letter_lines: String,
    /// The number of dead letters.
    pub(super) dead_lettered: u64,
    /// What to report to the feed when the batch is stored.
    pub(super) progress: Progress,
    /// How the events came to the bridge.
    pub(super) origin: Origin,
}

/// The values of a batch that are reported to its feed when the batch is stored.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The number of the connection.
    pub(super) connection: u64,
    /// The acknowledgement values of the events, in the order of the feed.
    pub(super) acks: Vec<String>,
    /// The resume value of the last event that has one.
    pub(super) resume: Option<String>,
}

/// The properties of a received event that the intake needs.
pub(super) struct Arrival {
    /// The hash of the identity; `None` for an event without an id, which is never a duplicate.
    pub(super) identity: Option<u128>,
    /// The hash of the body as stored, so that it can be compared with stored events after a restart.
    pub(super) body: u128,
    /// The number of the event in the order of the feed; `None` if its id is not a number.
    pub(super) order: Option<u64>,
    /// Whether the event has a record.
    pub(super) is_encoded: bool,
}

/// Encodes the frames of a source.
pub(crate) struct Encoder {
    source: Arc<IntakeSource>,
    attributes: EventAttributes,
    rules: Arc<Rules>,
    origin: Origin,
    records: Batch,
    arrivals: Vec<Arrival>,
    malformed: Vec<Malformed>,
    /// The bytes and events to reserve for a batch, from the size of the last one. Reserved at the first event, since
    /// most sources are quiet.
    expected_size: (usize, usize),
    /// The creation time of the batch's first event, if the first frame is an event and has one.
    created: Option<Timestamp>,
    redacted: EventBuf,
    /// The id of the last event.
    last_id: String,
    connection: u64,
    acks: Vec<String>,
    /// The resume value of the last event that has one; empty if none has.
    resume: String,
}

struct Malformed {
    frame: Box<str>,
    reason: &'static str,
    detail: String,
    /// Whether the dead letter contains the frame.
    keeps_frame: bool,
}

impl Encoder {
    pub(crate) fn new(source: Arc<IntakeSource>, attributes: EventAttributes, rules: Arc<Rules>) -> Self {
        Self {
            source,
            attributes,
            rules,
            origin: Origin::Feed,
            records: Batch::default(),
            arrivals: Vec::new(),
            malformed: Vec::new(),
            expected_size: (0, 0),
            created: None,
            redacted: EventBuf::default(),
            last_id: String::new(),
            connection: 0,
            acks: Vec::new(),
            resume: String::new(),
        }
    }

    /// Sets how the following events came to the bridge.
    pub(crate) const fn set_origin(&mut self, origin: Origin) {
        self.origin = origin;
    }

    /// Encodes the report about a gap as a batch of its own.
    pub(crate) fn report(&self, report: &Report<'_>) -> Encoded {
        let (frame, positions) = report.to_frame();
        let event = Event {
            type_prefix: gap_report::TYPE_PREFIX,
            origin: Origin::GapReport,
            ..self.attributes.event(
                &self.source.name,
                &FeedEvent::of_frame(&frame, positions.positions()),
            )
        };
        let mut records = Batch::default();
        records.push(&event);
        let received_at = clock::now();
        records.set_received_at(received_at);
        Encoded {
            source: Arc::clone(&self.source),
            connection: 0,
            received_at,
            records,
            arrivals: vec![Arrival {
                identity: Some(identity::identity_hash(&self.source.name, report.id())),
                body: ANY_BODY,
                order: None,
                is_encoded: true,
            }],
            dead_letter_lines: String::new(),
            dead_lettered: 0,
            progress: Progress::default(),
            origin: Origin::GapReport,
        }
    }

    fn encode(&mut self, received: &FeedEvent<'_>) {
        if self.arrivals.is_empty() {
            let (bytes, events) = self.expected_size;
            self.records = Batch::with_capacity(bytes);
            self.arrivals.reserve(events);
        }
        let event = Event {
            origin: self.origin,
            ..self.attributes.event(&self.source.name, received)
        };
        let is_first = self.arrivals.is_empty() && self.malformed.is_empty();
        // A fetched event does not show the age of events on the feed, and is not the last event of the feed.
        let is_of_feed = self.origin == Origin::Feed;
        if is_first && is_of_feed {
            self.created = creation_time(&event);
        }
        let is_wanted = self.rules.filter.matches(&event);
        let stored = match self.rules.redaction.apply(&event, &mut self.redacted) {
            Ok(stored) => stored,
            // Before anything else is recorded: an event that cannot be redacted is neither deduplicated nor stored.
            Err(error) => {
                self.reject(received.text, "unrenderable", error.to_string(), false);
                return;
            }
        };
        if is_wanted {
            self.records.push(&stored);
        }
        // Hashed after the copy, so that the processor can finish the copy in parallel.
        let id = event.id();
        if let Some(id) = id
            .as_deref()
            .filter(|id| is_of_feed && id.len() <= MAX_LAST_ID_BYTES)
        {
            self.last_id.clear();
            self.last_id.push_str(id);
        }
        let order = id.as_deref().and_then(|id| order_of(&event, id));
        let identity = id.map(|id| identity::identity_hash(&self.source.name, &id));
        // The body of an event without an identity is never compared, and that of a fetched event equals every other one.
        let body = match identity {
            Some(_) if !self.origin.is_backfill() => identity::body_hash(stored.body()),
            _ => ANY_BODY,
        };
        self.arrivals.push(Arrival {
            identity,
            body,
            order,
            is_encoded: is_wanted,
        });
    }

    fn reject(&mut self, frame: &str, reason: &'static str, detail: String, keeps_frame: bool) {
        self.malformed.push(Malformed {
            frame: frame.into(),
            reason,
            detail,
            keeps_frame,
        });
    }
}

impl Batcher for Encoder {
    type Batch = Encoded;

    fn for_connection(&self) -> Self {
        Self::new(
            Arc::clone(&self.source),
            self.attributes.clone(),
            Arc::clone(&self.rules),
        )
    }

    fn begin(&mut self, connection: u64) {
        self.connection = connection;
    }

    fn push(&mut self, received: Received<'_>) {
        match received {
            Received::Event(event) => {
                self.encode(&event);
                self.acks.extend(event.ack.map(str::to_owned));
                if let Some(value) = event.resume {
                    self.resume.clear();
                    self.resume.push_str(value);
                }
            }
            Received::Malformed { text, reason } => {
                let keeps_frame = self.rules.keep_malformed;
                self.reject(text, reason.as_str(), chain(&reason), keeps_frame);
            }
        }
    }

    fn take(&mut self, received_at: Timestamp) -> Encoded {
        if let Some(created) = self.created.take() {
            let age = received_at.as_microsecond() - created.as_microsecond();
            self.source.stats.event_age.observe(age as f64 / 1e6);
        }
        if !self.last_id.is_empty() {
            self.source.stats.set_last_event_id(&self.last_id);
            self.last_id.clear();
        }
        let mut dead_letter_lines = String::new();
        let dead_lettered = self.malformed.len() as u64;
        for malformed in self.malformed.drain(..) {
            let Malformed {
                frame,
                reason,
                detail,
                keeps_frame,
            } = malformed;
            self.source.stats.record_dead_letter(reason);
            dead_letter::write_frame(
                &self.source.name,
                received_at,
                reason,
                &detail,
                &frame,
                keeps_frame,
                &mut dead_letter_lines,
            );
            dead_letter_lines.push('\n');
        }
        self.redacted.shrink_to(MAX_REDACTED_CAPACITY);
        self.expected_size = (rounded_capacity(self.records.len()), self.arrivals.len());
        let mut records = std::mem::take(&mut self.records).fitted();
        records.set_received_at(received_at);
        Encoded {
            source: Arc::clone(&self.source),
            connection: self.connection,
            received_at,
            records,
            origin: self.origin,
            arrivals: std::mem::take(&mut self.arrivals),
            dead_letter_lines,
            dead_lettered,
            progress: Progress {
                connection: self.connection,
                acks: std::mem::take(&mut self.acks),
                resume: (!self.resume.is_empty()).then(|| std::mem::take(&mut self.resume)),
            },
        }
    }
}

/// Returns the number of an event in the order of its feed: its id, if that is a number. *Assumed* for NeuroIO, whose list is
/// also in the order of ids; `None` for declared feeds.
pub(crate) fn order_of(event: &Event<'_>, id: &str) -> Option<u64> {
    id.parse()
        .ok()
        .filter(|_| event.type_prefix == neuroio::TYPE_PREFIX)
}

/// Returns the capacity to reserve for about this number of bytes. Large capacities are rounded up to few distinct sizes,
/// so that the allocator can reuse buffers.
const fn rounded_capacity(bytes: usize) -> usize {
    const STEP: usize = 32 << 10;
    if bytes < STEP {
        bytes
    } else {
        (bytes + bytes / 64).next_multiple_of(STEP)
    }
}

fn creation_time(event: &Event<'_>) -> Option<Timestamp> {
    cloudevents::timestamp(&event.time()?, event.positions.time_format())
}

#[cfg(test)]
mod tests {
    use neurobridge_core::testing;
    use neurobridge_listener::SourceConfig;

    use super::*;

    #[test]
    fn redaction_buffer_shrinks_after_a_large_frame() {
        let rules = Rules {
            filter: Filter::default(),
            redaction: Redaction::new(&["secret".parse().unwrap()], None).unwrap(),
            keep_malformed: false,
        };
        let mut encoder = Encoder::new(
            Arc::new(IntakeSource::new("one")),
            SourceConfig::default().attributes("one"),
            Arc::new(rules),
        );
        let picture = "x".repeat(1 << 20);
        let text = format!(r#"{{"id":1,"data":{{"picture":"{picture}","secret":1}}}}"#);
        let event = FeedEvent::of_frame(&text, testing::positions(&text));
        encoder.push(Received::Event(event));
        assert!(encoder.redacted.capacity() > picture.len());
        assert_eq!(encoder.take(Timestamp::UNIX_EPOCH).records.events(), 1);
        assert!(encoder.redacted.capacity() <= MAX_REDACTED_CAPACITY);
    }
}
