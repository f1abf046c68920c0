//! The state that all connections of one simulator share.

use std::{
    ops::RangeInclusive,
    sync::atomic::{AtomicU64, Ordering},
};

use tokio::{sync::watch, time::Instant};

use crate::{
    declared::{Service, Start},
    entries::Entries,
    faults::Plan,
    feed::Feed,
    iam::Iam,
    journal::Journal,
    options::{Options, SpreadOptions},
    recognised::Recognised,
    rest::RestOptions,
};

/// The shared state of the simulated platform, or of a declared feed.
#[derive(Debug)]
pub(crate) struct Platform {
    pub(crate) iam: Iam,
    pub(crate) rest: RestOptions,
    pub(crate) spread: SpreadOptions,
    pub(crate) entries: Entries,
    /// The declared feed that is played instead of NeuroIO.
    pub(crate) declared: Option<Service>,
    pub(crate) feed: Feed,
    pub(crate) plan: Plan,
    pub(crate) journal: Journal,
    pub(crate) recognised: Recognised,
    pub(crate) tally: Tally,
    /// Notifies every connection when all connections are to be cut.
    pub(crate) cut: watch::Sender<()>,
    /// Notifies waiting tasks whenever a counter has changed.
    pub(crate) activity: watch::Sender<()>,
}

/// The atomic variables from which [`Counters`] are read.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    connections: AtomicU64,
    open: AtomicU64,
    most_open: AtomicU64,
    authenticated: AtomicU64,
    refused: AtomicU64,
    sent: AtomicU64,
    frames: AtomicU64,
    pings: AtomicU64,
    faults: AtomicU64,
    requests: AtomicU64,
    acknowledged: AtomicU64,
    replies: AtomicU64,
    unexpected: AtomicU64,
}

/// A snapshot of the counters of a simulator since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Requests for a WebSocket connection since the start, including refused ones.
    pub connections: u64,
    /// Connections that are authenticated and open.
    pub open: u64,
    /// The largest number of connections that were authenticated and open at the same time.
    pub most_open: u64,
    /// Connections that were authenticated since the start.
    pub authenticated: u64,
    /// Connections whose token was refused, because it was wrong or because of a fault rule.
    pub refused: u64,
    /// Distinct entries that were sent to at least one connection.
    pub sent: u64,
    /// Event frames that were sent, including copies.
    pub frames: u64,
    /// `{"action":"PING"}` messages received.
    pub pings: u64,
    /// Applications of fault rules.
    pub faults: u64,
    /// The number of received REST requests, including requests for tokens.
    pub requests: u64,
    /// Declared feeds: events that were acknowledged, each counted once.
    pub acknowledged: u64,
    /// Declared feeds: client replies to messages of the feed that expect a reply.
    pub replies: u64,
    /// Declared feeds: client messages that the declaration does not contain.
    pub unexpected: u64,
}

/// The counters that [`Platform::count`] increments.
#[derive(Clone, Copy)]
pub(crate) enum Count {
    Authenticated,
    Refused,
    Ping,
    Fault,
    Reply,
    Unexpected,
}

impl Platform {
    /// Creates the state of a platform with valid options.
    pub(crate) fn new(
        options: Options,
        declared: Option<Service>,
        journal: Journal,
        recognised: Recognised,
    ) -> Self {
        let step = options.created_step();
        let clock_offset = options.entries.clock_offset;
        let tokens = if declared.is_some() {
            Vec::new()
        } else {
            options.tokens
        };
        Self {
            entries: Entries::new(options.seed, options.start, step, options.size)
                .with_options(options.entries),
            feed: Feed::new(
                options.rate,
                options.hold,
                options.count,
                declared.as_ref().is_some_and(Service::replays),
            ),
            declared,
            plan: Plan::new(options.faults, Instant::now()),
            // A declared feed has no tokens of the platform.
            iam: Iam::new(tokens, options.token_options, clock_offset),
            rest: options.rest,
            spread: options.spread,
            journal,
            recognised,
            tally: Tally::default(),
            cut: watch::Sender::new(()),
            activity: watch::Sender::new(()),
        }
    }

