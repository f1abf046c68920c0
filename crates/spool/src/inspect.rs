//! Inspects a log on disk, also while a bridge writes to it: changes nothing, and locks it only with [`lock`].

mod resume;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use jiff::Timestamp;
use neurobridge_core::{event::Sequence, identity::SpoolId, reader::Cursor, record, record::SealedBatch};

pub use self::resume::ResumeFileState;
use crate::{
    DiskError, OpenError,
    disk::{
        CURSORS,
        cursor::{self, Stored},
        epochs, readers, recovery,
        registry::Registry,
        scan::{Item, Scan},
        segment, stop_record,
    },
    format::{FormatError, HEADER_LENGTH},
};

/// The number and the interval of repeated reads of apparent damage in the newest segment: a bridge may be writing there. If a
/// write takes longer than all repetitions, the disk itself is faulty.
const REREADS: u32 = 10;
const REREAD_INTERVAL: Duration = Duration::from_millis(50);

/// The contents of a log's folder.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The log's id; `None` if its file is missing or damaged.
    pub id: Option<SpoolId>,
    /// The segments, in order.
    pub segments: Vec<SegmentFile>,
    /// The cursors of the readers, by name.
    pub cursors: Vec<CursorState>,
    /// The resume values of the sources; `None` without their file.
    pub resume: Option<ResumeFileState>,
}

/// A segment, described by its file name and its header.
#[derive(Clone, Debug)]
pub struct SegmentFile {
    /// The file.
    pub path: PathBuf,
    /// The sequence of the first event.
    pub first: Sequence,
    /// The time at which the first event was received; `None` if the header is damaged.
    pub begins_at: Option<Timestamp>,
    /// The size in bytes, including preallocated space.
    pub size_bytes: u64,
}

/// A reader's cursor.
#[derive(Clone, Debug)]
pub struct CursorState {
    /// The name of the reader.
    pub reader: String,
    /// The cursor; `None` if its file is missing or damaged.
    pub cursor: Option<Cursor>,
    /// The damage of the file: of the whole file, or of one of the two copies in it.
    pub damage: Option<String>,
}

/// The result of a full verification.
#[derive(Clone, Debug, Default)]
pub struct VerifyReport {
    /// The number of intact events.
    pub events: u64,
    /// The first and the last intact event.
    pub range: Option<(Sequence, Sequence)>,
    /// The damage. Empty for an intact log.
    pub findings: Vec<Finding>,
}

/// A damaged part of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub path: PathBuf,
    /// The offset in the file.
    pub offset: u64,
    /// The first missing event.
    pub from: Sequence,
    /// The number of missing events.
    pub events: u64,
    /// The description of the damage.
    pub what: String,
}

/// A part of a log.
#[derive(Debug)]
pub enum Entry {
    /// Intact events.
    Events(SealedBatch),
    /// Unreadable events.
    Damaged(Finding),
}

/// The lock of a log, released on drop.
#[derive(Debug)]
pub struct LogLock {
    _lock: recovery::FolderLock,
}

/// Locks a log without opening it.
///
/// # Errors
/// [`OpenError::Locked`] if another process has opened it; an error of the disk if its folder does not exist.
pub fn lock(folder: &Path) -> Result<LogLock, OpenError> {
    recovery::lock_folder(folder).map(|lock| LogLock { _lock: lock })
}

/// Lists the contents of a log's folder.
///
/// # Errors
/// Returns an error if the folder cannot be read.
pub fn list(folder: &Path) -> Result<Listing, DiskError> {
    let id = recovery::read_id(folder)?;
    let mut segments = Vec::new();
    for (first, path) in segment::list(folder)? {
        let opened =
            File::open(&path).and_then(|file| Ok((file.metadata()?.len(), segment::read_header(&file)?)));
        let (size_bytes, header) = match opened {
            Ok(opened) => opened,
            // A running bridge has deleted the segment.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(DiskError::of("read", &path)(error)),
        };
        segments.push(SegmentFile {
            path,
            first,
            begins_at: header.ok().map(|header| header.begins_at),
            size_bytes,
        });
    }
    let cursors = cursors(folder, id, !segments.is_empty())?;
    Ok(Listing {
        id,
        segments,
        cursors,
        resume: resume::state(folder, id)?,
    })
}

