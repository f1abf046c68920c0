//! Opens a log and recovers it from the state that the last run left, after an orderly stop or a crash.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Condvar, Mutex},
    time::{Duration, SystemTime},
};

use neurobridge_core::{
    epoch::Epochs, event::Sequence, histogram::Histogram, identity::SpoolId, reader::Cursor, record,
};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use tokio::sync::watch;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::{
    CURSORS, Options, Shared,
    aside::{Aside, DAMAGED},
    cursor::{self, CursorFile, Stored},
    epochs,
    files::{self, DiskError},
    maintenance::PREALLOCATED,
    readers,
    registry::{self, FileState, Registry},
    resume_file::{self, ResumeFile},
    scan::{self, BLOCK, Item, Region, Scan},
    segment::{self, RecordPosition, Segment},
    shortened,
    state::State,
    stop_record,
    writer::NEW,
};
use crate::{
    DiskConfig, OpenError,
    format::{FormatError, HEADER_LENGTH},
};

/// The minimum size of a log, as in memory: enough for two batches of the listener's usual largest size.
const LEAST_SIZE: u64 = 1 << 20;
/// The minimum size of a segment: a block of a disk.
const LEAST_SEGMENT: u64 = 4096;
/// The minimum age for completing a segment, whatever `retain` is: each completion costs some calls that wait for the disk.
const LEAST_AGE: Duration = shortened(Duration::from_secs(10));
/// The divisor of `retain` for the age at which a segment is completed; events stay at most this much longer than `retain`.
const AGE_PART: u32 = 8;
/// The minimum number of segments in the log: only whole segments are deleted.
const SEGMENTS: u64 = 8;
/// The file with the log's id.
const ID: &str = "spool.id";
/// The file that is locked by only one process.
const LOCK: &str = "spool.lock";
/// The name of the retention marker: a cursor at the end of the intentionally deleted events.
pub(crate) const TRIMMED: &str = "trimmed";
/// The end of the log texts about an unreadable retention marker.
const UNREADABLE_MARKER: &str = "that records up to where old events were deleted is unreadable; intentionally deleted \
                                 events may be reported as damaged";

/// Opens the log in a folder.
pub(super) fn open(config: &DiskConfig, folder: &Path) -> Result<Shared, OpenError> {
    let options = options(config)?;
    let cursors = folder.join(CURSORS);
    files::make_folder(folder)?;
    if let Some(kind) = files::network_file_system(folder) {
        warn!(
            folder = %folder.display(),
            "the spool is on a network file system ({kind}), which may lose synced data; use a local disk"
        );
    }
    warn_of_size(folder, options.max_size);
    let lock = lock_folder(folder)?;
    if !files::can_sync_folder(folder)? {
        warn!(
            folder = %folder.display(),
            "this file system cannot sync a folder: after a power cut files of the spool may be missing; use a local disk"
        );
    }
    let found = segment::list(folder)?;
    refuse_other_versions(&found)?;
    let identity =
        files::folder_identity(folder).map_err(DiskError::of("read the metadata of the folder", folder))?;
    for name in [PREALLOCATED, NEW] {
        files::remove(&folder.join(name))?;
    }
    for name in [
        ID,
        epochs::NAME,
        registry::NAME,
        resume_file::NAME,
        stop_record::NAME,
    ] {
        files::remove(&folder.join(files::temporary_name(name)))?;
    }
    let id = match read_id(folder)? {
        Some(id) => id,
        None => make_id(folder, &found)?,
    };

    let trimmed_path = folder.join(cursor::file_name(TRIMMED));
    let (mut trimmed_file, trimmed) = read_trimmed(trimmed_path, id)?;
    match trimmed_file.make() {
        // The file is created when the disk has space. Until then no segment is deleted.
        Err(error) if error.is_retryable() => {}
        made => made?,
    }
    let mut state = State::new(Sequence::FIRST, trimmed.next);
    state.dropped_events = trimmed.counts.dropped;
    state.segments = segments(folder, found, id, trimmed.next)?.into();
    let mut shared = Shared {
        folder: folder.to_owned(),
        id,
        epochs: Epochs::default(),
        options,
        state: Mutex::new(state),
        writer_condvar: Condvar::new(),
        maintenance_condvar: Condvar::new(),
        durable: watch::Sender::new(0),
        closed: watch::Sender::new(false),
        sync_duration: Histogram::default(),
        trimmed: Mutex::new(trimmed_file),
        registry: Mutex::new(Registry::read(folder, id)?),
        resume_file: Mutex::new(ResumeFile::new(folder, id)),
        aside: Mutex::new(Aside::new(folder)),
        identity,
        lock: Mutex::new(Some(lock)),
    };
    let stored = epochs::read(folder)?;
    let end = recover_end(&shared, stored.as_ref(), trimmed.next)?;
    let readers = readers::recover(&shared, &cursors, end)?;
    // A sink may have settled events that a power cut or damage removed: no later event reuses the sequence of such an event.
    // Cursors are saved with a delay, so a broker may store events after them: the epoch that begins here distinguishes these
    // events from new ones with the same sequence.
    let settled = readers.values().map(|reader| reader.cursor.next).max();
    let next = end.max(trimmed.next).max(settled.unwrap_or(end));
    if next > end {
        warn!(
            folder = %folder.display(),
            events = next.since(end),
            "the end of the spool is missing, for example after a power cut: a sink has settled events after the last stored \
             one; sinks that have not settled these events lose them"
        );
    }
    shared.epochs = epochs::begin(folder, next)?;
    let mut state = shared.lock();
    state.next = next;
    state.readers = readers;
    state.readers_are_unknown = super::lock(&shared.registry).state() == FileState::Damaged;
    state.stored_epoch = stored.map(|stored| stored.current());
    info!(
        folder = %shared.folder.display(),
        %id,
        oldest = state.oldest().get(),
        next = next.get(),
        size_bytes = state.size(),
        "the spool is open"
    );
    drop(state);
    shared.durable.send_replace(next.get() - 1);
    Ok(shared)
}

