//! Finds the values of a unit (a frame, or one element of the array of events in a frame), and builds an event from them.

use std::borrow::Cow;

use jiff::Timestamp;
use neurobridge_core::{
    cloudevents,
    condition::Condition,
    event::FieldPath,
    frame_reader::FrameReader,
    json::{self, JsonError, Span},
    path::Path,
    positions::{Positions, TimeFormat},
    projection::{EventPaths, Projection},
};

use crate::{
    declaration::Declaration,
    notation::{Conditions, FeedPath, Paths},
};

/// The paths of the values that are read from a unit besides the fields of its event. The index of a path is its slot.
#[derive(Clone, Debug, Default)]
pub(crate) struct ValuePaths(Vec<FeedPath>);

impl ValuePaths {
    /// Returns the slot of a path, and adds a new path.
    pub(crate) fn of(&mut self, path: &FeedPath) -> usize {
        self.0.iter().position(|known| known == path).unwrap_or_else(|| {
            self.0.push(path.clone());
            self.0.len() - 1
        })
    }

    /// Compiles conditions.
    pub(crate) fn compile(&mut self, when: &Conditions) -> CompiledConditions {
        CompiledConditions(
            when.iter()
                .map(|(path, condition)| (self.of(path), condition.clone()))
                .collect(),
        )
    }
}

/// Conditions on values in slots; all must hold.
#[derive(Clone, Debug)]
pub(crate) struct CompiledConditions(Vec<(usize, Condition)>);

impl CompiledConditions {
    pub(crate) fn holds(&self, unit: &Unit<'_>) -> bool {
        self.0
            .iter()
            .all(|(slot, condition)| condition.holds(unit.raw(*slot)))
    }
}

/// Finds the values of units. For all units of a reader, the path from the frame to the unit is the same.
#[derive(Clone, Debug)]
pub(crate) struct UnitReader {
    projection: Projection,
    reader: FrameReader,
}

impl UnitReader {
    /// Creates a reader of units at the path `unit`. `fields` are the fields named by filters and templates.
    pub(crate) fn new(
        declaration: &Declaration,
        value_paths: &ValuePaths,
        fields: &[FieldPath],
        unit: &Path,
    ) -> Self {
        let event = &declaration.event;
        let absolute = |path: &FeedPath| {
            let below = Path::new(path.steps().iter().cloned());
            if path.is_of_frame() {
                below
            } else {
                unit.join(&below)
            }
        };
        let paths = EventPaths {
            body: event.body.as_ref().map_or_else(|| unit.clone(), absolute),
            id: event.id.iter().flat_map(Paths::iter).map(absolute).collect(),
            key: event.key.iter().flat_map(Paths::iter).map(absolute).collect(),
            time: event.time.as_ref().map(|time| absolute(&time.path)),
            time_format: event.time.as_ref().map_or(TimeFormat::Text, |time| time.unit),
            kind: event.kind.as_ref().map(absolute),
        };
        let projection = Projection::new(&paths, fields);
        let slots: Vec<Path> = value_paths.0.iter().map(absolute).collect();
        let projected = projection.paths().iter().map(Option::as_ref);
        let reader = FrameReader::new(projected.chain(slots.iter().map(Some)));
        Self { projection, reader }
    }

    /// Finds the values in a frame: `spans` has those of the event first, then the slots.
    ///
    /// # Errors
    /// The frame is not JSON.
    pub(crate) fn read(&mut self, frame: &str, spans: &mut Vec<Span>) -> Result<(), JsonError> {
        spans.clear();
        spans.extend_from_slice(self.reader.read(frame)?);
        Ok(())
    }

    /// Caches the layout of the frame that was read last, because later events often have the same layout.
    pub(crate) fn learn(&mut self, frame: &str) {
        self.reader.learn(frame);
    }

    pub(crate) const fn projection(&self) -> &Projection {
        &self.projection
    }
}

/// A unit with its values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unit<'a> {
    /// The unit's own text: the frame, or the frame with only this element of the array.
    pub(crate) frame: &'a str,
    /// The position of the unit in this text.
    pub(crate) at: Span,
    /// The position of the value in each slot.
    pub(crate) slots: &'a [Span],
}

impl<'a> Unit<'a> {
    /// Returns the unit as written.
    pub(crate) fn text(&self) -> &'a str {
        self.at.of(self.frame).unwrap_or(self.frame)
    }

    /// Returns the value in a slot, as written.
    pub(crate) fn raw(&self, slot: usize) -> Option<&'a str> {
        self.slots.get(slot)?.of(self.frame)
    }
}

/// The slots of the values of an event that are not stored in its record.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct EventSlots {
    pub(crate) resume: Option<usize>,
    pub(crate) ack: Option<usize>,
}

impl EventSlots {
    /// Returns the event of a unit whose fields have these positions.
    pub(crate) fn event<'a>(self, unit: &Unit<'a>, positions: Positions<'a>) -> FeedEvent<'a> {
        let raw = |slot: Option<usize>| unit.raw(slot?);
        FeedEvent {
            text: unit.frame,
            positions,
            unit: unit.at,
            resume: raw(self.resume).filter(|raw| json::text(raw).is_some()),
            ack: raw(self.ack).filter(|raw| *raw != "null"),
        }
    }
}

/// An event. If its frame has an array of events, the text contains only the element of this event in the array.
#[derive(Clone, Copy, Debug)]
pub struct FeedEvent<'a> {
    /// The frame with only this event.
    pub text: &'a str,
    /// The positions of the event's fields in the text.
    pub positions: Positions<'a>,
    /// The position of the unit in the text: of the element, or of the whole frame.
    pub unit: Span,
    /// The position from which the next connection resumes, as written by the feed.
    pub resume: Option<&'a str>,
    /// The value that identifies the event in an acknowledgement, as written by the feed.
    pub ack: Option<&'a str>,
}

impl<'a> FeedEvent<'a> {
    /// Returns an event that is the whole frame, without a resume value and an acknowledgement value.
    pub const fn of_frame(text: &'a str, positions: Positions<'a>) -> Self {
        Self {
            text,
            positions,
            unit: Span {
                start: 0,
                end: text.len() as u32,
            },
            resume: None,
            ack: None,
        }
    }

    /// Returns the identity: the [`joined`](neurobridge_core::positions::joined) values of its paths.
    pub fn id(&self) -> Option<Cow<'a, str>> {
        self.positions.id(self.text)
    }

    /// Returns the key, composed as the identity is.
    pub fn key(&self) -> Option<Cow<'a, str>> {
        self.positions.key(self.text)
    }

    /// Returns the time of the event; `None` if it is missing or invalid.
    pub fn time(&self) -> Option<Timestamp> {
        let text = json::text(self.positions.time().of(self.text)?)?;
        cloudevents::timestamp(&text, self.positions.time_format())
    }

    /// Returns the kind of event.
    pub fn kind(&self) -> Option<Cow<'a, str>> {
        json::text(self.positions.kind().of(self.text)?)
    }

    /// Returns the body: the value at the path `body` of the declaration, otherwise the whole unit.
    pub fn body(&self) -> &'a str {
        self.positions.body().of(self.text).unwrap_or(self.text)
    }
}
