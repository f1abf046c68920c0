//! The active file, to which lines are appended, and its rotated files. All calls block and must run on the blocking pool.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use neurobridge_core::recreation::FileChanges;
use nix::fcntl::Flock;
use tracing::{info, warn};

use crate::{
    clock::Clock,
    config::{Limits, SyncMode},
    error::FileError,
    folder,
    lineage::Lineage,
    position::{Fit, Position, Tail},
    resume::{self, Resumed},
    rotation::{self, Place, Rotated},
};

/// In a larger file the lines are not counted when it is opened, because counting would delay the start.
const COUNTED_BYTES: u64 = 1 << 30;

/// An open file and its rotated files. Holds locks, so that no other process writes to the file.
pub(crate) struct Log {
    place: Place,
    limits: Limits,
    clock: Arc<dyn Clock>,
    lock: Flock<File>,
    active: Flock<File>,
    inode: u64,
    /// The offset up to which all lines are complete.
    end: u64,
    /// The number of lines up to `end`.
    lines: u64,
    tail: Tail,
    last_write: Timestamp,
    /// A failed write may have left bytes after `end`.
    is_torn: bool,
    /// A sync failed: later writes to this file would not be reliable.
    needs_new_file: bool,
    /// The position after which lines of resent events may exist.
    resumed: Option<Resumed>,
    /// The changes that other programs made to the files.
    changes: FileChanges,
    /// The monotonic time of this process's last write to the file.
    written_here: Option<Duration>,
    /// The monotonic time of the last write to each file that this process rotated, by the number of the file. A file younger
    /// than `max_age` by this time is not removed, whatever time its name contains.
    rotated_here: BTreeMap<u64, Duration>,
}

impl Log {
    /// Opens the file and creates missing folders and files; truncates a last line without a line break, which a power cut
    /// or a kill has left; removes files that are too old.
    pub(crate) fn open(path: &Path, limits: Limits, clock: Arc<dyn Clock>) -> Result<Self, FileError> {
        let place = Place::new(path)?;
        folder::make(&place.folder)?;
        let lock = folder::lock(&place.lock_file(), path)?;
        let active = folder::open_locked(&place.active)?;
        let mut log = Self {
            lock,
            inode: 0,
            end: 0,
            tail: Tail::default(),
            lines: 0,
            last_write: clock.now(),
            is_torn: false,
            needs_new_file: false,
            resumed: None,
            changes: FileChanges::default(),
            written_here: None,
            rotated_here: BTreeMap::new(),
            active,
            place,
            limits,
            clock,
        };
        log.load()?;
        log.truncate_torn_line()?;
        log.tidy()?;
        Ok(log)
    }

    /// Appends all lines or none, and waits until they are as durable as configured.
    pub(crate) fn append(&mut self, lines: &[u8]) -> Result<(), FileError> {
        let appended = self.try_append(lines);
        self.needs_new_file |= matches!(appended, Err(FileError::Sync { .. }));
        appended
    }

    /// Appends lines like [`append`](Self::append), but the first `repeated` bytes are lines of events that an earlier
    /// attempt may have written after the [resumed](Self::resume_at) position: existing lines are not written again.
    pub(crate) fn append_missing(&mut self, lines: &[u8], repeated: usize) -> Result<(), FileError> {
        let present = self.skip_present(&lines[..repeated])?;
        if present == lines.len() {
            return Ok(());
        }
        self.end_comparison()?;
        self.append(&lines[present..])
    }

    fn skip_present(&mut self, lines: &[u8]) -> Result<usize, FileError> {
        let Some(resumed) = &mut self.resumed else {
            return Ok(0);
        };
        let present = resumed.skip(lines)?;
        // An earlier process may have ended before its sync.
        if present > 0
            && self.limits.sync == SyncMode::Always
            && let Err(error) = folder::sync_file(resumed.file(), resumed.path())
        {
            warn!(
                path = %resumed.path().display(),
                error = error.sentence(),
                "existing lines cannot be synced; their events are sent again to a new file, so both files contain them"
            );
            self.resumed = None;
            self.needs_new_file = true;
            return Ok(0);
        }
        Ok(present)
    }

    /// Ends the comparison with existing lines. Remaining lines, whose events the spool does not resend, stay in the file.
    fn end_comparison(&mut self) -> Result<(), FileError> {
        self.resumed.take().map_or(Ok(()), Resumed::end)
    }

