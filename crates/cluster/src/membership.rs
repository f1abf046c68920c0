//! [`Membership`], the handle of this process's membership in a cluster.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use neurobridge_core::lead::Lead;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

#[cfg(feature = "kafka")]
use crate::kafka::GroupDriver;
use crate::{
    config::{ClusterConfig, LeaseConfig},
    record::Identity,
    role::{JoinState, MemberReport, MemberState, Role},
    settled::Settled,
    shared::Shared,
};
#[cfg(feature = "nats")]
use crate::{driver::Driver, nats::NatsEngine, store::Engine};

/// A request to give the leadership up. The task of the member sends a value once the lease is released, or at once if it
/// holds none.
pub(crate) type Resign = oneshot::Sender<()>;

/// The largest number of waiting requests to give the leadership up.
const MAX_REQUESTS: usize = 4;

/// A membership in a cluster. Its task ends after `stop` of [`join`](Self::join) is cancelled, and not when the membership is
/// dropped.
#[derive(Clone, Debug)]
pub struct Membership {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Resign>,
    ended: CancellationToken,
    ttl: Duration,
}

impl Membership {
    /// Joins a cluster as `member` with a task that runs until `stop` is cancelled: the task then releases the lease and
    /// removes the member, so a leader has to cancel `stop` after its last message. All faults are reported in
    /// [`join_state`](Self::join_state).
    ///
    /// `config_hash`: a hash that is equal for members that publish the same events to the same destinations.
    ///
    /// # Panics
    /// Panics outside of a tokio runtime.
    pub fn join(config: &ClusterConfig, member: &str, config_hash: &str, stop: CancellationToken) -> Self {
        let identity = Identity {
            member: member.to_owned(),
            instance: Uuid::now_v7().to_string(),
            config: config_hash.to_owned(),
        };
        match config.lease {
            #[cfg(feature = "kafka")]
            LeaseConfig::Kafka(ref lease) => Self::start_group(lease.clone(), identity, &config.name, stop),
            #[cfg(feature = "nats")]
            LeaseConfig::Nats(ref lease) => {
                let engine = NatsEngine::new(lease.clone(), config.name.clone(), member.to_owned());
                let (membership, task) = Self::start(engine, identity, &config.name, lease.ttl, stop);
                tokio::spawn(task);
                membership
            }
        }
    }

    /// Starts the thread of a member of a consumer group.
    #[cfg(feature = "kafka")]
    fn start_group(
        lease: crate::config::KafkaLease,
        me: Identity,
        cluster: &str,
        stop: CancellationToken,
    ) -> Self {
        let ttl = lease.ttl;
        let (membership, resignations) = Self::new(cluster, ttl);
        let driver = GroupDriver {
            lease,
            me,
            cluster: cluster.to_owned(),
            shared: Arc::clone(&membership.shared),
            stop: stop.clone(),
            resignations,
        };
        let (has_ended, shared) = (
            membership.ended.clone().drop_guard(),
            Arc::clone(&membership.shared),
        );
        let (done, is_done) = oneshot::channel::<()>();
        // Not a thread of the runtime: the runtime would wait for the thread when it ends, and the client may block for long.
        std::thread::spawn(move || {
            let _done = done;
            driver.run();
        });
        tokio::spawn(async move {
            let _has_ended = has_ended;
            tokio::select! {
                _ = is_done => {}
                () = shared.expire() => {}
                // The time that the driver may take to release the lease.
                () = async { stop.cancelled().await; tokio::time::sleep(ttl / 2).await } => {}
            }
            shared.set_role(Role::Follower);
        });
        membership
    }

    fn new(cluster: &str, ttl: Duration) -> (Self, mpsc::Receiver<Resign>) {
        let (requests, resignations) = mpsc::channel(MAX_REQUESTS);
        let membership = Self {
            shared: Arc::new(Shared::new(cluster)),
            requests,
            ended: CancellationToken::new(),
            ttl,
        };
        (membership, resignations)
    }