    /// Counts a request for a WebSocket connection and returns its number, starting from 1.
    pub(crate) fn next_connection(&self) -> u64 {
        let number = self.tally.connections.fetch_add(1, Ordering::Relaxed) + 1;
        self.activity.send_replace(());
        number
    }

    /// Counts a REST request and returns its number, starting from 1.
    pub(crate) fn next_request(&self) -> u64 {
        let number = self.tally.requests.fetch_add(1, Ordering::Relaxed) + 1;
        self.activity.send_replace(());
        number
    }

    pub(crate) fn count(&self, what: Count) {
        let counter = match what {
            Count::Authenticated => &self.tally.authenticated,
            Count::Refused => &self.tally.refused,
            Count::Ping => &self.tally.pings,
            Count::Fault => &self.tally.faults,
            Count::Reply => &self.tally.replies,
            Count::Unexpected => &self.tally.unexpected,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.activity.send_replace(());
    }

    /// Marks positions as sent by a connection and returns the positions that no connection had sent before.
    pub(crate) fn mark_sent(
        &self,
        connection: u64,
        positions: RangeInclusive<u64>,
    ) -> Vec<RangeInclusive<u64>> {
        let fresh = self.feed.mark_sent(connection, positions);
        let sent = fresh.iter().map(|range| range.end() - range.start() + 1).sum();
        self.tally.sent.fetch_add(sent, Ordering::Relaxed);
        fresh
    }

    pub(crate) fn count_frames(&self, frames: u64) {
        self.tally.frames.fetch_add(frames, Ordering::Relaxed);
        self.activity.send_replace(());
    }

    pub(crate) fn count_acknowledged(&self, events: u64) {
        self.tally.acknowledged.fetch_add(events, Ordering::Relaxed);
        self.activity.send_replace(());
    }

    pub(crate) fn counters(&self) -> Counters {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            connections: load(&self.tally.connections),
            open: load(&self.tally.open),
            most_open: load(&self.tally.most_open),
            authenticated: load(&self.tally.authenticated),
            refused: load(&self.tally.refused),
            sent: load(&self.tally.sent),
            frames: load(&self.tally.frames),
            pings: load(&self.tally.pings),
            faults: load(&self.tally.faults),
            requests: load(&self.tally.requests),
            acknowledged: load(&self.tally.acknowledged),
            replies: load(&self.tally.replies),
            unexpected: load(&self.tally.unexpected),
        }
    }
}

/// The membership of an authenticated connection in the feed; ends when dropped.
#[derive(Debug)]
pub(crate) struct Membership<'a> {
    platform: &'a Platform,
    connection: u64,
    token: String,
}

impl<'a> Membership<'a> {
    /// Joins the feed and returns the first position for this connection.
    pub(crate) fn join(platform: &'a Platform, connection: u64, token: String, start: Start) -> (Self, u64) {
        // The sequence starts together with the clock that releases entries, so that no entry is sent before its
        // creation time.
        platform.entries.begin();
        let first = platform.feed.join(connection, start, Instant::now());
        let open = platform.tally.open.fetch_add(1, Ordering::Relaxed) + 1;
        platform.tally.most_open.fetch_max(open, Ordering::Relaxed);
        platform.count(Count::Authenticated);
        platform.iam.join(&token, connection);
        (
            Self {
                platform,
                connection,
                token,
            },
            first,
        )
    }
}

impl Drop for Membership<'_> {
    fn drop(&mut self) {
        self.platform.iam.leave(&self.token, self.connection);
        self.platform.feed.leave(self.connection, Instant::now());
        self.platform.tally.open.fetch_sub(1, Ordering::Relaxed);
        self.platform.activity.send_replace(());
    }
}
