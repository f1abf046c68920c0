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

    /// Sends what is to be handed on, waiting for room; a stop ends the wait.
    pub(crate) async fn flush(&mut self) {
        // What there is room for is sent, stopped or not.
        self.offer();
        if self.outlet.len() == 0 {
            return;
        }
        let items = self.items.clone();
        if let Some(Ok(room)) = self.stop.clone().run_until_cancelled(items.reserve()).await {
            self.deliver(room, Reading::default());
        }
    }

    fn count(&self, mut reading: Reading, now: Timestamp) {
        reading.last_event = reading.has_event().then_some(now);
        self.stats.read(reading);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        connection::testing::link,
        frame::{Content, MalformedReason},
    };

    #[tokio::test]
    async fn what_there_is_room_for_is_sent_also_when_stopped() {
        let (mut link, mut items) = link(1);
        link.outlet.frame(Frame {
            text: "[]".into(),
            content: Content::Malformed(MalformedReason::UnknownKind),
        });
        link.stop.cancel();
        link.flush().await;
        assert_eq!(items.try_recv().unwrap().len(), 1);
    }
}