    /// Returns a membership with this engine, and its task.
    #[cfg(feature = "nats")]
    pub(crate) fn start<E: Engine>(
        engine: E,
        me: Identity,
        cluster: &str,
        ttl: Duration,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + use<E>) {
        let (membership, resignations) = Self::new(cluster, ttl);
        let shared = Arc::clone(&membership.shared);
        let driver = Driver {
            engine,
            me,
            cluster: cluster.to_owned(),
            ttl,
            shared: Arc::clone(&shared),
            stop,
            resignations,
        };
        let (has_ended, published) = (membership.ended.clone().drop_guard(), shared);
        let task = async move {
            let _has_ended = has_ended;
            tokio::select! {
                () = driver.run() => {}
                () = published.expire() => {}
            }
        };
        (membership, task)
    }

    /// Returns the role, which changes at each renewal too. It becomes [`Role::Follower`] when the leadership expires, but a
    /// process that was stopped may read an expired leadership: see [`Role::leadership`].
    pub fn role(&self) -> watch::Receiver<Role> {
        self.shared.role()
    }

    /// Returns the right to publish, for the sinks of this member: it is held while this member leads.
    ///
    /// # Panics
    /// Panics outside of a tokio runtime.
    pub fn lead(&self) -> Lead {
        let mut role = self.role();
        let lease = watch::Sender::new(valid_until(&role.borrow_and_update()));
        let lead = Lead::new(lease.subscribe());
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = lease.closed() => return,
                    changed = role.changed() => if changed.is_err() {
                        return;
                    },
                }
                lease.send_replace(valid_until(&role.borrow_and_update()));
            }
        });
        lead
    }

    /// Returns the members of the cluster, updated several times within the ttl.
    pub fn members(&self) -> watch::Receiver<Vec<MemberState>> {
        self.shared.members()
    }

    /// Returns the ttl of the lease, within which the other members receive a changed report.
    pub const fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Returns the relation of this member to its cluster.
    pub fn join_state(&self) -> watch::Receiver<JoinState> {
        self.shared.join_state()
    }

    /// Returns the settled position of each source in the last lease of another process. Empty with a lease in Kafka.
    pub fn settled(&self) -> watch::Receiver<BTreeMap<String, Settled>> {
        self.shared.settled()
    }

    /// Sets the settled positions. While this member leads, its lease contains them: at once if `settled` has a new source,
    /// otherwise from the next renewal on. Sources that `settled` does not contain keep the position of the earlier leader.
    pub fn set_settled(&self, settled: BTreeMap<String, Settled>) {
        self.shared.set_own_settled(settled);
    }

    /// Waits until a lease of this member was stored with positions of these sources. Returns at once if an earlier
    /// leadership of this member has stored some.
    pub async fn settled_stored(&self, sources: impl IntoIterator<Item = &String>) {
        let sources: Vec<&String> = sources.into_iter().collect();
        let mut stored = self.shared.stored_settled();
        let contains_all =
            |stored: &BTreeMap<String, Settled>| sources.iter().all(|source| stored.contains_key(*source));
        // Fails only after the sender was dropped, which `self` owns.
        let _ = stored.wait_for(contains_all).await;
    }

    /// Sets the report that is sent to the other members.
    pub fn report(&self, report: MemberReport) {
        self.shared.set_report(report);
    }

    /// Hands the leadership over, so that another member leads at once. This member does not lead again for twice the ttl,
    /// unless no other member is alive. The role changes at once; a destination that cannot refuse an earlier leader may then
    /// store the events in flight twice. Returns when the lease is released, or has expired.
    pub async fn resign(&self) {
        let (done, is_done) = oneshot::channel();
        let request = async {
            if self.requests.send(done).await.is_ok() {
                // An error means that the task has ended, and the leadership with it.
                let _ = is_done.await;
            }
        };
        // If the engine does not answer, the lease has expired after the ttl.
        let _ = timeout(self.ttl, request).await;
    }

    /// Waits until the task has ended, which it does at most half the ttl after `stop` was cancelled.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

fn valid_until(role: &Role) -> Option<Instant> {
    role.leadership().map(|leadership| leadership.valid_until)
}
