//! The file `dead-letters-replayed.jsonl` in the data folder: the list of replayed dead letters, so that each is replayed once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, ErrorKind, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::exit::{Exit, Failure, OrExit};

/// The name of the file in the data folder.
const FILE: &str = "dead-letters-replayed.jsonl";

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    id: String,
    at: Timestamp,
}

/// The times at which dead letters were replayed, by id.
pub(super) type Replayed = BTreeMap<String, Timestamp>;

/// Reads the list. Omits an incomplete line.
pub(super) fn read(data_dir: &Path) -> Result<Replayed, Failure> {
    match fs::read_to_string(data_dir.join(FILE)) {
        Ok(text) => Ok(text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .map(|Line { id, at }| (id, at))
            .collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Replayed::new()),
        Err(error) => Err(error)
            .with_context(|| format!("{FILE} in the data_dir cannot be read"))
            .or_exit(Exit::Disk),
    }
}

/// The list of replayed dead letters, open for this process alone.
pub(super) struct ReplayedList {
    path: PathBuf,
    file: File,
}

impl ReplayedList {
    /// Opens, locks and reads the list.
    pub(super) fn open(data_dir: &Path) -> Result<(Self, Replayed), Failure> {
        let path = data_dir.join(FILE);
        let file = OpenOptions::new().append(true).create(true).open(&path);
        let mut file = file
            .with_context(|| format!("{} cannot be written", path.display()))
            .or_exit(Exit::Disk)?;
        let is_locked = match file.try_lock() {
            // Another process may have replaced the file after it was opened here.
            Ok(()) => is_at(&file, &path).or_exit(Exit::Disk)?,
            Err(TryLockError::WouldBlock) => false,
            Err(TryLockError::Error(error)) => return Err(error).or_exit(Exit::Disk),
        };
        if !is_locked {
            let error = anyhow!("another process replays dead letters of this data_dir");
            return Err(Failure::new(Exit::TryLater, error).with_step("wait until that process has ended"));
        }
        let replayed = read(data_dir)?;
        let ends_whole = fs::read(&path)
            .or_exit(Exit::Disk)?
            .last()
            .is_none_or(|byte| *byte == b'\n');
        if !ends_whole {
            // After a kill or with a full disk the last line is incomplete. A line break separates the next line from it, and
            // `read` omits the incomplete line.
            file.write_all(b"\n").or_exit(Exit::Disk)?;
        }
        Ok((Self { path, file }, replayed))
    }

    /// Removes the dead letters that no longer exist from the file and from `replayed`: otherwise both would grow without
    /// limit.
    pub(super) fn remove_others(
        &mut self,
        replayed: &mut Replayed,
        existing: &BTreeSet<&str>,
    ) -> io::Result<()> {
        let before = replayed.len();
        replayed.retain(|id, _| existing.contains(&**id));
        if replayed.len() == before {
            return Ok(());
        }
        let mut lines = String::new();
        for (id, at) in replayed {
            push(&mut lines, id, *at)?;
        }
        // The new file replaces the old one atomically, so that a crash leaves a complete file.
        let temporary = self.path.with_extension("tmp");
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(&temporary)?;
        file.try_lock()?;
        file.write_all(lines.as_bytes())?;
        file.sync_data()?;
        fs::rename(&temporary, &self.path)?;
        self.file = file;
        match self.path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }

    /// Notes these dead letters as replayed, durably.
    pub(super) fn note<'i>(&mut self, ids: impl IntoIterator<Item = &'i str>) -> io::Result<()> {
        let mut lines = String::new();
        let at = Timestamp::now();
        for id in ids {
            push(&mut lines, id, at)?;
        }
        if lines.is_empty() {
            return Ok(());
        }
        self.file.write_all(lines.as_bytes())?;
        self.file.sync_data()
    }
}

/// Appends a line with a replayed dead letter to the text of the file.
fn push(lines: &mut String, id: &str, at: Timestamp) -> io::Result<()> {
    let id = id.to_owned();
    lines.push_str(&serde_json::to_string(&Line { id, at })?);
    lines.push('\n');
    Ok(())
}

/// Returns whether `path` still names the open file.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let (open, present) = (file.metadata()?, fs::metadata(path)?);
    Ok((open.dev(), open.ino()) == (present.dev(), present.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_dead_letter_is_removed_from_the_list() {
        let folder = tempfile::tempdir().unwrap();
        let (mut list, _) = ReplayedList::open(folder.path()).unwrap();
        list.note(
            (0..100)
                .map(|number| number.to_string())
                .collect::<Vec<_>>()
                .iter()
                .map(|id| &**id),
        )
        .unwrap();
        drop(list);
        let (mut list, mut replayed) = ReplayedList::open(folder.path()).unwrap();
        let before = replayed.clone();
        list.remove_others(&mut replayed, &BTreeSet::from(["7", "42", "other"]))
            .unwrap();
        list.note(["new"]).unwrap();
        let failure = ReplayedList::open(folder.path()).err().unwrap();
        assert_eq!(failure.exit, Exit::TryLater, "the new file is locked too");
        let lines = fs::read_to_string(folder.path().join(FILE)).unwrap();
        assert_eq!(lines.lines().count(), 3, "{lines}");
        let read = read(folder.path()).unwrap();
        assert_eq!(
            read.keys().map(|id| &**id).collect::<Vec<_>>(),
            ["42", "7", "new"]
        );
        assert_eq!(read["42"], before["42"]);
    }

    #[test]
    fn incomplete_line_is_omitted_and_the_next_one_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path()).unwrap().is_empty());
        let (mut list, replayed) = ReplayedList::open(folder.path()).unwrap();
        assert!(replayed.is_empty());
        list.note(["a", "b"]).unwrap();
        let failure = ReplayedList::open(folder.path()).err().unwrap();
        assert_eq!(failure.exit, Exit::TryLater, "{failure}");
        drop(list);
        let path = folder.path().join(FILE);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, &text[..text.len() - 9]).unwrap();
        let (mut list, replayed) = ReplayedList::open(folder.path()).unwrap();
        assert_eq!(replayed.into_keys().collect::<Vec<_>>(), ["a"]);
        list.note(["c"]).unwrap();
        assert_eq!(
            read(folder.path()).unwrap().into_keys().collect::<Vec<_>>(),
            ["a", "c"]
        );
    }
}
