//! Waits at the end of a run until every member has settled every event.

use std::time::{Duration, Instant};

use anyhow::Result;
use neurobridge_tests::poll::Patience;

use super::super::schedule::Kind;
use super::STATUS_INTERVAL;
use super::faults::{Cluster, Journal};
use super::member::{Latest, Member};
use super::status::Role;
use super::takeovers::Target;
use crate::shell::log;

/// The time limit without progress.
const LIMIT: Duration = Duration::from_secs(180);
/// The time without a change after which the members count as settled, or a follower as waiting for the leadership.
const QUIET: Duration = Duration::from_secs(5);

/// The state of the members at the end.
#[derive(Debug, Default)]
pub(super) struct Drained {
    /// The number of hand-overs to followers that had events which no other member has.
    pub(super) hand_overs: usize,
    pub(super) violations: Vec<String>,
}

/// Waits until no member has events without an outcome. A follower settles an event that the leader did not receive only
/// when it leads itself, so the leader then hands over.
pub(super) fn drain(cluster: &Cluster<'_>) -> Result<Drained> {
    let mut drained = Drained::default();
    let mut patience = Patience::new("the outcomes of all events", LIMIT);
    let (mut before, mut changed) = (Vec::new(), Instant::now());
    loop {
        for member in 0..cluster.members.len() {
            cluster.observe(member)?;
        }
        let latest: Vec<Option<Latest>> = cluster.members.iter().map(Member::latest).collect();
        let progress: Vec<_> = latest
            .iter()
            .map(|latest| {
                latest
                    .as_ref()
                    .map(|latest| (latest.pending, latest.durable, latest.received))
            })
            .collect();
        patience.observe(&progress);
        if progress != before {
            (before, changed) = (progress, Instant::now());
        } else if changed.elapsed() >= QUIET {
            match next(&latest) {
                Next::Settled => return Ok(drained),
                Next::HandOver(leader) if drained.hand_overs < 2 * cluster.members.len() => {
                    drained.hand_overs += 1;
                    log(&format!(
                        "{} hands over, because a follower has events that no other member has",
                        cluster.members[leader].name
                    ));
                    let began = Journal::now();
                    cluster.members[leader].disturb(|bridge| {
                        Member::terminate(bridge)?;
                        bridge.start_again()
                    })?;
                    cluster
                        .journal
                        .add(Target::Member(leader), Kind::Terminate, began);
                    changed = Instant::now();
                }
                Next::HandOver(_) | Next::Wait => {}
            }
        }
        if let Err(error) = patience.check() {
            drained.violations.push(format!("{error:#}"));
            drained.violations.extend(describe(cluster.members, &latest));
            return Ok(drained);
        }
        // A bridge reports its state only in the response to a request, so this polls at an interval.
        std::thread::sleep(STATUS_INTERVAL);
    }
}

/// The next step after [`QUIET`] without a change.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// All members have settled all events.
    Settled,
    /// This leader has settled all events, and a follower has not.
    HandOver(usize),
    Wait,
}

fn next(latest: &[Option<Latest>]) -> Next {
    let has_settled = |latest: &Option<Latest>| {
        latest
            .as_ref()
            .is_some_and(|latest| latest.pending == 0 && latest.received.is_some())
    };
    if latest.iter().all(has_settled) {
        return Next::Settled;
    }
    let is_leader = |latest: &Option<Latest>| {
        latest
            .as_ref()
            .is_some_and(|latest| latest.membership.role == Role::Leader)
    };
    let leader = latest.iter().position(is_leader);
    match leader {
        Some(leader) if has_settled(&latest[leader]) && latest.iter().all(Option::is_some) => {
            Next::HandOver(leader)
        }
        _ => Next::Wait,
    }
}

/// Returns a line for each member that has not settled all events.
fn describe(members: &[Member], latest: &[Option<Latest>]) -> Vec<String> {
    let states = members.iter().zip(latest).filter_map(|(member, latest)| {
        let Some(latest) = latest else {
            return Some(format!("{}: no status", member.name));
        };
        let Latest {
            membership,
            pending,
            down_sinks,
            ..
        } = latest;
        let down_sinks = down_sinks.join("; ");
        (*pending > 0).then(|| {
            format!(
                "{}: {membership}, {pending} events pending; {down_sinks}",
                member.name
            )
        })
    });
    states.collect()
}

#[cfg(test)]
mod tests {
    use super::super::status::Membership;
    use super::*;

    #[test]
    fn leader_hands_over_only_when_it_has_settled_all_events() {
        let member = |role, pending| {
            Some(Latest {
                membership: Membership::of(role),
                pending,
                lag: Duration::ZERO,
                durable: 9,
                received: Some(9),
                down_sinks: Vec::new(),
            })
        };
        let (leader, follower) = (Role::Leader, Role::Follower);
        assert_eq!(next(&[member(leader, 0), member(follower, 0)]), Next::Settled);
        assert_eq!(next(&[member(follower, 3), member(leader, 0)]), Next::HandOver(1));
        assert_eq!(next(&[member(leader, 1), member(follower, 3)]), Next::Wait);
        assert_eq!(next(&[member(follower, 1), member(follower, 0)]), Next::Wait);
        assert_eq!(next(&[member(leader, 0), None]), Next::Wait);
    }
}
