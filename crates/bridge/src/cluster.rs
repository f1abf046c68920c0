//! The membership of this bridge in a cluster: bridges that read the same feeds, of which one publishes, the leader.

mod cold;
mod coverage;
mod published;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use jiff::Timestamp;
use neurobridge_cluster::{ClusterConfig, JoinState, MemberState, Membership, Role, Standby};
use neurobridge_core::{
    clock, foreign_text,
    lead::{FOLLOWER_READ_INTERVAL, Lead},
};
use nix::unistd::gethostname;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::AbortOnDropHandle,
};
use tracing::warn;

use self::coverage::{covers, is_proven_after};
use self::published::published_hash;
pub(crate) use self::{cold::ColdStandby, coverage::Coverage};
use crate::{
    config::Config,
    exit::{Exit, Failure},
    table::Table,
};

/// The time limit for leaving the cluster. A lease that is not released by then expires by itself.
const LEAVE_LIMIT: Duration = Duration::from_secs(3);
/// The time after the end of a gap for which a member waits for the proof that another one was connected. After this time, a
/// follower leaves the gap to the leader.
const COVERAGE_LIMIT: Duration = Duration::from_secs(60);

/// The membership of this bridge.
pub(crate) struct Cluster {
    name: String,
    member: String,
    /// The hash of the messages that this member publishes.
    config_hash: String,
    membership: Membership,
    lead: Lead,
    changes: Arc<Changes>,
    /// `None` if the sources of a follower are connected.
    cold: Option<ColdStandby>,
    /// Cancelled when the bridge leaves the cluster.
    stop: CancellationToken,
    _leaves: DropGuard,
    _counting: AbortOnDropHandle<()>,
}

/// The changes of the role since the start.
#[derive(Debug)]
struct Changes {
    takeovers: AtomicU64,
    /// The time of the last change; `None` before the first one.
    last: watch::Sender<Option<Timestamp>>,
    /// The time between two reads of a socket, unless the configured one is longer.
    read_interval: watch::Sender<Duration>,
}

/// The membership at one moment.
#[derive(Clone, Debug)]
pub(crate) struct ClusterView {
    pub(crate) name: String,
    pub(crate) member: String,
    /// The number of the own leadership; `None` for a follower.
    pub(crate) term: Option<u64>,
    pub(crate) join_state: JoinState,
    /// The number of times since the start that this member became the leader.
    pub(crate) takeovers: u64,
    /// The time of the last change of the role.
    pub(crate) role_since: Option<Timestamp>,
    pub(crate) members: Vec<MemberState>,
}

impl Cluster {
    /// Joins the configured cluster. The sinks follow until this member leads.
    ///
    /// # Errors
    /// Returns an error if a key file cannot be read, or the name of the host is not a valid name of a member.
    pub(crate) async fn join(config: &ClusterConfig, bridge: &Config) -> Result<Self, Failure> {
        let host = gethostname().unwrap_or_default();
        let member = config
            .member_on(&host.to_string_lossy())
            .map_err(|message| Failure::message(Exit::Config, format!("cluster.member: {message}")))?;
        let config_hash = published_hash(bridge).await?;
        let stop = CancellationToken::new();
        let membership = Membership::join(config, &member, &config_hash, stop.clone());
        let changes = Arc::new(Changes {
            takeovers: AtomicU64::new(0),
            last: watch::Sender::default(),
            read_interval: watch::Sender::new(FOLLOWER_READ_INTERVAL),
        });
        let lead = membership.lead();
        let counting = tokio::spawn(count(membership.role(), Arc::clone(&changes)));
        Ok(Self {
            name: config.name.clone(),
            member,
            config_hash,
            membership,
            lead,
            changes,
            cold: (config.standby == Standby::Cold).then(ColdStandby::default),
            _leaves: stop.clone().drop_guard(),
            stop,
            _counting: AbortOnDropHandle::new(counting),
        })
    }

