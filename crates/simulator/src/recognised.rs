//! The record of the entries that the platform recognised, whether a client was connected or not.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;
use tokio::time::Instant;

use crate::platform::Platform;

/// The record of recognised entries; `None` if the options name no file.
#[derive(Debug)]
pub(crate) struct Recognised(Mutex<Option<State>>);

#[derive(Debug)]
struct State {
    file: BufWriter<File>,
    /// The position of the last entry in the record.
    last: u64,
}

impl Recognised {
    /// Creates the record; an existing file is truncated.
    pub(crate) fn create(path: Option<&Path>) -> io::Result<Self> {
        let file = path.map(File::create).transpose()?;
        Ok(Self(Mutex::new(file.map(|file| State {
            file: BufWriter::new(file),
            last: 0,
        }))))
    }

    /// Writes the entries that were recognised since the last call, up to `now`, and flushes the file.
    pub(crate) fn write(&self, platform: &Platform, now: Instant) -> io::Result<()> {
        let feed = &platform.feed;
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(State { file, last }) = &mut *state else {
            return Ok(());
        };
        let (clock, passed) = (Timestamp::now(), Instant::now());
        for position in *last + 1..=feed.produced(now) {
            let ago = passed.saturating_duration_since(feed.released_at(position, now));
            let at = clock.checked_sub(ago).unwrap_or(Timestamp::MIN);
            let id = match &platform.declared {
                Some(service) => serde_json::json!(service.id(position)),
                None => platform.entries.options().id_at(position).into(),
            };
            writeln!(file, r#"{{"id":{id},"at":"{at:.6}"}}"#)?;
            *last = position;
        }
        file.flush()
    }
}
