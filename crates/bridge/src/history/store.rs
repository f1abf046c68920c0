//! The file of the history: JSON lines, appended to, and rewritten when most of it is outdated.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::content::{HistoryContent, Line};
use crate::data_dir::HISTORY;

/// The version of the format. A file of a later version is not read.
const VERSION: u32 = 1;
/// The name of a rewritten file until it is complete.
const NEW: &str = "history.ndjson.new";
/// The name under which a file that could not be used is kept.
const ASIDE: &str = "history.ndjson.old";
const FILE_MODE: u32 = 0o600;
/// The limit of the bytes that are read: several times the size that the program writes.
const MAX_READ_BYTES: u64 = 32 << 20;
/// The number of outdated bytes after which the file is rewritten, in addition to twice its content.
const MAX_OUTDATED_BYTES: u64 = 256 << 10;

/// The history in a file.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) content: HistoryContent,
    pub(crate) state: FileState,
    /// The number of lines that could not be read, without an incomplete last line, as a crash leaves one.
    pub(crate) damaged_lines: u64,
}

/// The state of the file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum FileState {
    #[default]
    Missing,
    Read,
    Newer(u32),
}

/// Reads the file in a data folder, also while a bridge writes it.
///
/// # Errors
/// Returns an error if the file exists and cannot be read.
pub(crate) fn read(data_dir: &Path) -> io::Result<Found> {
    let file = match File::open(data_dir.join(HISTORY)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::default()),
        Err(error) => return Err(error),
    };
    let mut found = Found {
        state: FileState::Read,
        ..Found::default()
    };
    let mut reader = BufReader::new(file.take(MAX_READ_BYTES));
    let mut text = Vec::new();
    while reader.read_until(b'\n', &mut text)? > 0 {
        let is_complete = text.last() == Some(&b'\n');
        match serde_json::from_slice(&text) {
            Ok(Line::History { version, .. }) if version > VERSION => {
                found.state = FileState::Newer(version);
                return Ok(found);
            }
            Ok(line) => found.content.apply(line),
            Err(_) if is_complete => found.damaged_lines += 1,
            Err(_) => {}
        }
        text.clear();
    }
    found.content.limit_entries();
    found.content.limit_gaps();
    found.content.unwritten.clear();
    Ok(found)
}

/// Deletes the history of a data folder. A file that cannot be deleted stays.
pub(crate) fn delete(data_dir: &Path) {
    let _ = fs::remove_file(data_dir.join(HISTORY));
}

/// Renames a file that cannot be used, to keep it. Returns the new path.
///
/// # Errors
/// Returns the errors of the file system.
pub(super) fn set_aside(data_dir: &Path) -> io::Result<PathBuf> {
    let aside = data_dir.join(ASIDE);
    fs::rename(data_dir.join(HISTORY), &aside)?;
    Ok(aside)
}

/// Copies a damaged file, so that the unreadable lines are not lost when the file is rewritten. Returns the path of the copy.
///
/// # Errors
/// Returns the errors of the file system.
pub(super) fn copy_aside(data_dir: &Path) -> io::Result<PathBuf> {
    let aside = data_dir.join(ASIDE);
    fs::copy(data_dir.join(HISTORY), &aside)?;
    Ok(aside)
}

/// The lines that are to be written.
#[derive(Debug)]
pub(super) enum Job {
    /// All of the content, in a new file.
    Rewrite(Vec<Line>),
    /// More lines.
    Append(Vec<Line>),
}

impl Job {
    pub(super) fn rewrite(content: &HistoryContent) -> Self {
        Self::Rewrite(content.lines(VERSION))
    }
}

/// Writes the file.
#[derive(Debug)]
pub(super) struct Writer {
    data_dir: PathBuf,
    file: Option<File>,
    size: u64,
    /// The size after the last rewrite.
    rewritten_size: u64,
}

impl Writer {
    pub(super) const fn new(data_dir: PathBuf) -> Self {
        Self {
            data_dir,
            file: None,
            size: 0,
            rewritten_size: 0,
        }
    }

    /// Executes a job. Returns whether most of the file is outdated now. Blocks.
    ///
    /// # Errors
    /// After an error the file has to be rewritten, because it may end with an incomplete line.
    pub(super) fn execute(&mut self, job: &Job) -> io::Result<bool> {
        match job {
            Job::Rewrite(lines) => self.rewrite(lines)?,
            Job::Append(lines) => self.append(lines)?,
        }
        Ok(self.size > 2 * self.rewritten_size + MAX_OUTDATED_BYTES)
    }

    fn rewrite(&mut self, lines: &[Line]) -> io::Result<()> {
        let text = encode(lines)?;
        let new = self.data_dir.join(NEW);
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(FILE_MODE)
            .open(&new)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&new, self.data_dir.join(HISTORY))?;
        // Not every file system can sync a folder; then a power cut may bring the old file back.
        let _ = File::open(&self.data_dir).and_then(|folder| folder.sync_all());
        self.file = Some(file);
        self.rewritten_size = text.len() as u64;
        self.size = self.rewritten_size;
        Ok(())
    }

    fn append(&mut self, lines: &[Line]) -> io::Result<()> {
        let text = encode(lines)?;
        let file = self
            .file
            .as_mut()
            .ok_or_else(|| io::Error::other("the file is not open"))?;
        if file.metadata()?.nlink() == 0 {
            return Err(io::Error::other("the file was removed by another program"));
        }
        file.write_all(&text)?;
        // The proofs of life of each second are not synced: after a power cut that removes some, the gap only begins earlier.
        if lines.iter().any(|line| !matches!(line, Line::Alive(_))) {
            file.sync_data()?;
        }
        self.size += text.len() as u64;
        Ok(())
    }
}

fn encode(lines: &[Line]) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut text, line)?;
        text.push(b'\n');
    }
    Ok(text)
}
