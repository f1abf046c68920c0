//! A sample of an event: a frame in which the values that differ between events are replaced.

use std::ops::Range;

use neurobridge_core::{path::Path, positions::TimeFormat};
use neurobridge_protocol::{Conditions, Declaration, FeedPath, Meaning};

use super::{FeedError, build::Builder};

/// The content of a field that differs between events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// One of a few values.
    Key,
    /// The number of the event.
    Number,
    /// The time of the event.
    Time(TimeFormat),
}

/// The fields that differ between events, with their roles.
#[derive(Debug)]
pub(super) struct Roles {
    pub(super) fields: Vec<(FeedPath, Role)>,
    /// Whether the identity or the resume position is a time, so that two events must have different times.
    pub(super) time_is_unique: bool,
}

impl Roles {
    /// Selects the fields. A field with a condition of a rule for events does not change, unless the condition is `present`
    /// or `prefix`.
    pub(super) fn new(declaration: &Declaration) -> Result<Self, FeedError> {
        let event = &declaration.event;
        let is_fixed = |path: &FeedPath| {
            let rules = declaration.rules.iter().filter(|rule| rule.is == Meaning::Event);
            rules
                .filter_map(|rule| rule.when.as_ref())
                .flat_map(Conditions::iter)
                .any(|(known, condition)| {
                    use neurobridge_core::condition::Condition;
                    known == path && !matches!(condition, Condition::Present(true) | Condition::Prefix(_))
                })
        };
        let mut fields: Vec<(FeedPath, Role)> = Vec::new();
        let find =
            |fields: &[(FeedPath, Role)], path: &FeedPath| fields.iter().position(|(known, _)| known == path);
        if let Some(time) = &event.time {
            fields.push((time.path.clone(), Role::Time(time.unit)));
        }
        if let Some(resume) = &declaration.resume
            && find(&fields, &resume.value).is_none()
        {
            let role = resume.unit.map_or(Role::Number, Role::Time);
            fields.push((resume.value.clone(), role));
        }
        if let Some(ack) = &declaration.ack
            && find(&fields, &ack.value).is_none()
        {
            fields.push((ack.value.clone(), Role::Number));
        }
        let mut keys = event.key.iter().flat_map(neurobridge_protocol::Paths::iter);
        let ids: Vec<&FeedPath> = event.id.iter().flat_map(|paths| paths.iter()).collect();
        if let Some(key) = keys.find(|key| !is_fixed(key) && find(&fields, key).is_none()) {
            fields.push((key.clone(), Role::Key));
        }
        let mut time_is_unique = declaration
            .resume
            .as_ref()
            .is_some_and(|resume| resume.unit.is_some() && resume.rewind.is_none());
        let free = ids
            .iter()
            .rfind(|path| !is_fixed(path) && find(&fields, path).is_none());
        let roles: Vec<Role> = ids
            .iter()
            .filter_map(|path| find(&fields, path))
            .map(|index| fields[index].1)
            .collect();
        if ids.is_empty() || roles.contains(&Role::Number) {
        } else if let Some(free) = free {
            fields.push(((*free).clone(), Role::Number));
        } else if roles.iter().any(|role| matches!(role, Role::Time(_))) {
            time_is_unique = true;
        } else if let Some(key) = fields.iter_mut().find(|(path, _)| ids.contains(&path)) {
            key.1 = Role::Number;
        } else {
            return Err(FeedError::new(
                "no path of \"event.id\" can differ between events, because each has a condition",
            ));
        }
        Ok(Self {
            fields,
            time_is_unique,
        })
    }

    /// Returns the role of a path.
    pub(super) fn of(&self, path: &FeedPath) -> Option<Role> {
        self.fields
            .iter()
            .find(|(known, _)| known == path)
            .map(|(_, role)| *role)
    }
}

/// Builds a sample from the first rule for events and the declared paths.
pub(super) fn built(declaration: &Declaration, roles: &Roles) -> Option<String> {
    let mut rules = declaration.rules.iter();
    let rule = rules.find(|rule| rule.is == Meaning::Event)?;
    let mut builder = Builder::of(rule.when.as_ref());
    for (path, role) in &roles.fields {
        match role {
            Role::Time(TimeFormat::Text) => builder.set_default(path, "2026-01-31T12:00:00Z".into()),
            Role::Time(_) => builder.set_default(path, 0.into()),
            Role::Number => builder.set_default(path, "1".into()),
            Role::Key => builder.set_default(path, "key".into()),
        }
    }
    let event = &declaration.event;
    for path in event.id.iter().chain(&event.key).flat_map(|paths| paths.iter()) {
        builder.set_default(path, "1".into());
    }
    if let Some(kind) = &event.kind {
        builder.set_default(kind, "event".into());
    }
    if let Some(body) = &event.body {
        builder.set_default(body, serde_json::Map::new().into());
    }
    Some(builder.finish(declaration.events.as_ref()))
}

