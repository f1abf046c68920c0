//! The generated events of a declared feed. An event depends only on its number and the options, so any event can be sent
//! again.

use std::{
    fmt::Write as _,
    ops::RangeInclusive,
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use neurobridge_core::{cloudevents, path::Path, positions::TimeFormat};
use neurobridge_protocol::{Action, Declaration, FeedPath, Interpreter};

use super::{
    FeedError,
    sample::{Role, Roles, Sample, Slot, range_of},
};
use crate::random::{Draws, mix};

/// The number of consecutive events that are generated from the same sample, and the maximum number of events in a frame.
const BLOCK: u64 = 8;

// The lanes of the random numbers of an event (see `random`).
const LANE_KEY: u64 = 201;
const LANE_SAMPLE: u64 = 202;
const LANE_FRAME: u64 = 203;

/// The generator of events.
#[derive(Debug)]
pub(super) struct Events {
    samples: Vec<Sample>,
    roles: Roles,
    seed: u64,
    keys: u64,
    /// The time between two events in nanoseconds, at least 1.
    step: i128,
    start: OnceLock<Timestamp>,
    /// The path of the body in a frame with one event.
    body: Path,
    /// Interprets frames as a client does, for the record and for checks.
    reader: Mutex<Interpreter>,
}

/// An event as a client reads it from a frame, according to the declaration.
#[derive(Debug)]
pub(super) struct ReadEvent {
    pub(super) id: Option<String>,
    pub(super) key: Option<String>,
    pub(super) has_time: bool,
    pub(super) text: String,
    pub(super) body: String,
}

impl Events {
    pub(super) fn new(
        samples: Vec<Sample>,
        roles: Roles,
        reader: Interpreter,
        (seed, keys): (u64, u64),
        step: Duration,
        start: Option<Timestamp>,
    ) -> Self {
        let units = roles.fields.iter().filter_map(|(_, role)| match role {
            Role::Time(format) => format.nanoseconds().or(Some(1_000)),
            _ => None,
        });
        let least = units.max().filter(|_| roles.time_is_unique).unwrap_or(1);
        Self {
            body: body_path(reader.declaration()),
            samples,
            seed,
            keys: keys.max(1),
            step: i128::try_from(step.as_nanos())
                .unwrap_or(i128::MAX)
                .max(i128::from(least)),
            roles,
            start: start.map_or_else(OnceLock::new, OnceLock::from),
            reader: Mutex::new(reader),
        }
    }

    /// Fixes the time of the first event to now, unless it is set.
    pub(super) fn begin(&self) -> Timestamp {
        *self.start.get_or_init(|| {
            let micros = Timestamp::now().as_microsecond();
            Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH)
        })
    }

    /// Returns the number of the last event in the frame that begins with the event `first`: at most `last`.
    pub(super) fn frame_end(&self, first: u64, last: u64) -> u64 {
        if !self.sample(first).may_repeat {
            return first;
        }
        let block_end = first.saturating_add(BLOCK - 1 - (first.saturating_sub(1)) % BLOCK);
        let count = 1 + Draws::new(self.seed, first, LANE_FRAME).below(BLOCK);
        (first.saturating_add(count - 1)).min(block_end).min(last)
    }

    /// Returns the frame with the events of a range, which [`Events::frame_end`] limits.
    pub(super) fn frame(&self, numbers: RangeInclusive<u64>) -> String {
        let sample = self.sample(*numbers.start());
        let mut out = sample.head.clone();
        for (index, number) in numbers.enumerate() {
            if index > 0 {
                out.push(',');
            }
            self.write(sample, number, &mut out);
        }
        out.push_str(&sample.tail);
        out
    }

    fn sample(&self, number: u64) -> &Sample {
        let block = number.saturating_sub(1) / BLOCK;
        let index = Draws::new(self.seed, block, LANE_SAMPLE).below(self.samples.len() as u64);
        &self.samples[index as usize]
    }

    fn write(&self, sample: &Sample, number: u64, out: &mut String) {
        let mut at = 0;
        for slot in &sample.slots {
            out.push_str(&sample.unit[at..slot.range.start]);
            self.write_value(slot, number, out);
            at = slot.range.end;
        }
        out.push_str(&sample.unit[at..]);
    }

    fn write_value(&self, slot: &Slot, number: u64, out: &mut String) {
        let is_text = slot.is_text || slot.role == Role::Time(TimeFormat::Text);
        let quote = if is_text { "\"" } else { "" };
        let _ = match slot.role {
            Role::Number => write!(out, "{quote}{}{number}{quote}", slot.prefix),
            Role::Key => {
                let key = 1 + mix(self.seed, number, LANE_KEY) % self.keys;
                write!(out, "{quote}{}{key}{quote}", slot.prefix)
            }
            Role::Time(format) => {
                let time = self.time(number);
                match format.nanoseconds() {
                    None => write!(out, "\"{time}\""),
                    Some(unit) => {
                        let value = time.as_nanosecond().div_euclid(i128::from(unit));
                        write!(out, "{quote}{value}{quote}")
                    }
                }
            }
        };
    }

    /// Returns the frame of an event with an additional member in the body; if the body is not an object, the frame without
    /// the member.
    pub(super) fn with_member(&self, number: u64, member: &str) -> String {
        let mut frame = self.frame(number..=number);
        let body = self.body.of(&frame).filter(|body| body.starts_with('{'));
        if let Some(body) = body {
            let separator = if body[1..].trim_start().starts_with('}') {
                ""
            } else {
                ","
            };
            let at = range_of(&frame, body).start + 1;
            frame.insert_str(at, &format!("{member}{separator}"));
        }
        frame
    }

    /// Returns whether an additional member changes the body of an event and neither its id nor its key.
    pub(super) fn can_have_members(&self) -> bool {
        let plain = self.read(1);
        let changed = self.read_frame(&self.with_member(1, "\"variant\":1"));
        plain.zip(changed).is_some_and(|(plain, changed)| {
            plain.id == changed.id && plain.key == changed.key && plain.body != changed.body
        })
    }

    fn time(&self, number: u64) -> Timestamp {
        let after = i128::from(number).saturating_mul(self.step);
        Timestamp::from_nanosecond(self.begin().as_nanosecond().saturating_add(after))
            .unwrap_or(Timestamp::MAX)
    }

    /// Returns the number of the last event that is not after a time; 0 if there is none.
    pub(super) fn number_at(&self, time: Timestamp) -> u64 {
        let passed = time.as_nanosecond() - self.begin().as_nanosecond();
        u64::try_from(passed.div_euclid(self.step)).unwrap_or(0)
    }

    /// Returns the number of the last event whose value at `path` is not after `text`; `None` if `text` is not a valid value
    /// for this path.
    pub(super) fn number_of(&self, path: &FeedPath, text: &str) -> Option<u64> {
        match self.roles.of(path)? {
            Role::Key => None,
            Role::Number => {
                let digits = text.trim_start_matches(|c: char| !c.is_ascii_digit());
                let numbers = self.samples.iter().flat_map(|sample| &sample.slots);
                let mut prefixes = numbers.filter(|slot| slot.role == Role::Number);
                let number = prefixes.find_map(|slot| text.strip_prefix(slot.prefix.as_str())?.parse().ok());
                number.or_else(|| digits.parse().ok())
            }
            Role::Time(format) => {
                let time = cloudevents::timestamp(text, format)?.as_nanosecond();
                let unit = i128::from(format.nanoseconds().unwrap_or(1));
                let passed = time.div_euclid(unit) * unit + unit - 1 - self.begin().as_nanosecond();
                Some(u64::try_from(passed.div_euclid(self.step)).unwrap_or(0))
            }
        }
    }

    /// Reads an event as a client does.
    pub(super) fn read(&self, number: u64) -> Option<ReadEvent> {
        self.read_frame(&self.frame(number..=number))
    }

    fn read_frame(&self, frame: &str) -> Option<ReadEvent> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let mut read = None;
        reader.receive(frame, &mut |action| {
            if let Action::Event(event) = action {
                read = Some(ReadEvent {
                    id: event.id().map(Into::into),
                    key: event.key().map(Into::into),
                    has_time: event.time().is_some(),
                    text: event.text.to_owned(),
                    body: event.body().to_owned(),
                });
            }
        });
        read
    }

    /// Checks that a client reads generated frames as events, with all declared fields and with distinct ids.
    pub(super) fn check(&self, declaration: &Declaration) -> Result<(), FeedError> {
        let mut ids = Vec::new();
        for number in 1..=2 * BLOCK {
            let frame = || self.frame(number..=number);
            let Some(event) = self.read(number) else {
                return Err(FeedError::new(format!(
                    "no rule classifies the frame as an event: {}",
                    frame()
                )));
            };
            let missing = [
                ("id", declaration.event.id.is_some() && event.id.is_none()),
                ("key", declaration.event.key.is_some() && event.key.is_none()),
                ("time", declaration.event.time.is_some() && !event.has_time),
            ];
            if let Some((name, _)) = missing.into_iter().find(|(_, is_missing)| *is_missing) {
                return Err(FeedError::new(format!(
                    "no value at \"event.{name}\": {}",
                    frame()
                )));
            }
            ids.extend(event.id);
        }
        ids.sort();
        let count = ids.len();
        ids.dedup();
        if ids.len() < count {
            return Err(FeedError::new(
                "two generated events have the same id; expected different values at the paths of \"event.id\"",
            ));
        }
        Ok(())
    }
}

/// Returns the path of the body in a frame with one event.
fn body_path(declaration: &Declaration) -> Path {
    let steps = |path: &FeedPath| Path::new(path.steps().iter().cloned());
    let unit = declaration
        .events
        .as_ref()
        .map_or_else(Path::default, |events| steps(events).join(&Path::new(["0"])));
    match &declaration.event.body {
        Some(body) if body.is_of_frame() => steps(body),
        Some(body) => unit.join(&steps(body)),
        None => unit,
    }
}
