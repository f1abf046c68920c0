//! Loads the configuration from a file and the environment, or reports all configuration errors.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

use figment::{Figment, providers::Serialized};
use neurobridge_core::file;
use serde_json::{Map, Value};

use super::{
    document::{Document, KeyPath, ReadError},
    environment::Environment,
    examples, excerpt,
    model::Config,
    report::{Origin, Problem, Report},
    shape::Shape,
    tables,
};

/// Default paths of the configuration file, in the order in which they are tried.
pub const PLACES: &[&str] = &["neurobridge.toml", "/etc/neurobridge/neurobridge.toml"];

/// A valid configuration.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The configuration file; `None` when all values come from the environment.
    pub file: Option<PathBuf>,
    /// The origin of each key that is set, by dotted key.
    pub(super) origins: BTreeMap<String, Origin>,
    /// The files of tokens, passwords, keys and certificates that the configuration names, by dotted key.
    files: Vec<(String, PathBuf)>,
}

/// A file named in the configuration that this process cannot read.
#[derive(Debug)]
pub struct UnreadableFile {
    /// The key, with dots between its parts.
    pub key: String,
    /// The position at which the key is set.
    pub origin: Option<Origin>,
    /// The file.
    pub path: PathBuf,
    /// The reason.
    pub error: io::Error,
}

impl Loaded {
    /// Returns the files of tokens, passwords, keys and certificates that this process cannot read. They are not
    /// configuration errors: the files may exist on the machine that runs the bridge.
    pub fn unreadable_files(&self) -> Vec<UnreadableFile> {
        let look = |(key, path): &(String, PathBuf)| {
            Some(UnreadableFile {
                key: key.clone(),
                origin: self.origins.get(key).cloned(),
                path: path.clone(),
                error: unreadable(path)?,
            })
        };
        self.files.iter().filter_map(look).collect()
    }
}

/// Reads the configuration: the named file, or the first of [`PLACES`] that exists, then the environment.
///
/// # Errors
/// Returns all configuration errors. A named file that does not exist is one.
pub fn load(named: Option<&Path>) -> Result<Loaded, Report> {
    load_from(named, PLACES.iter().map(Path::new), env::vars_os())
}

/// Reads the configuration as [`load`] does, from the given paths and variables.
pub(super) fn load_from<'p>(
    named: Option<&Path>,
    places: impl IntoIterator<Item = &'p Path>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Loaded, Report> {
    let schema = schema();
    let shape = Shape::root(&schema);
    let places: Vec<&Path> = places.into_iter().collect();
    let file = find(named, &places, &shape)?;
    let mut report = Report::default();
    let environment = Environment::read(variables, &shape, &mut report);
    let (path, document) = file.map_or_else(
        || (None, Document::default()),
        |(path, document)| (Some(path), document),
    );

    let merged = merge(&document, &environment);
    let mut files = Vec::new();
    named_files(&merged, &mut Vec::new(), &mut files);
    let (config, errors) = tables::read(merged, &shape);
    let origins = Origins {
        file: path.as_deref(),
        document: &document,
        environment: &environment,
    };
    for error in errors {
        let (origin, found) = origins.of(&error.key);
        let excerpt = match &origin {
            Origin::File { .. } => excerpt::of(&document, &shape, &error.key[..found]),
            _ => None,
        };
        report.push(Problem {
            origin,
            excerpt,
            key: error.key.join("."),
            message: error.message,
            hint: match error.hint {
                Some(hint) if path.is_none() && !places.is_empty() && error.key == ["sources"] => {
                    Some(no_file(&places, &hint))
                }
                hint => hint,
            },
        });
    }
    report.sort();
    if !report.is_empty() {
        return Err(report);
    }
    let is_from_file = |key: &&KeyPath| !environment.sets(key);
    Ok(Loaded {
        config,
        origins: document
            .places
            .keys()
            .filter(is_from_file)
            .chain(environment.keys())
            .map(|key| (key.join("."), origins.of(key).0))
            .collect(),
        file: path,
        files,
    })
}

/// Returns the JSON Schema of the configuration.
pub fn schema() -> Value {
    let mut schema = schemars::schema_for!(Config).to_value();
    examples::add(&mut schema);
    // The default type of a spool is "memory".
    if let Some(Value::Array(needed)) = schema.pointer_mut("/$defs/SpoolConfig/oneOf/0/required") {
        needed.retain(|key| key != "type");
    }
    schema
}