/// A field that is replaced in a sample.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) range: Range<usize>,
    pub(super) role: Role,
    /// The text before the number: the sample's value without the digits at its end, or the sample's key. As in JSON.
    pub(super) prefix: String,
    pub(super) is_text: bool,
}

/// A frame of the feed with one event.
#[derive(Debug)]
pub(super) struct Sample {
    /// The frame before the event, the event, and the frame after it. Without an array, the event is the whole frame.
    pub(super) head: String,
    pub(super) unit: String,
    pub(super) tail: String,
    /// The fields in `unit`, sorted.
    pub(super) slots: Vec<Slot>,
    /// Whether a frame may contain several events.
    pub(super) may_repeat: bool,
}

impl Sample {
    /// Creates samples from a frame: one for each element of the array of events, or one for the frame.
    pub(super) fn all_of(
        frame: &str,
        declaration: &Declaration,
        roles: &Roles,
    ) -> Result<Vec<Self>, FeedError> {
        let Some(events) = &declaration.events else {
            return Self::new(frame, 0..frame.len(), frame, None, roles).map(|sample| vec![sample]);
        };
        let array = events.of(frame, frame).filter(|array| array.starts_with('['));
        let Some(array) = array else {
            return Err(FeedError::new(format!(
                "the sample has no array of events: {frame}"
            )));
        };
        let place = range_of(frame, array);
        let mut samples = Vec::new();
        let mut failure = None;
        neurobridge_core::json::any_element(array, |element| {
            // The frame with this element only, so that paths from the frame find its fields.
            let reduced = format!("{}[{element}]{}", &frame[..place.start], &frame[place.end..]);
            let unit = place.start + 1..place.start + 1 + element.len();
            match Self::new(&reduced, unit, element, Some(events), roles) {
                Ok(sample) => samples.push(sample),
                Err(error) => failure = Some(error),
            }
            failure.is_some()
        });
        failure.map_or(Ok(samples), Err)
    }

    fn new(
        frame: &str,
        unit: Range<usize>,
        element: &str,
        events: Option<&FeedPath>,
        roles: &Roles,
    ) -> Result<Self, FeedError> {
        let mut slots = Vec::new();
        let mut repeats = events.is_some();
        for (path, role) in &roles.fields {
            let steps = match (path.is_of_frame(), events) {
                (false, Some(events)) => Path::new(events.steps().iter().cloned())
                    .join(&Path::new(["0"]))
                    .join(&Path::new(path.steps().iter().cloned())),
                _ => Path::new(path.steps().iter().cloned()),
            };
            let value = steps
                .of(frame)
                .filter(|value| !value.starts_with(['{', '[', 'n']));
            let Some(value) = value else {
                return Err(FeedError::new(format!(
                    "the sample has no text or number at \"{path}\": {element}"
                )));
            };
            let range = range_of(frame, value);
            repeats &= unit.contains(&range.start);
            let is_text = value.starts_with('"');
            let inner = value.trim_matches('"');
            let prefix = match role {
                Role::Number if is_text => inner.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned(),
                Role::Key if is_text => format!("{inner}-"),
                _ => String::new(),
            };
            slots.push(Slot {
                range,
                role: *role,
                prefix,
                is_text,
            });
        }
        slots.sort_by_key(|slot| slot.range.start);
        slots.dedup_by_key(|slot| slot.range.start);
        let place = if repeats { unit } else { 0..frame.len() };
        for slot in &mut slots {
            slot.range.start -= place.start;
            slot.range.end -= place.start;
        }
        Ok(Self {
            head: frame[..place.start].to_owned(),
            unit: frame[place.clone()].to_owned(),
            tail: frame[place.end..].to_owned(),
            slots,
            may_repeat: repeats,
        })
    }
}

/// Returns the range of a part of a text.
pub(super) fn range_of(text: &str, part: &str) -> Range<usize> {
    let start = (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
    start..start + part.len()
}
