//! Opening a log: whatever the last run left behind, of itself or of a crash, becomes a log again.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex},
};

use neurobridge_core::{
    epoch::Epochs, event::Sequence, histogram::Histogram, identity::SpoolId, reader::Cursor, record,
};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use tokio::sync::watch;
use tracing::{info, warn};
use uuid::Uuid;

use super::{
    CURSORS, DAMAGED, Options, Shared,
    cursor::{self, CursorFile, Stored},
    damaged_size, epochs,
    files::{self, DiskError},
    keeper::AHEAD,
    scan::{self, BLOCK, Item, Region, Scan},
    segment::{self, Place, Segment},
    state::{ReaderState, State},
    writer::NEW,
};
use crate::{
    DiskConfig, OpenError,
    format::{FormatError, HEADER_LENGTH},
};

/// The smallest log, as in memory: two batches of the listener's usual largest size fit.
const LEAST_SIZE: u64 = 1 << 20;
/// The smallest segment: a block of a disk.
const LEAST_SEGMENT: u64 = 4096;
/// At least so many segments fit into the log: deleting goes by whole ones.
const SEGMENTS: u64 = 8;
/// The file that holds the log's id.
const ID: &str = "spool.id";
const ID_NEW: &str = "spool.id.tmp";
/// The file that only one process has locked.
const LOCK: &str = "spool.lock";
/// The name of the cursor that says what was deleted on purpose.
const TRIMMED: &str = "trimmed";

/// Opens the log in a folder.
pub(super) fn open(config: &DiskConfig, folder: &Path) -> Result<Shared, OpenError> {
    let options = options(config)?;
    let cursors = folder.join(CURSORS);
    files::make_folder(&cursors)?;
    if let Some(kind) = files::network_file_system(folder) {
        warn!(
            folder = %folder.display(),
            "the spool is on a network file system ({kind}), which may lose what it calls synced; a local disk is safe"
        );
    }
    let lock = lock_folder(folder)?;
    for name in [AHEAD, NEW, ID_NEW, epochs::NEW] {
        files::remove(&folder.join(name))?;
    }
    let found = segment::list(folder)?;
    let id = match read_id(folder)? {
        Some(id) => id,
        None => make_id(folder, &found)?,
    };

    let trimmed_path = folder.join(cursor::file_name(TRIMMED));
    let (mut trimmed_file, trimmed) = read_trimmed(trimmed_path, id)?;
    match trimmed_file.make() {
        // Made when there is room: until then nothing is deleted.
        Err(error) if error.is_full() => {}
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
        work: Condvar::new(),
        chores: Condvar::new(),
        durable: watch::Sender::new(0),
        closed: watch::Sender::new(false),
        sync_duration: Histogram::default(),
        trimmed: Mutex::new(trimmed_file),
        damaged_size: Mutex::new(damaged_size(folder)),
        lock: Mutex::new(Some(lock)),
    };
    let end = recover_last(&shared)?;
    let readers = readers(
        &cursors,
        id,
        shared.lock().segments.front().map_or(end, |first| first.first),
    )?;
    // A sink may have settled what a power cut took, or damage: no later event gets such a sequence again. Cursors are saved
    // a moment late, though: what a broker has beyond them is told apart by the epoch that begins here.
    let settled = readers.values().map(|reader| reader.cursor.next).max();
    let next = end.max(trimmed.next).max(settled.unwrap_or(end));
    if next > end {
        warn!(
            events = next.since(end),
            "the end of the spool is missing: sinks have settled these events, and they are not there"
        );
    }
    shared.epochs = epochs::begin(folder, next)?;
    let mut state = shared.lock();
    state.next = next;
    state.readers = readers;
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
    })
}

/// Takes the lock of a log's folder.
pub(crate) fn lock_folder(folder: &Path) -> Result<Flock<File>, OpenError> {
    let path = folder.join(LOCK);
    let file = files::open_or_create(&path)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        Errno::EWOULDBLOCK => OpenError::Locked {
            folder: folder.to_owned(),
        },
        error => DiskError::of("lock", &path)(error.into()).into(),
    })
}

/// Whether a process has the log. A process that takes the lock at this very moment may be refused it: so only what is
/// seldom asks.
pub(crate) fn is_locked(folder: &Path) -> bool {
    let Ok(file) = File::open(folder.join(LOCK)) else {
        return false;
    };
    matches!(
        Flock::lock(file, FlockArg::LockSharedNonblock),
        Err((_, Errno::EWOULDBLOCK))
    )
}

