//! The tasks of a member of a cluster: they report to the other members, connect the sources of a cold standby only while this
//! member leads, and hand the leadership over.

mod report;
mod standby;

use std::time::Duration;

use neurobridge_cluster::MemberState;
use tokio::time::timeout;
use tracing::info;

pub(crate) use self::{
    report::report,
    standby::{stand_by, update_settled_positions},
};
use crate::{
    cluster::{Cluster, ColdStandby},
    control::Answer,
    exit::Exit,
    state::State,
};

/// The time limit of a hand-over. Shorter than the time for which the command waits for an answer, so that the command receives
/// the error of this limit.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(40);

/// Hands the leadership over, and waits until another member leads.
pub(crate) async fn hand_over(cluster: &Cluster, state: &State) -> Answer {
    let view = cluster.view();
    if view.term.is_none() {
        return Answer::failed(Exit::Usage, view.refusal_of_follower());
    }
    if !view
        .members
        .iter()
        .any(|member| member.is_alive && !member.is_self)
    {
        return Answer::failed(
            Exit::TryLater,
            "no other member is alive, so this member remains the leader; start another member first",
        );
    }
    info!(
        cluster = cluster.name(),
        reason = "requested",
        "handing the leadership over"
    );
    let mut members = cluster.membership().members();
    let other_leader = |members: &Vec<MemberState>| {
        let leads = |member: &&MemberState| member.is_alive && member.term.is_some() && !member.is_self;
        members.iter().find(leads).map(|leader| leader.name.clone())
    };
    let hand_over = async {
        resign(cluster, state).await;
        let members = members.wait_for(|members| other_leader(members).is_some()).await;
        members.ok().and_then(|members| other_leader(&members))
    };
    match timeout(HAND_OVER_LIMIT, hand_over).await.ok().flatten() {
        Some(leader) => Answer {
            exit: Exit::Ok.code(),
            text: format!("\"{leader}\" leads\n"),
        },
        None => Answer::failed(
            Exit::TryLater,
            "no other member has taken over in time; run neurobridge cluster to check again",
        ),
    }
}

/// Releases the lease. With a cold standby, closes the connections to the feeds first, because the next leader opens its own.
async fn resign(cluster: &Cluster, state: &State) {
    // The guard is dropped also when the hand-over is cancelled.
    let _step_down = cluster.cold().map(StepDown);
    if let Some(cold) = cluster.cold() {
        standby::step_down(cold, state).await;
    }
    cluster.membership().resign().await;
}

/// A guard for the hand-over of a member with a cold standby: its sources stay closed until the guard is dropped.
struct StepDown<'a>(&'a ColdStandby);

impl Drop for StepDown<'_> {
    fn drop(&mut self) {
        self.0.end_step_down();
    }
}
