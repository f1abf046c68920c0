//! Looking at a log on disk from outside, also while a bridge writes to it: nothing is changed, and nothing locked unless
//! that is asked for.

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

/// How often, and after how long, what looks damaged in the newest segment is looked at again: a bridge may be writing it.
/// A write that takes longer than all of this is one of a disk that is in trouble itself.
const LOOKS_AGAIN: u32 = 10;
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What is in a log's folder.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The log's id; `None` when its file is missing or damaged.
    pub id: Option<SpoolId>,
    /// Its segments, in order.
    pub segments: Vec<SegmentFile>,
    /// The cursors of its readers, by name.
    pub cursors: Vec<CursorState>,
}

/// A segment, as far as its name and its head tell.
#[derive(Clone, Debug)]
pub struct SegmentFile {
    /// The file.
    pub path: PathBuf,
    /// The sequence of its first event.
    pub first: Sequence,
    /// When that was received; `None` when the head is damaged.
    pub begins_at: Option<Timestamp>,
    /// Bytes; of the one that is written to, with those that are reserved.
    pub size_bytes: u64,
}

/// A reader's cursor.
#[derive(Clone, Debug)]
pub struct CursorState {
    /// The reader.
    pub reader: String,
    /// Where it is; `None` when it is lost: the file is missing or damaged.
    pub cursor: Option<Cursor>,
    /// What is wrong with its file: with all of it, or with one of the two copies in it.
    pub damage: Option<String>,
}

/// What a full check found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Events that are whole.
    pub events: u64,
    /// The first and the last of them.
    pub range: Option<(Sequence, Sequence)>,
    /// What is not as it should be. Empty for a whole log.
    pub findings: Vec<Finding>,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub path: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// The first event that is missing.
    pub from: Sequence,
    /// How many are.
    pub events: u64,
    /// A sentence.
    pub what: String,
}

/// What stands in a log, from a place on.
#[derive(Debug)]
pub enum Entry {
    /// Whole events.
    Events(SealedBatch),
    /// Events that can't be read.
    Damaged(Finding),
}

/// A log that nobody else can open as long as this lives.
#[derive(Debug)]
pub struct Held {
    _lock: recovery::FolderLock,
}

/// Holds a log, without opening it.
///
/// # Errors
/// [`OpenError::Locked`] when another process has it; or its folder is not there.
pub fn hold(folder: &Path) -> Result<Held, OpenError> {
    let lock = recovery::lock_folder(folder)?;
    Ok(Held { _lock: lock })
}

/// Lists what is in a log's folder.
///
/// # Errors
/// It can't be read, or is none.
pub fn list(folder: &Path) -> Result<Listing, DiskError> {
    let id = recovery::read_id(folder)?;
    let mut segments = Vec::new();
    for (first, path) in segment::list(folder)? {
        let opened =
            File::open(&path).and_then(|file| Ok((file.metadata()?.len(), segment::read_header(&file)?)));
        let (size_bytes, header) = match opened {
            Ok(opened) => opened,
            // A running bridge has deleted it.
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
    })
}

/// The cursors that are there, and those that should be.
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

/// Reads all of a log and checks it. What a running bridge is writing at this moment is no finding.
///
/// # Errors
/// It can't be read.
pub fn verify(folder: &Path) -> Result<Report, DiskError> {
    verify_telling(folder, |_, _| {})
}

/// As [`verify`]; tells now and then how many bytes were read, and how many there are about.
///
/// # Errors
/// It can't be read.
pub fn verify_telling(folder: &Path, mut tell: impl FnMut(u64, u64)) -> Result<Report, DiskError> {
    let listing = list(folder)?;
    let all_bytes = listing.segments.iter().map(|segment| segment.size_bytes).sum();
    let mut read_bytes = 0;
    let mut report = Report::default();
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
        check_head(segment, listing.id, &mut report)?;
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
    let newest = listing.segments.last().map(|segment| segment.path.clone());
    let id = listing.id;
    let mut next = Sequence::FIRST;
    for entry in Entries::new(listing.segments, Sequence::FIRST) {
        match entry? {
            Entry::Events(batch) => {
                read_bytes += batch.bytes().len() as u64;
                tell(read_bytes, all_bytes);
                report.events += batch.events();
                next = batch.end();
                let first = report.range.map_or(batch.first(), |(first, _)| first);
                let last = Sequence::new(batch.end().get() - 1).unwrap_or(first);
                report.range = Some((first, last));
            }
            Entry::Damaged(finding)
                if newest.as_ref() == Some(&finding.path) && passes(folder, &finding)? =>
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
        report.findings.extend(missing_end(folder, id, next)?);
    }
    Ok(report)
}

/// The events that a log had at its last orderly stop and that are not there any more after its last record.
fn missing_end(folder: &Path, id: SpoolId, next: Sequence) -> Result<Option<Finding>, DiskError> {
    let Some(stored) = epochs::read(folder)? else {
        return Ok(None);
    };
    let Some(end) = stop_record::read(folder, &stored)? else {
        return Ok(None);
    };
    // What was deleted on purpose is not missing.
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
            "{} events at the end of the spool, there at the last orderly stop, are missing or can't be read",
            end.since(from)
        ),
    }))
}

