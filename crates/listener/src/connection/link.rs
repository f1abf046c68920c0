//! The `SourceLink`, by which a connection passes events and notices to the rest of the source, updates the counters, and
//! receives the signals of the program.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use neurobridge_core::clock;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    hold::Hold,
    received::Received,
    source::Replacement,
    stats::{DisconnectReason, Reading, ReceivedPeriod, SourceStats},
    stored::{Acknowledgements, StoredPosition},
    throttle::Throttle,
};

/// Converts events and notices into the items of a channel.
pub(crate) trait Outlet: Sized + Send + 'static {
    /// The item for one wake-up of the socket.
    type Item: Send + 'static;

    /// Returns an empty outlet for a further connection of the source.
    fn for_connection(&self) -> Self;

    /// Records the start of a connection, by its number in the source: 1 for the first.
    fn begin(&mut self, connection: u64);

    /// Adds an event or a malformed frame.
    fn push(&mut self, received: Received<'_>);

    /// Adds a notice.
    fn notice(&mut self, notice: Notice<'_>);

    /// Returns the number of events, malformed frames and notices added since the last [`Outlet::take`].
    fn len(&self) -> usize;

    /// Counts the added frames as received, because they wait for room in the channel. Frames that are sent
    /// at once are counted by [`Outlet::take`].
    fn count_waiting(&mut self);

    /// Returns the item of all added frames and notices, `None` if there are none. The returned item is
    /// always sent.
    fn take(&mut self, received_at: Timestamp) -> Option<Self::Item>;
}

/// A change of a connection, or a message of the platform that is no event.
#[derive(Debug)]
pub(crate) enum Notice<'a> {
    Connected,
    Authenticated,
    Pong {
        round_trip: Option<Duration>,
    },
    Error(&'a str),
    Disconnected {
        reason: DisconnectReason,
        sentence: &'a str,
    },
}

/// The time before the expiry of a token from which only events prove that a connection works: the clocks and the time of the
/// request are not exact.
const EXPIRY_MARGIN: Duration = Duration::from_secs(2);

/// The period in which an authenticated connection has received everything that the server sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Period {
    since: Instant,
    /// The expiry of the token with which the connection was authenticated, if it is known.
    expires: Option<Instant>,
    last_event: Instant,
}

impl Period {
    pub(crate) const fn new(since: Instant, expires: Option<Instant>) -> Self {
        Self {
            since,
            expires,
            last_event: since,
        }
    }

    /// Records the result of a read. Returns the period in which everything was received.
    fn read(&mut self, reading: &Reading) -> ReceivedPeriod {
        // Unread data would be lost if the process were killed, so it does not count as received.
        let until = reading.behind_since.unwrap_or_else(Instant::now);
        if reading.events > 0 {
            self.last_event = self.last_event.max(until);
        }
        ReceivedPeriod {
            authenticated_at: self.since,
            until: self.received_until(until),
        }
    }

    /// Returns the time up to which everything was received, given the time of the last byte that was read: a platform may answer
    /// pings on the connection of an expired token, and send no events.
    pub(crate) fn received_until(&self, last_read: Instant) -> Instant {
        let expiry = self
            .expires
            .and_then(|expires| expires.checked_sub(EXPIRY_MARGIN));
        expiry.map_or(last_read, |expiry| last_read.min(expiry.max(self.last_event)))
    }
}

/// The interface of a connection to its source. Outlives the connection: the next connection of the same slot uses it too.
pub(crate) struct SourceLink<O: Outlet> {
    pub(crate) name: Arc<str>,
    pub(crate) outlet: O,
    /// The channel, bounded by its creator. While it is full, the socket is not read.
    pub(crate) items: mpsc::Sender<O::Item>,
    pub(crate) stop: CancellationToken,
    pub(crate) stats: Arc<SourceStats>,
    pub(crate) stored: Arc<StoredPosition>,
    /// The state of waiting until the events of a gap are fetched.
    pub(crate) hold: Arc<Hold>,
    /// The period of the current connection; `None` before its authentication.
    pub(crate) period: Option<Period>,
    /// The acknowledgements of the current connection.
    pub(crate) acknowledgements: Acknowledgements,
    pub(crate) throttle: Throttle,
    /// The signals for the replacement of the whole source.
    pub(crate) replacement: Replacement,
    /// Whether the source may connect; `None` if it always may.
    pub(crate) may_connect: Option<watch::Receiver<bool>>,
    /// The configured time between two reads of the socket, and a time of the program that applies while it is longer.
    pub(crate) read_interval: (Duration, Option<watch::Receiver<Duration>>),
}

