//! The query value from which a connection continues after the last event of the previous connection.

use jiff::Timestamp;
use neurobridge_core::{cloudevents, json, positions::TimeFormat};

use crate::{declaration::Resume, notation::Rewind};

/// Returns the value of the query parameter. `last` is the value of the last event, as written by the feed; it is returned
/// unchanged if it cannot be rewound.
pub(crate) fn value(resume: &Resume, last: &str) -> Option<String> {
    let text = json::text(last)?.into_owned();
    let rewound = match (resume.rewind, resume.unit) {
        (None, _) => None,
        (Some(Rewind::Number(number)), _) => text
            .parse::<i128>()
            .ok()
            .map(|value| (value - i128::from(number)).max(0).to_string()),
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
    use crate::notation::FeedPath;

    #[test]
    fn value_is_rewound_in_its_unit() {
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
