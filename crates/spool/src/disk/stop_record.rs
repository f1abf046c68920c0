//! The record of an orderly stop, which states the end of the log. With a valid record, a log that ends earlier has lost
//! events. Without a record, a crash may have interrupted the last write, which contains no event that was confirmed as
//! stored.

use std::path::Path;

use neurobridge_core::{
    epoch::{Epoch, Epochs},
    event::Sequence,
};
use tracing::warn;

use super::{
    files::DiskError,
    lines::{self, Content},
};

/// The name of the file: a line with the epoch of the last event and the sequence after it.
pub(crate) const NAME: &str = "stopped";

/// Records that the log ended before `next` in an orderly stop.
pub(super) fn write(folder: &Path, epoch: Epoch, next: Sequence) -> Result<(), DiskError> {
    lines::write(folder, NAME, &format!("{} {}\n", epoch.0, next.get()))
}

/// Returns the end of the log; `None` if the last run that stored events had no orderly stop. `stored` is the content of
/// the file of epochs: a run writes its epoch before its first event, which invalidates an earlier record without changing
/// the record.
pub(crate) fn read(folder: &Path, stored: &Epochs) -> Result<Option<Sequence>, DiskError> {
    let path = folder.join(NAME);
    let parsed = match lines::read(&path)? {
        Content::Missing => return Ok(None),
        Content::Damaged => None,
        Content::Whole(text) => parse(&text),
    };
    let Some((epoch, next)) = parsed else {
        warn!(file = %path.display(), "record of the last orderly stop damaged; a loss at the end of the spool cannot be detected");
        return Ok(None);
    };
    Ok((epoch == stored.current()).then_some(next))
}

fn parse(text: &str) -> Option<(Epoch, Sequence)> {
    let (epoch, next) = text.strip_suffix('\n')?.split_once(' ')?;
    Some((Epoch(epoch.parse().ok()?), Sequence::new(next.parse().ok()?)?))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn stop_record_is_valid_until_the_next_events() {
        let root = tempfile::tempdir().unwrap();
        let sequence = |number| Sequence::new(number).unwrap();
        let none = Epochs::default();
        assert_eq!(read(root.path(), &none).unwrap(), None);
        let first = none.with(Epoch(70), sequence(1));
        write(root.path(), first.current(), sequence(11)).unwrap();
        assert_eq!(read(root.path(), &first).unwrap(), Some(sequence(11)));
        let second = first.with(Epoch(80), sequence(11));
        assert_eq!(read(root.path(), &second).unwrap(), None);
        fs::write(root.path().join(NAME), "").unwrap();
        assert_eq!(read(root.path(), &first).unwrap(), None);
    }
}
