//! The parsed configuration file: its values and the position of each key.

use std::{collections::BTreeMap, io, ops::Range, path::Path, time::Duration};

use neurobridge_core::file;

use serde_json::{Map, Number, Value};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    excerpt,
    report::{Origin, Problem, Report},
    shape::Shape,
};

/// The largest configuration file. A larger file is most likely not a configuration.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// The time limit of reading the file, which may be the output of a command: `-c <(…)`.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// A path of keys; the indices of an array are keys as well.
pub(super) type KeyPath = Vec<String>;

/// A parsed TOML file.
#[derive(Debug, Default)]
pub(super) struct Document {
    /// The values.
    pub(super) values: Map<String, Value>,
    /// The position of each key.
    pub(super) places: BTreeMap<KeyPath, Place>,
    /// The text of the file.
    pub(super) text: String,
    /// Keys whose value is a date or a time, which is never valid.
    dates: Vec<KeyPath>,
}

/// The byte ranges of a key and its value. An item of an array is its own key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) key: Range<usize>,
    pub(super) value: Range<usize>,
}

impl Document {
    /// Reads a file.
    ///
    /// # Errors
    /// Fails when the file cannot be read or is invalid TOML; all syntax errors that the parser recovers from are reported.
    pub(super) fn read(path: &Path, shape: &Shape<'_>) -> Result<Self, ReadError> {
        let content = match file::read_within(path, MAX_FILE_BYTES, TIME_LIMIT) {
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                let message =
                    format!("found more than {MAX_FILE_BYTES} bytes, expected a configuration in TOML");
                return Err(ReadError::Report(Report::of_file(path, None, message)));
            }
            content => content.map_err(ReadError::Io)?,
        };
        let text = content.text().map_err(ReadError::Io)?;
        Self::parse(path, text, shape).map_err(ReadError::Report)
    }

    /// Parses the text of a file.
    ///
    /// # Errors
    /// Fails when the text is invalid TOML.
    pub(super) fn parse(path: &Path, text: &str, shape: &Shape<'_>) -> Result<Self, Report> {
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut report = Report::default();
        for error in errors {
            // The error's own rendering quotes the line, which may contain a token.
            let message = format!("invalid TOML: {}", error.message().trim());
            report.push(Problem {
                origin: Origin::File {
                    path: path.to_owned(),
                    position: error.span().map(|span| position(text, span.start)),
                },
                key: String::new(),
                message,
                hint: None,
                excerpt: error.span().map(|span| excerpt::of_broken(text, shape, &span)),
            });
        }
        if !report.is_empty() {
            report.sort();
            return Err(report);
        }
        let mut document = Self {
            text: text.to_owned(),
            ..Self::default()
        };
        document.values = document.table(&mut Vec::new(), table.get_ref());
        for key in &document.dates {
            report.push(Problem {
                origin: document.origin(path, key).unwrap_or(Origin::File {
                    path: path.to_owned(),
                    position: None,
                }),
                key: key.join("."),
                message: "found a date or a time, expected a string in quotes, a number, or true or false"
                    .into(),
                hint: None,
                excerpt: document
                    .places
                    .get(key)
                    .map(|place| excerpt::of_broken(text, shape, &place.value)),
            });
        }
        if !report.is_empty() {
            report.sort();
            return Err(report);
        }
        Ok(document)
    }

    /// Returns the position of a key in the file at `path`.
    pub(super) fn origin(&self, path: &Path, key: &[String]) -> Option<Origin> {
        self.places.get(key).map(|place| Origin::File {
            path: path.to_owned(),
            position: Some(position(&self.text, place.key.start)),
        })
    }

    fn table(&mut self, path: &mut KeyPath, table: &DeTable<'_>) -> Map<String, Value> {
        let mut values = Map::new();
        for (key, value) in table {
            path.push(key.get_ref().clone().into_owned());
            let place = Place {
                key: key.span(),
                value: value.span(),
            };
            self.places.insert(path.clone(), place);
            values.insert(key.get_ref().clone().into_owned(), self.value(path, value));
            path.pop();
        }
        values
    }

    fn value(&mut self, path: &mut KeyPath, value: &Spanned<DeValue<'_>>) -> Value {
        match value.get_ref() {
            DeValue::String(string) => Value::String(string.clone().into_owned()),
            DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
                .map_or_else(|_| Value::String(integer.as_str().to_owned()), Value::from),
            // JSON has no NaN and no infinity; as strings, they are rejected where a number is expected.
            DeValue::Float(float) => float
                .as_str()
                .parse()
                .ok()
                .and_then(Number::from_f64)
                .map_or_else(|| Value::String(float.as_str().to_owned()), Value::Number),
            DeValue::Boolean(boolean) => Value::Bool(*boolean),
            DeValue::Datetime(datetime) => {
                self.dates.push(path.clone());
                Value::String(datetime.to_string())
            }
            DeValue::Array(array) => {
                let mut values = Vec::new();
                for (place, item) in array.iter().enumerate() {
                    path.push(place.to_string());
                    let place = Place {
                        key: item.span(),
                        value: item.span(),
                    };
                    self.places.insert(path.clone(), place);
                    values.push(self.value(path, item));
                    path.pop();
                }
                Value::Array(values)
            }
            DeValue::Table(table) => Value::Object(self.table(path, table)),
        }
    }
}

/// The reason why a document cannot be read.
#[derive(Debug)]
pub(super) enum ReadError {
    /// The file cannot be read.
    Io(io::Error),
    /// The file is invalid TOML.
    Report(Report),
}

/// Returns line and column of an offset, from 1; columns count characters.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (
        before.matches('\n').count() + 1,
        before[line_start..].chars().count() + 1,
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(text: &str) -> Result<Document, Report> {
        let schema = crate::config::schema();
        Document::parse(Path::new("n.toml"), text, &Shape::root(&schema))
    }

    #[test]
    fn values_and_places_of_keys_are_known() {
        let text = "a = 0x10\n[b.c]\n  d = [\n 1.5,\n true]\ne.f = { g = \"1979-05-27\" }\n";
        let document = parse(text).unwrap();
        assert_eq!(
            Value::Object(document.values.clone()),
            json!({ "a": 16, "b": { "c": { "d": [1.5, true], "e": { "f": { "g": "1979-05-27" } } } } })
        );
        let at = |key: &str| {
            let key: KeyPath = key.split('.').map(str::to_owned).collect();
            document
                .places
                .get(&key)
                .map(|place| position(text, place.key.start))
        };
        assert_eq!(at("a"), Some((1, 1)));
        assert_eq!(at("b.c.d"), Some((3, 3)));
        assert_eq!(at("b.c.d.1"), Some((5, 2)));
        assert_eq!(at("b.c.e.f.g"), Some((6, 9)));
        assert_eq!(at("b.d"), None);
    }

    #[test]
    fn errors_name_the_place_and_never_quote_a_secret() {
        let report = parse("[sources.main]\ntoken = \"hunter2\nurl = = 1\n")
            .unwrap_err()
            .to_string();
        assert!(
            report.contains("n.toml:2:") && report.contains("n.toml:3:"),
            "{report}"
        );
        assert!(!report.contains("hunter2"), "{report}");
    }
}
