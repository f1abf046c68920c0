//! Loads the configuration from a file and the environment, or reports all configuration errors.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fmt, io,
    path::{Path, PathBuf},
};

use neurobridge_core::file;
use serde_json::{Map, Value};

use super::{
    checks,
    document::{Document, KeyPath, ReadError, read_text},
    environment, examples, feeds,
    model::Config,
    report::{Origin, Report},
    shape::Shape,
    tables, validate,
};

/// Default paths of the configuration file, in the order in which they are tried.
pub const DEFAULT_PATHS: &[&str] = &["neurobridge.toml", "/etc/neurobridge/neurobridge.toml"];

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
    settings: Settings,
}

/// The values of all keys that are set in the file or the environment, with secrets.
#[derive(Clone)]
struct Settings(Map<String, Value>);

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[with secrets]")
    }
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
    /// Returns the values of all keys that are set, with secrets, so that two configurations can be compared.
    pub(crate) const fn settings(&self) -> &Map<String, Value> {
        &self.settings.0
    }

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

/// The environment variable that names the configuration file.
const FILE_VARIABLE: &str = "NEUROBRIDGE_CONFIG";

/// Reads the configuration: the named file, that of the variable `NEUROBRIDGE_CONFIG`, or the first of [`DEFAULT_PATHS`] that
/// exists, then the environment.
///
/// # Errors
/// Returns all configuration errors. A named file that does not exist is one.
pub fn load(named: Option<&Path>) -> Result<Loaded, Report> {
    load_with(named, Keys::Unread)
}

/// Loads the configuration like [`load`], and reads the keys of pseudonymisation, so that an unreadable or invalid key is
/// reported with the other errors.
///
/// # Errors
/// Returns all configuration errors, like [`load`], and those of the keys.
pub fn load_with_keys(named: Option<&Path>) -> Result<Loaded, Report> {
    load_with(named, Keys::Read)
}

fn load_with(named: Option<&Path>, keys: Keys) -> Result<Loaded, Report> {
    let variable = env::var_os(FILE_VARIABLE).filter(|path| !path.is_empty());
    let named = named.or(variable.as_deref().map(Path::new));
    load_from(named, DEFAULT_PATHS.iter().map(Path::new), env::vars_os(), keys)
}

/// Reads a configuration from a text alone, for tests.
#[cfg(test)]
pub(crate) fn load_text(text: &str) -> Result<Loaded, Report> {
    let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
    let path = folder.path().join("neurobridge.toml");
    std::fs::write(&path, text).unwrap_or_else(|error| panic!("{error}"));
    load_from(Some(&path), [], [], Keys::Unread)
}

/// Whether the keys of pseudonymisation are read. Most commands need none, and their user may not be allowed to read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    Read,
    Unread,
}

/// Reads the configuration as [`load`] does, from the given paths and variables.
pub(super) fn load_from<'p>(
    named: Option<&Path>,
    paths: impl IntoIterator<Item = &'p Path>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    keys: Keys,
) -> Result<Loaded, Report> {
    let schema = schema();
    let shape = Shape::root(&schema);
    let paths: Vec<&Path> = paths.into_iter().collect();
    let mut document = find(named, &paths, &shape)?;
    let mut report = Report::default();
    environment::read(variables, &shape, &mut document, &mut report);
    feeds::include(&mut document, &shape, &mut report);
    report.locate(feeds::check(&document), &document, &shape);
    feeds::set_defaults(&mut document, &shape);
    let (config, mut errors) = tables::read(document.values.clone(), &shape);
    if keys == Keys::Read {
        // Added last, so that a key with an earlier error is not reported twice.
        checks::check_keys(&config, &mut errors);
        errors = validate::without_consequences(errors);
    }
    for error in errors.iter_mut().filter(|error| error.key == ["sources"]) {
        if document.path().is_none()
            && let Some(hint) = &mut error.hint
        {
            *hint = no_file(&paths, hint);
        }
    }
    report.locate(errors, &document, &shape);
    report.finish()?;
    let mut files = Vec::new();
    named_files(&document.values, &mut Vec::new(), &mut files);
    Ok(Loaded {
        config,
        origins: document
            .key_origins
            .keys()
            .map(|key| (key.join("."), document.origin(key).0))
            .collect(),
        file: document.path().map(Path::to_owned),
        files,
        settings: Settings(document.values),
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

/// Finds and parses the configuration file. Without one, the document is empty.
fn find(named: Option<&Path>, paths: &[&Path], shape: &Shape<'_>) -> Result<Document, Report> {
    for path in named.map_or(paths, |_| &[]).iter().copied().chain(named) {
        match read_text(path) {
            Ok(text) => return Document::parse(path, &text, shape),
            Err(ReadError::Io(error)) if named.is_none() && error.kind() == io::ErrorKind::NotFound => {}
            Err(ReadError::Io(error)) => {
                let message = format!(
                    "file cannot be read: {error}, expected a configuration file; -c or {FILE_VARIABLE} names \
                     another file"
                );
                return Err(Report::of_file(path, message));
            }
            Err(ReadError::Report(report)) => return Err(report),
        }
    }
    Ok(Document::default())
}

/// Returns a hint with the paths at which no file was found.
fn no_file(paths: &[&Path], hint: &str) -> String {
    if paths.is_empty() {
        return hint.to_owned();
    }
    let looked: Vec<_> = paths
        .iter()
        .map(|path| Path::new(".").join(path).display().to_string())
        .collect();
    format!("no file {}; name a file with -c, {hint}", looked.join(" or "))
}

/// Returns the error of opening a file. Does not open a pipe or a device: opening may block for ever, or consume data.
fn unreadable(path: &Path) -> Option<io::Error> {
    file::try_open(path).err()
}

/// Collects the values of all keys that end with `_file`, and the files of the secrets of declared feeds.
fn named_files(table: &Map<String, Value>, at: &mut KeyPath, files: &mut Vec<(String, PathBuf)>) {
    for (key, value) in table {
        at.push(key.clone());
        match value {
            Value::Object(table) => named_files(table, at, files),
            Value::String(path) => {
                let key = at.join(".");
                if key.ends_with("_file") || feeds::is_feed_secret_key(&key, "file") {
                    files.push((key, path.into()));
                }
            }
            _ => {}
        }
        at.pop();
    }
}

#[cfg(test)]
#[path = "tests/load.rs"]
mod tests;
