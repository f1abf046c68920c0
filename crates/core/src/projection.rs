//! Which fields of a frame are located when it is read: those that the protocol needs, and those that filters,
//! templates and keys of the configuration name.

use crate::{
    event::FieldPath,
    json::{self, Span},
    path::Path,
    positions::{MAX_FIELDS, MAX_ID_PARTS, PositionsBuf, TimeFormat},
};

/// The paths of the fields that every event of a protocol has.
#[derive(Clone, Debug, Default)]
pub struct EventPaths {
    /// The body: the part of the frame that is published as the data of an event.
    pub body: Path,
    /// The parts of the id, [`MAX_ID_PARTS`] at most. Without one, events are identified by their place in the
    /// spool.
    pub id: Vec<Path>,
    /// The time of the event.
    pub time: Option<Path>,
    /// How the feed writes the time.
    pub time_format: TimeFormat,
    /// The type of the event.
    pub kind: Option<Path>,
}

/// The fields to locate in each frame of a source.
#[derive(Clone, Debug)]
pub struct Projection {
    time_format: TimeFormat,
    body_depth: u8,
    ids: usize,
    /// The hashes of the configured fields.
    fields: Vec<u32>,
    /// Body, time, type, parts of the id, configured fields.
    paths: Vec<Option<Path>>,
}

impl Projection {
    /// Creates a projection of the event's own fields and of configured ones. Of equal fields one is projected, of
    /// more than [`MAX_FIELDS`] only the first ones: the others are searched when they are needed.
    ///
    /// # Panics
    /// Panics if the id has more than [`MAX_ID_PARTS`] parts.
    pub fn new<'a>(event: &EventPaths, fields: impl IntoIterator<Item = &'a FieldPath>) -> Self {
        assert!(
            event.id.len() <= MAX_ID_PARTS,
            "an id has at most {MAX_ID_PARTS} parts"
        );
        let mut paths = vec![Some(event.body.clone()), event.time.clone(), event.kind.clone()];
        paths.extend(event.id.iter().cloned().map(Some));
        let mut named: Vec<(u32, Path)> = Vec::new();
        for (hash, path) in fields
            .into_iter()
            .filter_map(|field| field.projected(&event.body))
        {
            // Two paths with one hash could be mistaken for each other, so that neither is projected.
            if let Some(other) = named.iter().position(|(other, _)| *other == hash) {
                if named[other].1 != path {
                    named.remove(other);
                }
            } else if named.len() < MAX_FIELDS {
                named.push((hash, path));
            }
        }
        let (fields, named): (Vec<u32>, Vec<Path>) = named.into_iter().unzip();
        paths.extend(named.into_iter().map(Some));
        // An index is not a key.
        let keys = event
            .body
            .steps()
            .iter()
            .filter(|step| json::index(step).is_none());
        Self {
            time_format: event.time_format,
            body_depth: keys.count().min(usize::from(u8::MAX)) as u8,
            ids: event.id.len(),
            fields,
            paths,
        }
    }

    /// Returns the paths to locate. `None` for a field that the protocol does not have.
    pub fn paths(&self) -> &[Option<Path>] {
        &self.paths
    }

    /// Writes the positions of an event whose values were found at `spans`, in the order of [`paths`](Self::paths);
    /// further spans are ignored.
    ///
    /// # Panics
    /// Panics if there are fewer spans than paths.
    pub fn write(&self, spans: &[Span], out: &mut PositionsBuf) {
        out.set(self.time_format, self.body_depth, self.ids, &self.fields, spans);
    }
}
