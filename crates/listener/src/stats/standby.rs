//! Records when a source is in standby, that is, not allowed to connect.

use tokio::time::Instant;

use super::{SourceState, SourceStats};

impl SourceStats {
    /// Records that the source has no connection and is not allowed to connect. An open gap is discarded: the program decides
    /// whether the time until the next connection is a gap, as for the time before the first connection.
    pub(crate) fn stand_by(&self) {
        let mut inner = self.lock();
        if inner.state != SourceState::Standby {
            inner.since = neurobridge_core::clock::now();
        }
        inner.state = SourceState::Standby;
        inner.reason = None;
        (inner.first_authenticated, inner.first_resumed) = (None, false);
        inner.gap.stop(Instant::now());
        inner.gap_began = None;
    }

    /// Records that the source may connect. Clears the proof of life, which the next connection sets.
    pub(crate) fn end_standby(&self) {
        let mut inner = self.lock();
        inner.enter(SourceState::Dialling);
        inner.proof_of_life = None;
    }
}
