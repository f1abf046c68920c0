//! The time of day, protected against steps of the system clock.
//!
//! A system clock may jump: after a power cut, when a virtual machine resumes, or when a time server is
//! wrong. The monotonic clock does not jump. [`now`] follows the system clock only while both clocks agree,
//! so that a jump that is reverted leaves no event with a time of receipt in the future. [`trusted_now`] is
//! for actions that cannot be undone: deletion by age.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use tracing::{info, warn};

/// Both clocks agree if they differ by less than this. It exceeds the drift of a slewed clock between two
/// calls that are a day apart.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(5);
/// The time after which a forward step is adopted, unless it is reverted earlier.
const FOLLOW_AFTER: Duration = Duration::from_secs(2 * 60);
/// The time since the start or the last step for which both clocks must agree before the system clock is
/// trusted.
const TRUST_AFTER: Duration = Duration::from_secs(60 * 60);
/// A server's `Date` that differs by less confirms the system clock, because it is an independent source.
const CONFIRMS_WITHIN: SignedDuration = SignedDuration::from_secs(60);
/// A server's `Date` that differs by more contradicts the system clock.
const CONTRADICTS_BEYOND: SignedDuration = SignedDuration::from_hours(1);

static GUARD: Mutex<Option<Guard>> = Mutex::new(None);

/// Returns the time of day. Adopts a backward step of the system clock at once, and a forward step after two
/// minutes; until then the time advances with the monotonic clock.
pub fn now() -> Timestamp {
    with(|guard, wall, at| {
        let change = guard.observe(wall, at);
        (guard.now, change)
    })
}

/// Returns the time of day if it is certain enough to delete files by their age: the system clock has not
/// stepped for an hour, or a server's clock has confirmed the system clock since its last step. `None`
/// otherwise, and while a server's clock contradicts the system clock.
pub fn trusted_now() -> Option<Timestamp> {
    with(|guard, wall, at| {
        let change = guard.observe(wall, at);
        (guard.trusted(at), change)
    })
}

/// Compares the system clock with a server's clock. `ahead` is the time by which the system clock is ahead of
/// the server's.
pub fn compare_with_server(ahead: SignedDuration) {
    with(|guard, wall, at| {
        let change = guard.observe(wall, at);
        ((), guard.compare(ahead, wall, at).or(change))
    });
}

/// Returns a sentence for the operator: the reason why nothing is deleted by age at the moment. `None` while
/// the system clock is trusted, and in the first hour after the start if no step was detected.
pub fn distrust_reason() -> Option<String> {
    with(|guard, wall, at| {
        let change = guard.observe(wall, at);
        (guard.distrust_reason(at), change)
    })
}

fn with<T>(work: impl FnOnce(&mut Guard, Timestamp, Instant) -> (T, Option<Change>)) -> T {
    let (answer, change) = {
        // Nothing within the lock can panic half-way through an update.
        let mut guard = GUARD.lock().unwrap_or_else(PoisonError::into_inner);
        // Read within the lock, so that the guard receives the times in order.
        let (wall, at) = (Timestamp::now(), Instant::now());
        work(guard.get_or_insert_with(|| Guard::new(wall, at)), wall, at)
    };
    match change {
        None => {}
        Some(Change::SteppedAhead(step)) => warn!(
            seconds = step.as_secs(),
            "the system clock stepped ahead; the new time is adopted in two minutes unless the clock steps back; nothing is \
             deleted by age until the clock has been steady for an hour"
        ),
        Some(Change::SteppedBack(step)) => warn!(
            seconds = step.as_secs(),
            "the system clock stepped back; nothing is deleted by age until the clock has been steady for an hour"
        ),
        Some(Change::Reverted) => info!("the system clock stepped back to the expected time"),
        Some(Change::Adopted) => info!("adopted the forward step of the system clock"),
        Some(Change::Contradicted(ahead)) => warn!(
            ahead_seconds = ahead.as_secs(),
            "a server's clock contradicts the system clock; nothing is deleted by age; correct the system clock"
        ),
    }
    answer
}

