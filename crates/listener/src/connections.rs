//! Opens and replaces the connections of a source: as many as configured. A connection that ends is opened again; one with an
//! old token, an old address or its maximum age is replaced before it is closed.

use std::time::Duration;

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    select,
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug_span, info, warn};

use crate::{
    attempts::{Report, Slot, keep_connected},
    connection::{Dial, Outlet, SourceLink},
    error::SourceError,
    handle::{Live, TokenState},
    secrets,
    source::{Replacement, Setup},
};

/// The time between the first attempts of two connections, so that a fault at the start does not affect all of them.
const STAGGER: Duration = Duration::from_secs(1);
/// The time after the authentication of a connection within which the end of another one counts as displacement: the platform
/// may have closed it because of the new connection.
const DISPLACED_WITHIN: Duration = Duration::from_secs(2);
/// The number of consecutive displacements after which the platform is assumed to allow one connection for each token.
const DISPLACED: u32 = 3;

/// The time for which a replaced connection stays open after the new one is authenticated: a platform may answer AUTH before it
/// sends events to the new connection.
pub const REPLACEMENT_OVERLAP: Duration = Duration::from_secs(1);

/// The state of one connection, as recorded by its [`Owner`].
struct Connection {
    number: u64,
    stop: CancellationToken,
    /// Cancelled when the connection is being replaced.
    replaced: CancellationToken,
    /// The time of the authentication; `None` while the connection is not authenticated.
    authenticated_at: Option<Instant>,
    /// The version of the token with which the connection authenticated last.
    version: u64,
    /// The time at which the connection reaches its maximum age.
    expires_at: Option<Instant>,
    /// The time at which the connection is closed, because its replacement is authenticated.
    closes_at: Option<Instant>,
    /// The number of the connection that this one replaces, until this one is authenticated.
    replaces: Option<u64>,
    /// The number of the replaced connection that is about to be closed, because this one is authenticated.
    closing: Option<u64>,
}

/// Keeps the connections of a source open, until the source is stopped. Runs in a tracing span.
pub(crate) async fn run<D: Dial, O: Outlet>(setup: Setup<D>, link: SourceLink<O>) -> Result<(), SourceError> {
    let span = debug_span!("source", source = %link.name);
    async {
        match link.may_connect.clone() {
            None => keep_open(&setup, &link).await,
            Some(may_connect) => keep_open_while(may_connect, &setup, &link).await,
        }
    }
    .instrument(span)
    .await
}

/// Keeps the connections open while the program allows it.
async fn keep_open_while<D: Dial, O: Outlet>(
    mut may_connect: watch::Receiver<bool>,
    setup: &Setup<D>,
    link: &SourceLink<O>,
) -> Result<(), SourceError> {
    loop {
        if !*may_connect.borrow() {
            link.stats.stand_by();
            let allowed = select! {
                biased;
                () = link.stop.cancelled() => return Ok(()),
                () = link.items.closed() => return Ok(()),
                allowed = may_connect.wait_for(|may_connect| *may_connect) => allowed.is_ok(),
            };
            // Without a sender, connecting will never be allowed again.
            if !allowed {
                link.stop.cancelled().await;
                return Ok(());
            }
            link.stats.end_standby();
        }
        let mut allowed = link.for_connection(link.stop.child_token());
        allowed.replacement = link.replacement.clone();
        let end = allowed.stop.clone();
        let forbidden = async {
            if may_connect.wait_for(|may_connect| !*may_connect).await.is_ok() {
                info!(source = %link.name, "standby: closing the connections until this member leads");
                end.cancel();
            }
            std::future::pending::<Result<(), SourceError>>().await
        };
        select! {
            result = keep_open(setup, &allowed) => result?,
            never = forbidden => never?,
        }
        if link.stop.is_cancelled() || link.items.is_closed() || !end.is_cancelled() {
            return Ok(());
        }
    }
}

