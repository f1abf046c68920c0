//! The file of a cursor: two slots, written alternately, so that a torn write damages only one of them.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use neurobridge_core::{event::Sequence, identity::SpoolId, reader::Cursor};
use tracing::warn;

use super::files::{self, DiskError};
use crate::format::{CursorSlot, FormatError, SLOT_LENGTH};

/// The extension of a cursor's file; the stem is the name of the reader.
const EXTENSION: &str = "cursor";

/// A cursor on the disk.
#[derive(Debug)]
pub(crate) struct CursorFile {
    path: PathBuf,
    spool: SpoolId,
    generation: u64,
    /// The position of the cursor that is certainly on the disk.
    saved: Option<Sequence>,
    file: Option<File>,
}

/// The content of a cursor's file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// The file does not exist.
    Missing,
    /// The file has no content: it was created and its first slot was never written, or it was truncated.
    Empty,
    /// The cursor belongs to another log.
    Foreign,
    /// The newest intact cursor.
    Cursor {
        slot: CursorSlot,
        /// Why the other slot, which should hold the previous or the next cursor, is unusable: damaged, or torn by a crash
        /// during the write. It may have been the newer one.
        damage: Option<FormatError>,
    },
    /// The file exists, but neither slot is usable.
    Damaged(FormatError),
}

impl CursorFile {
    /// Describes a file that may or may not exist, with the cursor found in it.
    pub(crate) const fn new(path: PathBuf, spool: SpoolId, found: Option<&CursorSlot>) -> Self {
        let (generation, saved) = match found {
            Some(slot) => (slot.generation, Some(slot.cursor.next)),
            None => (0, None),
        };
        Self {
            path,
            spool,
            generation,
            saved,
            file: None,
        }
    }

    /// Creates the file with space for both slots if it does not exist: the cursor must be writable while the disk is full.
    pub(crate) fn make(&mut self) -> Result<(), DiskError> {
        opened(&mut self.file, &self.path).map(drop)
    }

    /// Writes a cursor and waits until it is on the disk; skips a cursor that is older than the stored one. Returns whether the
    /// cursor could be stored: one with a note above the maximum length cannot.
    pub(crate) fn save(&mut self, cursor: &Cursor) -> Result<bool, DiskError> {
        if self.saved.is_some_and(|saved| saved >= cursor.next) {
            return Ok(true);
        }
        let slot = CursorSlot {
            spool: self.spool,
            generation: self.generation + 1,
            cursor: cursor.clone(),
        };
        let Some(bytes) = slot.encode() else {
            return Ok(false);
        };
        if self.file.as_ref().is_some_and(files::is_removed) {
            warn!(file = %self.path.display(), "cursor file removed by another program; creating it again");
            self.file = None;
        }
        let file = opened(&mut self.file, &self.path)?;
        let offset = (slot.generation % 2) * SLOT_LENGTH as u64;
        files::write_at(file, &self.path, &bytes, offset)?;
        files::sync(file, &self.path)?;
        // Set only after a successful write: after a failed one, the next save writes the same slot, which may be torn, again.
        self.generation = slot.generation;
        self.saved = Some(cursor.next);
        Ok(true)
    }
}

fn opened<'a>(file: &'a mut Option<File>, path: &Path) -> Result<&'a File, DiskError> {
    let open = match file.take() {
        Some(open) => open,
        None => {
            let open = files::open_or_create(path)?;
            match files::reserve(&open, path, 2 * SLOT_LENGTH as u64) {
                // The disk may have space again by the time of the write, which reports an error otherwise.
                Err(error) if error.is_retryable() => {}
                reserved => reserved?,
            }
            // Also if the file existed: an earlier attempt may have ended just before this sync.
            if let Some(folder) = path.parent() {
                files::sync_folder(folder)?;
            }
            open
        }
    };
    Ok(file.insert(open))
}

/// Reads a cursor's file.
pub(crate) fn read(path: &Path, spool: SpoolId) -> Result<Stored, DiskError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Stored::Missing),
        Err(error) => return Err(DiskError::of("read", path)(error)),
    };
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(Stored::Empty);
    }
    let slots = [0, SLOT_LENGTH].map(|offset| {
        let slot = bytes.get(offset..).unwrap_or_default();
        CursorSlot::decode(&slot[..slot.len().min(SLOT_LENGTH)])
    });
    let newest = slots
        .iter()
        .flatten()
        .filter(|slot| slot.spool == spool)
        .max_by_key(|slot| slot.generation);
    Ok(match (newest, &slots) {
        (Some(slot), _) => Stored::Cursor {
            slot: slot.clone(),
            // With the first generation, the other slot was never written.
            damage: slots
                .iter()
                .find_map(|slot| slot.as_ref().err().copied())
                .filter(|_| slot.generation > 1),
        },
        (None, [Err(error), Err(_)]) => Stored::Damaged(*error),
        (None, _) => Stored::Foreign,
    })
}

/// Returns the name of a reader's file: letters, digits, `_` and `-` represent themselves.
pub(crate) fn file_name(reader: &str) -> String {
    let mut name = String::new();
    for byte in reader.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02x}"));
        }
    }
    name.push('.');
    name.push_str(EXTENSION);
    name
}

