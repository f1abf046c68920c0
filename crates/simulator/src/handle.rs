//! Control over a simulator that runs.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    faults::FaultRule,
    options::{OptionsError, check_rate},
    platform::{Counters, Platform},
};

/// Controls a running simulator and looks into it; cheap to clone. Dropping it changes nothing.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(crate) platform: Arc<Platform>,
    pub(crate) local_addr: SocketAddr,
}

impl Handle {
    /// Gives the address that the simulator listens at.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Gives the counters as they are now.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.platform.counters()
    }

    /// Waits until the counters satisfy a condition. Without a deadline of its own.
    pub async fn wait_until(&self, mut condition: impl FnMut(&Counters) -> bool) -> Counters {
        let mut activity = self.platform.activity.subscribe();
        loop {
            activity.mark_unchanged();
            let counters = self.counters();
            if condition(&counters) {
                return counters;
            }
            // The sender lives as long as this handle.
            let _ = activity.changed().await;
        }
    }

    /// Waits until all [`count`] entries were sent (with a rate and without [`hold`]: sent, or due while nobody listened) and
    /// every open connection has its last. Never ends without a count.
    ///
    /// [`count`]: crate::Options::count
    /// [`hold`]: crate::Options::hold
    pub async fn done(&self) {
        self.platform.feed.done().await;
    }

    /// Gives the newest frames that were sent, oldest first, as many as [`keep_frames`] says.
    ///
    /// [`keep_frames`]: crate::Options::keep_frames
    #[must_use]
    pub fn frames(&self) -> Vec<Bytes> {
        self.platform.journal.newest()
    }

    /// Ends every connection without a close frame. What was written before still arrives.
    pub fn cut_all(&self) {
        self.platform.cut.send_replace(());
    }

    /// Adds a fault rule, also for the connections that are open.
    pub fn add_fault(&self, rule: FaultRule) {
        self.platform.plan.add(rule, Instant::now());
        self.platform.feed.wake_all();
    }

    /// Forgets all fault rules. What they have done to a connection stays.
    pub fn clear_faults(&self) {
        self.platform.plan.clear();
        self.platform.feed.wake_all();
    }

    /// Changes the rate in events a second from now on; `None`: as fast as they are read, 0: none.
    ///
    /// # Errors
    /// Refuses a negative rate, and one that is no number.
    pub fn set_rate(&self, rate: Option<f64>) -> Result<(), OptionsError> {
        check_rate(rate)?;
        self.platform.feed.set_rate(rate, Instant::now());
        Ok(())
    }
}
