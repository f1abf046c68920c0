//! The members of the cluster as this member sees them: a bounded list that is derived from successive reads.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::{
    record::{self, MemberRecord},
    role::MemberState,
    store::Value,
};

/// The time without a change after which the leader deletes the state of a member.
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
    /// The time of the first read that found this value.
    since: Instant,
    /// The time of the last read that did not find this value; `None` if the first read found it.
    written_after: Option<Instant>,
}

impl Members {
    /// Replaces the list by the values that were read.
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

    /// Returns the state of each member.
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

    /// Returns a member whose state has not changed for [`EXPIRED_AFTER`]: its name, and the revision of its state.
    pub(crate) fn expired(&self, now: Instant) -> Option<(String, u64)> {
        let mut members = self.seen.iter();
        members
            .find(|(_, seen)| now.duration_since(seen.since) >= EXPIRED_AFTER)
            .map(|(name, seen)| (name.clone(), seen.revision))
    }
}
