//! The types of a `/status` response. A missing key or a value of another type is an error.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A response of `/status`, with the keys that tests read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Seconds since the start.
    pub uptime_seconds: f64,
    /// Whether events are being lost.
    pub losing_events: Losing,
    /// The sources by name.
    pub sources: BTreeMap<String, Source>,
    /// The spool.
    pub spool: Spool,
    /// The sinks by name.
    pub sinks: BTreeMap<String, Sink>,
    /// The membership in a cluster; `None` for a bridge outside of a cluster.
    pub cluster: Option<Cluster>,
}

/// The membership in a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// The name of this member.
    pub member: String,
    /// `leader` or `follower`.
    pub role: String,
    /// The number of this member's leadership; `None` for a follower.
    pub term: Option<u64>,
    /// The number of times since the start that this member became the leader.
    pub takeovers: u64,
    /// The state of the membership: `joining`, `joined`, `unreachable` or `refused`.
    pub join_state: String,
    /// The reason of `unreachable` or `refused`.
    pub reason: Option<String>,
    /// The members that this member knows.
    pub members: Vec<ClusterMember>,
}

/// A member of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterMember {
    /// The name of the member.
    pub name: String,
    /// Whether the member has shown within the `ttl` of the lease that it runs.
    pub alive: bool,
    /// The number of the leadership that the member claims; `None` for a follower.
    pub term: Option<u64>,
    /// The number of events without an outcome in the sink that has the most of them; `None` if it is unknown.
    pub lag_events: Option<u64>,
}

/// Whether events are being lost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Losing {
    /// `no`, `at_risk` or `yes`.
    pub answer: String,
    /// The reasons, with the most severe one first.
    pub because: Vec<String>,
}

/// A source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// The state of the source.
    pub state: SourceState,
    /// The reason why the source is not connected or does not read.
    pub reason: Option<String>,
    /// The number of connections since the start.
    pub connections: u64,
    /// The latest error that the platform reported.
    pub last_platform_error: Option<String>,
    /// The number of gaps, which are times without an authenticated connection.
    pub gaps: u64,
    /// The latest dead letters.
    pub newest_dead_letters: Vec<Value>,
    /// The ledger of the source's events.
    pub ledger: SourceLedger,
}

/// The state of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names are those of `/status`")]
pub enum SourceState {
    Dialling,
    Opening,
    Authenticated,
    Blocked,
    Waiting,
    Refused,
    Standby,
}

/// The ledger of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of the ledger")]
pub struct SourceLedger {
    pub received: u64,
    pub stored: u64,
    pub filtered: u64,
    pub duplicate: u64,
    pub dead_lettered: u64,
    pub in_flight: u64,
}

/// The spool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spool {
    /// The sequence up to which events are durable.
    pub durable_sequence: u64,
    /// The size of the log in bytes.
    pub size_bytes: u64,
    /// The value of the metric `neurobridge_spool_pending_bytes`.
    pub pending_bytes: u64,
    /// The configured limit of the log in bytes.
    pub limit_bytes: u64,
    /// Whether appends wait for free space.
    pub is_full: bool,
    /// Whether the disk has failed permanently.
    pub has_failed: bool,
}

/// A sink.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sink {
    /// The state of the sink.
    pub state: SinkState,
    /// The reason why the sink does not deliver.
    pub reason: Option<String>,
    /// The time of the last change of the state.
    pub since: String,
    /// A notice for the operator of a sink that delivers.
    pub notice: Option<String>,
    /// The number of stored events that are not settled.
    pub lag_events: u64,
    /// The age in seconds of the oldest event that is not settled.
    pub lag_seconds: f64,
    /// The number of events without an outcome.
    pub in_flight: u64,
    /// The number of events that were published again.
    pub resent: u64,
    /// The number of clients that were replaced.
    pub client_replacements: u64,
    /// The number of messages of other members that were discarded before their events were received.
    pub discarded_messages: u64,
    /// The number of events that were published after takeovers and that the former leader may have had in flight.
    pub possible_duplicates: u64,
    /// The time from receipt to acknowledgement.
    pub latency: Value,
    /// The latest dead letters.
    pub newest_dead_letters: Vec<Value>,
    /// The ledger of the sink's events.
    pub ledger: SinkLedger,
}

/// The state of a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names are those of `/status`")]
pub enum SinkState {
    Connecting,
    Up,
    Down,
    Draining,
}