/// Returns an error if a segment was written by another version of the program, before anything is changed.
fn refuse_other_versions(segments: &[(Sequence, PathBuf)]) -> Result<(), OpenError> {
    for (_, path) in segments {
        let file = File::open(path).map_err(DiskError::of("open", path))?;
        let header = segment::read_header(&file).map_err(DiskError::of("read", path))?;
        if let Err(FormatError::Version { found, expected }) = header {
            return Err(OpenError::Version {
                path: path.clone(),
                found,
                expected,
            });
        }
    }
    Ok(())
}

fn options(config: &DiskConfig) -> Result<Options, OpenError> {
    let max_size = config.max_size.bytes();
    if max_size < LEAST_SIZE {
        return Err(OpenError::TooSmall {
            found: max_size,
            least: LEAST_SIZE,
        });
    }
    let segment_size = config
        .segment_size
        .bytes()
        .clamp(LEAST_SEGMENT, max_size / SEGMENTS);
    Ok(Options {
        max_size,
        segment_size,
        sync: config.sync,
        when_full: config.when_full,
        retain: config.retain,
        segment_age: (config.retain / AGE_PART).max(LEAST_AGE),
    })
}

/// Warns if the disk is smaller than the limit of the log: the disk would be full before the limit is reached.
fn warn_of_size(folder: &Path, max_size: u64) {
    if let Some(size) = files::file_system_size(folder)
        && size < max_size
    {
        warn!(
            folder = %folder.display(),
            max_size = max_size,
            file_system_size = size,
            "spool.max_size exceeds the size of the file system: the disk is full before the limit is reached"
        );
    }
}

/// The locks of a log's folder.
#[derive(Debug)]
pub(crate) struct FolderLock {
    /// The lock of the cursors' folder, which cannot be removed while it contains a cursor, unlike the lock file. The
    /// log's folder is not locked: it may be the data folder, which has a lock of its own.
    _cursors: Flock<File>,
    /// The lock of the lock file, which is the only lock that earlier versions of the program use.
    _file: Flock<File>,
}

/// Locks a log's folder.
pub(crate) fn lock_folder(folder: &Path) -> Result<FolderLock, OpenError> {
    let lock = |path: &Path, file| {
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
            Errno::EWOULDBLOCK => OpenError::Locked {
                folder: folder.to_owned(),
            },
            error => DiskError::of("lock", path)(error.into()).into(),
        })
    };
    let cursors = folder.join(CURSORS);
    if folder.is_dir() {
        files::make_folder(&cursors)?;
    }
    let opened = File::open(&cursors).map_err(DiskError::of("open", &cursors))?;
    let cursors = lock(&cursors, opened)?;
    let file = folder.join(LOCK);
    let opened = files::open_or_create(&file)?;
    Ok(FolderLock {
        _cursors: cursors,
        _file: lock(&file, opened)?,
    })
}

