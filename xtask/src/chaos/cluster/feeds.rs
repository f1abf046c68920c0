//! The rule that at least one member is connected to the feed at every moment.

use std::time::Duration;

/// The time that is added to the age of the oldest unpublished event, because the age in the last response of the member
/// has grown since.
const MARGIN: Duration = Duration::from_secs(2);

/// The connections of all members to the feed.
#[derive(Debug)]
pub(super) struct Feeds(Vec<Feed>);

#[derive(Debug, Clone, Default)]
struct Feed {
    /// The time of the run since which the member receives events, as far as it is known.
    connected_since: Option<Duration>,
    /// Whether a fault interrupts the connection.
    is_interrupted: bool,
}

impl Feeds {
    pub(super) fn new(members: usize) -> Self {
        Self(vec![Feed::default(); members])
    }

    /// Sets whether a member is connected. Has no effect during a fault of the member.
    pub(super) fn observe(&mut self, member: usize, is_connected: bool, now: Duration) {
        let feed = &mut self.0[member];
        if !is_connected {
            feed.connected_since = None;
        } else if !feed.is_interrupted {
            feed.connected_since.get_or_insert(now);
        }
    }

    /// Checks that another member stays connected and has received every event that this one has not published yet. Otherwise
    /// these events could only be published late, when this member leads again. `unpublished` is the age of the oldest of them.
    ///
    /// # Errors
    /// Returns the reason if a fault by which the member may lose the leadership must not begin now.
    pub(super) fn check(
        &self,
        member: usize,
        now: Duration,
        unpublished: Duration,
    ) -> Result<(), &'static str> {
        if self.0[member].is_interrupted {
            return Err("another fault of the member has not ended");
        }
        let needed = unpublished + MARGIN;
        let is_enough = |feed: &Feed| {
            let since = feed.connected_since.filter(|_| !feed.is_interrupted);
            since.is_some_and(|since| now.saturating_sub(since) >= needed)
        };
        let mut others = self.0.iter().enumerate().filter(|(other, _)| *other != member);
        if !others.any(|(_, feed)| is_enough(feed)) {
            return Err("no other member has received everything that this one has not published");
        }
        Ok(())
    }

    /// Begins a fault that interrupts the connection of a member, if [`Feeds::check`] permits it.
    ///
    /// # Errors
    /// Returns the reason if the fault must not begin now.
    pub(super) fn interrupt(
        &mut self,
        member: usize,
        now: Duration,
        unpublished: Duration,
    ) -> Result<(), &'static str> {
        self.check(member, now, unpublished)?;
        self.0[member] = Feed {
            connected_since: None,
            is_interrupted: true,
        };
        Ok(())
    }

    /// Ends the fault of a member. It counts as connected after the next observation.
    pub(super) fn restore(&mut self, member: usize) {
        self.0[member] = Feed::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn last_connected_member_is_never_interrupted() {
        for seed in 0..500 {
            let mut random = fastrand::Rng::with_seed(seed);
            let members = random.usize(2..4);
            let mut feeds = Feeds::new(members);
            let mut now = Duration::ZERO;
            for member in 0..members {
                feeds.observe(member, true, now);
            }
            let mut interrupted = 0;
            for _ in 0..200 {
                now += Duration::from_millis(random.u64(0..3000));
                let member = random.usize(0..members);
                match random.u8(0..3) {
                    0 => feeds.observe(member, true, now),
                    1 if feeds.0[member].is_interrupted => feeds.restore(member),
                    1 => {}
                    _ => {
                        interrupted +=
                            u32::from(feeds.interrupt(member, now, seconds(random.u64(0..3))).is_ok())
                    }
                }
                let is_connected = |feed: &Feed| !feed.is_interrupted && feed.connected_since.is_some();
                assert!(feeds.0.iter().any(is_connected), "seed {seed}: {feeds:?}");
            }
            assert!(interrupted > 5, "seed {seed}");
        }
    }

    #[test]
    fn other_member_must_have_received_unpublished_events() {
        let mut feeds = Feeds::new(2);
        feeds.observe(0, true, seconds(0));
        assert!(
            feeds.interrupt(0, seconds(100), seconds(0)).is_err(),
            "no other member"
        );
        feeds.observe(1, true, seconds(100));
        assert!(
            feeds.interrupt(0, seconds(104), seconds(3)).is_err(),
            "received too little"
        );
        assert!(feeds.interrupt(0, seconds(105), seconds(3)).is_ok());
        assert!(
            feeds.interrupt(1, seconds(200), seconds(0)).is_err(),
            "the last one"
        );
        feeds.observe(0, true, seconds(200));
        assert!(
            feeds.interrupt(1, seconds(300), seconds(0)).is_err(),
            "not observed during a fault"
        );
        feeds.restore(0);
        assert!(
            feeds.interrupt(1, seconds(300), seconds(0)).is_err(),
            "not connected yet"
        );
        feeds.observe(0, true, seconds(301));
        feeds.observe(0, false, seconds(302));
        assert!(
            feeds.interrupt(1, seconds(400), seconds(0)).is_err(),
            "disconnected"
        );
        feeds.observe(0, true, seconds(401));
        assert!(feeds.interrupt(1, seconds(404), seconds(0)).is_ok());
    }
}
