//! Decides whether another member received the events of a gap.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use neurobridge_cluster::ConnectedFor;
use tokio::time::Instant;

/// The largest time between the creation of a report and its write to the engine.
const REPORT_AGE: Duration = Duration::from_secs(5);

/// Whether another member received the events of a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Coverage {
    /// The named member was connected during the whole gap.
    Member(String),
    /// No member is known to have been connected. The named leader, which is connected again, decides about its own gap.
    LeftToLeader(String),
    /// The reports of the other members do not prove either case yet.
    Unknown,
    /// No member is known to have been connected, and this one leads.
    NoMember,
}

/// The local times between which a report was written; the first one is `None` if the report may be of any age.
pub(super) type Written = (Option<Instant>, Instant);

/// Returns whether a connection of another member has lasted from the beginning of a gap to the end; `None` if neither is proven
/// yet.
pub(super) fn covers(
    connected: &ConnectedFor,
    written: Written,
    (began, ended): (Timestamp, Timestamp),
    now: (Timestamp, Instant),
) -> Option<bool> {
    let age = Duration::from_millis(connected.since_ms) + now.1.duration_since(written.1);
    if before(now.0, age)? > began {
        return Some(false);
    }
    is_proven_after(connected, written, ended, now).then_some(true)
}

/// Returns whether a connection is proven to have worked at a time or later.
pub(super) fn is_proven_after(
    connected: &ConnectedFor,
    (written_after, _): Written,
    time: Timestamp,
    (now, instant): (Timestamp, Instant),
) -> bool {
    let proof = written_after.and_then(|written| {
        let age = Duration::from_millis(connected.proof_ms) + REPORT_AGE;
        before(now, instant.duration_since(written) + age)
    });
    proof.is_some_and(|proof| proof >= time)
}

/// Returns the time that precedes `now` by `age`.
fn before(now: Timestamp, age: Duration) -> Option<Timestamp> {
    now.checked_sub(SignedDuration::try_from(age).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_connection_before_and_after_a_gap_covers_it() {
        let instant = Instant::now() + Duration::from_secs(100);
        let now = (Timestamp::from_second(1000).unwrap(), instant);
        let second = Duration::from_secs(1);
        let written = (Some(instant - 3 * second), instant - second);
        let covers = |since: u64, proof: u64, written: Written, gap: (i64, i64)| {
            let connected = ConnectedFor {
                since_ms: since * 1000,
                proof_ms: proof * 1000,
            };
            let gap = (
                Timestamp::from_second(gap.0).unwrap(),
                Timestamp::from_second(gap.1).unwrap(),
            );
            super::covers(&connected, written, gap, now)
        };
        let (connected, before_the_end) = ((900, 990), (900, 993));
        assert_eq!(covers(300, 1, written, connected), Some(true));
        assert_eq!(covers(98, 1, written, connected), Some(false), "connected later");
        assert_eq!(
            covers(300, 1, written, before_the_end),
            None,
            "the report may precede the end"
        );
        assert_eq!(
            covers(300, 15, written, connected),
            None,
            "the connection may be dead"
        );
        let unknown = (None, written.1);
        assert_eq!(
            covers(300, 1, unknown, connected),
            None,
            "the report may be of a process that has ended"
        );
    }
}
