//! The rules at work: which is due on which connection, and how often each was used.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{Every, FaultRule, Phase, Reaction};

/// All rules of a simulator.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    rules: RwLock<Vec<Arc<ArmedRule>>>,
    added: AtomicU64,
}

#[derive(Debug)]
struct ArmedRule {
    /// Never given twice, so that a connection can tell a rule from one that was there before it.
    number: u64,
    rule: FaultRule,
    usage: Mutex<Usage>,
}

#[derive(Debug)]
struct Usage {
    times: u64,
    /// When it was last used, or else added.
    last: Instant,
}

/// What the rules say of a connection that stands between two events.
#[derive(Debug, PartialEq)]
pub(crate) enum Due {
    /// This is to happen now.
    Now(Reaction),
    /// Nothing for so many events, and until this time.
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

    fn rules(&self) -> Vec<Arc<ArmedRule>> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ArmedRule {
    /// Uses the rule if its limits allow it now.
    fn claim(&self, now: Instant) -> bool {
        let mut usage = self.usage.lock().unwrap_or_else(PoisonError::into_inner);
        let rested = self.rest().is_none_or(|rest| now >= usage.last + rest);
        let left = self.rule.times.is_none_or(|times| usage.times < times);
        if rested && left {
            usage.times += 1;
            usage.last = now;
        }
        rested && left
    }

    /// Gives when the rule has rested enough; `None`: it is used up.
    fn rested_at(&self) -> Option<Instant> {
        let usage = self.usage.lock().unwrap_or_else(PoisonError::into_inner);
        let left = self.rule.times.is_none_or(|times| usage.times < times);
        left.then(|| usage.last + self.rest().unwrap_or_default())
    }

    fn rest(&self) -> Option<Duration> {
        match self.rule.every {
            Some(Every::Time(rest)) => Some(rest.max(Duration::from_millis(1))),
            _ => None,
        }
    }
}

/// What one connection has seen of the rules.
#[derive(Debug)]
pub(crate) struct ConnectionFaults {
    connection: u64,
    /// How many events had been sent when a rule was last used here, by the rule's number.
    used: HashMap<u64, u64>,
}

impl ConnectionFaults {
    pub(crate) fn new(connection: u64) -> Self {
        Self {
            connection,
            used: HashMap::new(),
        }
    }

    /// Uses the first rule for this phase before the events, if one is due.
    pub(crate) fn early(&mut self, plan: &Plan, phase: Phase, now: Instant) -> Option<Reaction> {
        let rules = plan.rules();
        let rule = rules
            .iter()
            .find(|rule| rule.rule.reaction.phase() == phase && self.is_meant(rule) && rule.claim(now))?;
        self.used.insert(rule.number, 0);
        Some(rule.rule.reaction.clone())
    }

    /// Uses the first rule that is due after `events` events, or says how long none will be.
    pub(crate) fn next(&mut self, plan: &Plan, events: u64, now: Instant) -> Due {
        let (mut within, mut wake) = (u64::MAX, None::<Instant>);
        for rule in plan.rules() {
            if rule.rule.reaction.phase() != Phase::Events || !self.is_meant(&rule) {
                continue;
            }
            let (Some(from), Some(rested)) = (self.due_from(&rule), rule.rested_at()) else {
                continue;
            };
            if events < from {
                within = within.min(from - events);
            } else if now < rested {
                wake = Some(wake.map_or(rested, |wake| wake.min(rested)));
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

    fn is_meant(&self, rule: &ArmedRule) -> bool {
        rule.rule
            .connection
            .is_none_or(|connection| connection == self.connection)
    }

    /// Gives the number of events from which a rule is due here; `None`: not again.
    fn due_from(&self, rule: &ArmedRule) -> Option<u64> {
        match (self.used.get(&rule.number), rule.rule.every) {
            // At least one, or a rule made with none would never let an event through.
            (None, Some(Every::Events(events))) => rule.rule.after.checked_add(events.max(1)),
            (None, _) => Some(rule.rule.after.max(rule.rule.reaction.least_events())),
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
    async fn after_and_times_and_connection() {
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
    async fn times_are_counted_over_all_connections() {
        let now = Instant::now();
        let plan = plan(&["refuse-token,times=2"], now);
        let refused = |number| {
            ConnectionFaults::new(number)
                .early(&plan, Phase::Authorisation, now)
                .is_some()
        };
        assert_eq!([refused(1), refused(2), refused(3)], [true, true, false]);
    }

    #[tokio::test]
    async fn a_rest_is_kept_over_all_connections() {
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
    async fn every_so_many_events_of_a_connection() {
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
    async fn a_rule_added_late_is_due_at_once_where_enough_was_sent() {
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
