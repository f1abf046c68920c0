//! Whether a gap of this member is one of the cluster.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use neurobridge_cluster::ConnectedFor;
use tokio::time::Instant;

/// Whether another member has the events of a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Coverage {
    /// This one was connected, or leads and fetches them.
    Member(String),
    /// Not known yet.
    Unknown,
    /// No member was connected, and this one leads.
    Nobody,
}

/// Returns whether a connection of another member has lasted from the begin of a gap to its end; `None` if it is not proven yet.
pub(super) fn covers(
    connected: &ConnectedFor,
    seen: Instant,
    ttl: Duration,
    (began, ended): (Timestamp, Timestamp),
    (now, instant): (Timestamp, Instant),
) -> Option<bool> {
    let before = |age: Duration| {
        SignedDuration::try_from(age)
            .ok()
            .and_then(|age| now.checked_sub(age).ok())
    };
    let age_of_report = instant.duration_since(seen);
    // The report is not younger than it was seen, and not older than the time of a lease before.
    let latest_begin = before(age_of_report + Duration::from_millis(connected.since_ms))?;
    let earliest_proof = before(age_of_report + ttl + Duration::from_millis(connected.proof_ms))?;
    if latest_begin > began {
        return Some(false);
    }
    (earliest_proof >= ended).then_some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_connection_before_and_after_a_gap_covers_it() {
        let (now, ttl) = (
            (Timestamp::from_second(1000).unwrap(), Instant::now()),
            Duration::from_secs(10),
        );
        let covers = |since: u64, proof: u64, gap: (i64, i64)| {
            let connected = ConnectedFor {
                since_ms: since * 1000,
                proof_ms: proof * 1000,
            };
            let gap = (
                Timestamp::from_second(gap.0).unwrap(),
                Timestamp::from_second(gap.1).unwrap(),
            );
            super::covers(&connected, now.1, ttl, gap, now)
        };
        assert_eq!(covers(300, 1, (900, 980)), Some(true));
        assert_eq!(
            covers(99, 1, (900, 980)),
            Some(false),
            "connected after the gap had begun"
        );
        assert_eq!(
            covers(300, 1, (900, 995)),
            None,
            "the report may precede the end of the gap"
        );
        assert_eq!(covers(300, 15, (900, 980)), None, "the connection may be dead");
    }
}
