//! The file of the resume values: two slots, written alternately, so that a torn write damages only one of them. The file is
//! replaced as a whole only if a slot has become too small: the values must be writable while the disk is full.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use neurobridge_core::identity::SpoolId;
use tracing::warn;

use super::{
    files::{self, DiskError},
    resume::Snapshot,
};
use crate::format::{FormatError, ResumeSlot};

/// The name of the file.
pub(crate) const NAME: &str = "resume";
/// The minimum length of a slot: two blocks of a disk, enough for some hundred usual values.
const MIN_SLOT_LENGTH: usize = 8192;

/// The file of the resume values.
#[derive(Debug)]
pub(super) struct ResumeFile {
    folder: PathBuf,
    spool: SpoolId,
    generation: u64,
    /// The length of a slot; 0 without a file.
    slot_length: usize,
    file: Option<File>,
}

/// The content of the file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// The file does not exist.
    Missing,
    /// The values belong to another log.
    Foreign,
    /// The newest intact values.
    Values {
        slot: ResumeSlot,
        slot_length: usize,
        /// Why the other slot is unusable. It may have been the newer one.
        damage: Option<FormatError>,
    },
    /// Neither slot is usable: both are damaged, or written by a newer version.
    Damaged(FormatError),
}

impl ResumeFile {
    pub(super) fn new(folder: &Path, spool: SpoolId) -> Self {
        Self {
            folder: folder.to_owned(),
            spool,
            generation: 0,
            slot_length: 0,
            file: None,
        }
    }

    /// Continues with the generation and the slot length of a file that was read.
    pub(super) const fn adopt(&mut self, slot: &ResumeSlot, slot_length: usize) {
        self.generation = slot.generation;
        self.slot_length = slot_length;
    }

    /// Writes the values and waits until they are on the disk.
    pub(super) fn save(&mut self, snapshot: &Snapshot) -> Result<(), DiskError> {
        let slot = ResumeSlot {
            spool: self.spool,
            generation: self.generation + 1,
            next: snapshot.next,
            values: snapshot.values.map().clone(),
        };
        let bytes = slot.encode();
        let path = self.folder.join(NAME);
        if bytes.len() <= self.slot_length && self.is_usable(&path)? {
            if let Some(file) = &self.file {
                let offset = (slot.generation % 2) * self.slot_length as u64;
                files::write_at(file, &path, &bytes, offset)?;
                files::sync(file, &path)?;
            }
        } else {
            self.file = None;
            // Twice as long as needed, so that the file is seldom replaced.
            let length = (2 * bytes.len()).next_power_of_two().max(MIN_SLOT_LENGTH);
            let mut content = vec![0; 2 * length];
            let start = (slot.generation % 2) as usize * length;
            content[start..start + bytes.len()].copy_from_slice(&bytes);
            files::replace(&self.folder, NAME, &content)?;
            self.slot_length = length;
        }
        // Set only after a successful write: after a failed one, the next save writes the same slot, which may be torn, again.
        self.generation = slot.generation;
        Ok(())
    }

    /// Opens the file; returns whether it has both slots, which is false if another program has removed or changed it.
    fn is_usable(&mut self, path: &Path) -> Result<bool, DiskError> {
        if self.file.as_ref().is_some_and(files::is_removed) {
            self.file = None;
        }
        let file = match self.file.take() {
            Some(file) => file,
            None => files::open_or_create(path)?,
        };
        let length = file
            .metadata()
            .map_err(DiskError::of("read the metadata of", path))?
            .len();
        self.file = Some(file);
        let is_usable = length == 2 * self.slot_length as u64;
        if !is_usable {
            warn!(file = %path.display(), "file of the resume values changed by another program; creating it again");
        }
        Ok(is_usable)
    }
}

