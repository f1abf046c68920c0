//! The active fault rules: which rule is due on which connection, and how often each was applied.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{Every, FaultRule, Phase, Reaction, RestFault};

/// The fault rules of a simulator.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    rules: RwLock<Vec<Arc<ArmedRule>>>,
    /// The number of rules that were ever added, including removed rules.
    added: AtomicU64,
}

#[derive(Debug)]
struct ArmedRule {
    /// A unique number that is never reused, so that a connection can distinguish a new rule from an earlier one.
    number: u64,
    rule: FaultRule,
    usage: Mutex<Usage>,
}

#[derive(Debug)]
struct Usage {
    times: u64,
    /// The time at which the rule was last applied, or added if it was not applied yet.
    last: Instant,
}

/// The next fault of a connection, determined between two events.
#[derive(Debug, PartialEq)]
pub(crate) enum Due {
    /// A fault is due immediately.
    Now(Reaction),
    /// No fault is due for this many events and, if `at` is set, before that time.
    Later { events: u64, at: Option<Instant> },
}

impl Plan {
    pub(crate) fn new(rules: Vec<FaultRule>, now: Instant) -> Self {
        let plan = Self::default();
        for rule in rules {
            plan.add(rule, now);
        }
        plan
    }

    pub(crate) fn add(&self, rule: FaultRule, now: Instant) {
        let number = self.added.fetch_add(1, Ordering::Relaxed);
        let armed = Arc::new(ArmedRule {
            number,
            rule,
            usage: Mutex::new(Usage { times: 0, last: now }),
        });
        self.rules
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(armed);
    }

