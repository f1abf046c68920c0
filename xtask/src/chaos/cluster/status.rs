//! The role, the pending events and the lag of a member of a cluster, as `/status` reports them.

use std::fmt;

use anyhow::{Context, Result, bail};
use neurobridge_tests::status::{SourceState, Status};

/// The role of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Leader,
    Follower,
}

/// A response of a member, with its membership.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: Status,
    pub(super) membership: Membership,
}

/// The membership that a response states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Membership {
    pub(super) role: Role,
    term: Option<u64>,
    join_state: Option<String>,
}

impl Answer {
    /// Parses a response. A bridge without a cluster counts as the leader.
    ///
    /// # Errors
    /// Returns an error if the response is not a status, or has an unknown role.
    pub(super) fn read(json: &str) -> Result<Self> {
        let status = Status::read(json).context("reading /status")?;
        let membership = match &status.cluster {
            None => Membership {
                role: Role::Leader,
                term: None,
                join_state: None,
            },
            Some(cluster) => Membership {
                role: match cluster.role.as_str() {
                    "leader" => Role::Leader,
                    "follower" => Role::Follower,
                    other => bail!("unknown role in /status: {other}; expected leader or follower"),
                },
                term: cluster.term,
                join_state: Some(cluster.join_state.clone()),
            },
        };
        Ok(Self { status, membership })
    }

    /// Returns whether every source receives events.
    pub(super) fn is_authenticated(&self) -> bool {
        let mut sources = self.status.sources.values();
        sources.all(|source| source.state == SourceState::Authenticated)
    }

    /// Returns the number of events without an outcome in the sink that has the most of them.
    pub(super) fn pending(&self) -> u64 {
        let pending = self.status.sinks.values().map(|sink| sink.ledger.pending);
        pending.max().unwrap_or_default()
    }

    /// Returns the age in seconds of the oldest event without an outcome.
    pub(super) fn lag(&self) -> f64 {
        let lags = self.status.sinks.values().map(|sink| sink.lag_seconds);
        lags.fold(0.0, f64::max)
    }
}

#[cfg(test)]
impl Membership {
    /// Returns a membership for tests.
    pub(super) const fn of(role: Role) -> Self {
        Self {
            role,
            term: None,
            join_state: None,
        }
    }
}

impl fmt::Display for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.role {
            Role::Leader => "leader",
            Role::Follower => "follower",
        })?;
        if let Some(term) = self.term {
            write!(f, ", term {term}")?;
        }
        match &self.join_state {
            Some(state) => write!(f, ", {state}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use neurobridge_tests::status::{Cluster, examples};

    use super::*;

    fn read(role: Option<&str>) -> Result<Answer> {
        let mut status = examples::status([("kafka", 5, 2), ("nats", 6, 1)]);
        status.cluster = role.map(|role| Cluster {
            member: "a".to_owned(),
            role: role.to_owned(),
            term: Some(7),
            takeovers: 1,
            join_state: "joined".to_owned(),
            reason: None,
            members: Vec::new(),
        });
        Answer::read(&status.to_string())
    }

    #[test]
    fn role_term_and_pending_events_are_read_from_status() {
        let answer = read(Some("follower")).unwrap();
        assert_eq!(answer.membership.role, Role::Follower);
        assert_eq!(answer.membership.to_string(), "follower, term 7, joined");
        assert_eq!(answer.pending(), 2);
        assert_eq!(read(None).unwrap().membership.to_string(), "leader");
        assert!(read(Some("boss")).is_err());
    }
}
