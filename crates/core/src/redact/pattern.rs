//! Patterns of field names, in which `*` matches any text.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::neuroio::{ENTRY_FIELDS, NESTED_FIELDS};

/// A name (`face_image`), a pattern (`*_image`), or a path of either (`space.name`, `*.name`).
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String")]
pub struct Pattern {
    text: String,
    /// The names between the dots.
    names: Vec<Name>,
}

/// A name, split at its stars. A name with one piece matches exactly.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Name(Vec<String>);

/// Why a text is not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "found \"{found}\", expected the name of a field such as \"face_image\", \"*_image\" or \"space.name\""
)]
#[non_exhaustive]
pub struct PatternError {
    /// The text.
    pub found: String,
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text.trim() != text || text.split('.').any(str::is_empty) {
            return Err(PatternError {
                found: text.to_owned(),
            });
        }
        Ok(Self {
            text: text.to_owned(),
            names: text.split('.').map(Name::new).collect(),
        })
    }
}

impl Pattern {
    /// Returns whether the pattern is a path, which contains a dot.
    pub fn is_path(&self) -> bool {
        self.names.len() > 1
    }

    /// Returns whether the pattern matches the value of the key `name` at `path`. The path consists of the keys from the
    /// frame to the value, without indexes of arrays; it is used only by patterns that are paths. `body_depth` is the number
    /// of steps from the frame to the body, with indexes.
    pub(super) fn matches(&self, name: &str, path: &[Cow<'_, str>], body_depth: usize) -> bool {
        if let [pattern] = self.names.as_slice() {
            return pattern.matches(name);
        }
        // A path may begin at the frame, at the body, or in between: users who look at a frame write `data.pid`, which
        // matches nothing below `data`. So a value beside the body, such as a duplicate of the body, is matched as if it
        // were within the body: to redact too much is safe.
        (0..=body_depth).any(|depth| path.get(depth..).is_some_and(|path| self.matches_path(path)))
    }

    /// Returns whether the pattern matches a field that the platform is known to send.
    pub fn matches_known_field(&self) -> bool {
        ENTRY_FIELDS.iter().chain(&NESTED_FIELDS).any(|field| {
            let path: Vec<Cow<'_, str>> = ["data"]
                .into_iter()
                .chain(field.split('.'))
                .map(Cow::from)
                .collect();
            path.last().is_some_and(|name| self.matches(name, &path, 1))
        })
    }

    fn matches_path(&self, path: &[Cow<'_, str>]) -> bool {
        self.names.len() == path.len()
            && self
                .names
                .iter()
                .zip(path)
                .all(|(pattern, name)| pattern.matches(name))
    }
}

impl Name {
    fn new(text: &str) -> Self {
        Self(text.split('*').map(str::to_owned).collect())
    }

    fn matches(&self, name: &str) -> bool {
        let [first, rest @ ..] = self.0.as_slice() else {
            return false;
        };
        let Some((last, middle)) = rest.split_last() else {
            return first == name;
        };
        let Some(mut name) = name.strip_prefix(first.as_str()) else {
            return false;
        };
        // The first match of a piece leaves the most text for the next pieces.
        for piece in middle {
            let Some(at) = name.find(piece.as_str()) else {
                return false;
            };
            name = &name[at + piece.len()..];
        }
        name.ends_with(last.as_str())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn star_matches_any_text() {
        for (pattern, name, expected) in [
            ("pid", "pid", true),
            ("pid", "pids", false),
            ("*_image", "face_image", true),
            ("*_image", "_image", true),
            ("*_image", "image", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("*a*b*", "xxaxbx", true),
            ("*a*b*", "ba", false),
            ("*", "", true),
            ("**", "x", true),
        ] {
            assert_eq!(Name::new(pattern).matches(name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn invalid_pattern_error_states_found_and_expected_text() {
        for bad in ["", ".", "a.", ".a", "a..b", " a", "a\n"] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad:?}");
        }
        assert_eq!(
            "a..b".parse::<Pattern>().unwrap_err().to_string(),
            "found \"a..b\", expected the name of a field such as \"face_image\", \"*_image\" or \"space.name\""
        );
    }

    /// A simple reference implementation of the pattern.
    fn plainly(pattern: &str, name: &str) -> bool {
        match pattern.chars().next() {
            None => name.is_empty(),
            Some('*') => name
                .char_indices()
                .map(|(at, _)| at)
                .chain([name.len()])
                .any(|at| plainly(&pattern[1..], &name[at..])),
            Some(c) => name
                .strip_prefix(c)
                .is_some_and(|name| plainly(&pattern[c.len_utf8()..], name)),
        }
    }

    #[test]
    fn patterns_of_known_fields_are_recognised() {
        for known in [
            "face_image",
            "*_image",
            "space.name",
            "data.pid",
            "data.space.id",
            "*.name",
            "name",
            "*",
        ] {
            assert!(known.parse::<Pattern>().unwrap().matches_known_field(), "{known}");
        }
        for unknown in ["faceimage", "*_picture", "space.nam", "pidd", "data.x"] {
            assert!(
                !unknown.parse::<Pattern>().unwrap().matches_known_field(),
                "{unknown}"
            );
        }
    }

    proptest! {
        #[test]
        fn pattern_matches_as_the_reference(pattern in "[abé*]{0,6}", name in "[abé]{0,8}") {
            prop_assert_eq!(Name::new(&pattern).matches(&name), plainly(&pattern, &name));
        }
    }
}
