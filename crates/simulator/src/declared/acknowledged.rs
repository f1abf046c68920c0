//! The set of the events that clients acknowledged, and the file with the ids of these events.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    ops::RangeInclusive,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::feed::SentIds;

/// The acknowledged events: their numbers in memory, and their ids in a file.
#[derive(Debug)]
pub(super) struct Acknowledged(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    numbers: SentIds,
    file: Option<BufWriter<File>>,
    error: Option<io::Error>,
}

impl Acknowledged {
    /// Creates the file; an existing file is truncated.
    pub(super) fn create(path: Option<&Path>) -> io::Result<Self> {
        let file = path.map(File::create).transpose()?.map(BufWriter::new);
        Ok(Self(Mutex::new(State {
            file,
            ..State::default()
        })))
    }

    /// Adds events and returns how many of them were not acknowledged before. `id` returns the id of an event, which is
    /// written to the file.
    pub(super) fn insert(&self, numbers: RangeInclusive<u64>, id: impl Fn(u64) -> Option<String>) -> u64 {
        let mut state = self.lock();
        let fresh = state.numbers.insert(numbers);
        let State { file, error, .. } = &mut *state;
        let mut count = 0;
        for number in fresh.into_iter().flatten() {
            count += 1;
            if let Some(open) = file
                && let Err(failure) = writeln!(open, "{}", id(number).unwrap_or_default())
            {
                *error = Some(failure);
                *file = None;
            }
        }
        count
    }

    pub(super) fn first_missing(&self) -> u64 {
        self.lock().numbers.first_missing()
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        self.lock().numbers.contains(number)
    }

    pub(super) fn numbers(&self) -> Vec<u64> {
        self.lock().numbers.iter().collect()
    }

    /// Writes the buffered ids to the operating system, and returns the first error since the last call.
    pub(super) fn flush(&self) -> io::Result<()> {
        let mut state = self.lock();
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        state.file.as_mut().map_or(Ok(()), BufWriter::flush)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
