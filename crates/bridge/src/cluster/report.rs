//! What the members tell each other, and when the leader hands the lead over because of it.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use neurobridge_cluster::{ConnectedFor, MemberReport, MemberState};
use neurobridge_core::{clock, sink_type::InCluster};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::info;

use crate::state::{State, View};

/// The interval at which the other members are told how far this one is.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// The time for which a member waits for what usually ends by itself, before it hands the lead over, and the least time between two
/// takeovers.
const PATIENCE: Duration = Duration::from_secs(10);
/// The sources of which a report has the state, so that its size is bounded.
const MAX_SOURCES: usize = 1000;

/// Tells the other members about this one, and hands the lead over where another member can publish what this one cannot. Ends
/// when the cluster is left.
pub(crate) async fn report(state: Arc<State>) {
    let Some(cluster) = &state.cluster else {
        return;
    };
    let mut ticks = interval(REPORT_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut since = Since::default();
    loop {
        tokio::select! {
            biased;
            () = cluster.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let view = state.view();
        let own = report_of(&view);
        cluster.membership.report(own.clone());
        let others = cluster.membership.members().borrow().clone();
        let term = view.cluster.as_ref().and_then(|cluster| cluster.term);
        if let Some(reason) = since.reason_to_hand_over(term, &own, &others, Instant::now()) {
            info!(cluster = cluster.name, reason, "handing the lead over");
            cluster.membership.resign().await;
        }
    }
}

/// Returns what the other members are told about a bridge.
fn report_of(view: &View<'_>) -> MemberReport {
    let shared = view
        .sinks
        .iter()
        .filter(|sink| sink.handle.in_cluster == InCluster::Shared);
    let (mut lag_events, mut lag_seconds, mut is_able) = (0, 0.0_f64, true);
    for sink in shared {
        lag_events = sink.ledger.pending.max(lag_events);
        lag_seconds = lag_seconds.max(sink.lag_seconds);
        is_able &= sink.is_up();
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
    MemberReport {
        lag_events,
        lag_ms: whole_milliseconds(Duration::from_secs_f64(lag_seconds)),
        is_able,
        connected: connected.take(MAX_SOURCES).collect(),
    }
}

fn whole_milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The times since which the member has led, and could not publish.
#[derive(Debug, Default)]
struct Since {
    leads: Option<(u64, Instant)>,
    is_unable: Option<Instant>,
}

impl Since {
    /// Returns why another member should lead: because this one cannot publish, or because the other one has events that this one
    /// did not receive, and nobody has published. `None` for a follower.
    fn reason_to_hand_over(
        &mut self,
        term: Option<u64>,
        own: &MemberReport,
        members: &[MemberState],
        now: Instant,
    ) -> Option<String> {
        let Some(term) = term else {
            *self = Self::default();
            return None;
        };
        let since = match self.leads {
            Some((led, since)) if led == term => since,
            _ => now,
        };
        self.leads = Some((term, since));
        self.is_unable = match self.is_unable {
            _ if own.is_able => None,
            since => since.or(Some(now)),
        };
        // Each takeover costs some time without a leader.
        if now.duration_since(since) < PATIENCE {
            return None;
        }
        let others = || {
            let others = members.iter().filter(|member| member.is_alive && !member.is_self);
            others.filter_map(|member| Some((&member.name, member.report.as_ref()?)))
        };
        let mut able = others().filter(|(_, report)| report.is_able);
        if self
            .is_unable
            .is_some_and(|since| now.duration_since(since) >= PATIENCE)
        {
            return able.next().map(|(name, _)| {
                format!("not all sinks are up here, and they are up at the member \"{name}\"")
            });
        }
        // While this member has old events to publish, so have the others.
        let is_behind = |report: &MemberReport| Duration::from_millis(report.lag_ms) >= PATIENCE;
        if is_behind(own) {
            return None;
        }
        able.find(|(_, report)| is_behind(report)).map(|(name, _)| {
            format!(
                "the member \"{name}\" has events that this one did not receive, and nobody has published"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lag: Duration, is_able: bool) -> MemberReport {
        MemberReport {
            lag_events: 1,
            lag_ms: whole_milliseconds(lag),
            is_able,
            ..MemberReport::default()
        }
    }

    fn member(is_alive: bool, report: MemberReport) -> MemberState {
        MemberState {
            name: "b".to_owned(),
            instance: "i".to_owned(),
            config_hash: "h".to_owned(),
            term: None,
            report: Some(report),
            last_seen: Instant::now(),
            is_alive,
            is_self: false,
        }
    }

    /// Returns whether a leader hands over within a minute of these reports.
    fn hands_over(own: &MemberReport, other: MemberState) -> Option<Duration> {
        let (begin, mut since) = (Instant::now(), Since::default());
        (0..60).map(Duration::from_secs).find(|time| {
            since
                .reason_to_hand_over(Some(7), own, std::slice::from_ref(&other), begin + *time)
                .is_some()
        })
    }

    #[tokio::test]
    async fn leader_hands_over_to_whoever_can_publish_more() {
        let (none, old) = (Duration::ZERO, 2 * PATIENCE);
        let hands_over = |own, other| hands_over(&own, member(true, other));
        assert_eq!(hands_over(report(none, true), report(none, true)), None);
        assert_eq!(hands_over(report(none, true), report(old, true)), Some(PATIENCE));
        assert_eq!(
            hands_over(report(none, true), report(old, false)),
            None,
            "could not publish"
        );
        assert_eq!(
            hands_over(report(old, true), report(old, true)),
            None,
            "is publishing them"
        );
        assert_eq!(hands_over(report(old, false), report(old, true)), Some(PATIENCE));
        assert_eq!(hands_over(report(old, false), report(old, false)), None);
    }

    #[tokio::test]
    async fn leader_waits_for_faults_that_pass_and_for_members_that_live() {
        let (begin, mut since) = (Instant::now(), Since::default());
        let other = [member(true, report(Duration::ZERO, true))];
        for second in 0..60 {
            let own = report(Duration::ZERO, second % 9 == 0);
            let now = begin + Duration::from_secs(second);
            assert_eq!(since.reason_to_hand_over(Some(7), &own, &other, now), None);
        }
        let own = report(Duration::ZERO, true);
        assert_eq!(hands_over(&own, member(false, report(2 * PATIENCE, true))), None);
        assert_eq!(
            Since::default().reason_to_hand_over(None, &own, &other, begin),
            None
        );
    }
}
