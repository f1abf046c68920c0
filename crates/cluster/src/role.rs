//! The role of a member, and what the members know of each other.

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
    /// Returns whether the leadership has not expired. A process that was stopped finds an expired leadership when it continues.
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
    /// The member must not lead. Contains the reason: another process has its name, the leader has another configuration, or the
    /// lease is not one of neurobridge.
    Refused(String),
}

/// A member of the cluster as seen by this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberState {
    /// The name.
    pub name: String,
    /// The random id of the process.
    pub instance: String,
    /// The hash of the member's configuration.
    pub config_hash: String,
    /// The term of the leadership that the member claims.
    pub term: Option<u64>,
    /// The number of events in the member's log that are not known to be in all destinations.
    pub lag: Option<u64>,
    /// The last time at which a change of the member's state was seen, by the local monotonic clock.
    pub last_seen: Instant,
    /// Whether the member has shown a sign of life within the time of the lease.
    pub is_alive: bool,
    /// Whether this is the own state.
    pub is_self: bool,
}
