//! A path to a value in JSON.

use std::fmt;

use crate::json;

/// A path of keys and array indexes from a JSON value to a value within it: `data.space.id`, `0.name`. A path without
/// steps leads to the outer value itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path(Vec<Box<str>>);

impl Path {
    /// Creates a path from its steps.
    pub fn new(steps: impl IntoIterator<Item = impl Into<Box<str>>>) -> Self {
        Self(steps.into_iter().map(Into::into).collect())
    }

    /// Parses a path; `None` if a step is empty, or contains an opening brace or white space.
    pub fn parse(text: &str) -> Option<Self> {
        let is_step =
            |step: &str| !step.is_empty() && !step.contains(|c: char| c == '{' || c.is_whitespace());
        text.split('.')
            .map(|step| is_step(step).then(|| step.into()))
            .collect::<Option<_>>()
            .map(Self)
    }

    /// Returns the steps.
    pub fn steps(&self) -> &[Box<str>] {
        &self.0
    }

    /// Returns the value at this path in `value`, as written; `None` if it is missing. Scans the value.
    pub fn of<'a>(&self, value: &'a str) -> Option<&'a str> {
        json::at(value, &self.0)
    }

    /// Returns this path, continued by the steps of `below`.
    #[must_use]
    pub fn join(&self, below: &Self) -> Self {
        Self(self.0.iter().chain(&below.0).cloned().collect())
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}
