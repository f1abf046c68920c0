//! The log lines about a shortage of space or of another resource. A log at its limit alternates between full and room many
//! times a second. The end of a shortage is therefore logged only after some seconds with room, and the last line always states
//! the current condition.

use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::{files::DiskError, shortened};

/// The minimum duration of a condition before it is logged. Only the start of a shortage is logged at once.
const STEADY: Duration = shortened(Duration::from_secs(3));

/// The reason why the log cannot store events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Condition {
    /// There is no reason: events can be stored.
    #[default]
    Room,
    /// The limit of the log is reached, and appends wait.
    Full,
    /// The limit of the log is reached, and the oldest events are dropped.
    Dropping,
    /// The disk has no space.
    DiskFull,
    /// The system refuses another resource.
    Retrying,
}

/// The last logged condition, and the current one if it differs.
#[derive(Debug, Default)]
pub(super) struct Shortage {
    logged: Condition,
    /// A condition that differs from the logged one, and its start.
    changing: Option<(Condition, Instant)>,
}

impl Shortage {
    /// The log has reached its limit, and appends wait.
    pub(super) fn full(&mut self, limit_bytes: u64) {
        if self.change(Condition::Full, Instant::now()) {
            warn!(
                limit_bytes,
                "the spool is full; it stores no events until there is room"
            );
        }
    }

    /// The log has reached its limit, and its oldest events were dropped.
    pub(super) fn dropping(&mut self) {
        if self.change(Condition::Dropping, Instant::now()) {
            warn!(
                "the spool is full and drops its oldest events; sinks that have not delivered them lose them"
            );
        }
    }

    /// The disk has no space.
    pub(super) fn disk_full(&mut self, error: &DiskError) {
        if self.change(Condition::DiskFull, Instant::now()) {
            error!(%error, cause = %error.source, "the disk is full; the spool stores no events until there is room");
        }
    }

    /// The system refuses a resource.
    pub(super) fn retrying(&mut self, error: &DiskError) {
        if self.change(Condition::Retrying, Instant::now()) {
            error!(%error, cause = %error.source, "spool cannot write now; retrying until the system allows it");
        }
    }

    /// Events can be stored.
    pub(super) fn room(&mut self) {
        let logged = self.logged;
        if self.change(Condition::Room, Instant::now()) {
            if logged == Condition::Retrying {
                info!("spool can write again");
            } else {
                info!("the spool has room again");
            }
        }
    }

    /// Logs the end of a shortage after its minimum duration, in case no append follows that would log it. At the stop the
    /// end is logged at once.
    pub(super) fn log_end(&mut self, is_stopping: bool) {
        match &mut self.changing {
            Some((Condition::Room, since)) if is_stopping => *since -= STEADY,
            Some((Condition::Room, _)) => {}
            _ => return,
        }
        self.room();
    }

    /// Returns the time at which the end of a shortage is to be logged.
    pub(super) fn end(&self) -> Option<Instant> {
        match self.changing {
            Some((Condition::Room, since)) => Some(since + STEADY),
            _ => None,
        }
    }

    /// Records the current condition. Returns whether it is to be logged.
    fn change(&mut self, condition: Condition, now: Instant) -> bool {
        if condition == self.logged {
            self.changing = None;
            return false;
        }
        let since = match self.changing {
            Some((changing, since)) if changing == condition => since,
            _ => now,
        };
        self.changing = Some((condition, since));
        if self.logged != Condition::Room && now.duration_since(since) < STEADY {
            return false;
        }
        self.logged = condition;
        self.changing = None;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alternating_shortage_is_logged_once_and_its_end_once() {
        let mut shortage = Shortage::default();
        let start = Instant::now();
        let mut logged = Vec::new();
        let mut note = |shortage: &mut Shortage, condition, at| {
            if shortage.change(condition, at) {
                logged.push((condition, at));
            }
        };
        let step = STEADY / 10;
        for round in 0..100 {
            let at = start + step * (2 * round);
            note(&mut shortage, Condition::Full, at);
            note(&mut shortage, Condition::Room, at + step);
        }
        let last = start + step * 199;
        assert_eq!(shortage.end(), Some(last + STEADY));
        note(&mut shortage, Condition::Room, last + STEADY - step / 2);
        note(&mut shortage, Condition::Room, last + STEADY);
        note(&mut shortage, Condition::DiskFull, last + STEADY + step);
        assert_eq!(shortage.end(), None);
        assert_eq!(
            logged,
            [
                (Condition::Full, start),
                (Condition::Room, last + STEADY),
                (Condition::DiskFull, last + STEADY + step)
            ]
        );
    }

    #[test]
    fn other_shortage_is_logged_after_its_minimum_duration() {
        let mut shortage = Shortage::default();
        let start = Instant::now();
        assert!(shortage.change(Condition::Full, start));
        assert!(!shortage.change(Condition::DiskFull, start));
        assert!(!shortage.change(Condition::DiskFull, start + STEADY / 2));
        assert!(shortage.change(Condition::DiskFull, start + STEADY));
        assert!(!shortage.change(Condition::DiskFull, start + 2 * STEADY));
    }
}
