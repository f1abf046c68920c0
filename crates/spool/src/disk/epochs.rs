//! The file of the epochs of a log: one line for each epoch, and a checksum. Each opening of a log begins an epoch.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use neurobridge_core::{
    epoch::{Epoch, Epochs},
    event::Sequence,
};
use tracing::warn;

use super::{
    files::DiskError,
    lines::{self, Content},
};

/// The name of the file.
pub(super) const NAME: &str = "epochs";

/// Reads the epochs of the log in a folder; `None` if the file is damaged. Without a file the log has no epochs yet.
pub(crate) fn read(folder: &Path) -> Result<Option<Epochs>, DiskError> {
    Ok(match lines::read(&path(folder))? {
        Content::Whole(text) => parse(&text),
        Content::Missing => Some(Epochs::default()),
        Content::Damaged => None,
    })
}

/// Returns the epochs with a new one, which begins at the end of the log. They must be [written](write) before the first
/// event of the new epoch is stored.
pub(super) fn begin(folder: &Path, end: Sequence) -> Result<Epochs, DiskError> {
    let before = read(folder)?.unwrap_or_else(|| {
        warn!(
            file = %path(folder).display(),
            "epochs file damaged and replaced; nothing is lost, unless the end of the spool was lost earlier: then a sink whose \
             cursor is committed in a broker may skip events"
        );
        Epochs::default()
    });
    // The time as the number makes the epoch later than all earlier ones, even if the file was lost.
    let now = Epoch(u64::try_from(Timestamp::now().as_microsecond()).unwrap_or(0));
    Ok(before.with(now, end))
}

pub(super) fn write(folder: &Path, epochs: &Epochs) -> Result<(), DiskError> {
    lines::write(folder, NAME, &text(epochs))
}

pub(crate) fn path(folder: &Path) -> PathBuf {
    folder.join(NAME)
}

fn text(epochs: &Epochs) -> String {
    let mut text = String::new();
    for (epoch, begins) in epochs.beginnings() {
        text.push_str(&format!("{} {}\n", epoch.0, begins.get()));
    }
    text
}

fn parse(lines: &str) -> Option<Epochs> {
    let beginnings: Option<Vec<_>> = lines
        .lines()
        .map(|line| {
            let (epoch, begins) = line.split_once(' ')?;
            Some((Epoch(epoch.parse().ok()?), Sequence::new(begins.parse().ok()?)?))
        })
        .collect();
    Epochs::new(beginnings?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn sequence(number: u64) -> Sequence {
        Sequence::new(number).unwrap()
    }

    #[test]
    fn epochs_are_read_back_and_damage_is_detected() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(read(root.path()).unwrap(), Some(Epochs::default()));
        let first = begin(root.path(), sequence(1)).unwrap();
        write(root.path(), &first).unwrap();
        let second = begin(root.path(), sequence(101)).unwrap();
        assert_eq!(second.end_of(first.current()), Some(sequence(101)));
        write(root.path(), &second).unwrap();
        assert_eq!(read(root.path()).unwrap(), Some(second.clone()));

        let good = fs::read(path(root.path())).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            fs::write(path(root.path()), &bad).unwrap();
            assert_eq!(read(root.path()).unwrap(), None, "bit {bit}");
        }
        for length in 0..good.len() {
            fs::write(path(root.path()), &good[..length]).unwrap();
            assert_eq!(read(root.path()).unwrap(), None, "length {length}");
        }
        // The next epoch is later than the lost ones nevertheless.
        let after = begin(root.path(), sequence(55)).unwrap();
        assert!(after.current() > second.current());
        assert_eq!(after.end_of(second.current()), Some(sequence(55)));
    }
}
