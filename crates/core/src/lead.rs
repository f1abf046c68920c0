//! The right of a member of a cluster to publish.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

/// The interval at which a follower reads its feeds and destinations. Events that arrive between two reads share a wake-up
/// and a sync. Short compared with a takeover.
pub const FOLLOWER_READ_INTERVAL: Duration = Duration::from_millis(100);

/// The right of this member to publish, for a delivery. Clones observe the same lease.
///
/// A member without this right is a follower: it reads the destination and settles its own copies of the events that the
/// leader has published. See [`copies`](crate::copies).
#[derive(Clone, Debug)]
pub struct Lead(watch::Receiver<Option<Instant>>);

impl Lead {
    /// Creates the right to publish. The channel contains the time at which this member's lease ends unless it is renewed;
    /// `None` while this member does not lead.
    pub const fn new(valid_until: watch::Receiver<Option<Instant>>) -> Self {
        Self(valid_until)
    }

    /// Returns whether this member may publish now.
    pub fn is_held(&self) -> bool {
        is_valid(*self.0.borrow())
    }

    /// Waits until this member may publish. Cancel-safe.
    pub async fn held(&mut self) {
        if self.0.wait_for(|until| is_valid(*until)).await.is_err() {
            // No task renews the lease: the program is stopping.
            std::future::pending().await
        }
    }

    /// Waits until this member may no longer publish, at the latest until the lease expires. Cancel-safe.
    pub async fn lost(&mut self) {
        loop {
            let until = *self.0.borrow_and_update();
            let Some(until) = until.filter(|until| Instant::now() < *until) else {
                return;
            };
            // No task renews the lease if the channel is closed.
            if let Ok(Err(_)) = timeout_at(until, self.0.changed()).await {
                tokio::time::sleep_until(until).await;
            }
        }
    }
}

fn is_valid(until: Option<Instant>) -> bool {
    until.is_some_and(|until| Instant::now() < until)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn lead_ends_with_its_lease_unless_renewed() {
        let (lease, receiver) = watch::channel(None);
        let mut lead = Lead::new(receiver);
        assert!(!lead.is_held());
        let ttl = Duration::from_secs(10);
        lease.send(Some(Instant::now() + ttl)).unwrap();
        lead.held().await;
        assert!(lead.is_held());
        tokio::time::advance(ttl).await;
        assert!(!lead.is_held());
        lease.send(Some(Instant::now() + ttl)).unwrap();
        assert!(lead.is_held());
        lease.send(None).unwrap();
        assert!(!lead.is_held());
    }

    #[tokio::test(start_paused = true)]
    async fn loss_is_noticed_at_the_end_of_the_lease() {
        let (lease, receiver) = watch::channel(None);
        let mut lead = Lead::new(receiver);
        lead.lost().await;
        let begin = Instant::now();
        lease.send(Some(begin + Duration::from_secs(10))).unwrap();
        tokio::join!(lead.lost(), async {
            // Costs no time: the clock is paused.
            tokio::time::sleep(Duration::from_secs(5)).await;
            lease.send(Some(begin + Duration::from_secs(13))).unwrap();
        });
        assert_eq!(begin.elapsed(), Duration::from_secs(13));
        lease.send(Some(Instant::now() + Duration::from_secs(1))).unwrap();
        drop(lease);
        lead.lost().await;
        assert_eq!(begin.elapsed(), Duration::from_secs(14));
    }
}