/// Returns the readers with cursors in a folder, ordered by name.
pub(crate) fn list(folder: &Path) -> Result<Vec<(String, PathBuf)>, DiskError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(DiskError::of("list", folder)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(DiskError::of("list", folder))?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(reader_name);
        if let Some(name) = name {
            found.push((name, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Returns the name of the reader to which a file name belongs; the inverse of [`file_name`].
pub(crate) fn reader_name(file_name: &str) -> Option<String> {
    let stem = file_name.strip_suffix(EXTENSION)?.strip_suffix('.')?;
    let mut pieces = stem.split('%');
    let mut bytes = pieces.next()?.as_bytes().to_vec();
    for piece in pieces {
        bytes.push(u8::from_str_radix(piece.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(&piece.as_bytes()[2..]);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use neurobridge_core::ledger::SinkCounts;

    use super::*;

    const SPOOL: SpoolId = SpoolId::from_bytes([7; 16]);

    fn cursor(next: u64) -> Cursor {
        Cursor {
            first: Sequence::FIRST,
            next: Sequence::new(next).unwrap(),
            counts: SinkCounts {
                delivered: next - 1,
                ..SinkCounts::default()
            },
            note: Some(format!("note {next}")),
        }
    }

    fn stored(path: &Path) -> Option<Cursor> {
        match read(path, SPOOL).unwrap() {
            Stored::Cursor { slot, .. } => Some(slot.cursor),
            _ => None,
        }
    }

    #[test]
    fn newer_slot_is_used_unless_it_is_torn() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(file_name("sink"));
        assert_eq!(read(&path, SPOOL).unwrap(), Stored::Missing);
        let mut file = CursorFile::new(path.clone(), SPOOL, None);
        for next in 1..6 {
            assert!(file.save(&cursor(next)).unwrap());
            assert_eq!(stored(&path), Some(cursor(next)));
        }
        assert!(file.save(&cursor(2)).unwrap());
        assert_eq!(stored(&path), Some(cursor(5)), "it never goes back");

        let whole = fs::read(&path).unwrap();
        // Generation 5 is in the second slot; unused space follows it.
        let end = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        for length in SLOT_LENGTH..end {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(stored(&path), Some(cursor(4)), "{length}");
            let read = read(&path, SPOOL).unwrap();
            assert!(
                matches!(read, Stored::Cursor { damage: Some(_), .. }),
                "{length}: {read:?}"
            );
        }
        for empty in [Vec::new(), vec![0; 100], vec![0; whole.len()]] {
            fs::write(&path, empty).unwrap();
            assert_eq!(read(&path, SPOOL).unwrap(), Stored::Empty);
        }
        for length in 1..100 {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(
                matches!(read(&path, SPOOL).unwrap(), Stored::Damaged(_)),
                "{length}"
            );
        }
        fs::write(&path, &whole).unwrap();
        assert_eq!(
            read(&path, SpoolId::from_bytes([8; 16])).unwrap(),
            Stored::Foreign
        );
        let Stored::Cursor { slot, damage: None } = read(&path, SPOOL).unwrap() else {
            panic!("no cursor")
        };
        let mut file = CursorFile::new(path.clone(), SPOOL, Some(&slot));
        file.save(&cursor(9)).unwrap();
        assert_eq!(stored(&path), Some(cursor(9)));
    }

    #[test]
    fn removed_file_is_created_again() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(file_name("sink"));
        let mut file = CursorFile::new(path.clone(), SPOOL, None);
        file.save(&cursor(1)).unwrap();
        fs::remove_file(&path).unwrap();
        file.save(&cursor(2)).unwrap();
        assert_eq!(stored(&path), Some(cursor(2)));
    }

    #[test]
    fn damaged_slot_is_reported_with_the_intact_one() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(file_name("sink"));
        let mut file = CursorFile::new(path.clone(), SPOOL, None);
        for next in 1..4 {
            file.save(&cursor(next)).unwrap();
            let read = read(&path, SPOOL).unwrap();
            assert!(
                matches!(read, Stored::Cursor { damage: None, .. }),
                "{next}: {read:?}"
            );
        }
        let whole = fs::read(&path).unwrap();
        for (slot, left) in [(0, 3), (SLOT_LENGTH, 2)] {
            for bit in 0..118 * 8 {
                let mut bad = whole.clone();
                bad[slot + bit / 8] ^= 1 << (bit % 8);
                fs::write(&path, bad).unwrap();
                let Stored::Cursor {
                    slot,
                    damage: Some(_),
                } = read(&path, SPOOL).unwrap()
                else {
                    panic!("bit {bit} of the slot at {slot}")
                };
                assert_eq!(slot.cursor, cursor(left));
            }
        }
    }

    #[test]
    fn file_names_decode_to_reader_names() {
        let root = tempfile::tempdir().unwrap();
        let mut names = ["a", "kafka_2", "../x", "ä b%", ""].map(str::to_owned).to_vec();
        for name in &names {
            fs::write(root.path().join(file_name(name)), "").unwrap();
        }
        fs::write(root.path().join("other"), "").unwrap();
        names.sort();
        let found = list(root.path()).unwrap();
        assert_eq!(found.into_iter().map(|(name, _)| name).collect::<Vec<_>>(), names);
        assert_eq!(list(&root.path().join("none")).unwrap(), []);
    }
}
