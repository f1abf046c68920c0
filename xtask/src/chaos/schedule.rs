//! What goes wrong, and when: drawn from the seed, the same each time.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

/// Who it happens to. Each has a thread of its own, so that faults overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Victim {
    Bridge,
    Kafka,
    Nats,
    Feed,
    Disk,
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Bridge => "bridge",
            Self::Kafka => "Kafka",
            Self::Nats => "NATS",
            Self::Feed => "feed",
            Self::Disk => "disk",
        })
    }
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `kill -9`, and a new start.
    Kill,
    /// SIGSTOP, and SIGCONT.
    Freeze,
    /// Connections are cut, and new ones refused.
    Cut,
    /// No byte is free.
    Fill,
}

/// A fault: from `at` on, for `lasts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) victim: Victim,
    pub(super) kind: Kind,
    pub(super) at: Duration,
    pub(super) lasts: Duration,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            Kind::Kill => "kill -9, started again after",
            Kind::Freeze => "frozen (SIGSTOP) for",
            Kind::Cut => "cut for",
            Kind::Fill => "full for",
        };
        let (at, lasts) = (self.at.as_secs_f64(), self.lasts.as_secs_f64());
        write!(f, "{at:7.1} s  {:<6}  {what} {lasts:.1} s", self.victim)
    }
}

/// Draws the faults of a run, in the order of their times. The bridge dies most often: every five to eleven seconds.
pub(super) fn draw(seed: u64, duration: Duration, with_full_disk: bool) -> Vec<Fault> {
    let mut faults = Vec::new();
    for victim in [
        Victim::Bridge,
        Victim::Kafka,
        Victim::Nats,
        Victim::Feed,
        Victim::Disk,
    ] {
        if victim == Victim::Disk && !with_full_disk {
            continue;
        }
        // Each from its own beginning: what is left out for one changes nothing for the others.
        let mut random = fastrand::Rng::with_seed(seed ^ ((victim as u64 + 1) << 56));
        let (pauses, lengths): (Range<f64>, Range<f64>) = match victim {
            Victim::Bridge => (5.0..11.0, 0.0..1.5),
            Victim::Kafka | Victim::Nats => (10.0..25.0, 0.5..8.0),
            Victim::Feed => (12.0..30.0, 0.1..3.0),
            Victim::Disk => (20.0..40.0, 2.0..8.0),
        };
        let mut drawn = |range: &Range<f64>| {
            let span = range.end - range.start;
            Duration::from_secs_f64(range.start + random.f64() * span)
        };
        let mut at = drawn(&pauses);
        while at < duration {
            let lasts = drawn(&lengths);
            let is_killed = drawn(&(0.0..1.0)) < Duration::from_millis(500);
            let kind = match victim {
                Victim::Bridge => Kind::Kill,
                Victim::Kafka | Victim::Nats if is_killed => Kind::Kill,
                Victim::Kafka | Victim::Nats => Kind::Freeze,
                Victim::Feed => Kind::Cut,
                Victim::Disk => Kind::Fill,
            };
            faults.push(Fault {
                victim,
                kind,
                at,
                lasts,
            });
            at += lasts + drawn(&pauses);
        }
    }
    faults.sort_by_key(|fault| fault.at);
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_MINUTES: Duration = Duration::from_secs(120);

    #[test]
    fn a_seed_is_a_schedule() {
        assert_eq!(draw(7, TWO_MINUTES, true), draw(7, TWO_MINUTES, true));
        assert_ne!(draw(7, TWO_MINUTES, true), draw(8, TWO_MINUTES, true));
        let mut without = draw(7, TWO_MINUTES, true);
        without.retain(|fault| fault.victim != Victim::Disk);
        assert_eq!(without, draw(7, TWO_MINUTES, false));
    }

    #[test]
    fn two_minutes_have_eight_kills_of_the_bridge_and_something_for_everyone() {
        for seed in 0..200 {
            let faults = draw(seed, TWO_MINUTES, true);
            let of = |victim| faults.iter().filter(|fault| fault.victim == victim).count();
            assert!(of(Victim::Bridge) >= 8, "seed {seed}");
            for victim in [Victim::Kafka, Victim::Nats, Victim::Feed, Victim::Disk] {
                assert!(of(victim) >= 2, "seed {seed}: {victim}");
            }
        }
    }
}
