//! The listener and its connections.

use std::{io, net::SocketAddr, panic, path::PathBuf, sync::Arc, time::Duration};

use rustls::ServerConfig;
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpStream},
    select,
    sync::watch,
    task::{JoinError, JoinSet},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{either::Either, sync::CancellationToken};
use tracing::{debug, warn};

use crate::{
    connection::{self, Socket},
    entries::Entries,
    faults::Plan,
    feed::Feed,
    handle::Handle,
    journal::Journal,
    options::{Options, OptionsError},
    platform::{Platform, Tally},
    tls::{self, TlsError},
};

/// More connections than this wait in the system's own queue.
const MAX_CONNECTIONS: usize = 4_096;

const TLS_TIMEOUT: Duration = Duration::from_secs(10);

/// How often the record goes to the operating system: a reader of the file is never further behind.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// How long connections may take to close once the simulator is stopped.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// The simulated platform, bound to its address.
#[derive(Debug)]
pub struct Simulator {
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    record: Option<PathBuf>,
    handle: Handle,
}

/// Why a simulator cannot start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BindError {
    /// Options that cannot be used.
    #[error("the simulator's options cannot be used")]
    Options(#[from] OptionsError),
    /// TLS cannot be served.
    #[error("the simulator cannot serve TLS")]
    Tls(#[from] TlsError),
    /// The record cannot be created.
    #[error("the record {path:?} cannot be created")]
    Record {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The address cannot be listened at.
    #[error("the simulator cannot listen at {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
}

/// Why a simulator has stopped by itself.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// The record cannot be written; it ends with whole frames or in the middle of one.
    #[error("the record {path:?} cannot be written")]
    Record {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl Simulator {
    /// Binds the listener and creates the record; connections are served once [`Simulator::run`] runs.
    ///
    /// # Errors
    /// Says which option cannot be used, which file cannot be read or created, or why the address cannot be had.
    pub async fn bind(options: Options) -> Result<Self, BindError> {
        options.check()?;
        let tls = options.tls.as_ref().map(tls::server_config).transpose()?;
        let listen = |source| BindError::Listen {
            address: options.listen,
            source,
        };
        let listener = TcpListener::bind(options.listen).await.map_err(listen)?;
        let local_addr = listener.local_addr().map_err(listen)?;
        // Last, so that a start that fails does not empty the record of the one before.
        let journal = Journal::create(options.record.as_deref(), options.keep_frames).map_err(|source| {
            BindError::Record {
                path: options.record.clone().unwrap_or_default(),
                source,
            }
        })?;
        let platform = Platform {
            entries: Entries::new(options.seed, options.start, options.created_step(), options.size),
            feed: Feed::new(options.rate, options.hold, options.count),
            plan: Plan::new(options.faults, Instant::now()),
            tokens: options.tokens,
            journal,
            tally: Tally::default(),
            cut: watch::Sender::new(()),
            activity: watch::Sender::new(()),
        };
        let handle = Handle {
            platform: Arc::new(platform),
            local_addr,
        };
        Ok(Self {
            listener,
            tls,
            record: options.record,
            handle,
        })
    }

    /// Gives the address that the simulator listens at, with the port that was taken.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.handle.local_addr
    }

    /// Gives control over the simulator while it runs.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Serves until `stop` is cancelled; then closes all connections with 1001, at most within two seconds, and completes the
    /// record. Dropped earlier, it ends all connections at once, and the last second of the record may be missing.
    ///
    /// # Errors
    /// Ends by itself only when the record cannot be written.
    pub async fn run(self, stop: CancellationToken) -> Result<(), RunError> {
        let stop = stop.child_token();
        let mut connections = JoinSet::new();
        let result = self.accept(&mut connections, &stop).await;
        // Connections write to the record until they have ended, so it is completed after them.
        stop.cancel();
        let deadline = Instant::now() + STOP_TIMEOUT;
        while let Ok(Some(joined)) = timeout_at(deadline, connections.join_next()).await {
            pass_panic_on(joined);
        }
        connections.shutdown().await;
        result.and(self.flush())
    }

    async fn accept(&self, connections: &mut JoinSet<()>, stop: &CancellationToken) -> Result<(), RunError> {
        let mut flush = interval(FLUSH_INTERVAL);
        flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Some(joined) = connections.join_next() => pass_panic_on(joined),
                _ = flush.tick() => self.flush()?,
                accepted = self.listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                    Ok((stream, peer)) => {
                        debug!(%peer, "connection");
                        connections.spawn(serve(stream, self.tls.clone(), self.handle.platform.clone(), stop.clone()));
                    }
                    Err(error) => {
                        // Too many open files, mostly: it passes when connections end, and must not become a hot loop.
                        warn!(%error, "no connection can be accepted");
                        sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
    }

    fn flush(&self) -> Result<(), RunError> {
        self.handle
            .platform
            .journal
            .flush()
            .map_err(|source| RunError::Record {
                path: self.record.clone().unwrap_or_default(),
                source,
            })
    }
}

async fn serve(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    platform: Arc<Platform>,
    stop: CancellationToken,
) {
    // A single event must not wait for the acknowledgement of the one before.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "small frames may be delayed");
    }
    let socket: Socket = match tls {
        None => Either::Left(stream),
        Some(tls) => match timeout(TLS_TIMEOUT, TlsAcceptor::from(tls).accept(stream)).await {
            Ok(Ok(stream)) => Either::Right(Box::new(stream)),
            Ok(Err(error)) => return debug!(%error, "no TLS"),
            Err(_) => return debug!("no TLS within {TLS_TIMEOUT:?}"),
        },
    };
    connection::serve(socket, platform, stop).await;
}

fn pass_panic_on(joined: Result<(), JoinError>) {
    if let Err(error) = joined
        && error.is_panic()
    {
        panic::resume_unwind(error.into_panic());
    }
}
