//! The dead letters in the files of a configuration.

use std::{
    collections::BTreeSet,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::Context;
use jiff::Timestamp;
use neurobridge_core::{event::Sequence, identity, sink_type::DeadLetterPlace};
use neurobridge_sink_file::FileDeadLetters;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    config::Config,
    exit::{Exit, Failure, OrExit},
};

/// The length of an id, in hexadecimal digits: with 100,000 dead letters, two of them have the same id once in 50,000 times.
const ID_LENGTH: usize = 12;

/// A dead letter.
pub(super) struct Letter {
    pub(super) id: String,
    /// The JSON object as it is stored.
    pub(super) line: String,
    pub(super) file: PathBuf,
    pub(super) fields: Fields,
}

/// The fields of a dead letter, see `dead_letter` of the core.
#[derive(Deserialize)]
pub(super) struct Fields {
    pub(super) reason: String,
    pub(super) detail: String,
    pub(super) source: String,
    pub(super) received_at: Timestamp,
    pub(super) length: u64,
    hash: String,
    /// `None` for a frame of a source that is not an event.
    pub(super) sink: Option<String>,
    /// The identity of the event: `source/id`.
    #[serde(rename = "id")]
    pub(super) identity: Option<String>,
    pub(super) sequence: Option<Sequence>,
    /// The frame of the event, after the redactions of its time.
    pub(super) event: Option<Box<RawValue>>,
}

impl Letter {
    fn parse(line: &str, file: &Path) -> Option<Self> {
        let fields: Fields = serde_json::from_str(line).ok()?;
        let sequence = fields.sequence.map_or(0, Sequence::get);
        let text = format!(
            "{}/{}/{}/{sequence}/{}/{}",
            fields.sink.as_deref().unwrap_or_default(),
            fields.source,
            fields.received_at,
            fields.hash,
            fields.reason
        );
        let mut id = format!("{:032x}", identity::body_hash(&text));
        id.truncate(ID_LENGTH);
        Some(Self {
            id,
            line: line.to_owned(),
            file: file.to_owned(),
            fields,
        })
    }

    /// Returns the hash in the id of an event whose identity had another body before.
    pub(super) fn conflict(&self) -> Option<u32> {
        let (_, digits) = self.fields.identity.as_deref()?.rsplit_once('~')?;
        (digits.len() == 8).then(|| u32::from_str_radix(digits, 16).ok())?
    }
}

/// Reads all dead letters, the oldest file first. An incomplete line, which a bridge is writing, is left out; so is a dead
/// letter that is stored twice.
pub(super) fn read(config: &Config) -> Result<Vec<Letter>, Failure> {
    let mut places = vec![config.dead_letters.path.as_path()];
    for sink in config.sinks.values() {
        if let DeadLetterPlace::File(path) = sink.config.dead_letter_place() {
            places.push(path);
        }
    }
    let mut letters = Vec::new();
    let mut ids = BTreeSet::new();
    for place in places {
        let path = config.data_dir.join(place);
        let files = match path.parent() {
            Some(folder) if !folder.exists() => Vec::new(),
            _ => FileDeadLetters::files(&path).or_exit(Exit::Disk)?,
        };
        for file in files {
            let text = match fs::read(&file) {
                Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                // Removed by age, or none was stored yet.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("{} cannot be read", file.display()))
                        .or_exit(Exit::Disk);
                }
            };
            let found = text.lines().filter_map(|line| Letter::parse(line, &file));
            letters.extend(found.filter(|letter| ids.insert(letter.id.clone())));
        }
    }
    Ok(letters)
}

/// Keeps the dead letters with these ids or beginnings of ids; all if there is none.
///
/// # Errors
/// Fails if one names no dead letter, or several.
pub(super) fn select(letters: Vec<Letter>, ids: &[String]) -> Result<Vec<Letter>, Failure> {
    if ids.is_empty() {
        return Ok(letters);
    }
    for id in ids {
        let found = letters.iter().filter(|letter| letter.id.starts_with(id.as_str()));
        let message = match found.count() {
            1 => continue,
            0 => format!("no dead letter has the id {id}; `neurobridge dead-letters ls` lists them"),
            many => format!("{many} dead letters have ids that begin with \"{id}\"; give more digits"),
        };
        return Err(Failure::message(Exit::Usage, message));
    }
    let is_named = |letter: &Letter| ids.iter().any(|id| letter.id.starts_with(id.as_str()));
    Ok(letters.into_iter().filter(is_named).collect())
}
