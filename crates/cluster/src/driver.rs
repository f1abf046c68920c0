//! The task of a member with a lease in NATS: performs the steps of the lease (`machine`) and of the member's own state
//! (`presence`), one request at a time.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use neurobridge_core::sink::{FaultKind, SinkFault};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    machine::{Entry, Machine, Refusal, Step, Stored},
    members::Members,
    membership::Resign,
    presence::{self, Presence},
    record::{self, Identity},
    role::{JoinState, Role},
    settled::{self, Settled},
    shared::Shared,
    store::{Engine, LEASE, Store, Value, Written, member_key},
};

/// A member that has released the lease does not take it again for this many ttls, unless no other member is alive.
const REST: u32 = 2;

/// The delay before the lease is read again if a read after a notice has found no change: a notice may arrive before the new
/// value can be read. The delay doubles up to the interval of reads.
const FIRST_REREAD: Duration = Duration::from_millis(10);

/// The task of a member.
pub(crate) struct Driver<E> {
    pub(crate) engine: E,
    pub(crate) me: Identity,
    pub(crate) cluster: String,
    pub(crate) ttl: Duration,
    pub(crate) shared: Arc<Shared>,
    pub(crate) stop: CancellationToken,
    pub(crate) resignations: mpsc::Receiver<Resign>,
}

impl<E: Engine> Driver<E> {
    /// Runs until `stop` is cancelled and the lease is released, but after `stop` for at most half the ttl.
    pub(crate) async fn run(mut self) {
        let mut state = State {
            machine: Machine::new(self.me.clone(), self.ttl),
            presence: Presence::new(self.me.clone(), self.ttl),
            members: Members::default(),
            list_at: Instant::now(),
            lease_at: None,
            reread_after: None,
            reread_at: None,
            settled: BTreeMap::new(),
            is_stopping: false,
            resigning: Vec::new(),
        };
        let stop = self.stop.clone();
        let grace = self.ttl / 2;
        tokio::select! {
            biased;
            () = self.sessions(&mut state) => {}
            // A stop does not wait for an engine that does not answer: the lease expires.
            () = async { stop.cancelled().await; sleep(grace).await } => {
                warn!(
                    cluster = self.cluster,
                    reason = "no answer from NATS",
                    "lease not released; another member can lead only after the lease has expired"
                );
            }
        }
        self.shared.set_role(Role::Follower);
    }

    /// Opens a connection after each fault, until the member has left.
    async fn sessions(&mut self, state: &mut State) {
        let mut shown = None;
        loop {
            let Err(fault) = self.session(state).await else {
                return;
            };
            let reason = reason_of(&fault);
            if shown.as_ref() != Some(&reason) {
                warn!(
                    cluster = self.cluster,
                    reason,
                    "lease unreachable; retrying; without it this member cannot become or remain the leader"
                );
                shown = Some(reason.clone());
            }
            self.shared.set_join_state(JoinState::Unreachable(reason));
            if state.is_stopping || self.stop.is_cancelled() {
                return;
            }
            tokio::select! {
                // Several attempts within the ttl, and no busy loop while the engine does not answer.
                () = sleep(self.ttl / 10) => {}
                () = self.stop.cancelled() => {}
            }
        }
    }

    /// Performs steps over one connection. Returns when the member has left.
    async fn session(&mut self, state: &mut State) -> Result<(), SinkFault> {
        let mut store = self.engine.connect(self.ttl).await?;
        state.machine.read_next();
        state.presence.read_next();
        loop {
            self.take_requests(state);
            self.publish(state);
            if state.is_stopping && state.presence.has_left() && !state.machine.is_resigning() {
                return Ok(());
            }
            let now = Instant::now();
            if state.reread_at.take_if(|at| now >= *at).is_some() {
                state.machine.read_next();
            }
            // The lease comes first: nothing may delay its renewal or release.
            let until = match state.machine.next(now) {
                Step::Wait(until) => state.reread_at.map_or(until, |at| until.min(at)),
                step => {
                    self.perform(&mut store, state, step).await?;
                    continue;
                }
            };
            let term = state.machine.leadership(now).map(|leadership| leadership.term);
            let until = match state.presence.next(now, term, &self.shared) {
                presence::Step::Wait(next) => until.min(next),
                step => {
                    self.perform_presence(&mut store, state, step).await?;
                    continue;
                }
            };
            if now >= state.list_at {
                self.list(&mut store, state).await?;
                continue;
            }
            tokio::select! {
                () = sleep_until(until.min(state.list_at)) => {}
                changed = store.changed() => {
                    changed?;
                    // A leader notices the loss of its lease at the next renewal.
                    if state.machine.leadership(Instant::now()).is_none() {
                        state.machine.read_next();
                        state.reread_after = Some(FIRST_REREAD);
                    }
                }
                // With a cold standby, a new leader connects its sources only after this renewal: see `settled_stored`.
                () = self.shared.wait_for_unstored_settled(), if term.is_some() => state.machine.renew_next(),
                Some(resign) = self.resignations.recv() => state.resign(resign, Instant::now() + self.ttl * REST),
                () = self.stop.cancelled(), if !state.is_stopping => {}
            }
        }
    }

