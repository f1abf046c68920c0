//! The members of the cluster as this one sees them: a bounded list that is derived from successive reads.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::{
    record::{self, MemberRecord},
    role::MemberState,
    store::Value,
};

/// The time after which the leader deletes the state of a member that shows no sign of life.
const EXPIRED_AFTER: Duration = Duration::from_secs(3600);

/// The states of the members by name.
#[derive(Debug, Default)]
pub(crate) struct Members {
    seen: BTreeMap<String, Seen>,
    /// The time of the last read.
    read_at: Option<Instant>,
}

#[derive(Debug)]
struct Seen {
    record: MemberRecord,
    revision: u64,
    since: Instant,
    /// The time of the last read that did not have this value; `None` if the first read had it.
    written_after: Option<Instant>,
}

impl Members {
    /// Replaces the list by what was read.
    pub(crate) fn observe(&mut self, values: &[Value], now: Instant) {
        let read = values.iter().filter_map(|value| {
            let record = record::member(value.bytes.as_deref()?)?;
            Some((record.name.clone(), (record, value.revision)))
        });
        let read: BTreeMap<_, _> = read.collect();
        self.seen.retain(|name, _| read.contains_key(name));
        for (name, (record, revision)) in read {
            let is_known = self.seen.get(&name).is_some_and(|seen| seen.revision == revision);
            if !is_known {
                let seen = Seen {
                    record,
                    revision,
                    since: now,
                    written_after: self.read_at,
                };
                self.seen.insert(name, seen);
            }
        }
        self.read_at = Some(now);
    }

    /// Returns the states for people and metrics.
    pub(crate) fn states(&self, own_instance: &str, ttl: Duration, now: Instant) -> Vec<MemberState> {
        let states = self.seen.values().map(|seen| MemberState {
            name: seen.record.name.clone(),
            instance: seen.record.instance.clone(),
            config_hash: seen.record.config.clone(),
            term: seen.record.term,
            report: seen.record.report.clone(),
            last_seen: seen.since,
            written_after: seen.written_after,
            is_alive: now.duration_since(seen.since) < ttl,
            is_self: seen.record.instance == own_instance,
        });
        states.collect()
    }

    /// Returns a member without a sign of life for long: its name, and the revision of its state.
    pub(crate) fn expired(&self, now: Instant) -> Option<(String, u64)> {
        let mut members = self.seen.iter();
        members
            .find(|(_, seen)| now.duration_since(seen.since) >= EXPIRED_AFTER)
            .map(|(name, seen)| (name.clone(), seen.revision))
    }
}