    /// Returns the total size of the active file and of the rotated files that were written within this time.
    pub(crate) fn size_within(&self, time: Duration) -> Result<u64, FileError> {
        Ok(self.end + self.place.size_within(time, self.clock.now())?)
    }

    /// Returns the detected changes by other programs since the last call.
    pub(crate) fn take_changes(&mut self) -> FileChanges {
        std::mem::take(&mut self.changes)
    }

    /// Rotates a file whose period is over, and removes files that are too old. A failed removal is logged and does not
    /// block writing.
    pub(crate) fn tidy(&mut self) -> Result<(), FileError> {
        if self.needs_new_file {
            return Ok(());
        }
        let now = self.clock.now();
        if self.end > 0 && rotation::is_later_period(self.limits.rotate_every, self.last_write, now) {
            let rotated = self.rotate();
            self.needs_new_file |= matches!(rotated, Err(FileError::Sync { .. }));
            rotated?;
        }
        // Right after a step of the clock no file is removed, because a removal cannot be undone.
        let Some(now) = self.clock.trusted() else {
            return Ok(());
        };
        let mut removed = 0;
        for old in self.place.list()? {
            if rotation::is_too_old(self.limits.max_age, old.time, now) && !self.is_young(old.number) {
                match fs::remove_file(&old.path) {
                    Ok(()) => {
                        removed += 1;
                        self.rotated_here.remove(&old.number);
                    }
                    Err(error) => warn!(path = %old.path.display(), "old file not removed yet: {error}"),
                }
            }
        }
        if removed > 0 {
            info!(folder = %self.place.folder.display(), removed, "rotated files older than max_age removed");
            // If the sync fails, the files may exist again after a power cut, and are then removed.
            folder::sync(&self.place.folder)?;
        }
        Ok(())
    }

    /// Returns whether this process wrote to a rotated file less than `max_age` ago, by the monotonic clock.
    fn is_young(&self, number: u64) -> bool {
        let written_at = self.rotated_here.get(&number);
        written_at.is_some_and(|at| Some(self.clock.elapsed().saturating_sub(*at)) < self.limits.max_age)
    }

    /// Returns the position up to which all lines belong to events with an outcome.
    pub(crate) fn position(&self, lineage: &str) -> Result<Position, FileError> {
        if let Some(resumed) = &self.resumed {
            let position = resumed.position(lineage, self.last_write);
            return position.map_err(FileError::io("read", resumed.path()));
        }
        Ok(Position {
            file: resume::name_of(&self.place.active),
            inode: self.inode,
            offset: self.end,
            tail: self.tail.hash(),
            lineage: lineage.to_owned(),
            lines: self.lines,
            written_at: self.last_write,
        })
    }

    /// Resumes at a position: the events after it are resent, and their lines may exist. Returns false if no file contains the
    /// position; then the lines before it that other programs have removed are counted as lost.
    ///
    /// Valid only for a position of this file's [`lineage`](Self::lineage).
    pub(crate) fn resume_at(&mut self, position: &Position) -> Result<bool, FileError> {
        let rotated = self.place.list()?;
        let Some(found) = self.find(position, &rotated)? else {
            self.count_lost(position, &rotated)?;
            return Ok(false);
        };
        let younger = &rotated[found.unwrap_or(rotated.len())..];
        let paths = younger.iter().map(|file| &file.path).chain([&self.place.active]);
        self.resumed = Resumed::new(paths.cloned().collect(), position)?;
        Ok(true)
    }

    /// Counts the missing lines before a position whose file was changed or removed while no process wrote to the file.
    fn count_lost(&mut self, position: &Position, rotated: &[Rotated]) -> Result<(), FileError> {
        let paths = rotated.iter().map(|file| &file.path).chain([&self.place.active]);
        let mut there = None;
        for path in paths {
            let counted = File::open(path).and_then(|file| {
                let metadata = file.metadata()?;
                let is_same = metadata.ino() == position.inode;
                is_same
                    .then(|| resume::count_lines(&file, 0, metadata.len()))
                    .transpose()
            });
            there = there.or(counted.map_err(FileError::io("read", path))?);
        }
        if there.is_none() && rotation::is_too_old(self.limits.max_age, position.written_at, self.clock.now())
        {
            return Ok(());
        }
        let lost = position.lines.saturating_sub(there.unwrap_or(0));
        let what = format!(
            "the file \"{}\" was removed or changed by another program since the last write; appending to the \
             current file",
            position.file
        );
        self.changes.note(&what, lost);
        Ok(())
    }