/// Whether what looks damaged was being written by a running bridge: then it is whole, or deleted, a moment later.
fn passes(folder: &Path, finding: &Finding) -> Result<bool, DiskError> {
    if !recovery::is_locked(folder) {
        return Ok(false);
    }
    let end = finding.from.plus(finding.events);
    for _ in 0..LOOKS_AGAIN {
        thread::sleep(LOOK_AGAIN);
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

/// Reads a log from a sequence on, as far as it is written now.
///
/// # Errors
/// The folder can't be read.
pub fn from_sequence(folder: &Path, sequence: Sequence) -> Result<Entries, DiskError> {
    Ok(Entries::new(list(folder)?.segments, sequence))
}

/// Reads a log from about a time of receipt on: from the segment in which it lies. Events before it come first, and are the
/// caller's to leave out.
///
/// # Errors
/// The folder can't be read.
pub fn from_time(folder: &Path, time: Timestamp) -> Result<Entries, DiskError> {
    let segments = list(folder)?.segments;
    let before = segments
        .iter()
        .filter(|segment| segment.begins_at.is_some_and(|begins_at| begins_at <= time));
    let first = before.map(|segment| segment.first).max();
    Ok(Entries::new(segments, first.unwrap_or(Sequence::FIRST)))
}

/// Walks over the events of a log. Blocks on the disk; what it holds in memory is a block.
#[derive(Debug)]
pub struct Entries {
    segments: std::vec::IntoIter<SegmentFile>,
    following: Option<SegmentFile>,
    at: Option<At>,
    next: Sequence,
}

#[derive(Debug)]
struct At {
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
        let following = segments.nth(skipped);
        Self {
            segments,
            following,
            at: None,
            next,
        }
    }

    /// Opens the segment that follows; false when there is none.
    fn advance(&mut self) -> Result<bool, DiskError> {
        while let Some(segment) = self.following.take() {
            self.following = self.segments.next();
            let limit = self.following.as_ref().map(|segment| segment.first);
            let file = match File::open(&segment.path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(DiskError::of("open", &segment.path)(error)),
            };
            let size = file
                .metadata()
                .map_err(DiskError::of("look at", &segment.path))?
                .len();
            let most = segment.first.plus(size / record::SHORTEST as u64 + 1);
            let scan = Scan::new(
                file,
                HEADER_LENGTH as u64,
                segment.first,
                size,
                limit.unwrap_or(most),
            );
            self.at = Some(At {
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
            let Some(at) = &mut self.at else {
                if self.advance()? {
                    continue;
                }
                return Ok(None);
            };
            let finding = |offset, from: Sequence, to: Sequence| Finding {
                path: at.path.clone(),
                offset,
                from,
                events: to.since(from),
                what: format!("{} events can't be read", to.since(from)),
            };
            match at.scan.next().map_err(DiskError::of("read", &at.path))? {
                Item::Events { batch, .. } => {
                    if let Some(part) = batch.from(self.next) {
                        self.next = part.end();
                        return Ok(Some(Entry::Events(part)));
                    }
                }
                Item::Damage(region) => {
                    if region.to >= self.next {
                        self.next = region.to;
                        return Ok(Some(Entry::Damaged(finding(
                            region.offset,
                            region.from,
                            region.to,
                        ))));
                    }
                }
                Item::End { offset } => {
                    let (from, limit) = (at.scan.expected(), at.limit);
                    // The last one ends where it is written to; what stands there half-written is no damage.
                    let missing = limit
                        .filter(|limit| from < *limit && *limit > self.next)
                        .map(|limit| finding(offset, from, limit));
                    self.at = None;
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
                self.at = None;
                self.following = None;
                Some(Err(error))
            }
        }
    }
}

fn check_head(segment: &SegmentFile, id: Option<SpoolId>, report: &mut Report) -> Result<(), DiskError> {
    let bytes = match fs::File::open(&segment.path).and_then(|file| segment::read_header(&file)) {
        Ok(header) => header,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(DiskError::of("read", &segment.path)(error)),
    };
    let what = match bytes {
        Ok(header) if id.is_some_and(|id| id != header.spool) => {
            format!("the segment belongs to the spool {}", header.spool)
        }
        Ok(_) => return Ok(()),
        Err(error @ FormatError::Version { .. }) => format!("the segment can't be read: {error}"),
        Err(error) => format!("the segment's head is damaged: {error}"),
    };
    report.findings.push(Finding {
        path: segment.path.clone(),
        offset: 0,
        from: segment.first,
        events: 0,
        what,
    });
    Ok(())
}
