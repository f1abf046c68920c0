//! The selection of the fields that are located when a frame is read: the fields of the protocol, and the fields named by
//! filters, templates and keys of the configuration.

use crate::{
    event::FieldPath,
    json::Span,
    path::Path,
    positions::{MAX_FIELDS, MAX_PARTS, PositionsBuf, TimeFormat},
};

/// The paths of the fields that every event of a protocol has.
#[derive(Clone, Debug, Default)]
pub struct EventPaths {
    /// The body: the part of the frame that is published as the data of an event.
    pub body: Path,
    /// The parts of the id, [`MAX_PARTS`] at most. Without parts, events are identified by their position in
    /// the spool.
    pub id: Vec<Path>,
    /// The parts of the key, [`MAX_PARTS`] at most. Events with the same key stay in order.
    pub key: Vec<Path>,
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
    /// The numbers of parts of the id and of the key.
    parts: (usize, usize),
    /// The hashes of the configured fields.
    fields: Vec<u32>,
    /// Body, time, type, parts of the id and of the key, configured fields.
    paths: Vec<Option<Path>>,
}

impl Projection {
    /// Creates a projection of the event's own fields and of configured `fields`. Equal fields are projected once. At most
    /// [`MAX_FIELDS`] fields are projected; any other field is searched for in the body when it is needed.
    ///
    /// # Panics
    /// Panics if the id or the key has more than [`MAX_PARTS`] parts.
    pub fn new<'a>(event: &EventPaths, fields: impl IntoIterator<Item = &'a FieldPath>) -> Self {
        assert!(
            event.id.len() <= MAX_PARTS && event.key.len() <= MAX_PARTS,
            "an id and a key have at most {MAX_PARTS} parts each"
        );
        let mut paths = vec![Some(event.body.clone()), event.time.clone(), event.kind.clone()];
        paths.extend(event.id.iter().chain(&event.key).cloned().map(Some));
        let mut all: Vec<(u32, Path)> = Vec::new();
        for field in fields
            .into_iter()
            .filter_map(|field| field.projected(&event.body))
        {
            if !all.contains(&field) {
                all.push(field);
            }
        }
        // Two paths with equal hashes could be mistaken for each other, so neither is projected.
        let is_unique = |(hash, _): &&(u32, Path)| all.iter().filter(|(other, _)| other == hash).count() == 1;
        let named = all.iter().filter(is_unique).take(MAX_FIELDS).cloned();
        let (fields, named): (Vec<u32>, Vec<Path>) = named.unzip();
        paths.extend(named.into_iter().map(Some));
        Self {
            time_format: event.time_format,
            body_depth: event.body.steps().len().min(usize::from(u8::MAX)) as u8,
            parts: (event.id.len(), event.key.len()),
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
        out.set(self.time_format, self.body_depth, self.parts, &self.fields, spans);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_with_equal_hashes_are_not_projected() {
        let fields = ["f2969", "f87452", "pid", "f2969", "pid"].map(|path| FieldPath::parse(path).unwrap());
        let projection = Projection::new(&EventPaths::default(), &fields);
        // Body, no time, no type, and one field.
        assert_eq!(projection.paths().len(), 4);
        assert_eq!(projection.paths()[3], Some(Path::new(["pid"])));
    }

    #[test]
    fn fields_beyond_the_maximum_are_not_projected() {
        let fields: Vec<FieldPath> = (0..30)
            .map(|i| FieldPath::parse(&format!("a{i}")).unwrap())
            .collect();
        let projection = Projection::new(&EventPaths::default(), &fields);
        assert_eq!(projection.paths().len(), 3 + MAX_FIELDS);
    }
}
