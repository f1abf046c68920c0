//! The schedule of the faults, which depends only on the seed.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

/// The target of a fault. Each victim has its own thread, so that faults of different victims overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Victim {
    Bridge,
    Kafka,
    Nats,
    Feed,
    Disk,
    /// The platform's interface that creates tokens.
    Iam,
    /// The member of a cluster of bridges that leads when the fault begins.
    Leader,
    /// Another member of a cluster of bridges.
    Follower,
    /// A majority of the servers of NATS.
    Quorum,
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Bridge => "bridge",
            Self::Kafka => "Kafka",
            Self::Nats => "NATS",
            Self::Feed => "feed",
            Self::Disk => "disk",
            Self::Iam => "IAM",
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Quorum => "quorum of NATS",
        })
    }
}

/// The type of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `kill -9`, then a restart.
    Kill,
    /// SIGSTOP, then SIGCONT.
    Freeze,
    /// The Kafka controller receives no heartbeat, so the broker answers with metadata that lists no broker.
    Fence,
    /// Connections are closed, and new ones are refused.
    Cut,
    /// The disk has no free space.
    Fill,
    /// One of several connections is closed.
    CutOne,
    /// One of several connections becomes half-open.
    StallOne,
    /// The bridge loads a changed configuration.
    Reload(Change),
    /// SIGTERM, then a restart, as for an upgrade.
    Terminate,
    /// The connections of one member of a cluster are closed, and new ones are refused.
    CutFrom(Link),
}

/// The servers with which a member of a cluster of bridges has connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    Feed,
    Kafka,
    /// The destination and the lease.
    Nats,
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Feed => "the feed",
            Self::Kafka => "Kafka",
            Self::Nats => "NATS",
        })
    }
}

/// The part of the configuration that a reload changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Source,
    Kafka,
    Nats,
    /// The file is invalid or needs a restart, so the bridge must refuse the reload and change nothing.
    Wrong,
}

/// A fault that begins at `at` and ends after `lasts`.
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
            Kind::Reload(Change::Source) => "reload with a changed source",
            Kind::Reload(Change::Kafka | Change::Nats) => "reload with a changed sink",
            Kind::Reload(Change::Wrong) => "reload of an invalid file",
            Kind::Kill => "kill -9, started again after",
            Kind::Freeze => "frozen (SIGSTOP) for",
            Kind::Fence => "fenced (metadata without a broker) for",
            Kind::Cut => "cut for",
            Kind::Fill => "full for",
            Kind::CutOne => "one connection cut",
            Kind::StallOne => "one connection half-open",
            Kind::Terminate => "SIGTERM, started again after",
            Kind::CutFrom(Link::Feed) => "cut from the feed for",
            Kind::CutFrom(Link::Kafka) => "cut from Kafka for",
            Kind::CutFrom(Link::Nats) => "cut from NATS for",
        };
        let (at, lasts) = (self.at.as_secs_f64(), self.lasts.as_secs_f64());
        write!(f, "{at:7.1} s  {:<6}  {what}", self.victim)?;
        match self.kind {
            Kind::Reload(_) | Kind::CutOne | Kind::StallOne => Ok(()),
            _ => write!(f, " {lasts:.1} s"),
        }
    }
}

/// The longest duration of the last series of freezes in seconds. This series ends at the end of the run.
const LAST_SERIES: f64 = 36.0;
/// The longest duration of a series in seconds.
const SERIES: f64 = 25.0;
/// The number of seconds before the end in which the bridge is not killed, so that each sink must recover with its current
/// client. A kill would also remove a client that never recovers, and so hide the error.
const LAST_LIFE: f64 = 15.0;
/// The number of freezes in a series; short and long ones alternate.
const FREEZES: usize = 6;
/// The pause between two freezes of a series in seconds.
const BETWEEN_FREEZES: Range<f64> = 0.1..0.9;
/// The duration in seconds of freezes that exceed the ping timeout of a NATS client with a ping every ten seconds.
const PING_TIMEOUT: Range<f64> = 20.5..21.5;

/// The session timeout of the Kafka broker.
pub(super) const KAFKA_SESSION: Duration = Duration::from_secs(1);
/// The number of fences in the last series. One in ten leaves a client of librdkafka 2.12 permanently without a
/// connection.
const FENCES: usize = 12;
/// The duration of a fence in seconds; longer than the session timeout, after which a disconnected broker is fenced.
const FENCE: Range<f64> = 1.2..1.4;
/// The pause between two fences in seconds, in which the broker is listed and clients connect.
const BETWEEN_FENCES: Range<f64> = 0.3..0.5;

