//! The schedule of the faults of a run with `--recognised`. The faults depend only on the seed.

use std::ops::Range;
use std::time::Duration;

use super::super::schedule::{Change, Fault, Kind, Victim};

/// The time in seconds before the end in which no fault begins.
const LAST: f64 = 1.0;
/// The duration of a freeze of the bridge in seconds.
const FREEZE: f64 = 3.0;
/// The time from the start of a freeze of the bridge to the cut of its feed, and the duration of the cut, in seconds.
const CUT_IN_FREEZE: f64 = 1.0;

/// Draws a random mixture of faults of the platform and the bridge. Every third kill of the bridge is replaced by a freeze
/// during which the feed is cut, so that the bridge detects the cut seconds later.
pub(super) fn draw_mixed(seed: u64, duration: Duration) -> Vec<Fault> {
    let mut drawn = Drawn::new(seed, duration);
    drawn.series(Victim::Bridge, 8.0..25.0, 0.0..1.5, |_, number| {
        if number % 3 == 1 { Kind::Freeze } else { Kind::Kill }
    });
    for freeze in drawn.faults.iter_mut().filter(|fault| fault.kind == Kind::Freeze) {
        freeze.lasts = Duration::from_secs_f64(FREEZE);
    }
    let freezes: Vec<Fault> = drawn.of(Kind::Freeze).copied().collect();
    drawn.faults.extend(freezes.iter().map(|freeze| Fault {
        victim: Victim::Feed,
        kind: Kind::Cut,
        at: freeze.at + Duration::from_secs_f64(CUT_IN_FREEZE),
        lasts: Duration::from_secs_f64(CUT_IN_FREEZE),
    }));
    drawn.series(Victim::Feed, 12.0..30.0, 0.1..3.0, |_, _| Kind::Cut);
    // Often longer than a fifth of a token's life, so that the token expires before it is renewed.
    drawn.series(Victim::Iam, 10.0..30.0, 3.0..10.0, |_, _| Kind::Cut);
    drawn.series(Victim::Bridge, 4.0..12.0, 0.0..0.0, |_, number| {
        Kind::Reload(match number % 6 {
            1 => Change::Kafka,
            3 => Change::Wrong,
            5 => Change::Nats,
            _ => Change::Source,
        })
    });
    drawn.sorted()
}

/// Draws faults of single connections. Each fault begins while all connections work.
pub(super) fn draw_single_cuts(seed: u64, duration: Duration) -> Vec<Fault> {
    let mut drawn = Drawn::new(seed, duration);
    drawn.series(Victim::Feed, 2.0..8.0, 0.0..0.0, |_, number| {
        if number % 4 == 3 {
            Kind::StallOne
        } else {
            Kind::CutOne
        }
    });
    drawn.sorted()
}

/// The faults while they are drawn.
struct Drawn {
    random: fastrand::Rng,
    end: f64,
    faults: Vec<Fault>,
}

impl Drawn {
    fn new(seed: u64, duration: Duration) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            end: duration.as_secs_f64() - LAST,
            faults: Vec::new(),
        }
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = &Fault> {
        self.faults.iter().filter(move |fault| fault.kind == kind)
    }

    /// Adds faults of a victim until the end, with these pauses and durations in seconds.
    fn series(
        &mut self,
        victim: Victim,
        pauses: Range<f64>,
        lengths: Range<f64>,
        kind: impl Fn(&mut fastrand::Rng, usize) -> Kind,
    ) {
        let mut at = 0.0;
        for number in 0.. {
            at += self.seconds(&pauses);
            if at >= self.end {
                return;
            }
            let lasts = self.seconds(&lengths);
            self.faults.push(Fault {
                victim,
                kind: kind(&mut self.random, number),
                at: Duration::from_secs_f64(at),
                lasts: Duration::from_secs_f64(lasts),
            });
            at += lasts;
        }
    }

    fn seconds(&mut self, range: &Range<f64>) -> f64 {
        range.start + self.random.f64() * (range.end - range.start)
    }

    fn sorted(mut self) -> Vec<Fault> {
        self.faults.sort_by_key(|fault| fault.at);
        self.faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_MINUTES: Duration = Duration::from_secs(120);

    #[test]
    fn feed_is_cut_in_each_freeze_of_the_bridge() {
        for seed in 0..200 {
            let faults = draw_mixed(seed, TWO_MINUTES);
            let freezes = faults.iter().filter(|fault| fault.kind == Kind::Freeze);
            assert!(freezes.clone().count() >= 1, "seed {seed}");
            for freeze in freezes {
                let end = freeze.at + freeze.lasts;
                assert_eq!(freeze.victim, Victim::Bridge);
                assert!(faults.iter().any(|fault| {
                    fault.victim == Victim::Feed && fault.at > freeze.at && fault.at + fault.lasts < end
                }));
            }
        }
    }

    #[test]
    fn two_minutes_of_the_first_seed_have_every_kind_of_fault() {
        let faults = draw_mixed(1, TWO_MINUTES);
        for (victim, kind) in [
            (Victim::Bridge, Kind::Kill),
            (Victim::Feed, Kind::Cut),
            (Victim::Iam, Kind::Cut),
            (Victim::Bridge, Kind::Reload(Change::Source)),
            (Victim::Bridge, Kind::Reload(Change::Kafka)),
            (Victim::Bridge, Kind::Reload(Change::Nats)),
            (Victim::Bridge, Kind::Reload(Change::Wrong)),
        ] {
            let found = faults
                .iter()
                .any(|fault| (fault.victim, fault.kind) == (victim, kind));
            assert!(found, "{victim} {kind:?}");
        }
        let cuts = draw_single_cuts(1, TWO_MINUTES);
        assert!(cuts.iter().any(|fault| fault.kind == Kind::StallOne));
        assert!(cuts.len() >= 12);
    }
}
