//! The file of a log's epochs: a line for each, and a checksum.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use neurobridge_core::{
    epoch::{Epoch, Epochs},
    event::Sequence,
};
use tracing::warn;

use super::files::{self, DiskError};

/// The file.
const NAME: &str = "epochs";
const NEW: &str = "epochs.tmp";

/// Reads the epochs of the log in a folder. Of a file that makes no sense, nothing is known: what brokers have counts as
/// far as the next epoch's beginning.
pub(crate) fn read(folder: &Path) -> Result<Epochs, DiskError> {
    let path = folder.join(NAME);
    let text = match fs::read(&path) {
        Ok(bytes) => String::from_utf8(bytes).unwrap_or_default(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Epochs::default()),
        Err(error) => return Err(DiskError::of("read", &path)(error)),
    };
    Ok(parse(&text).unwrap_or_else(|| {
        warn!(file = %path.display(), "the file of the spool's epochs is damaged; it is written anew");
        Epochs::default()
    }))
}

/// Begins an epoch at the log's end, and keeps it. Where the disk has no room for it, it is kept by this run alone.
pub(super) fn begin(folder: &Path, end: Sequence) -> Result<Epochs, DiskError> {
    // By the clock, so that it is a later one also where the file was lost.
    let now = Epoch(u64::try_from(Timestamp::now().as_microsecond()).unwrap_or(0));
    let epochs = read(folder)?.with(now, end);
    match write(folder, &epochs) {
        Err(error) if error.is_full() => {
            warn!(%error, "the spool's epoch can't be kept");
            Ok(epochs)
        }
        written => written.map(|()| epochs),
    }
}

/// Removes what a crash has left half-written.
pub(super) fn tidy(folder: &Path) -> Result<(), DiskError> {
    files::remove(&folder.join(NEW))
}

fn write(folder: &Path, epochs: &Epochs) -> Result<(), DiskError> {
    let temporary: PathBuf = folder.join(NEW);
    let file = files::create(&temporary)?;
    files::write_at(&file, &temporary, text(epochs).as_bytes(), 0)?;
    files::sync(&file, &temporary)?;
    files::rename(&temporary, &folder.join(NAME))
}

fn text(epochs: &Epochs) -> String {
    let mut text = String::new();
    for (epoch, begins) in epochs.beginnings() {
        text.push_str(&format!("{} {}\n", epoch.0, begins.get()));
    }
    let checksum = crc32c::crc32c(text.as_bytes());
    text.push_str(&format!("{checksum:08x}\n"));
    text
}

fn parse(text: &str) -> Option<Epochs> {
    let (lines, checksum) = text.split_at_checked(text.len().checked_sub(9)?)?;
    if checksum != format!("{:08x}\n", crc32c::crc32c(lines.as_bytes())) {
        return None;
    }
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
    use super::*;

    fn sequence(number: u64) -> Sequence {
        Sequence::new(number).unwrap()
    }

    #[test]
    fn each_opening_begins_one_and_the_earlier_ones_are_known() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(read(root.path()).unwrap(), Epochs::default());
        let first = begin(root.path(), sequence(1)).unwrap();
        let second = begin(root.path(), sequence(101)).unwrap();
        assert_eq!(read(root.path()).unwrap(), second);
        assert!(second.current() > first.current());
        assert_eq!(second.end_of(first.current()), Some(sequence(101)));
    }

    #[test]
    fn a_damaged_file_is_known_as_such_and_the_next_epoch_is_later_all_the_same() {
        let root = tempfile::tempdir().unwrap();
        let before = begin(root.path(), sequence(7)).unwrap();
        let good = fs::read(root.path().join(NAME)).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            fs::write(root.path().join(NAME), &bad).unwrap();
            assert_eq!(read(root.path()).unwrap(), Epochs::default(), "bit {bit}");
        }
        for length in 0..good.len() {
            fs::write(root.path().join(NAME), &good[..length]).unwrap();
            assert_eq!(read(root.path()).unwrap(), Epochs::default(), "length {length}");
        }
        let after = begin(root.path(), sequence(5)).unwrap();
        assert!(after.current() > before.current());
        assert_eq!(after.end_of(before.current()), Some(sequence(5)));
    }
}
