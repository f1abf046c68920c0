//! The dead letters in the files of a configuration.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufRead, BufReader, ErrorKind},
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::Arc,
};

use anyhow::Context;
use jiff::Timestamp;
use neurobridge_core::{event::Sequence, identity, sink_type::DeadLetterPlace};
use neurobridge_sink_file::FileDeadLetters;
use serde::{Deserialize, Deserializer, de::IgnoredAny};
use serde_json::value::RawValue;
use tracing::warn;

use crate::{
    config::Config,
    exit::{Exit, Failure, OrExit},
};

/// The length of an id, in hexadecimal digits: among 100,000 dead letters, two have the same id with a probability of 1 in
/// 50,000.
const ID_LENGTH: usize = 12;

/// A dead letter in a file. Its event stays in the file until it is needed, because all of them together may be larger than the
/// memory.
pub(super) struct StoredDeadLetter {
    pub(super) id: String,
    pub(super) file: Arc<OpenFile>,
    pub(super) fields: Fields,
    offset: u64,
    /// The length of the line in bytes, without its end.
    pub(super) line_bytes: usize,
}

/// A file of dead letters. It stays open, so that its lines can be read after a running bridge has renamed or removed it.
pub(super) struct OpenFile {
    pub(super) path: PathBuf,
    file: File,
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
    /// `None` for a malformed frame, which belongs to a source alone.
    pub(super) sink: Option<String>,
    /// The identity of the event: `source/id`.
    #[serde(rename = "id")]
    pub(super) identity: Option<String>,
    pub(super) sequence: Option<Sequence>,
    /// Whether the dead letter contains its event.
    #[serde(default, rename = "event", deserialize_with = "is_present")]
    pub(super) has_event: bool,
}

fn is_present<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    Ok(Option::<IgnoredAny>::deserialize(value)?.is_some())
}

impl Fields {
    fn id(&self) -> String {
        let text = format!(
            "{}/{}/{}/{}/{}/{}",
            self.sink.as_deref().unwrap_or_default(),
            self.source,
            self.received_at,
            self.sequence.map_or(0, Sequence::get),
            self.hash,
            self.reason
        );
        let mut id = format!("{:032x}", identity::body_hash(&text));
        id.truncate(ID_LENGTH);
        id
    }
}

impl StoredDeadLetter {
    /// Reads the JSON object as it is stored.
    pub(super) fn line(&self) -> Result<String, Failure> {
        let mut line = vec![0; self.line_bytes];
        self.file
            .file
            .read_exact_at(&mut line, self.offset)
            .with_context(|| format!("{} cannot be read", self.file.path.display()))
            .or_exit(Exit::Disk)?;
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    /// Reads the frame of the event, as it was redacted when the dead letter was stored. `None` if the dead letter has no event.
    pub(super) fn event(&self) -> Result<Option<Box<RawValue>>, Failure> {
        #[derive(Deserialize)]
        struct Event {
            event: Option<Box<RawValue>>,
        }
        let line = self.line()?;
        let event = serde_json::from_str::<Event>(&line);
        Ok(event.ok().and_then(|found| found.event))
    }

    /// Returns the hash in an identity of the form `source/id~hash`: an event with this id had another body before.
    pub(super) fn conflict(&self) -> Option<u32> {
        let (_, digits) = self.fields.identity.as_deref()?.rsplit_once('~')?;
        (digits.len() == 8).then(|| u32::from_str_radix(digits, 16).ok())?
    }
}

/// Reads all dead letters, the oldest file first. Omits an incomplete last line, which a bridge is writing, and a dead letter that
/// is stored twice. Warns of other lines that are not dead letters.
pub(super) fn read(config: &Config) -> Result<Vec<StoredDeadLetter>, Failure> {
    read_files(files(config)?)
}

/// Reads all dead letters like [`read`]. Returns `None` if a running bridge renamed a file during the call: the result may
/// lack the dead letters of that file.
pub(super) fn read_unless_renamed(config: &Config) -> Result<Option<Vec<StoredDeadLetter>>, Failure> {
    let before = files(config)?;
    let dead_letters = read_files(before.clone())?;
    Ok((files(config)? == before).then_some(dead_letters))
}

/// Returns the paths of all files with dead letters.
fn files(config: &Config) -> Result<Vec<PathBuf>, Failure> {
    let mut places = vec![config.dead_letters.path.as_path()];
    for sink in config.sinks.values() {
        if let DeadLetterPlace::File(path) = sink.config.dead_letter_place() {
            places.push(path);
        }
    }
    let mut files = Vec::new();
    for place in places {
        let path = config.data_dir.join(place);
        match path.parent() {
            Some(folder) if !folder.exists() => {}
            _ => files.extend(FileDeadLetters::files(&path).or_exit(Exit::Disk)?),
        }
    }
    Ok(files)
}

fn read_files(files: Vec<PathBuf>) -> Result<Vec<StoredDeadLetter>, Failure> {
    let mut dead_letters = Vec::new();
    let mut ids = BTreeSet::new();
    for path in files {
        read_file(path, &mut |dead_letter| {
            if ids.insert(dead_letter.id.clone()) {
                dead_letters.push(dead_letter);
            }
        })?;
    }
    Ok(dead_letters)
}

fn read_file(path: PathBuf, found: &mut impl FnMut(StoredDeadLetter)) -> Result<(), Failure> {
    let unreadable = format!("{} cannot be read", path.display());
    let file = match File::open(&path) {
        Ok(file) => Arc::new(OpenFile { path, file }),
        // Removed by age, or no dead letter was stored yet.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).context(unreadable).or_exit(Exit::Disk),
    };
    let mut lines = BufReader::new(&file.file);
    let mut line = Vec::new();
    let (mut offset, mut damaged) = (0, 0_u64);
    loop {
        line.clear();
        let bytes = lines.read_until(b'\n', &mut line);
        let bytes = bytes.context(unreadable.clone()).or_exit(Exit::Disk)?;
        let Some(text) = line.strip_suffix(b"\n") else {
            break;
        };
        match serde_json::from_str::<Fields>(&String::from_utf8_lossy(text)) {
            Ok(fields) => found(StoredDeadLetter {
                id: fields.id(),
                file: Arc::clone(&file),
                fields,
                offset,
                line_bytes: text.len(),
            }),
            Err(_) => damaged += 1,
        }
        offset += bytes as u64;
    }
    if damaged > 0 {
        let file = file.path.display();
        warn!(%file, damaged, "lines omitted: expected one dead letter in each, as a JSON object");
    }
    Ok(())
}

/// Returns the dead letters with these ids or beginnings of ids. Without ids, returns all dead letters.
///
/// # Errors
/// Returns an error if an id matches no dead letter, or several.
pub(super) fn select(
    dead_letters: Vec<StoredDeadLetter>,
    ids: &[String],
) -> Result<Vec<StoredDeadLetter>, Failure> {
    if ids.is_empty() {
        return Ok(dead_letters);
    }
    for id in ids {
        let found = dead_letters
            .iter()
            .filter(|found| found.id.starts_with(id.as_str()));
        let message = match found.count() {
            1 => continue,
            0 => format!("no dead letter has the id {id}; `neurobridge dead-letters ls` lists all ids"),
            many => format!("{many} dead letters have ids that begin with \"{id}\"; enter more digits"),
        };
        return Err(Failure::message(Exit::Usage, message));
    }
    let is_named = |found: &StoredDeadLetter| ids.iter().any(|id| found.id.starts_with(id.as_str()));
    Ok(dead_letters.into_iter().filter(is_named).collect())
}
