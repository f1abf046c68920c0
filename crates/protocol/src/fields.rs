//! The paths of an event's fields, and the values at them.

use jiff::Timestamp;
use neurobridge_core::{
    cloudevents,
    json::{self, Span},
};

use crate::{
    declaration::Declaration,
    notation::{FeedPath, Paths, TimeUnit},
};

/// Returns the different paths of the fields of an event, in the order in which their positions are stored.
pub(crate) fn paths(declaration: &Declaration) -> Vec<FeedPath> {
    let event = &declaration.event;
    let mut paths: Vec<FeedPath> = Vec::new();
    let several = [&event.id, &event.key]
        .into_iter()
        .flatten()
        .flat_map(Paths::iter);
    let single = [
        event.time.as_ref().map(|time| &time.path),
        event.kind.as_ref(),
        event.body.as_ref(),
        declaration.resume.as_ref().map(|resume| &resume.value),
        declaration.ack.as_ref().map(|ack| &ack.value),
    ];
    for path in several.chain(single.into_iter().flatten()) {
        if !paths.contains(path) {
            paths.push(path.clone());
        }
    }
    paths
}

/// The fields of an event, by the index of their paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    id: Vec<usize>,
    key: Vec<usize>,
    time: Option<(usize, TimeUnit)>,
    kind: Option<usize>,
    body: Option<usize>,
    resume: Option<usize>,
    ack: Option<usize>,
}

impl Fields {
    pub(crate) fn new(declaration: &Declaration, paths: &[FeedPath]) -> Self {
        let index = |path: &FeedPath| paths.iter().position(|known| known == path);
        let indexes =
            |several: &Option<Paths>| several.iter().flat_map(Paths::iter).filter_map(index).collect();
        let event = &declaration.event;
        Self {
            id: indexes(&event.id),
            key: indexes(&event.key),
            time: event
                .time
                .as_ref()
                .and_then(|time| Some((index(&time.path)?, time.unit))),
            kind: event.kind.as_ref().and_then(index),
            body: event.body.as_ref().and_then(index),
            resume: declaration
                .resume
                .as_ref()
                .and_then(|resume| index(&resume.value)),
            ack: declaration.ack.as_ref().and_then(|ack| index(&ack.value)),
        }
    }
}

/// An event in its own text: for an element of an array, the frame with only that element in the array.
#[derive(Clone, Copy, Debug)]
pub struct FeedEvent<'a> {
    /// The text.
    pub text: &'a str,
    /// The position of the unit in the text: of the element, or of the whole frame.
    pub unit: Span,
    /// The positions of the values at [`paths`](crate::Declared::paths).
    pub positions: &'a [Span],
    pub(crate) fields: &'a Fields,
}

impl<'a> FeedEvent<'a> {
    /// Returns the identity: the values of all its paths with `/` between them; `None` if one is missing, null, empty or not a
    /// scalar. With several paths, `/` and `%` in a value are written as `%2F` and `%25`, so that no two identities are equal.
    pub fn id(&self) -> Option<String> {
        self.join(&self.fields.id)
    }

    /// Returns the key, composed as the identity is.
    pub fn key(&self) -> Option<String> {
        self.join(&self.fields.key)
    }

    /// Returns the time.
    pub fn time(&self) -> Option<Timestamp> {
        let (index, unit) = self.fields.time?;
        timestamp(self.raw(Some(index))?, unit)
    }

