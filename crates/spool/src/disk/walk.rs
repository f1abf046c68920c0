//! A reader's way through the segments on the disk.

use std::{fs::File, io, path::Path};

use neurobridge_core::event::Sequence;

use super::{
    Shared,
    scan::{Item, Region, Scan},
};
use crate::log::Found;

/// Where a reader is on the disk. Empty until it reads there.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    /// The first sequence of the segment, and the way through it.
    at: Option<(Sequence, Scan)>,
}

impl Walk {
    /// What stands at a sequence; blocks on the disk. Goes on where it was when that is just before.
    pub(crate) fn find(&mut self, shared: &Shared, sequence: Sequence) -> io::Result<Found> {
        let mut was_missing = false;
        loop {
            // Again each time: meanwhile it may have been deleted, or come into memory.
            if let Some(found) = shared.find(sequence) {
                return Ok(found);
            }
            let Some(located) = shared.lock().locate(sequence) else {
                continue;
            };
            let scan = match &mut self.at {
                Some((first, scan))
                    if *first == located.first
                        && (located.place.sequence..=sequence).contains(&scan.expected()) =>
                {
                    scan.extend(located.end, located.limit);
                    scan
                }
                _ => {
                    let file = match File::open(&located.path) {
                        Ok(file) => file,
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {
                            // Deleted since it was located, unless it happens twice.
                            if std::mem::replace(&mut was_missing, true) {
                                let region = missing(sequence, located.limit);
                                return Ok(damaged(shared, &located.path, &region));
                            }
                            continue;
                        }
                        Err(error) => return Err(error),
                    };
                    let place = located.place;
                    let scan = Scan::new(file, place.offset, place.sequence, located.end, located.limit);
                    &mut self.at.insert((located.first, scan)).1
                }
            };
            match scan.next()? {
                Item::Events { batch, .. } => {
                    if let Some(part) = batch.from(sequence) {
                        return Ok(Found::Events(part));
                    }
                }
                Item::Damage(region) => {
                    let found = damaged(shared, &located.path, &region);
                    if region.to > sequence {
                        return Ok(found);
                    }
                }
                Item::End { offset } => {
                    let region = Region {
                        offset,
                        end: located.end,
                        from: scan.expected(),
                        to: located.limit,
                    };
                    self.at = None;
                    return Ok(damaged(shared, &located.path, &region));
                }
            }
        }
    }
}

/// Events of a segment that is not there.
const fn missing(from: Sequence, to: Sequence) -> Region {
    Region {
        offset: 0,
        end: 0,
        from,
        to,
    }
}

fn damaged(shared: &Shared, path: &Path, region: &Region) -> Found {
    shared.note_damage(path, region);
    Found::Damaged { next: region.to }
}