/// Reads the file of the resume values.
pub(crate) fn read(folder: &Path, spool: SpoolId) -> Result<Stored, DiskError> {
    let path = folder.join(NAME);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Stored::Missing),
        Err(error) => return Err(DiskError::of("read", &path)(error)),
    };
    let slot_length = bytes.len() / 2;
    let (first, second) = bytes.split_at(slot_length);
    let slots = [first, second].map(ResumeSlot::decode);
    let newest = slots
        .iter()
        .flatten()
        .filter(|slot| slot.spool == spool)
        .max_by_key(|slot| slot.generation);
    Ok(match (newest, &slots) {
        (Some(slot), _) => Stored::Values {
            slot: slot.clone(),
            slot_length,
            // In a new or replaced file the other slot was never written, and its zeros are no damage.
            damage: [first, second]
                .iter()
                .zip(&slots)
                .filter(|(bytes, _)| bytes.iter().any(|byte| *byte != 0))
                .find_map(|(_, slot)| slot.as_ref().err().copied()),
        },
        (None, [Err(first), Err(second)]) => Stored::Damaged(
            // Of the two reasons, another version is the one that an operator can act on.
            [*first, *second]
                .into_iter()
                .find(|error| matches!(error, FormatError::Version { .. }))
                .unwrap_or(*first),
        ),
        (None, _) => Stored::Foreign,
    })
}

#[cfg(test)]
mod tests {
    use neurobridge_core::event::Sequence;

    use super::*;
    use crate::resume::Values;

    const SPOOL: SpoolId = SpoolId::from_bytes([7; 16]);

    fn snapshot(next: u64, length: usize) -> Snapshot {
        let mut values = Values::default();
        values.set("feed", &format!("{}{next}", "1".repeat(length)));
        Snapshot {
            values,
            next: Sequence::new(next).unwrap(),
        }
    }

    fn stored(folder: &Path) -> Option<u64> {
        match read(folder, SPOOL).unwrap() {
            Stored::Values { slot, .. } => Some(slot.next.get()),
            _ => None,
        }
    }

    #[test]
    fn newer_slot_is_used_unless_it_is_torn() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(NAME);
        assert_eq!(read(root.path(), SPOOL).unwrap(), Stored::Missing);
        let mut file = ResumeFile::new(root.path(), SPOOL);
        for next in 1..6 {
            file.save(&snapshot(next, 10)).unwrap();
            let read = read(root.path(), SPOOL).unwrap();
            assert!(
                matches!(&read, Stored::Values { slot, damage: None, .. } if slot.next.get() == next),
                "{read:?}"
            );
        }
        let whole = fs::read(&path).unwrap();
        // Generation 5 is in the second slot.
        for torn in 1..whole.len() / 2 {
            let mut bad = whole.clone();
            bad[whole.len() / 2 + torn..].fill(0);
            if bad == whole {
                break;
            }
            fs::write(&path, &bad).unwrap();
            let read = read(root.path(), SPOOL).unwrap();
            assert!(
                matches!(&read, Stored::Values { slot, damage: Some(_), .. } if slot.next.get() == 4),
                "{torn}"
            );
        }
        for bad in [
            Vec::new(),
            vec![0; whole.len()],
            vec![0xff; whole.len()],
            whole[..100].to_vec(),
        ] {
            fs::write(&path, &bad).unwrap();
            assert!(
                matches!(read(root.path(), SPOOL).unwrap(), Stored::Damaged(_)),
                "{}",
                bad.len()
            );
        }
        fs::write(&path, &whole).unwrap();
        assert_eq!(
            read(root.path(), SpoolId::from_bytes([8; 16])).unwrap(),
            Stored::Foreign
        );
        let Stored::Values {
            slot, slot_length, ..
        } = read(root.path(), SPOOL).unwrap()
        else {
            panic!("no values")
        };
        let mut file = ResumeFile::new(root.path(), SPOOL);
        file.adopt(&slot, slot_length);
        file.save(&snapshot(9, 10)).unwrap();
        assert_eq!(stored(root.path()), Some(9));
    }

    #[test]
    fn file_is_replaced_if_too_small_removed_or_truncated() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(NAME);
        let mut file = ResumeFile::new(root.path(), SPOOL);
        let mut many = snapshot(2, 10);
        for source in 0..10 {
            many.values.set(&format!("feed{source}"), &"1".repeat(4000));
        }
        file.save(&snapshot(1, 10)).unwrap();
        file.save(&many).unwrap();
        assert_eq!(stored(root.path()), Some(2));
        file.save(&snapshot(3, 10)).unwrap();
        assert_eq!(stored(root.path()), Some(3));
        fs::remove_file(&path).unwrap();
        file.save(&snapshot(4, 10)).unwrap();
        assert_eq!(stored(root.path()), Some(4));
        fs::write(&path, "cut").unwrap();
        file.save(&snapshot(5, 10)).unwrap();
        assert_eq!(stored(root.path()), Some(5));
    }
}