/// Returns the durations, in seconds, of freezes that the victim's clients and cluster tolerate, and of freezes that
/// they do not.
fn freezes(victim: Victim) -> (Range<f64>, Range<f64>) {
    match victim {
        // With strict order, the sink closes a connection after three seconds without progress, before the ping timeout.
        Victim::Nats => (0.3..2.5, 3.1..3.8),
        // A freeze longer than the session timeout fences the broker.
        _ => (0.2..0.8, 1.1..1.6),
    }
}

/// Draws the faults of a run, sorted by time. The bridge is killed most often, every five to eleven seconds.
///
/// Each run ends with a quick series of freezes of both brokers.
pub(super) fn draw(seed: u64, duration: Duration, with_full_disk: bool) -> Vec<Fault> {
    let end = duration.as_secs_f64();
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
        // Each victim has its own random numbers, so that faults omitted for one victim change nothing for the others.
        let mut drawn = Drawn {
            random: fastrand::Rng::with_seed(seed ^ ((victim as u64 + 1) << 56)),
            victim,
            at: 0.0,
            faults: Vec::new(),
        };
        let (pauses, lengths, until): (Range<f64>, Range<f64>, f64) = match victim {
            Victim::Bridge => (5.0..11.0, 0.0..1.5, end - LAST_LIFE),
            Victim::Kafka | Victim::Nats => (10.0..20.0, 0.5..8.0, end - LAST_SERIES - 8.0),
            Victim::Feed => (12.0..30.0, 0.1..3.0, end),
            _ => (20.0..40.0, 2.0..8.0, end),
        };
        drawn.pause(pauses.clone());
        while drawn.at < until.max(end / 2.0) {
            let kind = drawn.random.f64();
            match victim {
                Victim::Bridge => drawn.fault(Kind::Kill, lengths.clone()),
                Victim::Kafka | Victim::Nats if kind < 0.4 => drawn.fault(Kind::Kill, lengths.clone()),
                Victim::Kafka | Victim::Nats if kind < 0.6 => drawn.fault(Kind::Freeze, lengths.clone()),
                Victim::Kafka if kind < 0.8 => drawn.fault(Kind::Fence, lengths.clone()),
                Victim::Kafka | Victim::Nats if drawn.at + SERIES < until => drawn.series(),
                Victim::Kafka | Victim::Nats => drawn.fault(Kind::Freeze, lengths.clone()),
                Victim::Feed => drawn.fault(Kind::Cut, lengths.clone()),
                _ => drawn.fault(Kind::Fill, lengths.clone()),
            }
            drawn.pause(pauses.clone());
        }
        drawn.last_series(end);
        faults.append(&mut drawn.faults);
    }
    faults.sort_by_key(|fault| fault.at);
    faults
}

/// The faults of one victim while they are drawn.
struct Drawn {
    random: fastrand::Rng,
    victim: Victim,
    /// The time at which the next fault begins, in seconds of the run.
    at: f64,
    faults: Vec<Fault>,
}

impl Drawn {
    fn seconds(&mut self, range: Range<f64>) -> f64 {
        range.start + self.random.f64() * (range.end - range.start)
    }

    fn pause(&mut self, range: Range<f64>) {
        self.at += self.seconds(range);
    }

    fn fault(&mut self, kind: Kind, lengths: Range<f64>) {
        let lasts = self.seconds(lengths);
        self.faults.push(Fault {
            victim: self.victim,
            kind,
            at: Duration::from_secs_f64(self.at),
            lasts: Duration::from_secs_f64(lasts),
        });
        self.at += lasts;
    }

    /// Adds a quick series of freezes, both shorter and longer than the timeouts of the victim's clients.
    fn series(&mut self) {
        let (short, long) = freezes(self.victim);
        for freeze in 0..FREEZES {
            let is_long = freeze % 2 == 1;
            self.fault(Kind::Freeze, if is_long { long.clone() } else { short.clone() });
            self.pause(BETWEEN_FREEZES);
        }
    }

