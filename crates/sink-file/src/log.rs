//! A file of lines and those that it was rotated to. All calls block: they are for the blocking pool.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    sync::Arc,
};

use jiff::Timestamp;
use nix::fcntl::Flock;
use tracing::{info, warn};

use crate::{
    config::{Limits, SyncMode},
    error::FileError,
    folder,
    position::{Fit, Position, Tail},
    rotation::{self, Place, Rotated},
};

/// Tells the time. Tests have their own.
pub(crate) type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The only writer of a file, for as long as it lives.
pub(crate) struct Log {
    place: Place,
    limits: Limits,
    clock: Clock,
    lock: Flock<File>,
    active: File,
    inode: u64,
    /// Up to here all lines are whole.
    end: u64,
    tail: Tail,
    last_write: Timestamp,
    /// Something may stand behind `end`, left by a write that failed.
    is_torn: bool,
    /// A sync failed: nothing that is written from now on can be trusted.
    has_failed: bool,
}

impl Log {
    /// Opens the file, making what is not there; cuts off a last line without a line break, which a power cut or a kill
    /// has left; removes what is too old.
    pub(crate) fn open(path: &Path, limits: Limits, clock: Clock) -> Result<Self, FileError> {
        let place = Place::new(path)?;
        folder::make(&place.folder)?;
        let lock = folder::lock(&place.lock_file(), path)?;
        let active = open_active(&place)?;
        let mut log = Self {
            lock,
            inode: 0,
            end: 0,
            tail: Tail::default(),
            last_write: clock(),
            is_torn: false,
            has_failed: false,
            active,
            place,
            limits,
            clock,
        };
        log.load()?;
        log.cut_torn_line()?;
        log.tidy()?;
        Ok(log)
    }

    /// Appends lines, all of them or none, and waits until they are as safe as configured.
    pub(crate) fn append(&mut self, lines: &[u8]) -> Result<(), FileError> {
        let appended = self.try_append(lines);
        self.has_failed |= matches!(appended, Err(FileError::Sync { .. }));
        appended
    }

    /// Rotates a file whose period is over, and removes those that are too old. What can't be removed is logged: it
    /// keeps nobody from writing.
    pub(crate) fn tidy(&mut self) -> Result<(), FileError> {
        if self.has_failed {
            return Ok(());
        }
        let now = (self.clock)();
        if self.end > 0 && rotation::is_later_period(self.limits.rotate_every, self.last_write, now) {
            let rotated = self.rotate();
            self.has_failed |= matches!(rotated, Err(FileError::Sync { .. }));
            rotated?;
        }
        let mut removed = 0;
        for old in self.place.list()? {
            if rotation::is_too_old(self.limits.max_age, old.time, now) {
                match fs::remove_file(&old.path) {
                    Ok(()) => removed += 1,
                    Err(error) => warn!(path = %old.path.display(), "an old file can't be removed: {error}"),
                }
            }
        }
        if removed > 0 {
            info!(folder = %self.place.folder.display(), removed, "old files are removed");
            let synced = folder::sync(&self.place.folder);
            self.has_failed |= matches!(synced, Err(FileError::Sync { .. }));
            synced?;
        }
        Ok(())
    }

    /// Up to where lines were appended.
    pub(crate) fn position(&self, lineage: &str) -> Position {
        Position {
            file: self
                .place
                .active
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            inode: self.inode,
            offset: self.end,
            tail: self.tail.hash(),
            lineage: lineage.to_owned(),
        }
    }

    /// Undoes what was appended after a position; false, and nothing is touched, when its file is not there any more.
    ///
    /// Only for a position of this file's [`lineage`](Self::lineage). May be broken off at any point and done again.
    pub(crate) fn truncate_to(&mut self, position: &Position) -> Result<bool, FileError> {
        let rotated = self.place.list()?;
        let Some(found) = self.find(position, &rotated)? else {
            return Ok(false);
        };
        let Some(index) = found else {
            let removed = self.end.saturating_sub(position.offset);
            self.cut(position.offset)?;
            self.load()?;
            report_removed(&self.place.active, removed);
            return Ok(true);
        };
        // The file was rotated before the position could be kept: all that is younger came after it.
        let path = &rotated[index].path;
        let (file, _) = folder::open(path)?;
        let length = file.metadata().map_err(FileError::io("read", path))?.len();
        for younger in &rotated[index + 1..] {
            fs::remove_file(&younger.path).map_err(FileError::io("remove", &younger.path))?;
        }
        self.cut(0)?;
        self.load()?;
        if length > position.offset {
            file.set_len(position.offset)
                .map_err(FileError::io("cut", path))?;
            file.sync_all().map_err(FileError::sync(path))?;
        }
        folder::sync(&self.place.folder)?;
        report_removed(path, length - position.offset);
        Ok(true)
    }

    /// What the last writer noted in the lock file.
    ///
    /// Writers that went on from each other's position share a lineage. One that had no position to go on from begins a
    /// new one, so that nobody with an older position takes its lines for his own and cuts them off.
    pub(crate) fn lineage(&mut self) -> Result<String, FileError> {
        let path = self.place.lock_file();
        let mut text = String::new();
        self.lock
            .seek(SeekFrom::Start(0))
            .and_then(|_| Read::by_ref(&mut *self.lock).take(1024).read_to_string(&mut text))
            .map_err(FileError::io("read", &path))?;
        Ok(text.trim_end().to_owned())
    }