/// The log's id as its file has it; `None` when there is none that can be read.
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

/// Takes the id that the segments have, or a new one, and writes it down.
fn make_id(folder: &Path, segments: &[(Sequence, PathBuf)]) -> Result<SpoolId, DiskError> {
    let found = segments.iter().rev().find_map(|(_, path)| {
        let header = segment::read_header(&File::open(path).ok()?).ok()?.ok()?;
        Some(header.spool)
    });
    if let Some(id) = found {
        warn!(%id, "the spool's id was missing or damaged; it is taken from a segment");
    } else if !segments.is_empty() {
        warn!("the spool's id was missing or damaged, in all its files; it gets a new one");
    }
    let id = found.unwrap_or_else(SpoolId::generate);
    let temporary = folder.join(ID_NEW);
    let file = files::create(&temporary)?;
    files::write_at(&file, &temporary, id_line(id).as_bytes(), 0)?;
    files::sync(&file, &temporary)?;
    files::rename(&temporary, &folder.join(ID))?;
    Ok(id)
}

fn id_line(id: SpoolId) -> String {
    format!("{id} {:08x}\n", crc32c::crc32c(id.as_bytes()))
}

fn read_trimmed(path: PathBuf, id: SpoolId) -> Result<(CursorFile, Cursor), DiskError> {
    Ok(match cursor::read(&path, id)? {
        Stored::Cursor(slot) => (CursorFile::new(path, id, Some(&slot)), slot.cursor),
        stored => {
            if let Stored::Damaged(error) = stored {
                warn!(%error, "what the spool deleted on purpose is not known any more");
            }
            (
                CursorFile::new(path, id, None),
                Cursor::starting_at(Sequence::FIRST),
            )
        }
    })
}

/// The segments that belong to this log and are not yet to be deleted.
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
                warn!(segment = %path.display(), spool = %header.spool, "a segment of another spool is set aside");
                let aside = folder.join(DAMAGED);
                files::make_folder(&aside)?;
                if let Some(name) = path.file_name() {
                    files::rename(&path, &aside.join(name))?;
                }
                continue;
            }
            Err(FormatError::Version { found }) => return Err(OpenError::Version { path, found }),
            Err(error) => {
                warn!(segment = %path.display(), %error, "the head of a segment is damaged; its events are read all the same");
                None
            }
        };
        let metadata = file.metadata().map_err(DiskError::of("look at", &path))?;
        segments.push(Segment::new(path, first, metadata.len(), begins_at));
    }
    // What a crash kept from being deleted.
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

/// Reads the last segment, cuts off what was being written when the last run ended, and tells the sequence after its end.
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
                last.remember(Place {
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
                "the last write was cut short; what is there of it is set aside and cut off"
            );
            if let Err(error) = shared.set_aside(&last.path, &torn) {
                warn!(%error, "it can't be set aside");
            }
        }
        files::cut(&file, &last.path, end)?;
        files::sync(&file, &last.path)?;
    }
    let mut state = shared.lock();
    state.newest = newest;
    if next > last.first {
        last.length = end;
        last.allocated = end;
        state.segments.push_back(last);
        return Ok(next);
    }
    drop(state);
    // Not one record: the next segment would get its name.
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

/// The readers that have a cursor on the disk.
fn readers(folder: &Path, id: SpoolId, oldest: Sequence) -> Result<BTreeMap<String, ReaderState>, DiskError> {
    let mut readers = BTreeMap::new();
    for (name, path) in cursor::list(folder)? {
        let (cursor, saved, file) = match cursor::read(&path, id)? {
            Stored::Cursor(slot) => {
                let file = CursorFile::new(path, id, Some(&slot));
                let next = slot.cursor.next;
                (slot.cursor, Some(next), file)
            }
            Stored::Nothing => continue,
            Stored::Damaged(error) => {
                warn!(
                    reader = name,
                    %error,
                    "the cursor is damaged; it begins again with the oldest event that is kept"
                );
                (Cursor::starting_at(oldest), None, CursorFile::new(path, id, None))
            }
        };
        let reader = ReaderState {
            cursor,
            saved,
            file: Arc::new(Mutex::new(file)),
            is_known: false,
            holds: true,
        };
        readers.insert(name, reader);
    }
    Ok(readers)
}