    /// Returns whether another configuration publishes the same messages as the one with which this member has joined.
    ///
    /// # Errors
    /// Returns an error if a key file cannot be read.
    pub(crate) async fn publishes_the_same(&self, config: &Config) -> Result<bool, Failure> {
        Ok(published_hash(config).await? == self.config_hash)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the hash of the messages that this member publishes.
    pub(crate) fn config_hash(&self) -> &str {
        &self.config_hash
    }

    pub(crate) const fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Waits until the bridge leaves the cluster.
    pub(crate) async fn left(&self) {
        self.stop.cancelled().await;
    }

    /// Returns the right to publish, for the sinks.
    pub(crate) const fn lead(&self) -> &Lead {
        &self.lead
    }

    /// Returns the standby of the sources; `None` if those of a follower are connected.
    pub(crate) const fn cold(&self) -> Option<&ColdStandby> {
        self.cold.as_ref()
    }

    /// Returns the time between two reads of a socket, unless the configured one is longer.
    pub(crate) fn read_interval(&self) -> watch::Receiver<Duration> {
        self.changes.read_interval.subscribe()
    }

    /// Returns whether the sources are not connected, because this member follows.
    pub(crate) fn stands_by(&self) -> bool {
        self.cold.is_some() && !self.lead.is_held()
    }

    /// Returns the membership at this moment.
    pub(crate) fn view(&self) -> ClusterView {
        let role = *self.membership.role().borrow();
        ClusterView {
            name: self.name.clone(),
            member: self.member.clone(),
            term: role.leadership().map(|leadership| leadership.term),
            join_state: self.membership.join_state().borrow().clone(),
            takeovers: self.changes.takeovers.load(Relaxed),
            role_since: *self.changes.last.borrow(),
            members: self.membership.members().borrow().clone(),
        }
    }

    /// Returns whether another member received the events of a gap.
    pub(crate) fn coverage(&self, source: &str, gap: (Timestamp, Timestamp)) -> Coverage {
        if self.cold.is_some() {
            // With a cold standby, no other member is connected. If this one no longer leads, the new leader fetches the events.
            return if self.lead.is_held() {
                Coverage::NoMember
            } else {
                Coverage::Unknown
            };
        }
        let members = self.membership.members().borrow().clone();
        let now = (clock::now(), Instant::now());
        let age = Duration::try_from(now.0.duration_since(gap.1)).unwrap_or_default();
        let (mut leader, mut is_unknown) = (None, false);
        for member in members
            .iter()
            .filter(|member| member.may_replace(&self.config_hash))
        {
            let leads = member.term.is_some();
            let Some(report) = &member.report else {
                // No report was received, or the lease transports none (Kafka).
                leader = leader.or_else(|| leads.then(|| member.name.clone()));
                continue;
            };
            let Some(connected) = report.connected.get(source) else {
                continue;
            };
            let written = (member.written_after, member.last_seen);
            match covers(connected, written, gap, now) {
                Some(true) => return Coverage::Member(member.name.clone()),
                Some(false) => {}
                None => is_unknown = true,
            }
            // The leader is connected again, so its own gap has ended, and its outcome is or will be recorded.
            if leads && is_proven_after(connected, written, gap.1, now) {
                leader = Some(member.name.clone());
            }
        }
        let is_old = age >= COVERAGE_LIMIT;
        match leader {
            _ if self.lead.is_held() && (is_old || !is_unknown) => Coverage::NoMember,
            Some(leader) if is_old => Coverage::LeftToLeader(leader),
            _ => Coverage::Unknown,
        }
    }

    /// Releases the lease and leaves the cluster, so that another member leads at once.
    pub(crate) async fn leave(&self) {
        self.stop.cancel();
        if timeout(LEAVE_LIMIT, self.membership.ended()).await.is_err() {
            warn!(
                cluster = self.name,
                "lease not released; another member can lead only after the lease has expired"
            );
        }
    }
}

/// Formats the membership for people: the state of this member on a line, then all members in a table.
impl fmt::Display for ClusterView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cluster \"{}\", this member \"{}\": {}",
            self.name,
            self.member,
            self.role()
        )?;
        match self.reason() {
            Some(reason) => writeln!(f, ", {}: {reason}", self.join_state.name())?,
            None => writeln!(f, ", {}", self.join_state.name())?,
        }
        let mut table = Table::new(["member", "role", "alive", "events of lag"]);
        for member in &self.members {
            let lag = member.report.as_ref().map(|report| report.lag_events.to_string());
            table.row([
                foreign_text::clean(&member.name),
                if member.term.is_some() {
                    "leader"
                } else {
                    "follower"
                }
                .to_owned(),
                if member.is_alive { "yes" } else { "no" }.to_owned(),
                lag.unwrap_or_else(|| "unknown".to_owned()),
            ]);
        }
        write!(f, "{table}")
    }
}

impl ClusterView {
    /// Returns whether this member leads, or is known to follow a leader.
    pub(crate) fn has_leader(&self) -> bool {
        let mut members = self.members.iter();
        self.term.is_some() || members.any(|member| member.is_alive && member.term.is_some())
    }

    /// Returns `leader` or `follower`.
    pub(crate) const fn role(&self) -> &'static str {
        match self.term {
            Some(_) => "leader",
            None => "follower",
        }
    }

    /// Returns why a command that only the leader performs is refused, and where to run it.
    pub(crate) fn refusal_of_follower(&self) -> String {
        let mut members = self.members.iter();
        let leader = members.find(|member| member.is_alive && member.term.is_some());
        let leader = leader.map_or_else(
            || "no member leads".to_owned(),
            |leader| format!("run this command on the leader \"{}\"", leader.name),
        );
        format!("\"{}\" is not the leader; {leader}", self.member)
    }

    /// Returns why the member must not or cannot lead.
    pub(crate) fn reason(&self) -> Option<&str> {
        match &self.join_state {
            JoinState::Unreachable(reason)
            | JoinState::OtherConfiguration(reason)
            | JoinState::Refused(reason) => Some(reason),
            JoinState::Joining | JoinState::Joined => None,
        }
    }

    /// Returns why the member cannot take over. A member with another configuration than the leader counts as ready, because a
    /// rolling update changes the leader only after this member is ready.
    pub(crate) fn unready(&self) -> Option<String> {
        match &self.join_state {
            JoinState::Joining => Some("joining the cluster".to_owned()),
            JoinState::Unreachable(reason) => Some(format!("the lease cannot be reached: {reason}")),
            JoinState::Refused(reason) => Some(reason.clone()),
            JoinState::Joined | JoinState::OtherConfiguration(_) => None,
        }
    }
}

/// Counts the takeovers of this member, records the time of each change of the role, and sets the interval of reads.
async fn count(mut role: watch::Receiver<Role>, changes: Arc<Changes>) {
    let mut led = None;
    loop {
        let leadership = role.borrow_and_update().leadership();
        let term = leadership.map(|leadership| leadership.term);
        if term != led {
            changes.takeovers.fetch_add(u64::from(term.is_some()), Relaxed);
            changes.last.send_replace(Some(clock::now()));
            changes.read_interval.send_replace(match term {
                Some(_) => Duration::ZERO,
                None => FOLLOWER_READ_INTERVAL,
            });
            led = term;
        }
        if role.changed().await.is_err() {
            return;
        }
    }
}