    pub(crate) fn clear(&self) {
        self.rules.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Applies the first rule that is due for the REST request with this number, counted from 1.
    pub(crate) fn for_request(&self, number: u64, path: &str, now: Instant) -> Option<RestFault> {
        self.rules().iter().find_map(|armed| {
            let rule = &armed.rule;
            let Reaction::Rest(fault) = &rule.reaction else {
                return None;
            };
            let applies = rule.request.is_none_or(|request| request == number)
                && rule.path.as_ref().is_none_or(|prefix| path.starts_with(prefix));
            (applies && armed.claim(now)).then(|| fault.clone())
        })
    }

    fn rules(&self) -> Vec<Arc<ArmedRule>> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ArmedRule {
    /// Applies the rule if its limits `times` and `every` allow an application now, and returns whether they do.
    fn claim(&self, now: Instant) -> bool {
        let mut usage = self.usage.lock().unwrap_or_else(PoisonError::into_inner);
        let interval_passed = self
            .interval()
            .is_none_or(|interval| now >= usage.last + interval);
        let left = self.rule.times.is_none_or(|times| usage.times < times);
        if interval_passed && left {
            usage.times += 1;
            usage.last = now;
        }
        interval_passed && left
    }

    /// Returns the time from which the rule may be applied again; `None` if its `times` are used up.
    fn next_at(&self) -> Option<Instant> {
        let usage = self.usage.lock().unwrap_or_else(PoisonError::into_inner);
        let left = self.rule.times.is_none_or(|times| usage.times < times);
        left.then(|| usage.last + self.interval().unwrap_or_default())
    }

    /// Returns the minimum time between two applications.
    fn interval(&self) -> Option<Duration> {
        match self.rule.every {
            Some(Every::Time(interval)) => Some(interval.max(Duration::from_millis(1))),
            _ => None,
        }
    }
}

/// The rules that were applied on one connection.
#[derive(Debug)]
pub(crate) struct ConnectionFaults {
    connection: u64,
    /// The number of events sent when a rule was last applied on this connection, by the rule's number.
    used: HashMap<u64, u64>,
}

impl ConnectionFaults {
    pub(crate) fn new(connection: u64) -> Self {
        Self {
            connection,
            used: HashMap::new(),
        }
    }

    /// Applies the first rule that is due in a phase before the events.
    pub(crate) fn early(&mut self, plan: &Plan, phase: Phase, now: Instant) -> Option<Reaction> {
        let rules = plan.rules();
        let rule = rules
            .iter()
            .find(|rule| rule.rule.reaction.phase() == phase && self.applies_to(rule) && rule.claim(now))?;
        self.used.insert(rule.number, 0);
        Some(rule.rule.reaction.clone())
    }

    /// Applies the first rule that is due after `events` events, or returns when the next rule may be due.
    pub(crate) fn next(&mut self, plan: &Plan, events: u64, now: Instant) -> Due {
        let (mut within, mut wake) = (u64::MAX, None::<Instant>);
        for rule in plan.rules() {
            if rule.rule.reaction.phase() != Phase::Events || !self.applies_to(&rule) {
                continue;
            }
            let (Some(from), Some(next_at)) = (self.due_from(&rule), rule.next_at()) else {
                continue;
            };
            if events < from {
                within = within.min(from - events);
            } else if now < next_at {
                wake = Some(wake.map_or(next_at, |wake| wake.min(next_at)));
            } else if rule.claim(now) {
                self.used.insert(rule.number, events);
                return Due::Now(rule.rule.reaction.clone());
            }
        }
        Due::Later {
            events: within,
            at: wake,
        }
    }

    fn applies_to(&self, rule: &ArmedRule) -> bool {
        rule.rule
            .connection
            .is_none_or(|connection| connection == self.connection)
    }

    /// Returns the number of events from which a rule is due on this connection; `None` if it is not due again.
    fn due_from(&self, rule: &ArmedRule) -> Option<u64> {
        match (self.used.get(&rule.number), rule.rule.every) {
            // The minimum is one event, because with an interval of zero events no event would ever be sent.
            (None, Some(Every::Events(events))) => rule.rule.after.checked_add(events.max(1)),
            (None, _) => Some(rule.rule.after.max(rule.rule.reaction.min_events())),
            (Some(_), Some(Every::Time(_))) => Some(0),
            (Some(last), Some(Every::Events(events))) => last.checked_add(events.max(1)),
            (Some(_), None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATER: Due = Due::Later {
        events: u64::MAX,
        at: None,
    };

    fn plan(rules: &[&str], now: Instant) -> Plan {
        Plan::new(rules.iter().map(|rule| rule.parse().unwrap()).collect(), now)
    }

    #[tokio::test]
    async fn rule_is_due_once_on_its_connection() {
        let now = Instant::now();
        let plan = plan(&["close=1001,connection=2,after=5,times=1"], now);
        assert_eq!(ConnectionFaults::new(1).next(&plan, 9, now), LATER);
        let mut second = ConnectionFaults::new(2);
        assert_eq!(second.next(&plan, 2, now), Due::Later { events: 3, at: None });
        assert_eq!(
            second.next(&plan, 5, now),
            Due::Now(Reaction::Close { code: 1001 })
        );
        assert_eq!(second.next(&plan, 6, now), LATER);
    }

    #[tokio::test]
    async fn times_limit_counts_all_connections() {
        let now = Instant::now();
        let plan = plan(&["refuse-token,times=2"], now);
        let refused = |number| {
            ConnectionFaults::new(number)
                .early(&plan, Phase::Authentication, now)
                .is_some()
        };
        assert_eq!([refused(1), refused(2), refused(3)], [true, true, false]);
    }

    #[tokio::test]
    async fn time_interval_spans_all_connections() {
        let now = Instant::now();
        let minute = Duration::from_secs(60);
        let plan = plan(&["cut,every=1m"], now);
        let (mut first, mut second) = (ConnectionFaults::new(1), ConnectionFaults::new(2));
        assert_eq!(
            first.next(&plan, 0, now),
            Due::Later {
                events: u64::MAX,
                at: Some(now + minute)
            }
        );
        assert_eq!(first.next(&plan, 7, now + minute), Due::Now(Reaction::Cut));
        let next = Due::Later {
            events: u64::MAX,
            at: Some(now + 2 * minute),
        };
        assert_eq!(second.next(&plan, 7, now + minute), next);
        assert_eq!(second.next(&plan, 8, now + 2 * minute), Due::Now(Reaction::Cut));
    }

    #[tokio::test]
    async fn event_interval_repeats_on_a_connection() {
        let now = Instant::now();
        let plan = plan(&["duplicate,every=10"], now);
        let mut faults = ConnectionFaults::new(1);
        assert_eq!(faults.next(&plan, 0, now), Due::Later { events: 10, at: None });
        assert_eq!(
            faults.next(&plan, 10, now),
            Due::Now(Reaction::Duplicate { entries: 1 })
        );
        assert_eq!(faults.next(&plan, 10, now), Due::Later { events: 10, at: None });
        assert_eq!(
            faults.next(&plan, 20, now),
            Due::Now(Reaction::Duplicate { entries: 1 })
        );
    }

    #[tokio::test]
    async fn rest_fault_applies_to_its_request_and_path() {
        let now = Instant::now();
        let plan = plan(
            &["rest-cut,request=2", "rest-no-id,path=/v1/entries,times=1"],
            now,
        );
        assert_eq!(plan.for_request(1, "/v1/tokens/", now), None);
        assert_eq!(plan.for_request(2, "/v1/entries/", now), Some(RestFault::Cut));
        assert_eq!(plan.for_request(3, "/v1/entries/", now), Some(RestFault::NoId));
        assert_eq!(plan.for_request(4, "/v1/entries/", now), None);
        assert_eq!(ConnectionFaults::new(2).next(&plan, 9, now), LATER);
    }

    #[tokio::test]
    async fn rule_added_later_is_due_at_once_after_enough_events() {
        let now = Instant::now();
        let plan = Plan::default();
        let mut faults = ConnectionFaults::new(1);
        assert_eq!(faults.next(&plan, 100, now), LATER);
        plan.add("silence,after=50".parse().unwrap(), now);
        assert_eq!(faults.next(&plan, 100, now), Due::Now(Reaction::Silence));
        plan.clear();
        assert_eq!(faults.next(&plan, 100, now), LATER);
    }
}