/// Returns whether a process has locked the log. The check may make a concurrent attempt to lock the log fail: so only
/// rare operations may call it.
pub(crate) fn is_locked(folder: &Path) -> bool {
    let files = [CURSORS, LOCK].map(|name| File::open(folder.join(name)));
    files.into_iter().flatten().any(|file| {
        matches!(
            Flock::lock(file, FlockArg::LockSharedNonblock),
            Err((_, Errno::EWOULDBLOCK))
        )
    })
}

/// Returns the log's id from its file; `None` if no id can be read.
pub(crate) fn read_id(folder: &Path) -> Result<Option<SpoolId>, DiskError> {
    let path = folder.join(ID);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(DiskError::of("read", &path)(error)),
    };
    let text = String::from_utf8(bytes).unwrap_or_default();
    let id = text
        .split_once(' ')
        .and_then(|(id, _)| Uuid::parse_str(id).ok())
        .map(|id| SpoolId::from_bytes(id.into_bytes()))
        .filter(|id| id_line(*id) == text);
    Ok(id)
}

/// Determines the id from the segments, or generates a new one, and writes it to its file.
fn make_id(folder: &Path, segments: &[(Sequence, PathBuf)]) -> Result<SpoolId, DiskError> {
    let found = segments.iter().rev().find_map(|(_, path)| {
        let header = segment::read_header(&File::open(path).ok()?).ok()?.ok()?;
        Some(header.spool)
    });
    if let Some(id) = found {
        warn!(folder = %folder.display(), %id, "spool id missing or damaged; using the id in a segment");
    } else if !segments.is_empty() {
        warn!(folder = %folder.display(), "spool id not found; creating a new one; events may be sent again");
    }
    let id = found.unwrap_or_else(SpoolId::generate);
    files::replace(folder, ID, id_line(id).as_bytes())?;
    Ok(id)
}

fn id_line(id: SpoolId) -> String {
    format!("{id} {:08x}\n", crc32c::crc32c(id.as_bytes()))
}

fn read_trimmed(path: PathBuf, id: SpoolId) -> Result<(CursorFile, Cursor), DiskError> {
    Ok(match cursor::read(&path, id)? {
        Stored::Cursor { slot, damage } => {
            if let Some(error) = damage {
                warn!(file = %path.display(), %error, "one of the two entries in the file {UNREADABLE_MARKER}");
            }
            (CursorFile::new(path, id, Some(&slot)), slot.cursor)
        }
        stored => {
            if let Stored::Damaged(error) = stored {
                warn!(file = %path.display(), %error, "the file {UNREADABLE_MARKER}");
            }
            (
                CursorFile::new(path, id, None),
                Cursor::starting_at(Sequence::FIRST),
            )
        }
    })
}

/// Returns the segments of this log. Moves segments of other logs into the folder `damaged`, and deletes segments before the
/// retention marker.
fn segments(
    folder: &Path,
    found: Vec<(Sequence, PathBuf)>,
    id: SpoolId,
    trimmed: Sequence,
) -> Result<Vec<Segment>, OpenError> {
    let mut segments: Vec<Segment> = Vec::new();
    for (first, path) in found {
        let file = File::open(&path).map_err(DiskError::of("open", &path))?;
        let begins_at = match segment::read_header(&file).map_err(DiskError::of("read", &path))? {
            Ok(header) if header.spool == id => Some(header.begins_at),
            Ok(header) => {
                warn!(
                    segment = %path.display(), spool = %header.spool,
                    "segment of another spool moved into the folder \"damaged\"; its events are not delivered"
                );
                let aside = folder.join(DAMAGED);
                files::make_folder(&aside)?;
                if let Some(name) = path.file_name() {
                    files::rename(&path, &aside.join(name))?;
                    files::sync_folder(&aside)?;
                }
                // The retention in the folder `damaged` begins now, whatever the age of the segment.
                if let Err(error) = file.set_modified(SystemTime::now()) {
                    debug!(%error, segment = %path.display(), "modification time of the moved file cannot be set");
                }
                continue;
            }
            Err(error) => {
                warn!(segment = %path.display(), %error, "segment header damaged; its events are read nevertheless");
                None
            }
        };
        let metadata = file
            .metadata()
            .map_err(DiskError::of("read the metadata of", &path))?;
        segments.push(Segment::new(path, first, metadata.len(), begins_at));
    }
    // Segments whose deletion a crash prevented.
    let settled = segments
        .windows(2)
        .take_while(|pair| pair[1].first <= trimmed)
        .count();
    for segment in segments.drain(..settled) {
        files::remove(&segment.path)?;
    }
    if settled > 0 {
        files::sync_folder(folder)?;
    }
    Ok(segments)
}