    /// Returns the lineage that the last writer stored in the lock file.
    pub(crate) fn lineage(&mut self) -> Result<Lineage, FileError> {
        let path = self.place.lock_file();
        Lineage::read(&mut self.lock, &path)
    }

    /// Stores a lineage durably in the lock file, before the first line of the lineage is written.
    pub(crate) fn set_lineage(&self, lineage: &Lineage) -> Result<(), FileError> {
        lineage.write(&self.lock, &self.place.lock_file())
    }

    fn try_append(&mut self, lines: &[u8]) -> Result<(), FileError> {
        self.replace_unsynced_file()?;
        self.detect_changes()?;
        let now = self.clock.now();
        let is_full = self.end + lines.len() as u64 > self.limits.max_size;
        if self.end > 0
            && (is_full || rotation::is_later_period(self.limits.rotate_every, self.last_write, now))
        {
            self.rotate()?;
        }
        if let Err(error) = self.write(lines) {
            self.is_torn = true;
            // Truncated immediately, as far as possible: a concurrent reader of the file must not see an incomplete line.
            let _ = self.truncate_failed_write();
            return Err(FileError::io("write to", &self.place.active)(error));
        }
        if self.limits.sync == SyncMode::Always
            && let Err(error) = folder::sync_file(&self.active, &self.place.active)
        {
            // The lines have no outcome and are written again.
            self.is_torn = true;
            return Err(error);
        }
        self.end += lines.len() as u64;
        self.lines += resume::count_breaks(lines);
        self.tail.extend(lines);
        self.last_write = now;
        self.written_here = Some(self.clock.elapsed());
        Ok(())
    }

    fn write(&self, lines: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        if let Some(error) = folder::testing::fail(&self.place.active.with_extension("write")) {
            return Err(error);
        }
        self.active.write_all_at(lines, self.end)
    }

    /// Rotates a file whose sync failed, without the lines that have no outcome, and creates a new file.
    pub(crate) fn replace_unsynced_file(&mut self) -> Result<(), FileError> {
        if !self.needs_new_file {
            return Ok(());
        }
        self.truncate_failed_write()?;
        let path = self.place.active.clone();
        let is_ours = fs::metadata(&path).is_ok_and(|metadata| metadata.ino() == self.inode);
        if is_ours && self.end > 0 {
            self.rotate()?;
        } else {
            if is_ours {
                fs::remove_file(&path).map_err(FileError::io("remove", &path))?;
            }
            self.active = folder::open_locked(&path)?;
            self.load()?;
            folder::sync(&self.place.folder)?;
        }
        info!(path = %path.display(), "writing continues in a new file after a failed sync");
        self.needs_new_file = false;
        Ok(())
    }

    /// Detects changes by other programs: the file may have been moved, removed or truncated.
    fn detect_changes(&mut self) -> Result<(), FileError> {
        self.truncate_failed_write()?;
        let path = &self.place.active;
        let failed = |error| FileError::io("read", path)(error);
        let is_there = match fs::metadata(path) {
            Ok(metadata) => metadata.ino() == self.inode,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(failed(error)),
        };
        let metadata = self.active.metadata().map_err(failed)?;
        if is_there
            && metadata.len() == self.end
            && Tail::read(&self.active, self.end).map_err(failed)? == self.tail
        {
            return Ok(());
        }
        let (before, is_elsewhere) = (self.lines, !is_there && metadata.nlink() > 0);
        if !is_there {
            folder::make(&self.place.folder)?;
            self.lock_again()?;
            self.active = folder::open_locked(&self.place.active)?;
        }
        self.load()?;
        self.truncate_torn_line()?;
        let (change, lost) = match (is_there, is_elsewhere) {
            (true, _) => (
                "changed by another program; appending at its current end",
                before.saturating_sub(self.lines),
            ),
            // The file still exists under another name.
            (false, true) => ("moved by another program; a new file was created", 0),
            (false, false) => ("removed by another program; a new file was created", before),
        };
        let what = format!("the file \"{}\" was {change}", self.place.active.display());
        self.changes.note(&what, lost);
        Ok(())
    }

