//! Detects pauses of the whole process: stopped by a signal, a suspended machine, or no CPU time.
//!
//! During a pause the platform continues to send, or closes the connection. After the pause the bridge reads the bytes that
//! the kernel has buffered, so the last byte before a gap may have been read long after its arrival.

use jiff::{SignedDuration, Timestamp};

/// The shortest time between two ticks that counts as a pause: several times the interval of the ticks.
const LIMIT: SignedDuration = SignedDuration::from_millis(1500);

/// The most recent pause of the process.
#[derive(Debug, Default)]
pub(super) struct Pause {
    last_tick: Option<Timestamp>,
    /// The start and the end of the pause.
    newest: Option<(Timestamp, Timestamp)>,
}

impl Pause {
    /// Records that the process runs; called at a short interval.
    pub(super) fn tick(&mut self, now: Timestamp) {
        if let Some(last) = self.last_tick.replace(now)
            && now.duration_since(last) >= LIMIT
        {
            self.newest = Some((last, now));
        }
    }

    /// Returns the start of a gap whose last byte was read at `began`: the start of the pause, if `began` lies in a pause or
    /// shortly after it.
    pub(super) fn start_of_gap(&self, began: Timestamp) -> Timestamp {
        match self.newest {
            Some((from, until)) if began >= from && began.duration_since(until) <= LIMIT => from,
            _ => began,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gap_after_a_pause_begins_with_the_pause() {
        let at = |milliseconds| Timestamp::from_millisecond(milliseconds).unwrap();
        let mut pause = Pause::default();
        for now in [0, 500, 1000, 4000, 4500, 5000, 9000] {
            assert_eq!(pause.start_of_gap(at(now)), at(now));
            pause.tick(at(now));
            if now == 4000 {
                for began in [1000, 3900, 5400] {
                    assert_eq!(pause.start_of_gap(at(began)), at(1000));
                }
                for began in [900, 5600] {
                    assert_eq!(pause.start_of_gap(at(began)), at(began));
                }
            }
            if now >= 4000 {
                pause.newest = None;
            }
        }
        // The clock was set back.
        pause.tick(at(100));
        assert_eq!(pause.start_of_gap(at(100)), at(100));
    }
}
