//! Determines for which time the authenticated connections of a source have received everything, to find gaps that a dead
//! connection has hidden.
//!
//! A half-open connection counts as authenticated until its loss is detected. Meanwhile another connection may be
//! authenticated. Only at the end of the half-open connection is it known that no connection has received events between
//! its last byte and the authentication of the other connection: a hidden gap.

use std::time::Duration;

use tokio::time::Instant;

/// The maximum number of stored periods of ended connections. If there are more, the oldest one is removed, so that a gap may be
/// reported as too long, and never too short.
const MAX_ENDED: usize = 16;

/// The period in which a connection has received everything that the server sent.
#[derive(Clone, Copy, Debug)]
struct Period {
    /// The authentication.
    since: Instant,
    /// The time up to which the connection is known to have received everything.
    until: Instant,
    /// Whether the connection continued from the last stored event.
    resumes: bool,
}

/// A hidden gap: a time that no connection has covered, although a dead one counted as authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hidden {
    pub(super) began: Instant,
    /// The authentication of the next connection.
    pub(super) ended: Instant,
    /// Whether the next connection continued from the last stored event.
    pub(super) resumes: bool,
}

impl Hidden {
    pub(super) fn length(&self) -> Duration {
        self.ended.saturating_duration_since(self.began)
    }
}

/// The time that the connections of a source have covered.
#[derive(Debug, Default)]
pub(super) struct Coverage {
    /// The time up to which there is no unreported gap. `None` before the first authentication.
    covered: Option<Instant>,
    /// The connections that count as authenticated.
    authenticated: Vec<Period>,
    /// The periods of ended connections that begin after `covered`, the oldest first.
    ended: Vec<Period>,
}

impl Coverage {
    /// Returns the number of connections that count as authenticated.
    pub(super) const fn authenticated(&self) -> usize {
        self.authenticated.len()
    }

