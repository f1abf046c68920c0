//! A declared feed: a WebSocket feed whose protocol is described by a declaration. From the declaration the simulator plays
//! the server: opening, events, heartbeat, resume, acknowledgements, and the list of past events.
//!
//! An event is identified by its *number*, the position in the sequence of events, from 1. A *unit* is the part of a frame
//! to which the rules are applied: an element of the declared array of events, or the whole frame if it has no such array.

mod acknowledged;
mod build;
mod events;
mod frames;
mod list;
mod sample;
mod script;

use std::{io, path::PathBuf, time::Duration};

use jiff::Timestamp;
use neurobridge_protocol::{Counterpart, Declaration, Heartbeat, RequestError, Secrets};
use serde_json::{json, value::RawValue};
use thiserror::Error;
use tokio::time::Instant;

pub use self::script::Script;
use self::{
    acknowledged::Acknowledged,
    events::Events,
    frames::{Frames, Step},
    sample::{Roles, Sample},
};
use crate::{
    faults::{ERROR, Reaction, RestFault},
    feed::Feed,
    wire::Opcode,
};

/// A feed that is played from its declaration.
#[derive(Clone, Debug)]
pub struct DeclaredFeed {
    /// The declaration, as for the client.
    pub declaration: Declaration,
    /// The expected secrets, by name. A secret of the declaration that is missing here may have any value.
    pub secrets: Secrets,
    /// Frames as the feed sends them: samples of events, answers of the opening, answers to pings. Frames that the script
    /// does not contain are built from the conditions of the declaration. The fault rules of the script are added to the
    /// rules of the simulator. Default: no frames.
    pub script: Script,
    /// The number of distinct keys. Default: 50.
    pub keys: u64,
    /// The number of recent events from which a connection can resume. Default: 100,000.
    pub retain: u64,
    /// A file with the ids of acknowledged events, one in each line; an existing file is truncated. Default: none.
    pub acknowledged: Option<PathBuf>,
}

impl DeclaredFeed {
    /// Creates a feed without a script. The secrets that the declaration itself contains are expected.
    #[must_use]
    pub fn new(declaration: Declaration) -> Self {
        let values = declaration
            .secrets
            .iter()
            .filter_map(|(name, source)| Some((name.clone(), source.value.clone()?)));
        Self {
            secrets: values.collect(),
            declaration,
            script: Script::default(),
            keys: 50,
            retain: 100_000,
            acknowledged: None,
        }
    }
}

/// The reason why a declaration cannot be played.
#[derive(Debug, Error)]
#[error("{message}")]
pub struct FeedError {
    message: String,
}

impl FeedError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
        }
    }
}

/// The frames and the state of a declared feed, shared by all connections.
#[derive(Debug)]
pub(crate) struct Service {
    counterpart: Counterpart,
    frames: Frames,
    events: Events,
    acknowledged: Acknowledged,
    retain: u64,
}

/// The position at which a connection starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// After the newest event.
    Now,
    /// At this position, whether it was sent before or not.
    At(u64),
}

impl Service {
    /// Compiles a declaration and selects or builds its frames.
    pub(crate) fn new(
        feed: DeclaredFeed,
        seed: u64,
        step: Duration,
        start: Option<Timestamp>,
    ) -> Result<Self, FeedError> {
        let acknowledged = Acknowledged::create(feed.acknowledged.as_deref()).map_err(|error| {
            FeedError::new(format!(
                "cannot create the file {:?} for acknowledged events: {error}",
                feed.acknowledged.unwrap_or_default()
            ))
        })?;
        let counterpart = Counterpart::new(feed.declaration, feed.secrets.clone()).map_err(|problems| {
            let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
            FeedError::new(texts.join("; "))
        })?;
        let declaration = counterpart.declaration();
        let (mut frames, reader) = Frames::new(&counterpart, &feed.secrets, feed.script.frames())?;
        let roles = Roles::new(declaration)?;
        let mut lines = std::mem::take(&mut frames.events);
        if lines.is_empty() {
            lines.extend(sample::built(declaration, &roles));
        }
        let mut samples = Vec::new();
        for line in &lines {
            samples.extend(Sample::all_of(line, declaration, &roles)?);
        }
        if samples.is_empty() {
            return Err(FeedError::new(
                "the declaration has no rule for events: add one with is = \"event\"",
            ));
        }
        let events = Events::new(samples, roles, reader, (seed, feed.keys), step, start);
        if start.is_some() {
            events.begin();
        }
        events.check(declaration)?;
        Ok(Self {
            frames,
            events,
            acknowledged,
            retain: feed.retain,
            counterpart,
        })
    }

    pub(crate) fn declaration(&self) -> &Declaration {
        self.counterpart.declaration()
    }

    pub(crate) fn counterpart(&self) -> &Counterpart {
        &self.counterpart
    }

    pub(crate) fn opening(&self) -> &[Step] {
        &self.frames.opening
    }

    pub(crate) fn heartbeat(&self) -> &Heartbeat {
        &self.declaration().heartbeat
    }

    pub(crate) fn ping_answer(&self) -> Option<&str> {
        self.frames.ping_answer.as_deref()
    }

    /// Returns the heartbeat that the feed sends on its own.
    pub(crate) fn alive(&self) -> Option<&str> {
        self.frames.alive.as_deref()
    }

    /// Returns the ping of the feed: a message to which the client has to reply.
    pub(crate) fn ping(&self) -> Option<&str> {
        self.frames.ping.as_deref()
    }

    /// Returns an error frame of the feed with this text. A frame of the script keeps its own text if `text` is the default.
    pub(crate) fn error(&self, text: &str) -> Option<String> {
        let frame = self.frames.error.as_ref();
        frame.map(|frame| frame.with_text(text, ERROR))
    }