    /// Notes a lineage in the lock file, durably: before the first line of it is written.
    pub(crate) fn set_lineage(&mut self, lineage: &str) -> Result<(), FileError> {
        let path = self.place.lock_file();
        // A torn text is that of no lineage, which is safe.
        self.lock
            .set_len(0)
            .and_then(|()| self.lock.write_all_at(format!("{lineage}\n").as_bytes(), 0))
            .map_err(FileError::io("write to", &path))?;
        self.lock.sync_all().map_err(FileError::sync(&path))
    }

    fn try_append(&mut self, lines: &[u8]) -> Result<(), FileError> {
        if self.has_failed {
            return Err(FileError::Failed {
                path: self.place.active.clone(),
            });
        }
        self.look_after()?;
        let now = (self.clock)();
        let is_full = self.end + lines.len() as u64 > self.limits.max_size;
        if self.end > 0
            && (is_full || rotation::is_later_period(self.limits.rotate_every, self.last_write, now))
        {
            self.rotate()?;
        }
        if let Err(error) = self.active.write_all_at(lines, self.end) {
            self.is_torn = true;
            // Now, as far as possible: who reads the file meanwhile shall not see half a line.
            let _ = self.mend();
            return Err(FileError::io("write to", &self.place.active)(error));
        }
        if self.limits.sync == SyncMode::Always {
            self.active
                .sync_data()
                .map_err(FileError::sync(&self.place.active))?;
        }
        self.end += lines.len() as u64;
        self.tail.extend(lines);
        self.last_write = now;
        Ok(())
    }

    /// Sees what others have done to the file: a person may have moved it away, or emptied it.
    fn look_after(&mut self) -> Result<(), FileError> {
        self.mend()?;
        let path = &self.place.active;
        let is_there = match fs::metadata(path) {
            Ok(metadata) => metadata.ino() == self.inode,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(FileError::io("read", path)(error)),
        };
        let length = self.active.metadata().map_err(FileError::io("read", path))?.len();
        if is_there && length == self.end {
            return Ok(());
        }
        warn!(path = %path.display(), "the file was changed or moved by another program; goes on with what is there");
        self.active = open_active(&self.place)?;
        self.load()?;
        self.cut_torn_line()
    }

    /// Cuts off what a failed write has left.
    fn mend(&mut self) -> Result<(), FileError> {
        if self.is_torn {
            self.active
                .set_len(self.end)
                .map_err(FileError::io("cut", &self.place.active))?;
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
        // Should this fail: the next append finds no file in its place, and makes one.
        self.active = open_active(&self.place)?;
        folder::sync(&self.place.folder)?;
        self.load()
    }

    /// Reads where the file ends.
    fn load(&mut self) -> Result<(), FileError> {
        let failed = |error| FileError::io("read", &self.place.active)(error);
        let metadata = self.active.metadata().map_err(failed)?;
        self.inode = metadata.ino();
        self.end = metadata.len();
        self.tail = Tail::read(&self.active, self.end).map_err(failed)?;
        if self.end > 0
            && let Some(written) = metadata
                .modified()
                .ok()
                .and_then(|time| Timestamp::try_from(time).ok())
        {
            self.last_write = written;
        }
        Ok(())
    }

    fn cut_torn_line(&mut self) -> Result<(), FileError> {
        let whole =
            end_of_lines(&self.active, self.end).map_err(FileError::io("read", &self.place.active))?;
        if whole < self.end {
            warn!(path = %self.place.active.display(), bytes = self.end - whole, "the last line has no end, and is cut off");
            self.cut(whole)?;
            self.end = whole;
            self.tail = Tail::read(&self.active, whole).map_err(FileError::io("read", &self.place.active))?;
        }
        Ok(())
    }

    fn cut(&mut self, length: u64) -> Result<(), FileError> {
        let path = &self.place.active;
        if self.end != length {
            self.active.set_len(length).map_err(FileError::io("cut", path))?;
            self.active.sync_all().map_err(FileError::sync(path))?;
        }
        Ok(())
    }

    /// The file of a position: `Some(None)` for the active one, `Some(Some(index))` for a rotated one.
    fn find(&self, position: &Position, rotated: &[Rotated]) -> Result<Option<Option<usize>>, FileError> {
        let mut best = (Fit::No, None);
        let mut consider = |fit: Fit, index| {
            if fit > best.0 {
                best = (fit, index);
            }
        };
        let fit = position.fit(&self.active);
        consider(fit.map_err(FileError::io("read", &self.place.active))?, None);
        // The youngest first: of equal ones it is the likeliest.
        for (index, file) in rotated.iter().enumerate().rev() {
            let fit = File::open(&file.path).and_then(|file| position.fit(&file));
            consider(fit.map_err(FileError::io("read", &file.path))?, Some(index));
        }
        Ok((best.0 != Fit::No).then_some(best.1))
    }
}

fn open_active(place: &Place) -> Result<File, FileError> {
    let (file, is_new) = folder::open(&place.active)?;
    if is_new {
        folder::sync(&place.folder)?;
    }
    Ok(file)
}

fn report_removed(path: &Path, bytes: u64) {
    if bytes > 0 {
        info!(path = %path.display(), bytes, "lines of events that are sent again are cut off");
    }
}

/// Where the last whole line of a file of `length` bytes ends.
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
