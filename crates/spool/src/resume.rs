//! Resume values: the positions in their feeds from which the sources continue after a restart.

use std::{collections::BTreeMap, sync::Arc};

use neurobridge_core::{
    event::{Event, FieldPath},
    json,
};
use tracing::warn;

/// The maximum length of a resume value in bytes. A longer value is ignored: the source continues at an earlier event.
pub const MAX_RESUME_VALUE: usize = 4096;

/// The paths of the resume values in stored events, by the name of the source. A path refers to a value of the body, or with
/// `$.` to a value of the frame. `None` for a source whose events are not stored with the value as the feed wrote it: the value
/// is not read from stored events.
pub type ResumePaths = BTreeMap<String, Option<FieldPath>>;

/// The resume value of the last event of a source that arrived with a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumeValue {
    /// The name of the source in the configuration.
    pub source: Arc<str>,
    /// The value as JSON, as written by the feed: a string, a number or a boolean.
    pub value: String,
}

/// The resume values by source. A clone shares the map until one of them changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Values(Arc<BTreeMap<Arc<str>, Arc<str>>>);

impl Values {
    pub(crate) fn new(values: BTreeMap<Arc<str>, Arc<str>>) -> Self {
        Self(Arc::new(values))
    }

    pub(crate) fn map(&self) -> &BTreeMap<Arc<str>, Arc<str>> {
        &self.0
    }

    pub(crate) fn get(&self, source: &str) -> Option<Arc<str>> {
        self.0.get(source).cloned()
    }

    /// Returns whether neither of two clones was changed.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Sets the value of a source, if it is a valid resume value.
    pub(crate) fn set(&mut self, source: &str, value: &str) {
        if value.len() > MAX_RESUME_VALUE {
            warn!(
                source,
                bytes = value.len(),
                limit = MAX_RESUME_VALUE,
                "resume value too long and not stored; after a restart the source continues at an earlier event"
            );
            return;
        }
        if json::text(value).is_none() || self.0.get(source).is_some_and(|known| **known == *value) {
            return;
        }
        Arc::make_mut(&mut self.0).insert(source.into(), value.into());
    }

    pub(crate) fn apply(&mut self, values: impl IntoIterator<Item = ResumeValue>) {
        for ResumeValue { source, value } in values {
            self.set(&source, &value);
        }
    }

    /// Removes the values of sources that are not in `paths`.
    pub(crate) fn retain(&mut self, paths: &ResumePaths) {
        if self.0.keys().any(|source| !paths.contains_key(&**source)) {
            Arc::make_mut(&mut self.0).retain(|source, _| paths.contains_key(&**source));
        }
    }

    /// Sets the value of an event's source from the event.
    pub(crate) fn read(&mut self, event: &Event<'_>, path: &FieldPath) {
        if let Some(value) = path.locate(event.positions, event.frame) {
            self.set(event.source, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_or_too_long_value_is_ignored() {
        let mut values = Values::default();
        values.set("a", "1");
        let before = values.clone();
        for bad in [
            "null",
            "{}",
            "[1]",
            &format!("\"{}\"", "x".repeat(MAX_RESUME_VALUE)),
        ] {
            values.set("a", bad);
        }
        values.set("a", "1");
        assert!(values.is_same(&before));
        values.set("a", "\"x\"");
        assert_eq!(
            (values.get("a").as_deref(), before.get("a").as_deref()),
            (Some("\"x\""), Some("1"))
        );
    }
}