impl<O: Outlet> SourceLink<O> {
    pub(crate) fn new(
        name: Arc<str>,
        outlet: O,
        items: mpsc::Sender<O::Item>,
        stop: CancellationToken,
        stats: Arc<SourceStats>,
        stored: Arc<StoredPosition>,
    ) -> Self {
        Self {
            name,
            outlet,
            items,
            stop,
            stats,
            acknowledgements: Acknowledgements::default(),
            period: None,
            stored,
            hold: Arc::default(),
            throttle: Throttle::default(),
            replacement: Replacement::default(),
            may_connect: None,
            read_interval: (Duration::ZERO, None),
        }
    }

    /// Returns a link for a further connection, with its own signal to stop.
    pub(crate) fn for_connection(&self, stop: CancellationToken) -> Self {
        Self {
            hold: Arc::clone(&self.hold),
            read_interval: self.read_interval.clone(),
            ..Self::new(
                Arc::clone(&self.name),
                self.outlet.for_connection(),
                self.items.clone(),
                stop,
                Arc::clone(&self.stats),
                Arc::clone(&self.stored),
            )
        }
    }

    /// Starts a connection.
    pub(crate) fn begin(&mut self) {
        self.acknowledgements = self.stored.begin();
        self.period = None;
        self.outlet.begin(self.acknowledgements.connection());
    }

    /// Returns the longest time for which the socket is not read after a read; zero if it is read as soon as data arrives.
    pub(crate) fn read_interval(&self) -> Duration {
        let (configured, longer) = &self.read_interval;
        let longer = longer.as_ref().map(|longer| *longer.borrow());
        longer.map_or(*configured, |longer| longer.max(*configured))
    }

    /// Counts what was read, and sends the item of all added frames.
    pub(crate) fn deliver(&mut self, room: mpsc::Permit<'_, O::Item>, reading: Reading) {
        let now = clock::now();
        self.count(reading, now);
        if let Some(item) = self.outlet.take(now) {
            room.send(item);
        }
    }

    /// Counts what was read before its item can be sent.
    pub(crate) fn count_only(&mut self, reading: Reading) {
        let now = clock::now();
        self.count(reading, now);
    }

    /// Sends the item of all added frames if the channel has room.
    pub(crate) fn offer(&mut self) {
        if self.outlet.len() == 0 || self.hold.is_active() {
            return;
        }
        let items = self.items.clone();
        if let Ok(room) = items.try_reserve() {
            self.deliver(room, Reading::default());
        }
    }

    /// Waits for room, and sends the item of all added frames. Also waits after a stop, because the frames are counted
    /// as received.
    ///
    /// Returns if the receiver is dropped. A caller that stops a source has its own time limit.
    pub(crate) async fn flush(&mut self) {
        if self.outlet.len() == 0 {
            return;
        }
        let items = self.items.clone();
        if let Ok(room) = items.reserve().await {
            self.deliver(room, Reading::default());
        }
    }

    fn count(&mut self, mut reading: Reading, now: Timestamp) {
        if let Some(period) = &mut self.period {
            reading.received = Some(period.read(&reading));
        }
        reading.last_event = (reading.events > 0).then_some(now);
        if let Some(warning) = self.stats.read(reading, now) {
            warn!(source = %self.name, "{warning}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use neurobridge_protocol::MalformedReason;

    use crate::{connection::testing::link, stats::FrameKind};

    #[tokio::test(start_paused = true)]
    async fn only_events_prove_life_after_the_token_expires() {
        let since = Instant::now();
        let mut period = Period::new(since, Some(since + Duration::from_secs(20)));
        let mut read = async |seconds: u64, kind: FrameKind| {
            tokio::time::advance(since + Duration::from_secs(seconds) - Instant::now()).await;
            let mut reading = Reading::default();
            reading.frames.add(kind, 1);
            reading.events = u64::from(kind == FrameKind::Event);
            (period.read(&reading).until - since).as_secs()
        };
        assert_eq!(read(5, FrameKind::Event).await, 5);
        assert_eq!(read(17, FrameKind::Pong).await, 17);
        assert_eq!(
            read(25, FrameKind::Pong).await,
            18,
            "from shortly before the expiry"
        );
        assert_eq!(read(26, FrameKind::Event).await, 26);
        assert_eq!(read(30, FrameKind::Pong).await, 26);
        let until = period.received_until(since + Duration::from_secs(31));
        assert_eq!((until - since).as_secs(), 26);
    }

    #[tokio::test(start_paused = true)]
    async fn flush_after_a_stop_waits_for_room_in_the_channel() {
        let (mut link, mut items) = link(1);
        link.items.try_send(vec!["in the way".into()]).unwrap();
        link.outlet.push(Received::Malformed {
            text: "[]",
            reason: MalformedReason::UnknownKind,
        });
        link.stop.cancel();
        tokio::join!(link.flush(), async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert_eq!(items.recv().await.unwrap(), ["in the way"]);
            assert_eq!(items.recv().await.unwrap(), ["[]"]);
        });
        link.items.try_send(vec!["in the way".into()]).unwrap();
        drop(items);
        link.flush().await;
    }
}
