//! Unreadable bytes: counted, reported, and copied into a separate folder for a limited time.

use std::{
    fs::{self, File},
    io,
    path::Path,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use neurobridge_core::clock;
use tracing::{error, info, warn};

use super::{
    Shared, files, lock,
    scan::{self, BLOCK, Region},
};

/// The maximum size of a copy. Copies are for people, and the number of unreadable bytes is unlimited.
const DAMAGED_LIMIT: u64 = 64 << 20;
/// The folder of the copies.
pub(super) const DAMAGED: &str = "damaged";
/// The minimum interval between two checks for old copies.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// The state of the copies.
#[derive(Debug)]
pub(super) struct Aside {
    size: u64,
    checked_at: Option<Instant>,
}

impl Aside {
    /// Reads the total size of the copies, including those of earlier runs.
    pub(super) fn new(folder: &Path) -> Self {
        let entries = fs::read_dir(folder.join(DAMAGED)).into_iter().flatten().flatten();
        let size = entries
            .filter_map(|entry| entry.metadata().ok())
            .map(|metadata| metadata.len())
            .sum();
        Self {
            size,
            checked_at: None,
        }
    }
}

impl Shared {
    /// Counts unreadable events, reports them once, and copies the bytes at their position.
    pub(super) fn note_damage(&self, path: &Path, region: &Region) {
        if !self.lock().damage.insert(region.from, region.to) && region.from != region.to {
            return;
        }
        match self.set_aside(path, region) {
            Ok(false) => return,
            Ok(true) => {}
            Err(error) => {
                warn!(
                    %error,
                    segment = %path.display(),
                    offset = region.offset,
                    "damaged bytes cannot be copied into the folder \"damaged\"; they stay in the segment until it is deleted"
                );
            }
        }
        error!(
            segment = %path.display(),
            offset = region.offset,
            bytes = region.length(),
            first = region.from.get(),
            events = region.to.since(region.from),
            "the spool is damaged; these events are lost, the others are delivered"
        );
    }

    /// Copies unreadable bytes into the separate folder; returns whether the copy is new.
    pub(super) fn set_aside(&self, path: &Path, region: &Region) -> io::Result<bool> {
        let folder = self.folder.join(DAMAGED);
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let copy = folder.join(format!("{stem}-{}.bytes", region.offset));
        let mut aside = lock(&self.aside);
        let length = region.length();
        if copy.exists() || (length == 0 && region.from == region.to) {
            return Ok(false);
        }
        if length == 0 || aside.size + length > DAMAGED_LIMIT {
            return Ok(true);
        }
        files::make_folder(&folder).map_err(io::Error::other)?;
        let (from, to) = (File::open(path)?, files::create(&copy).map_err(io::Error::other)?);
        let mut done = 0;
        while done < length {
            let bytes = scan::read(&from, region.offset + done, BLOCK.min((length - done) as usize))?;
            if bytes.is_empty() {
                break;
            }
            files::write_at(&to, &copy, &bytes, done).map_err(io::Error::other)?;
            done += bytes.len() as u64;
        }
        aside.size += done;
        Ok(true)
    }

    /// Removes copies that are older than `limit`. The age is the smaller one of the ages by the system's clock and by the
    /// time of the log, so that neither a wrong clock nor a quiet feed makes a copy old. Without a trusted system's clock
    /// no copy is removed.
    pub(super) fn remove_old_copies(&self, limit: Duration) {
        let now = self.lock().now();
        let mut aside = lock(&self.aside);
        if aside.size == 0 || aside.checked_at.is_some_and(|at| at.elapsed() < CHECK_INTERVAL) {
            return;
        }
        let Some(now) = now.zip(clock::trusted_now()).map(|(log, system)| log.min(system)) else {
            return;
        };
        aside.checked_at = Some(Instant::now());
        let entries = fs::read_dir(self.folder.join(DAMAGED))
            .into_iter()
            .flatten()
            .flatten();
        let (mut removed, mut left) = (0_u64, 0);
        for entry in entries {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            let is_old = metadata
                .modified()
                .ok()
                .and_then(|modified| Timestamp::try_from(modified).ok())
                .is_some_and(|modified| {
                    now.duration_since(modified).unsigned_abs() > limit && modified < now
                });
            match is_old.then(|| files::remove(&entry.path())) {
                Some(Ok(())) => removed += 1,
                Some(Err(error)) => {
                    warn!(%error, cause = %error.source, "copy of damaged bytes cannot be removed; retrying");
                    left += metadata.len();
                }
                None => left += metadata.len(),
            }
        }
        aside.size = left;
        if removed > 0 {
            info!(
                folder = %self.folder.join(DAMAGED).display(),
                files = removed,
                "removed copies of damaged bytes that have reached their maximum age"
            );
        }
    }
}
