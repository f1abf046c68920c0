//! The settled positions of the sources, which the lease transports from one leader to the next.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// The largest size of the settled positions in a lease, in bytes. Sources without room are left out: a new leader then
/// begins their gap at its own last connection.
const MAX_BYTES: usize = 32 << 10;
/// The size of a source's record in bytes, without its texts.
const BYTES_OF_SOURCE: usize = 120;

/// The time up to which the events of a source are settled: each one is in every shared destination, or was recorded as missed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The settled time by the local monotonic clock, or an earlier time; `None` if only the clock of another machine states
    /// it.
    pub since: Option<Instant>,
    /// The settled time in milliseconds since 1970, by the clock of the member that determined it.
    pub at_ms: i64,
    /// The id of the last event before this time.
    pub event: Option<String>,
    /// The resume value of the last event before this time.
    pub resume: Option<String>,
}

/// A [`Settled`] as stored in the lease. It contains an age, so that no clocks have to be compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SettledRecord {
    at_ms: i64,
    /// The largest possible age of the settled time when the lease was written; `None` if the age is unknown.
    #[serde(default)]
    age_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    event: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resume: Option<String>,
}

/// The records of a lease, by source.
pub(crate) type SettledRecords = BTreeMap<String, SettledRecord>;

/// Returns the records that a leader writes: its own positions, and for other sources the positions of the previous lease.
pub(crate) fn records(
    before: &BTreeMap<String, Settled>,
    own: &BTreeMap<String, Settled>,
    now: Instant,
) -> SettledRecords {
    let mut all = before.clone();
    for (source, settled) in own {
        // An own position of an earlier leadership may be older than the position of the last leader.
        let is_later = before
            .get(source)
            .is_some_and(|before| before.since > settled.since);
        if !is_later {
            all.insert(source.clone(), settled.clone());
        }
    }
    let mut bytes = 0;
    let has_room = |(source, settled): &(String, Settled)| {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        bytes += BYTES_OF_SOURCE + source.len() + text(&settled.event) + text(&settled.resume);
        bytes <= MAX_BYTES
    };
    let fitting = all.into_iter().take_while(has_room);
    fitting
        .map(|(source, settled)| {
            let age = settled.since.map(|since| now.saturating_duration_since(since));
            let record = SettledRecord {
                at_ms: settled.at_ms,
                age_ms: age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
                event: settled.event,
                resume: settled.resume,
            };
            (source, record)
        })
        .collect()
}

/// Returns the settled positions of a lease. `written_after`: a local time before the lease was written, if one is known.
pub(crate) fn read(records: SettledRecords, written_after: Option<Instant>) -> BTreeMap<String, Settled> {
    let read = |record: SettledRecord| Settled {
        since: written_after.and_then(|after| after.checked_sub(Duration::from_millis(record.age_ms?))),
        at_ms: record.at_ms,
        event: record.event,
        resume: record.resume,
    };
    records
        .into_iter()
        .map(|(source, record)| (source, read(record)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(since: Option<Instant>, event: &str) -> Settled {
        Settled {
            since,
            at_ms: 7,
            event: Some(event.to_owned()),
            resume: None,
        }
    }

    fn of(settled: Settled) -> BTreeMap<String, Settled> {
        BTreeMap::from([("main".to_owned(), settled)])
    }

    #[tokio::test]
    async fn age_is_measured_by_the_clock_of_the_reader() {
        let now = Instant::now() + Duration::from_secs(1000);
        let written = records(
            &BTreeMap::new(),
            &of(settled(Some(now - Duration::from_secs(3)), "5")),
            now,
        );
        let after = now + Duration::from_secs(60);
        let found = read(written.clone(), Some(after));
        assert_eq!(found["main"].since, Some(after - Duration::from_secs(3)));
        assert_eq!(read(written, None)["main"], settled(None, "5"));
    }

    #[tokio::test]
    async fn later_of_own_and_previous_position_is_written() {
        let now = Instant::now() + Duration::from_secs(1000);
        let ago = |seconds| Some(now - Duration::from_secs(seconds));
        let event = |before: Settled, own: Settled| {
            records(&of(before), &of(own), now)["main"].event.clone().unwrap()
        };
        assert_eq!(event(settled(ago(5), "before"), settled(ago(3), "own")), "own");
        assert_eq!(event(settled(ago(3), "before"), settled(ago(5), "own")), "before");
        assert_eq!(event(settled(None, "before"), settled(ago(5), "own")), "own");
        let carried = records(&of(settled(ago(3), "before")), &BTreeMap::new(), now);
        assert_eq!(carried["main"].age_ms, Some(3000));
    }

    #[tokio::test]
    async fn positions_of_many_sources_stay_within_the_limit() {
        let source = |number: u32| (format!("source-{number:04}"), settled(None, &"e".repeat(200)));
        let many: BTreeMap<_, _> = (0..1000).map(source).collect();
        let records = records(&many, &BTreeMap::new(), Instant::now());
        assert!((50..200).contains(&records.len()), "{}", records.len());
        assert!(serde_json::to_vec(&records).unwrap().len() <= MAX_BYTES);
    }
}
