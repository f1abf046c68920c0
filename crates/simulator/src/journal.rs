//! The record of the sent frames, which tests compare with the received events.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

/// The size of the write buffer: the events of some milliseconds at full speed, so that the file is written in large
/// blocks.
const BUFFER_BYTES: usize = 1024 * 1024;

/// The record of the frames that were sent: in a file, in memory, in both, or disabled.
///
/// The task of each connection writes its frames directly, without a queue that could overflow: a slow disk slows down
/// the simulator, and no frame is lost.
#[derive(Debug)]
pub(crate) struct Journal {
    /// Whether a record exists. Most simulators have none and then take no lock.
    active: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    file: Option<BufWriter<File>>,
    error: Option<io::Error>,
    /// The most recent frames, at most `keep`.
    newest: VecDeque<Bytes>,
    keep: usize,
}

impl Journal {
    /// Creates the record; an existing file is truncated.
    pub(crate) fn create(path: Option<&Path>, keep: usize) -> io::Result<Self> {
        let file = path
            .map(File::create)
            .transpose()?
            .map(|file| BufWriter::with_capacity(BUFFER_BYTES, file));
        let active = file.is_some() || keep > 0;
        let state = Mutex::new(State {
            file,
            keep,
            ..State::default()
        });
        Ok(Self { active, state })
    }

    /// Returns whether a record exists.
    pub(crate) fn is_active(&self) -> bool {
        self.active
    }

    /// Records frames in this order. An error is stored and returned by [`Journal::flush`].
    pub(crate) fn write<'a>(&self, frames: impl Iterator<Item = &'a [u8]>) {
        if !self.active {
            return;
        }
        let mut state = self.lock();
        let State {
            file,
            error,
            newest,
            keep,
        } = &mut *state;
        for frame in frames {
            if *keep > 0 {
                if newest.len() == *keep {
                    newest.pop_front();
                }
                newest.push_back(Bytes::copy_from_slice(frame));
            }
            if let Some(open) = file
                && let Err(failure) = open.write_all(frame).and_then(|()| open.write_all(b"\n"))
            {
                *error = Some(failure);
                // A gap in a record is worse than a short record, so nothing is written after an error.
                *file = None;
            }
        }
    }

    /// Writes all buffered frames to the operating system, and returns the first error since the last call.
    pub(crate) fn flush(&self) -> io::Result<()> {
        if !self.active {
            return Ok(());
        }
        let mut state = self.lock();
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        state.file.as_mut().map_or(Ok(()), BufWriter::flush)
    }

    /// Returns the frames kept in memory, oldest first.
    pub(crate) fn newest(&self) -> Vec<Bytes> {
        self.lock().newest.iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_written_as_lines_and_newest_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sent.jsonl");
        let journal = Journal::create(Some(&path), 2).unwrap();
        journal.write([&b"1"[..], b"2", b"3"].into_iter());
        assert_eq!(journal.newest(), [&b"2"[..], b"3"]);
        journal.flush().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1\n2\n3\n");
    }

    #[test]
    fn write_error_is_returned_by_flush() {
        let journal = Journal::create(Some(Path::new("/dev/full")), 0).unwrap();
        let frame = vec![b'x'; 2 * BUFFER_BYTES];
        journal.write(std::iter::once(frame.as_slice()));
        assert_eq!(journal.flush().unwrap_err().kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn record_without_destination_keeps_nothing() {
        let journal = Journal::create(None, 0).unwrap();
        journal.write(std::iter::once(&b"1"[..]));
        assert!(journal.newest().is_empty());
    }
}
