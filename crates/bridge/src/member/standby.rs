//! Cold standby: the sources of a member connect only while it leads.
//!
//! The lease contains the settled position of each source, at which the gap of a new leader begins.

use std::{collections::BTreeMap, future::pending, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use neurobridge_cluster::Settled;
use neurobridge_core::{clock, sink_type::InCluster};
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use crate::{
    cluster::{Cluster, ColdStandby},
    gaps::ProofOfLife,
    state::{State, View},
    view::SourceView,
};

/// The time limit for closing the connections. Longer than a source takes for its close frame.
const CLOSE_LIMIT: Duration = Duration::from_secs(3);

/// The time limit for the outcomes of the stored events before a hand-over. The next leader fetches the events without one.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);
/// The interval at which the ends of connections and deliveries are checked: no notification announces that all of them have
/// ended.
const CHECK_INTERVAL: Duration = Duration::from_millis(10);

/// Closes the connections of the sources, and waits for a limited time until the received events are settled.
pub(super) async fn step_down(cold: &ColdStandby, state: &State) {
    cold.step_down();
    let _ = cold.may_connect().wait_for(|may_connect| !*may_connect).await;
    if timeout(CLOSE_LIMIT, closed(state)).await.is_err() {
        return;
    }
    let flushed = async {
        while unsettled(&state.view()) > 0 {
            sleep(CHECK_INTERVAL).await;
        }
    };
    // If the limit is exceeded, the gap of the next leader begins earlier.
    let _ = timeout(FLUSH_LIMIT, flushed).await;
    update_settled_positions(state);
}

/// Connects the sources while this member leads. Ends when the cluster is left.
pub(crate) async fn stand_by(state: Arc<State>) {
    let Some(cluster) = &state.cluster else {
        return;
    };
    if let Some(cold) = cluster.cold() {
        tokio::select! {
            biased;
            () = cluster.left() => {}
            () = alternate(cluster, cold, &state) => {}
        }
    }
}

/// Connects the sources whenever this member begins to lead, and closes the connections whenever it stops leading. Never returns.
async fn alternate(cluster: &Cluster, cold: &ColdStandby, state: &State) {
    let mut lead = cluster.lead().clone();
    let mut settled = cluster.membership().settled();
    let mut steps_down = cold.steps_down();
    loop {
        loop {
            apply_settled(state, &settled.borrow_and_update());
            tokio::select! {
                biased;
                () = lead.held() => {}
                Ok(()) = settled.changed() => continue,
            }
            let _ = steps_down.wait_for(|steps_down| !*steps_down).await;
            if lead.is_held() {
                break;
            }
        }
        apply_settled(state, &settled.borrow_and_update());
        let connect = async {
            take_over(cluster, cold, state).await;
            cold.allow(true);
            pending::<()>().await;
        };
        tokio::select! {
            () = connect => {}
            () = lead.lost() => {}
            _ = steps_down.wait_for(|steps_down| *steps_down) => {}
        }
        cold.allow(false);
        if timeout(CLOSE_LIMIT, closed(state)).await.is_err() {
            warn!(
                cluster = cluster.name(),
                limit = ?CLOSE_LIMIT,
                "connections to the feeds not closed within the limit, possibly because the spool is full; waiting until they \
                 are closed"
            );
            closed(state).await;
        }
        // The view records the last proof of life of the closed connections.
        drop(state.view());
        for source in state.parts.sources() {
            state.history.stand_by(&source.intake.name);
        }
    }
}

/// Begins a gap of each source at its settled position, before the sources connect.
async fn take_over(cluster: &Cluster, cold: &ColdStandby, state: &State) {
    let now = (clock::now(), Instant::now());
    let in_lease = cluster.membership().settled().borrow().clone();
    let mut new = BTreeMap::new();
    for source in state.parts.sources() {
        let name = &source.intake.name;
        let began = state.history.take_over(name);
        if !in_lease.contains_key(&**name) {
            let began = began.clone().unwrap_or_else(|| ProofOfLife::new(now.0, None));
            new.insert(name.to_string(), since(&began, None, now));
        }
        if let Some(resume) = began.and_then(|began| began.resume) {
            source.intake.stored.set_resume(resume);
        }
    }
    let own = cold.add(&new);
    cluster.membership().set_settled(own);
    // Without this wait, after a crash of this leader within seconds, the next leader would find no position in the lease, and
    // would record no gap.
    cluster.membership().settled_stored(new.keys()).await;
}

/// Waits until no source has a connection or opens one.
async fn closed(state: &State) {
    let is_closed = || {
        let mut sources = state.parts.sources().into_iter();
        sources.all(|source| source.is_closed())
    };
    while !is_closed() {
        sleep(CHECK_INTERVAL).await;
    }
}

/// Passes the settled positions in the lease to the history, for the sources of this bridge.
fn apply_settled(state: &State, settled: &BTreeMap<String, Settled>) {
    let now = (clock::now(), Instant::now());
    for (source, settled) in settled {
        if state.parts.source(source).is_some() {
            state.history.set_settled_by_leader(source, local(settled, now));
        }
    }
}

/// Converts a settled position in the lease to a proof of life by the local clock.
fn local(settled: &Settled, (now, instant): (Timestamp, Instant)) -> ProofOfLife {
    let measured = settled.since.and_then(|since| {
        let age = SignedDuration::try_from(instant.saturating_duration_since(since)).ok()?;
        now.checked_sub(age).ok()
    });
    // If the position was stored before this member started, its age is unknown: the clock of the other member counts then.
    let at = measured.or_else(|| Timestamp::from_millisecond(settled.at_ms).ok());
    ProofOfLife {
        at: at.unwrap_or(Timestamp::MIN).min(now),
        event: settled.event.clone(),
        resume: settled.resume.clone(),
    }
}

/// Determines the settled positions of the sources of this leader, for its lease.
pub(crate) fn update_settled_positions(state: &State) {
    let Some((cluster, cold)) = state
        .cluster
        .as_ref()
        .and_then(|cluster| Some((cluster, cluster.cold()?)))
    else {
        return;
    };
    // Read before the view, so that the view contains the events before these values.
    let sources = state.parts.sources().into_iter();
    let resume: BTreeMap<_, _> = sources
        .map(|source| (Arc::clone(&source.intake.name), source.intake.stored.resume()))
        .collect();
    let view = state.view();
    let mut progress = cold.progress();
    if !cluster.lead().is_held() {
        progress.pause();
        return;
    }
    let now = (clock::now(), Instant::now());
    let proven = view.sources.iter().filter_map(|source| {
        let resume = resume.get(&source.name).cloned().flatten();
        Some((source.name.to_string(), proven(source, resume, now)?))
    });
    let proven = proven.collect();
    if progress.advance(settled_before(&view), view.spool.durable_sequence, proven) {
        cluster.membership().set_settled(progress.settled());
    }
}

/// Returns the sequence up to which all events have an outcome in the sinks whose destination all members share.
fn settled_before(view: &View<'_>) -> u64 {
    let shared = view
        .sinks
        .iter()
        .filter(|sink| matches!(sink.handle.in_cluster, InCluster::Shared { .. }));
    let settled = shared.map(|sink| sink.snapshot.cursor.next.get().saturating_sub(1));
    settled.min().unwrap_or(u64::MAX)
}

/// Returns the largest number of stored events without an outcome in one of the shared sinks.
fn unsettled(view: &View<'_>) -> u64 {
    view.spool.durable_sequence.saturating_sub(settled_before(view))
}

/// Returns the last proof of life of a source for the lease; `None` while events of a gap are missing.
fn proven(source: &SourceView, resume: Option<String>, now: (Timestamp, Instant)) -> Option<Settled> {
    if source.gaps.filling > 0 || source.gaps.open_seconds.is_some() {
        return None;
    }
    let alive = source.gaps.alive.as_ref()?;
    Some(since(alive, resume, now))
}

/// Converts a local proof of life to a settled position for the lease: the inverse of [`local`].
fn since(alive: &ProofOfLife, resume: Option<String>, (now, instant): (Timestamp, Instant)) -> Settled {
    let age = Duration::try_from(now.duration_since(alive.at)).unwrap_or_default();
    Settled {
        since: instant.checked_sub(age),
        at_ms: alive.at.as_millisecond(),
        event: alive.event.clone(),
        resume,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn settled_position_of_known_age_is_dated_by_the_own_clock() {
        let now = (
            Timestamp::from_second(1000).unwrap(),
            Instant::now() + Duration::from_secs(100),
        );
        let mut settled = Settled {
            since: None,
            at_ms: 400_000,
            event: None,
            resume: None,
        };
        let second = |settled: &Settled| local(settled, now).at.as_second();
        assert_eq!(second(&settled), 400, "by the clock of the other member");
        settled.at_ms = 5_000_000;
        assert_eq!(second(&settled), 1000, "its clock is ahead");
        settled.since = Some(now.1 - Duration::from_secs(3));
        assert_eq!(second(&settled), 997);
    }
}