/// A change of the guard's state that is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    SteppedAhead(SignedDuration),
    SteppedBack(SignedDuration),
    /// A forward step was reverted before it was adopted.
    Reverted,
    Adopted,
    Contradicted(SignedDuration),
}

/// The state of the guarded clock. All methods receive the time of both clocks, so that tests can set them.
#[derive(Debug)]
struct Guard {
    /// The guarded time at the monotonic time `at`.
    now: Timestamp,
    at: Instant,
    /// The time since which the system clock has not stepped.
    steady_since: Instant,
    has_stepped: bool,
    /// A forward step that is not adopted yet: its size and when it was detected.
    ahead: Option<(SignedDuration, Instant)>,
    is_confirmed: bool,
    is_contradicted: bool,
}

impl Guard {
    const fn new(now: Timestamp, at: Instant) -> Self {
        Self {
            now,
            at,
            steady_since: at,
            has_stepped: false,
            ahead: None,
            is_confirmed: false,
            is_contradicted: false,
        }
    }

    /// Moves the guarded time to `at`.
    fn observe(&mut self, wall: Timestamp, at: Instant) -> Option<Change> {
        let elapsed = SignedDuration::try_from(at - self.at).unwrap_or(SignedDuration::MAX);
        // If the elapsed time exceeds the largest time, any time of the system clock is accepted.
        let expected = self.now.saturating_add(elapsed).unwrap_or(wall);
        let step = wall.duration_since(expected);
        self.at = at;
        if step.abs() <= TOLERANCE {
            self.now = wall;
            return self.ahead.take().map(|_| Change::Reverted);
        }
        if step.is_negative() {
            self.now = wall;
            self.ahead = None;
            self.distrust_since(at);
            return Some(Change::SteppedBack(step));
        }
        self.now = expected;
        match self.ahead {
            Some((before, since)) if (step - before).abs() <= TOLERANCE => {
                (at - since >= FOLLOW_AFTER).then(|| {
                    self.now = wall;
                    self.ahead = None;
                    Change::Adopted
                })
            }
            _ => {
                self.ahead = Some((step, at));
                self.distrust_since(at);
                Some(Change::SteppedAhead(step))
            }
        }
    }

    fn compare(&mut self, ahead: SignedDuration, wall: Timestamp, at: Instant) -> Option<Change> {
        if ahead.abs() <= CONFIRMS_WITHIN {
            self.is_confirmed = true;
            self.is_contradicted = false;
            self.now = wall;
            self.at = at;
            return self.ahead.take().map(|_| Change::Adopted);
        }
        if ahead.abs() <= CONTRADICTS_BEYOND {
            return None;
        }
        self.is_confirmed = false;
        let is_new = !std::mem::replace(&mut self.is_contradicted, true);
        is_new.then_some(Change::Contradicted(ahead))
    }

    fn distrust_since(&mut self, at: Instant) {
        self.steady_since = at;
        self.has_stepped = true;
        self.is_confirmed = false;
    }

    fn trusted(&self, at: Instant) -> Option<Timestamp> {
        let is_steady = self.is_confirmed || at - self.steady_since >= TRUST_AFTER;
        (is_steady && !self.is_contradicted && self.ahead.is_none()).then_some(self.now)
    }

