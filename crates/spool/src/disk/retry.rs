//! Waiting for temporary shortages: space on the disk, and resources of the process or the system.

use std::{sync::MutexGuard, thread, time::Duration};

use neurobridge_core::os_error::ErrorClass;

use super::{Shared, files::DiskError, shortened, state::State};
use crate::WhenFull;

/// The retry interval while space or a resource is missing: the system sends no notification when it is available again.
const ROOM_INTERVAL: Duration = shortened(Duration::from_millis(500));
/// The number of retries and the delay for operations that must not wait.
const ATTEMPTS: u32 = 10;
const ATTEMPT_INTERVAL: Duration = shortened(Duration::from_millis(20));

/// The reason why no more data is written.
pub(super) enum Stop {
    Closed,
    Failed(DiskError),
}

impl From<DiskError> for Stop {
    fn from(error: DiskError) -> Self {
        Self::Failed(error)
    }
}

/// Retries an operation that fails for lack of space or of another resource, until it succeeds.
pub(super) fn retry<T>(shared: &Shared, mut act: impl FnMut() -> Result<T, DiskError>) -> Result<T, Stop> {
    loop {
        match act() {
            Err(error) if error.class() == ErrorClass::NoSpace => {
                let mut state = shared.lock();
                state.is_disk_full = true;
                state.shortage.disk_full(&error);
                drop(make_room(shared, state)?);
            }
            Err(error) if error.is_retryable() => wait_for_resource(shared, &error)?,
            result => {
                let result = result?;
                end_full(&mut shared.lock());
                return Ok(result);
            }
        }
    }
}

/// Retries an operation after temporary errors, a few times at most; for operations that must not wait.
pub(super) fn retry_briefly(mut act: impl FnMut() -> Result<(), DiskError>) -> Result<(), DiskError> {
    for _ in 0..ATTEMPTS {
        match act() {
            Err(error) if error.is_retryable() => thread::sleep(ATTEMPT_INTERVAL),
            done => return done,
        }
    }
    act()
}

/// Reports a temporary error and waits for the retry interval.
fn wait_for_resource(shared: &Shared, error: &DiskError) -> Result<(), Stop> {
    let mut state = shared.lock();
    state.is_retrying = true;
    state.shortage.retrying(error);
    if !has_ended(&state) {
        state = shared.wait(&shared.writer_condvar, state, ROOM_INTERVAL);
    }
    if has_ended(&state) {
        return Err(Stop::Closed);
    }
    Ok(())
}

/// Drops the oldest segment or waits until one is settled, depending on the configuration.
pub(super) fn make_room<'a>(
    shared: &'a Shared,
    mut state: MutexGuard<'a, State>,
) -> Result<MutexGuard<'a, State>, Stop> {
    state.is_full = true;
    // Settled segments are deleted first, without waiting for the maintenance thread: no reader needs them.
    let mut oldest = state.take_settled(shared.options.retain, shared.options.segment_age);
    if oldest.is_none() && shared.options.when_full == WhenFull::DropOldest {
        oldest = state.take_dropped();
        if oldest.is_some() && !state.is_disk_full {
            state.shortage.dropping();
        }
    }
    if let Some(segment) = oldest {
        drop(state);
        match shared.remove([segment]) {
            // If the disk has no space even for the retention marker, another program or person must free space.
            Err(error) if error.is_retryable() => state = shared.lock(),
            removed => {
                removed?;
                return Ok(shared.lock());
            }
        }
    }
    if !state.is_disk_full {
        state.shortage.full(shared.options.max_size);
    }
    if !has_ended(&state) {
        shared.wake_maintenance(&mut state);
        state = shared.wait(&shared.writer_condvar, state, ROOM_INTERVAL);
    }
    if has_ended(&state) {
        return Err(Stop::Closed);
    }
    Ok(state)
}

/// Returns whether the log was closed or has failed, so that no more data is written.
pub(super) fn has_ended(state: &State) -> bool {
    state.is_closed || state.failed.is_some()
}

/// Records the end of a shortage: data can be written again.
pub(super) fn end_full(state: &mut State) {
    state.is_disk_full = false;
    state.is_full = false;
    state.is_retrying = false;
    state.shortage.room();
}
