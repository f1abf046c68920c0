//! The gaps of a member of a cluster that does not connect while it follows.
//!
//! The gap of a new leader begins at the time up to which the former leader has settled the events: each earlier event is in
//! the destinations, or its loss was recorded. A follower reads this time from the lease. If the last connection of this member
//! is later, the gap begins there: the events that this member has received and not published are in its own spool.

use jiff::Timestamp;
use neurobridge_core::clock;
use tracing::info;

use super::{
    History, Inner,
    content::HistoryContent,
    entry::{Entry, Kind},
    watch::{Reported, Watch},
};
use crate::gaps::{FILLING, Gap, LEFT_TO_LEADER, ProofOfLife, TAKEOVER};

impl History {
    /// Records the time up to which another member has settled the events of a source. Gaps of this member that ended before this
    /// time are left to the other member.
    pub(crate) fn set_settled_by_leader(&self, source: &str, settled: ProofOfLife) {
        let mut inner = self.lock();
        let Inner { content, .. } = &mut *inner;
        let is_before = |gap: &&Gap| gap.ended.is_some_and(|ended| ended <= settled.at);
        let gaps = content.gaps.values();
        let gaps: Vec<Gap> = gaps
            .filter(|gap| gap.source == source && gap.outcome == FILLING)
            .filter(is_before)
            .cloned()
            .collect();
        for gap in gaps {
            let text = "gap left to the leader, which has fetched or reported the missed events";
            info!(source, gap_id = gap.id, "{text}");
            content.fill_gap(&gap, LEFT_TO_LEADER, gap.fetched);
            let entry = Entry::new(Kind::GapFilled, clock::now(), text).of_source(source);
            content.add(entry.with_reason(LEFT_TO_LEADER));
        }
        let is_later = |own: &ProofOfLife| own.at < settled.at;
        if content.alive.get(source).is_none_or(is_later) {
            content.alive.insert(source.to_owned(), settled);
        }
    }

    /// Begins the gap of a source that is about to connect because this member leads. There is no gap if no member is known to
    /// have been connected. Returns the last proof of life, at which the gap begins.
    pub(crate) fn take_over(&self, source: &str) -> Option<ProofOfLife> {
        let now = clock::now();
        let mut inner = self.lock();
        let Inner { content, watch, .. } = &mut *inner;
        watch.tick(now);
        watch.expect_first_authentication(source);
        let alive = content.alive.get(source)?.clone();
        // The clock may have been set back meanwhile.
        let began = watch.pause.start_of_gap(alive.at.min(now));
        content.begin_gap(source, began, TAKEOVER);
        Some(alive)
    }

    /// Ends the open gap of a source whose connections are closed because this member follows: the gap of the next leader
    /// contains the rest of it.
    pub(crate) fn stand_by(&self, source: &str) {
        let mut inner = self.lock();
        inner.content.end_gap(source, clock::now(), LEFT_TO_LEADER);
    }
}

impl Watch {
    /// As [`begin`](Self::begin), for a member that follows without a connection: open gaps end.
    pub(super) fn begin_standby(content: &mut HistoryContent, sources: &[(&str, bool)], now: Timestamp) {
        Self::end_earlier_run(content, sources, now);
        for (source, _) in sources {
            content.end_gap(source, now, LEFT_TO_LEADER);
        }
    }

    /// Treats the next authentication of a source as the first one, as after a start.
    fn expect_first_authentication(&mut self, source: &str) {
        let watch = self.sources.entry(source.to_owned()).or_default();
        watch.has_connected = false;
        watch.reported = Reported::Nothing;
        watch.candidate = None;
    }
}
