//! The report of this member to the others, and the rules by which the leader hands over because of the others' reports.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use neurobridge_cluster::{ConnectedFor, MemberReport, MemberState};
use neurobridge_core::{clock, sink_type::InCluster};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::info;

use super::{resign, standby::update_settled_positions};
use crate::state::{State, View};

/// The interval between two reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// The time for which a leader waits for faults that usually end by themselves, before it hands over.
const FAULT_LIMIT: Duration = Duration::from_secs(10);
/// The shortest and the longest time that a leader leads before it hands over without a request. The time doubles with each such
/// hand-over, because a cause that no member can remove, such as an event that all brokers reject, must not change the leader
/// every few seconds.
const TERM_LIMITS: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(3600));
/// The largest number of sources in a report, so that the size of the report is bounded.
const MAX_SOURCES: usize = 200;

/// Reports the state of this member, and hands the leadership over if another member can publish events that this one cannot.
/// Ends when the cluster is left.
pub(crate) async fn report(state: Arc<State>) {
    let Some(cluster) = &state.cluster else {
        return;
    };
    let mut ticks = interval(REPORT_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut rules = Rules::default();
    loop {
        tokio::select! {
            biased;
            () = cluster.left() => return,
            _ = ticks.tick() => {}
        }
        update_settled_positions(&state);
        let view = state.view();
        let own = report_of(&view);
        cluster.membership().report(own.clone());
        let members = cluster.membership().members().borrow().clone();
        let others = members
            .iter()
            .filter(|member| member.may_replace(cluster.config_hash()));
        let term = view.cluster.as_ref().and_then(|cluster| cluster.term);
        if let Some(reason) = rules.reason_to_hand_over(term, &own, others, Instant::now()) {
            info!(cluster = cluster.name(), reason, "handing the leadership over");
            // In a task of its own, because reports have to continue until the lease is released.
            let state = Arc::clone(&state);
            tokio::spawn(async move {
                if let Some(cluster) = &state.cluster {
                    resign(cluster, &state).await;
                }
            });
        }
    }
}

/// Returns the report of a bridge.
fn report_of(view: &View<'_>) -> MemberReport {
    let mut report = MemberReport::default();
    for sink in &view.sinks {
        if !matches!(sink.handle.in_cluster, InCluster::Shared { .. }) {
            continue;
        }
        report.lag_events = report.lag_events.max(sink.ledger.pending);
        let lag = Duration::from_secs_f64(sink.lag_seconds);
        report.lag_ms = report.lag_ms.max(whole_milliseconds(lag));
        if sink.is_up() {
            report.sinks_up.insert(sink.name.to_string());
        }
    }
    let now = clock::now();
    let age = |time: Timestamp| {
        whole_milliseconds(Duration::try_from(now.duration_since(time)).unwrap_or_default())
    };
    let connected = view.sources.iter().filter_map(|source| {
        let connected = ConnectedFor {
            since_ms: age(source.connected_since()?),
            proof_ms: age(source.snapshot.proof_of_life?),
        };
        Some((source.name.to_string(), connected))
    });
    report.connected = connected.take(MAX_SOURCES).collect();
    report
}

fn whole_milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The rules by which the leader hands over without a request, with the state derived from earlier reports.
#[derive(Debug, Default)]
struct Rules {
    /// The term, and the time at which it began.
    led: Option<(u64, Instant)>,
    /// The time since which another member has at least one sink up that is down here, and all sinks that are up here.
    better_since: Option<Instant>,
    /// The time and the lag of the first report of each member that waits for an event.
    waits: BTreeMap<String, (Instant, u64)>,
    /// The number of hand-overs without a request, reset after an hour without one.
    handed_over: u32,
    handed_over_at: Option<Instant>,
}

impl Rules {
    /// Returns why another member should lead: it has sinks up that are down here, or waits for an event that this member has not
    /// published. `None` for a follower.
    fn reason_to_hand_over<'a>(
        &mut self,
        term: Option<u64>,
        own: &MemberReport,
        others: impl Iterator<Item = &'a MemberState>,
        now: Instant,
    ) -> Option<String> {
        let Some(term) = term else {
            (self.led, self.better_since) = (None, None);
            self.waits.clear();
            return None;
        };
        let led_since = match self.led {
            Some((led, since)) if led == term => since,
            _ => now,
        };
        self.led = Some((term, led_since));
        let others: Vec<_> = others
            .filter_map(|member| Some((&member.name, member.report.as_ref()?)))
            .collect();
        let better = others
            .iter()
            .find(|(_, other)| own.sinks_up.is_subset(&other.sinks_up) && own.sinks_up != other.sinks_up);
        self.better_since = better.and(self.better_since.or(Some(now)));
        let up: Vec<_> = others
            .iter()
            .filter(|(_, other)| own.sinks_up.is_subset(&other.sinks_up))
            .collect();
        // While the sinks of a member are down, its lag grows too, so the measurement begins when they are up.
        self.waits
            .retain(|name, _| up.iter().any(|(other, _)| *other == name));
        let waits: Vec<&String> = up
            .iter()
            .filter(|(name, other)| self.waits_for_same_event(name, other, now))
            .map(|(name, _)| *name)
            .collect();
        let is_long_ago = |at| now.duration_since(at) >= TERM_LIMITS.1;
        if self.handed_over_at.is_some_and(is_long_ago) {
            self.handed_over = 0;
        }
        let limit = TERM_LIMITS.0 * 2_u32.saturating_pow(self.handed_over.min(20));
        if now.duration_since(led_since) < limit.min(TERM_LIMITS.1) {
            return None;
        }
        let has_been_down = self
            .better_since
            .is_some_and(|since| now.duration_since(since) >= FAULT_LIMIT);
        let reason = if let Some((name, _)) = better.filter(|_| has_been_down) {
            format!("the member \"{name}\" has sinks up that are down at this member")
        } else if own.lag_ms < whole_milliseconds(FAULT_LIMIT) {
            // With a backlog here, the others wait for the events of this backlog, and a hand-over would not help.
            let name = waits.first()?;
            format!("the member \"{name}\" waits for events that this member has not published")
        } else {
            return None;
        };
        self.handed_over += 1;
        self.handed_over_at = Some(now);
        Some(reason)
    }

    /// Returns whether a member has waited for the same event for [`FAULT_LIMIT`]: the lag of this member then grows as fast as
    /// the time, while the lag of a member that still reads the destination shrinks.
    fn waits_for_same_event(&mut self, name: &str, report: &MemberReport, now: Instant) -> bool {
        let (since, lag) = *self.waits.entry(name.to_owned()).or_insert((now, report.lag_ms));
        let waited = now.duration_since(since);
        // The limit is lower by five seconds, because a report may be some seconds old.
        let least = (lag + whole_milliseconds(waited)).saturating_sub(whole_milliseconds(FAULT_LIMIT / 2));
        if report.lag_ms < least || report.lag_events == 0 {
            self.waits.remove(name);
            return false;
        }
        waited >= FAULT_LIMIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lag: u64, sinks_up: &[&str]) -> MemberReport {
        MemberReport {
            lag_events: u64::from(lag > 0),
            lag_ms: lag * 1000,
            sinks_up: sinks_up.iter().map(|sink| (*sink).to_owned()).collect(),
            ..MemberReport::default()
        }
    }

    fn member(report: MemberReport) -> MemberState {
        MemberState {
            name: "b".to_owned(),
            instance: "i".to_owned(),
            config_hash: "h".to_owned(),
            term: None,
            report: Some(report),
            last_seen: Instant::now(),
            written_after: None,
            is_alive: true,
            is_self: false,
        }
    }

    /// Returns the second at which a leader hands over, if it does within a minute of these reports.
    fn hands_over(
        rules: &mut Rules,
        term: Option<u64>,
        own: impl Fn(u64) -> MemberReport,
        other: impl Fn(u64) -> MemberReport,
    ) -> Option<u64> {
        let begin = Instant::now();
        (0..60).find(|second| {
            let other = member(other(*second));
            let now = begin + Duration::from_secs(*second);
            rules
                .reason_to_hand_over(term, &own(*second), std::iter::once(&other), now)
                .is_some()
        })
    }

    const BOTH: &[&str] = &["kafka", "nats"];

    #[tokio::test]
    async fn leader_hands_over_to_a_member_that_can_publish_more() {
        let result = |own: &[&str], other: &[&str]| {
            let (own, other) = (report(0, own), report(0, other));
            hands_over(&mut Rules::default(), Some(7), |_| own.clone(), |_| other.clone())
        };
        assert_eq!(result(&["nats"], BOTH), Some(10));
        assert_eq!(result(BOTH, BOTH), None);
        assert_eq!(result(&["nats"], &["nats"]), None, "no better there");
        assert_eq!(result(&["nats"], &["kafka"]), None, "another one would be down");
        let passes = |second| report(0, if second % 9 == 0 { BOTH } else { &["nats"] });
        assert_eq!(
            hands_over(&mut Rules::default(), Some(7), passes, |_| report(0, BOTH)),
            None
        );
    }

    #[tokio::test]
    async fn leader_hands_over_to_a_member_that_waits_for_an_event() {
        let result = |own: &dyn Fn(u64) -> MemberReport, other: &dyn Fn(u64) -> MemberReport| {
            hands_over(&mut Rules::default(), Some(7), own, other)
        };
        let up = |lag| report(lag, BOTH);
        assert_eq!(result(&|_| up(0), &up), Some(11));
        assert_eq!(
            result(&|_| report(0, &["nats"]), &|second| report(second, &["nats"])),
            Some(11)
        );
        assert_eq!(
            result(&|_| up(0), &|_| up(30)),
            None,
            "reads, so its lag does not grow"
        );
        assert_eq!(
            result(&|_| up(0), &|second| report(second, &[])),
            None,
            "could not publish"
        );
        assert_eq!(
            result(&|second| up(20 + second), &up),
            None,
            "publishes a backlog"
        );
        assert_eq!(
            hands_over(&mut Rules::default(), None, |_| up(0), up),
            None,
            "a follower"
        );
    }

    #[tokio::test]
    async fn wait_of_a_member_begins_when_its_sinks_are_up() {
        let other = |second| match second {
            0..5 => report(1, BOTH),
            5..20 => report(second - 4, &[]),
            _ => report(second - 4, BOTH),
        };
        let up = |_| report(0, BOTH);
        assert_eq!(hands_over(&mut Rules::default(), Some(7), up, other), Some(30));
        let reads = |second| {
            if second > 21 {
                report(1, BOTH)
            } else {
                other(second)
            }
        };
        let result = hands_over(&mut Rules::default(), Some(7), up, reads);
        assert_eq!(result, None, "it reads after its sinks are up");
    }

    #[tokio::test]
    async fn repeated_hand_overs_are_delayed_for_twice_as_long() {
        let mut rules = Rules::default();
        let times = [1, 2, 3].map(|term| {
            rules.reason_to_hand_over(None, &report(0, BOTH), std::iter::empty(), Instant::now());
            hands_over(
                &mut rules,
                Some(term),
                |_| report(0, BOTH),
                |second| report(second, BOTH),
            )
        });
        assert_eq!(times, [Some(11), Some(20), Some(40)]);
    }
}
