//! Pauses of the whole process: a stop by a signal, a machine that is suspended or starved.
//!
//! The platform continues to send meanwhile, or closes the connection. The bridge reads what the kernel has kept once it
//! runs again, so the last byte before a gap may have been read long after it arrived.

use jiff::{SignedDuration, Timestamp};

/// The time without a look from which the process counts as paused: several times the interval of the looks.
const LIMIT: SignedDuration = SignedDuration::from_millis(1500);

/// The newest pause of the process.
#[derive(Debug, Default)]
pub(super) struct Pause {
    last_look: Option<Timestamp>,
    newest: Option<(Timestamp, Timestamp)>,
}

impl Pause {
    /// Records that the process runs.
    pub(super) fn look(&mut self, now: Timestamp) {
        if let Some(last) = self.last_look.replace(now)
            && now.duration_since(last) >= LIMIT
        {
            self.newest = Some((last, now));
        }
    }

    /// Returns the start of a gap that was noticed at `began`: that of the pause, if it was noticed in a pause or shortly
    /// after it.
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
    fn gap_begins_at_the_pause_before_it() {
        let at = |milliseconds| Timestamp::from_millisecond(milliseconds).unwrap();
        let mut pause = Pause::default();
        for now in [0, 500, 1000, 4000, 4500, 5000, 9000] {
            assert_eq!(pause.start_of_gap(at(now)), at(now));
            pause.look(at(now));
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
        pause.look(at(100));
        assert_eq!(pause.start_of_gap(at(100)), at(100));
    }
}