    fn take_requests(&mut self, state: &mut State) {
        while let Ok(resign) = self.resignations.try_recv() {
            state.resign(resign, Instant::now() + self.ttl * REST);
        }
        if self.stop.is_cancelled() && !state.is_stopping {
            state.is_stopping = true;
            state.machine.resign(Instant::now() + self.ttl * REST);
            state.presence.leave();
        }
        if state.presence.is_taken() && !state.machine.is_resigning() {
            state.machine.resign(Instant::now());
        }
        state
            .machine
            .allow(state.presence.is_joined() && !state.is_stopping);
        if !state.machine.is_resigning() {
            state.resigning.drain(..).for_each(|resign| {
                // The caller may have stopped waiting.
                let _ = resign.send(());
            });
        }
    }

    async fn perform(&self, store: &mut E::Store, state: &mut State, step: Step) -> Result<(), SinkFault> {
        match step {
            Step::Read => {
                let sent = Instant::now();
                let value = self.limited(store.read(LEASE)).await?;
                let entry = entry(value);
                state.plan_reread(entry.revision, state.machine.interval());
                state.observe_settled(&entry, sent, &self.shared);
                state.machine.observe(entry, Instant::now());
            }
            Step::Write { expected, mut record } => {
                let sent = Instant::now();
                let own_settled = self.shared.own_settled();
                record.settled = settled::records(&state.settled, &own_settled, sent);
                let bytes = record::encode(&record);
                let written = self.limited(store.write(LEASE, expected, Some(bytes))).await;
                match written {
                    Ok(Written::Stored(revision)) => {
                        state.lease_at = Some((revision, sent));
                        self.shared.set_stored_settled(own_settled);
                        state.machine.written(record, revision, sent, Instant::now());
                    }
                    Ok(Written::Conflict) => state.machine.read_next(),
                    Err(fault) => return Err(fault),
                }
            }
            Step::Wait(_) => {}
        }
        Ok(())
    }

    async fn perform_presence(
        &self,
        store: &mut E::Store,
        state: &mut State,
        step: presence::Step,
    ) -> Result<(), SinkFault> {
        let key = member_key(&self.me.member);
        let (expected, bytes) = match step {
            presence::Step::Read => {
                let value = self.limited(store.read(&key)).await?;
                let owner = value.bytes.as_deref().and_then(record::member);
                let owner = owner.as_ref().map(|record| record.instance.as_str());
                state.presence.observe(&value, owner, Instant::now());
                return Ok(());
            }
            presence::Step::Write { expected, record } => (expected, Some(record::encode(&record))),
            presence::Step::Delete { expected } => (expected, None),
            presence::Step::Wait(_) => return Ok(()),
        };
        match self.limited(store.write(&key, expected, bytes)).await? {
            Written::Stored(revision) => state.presence.written(revision, Instant::now()),
            Written::Conflict => state.presence.read_next(),
        }
        Ok(())
    }

    /// Reads the states of all members. A leader removes one state that has not changed for long.
    async fn list(&self, store: &mut E::Store, state: &mut State) -> Result<(), SinkFault> {
        let values = self.limited(store.members()).await?;
        let now = Instant::now();
        state.list_at = now + state.machine.interval() * 2;
        state.members.observe(&values, now);
        let states = state.members.states(&self.me.instance, self.ttl, now);
        if !states.iter().any(|member| member.is_alive && !member.is_self) {
            state.machine.end_rest();
        }
        self.shared.set_members(states);
        if state.machine.leadership(now).is_some()
            && let Some((name, revision)) = state.members.expired(now)
        {
            info!(
                cluster = self.cluster,
                member = name,
                "state of a former member removed"
            );
            self.limited(store.write(&member_key(&name), revision, None))
                .await?;
        }
        Ok(())
    }

