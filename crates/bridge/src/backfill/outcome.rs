//! The outcomes of gaps: fetched, not fetched, or received by another member of the cluster.

use neurobridge_platform::{StopReason, sentence};
use tracing::{info, warn};

use super::{Filler, Interrupted};
use crate::{
    cluster::Coverage,
    gap_report::Report,
    gaps::{Gap, LEFT_TO_LEADER, PARTLY, RECOVERED, UNRECOVERED},
    state::State,
};

impl Filler {
    /// Returns whether another member of the cluster received the events of a gap.
    pub(super) fn coverage(&self, gap: &Gap, state: &State) -> Coverage {
        match (&state.cluster, gap.ended) {
            (Some(cluster), Some(ended)) => cluster.coverage(&self.source.name, (gap.began, ended)),
            _ => Coverage::NoMember,
        }
    }

    /// Records the outcome of a gap that another member has covered, or decides about.
    pub(super) fn record_covered(&mut self, gap: &Gap, coverage: &Coverage, state: &State) {
        let source = &*self.source.name;
        let (outcome, text) = match coverage {
            Coverage::Member(member) => {
                info!(
                    source,
                    gap_id = gap.id,
                    member,
                    "no event missed: another member received the events of the gap"
                );
                (
                    RECOVERED,
                    format!("no event missed: the member \"{member}\" received the events of the gap"),
                )
            }
            Coverage::LeftToLeader(leader) => {
                info!(
                    source,
                    gap_id = gap.id,
                    leader,
                    "gap left to the leader: no member is known to have been connected"
                );
                (
                    LEFT_TO_LEADER,
                    format!("left to the leader \"{leader}\": no member is known to have been connected"),
                )
            }
            Coverage::Unknown | Coverage::NoMember => return,
        };
        let fetched = self.fetched.remove(&gap.id).unwrap_or_default();
        state.history.filled(gap, outcome, fetched, &text);
    }

    /// Records the outcome of a gap. Reports the gap to the sinks if it is not filled and `gap_events` is set.
    pub(super) async fn record(
        &self,
        gap: &Gap,
        fetched: u64,
        reason: Option<&StopReason>,
        state: &State,
    ) -> Result<(), Interrupted> {
        let reason = match reason {
            None if self.settings.reader.is_some() => None,
            None => Some("the source has no REST interface".to_owned()),
            Some(reason) => Some(sentence(reason)),
        };
        let (source, gap_id) = (&*self.source.name, gap.id);
        let (outcome, text) = match &reason {
            None => {
                info!(source, gap_id, fetched, "missed events were fetched");
                (RECOVERED, format!("missed events were fetched: {fetched}"))
            }
            Some(reason) if fetched > 0 => {
                warn!(
                    source,
                    gap_id,
                    fetched,
                    reason,
                    "only a part of the missed events was fetched; no further attempt follows"
                );
                (
                    PARTLY,
                    format!("only {fetched} missed events were fetched: {reason}"),
                )
            }
            Some(reason) => {
                warn!(
                    source,
                    gap_id, reason, "missed events were not fetched; no further attempt follows"
                );
                (UNRECOVERED, format!("missed events were not fetched: {reason}"))
            }
        };
        if outcome != RECOVERED && self.settings.reports {
            let report = Report::new(gap, outcome, fetched, reason.as_deref());
            if !self.send(self.encoder.report(&report), 1).await {
                return Err(Interrupted::Stopped);
            }
            // The report is stored before the outcome: after a crash in between, it is sent again with the same id.
            self.stored().await;
        }
        state.history.filled(gap, outcome, fetched, &text);
        Ok(())
    }
}