    /// Locks the lock file again if it was removed with its folder.
    fn lock_again(&mut self) -> Result<(), FileError> {
        let path = self.place.lock_file();
        let ours = self.lock.metadata().map_err(FileError::io("read", &path))?.ino();
        if fs::metadata(&path).is_ok_and(|metadata| metadata.ino() == ours) {
            return Ok(());
        }
        let lineage = self.lineage()?;
        self.lock = folder::lock(&path, &self.place.active)?;
        self.set_lineage(&lineage)
    }

    /// Truncates the bytes that a failed write has left.
    fn truncate_failed_write(&mut self) -> Result<(), FileError> {
        if self.is_torn {
            self.active
                .set_len(self.end)
                .map_err(FileError::io("truncate", &self.place.active))?;
            self.is_torn = false;
        }
        Ok(())
    }

    fn rotate(&mut self) -> Result<(), FileError> {
        let number = self
            .place
            .list()?
            .last()
            .map_or(1, |last| last.number.saturating_add(1));
        let rotated = self.place.rotated(self.last_write, number);
        fs::rename(&self.place.active, &rotated.path).map_err(FileError::io("rename", &self.place.active))?;
        if let Some(resumed) = &mut self.resumed {
            resumed.renamed(&self.place.active, &rotated.path);
        }
        if let (Some(at), Some(_)) = (self.written_here.take(), self.limits.max_age) {
            self.rotated_here.insert(number, at);
        }
        // If this fails, the next append finds no active file and creates one.
        self.active = folder::open_locked(&self.place.active)?;
        self.load()?;
        folder::sync(&self.place.folder)
    }

    /// Reads the state of the active file: inode, length, last bytes, number of lines, time of the last write.
    fn load(&mut self) -> Result<(), FileError> {
        let failed = |error| FileError::io("read", &self.place.active)(error);
        let metadata = self.active.metadata().map_err(failed)?;
        self.inode = metadata.ino();
        self.end = metadata.len();
        self.tail = Tail::read(&self.active, self.end).map_err(failed)?;
        self.lines = match self.end {
            0..=COUNTED_BYTES => resume::count_lines(&self.active, 0, self.end).map_err(failed)?,
            _ => 0,
        };
        if self.end > 0
            && let Some(written) = metadata
                .modified()
                .ok()
                .and_then(|time| Timestamp::try_from(time).ok())
        {
            // Never in the future: the system's clock may have been ahead.
            self.last_write = written.min(self.clock.now());
        }
        Ok(())
    }

    fn truncate_torn_line(&mut self) -> Result<(), FileError> {
        let whole =
            end_of_lines(&self.active, self.end).map_err(FileError::io("read", &self.place.active))?;
        if whole < self.end {
            let bytes = self.end - whole;
            warn!(path = %self.place.active.display(), bytes, "incomplete last line removed; it was not acknowledged");
            self.truncate(whole)?;
            self.end = whole;
            self.tail = Tail::read(&self.active, whole).map_err(FileError::io("read", &self.place.active))?;
        }
        Ok(())
    }

    fn truncate(&mut self, length: u64) -> Result<(), FileError> {
        let path = &self.place.active;
        if self.end != length {
            self.active
                .set_len(length)
                .map_err(FileError::io("truncate", path))?;
            folder::sync_file(&self.active, path)?;
        }
        Ok(())
    }

    /// Returns the file of a position: `Some(None)` for the active file, `Some(Some(index))` for a rotated one, else `None`.
    fn find(&self, position: &Position, rotated: &[Rotated]) -> Result<Option<Option<usize>>, FileError> {
        let mut best = (Fit::No, None);
        let mut consider = |fit: Fit, index| {
            if fit > best.0 {
                best = (fit, index);
            }
        };
        let fit = position.fit(&self.active);
        consider(fit.map_err(FileError::io("read", &self.place.active))?, None);
        // The youngest file first: among equal files it is the most likely one.
        for (index, file) in rotated.iter().enumerate().rev() {
            let fit = File::open(&file.path).and_then(|file| position.fit(&file));
            consider(fit.map_err(FileError::io("read", &file.path))?, Some(index));
        }
        Ok((best.0 != Fit::No).then_some(best.1))
    }
}

/// Returns the end of the last complete line of a file of `length` bytes.
fn end_of_lines(file: &File, length: u64) -> io::Result<u64> {
    const CHUNK: u64 = 64 * 1024;
    let mut end = length;
    let mut chunk = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(CHUNK);
        chunk.resize((end - start) as usize, 0);
        file.read_exact_at(&mut chunk, start)?;
        if let Some(at) = chunk.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
pub(crate) mod tests;