    /// Returns the kind of event.
    pub fn kind(&self) -> Option<std::borrow::Cow<'a, str>> {
        json::text(self.raw(self.fields.kind)?)
    }

    /// Returns the body: the part that the declaration names, otherwise the whole unit.
    pub fn body(&self) -> &'a str {
        self.raw(self.fields.body)
            .or_else(|| self.unit.of(self.text))
            .unwrap_or(self.text)
    }

    /// Returns the value with which the next connection resumes, as the feed wrote it.
    pub fn resume(&self) -> Option<&'a str> {
        self.raw(self.fields.resume)
            .filter(|raw| json::text(raw).is_some())
    }

    /// Returns the value that names the event in an acknowledgement, as the feed wrote it.
    pub fn ack(&self) -> Option<&'a str> {
        self.raw(self.fields.ack).filter(|raw| *raw != "null")
    }

    fn raw(&self, index: Option<usize>) -> Option<&'a str> {
        self.positions.get(index?)?.of(self.text)
    }

    fn join(&self, indexes: &[usize]) -> Option<String> {
        let text = |index: &usize| json::text(self.raw(Some(*index))?).filter(|text| !text.is_empty());
        match indexes {
            [] => None,
            [only] => text(only).map(std::borrow::Cow::into_owned),
            several => {
                let mut joined = String::new();
                for index in several {
                    if !joined.is_empty() {
                        joined.push('/');
                    }
                    for c in text(index)?.chars() {
                        match c {
                            '/' => joined.push_str("%2F"),
                            '%' => joined.push_str("%25"),
                            c => joined.push(c),
                        }
                    }
                }
                Some(joined)
            }
        }
    }
}

/// Parses a time of the feed. An epoch may be a number or a text, with a fraction or an exponent.
pub(crate) fn timestamp(raw: &str, unit: TimeUnit) -> Option<Timestamp> {
    let text = json::text(raw)?;
    let Some(length) = unit.nanoseconds() else {
        return raw
            .starts_with('"')
            .then(|| cloudevents::timestamp(&text, neurobridge_core::positions::TimeFormat::Text))
            .flatten();
    };
    Timestamp::from_nanosecond(nanoseconds(&text, length)?).ok()
}

/// Returns a decimal number of units as nanoseconds; what is below a nanosecond is cut off.
fn nanoseconds(text: &str, length: u32) -> Option<i128> {
    let (digits, exponent) = match text.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let (is_negative, whole) = whole
        .strip_prefix('-')
        .map_or((false, whole), |whole| (true, whole));
    let all = format!("{whole}{fraction}");
    // Longer numbers are beyond the range of times.
    if whole.is_empty() || all.len() > 36 || !all.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let power = exponent - i32::try_from(fraction.len()).ok()? + length.ilog10() as i32;
    let number: i128 = all.parse().ok()?;
    let scaled = if power >= 0 {
        number.checked_mul(10_i128.checked_pow(power.unsigned_abs())?)?
    } else {
        10_i128
            .checked_pow(power.unsigned_abs())
            .map_or(0, |divisor| number / divisor)
    };
    Some(if is_negative { -scaled } else { scaled })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_each_unit() {
        for (raw, unit, expected) in [
            ("1769860800", TimeUnit::S, Some("2026-01-31T12:00:00Z")),
            ("1769860800.25", TimeUnit::S, Some("2026-01-31T12:00:00.25Z")),
            ("\"1769860800250\"", TimeUnit::Ms, Some("2026-01-31T12:00:00.25Z")),
            ("1.76986080025e12", TimeUnit::Ms, Some("2026-01-31T12:00:00.25Z")),
            (
                "1769860800000001",
                TimeUnit::Us,
                Some("2026-01-31T12:00:00.000001Z"),
            ),
            (
                "1769860800000000001",
                TimeUnit::Ns,
                Some("2026-01-31T12:00:00.000000001Z"),
            ),
            (
                "1769860800000000001.9",
                TimeUnit::Ns,
                Some("2026-01-31T12:00:00.000000001Z"),
            ),
            ("-1", TimeUnit::S, Some("1969-12-31T23:59:59Z")),
            (
                "\"2026-01-31T13:00:00+01:00\"",
                TimeUnit::Rfc3339,
                Some("2026-01-31T12:00:00Z"),
            ),
            ("1769860800", TimeUnit::Rfc3339, None),
            ("\"soon\"", TimeUnit::S, None),
            ("\"\"", TimeUnit::S, None),
            ("null", TimeUnit::S, None),
            ("true", TimeUnit::S, None),
            ("99999999999999999999999999999999999999999", TimeUnit::S, None),
            ("1e99999", TimeUnit::S, None),
            ("1e-99999", TimeUnit::S, Some("1970-01-01T00:00:00Z")),
        ] {
            let found = timestamp(raw, unit).map(|time| time.to_string());
            assert_eq!(found.as_deref(), expected, "{raw} {unit:?}");
        }
    }
}