    /// Returns whether a connection can receive earlier events: because the client resumes, or because the events are not
    /// acknowledged.
    pub(crate) fn replays(&self) -> bool {
        self.declaration().resume.is_some() || self.declaration().ack.is_some()
    }

    /// Compares an upgrade request with the declared request, and returns the resume value.
    pub(crate) fn check_request(
        &self,
        query: &str,
        header: &dyn Fn(&str) -> Vec<String>,
        offered: &[&str],
    ) -> Result<Option<String>, RequestError> {
        let value = self.counterpart.check_request(query, header, offered)?;
        if let (Some(value), Some(resume)) = (&value, &self.declaration().resume)
            && self.events.number_of(&resume.value, value).is_none()
        {
            return Err(RequestError {
                is_secret: false,
                message: format!(
                    "the value of the parameter \"{}\" is not a position of this feed",
                    resume.query
                ),
            });
        }
        Ok(value)
    }

    /// Returns the position at which a connection starts. `resume` is the resume value of the client.
    pub(crate) fn start(&self, resume: Option<&str>, feed: &Feed, now: Instant) -> Start {
        self.events.begin();
        let newest = feed.produced(now);
        let oldest = newest.saturating_sub(self.retain) + 1;
        if let (Some(value), Some(resume)) = (resume, &self.declaration().resume)
            && let Some(number) = self.events.number_of(&resume.value, value)
        {
            return Start::At((number.min(newest) + 1).max(oldest));
        }
        match self.declaration().ack {
            Some(_) => Start::At(self.acknowledged.first_missing().max(oldest)),
            None => Start::Now,
        }
    }

    /// Returns the number of the last event in the frame that begins with the event `first`: at most `last`.
    pub(crate) fn frame_end(&self, first: u64, last: u64) -> u64 {
        self.events.frame_end(first, last)
    }

    /// Returns the frame with the events of a range.
    pub(crate) fn frame(&self, numbers: std::ops::RangeInclusive<u64>) -> String {
        self.events.frame(numbers)
    }

    /// Returns the line of an event in the record: number, identity, key, body, and the frame with only this event.
    pub(crate) fn record(&self, number: u64) -> String {
        let event = self.events.read(number);
        let raw = |text: Option<String>| text.and_then(|text| RawValue::from_string(text).ok());
        let (mut id, mut key, mut body, mut frame) = (None, None, None, None);
        if let Some(event) = event {
            (id, key) = (event.id, event.key);
            (body, frame) = (raw(Some(event.body)), raw(Some(event.text)));
        }
        let raw = |raw: &Option<Box<RawValue>>| {
            raw.as_ref()
                .map_or_else(|| "null".to_owned(), |raw| raw.get().to_owned())
        };
        format!(
            r#"{{"number":{number},"id":{},"key":{},"body":{},"frame":{}}}"#,
            json!(id),
            json!(key),
            raw(&body),
            raw(&frame)
        )
    }

    /// Returns the identity of an event.
    pub(crate) fn id(&self, number: u64) -> Option<String> {
        self.events.read(number)?.id
    }

    /// Records acknowledged events, and returns the number of newly acknowledged events. Returns `None` if a value belongs to
    /// no event up to `newest`.
    pub(crate) fn acknowledge(&self, values: &[String], newest: u64) -> Option<u64> {
        let ack = self.declaration().ack.as_ref()?;
        let mut count = 0;
        for value in values {
            let number = self.events.number_of(&ack.value, value)?;
            if !(1..=newest).contains(&number) {
                return None;
            }
            let first = if ack.cumulative { 1 } else { number };
            count += self.acknowledged.insert(first..=number, |number| self.id(number));
        }
        Some(count)
    }

    pub(crate) fn is_acknowledged(&self, number: u64) -> bool {
        self.declaration().ack.is_some() && self.acknowledged.contains(number)
    }

    /// Returns the ids of the acknowledged events, in the order of the events.
    pub(crate) fn acknowledged_ids(&self) -> Vec<String> {
        let numbers = self.acknowledged.numbers();
        numbers.into_iter().filter_map(|number| self.id(number)).collect()
    }

    /// Writes the file of acknowledged events to the operating system.
    pub(crate) fn flush(&self) -> io::Result<()> {
        self.acknowledged.flush()
    }

    /// Returns the opcode of the feed's frames.
    pub(crate) fn opcode(&self) -> Opcode {
        match self.declaration().binary {
            true => Opcode::Binary,
            false => Opcode::Text,
        }
    }

    /// Returns a frame with the id of an event and another body, which contains the number `variant`.
    pub(crate) fn variant(&self, number: u64, variant: u64) -> String {
        self.events.with_member(number, &format!("\"variant\":{variant}"))
    }

    /// Returns the frame of an event, enlarged to this size if it is smaller.
    pub(crate) fn huge(&self, number: u64, bytes: usize) -> String {
        let padding = |length| {
            self.events
                .with_member(number, &format!("\"padding\":\"{}\"", "x".repeat(length)))
        };
        padding(bytes.saturating_sub(padding(0).len()))
    }

    /// Returns whether this feed can apply a reaction.
    pub(crate) fn supports(&self, reaction: &Reaction) -> bool {
        match reaction {
            Reaction::Rest(fault) => {
                self.has_list()
                    && !matches!(
                        fault,
                        RestFault::Endless | RestFault::NoId | RestFault::Huge { .. }
                    )
            }
            Reaction::SameId | Reaction::Huge { .. } => self.events.can_have_members(),
            Reaction::Error { .. } => self.frames.error.is_some(),
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests;
