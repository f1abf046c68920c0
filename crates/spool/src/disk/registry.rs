//! The registry of readers: lists every reader that has had a cursor in this log.
//!
//! A sink's start policy applies only to a new sink. Without a second record of the existing ones, a sink with a lost or
//! empty cursor file would look new, and the events that wait for it would never be delivered.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use neurobridge_core::identity::SpoolId;

use super::{
    cursor,
    files::DiskError,
    lines::{self, Content},
};

/// The name of the file: a line with the log's id, and one for each reader.
pub(crate) const NAME: &str = "readers";

/// The registry and its file.
#[derive(Debug)]
pub(crate) struct Registry {
    folder: PathBuf,
    spool: SpoolId,
    names: BTreeSet<String>,
    state: FileState,
}

/// The content of the file when the log was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileState {
    /// No file, or that of another log: a new log, or a lost file.
    Missing,
    /// Unreadable: any reader may be an existing one.
    Damaged,
    Whole,
}

impl Registry {
    pub(crate) fn read(folder: &Path, spool: SpoolId) -> Result<Self, DiskError> {
        let (names, state) = match lines::read(&folder.join(NAME))? {
            Content::Missing => (BTreeSet::new(), FileState::Missing),
            Content::Damaged => (BTreeSet::new(), FileState::Damaged),
            Content::Whole(text) => match parse(&text) {
                Some((id, names)) if id == spool.to_string() => (names, FileState::Whole),
                Some(_) => (BTreeSet::new(), FileState::Missing),
                None => (BTreeSet::new(), FileState::Damaged),
            },
        };
        Ok(Self {
            folder: folder.to_owned(),
            spool,
            names,
            state,
        })
    }

    pub(crate) const fn state(&self) -> FileState {
        self.state
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        self.names.iter()
    }

    /// Registers readers whose cursors are on the disk. Returns after the registry is on the disk too.
    pub(crate) fn add<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) -> Result<(), DiskError> {
        let new: Vec<&str> = names.into_iter().filter(|name| !self.contains(name)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let mut all = self.names.clone();
        all.extend(new.into_iter().map(str::to_owned));
        let mut text = format!("{}\n", self.spool);
        for name in &all {
            // Encoded as in file names, so that any name is one word.
            text.push_str(&cursor::file_name(name));
            text.push('\n');
        }
        lines::write(&self.folder, NAME, &text)?;
        self.names = all;
        Ok(())
    }
}

fn parse(text: &str) -> Option<(&str, BTreeSet<String>)> {
    let mut lines = text.lines();
    let id = lines.next()?;
    let names: Option<BTreeSet<String>> = lines.map(cursor::reader_name).collect();
    Some((id, names?))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SPOOL: SpoolId = SpoolId::from_bytes([7; 16]);

    #[test]
    fn registered_readers_are_found_again() {
        let root = tempfile::tempdir().unwrap();
        let mut registry = Registry::read(root.path(), SPOOL).unwrap();
        assert_eq!(registry.state(), FileState::Missing);
        registry.add(["b", "ä\n %"]).unwrap();
        registry.add(["a"]).unwrap();
        let registry = Registry::read(root.path(), SPOOL).unwrap();
        assert_eq!(registry.state(), FileState::Whole);
        assert_eq!(registry.names().collect::<Vec<_>>(), ["a", "b", "ä\n %"]);
        assert!(registry.contains("a") && !registry.contains("c"));
        let other = Registry::read(root.path(), SpoolId::from_bytes([8; 16])).unwrap();
        assert_eq!(
            (other.state(), other.names().count()),
            (FileState::Missing, 0),
            "another log's"
        );
        fs::write(root.path().join(NAME), "").unwrap();
        let damaged = Registry::read(root.path(), SPOOL).unwrap();
        assert_eq!(damaged.state(), FileState::Damaged);
    }
}
