//! Resume values: the query value from which a connection continues after the last stored event, and the paths of this value
//! and of other fields in a stored event.

use jiff::Timestamp;
use neurobridge_core::{cloudevents, event::FieldPath, json, path::Path, positions::TimeFormat};

use crate::{
    declaration::{Declaration, Resume},
    notation::{FeedPath, Paths, Rewind},
};

impl Declaration {
    /// Returns the field with the resume value in a stored event. The frame of a stored event contains only this event, also if
    /// the feed sends arrays of events. `None` for a feed that cannot resume.
    pub fn resume_field(&self) -> Option<FieldPath> {
        let path = self.absolute(&self.resume.as_ref()?.value);
        FieldPath::parse(&format!("$.{path}"))
    }

    /// Returns the path of the body from the frame of a stored event.
    pub fn body_path(&self) -> Path {
        let body = self.event.body.as_ref();
        body.map_or_else(|| self.unit_path(), |body| self.absolute(body))
    }

    /// Returns the paths of the parts of the id from the frame of a stored event.
    pub fn id_paths(&self) -> Vec<Path> {
        let paths = self.event.id.iter().flat_map(Paths::iter);
        paths.map(|path| self.absolute(path)).collect()
    }

    /// Returns the path of the unit from the frame of a stored event.
    fn unit_path(&self) -> Path {
        self.events.as_ref().map_or_else(Path::default, |events| {
            Path::new(events.steps().iter().cloned()).join(&Path::new(["0"]))
        })
    }

    fn absolute(&self, path: &FeedPath) -> Path {
        let below = Path::new(path.steps().iter().cloned());
        if path.is_of_frame() {
            below
        } else {
            self.unit_path().join(&below)
        }
    }
}

/// Returns the value of the query parameter. `last` is the value of the last event, as written by the feed; it is returned
/// unchanged if it cannot be rewound.
pub(crate) fn value(resume: &Resume, last: &str) -> Option<String> {
    let text = json::text(last)?.into_owned();
    let rewound = match (resume.rewind, resume.unit) {
        (None, _) => None,
        (Some(Rewind::Number(number)), _) => text
            .parse::<i128>()
            .ok()
            .map(|value| value.saturating_sub(i128::from(number)).max(0).to_string()),
        (Some(Rewind::Time(time)), Some(unit)) => cloudevents::timestamp(&text, unit).and_then(|at| {
            let earlier = at.checked_sub(time).ok()?;
            Some(written(earlier, unit))
        }),
        // `check` rejects such a declaration.
        (Some(Rewind::Time(_)), None) => None,
    };
    Some(rewound.unwrap_or(text))
}

fn written(time: Timestamp, unit: TimeFormat) -> String {
    match unit.nanoseconds() {
        None => time.to_string(),
        Some(length) => time.as_nanosecond().div_euclid(i128::from(length)).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn path_of_the_resume_value_begins_at_the_frame() {
        let field = |declaration: &str| {
            let declaration: Declaration = serde_json::from_str(declaration).unwrap();
            declaration.resume_field().map(|field| field.to_string())
        };
        for (events, value, expected) in [
            ("", "a.b", "$.a.b"),
            ("\"events\":\"x.y\",", "a", "$.x.y.0.a"),
            ("\"events\":\"$\",", "a", "$.0.a"),
            ("\"events\":\"x\",", "$.a", "$.a"),
        ] {
            let text = format!(
                r#"{{{events}"rules":[{{"is":"event"}}],"resume":{{"value":"{value}","query":"q"}}}}"#
            );
            assert_eq!(field(&text).as_deref(), Some(expected), "{text}");
        }
        assert_eq!(field(r#"{"rules":[{"is":"event"}]}"#), None);
    }

    #[test]
    fn resume_value_is_rewound_in_its_unit() {
        let five = Some(Rewind::Time(Duration::from_secs(5)));
        for (last, unit, rewind, expected) in [
            (
                "1769860800000001",
                Some(TimeFormat::Microseconds),
                five,
                "1769860795000001",
            ),
            (
                "\"1769860800000\"",
                Some(TimeFormat::Milliseconds),
                five,
                "1769860795000",
            ),
            (
                "\"2026-01-31T12:00:00Z\"",
                Some(TimeFormat::Text),
                five,
                "2026-01-31T11:59:55Z",
            ),
            ("1769860800.5", Some(TimeFormat::Seconds), five, "1769860795"),
            ("100", None, Some(Rewind::Number(7)), "93"),
            ("5", None, Some(Rewind::Number(7)), "0"),
            ("\"a-b\"", None, None, "a-b"),
            ("\"a-b\"", None, Some(Rewind::Number(7)), "a-b"),
        ] {
            let resume = Resume {
                value: FeedPath::parse("x").unwrap(),
                query: "cursor".into(),
                unit,
                rewind,
            };
            assert_eq!(value(&resume, last).as_deref(), Some(expected), "{last}");
        }
    }
}