/// Returns the existing cursors, and those of registered readers that are missing.
fn cursors(folder: &Path, id: Option<SpoolId>, has_records: bool) -> Result<Vec<CursorState>, DiskError> {
    let found = cursor::list(&folder.join(CURSORS))?;
    let Some(id) = id else {
        let unknown = |(reader, _)| CursorState {
            reader,
            cursor: None,
            damage: Some("the log's id is missing or damaged".to_owned()),
        };
        return Ok(found.into_iter().map(unknown).collect());
    };
    let registry = Registry::read(folder, id)?;
    let mut names: BTreeSet<String> = registry.names().cloned().collect();
    names.extend(found.into_iter().map(|(name, _)| name));
    let mut cursors = Vec::new();
    for reader in names {
        let path = folder.join(CURSORS).join(cursor::file_name(&reader));
        let (cursor, damage) = match cursor::read(&path, id)? {
            Stored::Cursor { slot, damage } => {
                let damage = damage.map(|error| format!("one of its two copies is damaged: {error}"));
                (Some(slot.cursor), damage)
            }
            stored => match readers::loss(&stored, &registry, &reader, has_records) {
                Some(reason) => (None, Some(reason)),
                None => continue,
            },
        };
        cursors.push(CursorState {
            reader,
            cursor,
            damage,
        });
    }
    Ok(cursors)
}

/// Reads and verifies a whole log. Events that a running bridge is writing at the moment are not reported as damage.
///
/// # Errors
/// Returns an error if the log cannot be read.
pub fn verify(folder: &Path) -> Result<VerifyReport, DiskError> {
    verify_with_progress(folder, |_, _| {})
}

/// Like [`verify`]; also calls `progress` from time to time with the number of bytes read and the approximate total.
///
/// # Errors
/// Returns an error if the log cannot be read.
pub fn verify_with_progress(
    folder: &Path,
    mut progress: impl FnMut(u64, u64),
) -> Result<VerifyReport, DiskError> {
    let listing = list(folder)?;
    let all_bytes = listing.segments.iter().map(|segment| segment.size_bytes).sum();
    let mut read_bytes = 0;
    let mut report = VerifyReport::default();
    if listing.id.is_none() {
        report.findings.push(Finding {
            path: folder.join("spool.id"),
            offset: 0,
            from: Sequence::FIRST,
            events: 0,
            what: "the log's id is missing or damaged".to_owned(),
        });
    }
    for segment in &listing.segments {
        report.findings.extend(check_header(segment, listing.id)?);
    }
    for state in &listing.cursors {
        let Some(damage) = &state.damage else {
            continue;
        };
        let what = match &state.cursor {
            Some(_) => format!("the cursor of {}: {damage}", state.reader),
            None => format!("the cursor of {} is damaged: {damage}", state.reader),
        };
        report.findings.push(Finding {
            path: folder.join(CURSORS).join(cursor::file_name(&state.reader)),
            offset: 0,
            from: Sequence::FIRST,
            events: 0,
            what,
        });
    }
    let of_resume_file = resume::finding(folder, listing.resume.as_ref());
    report.findings.extend(of_resume_file);
    let newest = listing.segments.last().map(|segment| segment.path.clone());
    let id = listing.id;
    let mut next = Sequence::FIRST;
    for entry in Entries::new(listing.segments, Sequence::FIRST) {
        match entry? {
            Entry::Events(batch) => {
                read_bytes += batch.bytes().len() as u64;
                progress(read_bytes, all_bytes);
                report.events += batch.events();
                next = batch.end();
                let first = report.range.map_or(batch.first(), |(first, _)| first);
                let last = Sequence::new(batch.end().get() - 1).unwrap_or(first);
                report.range = Some((first, last));
            }
            Entry::Damaged(finding)
                if newest.as_ref() == Some(&finding.path) && is_being_written(folder, &finding)? =>
            {
                report.events += finding.events;
            }
            Entry::Damaged(finding) => {
                next = finding.from.plus(finding.events);
                report.findings.push(finding);
            }
        }
    }
    if let Some(id) = id {
        report.findings.extend(missing_at_end(folder, id, next)?);
    }
    Ok(report)
}