/// Finds and parses the configuration file. figment treats a missing file as an empty one, so that the bridge would
/// silently run with defaults.
fn find(
    named: Option<&Path>,
    places: &[&Path],
    shape: &Shape<'_>,
) -> Result<Option<(PathBuf, Document)>, Report> {
    let unreadable = |path: &Path, error: &io::Error| {
        Report::of_file(
            path,
            None,
            format!("file cannot be read: {error}, expected a configuration file; -c names another one"),
        )
    };
    if let Some(path) = named {
        return match Document::read(path, shape) {
            Ok(document) => Ok(Some((path.to_owned(), document))),
            Err(ReadError::Io(error)) => Err(unreadable(path, &error)),
            Err(ReadError::Report(report)) => Err(report),
        };
    }
    for path in places {
        match Document::read(path, shape) {
            Ok(document) => return Ok(Some((path.to_path_buf(), document))),
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
            Err(ReadError::Io(error)) => return Err(unreadable(path, &error)),
            Err(ReadError::Report(report)) => return Err(report),
        }
    }
    Ok(None)
}

/// Returns a hint with the paths at which no file was found.
fn no_file(places: &[&Path], hint: &str) -> String {
    let looked: Vec<_> = places
        .iter()
        .map(|place| Path::new(".").join(place).display().to_string())
        .collect();
    format!("no file {}; name a file with -c, {hint}", looked.join(" or "))
}

/// Merges the values of file and environment; the environment overrides the file.
fn merge(document: &Document, environment: &Environment) -> Map<String, Value> {
    let figment = environment.layers.iter().fold(
        Figment::from(Serialized::defaults(&document.values)),
        |figment, layer| figment.merge(Serialized::defaults(layer)),
    );
    figment
        .extract()
        .expect("tables of texts, numbers and booleans are JSON")
}

/// Returns the error of opening a file. Does not open a pipe or a device: opening may block for ever, or consume data.
fn unreadable(path: &Path) -> Option<io::Error> {
    file::try_open(path).err()
}

/// Collects the values of all keys that end with `_file`.
fn named_files(table: &Map<String, Value>, at: &mut KeyPath, files: &mut Vec<(String, PathBuf)>) {
    for (key, value) in table {
        at.push(key.clone());
        match value {
            Value::Object(table) => named_files(table, at, files),
            Value::String(path) if key.ends_with("_file") => files.push((at.join("."), path.into())),
            _ => {}
        }
        at.pop();
    }
}

/// Resolves the origin of keys.
struct Origins<'a> {
    file: Option<&'a Path>,
    document: &'a Document,
    environment: &'a Environment,
}

impl Origins<'_> {
    /// Returns the origin of the key or of the nearest enclosing table, and the number of parts of that key.
    fn of(&self, key: &[String]) -> (Origin, usize) {
        for length in (1..=key.len()).rev() {
            let key = &key[..length];
            let variable = || self.environment.origin(key);
            let place = || self.document.origin(self.file?, key);
            // The environment overrides a value that both set; for a table that both set, the file's position is more helpful.
            let is_whole = self.environment.sets(key);
            let found = if is_whole {
                variable().or_else(place)
            } else {
                place().or_else(variable)
            };
            if let Some(origin) = found {
                return (origin, length);
            }
        }
        let nowhere = self.file.map_or(Origin::Nowhere, |path| Origin::File {
            path: path.to_owned(),
            position: None,
        });
        (nowhere, 0)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    #[test]
    fn readable_file_is_not_opened_for_the_check() {
        let dir = tempfile::tempdir().unwrap();
        let [file, pipe] = ["file", "pipe"].map(|name| dir.path().join(name));
        fs::write(&file, "secret").unwrap();
        mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        assert!(unreadable(&file).is_none());
        // Opening the pipe would block until a writer opens it.
        assert!(unreadable(&pipe).is_none());
        assert_eq!(
            unreadable(dir.path()).unwrap().kind(),
            io::ErrorKind::IsADirectory
        );
        let missing = unreadable(&dir.path().join("missing")).unwrap();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
