//! The role of a member, and what the members know of each other.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// The role of a member in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Stores events and publishes none.
    Follower,
    /// Publishes events, as long as the leadership is valid.
    Leader(Leadership),
}

/// The leadership of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// The number of this leadership. It grows with each change of the leader.
    pub term: u64,
    /// The end of the leadership unless it is renewed before: the leader has to stop publishing at this instant, because
    /// another member may lead soon after it.
    pub valid_until: Instant,
}

impl Leadership {
    /// Returns whether the leadership has not expired. A process that was stopped finds an expired leadership when it
    /// continues.
    pub fn is_valid(&self) -> bool {
        Instant::now() < self.valid_until
    }
}

impl Role {
    /// Returns the leadership, if it is valid.
    pub fn leadership(&self) -> Option<Leadership> {
        match self {
            Self::Leader(leadership) => Some(*leadership).filter(Leadership::is_valid),
            Self::Follower => None,
        }
    }
}

/// The relation of a member to its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinState {
    /// The engine of the lease has not answered yet, or the name of the member is being checked.
    Joining,
    /// A member, which leads or may lead.
    Joined,
    /// The engine of the lease does not answer. The member does not lead. Contains the reason.
    Unreachable(String),
    /// The leader has another configuration: this member leads after the leader has released the lease, or after a silence of
    /// the leader (with a lease in NATS three times the ttl, in Kafka the ttl). Contains the reason.
    OtherConfiguration(String),
    /// The member must not lead until an operator acts: another process has the name of this member, or another program has
    /// written the lease. Contains the reason.
    Refused(String),
}

impl JoinState {
    /// All names, in the order of the states. The last two states have the same name.
    pub const NAMES: [&'static str; 4] = ["joining", "joined", "unreachable", "refused"];

    /// Returns the name of the state.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Joining => Self::NAMES[0],
            Self::Joined => Self::NAMES[1],
            Self::Unreachable(_) => Self::NAMES[2],
            Self::OtherConfiguration(_) | Self::Refused(_) => Self::NAMES[3],
        }
    }
}

/// The report of a member to the others, written several times within the ttl. A lease in Kafka does not transport it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberReport {
    /// The number of events without an outcome in the sink that has the most of them, among the sinks whose destination all
    /// members share.
    pub lag_events: u64,
    /// The age of the oldest event without an outcome in one of these sinks, in milliseconds.
    pub lag_ms: u64,
    /// The names of the sinks that are up, among the sinks whose destination all members share.
    pub sinks_up: BTreeSet<String>,
    /// The connected sources, by name.
    pub connected: BTreeMap<String, ConnectedFor>,
}

/// How long a source has been connected when a report is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectedFor {
    /// The age of the connection in milliseconds; for several connections without a gap between them, the age of the first one.
    pub since_ms: u64,
    /// The age of the last proof that the connection works, in milliseconds.
    pub proof_ms: u64,
}

/// A member of the cluster as seen by this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberState {
    /// The name of the member.
    pub name: String,
    /// The random id of the process.
    pub instance: String,
    /// The hash of the member's configuration.
    pub config_hash: String,
    /// The term of the leadership that the member claims.
    pub term: Option<u64>,
    /// The last report of the member; `None` before the first report, or if the lease does not transport reports.
    pub report: Option<MemberReport>,
    /// The last time at which a change of the member's state was seen, by the local monotonic clock.
    pub last_seen: Instant,
    /// The local time after which the last change was written; `None` if the change may be of any age.
    pub written_after: Option<Instant>,
    /// Whether a change of the member's state was seen within the ttl. Also true for a ttl after the first read, which may
    /// find the state of a process that has ended. Always true with a lease in Kafka, whose brokers remove silent members
    /// from the group.
    pub is_alive: bool,
    /// Whether this is the own state of this process.
    pub is_self: bool,
}

impl MemberState {
    /// Returns whether this is another member that is alive and has this hash of the configuration, so that it publishes the
    /// same messages.
    pub fn may_replace(&self, config_hash: &str) -> bool {
        self.is_alive && !self.is_self && self.config_hash == config_hash
    }
}
