//! Finds the takeovers in the events of a destination: an event that one member published follows an event of another member.

use std::fmt;

use super::super::schedule::{Kind, Link};
use super::setup::TTL;

/// A change of the publishing member. Times are those of the broker, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Takeover {
    pub(super) from: usize,
    pub(super) to: usize,
    /// The time of the last event that the earlier leader has published.
    pub(super) last: i64,
    /// The time of the first event that the new member has published.
    pub(super) first: i64,
}

impl Takeover {
    /// Returns the time without a publishing member in milliseconds.
    pub(super) const fn lasted(&self) -> i64 {
        self.first - self.last
    }
}

/// Finds takeovers in the events of a destination.
#[derive(Debug, Default)]
pub(super) struct Publishers {
    latest: Option<(usize, i64)>,
    takeovers: Vec<Takeover>,
}

impl Publishers {
    /// Adds the next event: the member that published it, and its time.
    pub(super) fn add(&mut self, member: usize, stored: i64) {
        if let Some((from, last)) = self.latest.replace((member, stored))
            && from != member
        {
            self.takeovers.push(Takeover {
                from,
                to: member,
                last,
                first: stored,
            });
        }
    }

    pub(super) fn takeovers(self) -> Vec<Takeover> {
        self.takeovers
    }
}

/// The part of the system into which a fault was injected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Member(usize),
    /// Kafka, or servers of NATS.
    Broker(Link),
}

/// A fault that was injected. Times are in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Injected {
    pub(super) target: Target,
    pub(super) kind: Kind,
    pub(super) began: i64,
    pub(super) ended: i64,
}

impl Injected {
    /// Returns whether the fault can delay a takeover at a destination. Faults of NATS concern both destinations, because NATS
    /// also stores the lease.
    fn concerns(&self, destination: Link) -> bool {
        let is_of_kafka =
            self.target == Target::Broker(Link::Kafka) || self.kind == Kind::CutFrom(Link::Kafka);
        destination == Link::Kafka || !is_of_kafka
    }
}

/// The cause of a takeover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    /// The leader was stopped with SIGTERM.
    HandOver,
    /// The leader was killed or frozen.
    Crash,
    /// The leader was cut from the lease.
    CutFromLease,
    /// Another fault of a broker or of a member was active at the same time.
    DuringOtherFault,
    /// No fault of the leader explains the takeover.
    Other,
}

impl Cause {
    const ALL: [Self; 5] = [
        Self::HandOver,
        Self::Crash,
        Self::CutFromLease,
        Self::DuringOtherFault,
        Self::Other,
    ];

    /// Returns the cause of a takeover at a destination: the latest fault of the leader, unless another fault was active.
    pub(super) fn of(takeover: &Takeover, destination: Link, faults: &[Injected]) -> Self {
        let of_leader = |kind: Kind| match kind {
            Kind::Terminate => Some(Self::HandOver),
            Kind::Kill | Kind::Freeze => Some(Self::Crash),
            Kind::CutFrom(Link::Nats) => Some(Self::CutFromLease),
            _ => None,
        };
        let active: Vec<&Injected> = faults
            .iter()
            .filter(|fault| fault.began <= takeover.first && fault.ended >= takeover.last)
            .filter(|fault| fault.concerns(destination))
            .collect();
        let causes = active
            .iter()
            .filter(|fault| fault.target == Target::Member(takeover.from) && of_leader(fault.kind).is_some());
        match causes.max_by_key(|fault| fault.began) {
            Some(cause) if active.iter().all(|fault| fault == cause) => {
                of_leader(cause.kind).unwrap_or(Self::Other)
            }
            None if active.is_empty() => Self::Other,
            _ => Self::DuringOtherFault,
        }
    }

    /// Returns the goal for the longest time without a publishing leader, in milliseconds.
    fn goal(self) -> Option<i64> {
        let ttl = i64::try_from(TTL.as_millis()).unwrap_or(i64::MAX);
        match self {
            Self::HandOver => Some(1_000),
            Self::Crash | Self::CutFromLease => Some(ttl + 2_000),
            Self::DuringOtherFault | Self::Other => None,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::HandOver => "hand-over (SIGTERM)",
            Self::Crash => "crash (kill -9, SIGSTOP)",
            Self::CutFromLease => "cut from the lease",
            Self::DuringOtherFault => "during another fault",
            Self::Other => "other",
        })
    }
}

/// The times without a publishing leader, by cause, as a table.
#[derive(Debug)]
pub(super) struct Statistics(Vec<Row>);

#[derive(Debug, PartialEq, Eq)]
struct Row {
    cause: Cause,
    number: usize,
    median: i64,
    maximum: i64,
}

