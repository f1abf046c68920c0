//! Cold standby: whether the sources of a member may connect, and the settled positions that a leader stores in the lease.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use neurobridge_cluster::Settled;
use tokio::sync::watch;

/// The cold standby of the sources of a member.
#[derive(Debug, Default)]
pub(crate) struct ColdStandby {
    may_connect: watch::Sender<bool>,
    /// Whether the lease is about to be given up.
    steps_down: watch::Sender<bool>,
    progress: Mutex<Progress>,
}

impl ColdStandby {
    /// Returns whether the sources may connect.
    pub(crate) fn may_connect(&self) -> watch::Receiver<bool> {
        self.may_connect.subscribe()
    }

    /// Sets whether the sources may connect.
    pub(crate) fn allow(&self, may_connect: bool) {
        self.may_connect.send_replace(may_connect);
    }

    /// Requests that the sources close their connections, because the lease is about to be given up. They stay closed until
    /// [`end_step_down`](Self::end_step_down).
    pub(crate) fn step_down(&self) {
        self.steps_down.send_replace(true);
    }

    /// Returns whether the lease is about to be given up.
    pub(crate) fn steps_down(&self) -> watch::Receiver<bool> {
        self.steps_down.subscribe()
    }

    /// Returns the settled positions.
    pub(crate) fn progress(&self) -> MutexGuard<'_, Progress> {
        // No code under this lock can panic in the middle of an update.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the settled positions of sources that have none yet. Returns those of all sources.
    pub(crate) fn add(&self, new: &BTreeMap<String, Settled>) -> BTreeMap<String, Settled> {
        let mut progress = self.progress();
        for (source, settled) in new {
            let own = progress.settled.entry(source.clone());
            own.or_insert_with(|| settled.clone());
        }
        progress.settled.clone()
    }

    /// Allows the sources to connect once this member leads again.
    pub(crate) fn end_step_down(&self) {
        self.steps_down.send_replace(false);
    }
}

/// The settled positions of this leader.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// A sequence, and positions that are settled as soon as all events up to this sequence are settled.
    candidate: Option<(u64, BTreeMap<String, Settled>)>,
    settled: BTreeMap<String, Settled>,
}

impl Progress {
    /// Returns the settled positions for the lease.
    pub(crate) fn settled(&self) -> BTreeMap<String, Settled> {
        self.settled.clone()
    }

    /// Discards the candidate, because this member does not lead: another member may settle the events received since.
    pub(crate) fn pause(&mut self) {
        self.candidate = None;
    }

    /// Records that all events up to the sequence `settled` have an outcome in the shared sinks. `proven` contains, for each
    /// source, the time before which all received events have sequences up to `durable`. Returns whether settled positions may
    /// have changed.
    pub(crate) fn advance(&mut self, settled: u64, durable: u64, proven: BTreeMap<String, Settled>) -> bool {
        let mut has_advanced = false;
        if let Some((_, earlier)) = self.candidate.take_if(|(end, _)| *end <= settled) {
            self.settled.extend(earlier);
            has_advanced = true;
        }
        if self.candidate.is_none() {
            if durable <= settled {
                self.settled.extend(proven);
                has_advanced = true;
            } else {
                self.candidate = Some((durable, proven));
            }
        }
        has_advanced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> BTreeMap<String, Settled> {
        let settled = Settled {
            since: None,
            at_ms: second * 1000,
            event: None,
            resume: None,
        };
        BTreeMap::from([("main".to_owned(), settled)])
    }

    #[test]
    fn settled_position_advances_when_its_events_are_settled() {
        let mut progress = Progress::default();
        let shown = |progress: &Progress| progress.settled.get("main").map(|main| main.at_ms / 1000);
        assert!(progress.advance(10, 10, at(1)), "nothing is pending");
        assert_eq!(shown(&progress), Some(1));
        assert!(!progress.advance(10, 15, at(2)));
        assert!(!progress.advance(14, 90, at(3)), "one is pending");
        assert_eq!(shown(&progress), Some(1));
        assert!(progress.advance(15, 99, at(4)));
        assert_eq!(shown(&progress), Some(2));
        assert!(progress.advance(99, 99, BTreeMap::new()), "a gap is being filled");
        assert_eq!(shown(&progress), Some(4));
        assert!(progress.advance(99, 99, BTreeMap::new()));
        assert_eq!(shown(&progress), Some(4));
    }
}
