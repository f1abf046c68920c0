//! The values from which the fields of entries are drawn, each with its share in percent.

/// The platform's recognition result for a face. The words are those of the public Python client (`neuroio.constants`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryResult {
    /// A person seen for the first time.
    New,
    /// A known person, registered again.
    Reinit,
    /// A known person, recognised with certainty.
    Exact,
    /// A known person, recognised with high accuracy.
    HighAccuracy,
    /// A match too weak to rely on.
    Junk,
    /// A face without a match.
    NoMatch,
    /// A face that was only detected.
    Detected,
}

impl EntryResult {
    /// All results, in the order of the protocol.
    pub const ALL: [Self; 7] = [
        Self::New,
        Self::Reinit,
        Self::Exact,
        Self::HighAccuracy,
        Self::Junk,
        Self::NoMatch,
        Self::Detected,
    ];

    /// Returns the word for the field `result`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Reinit => "reinit",
            Self::Exact => "exact",
            Self::HighAccuracy => "ha",
            Self::Junk => "junk",
            Self::NoMatch => "nm",
            Self::Detected => "det",
        }
    }
}

/// The share of entries that introduce a new person, in percent.
pub(crate) const NEW_OF_100: u64 = 12;

/// The results of entries that introduce no new person. Together with [`NEW_OF_100`] the shares are 100 percent.
pub(crate) const OTHER_RESULTS: [(EntryResult, u64); 6] = [
    (EntryResult::Exact, 52),
    (EntryResult::HighAccuracy, 16),
    (EntryResult::Junk, 8),
    (EntryResult::Reinit, 4),
    (EntryResult::NoMatch, 4),
    (EntryResult::Detected, 4),
];

pub(crate) const MOODS: [(&str, u64); 8] = [
    ("neutral", 58),
    ("happiness", 22),
    ("surprise", 5),
    ("sadness", 5),
    ("anger", 4),
    ("contempt", 2),
    ("disgust", 2),
    ("fear", 2),
];

pub(crate) const LIVENESS: [(&str, u64); 3] = [("passed", 90), ("undetermined", 7), ("failed", 3)];

/// A camera or an upload, and its space.
pub(crate) struct Source {
    pub(crate) id: u64,
    pub(crate) space_id: u64,
    /// The JSON of the fields `source` and `space`. As on the real platform, some names are not ASCII, and one name contains
    /// quotation marks.
    pub(crate) json: &'static str,
}

pub(crate) const SOURCES: [(Source, u64); 9] = [
    source(
        1,
        1,
        r#""source":{"id":1,"name":"Entrance"},"space":{"id":1,"name":"Head office"}"#,
        24,
    ),
    source(
        2,
        1,
        r#""source":{"id":2,"name":"Lobby, left"},"space":{"id":1,"name":"Head office"}"#,
        17,
    ),
    source(
        3,
        1,
        r#""source":{"id":3,"name":"Garage \"B\""},"space":{"id":1,"name":"Head office"}"#,
        9,
    ),
    source(
        7,
        2,
        r#""source":{"id":7,"name":"Вход"},"space":{"id":2,"name":"Магазин на Арбате"}"#,
        14,
    ),
    source(
        8,
        2,
        r#""source":{"id":8,"name":"Касса 1"},"space":{"id":2,"name":"Магазин на Арбате"}"#,
        11,
    ),
    source(
        11,
        4,
        r#""source":{"id":11,"name":"Café"},"space":{"id":4,"name":"Warehouse"}"#,
        9,
    ),
    source(
        12,
        4,
        r#""source":{"id":12,"name":"Dock 12"},"space":{"id":4,"name":"Warehouse"}"#,
        8,
    ),
    source(
        20,
        5,
        r#""source":{"id":20,"name":"改札"},"space":{"id":5,"name":"Station"}"#,
        5,
    ),
    source(
        21,
        5,
        r#""source":{"id":21,"name":"upload"},"space":{"id":5,"name":"Station"}"#,
        3,
    ),
];

pub(crate) const SPACES: [(u64, &str); 4] = [
    (1, "Head office"),
    (2, "Магазин на Арбате"),
    (4, "Warehouse"),
    (5, "Station"),
];

const fn source(id: u64, space_id: u64, json: &'static str, weight: u64) -> (Source, u64) {
    (Source { id, space_id, json }, weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_json_matches_its_fields() {
        for (source, _) in SOURCES {
            let json: serde_json::Value = serde_json::from_str(&format!("{{{}}}", source.json)).unwrap();
            assert_eq!(json["source"]["id"], source.id);
            assert_eq!(json["space"]["id"], source.space_id);
            let space = SPACES.iter().find(|(id, _)| *id == source.space_id).unwrap();
            assert_eq!(json["space"]["name"], space.1);
        }
    }
}
