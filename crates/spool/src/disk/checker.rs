//! The thread that checks the existing segments after a start, so that damage is known before a sink reads it.

use std::{fs::File, io, sync::Arc, time::Duration};

use neurobridge_core::os_error::ErrorClass;
use tracing::{debug, warn};

use super::{
    Shared,
    scan::{BLOCK, Item, Region, Scan},
    segment::RecordPosition,
    state::Located,
};

/// The maximum number of bytes read per second: sinks and the writer have priority.
const RATE: u64 = 128 << 20;
/// The delay after a temporary error.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Runs until all segments are checked, or the log is closed.
pub(super) fn run(shared: Arc<Shared>) {
    let (mut next, end) = {
        let state = shared.lock();
        (state.oldest(), state.next)
    };
    while next < end {
        let located = {
            let state = shared.lock();
            // The segment was deleted meanwhile: continue with the next one.
            next = next.max(state.oldest());
            state.locate(next)
        };
        let Some(located) = located.filter(|located| located.first < end) else {
            break;
        };
        match check(&shared, &located) {
            Ok(true) => next = located.limit,
            Ok(false) => return,
            Err(error) if error.kind() == io::ErrorKind::NotFound => next = located.limit,
            Err(error) if ErrorClass::of(&error).is_retryable() => {
                debug!(%error, segment = %located.path.display(), "segment cannot be checked for damage now; retrying");
                let state = shared.lock();
                drop(shared.wait(&shared.maintenance_condvar, state, RETRY_INTERVAL));
                if shared.lock().is_ending() {
                    return;
                }
            }
            Err(error) => {
                warn!(
                    %error,
                    segment = %located.path.display(),
                    "the segment cannot be checked for damage; damage in it is reported when a sink reads it"
                );
                next = located.limit;
            }
        }
    }
    debug!("all segments of the spool are checked for damage");
}

/// Checks a segment and indexes its records; returns false if the log is closed.
fn check(shared: &Shared, located: &Located) -> io::Result<bool> {
    let file = File::open(&located.path)?;
    let position = located.position;
    let mut scan = Scan::new(
        file,
        position.offset,
        position.sequence,
        located.end,
        located.limit,
    );
    loop {
        match scan.next()? {
            Item::Events { batch, offset } => {
                let received_at = batch
                    .iter()
                    .next()
                    .and_then(Result::ok)
                    .map(|event| event.received_at);
                let mut state = shared.lock();
                if let Some(segment) = state
                    .segments
                    .iter_mut()
                    .find(|segment| segment.first == located.first)
                {
                    segment.add_to_index(RecordPosition {
                        sequence: batch.first(),
                        offset,
                        received_at,
                    });
                }
            }
            Item::Damage(region) => shared.note_damage(&located.path, &region),
            Item::End { offset } => {
                if scan.expected() < located.limit {
                    let region = Region {
                        offset,
                        end: located.end,
                        from: scan.expected(),
                        to: located.limit,
                    };
                    shared.note_damage(&located.path, &region);
                }
                return Ok(true);
            }
        }
        let pause = Duration::from_nanos(1_000_000_000 * BLOCK as u64 / RATE);
        let state = shared.lock();
        if state.is_ending() {
            return Ok(false);
        }
        let state = shared.wait(&shared.maintenance_condvar, state, pause);
        if state.is_ending() {
            return Ok(false);
        }
    }
}