/// Keeps the configured number of connections open until the source is stopped, and replaces them after changes.
async fn keep_open<D: Dial, O: Outlet>(setup: &Setup<D>, link: &SourceLink<O>) -> Result<(), SourceError> {
    let (reports, mut reported) = mpsc::unbounded_channel();
    let mut owner = Owner {
        live: setup.reader.live.clone(),
        max_age: setup.protocol.max_age(),
        name: link.name.to_string(),
        replacement: link.replacement.clone(),
        connections: Vec::new(),
        last: 0,
        displaced: 0,
    };
    let mut running = FuturesUnordered::new();
    let mut failure = None;
    // `link` itself receives nothing: each connection has a link of its own.
    let open = |connection: &Connection, delay: Duration| {
        let (number, replaced) = (connection.number, connection.replaced.clone());
        let link = link.for_connection(connection.stop.clone());
        let reports = reports.clone();
        async move {
            let slot = Slot {
                number,
                replaced,
                reports,
            };
            if link.stop.run_until_cancelled(sleep(delay)).await.is_none() {
                return (number, Ok(()));
            }
            let span = debug_span!("connection", number);
            (number, keep_connected(setup, link, slot).instrument(span).await)
        }
    };
    for index in 0..setup.config.connections {
        let connection = owner.add(&link.stop, None);
        running.push(open(connection, STAGGER * index));
    }
    let mut secret_files = secrets::SecretFileWatch::new(setup.reader.clone());
    let mut live_changes = setup.reader.live.changes();
    let mut waits_for_token = setup.reader.waits_for_token();
    loop {
        select! {
            biased;
            ended = running.next() => {
                let Some((number, result)) = ended else {
                    return failure.map_or(Ok(()), Err);
                };
                owner.connections.retain(|connection| connection.number != number);
                owner.note_token();
                if let Err(error) = result {
                    failure.get_or_insert(error);
                    owner.stop();
                }
            }
            Some((number, report)) = reported.recv() => owner.report(number, report, Instant::now()),
            () = sleep_until(owner.next_change()), if failure.is_none() => {
                owner.close_replaced(Instant::now());
                for number in owner.expired(Instant::now()) {
                    info!(source = %link.name, "connection reached its maximum age; opening its replacement");
                    if let Some(connection) = owner.replace(number, &link.stop) {
                        running.push(open(connection, Duration::ZERO));
                    }
                }
            }
            () = secret_files.changed(), if failure.is_none() => {
                info!(source = %link.name, "secret changed; replacing all connections");
                for number in owner.numbers() {
                    if let Some(connection) = owner.replace(number, &link.stop) {
                        running.push(open(connection, Duration::ZERO));
                    }
                }
            }
            () = live_changes.changed(), if failure.is_none() => {
                // The connections that wait for the first token continue with it.
                if std::mem::take(&mut waits_for_token) && setup.reader.live.version() == 1 {
                    continue;
                }
                info!(source = %link.name, "token or address changed; replacing all connections");
                for number in owner.numbers() {
                    if let Some(connection) = owner.replace(number, &link.stop) {
                        running.push(open(connection, Duration::ZERO));
                    }
                }
            }
        }
    }
}

/// The connections that are open or being opened.
struct Owner {
    live: Live,
    max_age: Option<Duration>,
    name: String,
    replacement: Replacement,
    connections: Vec<Connection>,
    /// The number of the last connection.
    last: u64,
    /// The number of consecutive ends of a connection that followed the authentication of another one.
    displaced: u32,
}

impl Owner {
    fn add(&mut self, stop: &CancellationToken, replaces: Option<u64>) -> &Connection {
        self.last += 1;
        self.connections.push(Connection {
            number: self.last,
            stop: stop.child_token(),
            replaced: self.replacement.replaced.child_token(),
            authenticated_at: None,
            version: 0,
            expires_at: None,
            closes_at: None,
            replaces,
            closing: None,
        });
        &self.connections[self.connections.len() - 1]
    }

    fn find(&mut self, number: u64) -> Option<&mut Connection> {
        self.connections
            .iter_mut()
            .find(|connection| connection.number == number)
    }

    fn numbers(&self) -> Vec<u64> {
        self.connections
            .iter()
            .map(|connection| connection.number)
            .collect()
    }

    /// Records that the current token is in use, if every authenticated connection uses it, and the token was not refused
    /// since the last authentication.
    fn note_token(&self) {
        let current = self.live.version();
        if self.live.handle().token_state() != TokenState::Waiting {
            return;
        }
        let mut open = self
            .connections
            .iter()
            .filter(|connection| connection.authenticated_at.is_some())
            .peekable();
        if open.peek().is_some() && open.all(|connection| connection.version == current) {
            self.live.note(current, TokenState::InUse);
        }
    }