/// Finds the end of the log. After an orderly stop the end is recorded: events that are missing before it count as damaged.
fn recover_end(shared: &Shared, stored: Option<&Epochs>, trimmed: Sequence) -> Result<Sequence, OpenError> {
    let recorded = match stored {
        Some(stored) => stop_record::read(&shared.folder, stored)?,
        None => None,
    };
    let end = recover_last(shared)?;
    let Some(recorded) = recorded.filter(|recorded| *recorded > end) else {
        return Ok(end);
    };
    let from = end.max(trimmed);
    if from < recorded {
        let last = shared
            .lock()
            .segments
            .back()
            .map(|last| (last.path.clone(), last.length));
        let (path, offset) = last.unwrap_or_else(|| (segment::path(&shared.folder, from), 0));
        let region = Region {
            offset,
            end: offset,
            from,
            to: recorded,
        };
        warn!(
            segment = %path.display(),
            events = recorded.since(from),
            "the end of the spool is missing or damaged since the last orderly stop; the events in it are lost"
        );
        shared.note_damage(&path, &region);
    }
    Ok(recorded)
}

/// Reads the last segment, truncates a write that the end of the last run interrupted, and returns the next sequence.
fn recover_last(shared: &Shared) -> Result<Sequence, OpenError> {
    let Some(mut last) = shared.lock().segments.pop_back() else {
        return Ok(Sequence::FIRST);
    };
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&last.path)
        .map_err(DiskError::of("open", &last.path))?;
    let duplicate = file.try_clone().map_err(DiskError::of("open", &last.path))?;
    let limit = last.first.plus(last.length / record::SHORTEST as u64 + 1);
    let mut scan = Scan::new(duplicate, HEADER_LENGTH as u64, last.first, last.length, limit);
    let mut newest = last.begins_at;
    let end = loop {
        match scan.next().map_err(DiskError::of("read", &last.path))? {
            Item::Events { batch, offset } => {
                let times = batch.iter().filter_map(Result::ok).map(|event| event.received_at);
                newest = times.last().max(newest);
                last.add_to_index(RecordPosition {
                    sequence: batch.first(),
                    offset,
                    received_at: batch
                        .iter()
                        .next()
                        .and_then(Result::ok)
                        .map(|event| event.received_at),
                });
            }
            Item::Damage(region) => shared.note_damage(&last.path, &region),
            Item::End { offset } => break offset,
        }
    };
    let next = scan.expected();
    if last.length > end {
        let torn = Region {
            offset: end,
            end: last.length,
            from: next,
            to: next.next(),
        };
        if !is_zero(&file, end, last.length).map_err(DiskError::of("read", &last.path))? {
            warn!(
                segment = %last.path.display(),
                offset = end,
                "the last write is incomplete, so its events were not confirmed as stored; truncating it, after a copy into the \
                 folder \"damaged\" if the copies there do not exceed 64 MiB"
            );
            if let Err(error) = shared.set_aside(&last.path, &torn) {
                warn!(
                    segment = %last.path.display(), offset = end, %error,
                    "the bytes of the incomplete last write cannot be copied into the folder \"damaged\"; they are deleted \
                     without a copy"
                );
            }
        }
        files::truncate(&file, &last.path, end)?;
        files::sync(&file, &last.path)?;
    }
    let mut state = shared.lock();
    state.note_received(newest);
    if next > last.first {
        last.length = end;
        last.allocated = end;
        state.segments.push_back(last);
        return Ok(next);
    }
    drop(state);
    // The segment has no record: the next segment would have the same name.
    files::remove(&last.path)?;
    files::sync_folder(&shared.folder)?;
    Ok(next)
}

fn is_zero(file: &File, mut offset: u64, end: u64) -> io::Result<bool> {
    while offset < end {
        let bytes = scan::read(file, offset, BLOCK.min((end - offset) as usize))?;
        if bytes.is_empty() {
            break;
        }
        if bytes.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        offset += bytes.len() as u64;
    }
    Ok(true)
}
