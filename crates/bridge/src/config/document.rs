//! The configuration as it was given: the values of the file and of the environment, and the origin of each key.

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

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

/// The values of a file, overridden by those of the environment.
#[derive(Debug, Default)]
pub(super) struct Document {
    /// The values. A date or a time is null, because no key accepts one.
    pub(super) values: Map<String, Value>,
    /// The origin of each key.
    pub(super) key_origins: BTreeMap<KeyPath, KeyOrigin>,
    /// The configuration file, then the files that it includes. Empty when all values come from the environment.
    pub(super) files: Vec<TextFile>,
}

/// A file with its text.
#[derive(Debug)]
pub(super) struct TextFile {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

/// The file or the variable that sets a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KeyOrigin {
    /// The index of the file, and the byte ranges of the key and of its value in the file. For an item of an array, both ranges are
    /// that of the item.
    File {
        file: usize,
        key: Range<usize>,
        value: Range<usize>,
    },
    /// An environment variable; for a table that several variables set, one of them.
    Variable(String),
}

impl Document {
    /// Parses the text of a file.
    ///
    /// # Errors
    /// Fails when the text is invalid TOML.
    pub(super) fn parse(path: &Path, text: &str, shape: &Shape<'_>) -> Result<Self, Report> {
        let mut document = Self::default();
        document.values = document.add_file(&mut Vec::new(), path, text, shape)?;
        Ok(document)
    }

    /// Replaces the value of a key by the table in the text of a file.
    ///
    /// # Errors
    /// Fails when the text is invalid TOML.
    pub(super) fn include(
        &mut self,
        key: &[String],
        path: &Path,
        text: &str,
        shape: &Shape<'_>,
    ) -> Result<(), Report> {
        let table = self.add_file(&mut key.to_vec(), path, text, shape)?;
        self.replace(key, Value::Object(table));
        Ok(())
    }

    /// Replaces the value of a key, which must exist.
    pub(super) fn replace(&mut self, key: &[String], value: Value) {
        let replaced = key.split_first().and_then(|(first, rest)| {
            rest.iter()
                .try_fold(self.values.get_mut(first)?, |value, key| value.get_mut(key))
        });
        if let Some(replaced) = replaced {
            *replaced = value;
        }
    }

    /// Adds a file that is included at the key `key`, and returns its values.
    fn add_file(
        &mut self,
        key: &mut KeyPath,
        path: &Path,
        text: &str,
        shape: &Shape<'_>,
    ) -> Result<Map<String, Value>, Report> {
        let (table, errors) = DeTable::parse_recoverable(text);
        if let Some(language) = other_language(text).filter(|_| !errors.is_empty()) {
            let message = format!(
                "found {language}, expected TOML: [sources.main] in a line, and token_file = \"…\" below it"
            );
            return Err(Report::of_file(path, message));
        }
        let mut report = Report::default();
        for error in errors {
            let position = error.span().map(|span| position(text, span.start));
            let origin = Origin::File {
                path: path.to_owned(),
                position,
            };
            // The error's own rendering quotes the line, which may contain a token.
            let message = format!("invalid TOML: {}", error.message().trim());
            report.push(Problem {
                excerpt: error.span().map(|span| excerpt::of_broken(text, shape, &span)),
                ..Problem::new(origin, &[], message)
            });
        }
        report.finish()?;
        self.files.push(TextFile {
            path: path.to_owned(),
            text: text.to_owned(),
        });
        Ok(self.table(key, table.get_ref()))
    }

    /// Returns the configuration file; `None` when all values come from the environment.
    pub(super) fn path(&self) -> Option<&Path> {
        self.files.first().map(|file| file.path.as_path())
    }

    /// Sets a key to the value of an environment variable. The keys of a table are set one by one.
    pub(super) fn set(&mut self, path: &[String], value: Value, variable: &str) {
        let key_origin = || KeyOrigin::Variable(variable.to_owned());
        let Some((last, around)) = path.split_last() else {
            return;
        };
        let mut table = &mut self.values;
        for (depth, key) in around.iter().enumerate() {
            self.key_origins
                .entry(path[..=depth].to_vec())
                .or_insert_with(key_origin);
            let below = table.entry(key).or_insert_with(|| Value::Object(Map::new()));
            if !below.is_object() {
                *below = Value::Object(Map::new());
            }
            let Value::Object(below) = below else {
                return;
            };
            table = below;
        }
        match value {
            Value::Object(keys) if !keys.is_empty() => {
                for (key, value) in keys {
                    self.set(&[path, &[key]].concat(), value, variable);
                }
            }
            value => {
                table.insert(last.clone(), value);
                // The keys of a replaced table no longer exist.
                self.key_origins.retain(|known, _| !known.starts_with(path));
            }
        }
        self.key_origins.insert(path.to_vec(), key_origin());
    }