    /// Adds a replacement of a connection. The old connection ends when the replacement is authenticated, or at once if the old
    /// connection is not authenticated. Returns `None` if the old connection is already being replaced.
    fn replace(&mut self, number: u64, stop: &CancellationToken) -> Option<&Connection> {
        let old = self.find(number)?;
        old.expires_at = None;
        if old.replaced.is_cancelled() {
            return None;
        }
        old.replaced.cancel();
        let replaces = if old.authenticated_at.is_some() {
            Some(number)
        } else {
            old.stop.cancel();
            // The old connection may itself be the replacement of one that is still open.
            old.replaces.take()
        };
        Some(self.add(stop, replaces))
    }

    fn report(&mut self, number: u64, report: Report, now: Instant) {
        let max_age = self.max_age;
        if let Report::Authenticated { version } = report {
            self.live.note(version, TokenState::Waiting);
        }
        let Some(connection) = self.find(number) else {
            return;
        };
        match report {
            Report::Authenticated { version } => {
                connection.authenticated_at = Some(now);
                connection.version = version;
                connection.expires_at = max_age
                    .filter(|_| !connection.replaced.is_cancelled())
                    .map(|age| now + age);
                let replaced = connection.replaces.take();
                connection.closing = replaced;
                self.replacement.authenticated.cancel();
                if let Some(old) = replaced.and_then(|number| self.find(number)) {
                    old.closes_at = Some(now + REPLACEMENT_OVERLAP);
                }
            }
            Report::Refused { version } => {
                self.live.note(version, TokenState::Refused);
                return;
            }
            Report::Lost { by_server } => {
                connection.authenticated_at = None;
                connection.expires_at = None;
                // The replaced connection stays open until the new one is authenticated again.
                let kept = connection.closing.take();
                if let Some(old) = kept.and_then(|old| self.find(old))
                    && old.closes_at.take().is_some()
                    && let Some(connection) = self.find(number)
                {
                    connection.replaces = kept;
                }
                let is_displaced = by_server
                    && self.connections.iter().any(|other| {
                        other
                            .authenticated_at
                            .is_some_and(|since| now.saturating_duration_since(since) <= DISPLACED_WITHIN)
                    });
                self.displaced = if is_displaced { self.displaced + 1 } else { 0 };
                if self.displaced >= DISPLACED {
                    self.continue_with_one();
                }
            }
        }
        self.note_token();
    }

    /// Ends all connections except the one that was authenticated last, because the platform closes a connection when another
    /// one with the same token is authenticated.
    fn continue_with_one(&mut self) {
        self.displaced = 0;
        let newest = self
            .connections
            .iter()
            .filter(|connection| !connection.replaced.is_cancelled())
            .max_by_key(|connection| connection.authenticated_at);
        let Some(kept) = newest.map(|connection| connection.number) else {
            return;
        };
        warn!(
            source = self.name,
            "the feed allows one connection for each token; continuing with one"
        );
        for other in self
            .connections
            .iter()
            .filter(|connection| connection.number != kept)
        {
            other.replaced.cancel();
            other.stop.cancel();
        }
    }

    /// Returns the next time at which a connection reaches its maximum age, or a replaced connection has to be closed.
    fn next_change(&self) -> Instant {
        /// Any long time, because the caller calls this function again afterwards.
        const LATER: Duration = Duration::from_secs(86_400);
        let expiries = self
            .connections
            .iter()
            .flat_map(|connection| [connection.expires_at, connection.closes_at])
            .flatten();
        expiries.min().unwrap_or_else(|| Instant::now() + LATER)
    }

    /// Closes the connections whose replacement has been authenticated for [`REPLACEMENT_OVERLAP`].
    fn close_replaced(&mut self, now: Instant) {
        for connection in &mut self.connections {
            if connection.closes_at.take_if(|at| *at <= now).is_some() {
                connection.stop.cancel();
            }
        }
    }

    /// Returns the numbers of the connections that have reached their maximum age.
    fn expired(&self, now: Instant) -> Vec<u64> {
        let expired = |connection: &&Connection| connection.expires_at.is_some_and(|at| at <= now);
        self.connections
            .iter()
            .filter(expired)
            .map(|connection| connection.number)
            .collect()
    }

    fn stop(&self) {
        for connection in &self.connections {
            connection.stop.cancel();
        }
    }
}