    /// Limits the time of a request, so that a silent server is noticed before the lease ends.
    async fn limited<T>(&self, request: impl Future<Output = Result<T, SinkFault>>) -> Result<T, SinkFault> {
        let limit = self.ttl / 5;
        timeout(limit, request).await.unwrap_or_else(|_| {
            Err(SinkFault::new(
                FaultKind::Timeout,
                format!(
                    "no answer to a request for the lease of the cluster within {}; check the servers of \
                     cluster.lease and the network",
                    neurobridge_core::units::format_duration(limit)
                ),
            ))
        })
    }

    fn publish(&self, state: &State) {
        let join_state = if state.presence.is_taken() {
            JoinState::Refused(format!(
                "found another process with the member name \"{}\" in the cluster \"{}\", expected a different name for each \
                 member; set another cluster.member",
                self.me.member, self.cluster
            ))
        } else if let Some(refusal) = state.machine.refusal() {
            self.refused(&refusal)
        } else if state.presence.is_joined() {
            JoinState::Joined
        } else {
            JoinState::Joining
        };
        self.shared.set_join_state(join_state);
        let leadership = state.machine.leadership(Instant::now());
        self.shared
            .set_role(leadership.map_or(Role::Follower, Role::Leader));
    }

    fn refused(&self, refusal: &Refusal) -> JoinState {
        match refusal {
            Refusal::Foreign(found) => JoinState::Refused(format!(
                "found {found} as the lease of the cluster \"{}\", expected a lease of neurobridge; delete the key \
                 \"{}.{LEASE}\" from the bucket, or use another cluster.name or bucket",
                self.cluster, self.cluster
            )),
            Refusal::OtherConfiguration(leader) => JoinState::OtherConfiguration(format!(
                "the leader \"{leader}\" of the cluster \"{}\" has another configuration, expected the same sources, sinks and \
                 redaction; apply the same configuration to all members: this member leads after the leader hands over",
                self.cluster
            )),
        }
    }
}

/// The state of a member that survives its connections.
struct State {
    machine: Machine,
    presence: Presence,
    members: Members,
    /// The time of the next list of members.
    list_at: Instant,
    /// The revision of the lease in the last answer, and an instant before the request.
    lease_at: Option<(u64, Instant)>,
    /// The delay before the lease is read again if it has not changed since a notice; `None` without a notice.
    reread_after: Option<Duration>,
    reread_at: Option<Instant>,
    /// The settled positions in the last lease of another process.
    settled: BTreeMap<String, Settled>,
    is_stopping: bool,
    resigning: Vec<Resign>,
}

impl State {
    fn resign(&mut self, resign: Resign, rests_until: Instant) {
        self.machine.resign(rests_until);
        self.resigning.push(resign);
    }

    /// Plans to read the lease again if it has not changed since a notice. `revision`: the revision that was read.
    fn plan_reread(&mut self, revision: u64, interval: Duration) {
        if self.lease_at.is_none_or(|(before, _)| before != revision) {
            self.reread_after = None;
        }
        self.reread_at = self.reread_after.map(|delay| Instant::now() + delay);
        self.reread_after = self
            .reread_after
            .map(|delay| delay * 2)
            .filter(|delay| *delay < interval);
    }

    /// Stores the settled positions of a lease that was read. `sent`: an instant before the request.
    fn observe_settled(&mut self, entry: &Entry, sent: Instant, shared: &Shared) {
        // At `before` the store had another revision, so this value was written later.
        let before = self.lease_at.replace((entry.revision, sent));
        if before.is_some_and(|(revision, _)| revision == entry.revision) {
            return;
        }
        if let Stored::Lease(record) = &entry.stored
            && !record.settled.is_empty()
        {
            let written_after = before.map(|(_, at)| at);
            self.settled = settled::read(record.settled.clone(), written_after);
            shared.set_settled(self.settled.clone());
        }
    }
}

fn entry(value: Value) -> Entry {
    let stored = match value.bytes {
        None => Stored::Nothing,
        Some(bytes) => record::lease(&bytes).map_or_else(Stored::Foreign, Stored::Lease),
    };
    Entry {
        revision: value.revision,
        stored,
    }
}

/// Returns the reason of a fault without the part that concerns only sinks.
fn reason_of(fault: &SinkFault) -> String {
    let reason = fault.reason.as_str();
    reason
        .strip_suffix("; unacknowledged events are sent again")
        .unwrap_or(reason)
        .to_owned()
}

#[cfg(test)]
mod tests;