    /// Returns the value of a key.
    pub(super) fn value(&self, path: &[String]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        rest.iter()
            .try_fold(self.values.get(first)?, |value, key| match value {
                Value::Array(items) => items.get(key.parse::<usize>().ok()?),
                value => value.get(key),
            })
    }

    /// Returns the origin of the key, or else of the nearest enclosing table that has an origin, and the key whose origin it is.
    pub(super) fn origin<'k>(&self, key: &'k [String]) -> (Origin, &'k [String]) {
        let origin = |file: usize, offset: Option<usize>| match self.files.get(file) {
            Some(file) => Origin::File {
                path: file.path.clone(),
                position: offset.map(|offset| position(&file.text, offset)),
            },
            None => Origin::Unknown,
        };
        (1..=key.len())
            .rev()
            .find_map(|length| {
                let key = &key[..length];
                Some(match self.key_origins.get(key)? {
                    KeyOrigin::File { file, key: range, .. } => (origin(*file, Some(range.start)), key),
                    KeyOrigin::Variable(name) => (Origin::Variable(name.clone()), key),
                })
            })
            .unwrap_or_else(|| (origin(0, None), &[]))
    }

    fn table(&mut self, path: &mut KeyPath, table: &DeTable<'_>) -> Map<String, Value> {
        let entries = table.iter().map(|(key, value)| {
            let name: &str = key.get_ref();
            (name.to_owned(), self.entry(path, name, key.span(), value))
        });
        entries.collect()
    }

    /// Records the origin of a key or an item, and returns its value.
    fn entry(
        &mut self,
        path: &mut KeyPath,
        key: &str,
        span: Range<usize>,
        value: &Spanned<DeValue<'_>>,
    ) -> Value {
        path.push(key.to_owned());
        let key_origin = KeyOrigin::File {
            file: self.files.len() - 1,
            key: span,
            value: value.span(),
        };
        self.key_origins.insert(path.clone(), key_origin);
        let value = self.convert(path, value.get_ref());
        path.pop();
        value
    }

    fn convert(&mut self, path: &mut KeyPath, value: &DeValue<'_>) -> Value {
        match value {
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
            DeValue::Datetime(_) => Value::Null,
            DeValue::Array(array) => {
                let items = array.iter().enumerate();
                items
                    .map(|(index, item)| self.entry(path, &index.to_string(), item.span(), item))
                    .collect()
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

/// Reads the text of a file.
///
/// # Errors
/// The file cannot be read, or is too large.
pub(super) fn read_text(path: &Path) -> Result<String, ReadError> {
    let content = match file::read_within(path, MAX_FILE_BYTES, TIME_LIMIT) {
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            let message = format!("found more than {MAX_FILE_BYTES} bytes, expected a configuration in TOML");
            return Err(ReadError::Report(Report::of_file(path, message)));
        }
        content => content.map_err(ReadError::Io)?,
    };
    Ok(content.text().map_err(ReadError::Io)?.to_owned())
}

/// Returns YAML or JSON if the text begins like a text in this language, and unlike any TOML.
fn other_language(text: &str) -> Option<&'static str> {
    let mut lines = text.lines().map(str::trim);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with('#'))?;
    if first.starts_with('{') {
        return Some("JSON");
    }
    // A line without a colon is not YAML: "-" is neither empty nor begins with a blank.
    let (key, value) = first.split_once(':').unwrap_or((first, "-"));
    let is_word = |key: &str| key.chars().all(|c| c.is_alphanumeric() || "_-.".contains(c));
    let is_yaml = is_word(key) && (value.is_empty() || value.starts_with(' ')) || first == "---";
    is_yaml.then_some("YAML")
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
#[path = "tests/document.rs"]
mod tests;