    /// Returns the authentication of the oldest connection.
    #[cfg(test)]
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.authenticated.iter().map(|connection| connection.since).min()
    }

    /// Records an authentication.
    pub(super) fn begin(&mut self, since: Instant, resumes: bool) {
        if self.authenticated.is_empty() {
            // The gap that ends now is not hidden: it is counted when it ends.
            self.covered = Some(since);
            self.ended.clear();
        }
        self.authenticated.push(Period {
            since,
            until: since,
            resumes,
        });
    }

    /// Records that the connection that was authenticated at `since` has received everything up to `until`.
    pub(super) fn received(&mut self, since: Instant, until: Instant) {
        if let Some(period) = self.authenticated.iter_mut().find(|period| period.since == since) {
            period.until = period.until.max(until);
        }
    }

    /// Returns the time up to which everything is known to have been received, and whether a connection was authenticated after
    /// that time, so that there may be a gap in between. `None` before the first authentication.
    pub(super) fn proven(&self) -> Option<(Instant, bool)> {
        let mut proven = self.covered?;
        let periods = || self.authenticated.iter().chain(&self.ended);
        loop {
            let reached = periods().filter(|period| period.since <= proven);
            match reached.map(|period| period.until).max() {
                Some(until) if until > proven => proven = until,
                _ => break,
            }
        }
        Some((proven, periods().any(|period| period.since > proven)))
    }

    /// Records the end of the connection that was authenticated at `since`, with the time of its last byte. Returns the gaps
    /// that the connection has hidden, the oldest first, and the time up to which the connections have covered everything
    /// except these gaps.
    pub(super) fn end(&mut self, since: Instant, last_read: Instant) -> (Vec<Hidden>, Instant) {
        let until = last_read.max(since);
        let position = self
            .authenticated
            .iter()
            .position(|connection| connection.since == since);
        let resumes = position.is_some_and(|position| self.authenticated.swap_remove(position).resumes);
        self.ended.push(Period {
            since,
            until,
            resumes,
        });
        self.ended.sort_by_key(|period| period.since);
        let mut covered = self.covered.unwrap_or(since);
        let mut hidden = Vec::new();
        loop {
            self.ended.retain(|period| {
                let is_later = period.since > covered;
                if !is_later {
                    covered = covered.max(period.until);
                }
                is_later
            });
            if self
                .authenticated
                .iter()
                .any(|connection| connection.since <= covered)
            {
                break;
            }
            let later = self.authenticated.iter().chain(&self.ended);
            let Some(next) = later.min_by_key(|period| period.since) else {
                break;
            };
            hidden.push(Hidden {
                began: covered,
                ended: next.since,
                resumes: next.resumes,
            });
            covered = next.since;
        }
        if self.ended.len() > MAX_ENDED {
            self.ended.remove(0);
        }
        self.covered = Some(covered);
        (hidden, covered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A test set-up in which all times are seconds after `zero`.
    struct Bench {
        zero: Instant,
        coverage: Coverage,
    }

    impl Bench {
        fn new(authenticated: &[u64]) -> Self {
            let mut bench = Self {
                zero: Instant::now(),
                coverage: Coverage::default(),
            };
            for second in authenticated {
                bench.begin(*second);
            }
            bench
        }

        fn at(&self, second: u64) -> Instant {
            self.zero + Duration::from_secs(second)
        }

        fn begin(&mut self, second: u64) {
            let at = self.at(second);
            self.coverage.begin(at, false);
        }

        fn end(&mut self, since: u64, last_read: u64) -> (Vec<(u64, u64)>, u64) {
            let seconds = |at: Instant| at.duration_since(self.zero).as_secs();
            let (since, last_read) = (self.at(since), self.at(last_read));
            let (hidden, covered) = self.coverage.end(since, last_read);
            let spans = hidden.iter().map(|gap| (seconds(gap.began), seconds(gap.ended)));
            (spans.collect(), seconds(covered))
        }
    }

    #[test]
    fn end_of_dead_connection_reports_the_gap_that_it_hid() {
        let mut bench = Bench::new(&[0, 1]);
        assert_eq!(
            bench.end(0, 20),
            (vec![], 20),
            "the other connection may be alive"
        );
        bench.begin(31);
        assert_eq!(bench.end(1, 20), (vec![(20, 31)], 31));
        assert_eq!(bench.end(31, 40), (vec![], 40));
    }

    #[test]
    fn other_connections_cover_the_time_of_a_dead_one() {
        let mut bench = Bench::new(&[0, 1]);
        assert_eq!(bench.end(0, 20).0, []);
        bench.begin(31);
        assert_eq!(bench.end(31, 35).0, []);
        bench.begin(60);
        assert_eq!(
            bench.end(1, 55).0,
            [(55, 60)],
            "the connection of second 1 was alive until then"
        );
        bench.begin(65);
        assert_eq!(
            bench.end(60, 65).0,
            [],
            "the next connection begins at the last byte of this one"
        );
    }

    #[test]
    fn end_of_a_later_connection_does_not_cover_an_earlier_gap() {
        let mut bench = Bench::new(&[0, 1]);
        bench.end(0, 20);
        bench.begin(31);
        assert_eq!(bench.end(31, 40), (vec![], 20));
        bench.begin(45);
        assert_eq!(bench.end(1, 20), (vec![(20, 31), (40, 45)], 45));
    }

    #[test]
    fn end_of_last_connection_reports_the_gaps_before_it() {
        let mut bench = Bench::new(&[0, 1]);
        bench.end(0, 20);
        bench.begin(31);
        bench.end(31, 40);
        assert_eq!(bench.end(1, 20), (vec![(20, 31)], 40));
        bench.begin(50);
        assert_eq!(bench.end(50, 60), (vec![], 60), "the gap from 40 to 50 was open");
    }

    #[test]
    fn proof_of_life_ends_before_a_gap_that_may_be_hidden() {
        let mut bench = Bench::new(&[0, 1]);
        let proven = |bench: &Bench| {
            let (proven, may_hide_gap) = bench.coverage.proven().unwrap();
            (proven.duration_since(bench.zero).as_secs(), may_hide_gap)
        };
        let (first, second) = (bench.at(0), bench.at(1));
        bench
            .coverage
            .received(first, bench.zero + Duration::from_secs(20));
        bench
            .coverage
            .received(second, bench.zero + Duration::from_secs(21));
        assert_eq!(proven(&bench), (21, false));
        bench.end(0, 20);
        bench.begin(31);
        bench.coverage.received(bench.at(31), bench.at(40));
        assert_eq!(
            proven(&bench),
            (21, true),
            "the connection of second 1 may be dead since then"
        );
        let mut alive = Bench::new(&[0, 1]);
        alive.end(0, 20);
        alive.begin(31);
        alive.coverage.received(alive.at(31), alive.at(40));
        alive.coverage.received(alive.at(1), alive.at(32));
        assert_eq!(proven(&alive), (40, false));
        assert_eq!(bench.end(1, 21), (vec![(21, 31)], 31));
        assert_eq!(proven(&bench), (40, false));
    }

    #[test]
    fn number_of_stored_ended_periods_is_bounded() {
        let mut bench = Bench::new(&[0, 1]);
        bench.end(0, 5);
        for second in 1..1000 {
            bench.begin(second * 10);
            bench.end(second * 10, second * 10 + 5);
        }
        assert!(bench.coverage.ended.len() <= MAX_ENDED);
        assert_eq!(bench.coverage.authenticated(), 1);
        assert_eq!(bench.end(1, 20_000), (vec![], 20_000));
    }
}
