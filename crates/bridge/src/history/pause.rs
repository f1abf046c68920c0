//! Detects pauses of the whole process: stopped by a signal, a suspended machine, or no CPU time.
//!
//! During a pause the platform continues to send, or closes the connection. After the pause the bridge reads the bytes that
//! the kernel has buffered, so the last byte before a gap may have been read long after its arrival.

use std::{collections::VecDeque, time::Duration};

use jiff::{SignedDuration, Timestamp};

/// The interval of the ticks.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// The shortest time between two ticks that counts as a pause: several times their interval.
const MIN_PAUSE: SignedDuration = SignedDuration::from_millis(300);
/// The largest number of stored pauses: more than occur between two views of the state.
const MAX_PAUSES: usize = 16;

/// The recent pauses of the process.
#[derive(Debug, Default)]
pub(super) struct Pause {
    last_tick: Option<Timestamp>,
    /// The start and the end of each pause, the newest first.
    recent: VecDeque<(Timestamp, Timestamp)>,
}

impl Pause {
    /// Records that the process runs; called at a short interval.
    pub(super) fn tick(&mut self, now: Timestamp) {
        if let Some(last) = self.last_tick.replace(now)
            && now.duration_since(last) >= MIN_PAUSE
        {
            self.recent.truncate(MAX_PAUSES - 1);
            self.recent.push_front((last, now));
        }
    }

    /// Returns the start of a gap whose last byte was read at `began`: the start of the pause, if `began` lies in a pause or
    /// shortly after it.
    pub(super) fn start_of_gap(&self, began: Timestamp) -> Timestamp {
        self.recent.iter().fold(began, |began, (from, until)| {
            let is_within = began >= *from && began.duration_since(*until) <= MIN_PAUSE;
            if is_within { *from } else { began }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gap_after_a_pause_begins_with_the_pause() {
        let at = |milliseconds| Timestamp::from_millisecond(milliseconds).unwrap();
        let mut pause = Pause::default();
        for now in [0, 100, 200, 800, 900, 1000] {
            pause.tick(at(now));
        }
        for began in [200, 780, 1080] {
            assert_eq!(pause.start_of_gap(at(began)), at(200));
        }
        for began in [180, 1120] {
            assert_eq!(pause.start_of_gap(at(began)), at(began));
        }
        // A second pause that begins shortly after the first one.
        pause.tick(at(1800));
        assert_eq!(pause.start_of_gap(at(1850)), at(200));
        for now in 0..100 {
            pause.tick(at(10_000 + 1000 * now));
        }
        assert_eq!(pause.recent.len(), MAX_PAUSES);
        // The clock was set back.
        pause.tick(at(100));
        assert_eq!(pause.start_of_gap(at(100)), at(100));
    }
}
