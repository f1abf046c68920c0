//! The query string of `GET /v1/entries/`, as the public Python client writes it.

use std::str::FromStr;

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use thiserror::Error;

use crate::entries::{Entries, Entry, EntryResult};

/// The page size of a query without a `limit`.
const DEFAULT_LIMIT: usize = 20;

/// The filter and the page that a query selects.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Query {
    pub(super) limit: usize,
    pub(super) offset: usize,
    pub(super) date_from: Option<Timestamp>,
    pub(super) date_to: Option<Timestamp>,
    pub(super) id_from: Option<u64>,
    age_from: Option<u8>,
    age_to: Option<u8>,
    sex: Option<u8>,
    spaces_ids: Option<Vec<u64>>,
    sources_ids: Option<Vec<u64>>,
    result: Option<Vec<EntryResult>>,
    mood: Option<Vec<String>>,
    liveness: Option<Vec<String>>,
    pid: Option<Vec<String>>,
}

/// A parameter with an invalid value.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("`{field}` expects {expected}, found {found:?}")]
pub(super) struct QueryError {
    field: String,
    expected: &'static str,
    found: String,
}

impl QueryError {
    pub(super) fn field(&self) -> &str {
        &self.field
    }
}

impl Query {
    /// Parses the part of a URL after the question mark; unknown parameters are ignored.
    pub(super) fn parse(text: &str) -> Result<Self, QueryError> {
        let mut query = Self {
            limit: DEFAULT_LIMIT,
            ..Self::default()
        };
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (field, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (field, value) = (decode(field), decode(value));
            let read = query.set(&field, &value);
            read.map_err(|expected| QueryError {
                field,
                expected,
                found: value,
            })?;
        }
        Ok(query)
    }

    fn set(&mut self, field: &str, value: &str) -> Result<(), &'static str> {
        match field {
            "limit" => {
                self.limit = number(value)
                    .filter(|limit| *limit > 0)
                    .ok_or("a number from 1")?
            }
            "offset" => self.offset = number(value).ok_or("a number")?,
            "date_from" => self.date_from = Some(time(value)?),
            "date_to" => self.date_to = Some(time(value)?),
            "id_from" | "entry_id_from" => self.id_from = Some(number(value).ok_or("an entry's id")?),
            "age_from" => self.age_from = Some(number(value).ok_or("a number of years")?),
            "age_to" => self.age_to = Some(number(value).ok_or("a number of years")?),
            "sex" => self.sex = Some(number(value).filter(|sex| *sex < 2).ok_or("0 or 1")?),
            "spaces_ids" => self.spaces_ids = Some(list(value, number).ok_or("ids separated by commas")?),
            "sources_ids" => self.sources_ids = Some(list(value, number).ok_or("ids separated by commas")?),
            "result" => {
                let known = |word: &str| {
                    EntryResult::ALL
                        .into_iter()
                        .find(|result| result.as_str() == word)
                };
                let expected = "results separated by commas, from new, reinit, exact, ha, junk, nm, det";
                self.result = Some(list(value, known).ok_or(expected)?);
            }
            "mood" => self.mood = words(value),
            "liveness" => self.liveness = words(value),
            "pid" => self.pid = words(value),
            _ => {}
        }
        Ok(())
    }

    /// Returns whether every entry matches the query.
    pub(super) fn matches_all(&self) -> bool {
        *self
            == Self {
                limit: self.limit,
                offset: self.offset,
                ..Self::default()
            }
    }

    /// Returns whether an entry matches the query.
    pub(super) fn matches(&self, entry: &Entry, entries: &Entries) -> bool {
        fn among<T: PartialEq>(wanted: &Option<Vec<T>>, has: impl Fn(&T) -> bool) -> bool {
            wanted.as_ref().is_none_or(|wanted| wanted.iter().any(has))
        }
        self.date_from
            .is_none_or(|from| entry.created >= from.as_microsecond())
            && self.date_to.is_none_or(|to| entry.created <= to.as_microsecond())
            && self.id_from.is_none_or(|from| entry.id >= from)
            && self
                .age_from
                .is_none_or(|from| entry.age.is_some_and(|age| age >= from))
            && self
                .age_to
                .is_none_or(|to| entry.age.is_some_and(|age| age <= to))
            && self.sex.is_none_or(|sex| entry.sex == Some(sex))
            && among(&self.spaces_ids, |id| *id == entry.space_id())
            && among(&self.sources_ids, |id| *id == entry.source_id())
            && among(&self.result, |result| *result == entry.result)
            && among(&self.mood, |mood| mood == entry.mood)
            && among(&self.liveness, |liveness| liveness == entry.liveness)
            && among(&self.pid, |pid| {
                entry
                    .person
                    .is_some_and(|person| entries.pid(person).to_string() == *pid)
            })
    }
}

fn number<T: FromStr>(value: &str) -> Option<T> {
    value.trim().parse().ok()
}

fn list<T>(value: &str, read: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    value.split(',').map(|part| read(part.trim())).collect()
}

fn words(value: &str) -> Option<Vec<String>> {
    Some(value.split(',').map(|word| word.trim().to_owned()).collect())
}

/// Parses an ISO 8601 time; a time without an offset is UTC.
fn time(value: &str) -> Result<Timestamp, &'static str> {
    let expected = "an ISO 8601 time, such as 2026-03-01T08:00:00Z";
    value.parse::<Timestamp>().or_else(|_| {
        let local: DateTime = value.parse().map_err(|_| expected)?;
        TimeZone::UTC.to_timestamp(local).map_err(|_| expected)
    })
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        let escaped = tail.first_chunk::<2>().and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 16).ok()
        });
        match (first, escaped) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            (b'+', _) => bytes.push(b' '),
            (other, _) => bytes.push(*other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn python_client_query_is_parsed() {
        let query =
            Query::parse("result=new%2Cexact&date_from=2026-03-01+08%3A00%3A00%2B00%3A00&limit=20&offset=0")
                .unwrap();
        assert_eq!(query.result, Some(vec![EntryResult::New, EntryResult::Exact]));
        assert_eq!(query.date_from, Some("2026-03-01T08:00:00Z".parse().unwrap()));
    }

    #[test]
    fn time_without_offset_is_utc() {
        assert_eq!(
            time("2026-03-01T08:00:00"),
            Ok("2026-03-01T08:00:00Z".parse().unwrap())
        );
        assert_eq!(time("2026-03-01"), Ok("2026-03-01T00:00:00Z".parse().unwrap()));
    }

    #[test]
    fn error_names_the_field() {
        let error = Query::parse("limit=many").unwrap_err();
        assert_eq!(
            error.to_string(),
            "`limit` expects a number from 1, found \"many\""
        );
        assert_eq!(error.field(), "limit");
        for wrong in [
            "limit=0",
            "offset=-1",
            "spaces_ids=1,x",
            "result=old",
            "date_to=soon",
            "sex=2",
        ] {
            assert!(Query::parse(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_query_does_not_panic(text in ".{0,60}") {
            let _ = Query::parse(&text);
        }
    }
}
