//! The position of a reader in the segments on the disk.

use std::{fs::File, io, path::Path};

use neurobridge_core::event::Sequence;

use super::{
    Shared,
    scan::{Item, Region, Scan},
};
use crate::log::Found;

/// The position of a reader on the disk. Empty until it reads there.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    /// The first sequence of the segment, and the position in it. Boxed, because the walk moves to a thread for each read.
    at: Option<Box<(Sequence, Scan)>>,
}

impl Walk {
    /// Reads the records at a sequence; blocks on the disk. Continues at the current position if the sequence follows it.
    pub(crate) fn find(&mut self, shared: &Shared, sequence: Sequence) -> io::Result<Found> {
        let mut was_missing = false;
        loop {
            // Located again in each round: the segment may have been deleted meanwhile.
            if let Some(found) = shared.find(sequence) {
                return Ok(found);
            }
            let Some(located) = shared.lock().locate(sequence) else {
                continue;
            };
            let scan = match self.at.as_deref_mut() {
                Some((first, scan))
                    if *first == located.first
                        && (located.position.sequence..=sequence).contains(&scan.expected()) =>
                {
                    scan.extend(located.end, located.limit);
                    scan
                }
                _ => {
                    let file = match File::open(&located.path) {
                        Ok(file) => file,
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {
                            // The first time, the segment may have been deleted after it was located. The second
                            // time, the file is lost.
                            if std::mem::replace(&mut was_missing, true) {
                                let region = missing(sequence, located.limit);
                                return Ok(damaged(shared, &located.path, &region));
                            }
                            continue;
                        }
                        Err(error) => return Err(error),
                    };
                    let position = located.position;
                    let scan = Scan::new(
                        file,
                        position.offset,
                        position.sequence,
                        located.end,
                        located.limit,
                    );
                    &mut self.at.insert(Box::new((located.first, scan))).1
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

/// Returns the region of the events that a missing segment contained.
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
