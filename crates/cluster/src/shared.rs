//! The state that the task of a member publishes to the rest of the program: role, join state, members, settled positions.

use std::collections::BTreeMap;

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

use crate::{
    role::{JoinState, MemberReport, MemberState, Role},
    settled::Settled,
};

/// The published state of a member.
#[derive(Debug)]
pub(crate) struct Shared {
    cluster: String,
    role: watch::Sender<Role>,
    join_state: watch::Sender<JoinState>,
    members: watch::Sender<Vec<MemberState>>,
    report: watch::Sender<Option<MemberReport>>,
    /// The settled positions in the last lease of another process.
    settled: watch::Sender<BTreeMap<String, Settled>>,
    /// The settled positions that this member determined while it led.
    own_settled: watch::Sender<BTreeMap<String, Settled>>,
    /// The value of `own_settled` with which this member wrote its last lease.
    stored_settled: watch::Sender<BTreeMap<String, Settled>>,
}

impl Shared {
    pub(crate) fn new(cluster: &str) -> Self {
        Self {
            cluster: cluster.to_owned(),
            role: watch::Sender::new(Role::Follower),
            join_state: watch::Sender::new(JoinState::Joining),
            members: watch::Sender::default(),
            report: watch::Sender::default(),
            settled: watch::Sender::default(),
            own_settled: watch::Sender::default(),
            stored_settled: watch::Sender::default(),
        }
    }

    pub(crate) fn role(&self) -> watch::Receiver<Role> {
        self.role.subscribe()
    }

    pub(crate) fn join_state(&self) -> watch::Receiver<JoinState> {
        self.join_state.subscribe()
    }

    pub(crate) fn members(&self) -> watch::Receiver<Vec<MemberState>> {
        self.members.subscribe()
    }

    #[cfg(feature = "nats")]
    pub(crate) fn report(&self) -> Option<MemberReport> {
        self.report.borrow().clone()
    }

    pub(crate) fn settled(&self) -> watch::Receiver<BTreeMap<String, Settled>> {
        self.settled.subscribe()
    }

    #[cfg(feature = "nats")]
    pub(crate) fn set_settled(&self, settled: BTreeMap<String, Settled>) {
        self.settled.send_replace(settled);
    }

    #[cfg(feature = "nats")]
    pub(crate) fn own_settled(&self) -> BTreeMap<String, Settled> {
        self.own_settled.borrow().clone()
    }

    pub(crate) fn stored_settled(&self) -> watch::Receiver<BTreeMap<String, Settled>> {
        self.stored_settled.subscribe()
    }

    /// Waits until `own_settled` has a source that `stored_settled` does not have.
    #[cfg(feature = "nats")]
    pub(crate) async fn wait_for_unstored_settled(&self) {
        let mut own = self.own_settled.subscribe();
        let is_unstored = |own: &BTreeMap<String, Settled>| {
            let stored = self.stored_settled.borrow();
            own.keys().any(|source| !stored.contains_key(source))
        };
        // Fails only after the sender was dropped, which `self` owns.
        let _ = own.wait_for(is_unstored).await;
    }

    #[cfg(feature = "nats")]
    pub(crate) fn set_stored_settled(&self, settled: BTreeMap<String, Settled>) {
        self.stored_settled.send_replace(settled);
    }

    pub(crate) fn set_own_settled(&self, settled: BTreeMap<String, Settled>) {
        self.own_settled.send_replace(settled);
    }

    pub(crate) fn set_report(&self, report: MemberReport) {
        self.report.send_replace(Some(report));
    }

    /// Publishes the role, and logs a change of the leadership.
    pub(crate) fn set_role(&self, role: Role) {
        let term = |role: &Role| match role {
            Role::Leader(leadership) => Some(leadership.term),
            Role::Follower => None,
        };
        self.role.send_if_modified(|current| {
            match (term(current), term(&role)) {
                (before, Some(now)) if before != Some(now) => {
                    info!(
                        cluster = self.cluster,
                        term = now,
                        "leadership acquired; this member begins to publish"
                    );
                }
                (Some(before), None) => info!(
                    cluster = self.cluster,
                    term = before,
                    "leadership ended; this member stops publishing"
                ),
                _ => {}
            }
            let is_changed = *current != role;
            *current = role;
            is_changed
        });
    }

    /// Publishes whether the member has joined, and logs a change.
    pub(crate) fn set_join_state(&self, join_state: JoinState) {
        self.join_state.send_if_modified(|current| {
            if *current == join_state {
                return false;
            }
            match &join_state {
                JoinState::OtherConfiguration(reason) | JoinState::Refused(reason) => {
                    warn!(
                        cluster = self.cluster,
                        reason,
                        "membership refused; retrying; this member does not lead until it is accepted"
                    )
                }
                JoinState::Joined => info!(cluster = self.cluster, "joined the cluster"),
                JoinState::Joining | JoinState::Unreachable(_) => {}
            }
            *current = join_state;
            true
        });
    }

    pub(crate) fn set_members(&self, members: Vec<MemberState>) {
        self.members.send_if_modified(|current| {
            let is_changed = *current != members;
            *current = members;
            is_changed
        });
    }

    /// Makes the member a follower when its leadership expires, whatever its task waits for. Never returns.
    pub(crate) async fn expire(&self) {
        let mut roles = self.role();
        loop {
            let role = *roles.borrow_and_update();
            let Role::Leader(leadership) = role else {
                // Fails only after the sender was dropped, which `self` owns.
                let _ = roles.changed().await;
                continue;
            };
            tokio::select! {
                biased;
                _ = roles.changed() => {}
                () = sleep_until(leadership.valid_until) => self.expired(leadership.valid_until),
            }
        }
    }

    fn expired(&self, valid_until: Instant) {
        let has_expired = self.role.send_if_modified(|current| {
            let has_expired =
                matches!(current, Role::Leader(leadership) if leadership.valid_until <= valid_until);
            if has_expired {
                *current = Role::Follower;
            }
            has_expired
        });
        if has_expired {
            warn!(
                cluster = self.cluster,
                "leadership expired: the lease could not be renewed; this member publishes nothing until it leads again"
            );
        }
    }
}