/// The ledger of a sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of the ledger")]
pub struct SinkLedger {
    pub stored: u64,
    pub delivered: u64,
    pub filtered: u64,
    pub duplicate: u64,
    pub dead_lettered: u64,
    pub dropped: u64,
    pub damaged: u64,
    pub pending: u64,
}

impl SinkLedger {
    /// Returns the number of events with a final result.
    pub const fn settled(&self) -> u64 {
        self.delivered + self.filtered + self.duplicate + self.dead_lettered + self.dropped + self.damaged
    }
}

impl Status {
    /// Parses a response of `/status`.
    ///
    /// # Errors
    /// Returns an error if a key is missing or has another type, or if a ledger does not balance.
    pub fn read(json: &str) -> Result<Self> {
        let status: Self = serde_json::from_str(json)?;
        status.check_ledgers()?;
        Ok(status)
    }

    /// Returns the source with this name.
    #[track_caller]
    pub fn source(&self, name: &str) -> &Source {
        let source = self.sources.get(name);
        source.unwrap_or_else(|| panic!("no source {name} in {self}"))
    }

    /// Returns the sink with this name.
    #[track_caller]
    pub fn sink(&self, name: &str) -> &Sink {
        let sink = self.sinks.get(name);
        sink.unwrap_or_else(|| panic!("no sink {name} in {self}"))
    }

    /// Returns the number of events that the sink with this name has delivered.
    #[track_caller]
    pub fn delivered(&self, sink: &str) -> u64 {
        self.sink(sink).ledger.delivered
    }

    /// Returns whether the bridge with this status is the leader of its cluster.
    pub fn leads(&self) -> bool {
        self.cluster
            .as_ref()
            .is_some_and(|cluster| cluster.role == "leader")
    }

    /// Checks that all ledgers balance, as they must in every response of `/status`.
    fn check_ledgers(&self) -> Result<()> {
        for (name, source) in &self.sources {
            let ledger = &source.ledger;
            let parts =
                ledger.stored + ledger.filtered + ledger.duplicate + ledger.dead_lettered + ledger.in_flight;
            ensure!(
                ledger.received == parts,
                "the ledger of source {name} does not balance: {ledger:?}"
            );
        }
        for (name, sink) in &self.sinks {
            let ledger = &sink.ledger;
            ensure!(
                ledger.stored == ledger.settled() + ledger.pending,
                "the ledger of sink {name} does not balance: {ledger:?}"
            );
        }
        Ok(())
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string_pretty(self).map_err(|_| fmt::Error)?)
    }
}

/// Example responses for tests of code that reads them.
pub mod examples {
    use super::*;

    /// Returns a response with these sinks: name, delivered events, pending events.
    pub fn status<const N: usize>(sinks: [(&str, u64, u64); N]) -> Status {
        Status {
            uptime_seconds: 1.0,
            losing_events: Losing {
                answer: "no".to_owned(),
                because: Vec::new(),
            },
            sources: BTreeMap::new(),
            spool: Spool {
                durable_sequence: 0,
                size_bytes: 0,
                pending_bytes: 0,
                limit_bytes: 0,
                is_full: false,
                has_failed: false,
            },
            cluster: None,
            sinks: sinks
                .map(|(name, delivered, pending)| (name.to_owned(), sink(delivered, pending)))
                .into(),
        }
    }

    /// Returns a sink that is up.
    pub fn sink(delivered: u64, pending: u64) -> Sink {
        Sink {
            state: SinkState::Up,
            reason: None,
            since: String::new(),
            notice: None,
            lag_events: pending,
            lag_seconds: 0.0,
            in_flight: 0,
            resent: 0,
            client_replacements: 0,
            discarded_messages: 0,
            possible_duplicates: 0,
            latency: Value::Null,
            newest_dead_letters: Vec::new(),
            ledger: SinkLedger {
                stored: delivered + pending,
                delivered,
                filtered: 0,
                duplicate: 0,
                dead_lettered: 0,
                dropped: 0,
                damaged: 0,
                pending,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unbalanced_ledger_or_missing_key_is_an_error() {
        let mut status = examples::status([("nats", 5, 2)]);
        assert_eq!(Status::read(&status.to_string()).unwrap(), status);
        if let Some(sink) = status.sinks.get_mut("nats") {
            sink.ledger.stored += 1;
        }
        let error = Status::read(&status.to_string()).unwrap_err().to_string();
        assert!(error.contains("nats does not balance"), "{error}");
        let renamed = examples::status([]).to_string().replace("is_full", "full");
        assert!(Status::read(&renamed).is_err());
    }
}