impl Statistics {
    pub(super) fn of(takeovers: &[Takeover], destination: Link, faults: &[Injected]) -> Self {
        let rows = Cause::ALL.into_iter().filter_map(|cause| {
            let alike = takeovers
                .iter()
                .filter(|takeover| Cause::of(takeover, destination, faults) == cause);
            let mut times: Vec<i64> = alike.map(Takeover::lasted).collect();
            times.sort_unstable();
            Some(Row {
                cause,
                number: times.len(),
                median: *times.get(times.len() / 2)?,
                maximum: *times.last()?,
            })
        });
        Self(rows.collect())
    }
}

impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<28}{:>8}{:>12}{:>12}  goal",
            "", "number", "median", "maximum"
        )?;
        for row in &self.0 {
            let median = format!("{} ms", row.median);
            let maximum = format!("{} ms", row.maximum);
            write!(
                f,
                "\n{:<28}{:>8}{median:>12}{maximum:>12}  ",
                row.cause, row.number
            )?;
            match row.cause.goal() {
                Some(goal) if row.maximum <= goal => write!(f, "{goal} ms")?,
                Some(goal) => write!(f, "{goal} ms, EXCEEDED")?,
                None => write!(f, "none")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn fault(target: Target, kind: Kind, began: i64, ended: i64) -> Injected {
        Injected {
            target,
            kind,
            began,
            ended,
        }
    }

    const fn takeover(from: usize, last: i64, first: i64) -> Takeover {
        Takeover {
            from,
            to: (from + 1) % 3,
            last,
            first,
        }
    }

    #[test]
    fn takeover_lies_between_events_of_two_members() {
        let mut publishers = Publishers::default();
        for (member, stored) in [(0, 10), (0, 20), (1, 320), (1, 330), (2, 400), (0, 410)] {
            publishers.add(member, stored);
        }
        let expected = [takeover(0, 20, 320), takeover(1, 330, 400), takeover(2, 400, 410)];
        assert_eq!(publishers.takeovers(), expected);
    }

    #[test]
    fn cause_of_a_takeover_is_the_fault_of_the_leader() {
        let found = |faults: &[Injected]| Cause::of(&takeover(0, 100, 200), Link::Nats, faults);
        let kill = fault(Target::Member(0), Kind::Kill, 105, 150);
        assert_eq!(found(&[kill]), Cause::Crash);
        assert_eq!(
            found(&[fault(Target::Member(0), Kind::Freeze, 90, 300)]),
            Cause::Crash
        );
        assert_eq!(
            found(&[fault(Target::Member(0), Kind::Terminate, 20, 150)]),
            Cause::HandOver
        );
        let lease = fault(Target::Member(0), Kind::CutFrom(Link::Nats), 20, 150);
        assert_eq!(found(&[lease]), Cause::CutFromLease);
        let broker = fault(Target::Broker(Link::Nats), Kind::Kill, 190, 400);
        assert_eq!(found(&[kill, broker]), Cause::DuringOtherFault);
        assert_eq!(found(&[broker]), Cause::DuringOtherFault);
        let of_kafka = fault(Target::Broker(Link::Kafka), Kind::Kill, 190, 400);
        assert_eq!(
            found(&[kill, of_kafka]),
            Cause::Crash,
            "Kafka is not the destination"
        );
        let cause = Cause::of(&takeover(0, 100, 200), Link::Kafka, &[kill, of_kafka]);
        assert_eq!(cause, Cause::DuringOtherFault);
        assert_eq!(
            found(&[kill, fault(Target::Member(1), Kind::Kill, 140, 150)]),
            Cause::DuringOtherFault
        );
        assert_eq!(
            found(&[fault(Target::Member(0), Kind::Kill, 10, 99)]),
            Cause::Other,
            "ended before"
        );
        assert_eq!(
            found(&[fault(Target::Member(0), Kind::Kill, 201, 300)]),
            Cause::Other,
            "began after"
        );
    }

    #[test]
    fn statistics_have_number_median_and_maximum() {
        let faults = [
            fault(Target::Member(0), Kind::Terminate, 95, 150),
            fault(Target::Member(1), Kind::Terminate, 1_000, 1_100),
            fault(Target::Member(0), Kind::Terminate, 3_000, 4_800),
            fault(Target::Member(1), Kind::Kill, 10_000, 10_100),
        ];
        let takeovers = [
            takeover(0, 100, 150),
            takeover(1, 1_000, 1_400),
            takeover(0, 3_000, 4_500),
            takeover(1, 10_000, 21_000),
        ];
        let found = Statistics::of(&takeovers, Link::Kafka, &faults);
        let row = |cause, number, median, maximum| Row {
            cause,
            number,
            median,
            maximum,
        };
        assert_eq!(
            found.0,
            [
                row(Cause::HandOver, 3, 400, 1_500),
                row(Cause::Crash, 1, 11_000, 11_000)
            ]
        );
        let table = found.to_string();
        assert!(table.contains("1500 ms  1000 ms, EXCEEDED"), "{table}");
        assert!(table.contains("11000 ms  12000 ms"), "{table}");
    }
}