    /// Adds freezes until the end of the run. In a short run they may exceed the end, because they follow the earlier
    /// faults.
    fn last_series(&mut self, end: f64) {
        let before = self.faults.len();
        let earliest = self.after_last();
        self.at = 0.0;
        match self.victim {
            Victim::Kafka => {
                self.series();
                for _ in 0..FENCES {
                    self.fault(Kind::Fence, FENCE);
                    self.pause(BETWEEN_FENCES);
                }
            }
            Victim::Nats if self.random.bool() => {
                for _ in 0..2 {
                    self.fault(Kind::Freeze, 0.3..1.0);
                    self.pause(BETWEEN_FREEZES);
                }
                self.fault(Kind::Freeze, PING_TIMEOUT);
            }
            Victim::Nats => self.series(),
            _ => {}
        }
        let start = (end - self.at).max(earliest);
        for fault in &mut self.faults[before..] {
            fault.at += Duration::from_secs_f64(start);
        }
    }

    /// Returns a time shortly after the last fault.
    fn after_last(&self) -> f64 {
        let last = self.faults.last();
        last.map_or(0.0, |fault| {
            (fault.at + fault.lasts).as_secs_f64() + BETWEEN_FREEZES.end
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_MINUTES: Duration = Duration::from_secs(120);

    #[test]
    fn same_seed_gives_the_same_schedule() {
        assert_eq!(draw(7, TWO_MINUTES, true), draw(7, TWO_MINUTES, true));
        assert_ne!(draw(7, TWO_MINUTES, true), draw(8, TWO_MINUTES, true));
        let mut without = draw(7, TWO_MINUTES, true);
        without.retain(|fault| fault.victim != Victim::Disk);
        assert_eq!(without, draw(7, TWO_MINUTES, false));
    }

    #[test]
    fn two_minutes_contain_kills_and_broker_faults() {
        for seed in 0..200 {
            let faults = draw(seed, TWO_MINUTES, true);
            let of = |victim| faults.iter().filter(|fault| fault.victim == victim).count();
            assert!(of(Victim::Bridge) >= 8, "seed {seed}");
            for victim in [Victim::Kafka, Victim::Nats, Victim::Feed, Victim::Disk] {
                assert!(of(victim) >= 2, "seed {seed}: {victim}");
            }
        }
    }

    /// Returns the freezes of the last series and the end of the victim's last fault.
    fn last_series(faults: &[Fault], victim: Victim) -> (Vec<Fault>, Duration) {
        let from = TWO_MINUTES - Duration::from_secs_f64(LAST_SERIES);
        let of = faults.iter().filter(|fault| fault.victim == victim);
        let last = of.clone().next_back().unwrap();
        let freezes = of.filter(|fault| fault.kind == Kind::Freeze && fault.at >= from);
        (freezes.copied().collect(), last.at + last.lasts)
    }

    #[test]
    fn every_run_ends_with_a_series_of_freezes() {
        for seed in 0..200 {
            let faults = draw(seed, TWO_MINUTES, true);
            for (victim, session) in [(Victim::Kafka, 1.0), (Victim::Nats, 3.0)] {
                let (freezes, end) = last_series(&faults, victim);
                let lengths = freezes.iter().map(|freeze| freeze.lasts.as_secs_f64());
                assert!(lengths.clone().any(|length| length < session), "seed {seed}");
                assert!(lengths.clone().any(|length| length > session), "seed {seed}");
                for pair in freezes.windows(2) {
                    let pause = pair[1].at - (pair[0].at + pair[0].lasts);
                    assert!(pause < Duration::from_secs(1), "seed {seed}: {pause:?}");
                }
                let left = TWO_MINUTES.abs_diff(end);
                assert!(left < Duration::from_secs(1), "seed {seed}: {end:?}");
            }
            let fence = faults
                .iter()
                .rfind(|fault| fault.victim == Victim::Kafka)
                .unwrap();
            assert_eq!(fence.kind, Kind::Fence, "seed {seed}");
        }
    }

    #[test]
    fn bridge_is_not_killed_during_the_last_freezes() {
        for seed in 0..200 {
            let faults = draw(seed, TWO_MINUTES, true);
            let killed = faults
                .iter()
                .rfind(|fault| fault.victim == Victim::Bridge)
                .unwrap();
            let fences = faults.iter().filter(|fault| fault.kind == Kind::Fence);
            let after = fences.filter(|fence| fence.at > killed.at + killed.lasts);
            assert!(after.count() >= 6, "seed {seed}");
        }
    }

    #[test]
    fn seed_of_ci_has_freeze_series_and_broker_fences() {
        let faults = draw(1, TWO_MINUTES, false);
        for victim in [Victim::Kafka, Victim::Nats] {
            let freezes = faults
                .iter()
                .filter(|fault| fault.victim == victim && fault.kind == Kind::Freeze);
            assert!(freezes.count() >= 3, "{victim}");
        }
        assert!(faults.iter().any(|fault| fault.kind == Kind::Fence));
    }
}
