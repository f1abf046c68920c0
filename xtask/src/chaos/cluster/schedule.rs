//! The schedule of the faults of a run with `--members`. The faults depend only on the seed; which member leads is known only
//! when a fault begins.

use std::ops::Range;
use std::time::Duration;

use super::super::schedule::{Fault, Kind, Link, Victim};
use super::setup::TTL;

/// The time in seconds before the end in which no fault begins.
const LAST: f64 = 1.0;

/// A fault without its time: the victim, the kind, and the range of its duration in seconds.
type Card = (Victim, Kind, Range<f64>);

/// The faults of a run. Those of one lane follow each other, those of different lanes overlap.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Lanes {
    /// Faults of processes, and of their connections to the feed: one lane less than there are members.
    pub(super) members: Vec<Vec<Fault>>,
    /// Faults of the connections to Kafka and NATS.
    pub(super) links: Vec<Fault>,
    pub(super) kafka: Vec<Fault>,
    pub(super) nats: Vec<Fault>,
}

impl Lanes {
    /// Draws the faults of a run with this number of members.
    pub(super) fn draw(seed: u64, duration: Duration, members: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let end = duration.as_secs_f64() - LAST;
        let mut lane = |cards: &[Card], pauses: Range<f64>| draw(&mut random, end, cards, pauses);
        Self {
            members: (1..members).map(|_| lane(&of_members(), 2.0..6.0)).collect(),
            links: lane(&of_links(), 8.0..16.0),
            kafka: lane(&of_kafka(), 25.0..45.0),
            nats: lane(&of_nats(), 20.0..40.0),
        }
    }

    /// Draws faults that end the leadership of a member, with pauses in which all members connect again.
    pub(super) fn draw_takeovers(seed: u64, duration: Duration) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let end = duration.as_secs_f64() - LAST;
        let of_leader: Vec<Card> = of_members()
            .into_iter()
            .filter(|(victim, kind, _)| *victim == Victim::Leader && *kind != Kind::CutFrom(Link::Feed))
            .collect();
        Self {
            members: vec![draw(&mut random, end, &of_leader, 12.0..16.0)],
            ..Self::default()
        }
    }

    /// Returns all faults, sorted by time.
    pub(super) fn all(&self) -> Vec<Fault> {
        let lanes = self.members.iter().chain([&self.links, &self.kafka, &self.nats]);
        let mut all: Vec<Fault> = lanes.flatten().copied().collect();
        all.sort_by_key(|fault| fault.at);
        all
    }
}

fn of_members() -> Vec<Card> {
    let ttl = TTL.as_secs_f64();
    let kinds = [
        (Kind::Kill, 0.0..2.0),
        // Longer than the lease, so that another member leads when the process continues.
        (Kind::Freeze, ttl + 1.0..ttl + 4.0),
        (Kind::Terminate, 0.0..1.0),
        (Kind::CutFrom(Link::Feed), 1.0..6.0),
    ];
    both(&kinds)
}

fn of_links() -> Vec<Card> {
    let longest = TTL.as_secs_f64() + 4.0;
    both(&[
        (Kind::CutFrom(Link::Kafka), 1.0..longest),
        (Kind::CutFrom(Link::Nats), 1.0..longest),
    ])
}

/// Returns each kind for the leader and for a follower.
fn both(kinds: &[(Kind, Range<f64>)]) -> Vec<Card> {
    let victims = [Victim::Leader, Victim::Follower];
    let cards = victims.iter().flat_map(|victim| {
        kinds
            .iter()
            .map(|(kind, lengths)| (*victim, *kind, lengths.clone()))
    });
    cards.collect()
}

fn of_kafka() -> [Card; 2] {
    [
        (Victim::Kafka, Kind::Kill, 0.0..3.0),
        (Victim::Kafka, Kind::Freeze, 1.0..5.0),
    ]
}

fn of_nats() -> [Card; 2] {
    [
        (Victim::Nats, Kind::Kill, 0.5..3.0),
        (Victim::Quorum, Kind::Freeze, 3.0..TTL.as_secs_f64() + 4.0),
    ]
}

/// Draws the cards one after the other, all of them in a random order before one is repeated.
fn draw(random: &mut fastrand::Rng, end: f64, cards: &[Card], pauses: Range<f64>) -> Vec<Fault> {
    let seconds = |random: &mut fastrand::Rng, range: &Range<f64>| {
        range.start + random.f64() * (range.end - range.start)
    };
    let (mut at, mut faults) = (0.0, Vec::new());
    loop {
        let mut deck = cards.to_vec();
        random.shuffle(&mut deck);
        for (victim, kind, lengths) in deck {
            at += seconds(random, &pauses);
            if at >= end {
                return faults;
            }
            let lasts = seconds(random, &lengths);
            faults.push(Fault {
                victim,
                kind,
                at: Duration::from_secs_f64(at),
                lasts: Duration::from_secs_f64(lasts),
            });
            at += lasts;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_MINUTES: Duration = Duration::from_secs(120);

    #[test]
    fn same_seed_gives_the_same_schedule() {
        assert_eq!(Lanes::draw(7, TWO_MINUTES, 2), Lanes::draw(7, TWO_MINUTES, 2));
        assert_ne!(Lanes::draw(7, TWO_MINUTES, 2), Lanes::draw(8, TWO_MINUTES, 2));
    }

    #[test]
    fn two_minutes_contain_every_kind_of_fault() {
        for seed in 0..200 {
            let lanes = Lanes::draw(seed, TWO_MINUTES, 3);
            assert_eq!(lanes.members.len(), 2);
            let all = lanes.all();
            for (victim, kind, _) in of_members()
                .into_iter()
                .chain(of_links())
                .chain(of_kafka())
                .chain(of_nats())
            {
                let found = all
                    .iter()
                    .any(|fault| (fault.victim, fault.kind) == (victim, kind));
                assert!(found, "seed {seed}: {victim} {kind:?}");
            }
            for freeze in lanes.members.iter().flatten() {
                assert!(freeze.kind != Kind::Freeze || freeze.lasts > TTL, "seed {seed}");
            }
        }
    }

    #[test]
    fn takeovers_are_measured_one_at_a_time() {
        for seed in 0..200 {
            let lanes = Lanes::draw_takeovers(seed, TWO_MINUTES);
            let faults = lanes.all();
            assert_eq!([&faults], lanes.members.iter().collect::<Vec<_>>()[..]);
            for kind in [Kind::Kill, Kind::Freeze, Kind::Terminate] {
                assert!(faults.iter().any(|fault| fault.kind == kind), "seed {seed}");
            }
            assert!(faults.iter().all(|fault| fault.victim == Victim::Leader));
            let pauses = faults
                .windows(2)
                .map(|pair| pair[1].at - pair[0].at - pair[0].lasts);
            assert!(pauses.min() >= Some(TTL), "seed {seed}");
        }
    }

    #[test]
    fn single_bridge_has_no_faults_of_members() {
        assert!(Lanes::draw(1, TWO_MINUTES, 1).members.is_empty());
    }
}
