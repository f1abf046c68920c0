//! What a connection hands on, and to whom.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use neurobridge_core::clock;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    frame::Frame,
    stats::{DisconnectReason, Reading, SourceStats},
    throttle::Throttle,
};

/// Turns what is read into what travels.
pub(crate) trait Outlet: Send + 'static {
    /// What travels: whatever one wake-up of the socket gave.
    type Item: Send + 'static;

    /// Takes an event frame, or text that is none.
    fn frame(&mut self, frame: Frame);

    /// Takes whatever else there is to know.
    fn notice(&mut self, notice: Notice<'_>);

    /// How much was taken since the last [`Outlet::take`].
    fn len(&self) -> usize;

    /// Counts as received what was taken and has to wait for room; what is sent at once is counted by
    /// [`Outlet::take`].
    fn count_waiting(&mut self);

    /// What was taken, `None` when nothing. What it returns is sent, without fail.
    fn take(&mut self, received_at: Timestamp) -> Option<Self::Item>;
}

/// What happens on a connection beside frames that are handed on.
#[derive(Debug)]
pub(crate) enum Notice<'a> {
    Connected,
    Authorised,
    Pong {
        round_trip: Option<Duration>,
    },
    Error(&'a str),
    Disconnected {
        reason: DisconnectReason,
        sentence: &'a str,
    },
}

/// A source's ties to the rest of the program; it outlives its connections.
pub(crate) struct Link<O: Outlet> {
    pub(crate) name: Arc<str>,
    pub(crate) outlet: O,
    /// Bounded by whoever made it. When it is full, the socket is not read.
    pub(crate) items: mpsc::Sender<O::Item>,
    pub(crate) stop: CancellationToken,
    pub(crate) stats: Arc<SourceStats>,
    pub(crate) throttle: Throttle,
}

impl<O: Outlet> Link<O> {
    pub(crate) fn new(
        name: Arc<str>,
        outlet: O,
        items: mpsc::Sender<O::Item>,
        stop: CancellationToken,
        stats: Arc<SourceStats>,
    ) -> Self {
        Self {
            name,
            outlet,
            items,
            stop,
            stats,
            throttle: Throttle::default(),
        }
    }

    /// Counts what was read, and sends what is to be handed on.
    pub(crate) fn deliver(&mut self, room: mpsc::Permit<'_, O::Item>, reading: Reading) {
        let now = clock::now();
        self.count(reading, now);
        if let Some(item) = self.outlet.take(now) {
            room.send(item);
        }
    }

    /// Counts what was read before it can be sent.
    pub(crate) fn count_only(&mut self, reading: Reading) {
        let now = clock::now();
        self.count(reading, now);
    }

    /// Sends what is to be handed on, if there is room at once.
    pub(crate) fn offer(&mut self) {
        if self.outlet.len() == 0 {
            return;
        }
        let items = self.items.clone();
        if let Ok(room) = items.try_reserve() {
            self.deliver(room, Reading::default());
        }
    }

    /// Sends what is to be handed on, waiting for room; also after a stop, for it is counted as received.
    ///
    /// Ends when there is no receiver any more. Whoever stops a source has a limit of time of their own.
    pub(crate) async fn flush(&mut self) {
        if self.outlet.len() == 0 {
            return;
        }
        let items = self.items.clone();
        if let Ok(room) = items.reserve().await {
            self.deliver(room, Reading::default());
        }
    }

    fn count(&self, mut reading: Reading, now: Timestamp) {
        reading.last_event = reading.has_event().then_some(now);
        self.stats.read(reading, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        connection::testing::link,
        frame::{Content, MalformedReason},
    };

    #[tokio::test(start_paused = true)]
    async fn stop_waits_for_space_in_the_channel() {
        let (mut link, mut items) = link(1);
        link.items.try_send(vec!["in the way".into()]).unwrap();
        link.outlet.frame(Frame {
            text: "[]".into(),
            content: Content::Malformed(MalformedReason::UnknownKind),
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
