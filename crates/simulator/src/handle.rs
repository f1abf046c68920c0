//! Control of a running simulator.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    faults::FaultRule,
    options::{OptionsError, check_rate},
    platform::{Counters, Platform},
};

/// Controls and observes a running simulator. Cheap to clone; dropping it has no effect on the simulator.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(crate) platform: Arc<Platform>,
    pub(crate) local_addr: SocketAddr,
}

impl Handle {
    /// Returns the address that the simulator listens on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Returns the current counters.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.platform.counters()
    }

    /// Waits until the counters satisfy a condition. The caller sets the deadline.
    pub async fn wait_until(&self, mut condition: impl FnMut(&Counters) -> bool) -> Counters {
        let mut activity = self.platform.activity.subscribe();
        loop {
            activity.mark_unchanged();
            let counters = self.counters();
            if condition(&counters) {
                return counters;
            }
            // The channel cannot close, because this handle owns its sender.
            let _ = activity.changed().await;
        }
    }

    /// Waits until all [`count`] entries were sent, and the last one was sent to every open connection that no fault rule
    /// has made silent or slow. With a rate and without [`hold`], entries that were created while no client was connected
    /// count as sent. Never returns if there is no count.
    ///
    /// [`count`]: crate::Options::count
    /// [`hold`]: crate::Options::hold
    pub async fn done(&self) {
        self.platform.feed.done().await;
    }

    /// Returns the most recent event frames that were sent, oldest first; [`keep_frames`] limits their number.
    ///
    /// [`keep_frames`]: crate::Options::keep_frames
    #[must_use]
    pub fn frames(&self) -> Vec<Bytes> {
        self.platform.journal.newest()
    }

    /// Returns the id of the newest recognised entry, or 0.
    #[must_use]
    pub fn newest_id(&self) -> u64 {
        let newest = self.platform.feed.produced(Instant::now());
        self.platform.entries.options().id_at(newest)
    }

    /// Returns the ids of the events that clients acknowledged, in the order of the events. Empty unless the simulator plays a
    /// declared feed with acknowledgements.
    #[must_use]
    pub fn acknowledged(&self) -> Vec<String> {
        let declared = self.platform.declared.as_ref();
        declared.map_or_else(Vec::new, |service| service.acknowledged_ids())
    }

    /// Returns the number of valid tokens that the platform knows.
    #[must_use]
    pub fn active_tokens(&self) -> usize {
        self.platform.iam.active(Instant::now())
    }

    /// Returns the largest number of known tokens that were valid at the same time, including the tokens of the
    /// options.
    #[must_use]
    pub fn most_tokens(&self) -> usize {
        self.platform.iam.most()
    }

    /// Ends every WebSocket connection without a close frame. Bytes that were written before still arrive.
    pub fn cut_all(&self) {
        self.platform.cut.send_replace(());
    }

    /// Adds a fault rule, which also applies to open connections.
    pub fn add_fault(&self, rule: FaultRule) {
        self.platform.plan.add(rule, Instant::now());
        self.platform.feed.wake_all();
    }

    /// Removes all fault rules. Effects on existing connections remain.
    pub fn clear_faults(&self) {
        self.platform.plan.clear();
        self.platform.feed.wake_all();
    }

    /// Changes the rate, in events per second. `None` sends as fast as clients read; 0 sends nothing.
    ///
    /// # Errors
    /// Returns an error if the rate is negative or not finite.
    pub fn set_rate(&self, rate: Option<f64>) -> Result<(), OptionsError> {
        check_rate(rate)?;
        self.platform.feed.set_rate(rate, Instant::now());
        Ok(())
    }
}