/// Returns the events that the log contained at its last orderly stop and that are missing after its last record.
fn missing_at_end(folder: &Path, id: SpoolId, next: Sequence) -> Result<Option<Finding>, DiskError> {
    let Some(stored) = epochs::read(folder)? else {
        return Ok(None);
    };
    let Some(end) = stop_record::read(folder, &stored)? else {
        return Ok(None);
    };
    // Events removed by retention are not missing.
    let trimmed = match cursor::read(&folder.join(cursor::file_name(recovery::TRIMMED)), id)? {
        Stored::Cursor { slot, .. } => slot.cursor.next,
        _ => Sequence::FIRST,
    };
    let from = next.max(trimmed);
    Ok((from < end).then(|| Finding {
        path: folder.join(stop_record::NAME),
        offset: 0,
        from,
        events: end.since(from),
        what: format!(
            "missing or unreadable events at the end of the spool since the last orderly stop: {}",
            end.since(from)
        ),
    }))
}

/// Returns whether apparent damage is a write of a running bridge: then the events are intact, or deleted, a moment later.
fn is_being_written(folder: &Path, finding: &Finding) -> Result<bool, DiskError> {
    if !recovery::is_locked(folder) {
        return Ok(false);
    }
    let end = finding.from.plus(finding.events);
    for _ in 0..REREADS {
        // The writer is another process, which sends no notification.
        thread::sleep(REREAD_INTERVAL);
        let mut next = finding.from;
        for entry in from_sequence(folder, finding.from)? {
            match entry? {
                Entry::Events(batch) if next < end => next = batch.end(),
                Entry::Events(_) | Entry::Damaged(_) => break,
            }
        }
        if next >= end {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Reads a log from a sequence up to its current end.
///
/// # Errors
/// Returns an error if the folder cannot be read.
pub fn from_sequence(folder: &Path, sequence: Sequence) -> Result<Entries, DiskError> {
    Ok(Entries::new(list(folder)?.segments, sequence))
}

/// Reads a log from the segment that contains a time of receipt. The caller has to skip the earlier events of that segment.
///
/// # Errors
/// Returns an error if the folder cannot be read.
pub fn from_time(folder: &Path, time: Timestamp) -> Result<Entries, DiskError> {
    let segments = list(folder)?.segments;
    let before = segments
        .iter()
        .filter(|segment| segment.begins_at.is_some_and(|begins_at| begins_at <= time));
    let first = before.map(|segment| segment.first).max();
    Ok(Entries::new(segments, first.unwrap_or(Sequence::FIRST)))
}

/// An iterator over the events of a log. Blocks on the disk, and holds one block in memory.
#[derive(Debug)]
pub struct Entries {
    segments: std::vec::IntoIter<SegmentFile>,
    next_segment: Option<SegmentFile>,
    current: Option<OpenSegment>,
    next: Sequence,
}

#[derive(Debug)]
struct OpenSegment {
    path: PathBuf,
    scan: Scan,
    /// The first sequence of the segment after this one; `None` for the last.
    limit: Option<Sequence>,
}

impl Entries {
    fn new(segments: Vec<SegmentFile>, next: Sequence) -> Self {
        let skipped = segments
            .windows(2)
            .take_while(|pair| pair[1].first <= next)
            .count();
        let mut segments = segments.into_iter();
        let next_segment = segments.nth(skipped);
        Self {
            segments,
            next_segment,
            current: None,
            next,
        }
    }

    /// Opens the next segment. Returns false if there is none.
    fn advance(&mut self) -> Result<bool, DiskError> {
        while let Some(segment) = self.next_segment.take() {
            self.next_segment = self.segments.next();
            let limit = self.next_segment.as_ref().map(|segment| segment.first);
            let file = match File::open(&segment.path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(DiskError::of("open", &segment.path)(error)),
            };
            // Records of another version could have a valid checksum and another meaning.
            let header = segment::read_header(&file).map_err(DiskError::of("read", &segment.path))?;
            if let Err(error @ FormatError::Version { .. }) = header {
                let error = io::Error::new(io::ErrorKind::InvalidData, error);
                return Err(DiskError::of("read", &segment.path)(error));
            }
            let size = file
                .metadata()
                .map_err(DiskError::of("read the metadata of", &segment.path))?
                .len();
            let largest_end = segment.first.plus(size / record::SHORTEST as u64 + 1);
            let scan = Scan::new(
                file,
                HEADER_LENGTH as u64,
                segment.first,
                size,
                limit.unwrap_or(largest_end),
            );
            self.current = Some(OpenSegment {
                path: segment.path,
                scan,
                limit,
            });
            return Ok(true);
        }
        Ok(false)
    }

    fn read(&mut self) -> Result<Option<Entry>, DiskError> {
        loop {
            let Some(current) = &mut self.current else {
                if self.advance()? {
                    continue;
                }
                return Ok(None);
            };
            let finding = |offset, from: Sequence, to: Sequence| Finding {
                path: current.path.clone(),
                offset,
                from,
                events: to.since(from),
                what: format!("unreadable events: {}", to.since(from)),
            };
            match current
                .scan
                .next()
                .map_err(DiskError::of("read", &current.path))?
            {
                Item::Events { batch, .. } => {
                    if let Some(part) = batch.from(self.next) {
                        self.next = part.end();
                        return Ok(Some(Entry::Events(part)));
                    }
                }
                Item::Damage(region) => {
                    if region.to > self.next || region.from == self.next {
                        self.next = region.to;
                        return Ok(Some(Entry::Damaged(finding(
                            region.offset,
                            region.from,
                            region.to,
                        ))));
                    }
                }
                Item::End { offset } => {
                    let (from, limit) = (current.scan.expected(), current.limit);
                    // The last segment ends at its write position; a partial record there is not damage.
                    let missing = limit
                        .filter(|limit| from < *limit && *limit > self.next)
                        .map(|limit| finding(offset, from, limit));
                    self.current = None;
                    if let Some(finding) = missing {
                        return Ok(Some(Entry::Damaged(finding)));
                    }
                }
            }
        }
    }
}

impl Iterator for Entries {
    type Item = Result<Entry, DiskError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.read() {
            Ok(entry) => entry.map(Ok),
            Err(error) => {
                self.current = None;
                self.next_segment = None;
                Some(Err(error))
            }
        }
    }
}

fn check_header(segment: &SegmentFile, id: Option<SpoolId>) -> Result<Option<Finding>, DiskError> {
    let header = match fs::File::open(&segment.path).and_then(|file| segment::read_header(&file)) {
        Ok(header) => header,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(DiskError::of("read", &segment.path)(error)),
    };
    let what = match header {
        Ok(header) if id.is_some_and(|id| id != header.spool) => {
            format!("the segment belongs to the spool {}", header.spool)
        }
        Ok(_) => return Ok(None),
        Err(error @ FormatError::Version { .. }) => format!("the segment cannot be read: {error}"),
        Err(error) => format!("the header of the segment is damaged: {error}"),
    };
    Ok(Some(Finding {
        path: segment.path.clone(),
        offset: 0,
        from: segment.first,
        events: 0,
        what,
    }))
}