    fn distrust_reason(&self, at: Instant) -> Option<String> {
        if self.trusted(at).is_some() {
            return None;
        }
        if self.is_contradicted {
            let sentence = "a server's clock contradicts the system clock; nothing is deleted by age; correct the system clock";
            return Some(sentence.to_owned());
        }
        self.has_stepped.then(|| {
            "the system clock stepped; nothing is deleted by age until it has been steady for an hour"
                .to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: i64 = 24 * 60 * 60;

    /// A guard, a monotonic clock, and a system clock that is ahead by `offset`.
    struct Setting {
        guard: Guard,
        began: Instant,
        seconds: u64,
        offset: i64,
    }

    impl Setting {
        fn new() -> Self {
            let began = Instant::now();
            Self {
                guard: Guard::new(Self::time(0), began),
                began,
                seconds: 0,
                offset: 0,
            }
        }

        fn time(seconds: i64) -> Timestamp {
            Timestamp::from_second(1_700_000_000 + seconds).unwrap()
        }

        fn wall(&self) -> Timestamp {
            Self::time(self.seconds as i64 + self.offset)
        }

        fn at(&self) -> Instant {
            self.began + Duration::from_secs(self.seconds)
        }

        fn advance(&mut self, seconds: u64) -> Option<Change> {
            self.seconds += seconds;
            let (wall, at) = (self.wall(), self.at());
            self.guard.observe(wall, at)
        }

        fn is_trusted(&self) -> bool {
            self.guard.trusted(self.at()).is_some()
        }
    }

    #[test]
    fn time_is_never_before_the_time_of_the_call() {
        now();
        let before = Timestamp::now();
        assert!(now() >= before);
    }

    #[test]
    fn reverted_forward_step_is_never_adopted() {
        let mut clock = Setting::new();
        clock.advance(4000);
        assert!(clock.is_trusted());
        clock.offset = 31 * DAY;
        assert!(matches!(clock.advance(1), Some(Change::SteppedAhead(_))));
        for _ in 0..100 {
            assert_eq!(clock.advance(1), None);
            assert_eq!(clock.guard.now, Setting::time(clock.seconds as i64));
            assert!(!clock.is_trusted());
        }
        clock.offset = 0;
        assert_eq!(clock.advance(1), Some(Change::Reverted));
        assert_eq!(clock.guard.now, clock.wall());
        assert!(!clock.is_trusted() && clock.guard.distrust_reason(clock.at()).is_some());
        clock.advance(3600);
        assert!(clock.is_trusted() && clock.guard.distrust_reason(clock.at()).is_none());
    }

    #[test]
    fn lasting_forward_step_and_any_backward_step_are_adopted() {
        let mut clock = Setting::new();
        clock.offset = DAY;
        clock.advance(1);
        assert_eq!(clock.advance(120), Some(Change::Adopted));
        assert_eq!(clock.guard.now, clock.wall());
        clock.offset = 0;
        assert!(matches!(clock.advance(1), Some(Change::SteppedBack(_))));
        assert_eq!(clock.guard.now, clock.wall());
        assert!(!clock.is_trusted());
    }

    #[test]
    fn clock_is_trusted_after_an_hour_or_confirmation() {
        let mut clock = Setting::new();
        clock.advance(3599);
        assert!(!clock.is_trusted() && clock.guard.distrust_reason(clock.at()).is_none());
        let (wall, at) = (clock.wall(), clock.at());
        clock.guard.compare(SignedDuration::from_secs(3), wall, at);
        assert!(clock.is_trusted());
        let day = SignedDuration::from_hours(24);
        assert_eq!(
            clock.guard.compare(day, wall, at),
            Some(Change::Contradicted(day))
        );
        assert_eq!(clock.guard.compare(day, wall, at), None);
        clock.advance(100_000);
        assert!(!clock.is_trusted());
        let (wall, at) = (clock.wall(), clock.at());
        clock.guard.compare(SignedDuration::ZERO, wall, at);
        assert!(clock.is_trusted());
        clock.offset = -60;
        clock.advance(1);
        assert!(!clock.is_trusted(), "it was confirmed before it stepped");
        clock.advance(3600);
        assert!(clock.is_trusted());
    }

    proptest! {
        /// Whatever the system clock does, the guarded time is never ahead of the system clock, and either
        /// equals the system clock or advances with the monotonic clock.
        #[test]
        fn guarded_time_never_exceeds_the_clock(
            steps in proptest::collection::vec((0u64..300, -100_000i64..100_000, any::<bool>()), 1..50),
        ) {
            let mut clock = Setting::new();
            for (seconds, offset, does_step) in steps {
                if does_step {
                    clock.offset = offset;
                }
                let before = (clock.guard.now, clock.seconds);
                clock.advance(seconds);
                prop_assert!(clock.guard.now <= clock.wall());
                let elapsed = SignedDuration::from_secs((clock.seconds - before.1) as i64);
                prop_assert!(clock.guard.now == clock.wall() || clock.guard.now == before.0 + elapsed);
            }
        }
    }
}
