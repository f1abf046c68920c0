//! From a file and the environment to a configuration, or to all that is wrong with it.

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

/// Where a configuration is looked for when none is named, in this order.
pub const PLACES: &[&str] = &["neurobridge.toml", "/etc/neurobridge/neurobridge.toml"];

/// A configuration that is right.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The file that it comes from; without one it is the environment's alone.
    pub file: Option<PathBuf>,
    /// Where each key that is set comes from, by its parts with dots between them.
    pub(super) origins: BTreeMap<String, Origin>,
    /// The files of tokens, passwords, keys and certificates that it names, by key.
    files: Vec<(String, PathBuf)>,
}

/// A file that the configuration names, and that can't be read from here.
#[derive(Debug)]
pub struct UnreadableFile {
    /// The key, with dots between its parts.
    pub key: String,
    /// Where it is set.
    pub origin: Option<Origin>,
    /// The file.
    pub path: PathBuf,
    /// Why it can't be read.
    pub error: io::Error,
}

impl Loaded {
    /// The files of tokens, passwords, keys and certificates that can't be read from here. No mistake of the configuration:
    /// they may be there where the bridge is to run.
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

/// Reads the configuration: the named file, or the first of [`PLACES`] that is there, then the environment.
///
/// # Errors
/// All that is wrong with it; a named file that is not there too.
pub fn load(named: Option<&Path>) -> Result<Loaded, Report> {
    load_from(named, PLACES.iter().map(Path::new), env::vars_os())
}

/// As [`load`], from other places and another environment.
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
    let (config, mistakes) = tables::read(merged, &shape);
    let origins = Origins {
        file: path.as_deref(),
        document: &document,
        environment: &environment,
    };
    for mistake in mistakes {
        let (origin, found) = origins.of(&mistake.key);
        let excerpt = match &origin {
            Origin::File { .. } => excerpt::of(&document, &shape, &mistake.key[..found]),
            _ => None,
        };
        report.push(Problem {
            origin,
            excerpt,
            key: mistake.key.join("."),
            message: mistake.message,
            hint: match mistake.hint {
                Some(hint) if path.is_none() && !places.is_empty() && mistake.key == ["sources"] => {
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

/// The JSON Schema of the configuration.
pub fn schema() -> Value {
    let mut schema = schemars::schema_for!(Config).to_value();
    examples::add(&mut schema);
    // Without a type it is a spool in memory.
    if let Some(Value::Array(needed)) = schema.pointer_mut("/$defs/SpoolConfig/oneOf/0/required") {
        needed.retain(|key| key != "type");
    }
    schema
}

/// The file to read. figment takes a file that is not there for an empty one; a bridge that silently runs with
/// defaults helps nobody.
fn find(
    named: Option<&Path>,
    places: &[&Path],
    shape: &Shape<'_>,
) -> Result<Option<(PathBuf, Document)>, Report> {
    let unreadable = |path: &Path, error: &io::Error| {
        Report::of_file(
            path,
            None,
            format!("the file can't be read: {error}, expected the configuration; -c names another file"),
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

/// A hint for whoever thinks that there is a file: where none was found.
fn no_file(places: &[&Path], hint: &str) -> String {
    let looked: Vec<_> = places
        .iter()
        .map(|place| Path::new(".").join(place).display().to_string())
        .collect();
    format!(
        "there is no {}; name a file with -c, {hint}",
        looked.join(" and no ")
    )
}

/// The file's values, and the environment's above them.
fn merge(document: &Document, environment: &Environment) -> Map<String, Value> {
    let figment = environment.layers.iter().fold(
        Figment::from(Serialized::defaults(&document.values)),
        |figment, layer| figment.merge(Serialized::defaults(layer)),
    );
    figment
        .extract()
        .expect("tables of texts, numbers and booleans are JSON")
}

/// Why a file can't be read. A pipe or a device is not opened: that may wait for ever, or take what it holds.
fn unreadable(path: &Path) -> Option<io::Error> {
    file::try_open(path).err()
}

/// The values of all keys whose name ends as those of files do.
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

/// Where keys come from.
struct Origins<'a> {
    file: Option<&'a Path>,
    document: &'a Document,
    environment: &'a Environment,
}

impl Origins<'_> {
    /// Of the key itself, or of the nearest table around it; how many parts of the key that has.
    fn of(&self, key: &[String]) -> (Origin, usize) {
        for length in (1..=key.len()).rev() {
            let key = &key[..length];
            let variable = || self.environment.origin(key);
            let place = || self.document.origin(self.file?, key);
            // A value that both set is the environment's; a table that both know is better looked up in the file.
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
    fn what_can_be_read_is_told_without_reading_it() {
        let dir = tempfile::tempdir().unwrap();
        let [file, pipe] = ["file", "pipe"].map(|name| dir.path().join(name));
        fs::write(&file, "secret").unwrap();
        mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        assert!(unreadable(&file).is_none());
        // Opened, it would wait for somebody who writes.
        assert!(unreadable(&pipe).is_none());
        assert_eq!(
            unreadable(dir.path()).unwrap().kind(),
            io::ErrorKind::IsADirectory
        );
        let missing = unreadable(&dir.path().join("missing")).unwrap();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
