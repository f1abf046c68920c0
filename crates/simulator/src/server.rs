//! The TCP listener and the tasks of its connections.

use std::{io, net::SocketAddr, panic, path::PathBuf, sync::Arc, time::Duration};

use rustls::ServerConfig;
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpStream},
    select,
    task::{JoinError, JoinSet},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{either::Either, sync::CancellationToken};
use tracing::{debug, warn};

use crate::{
    connection::{self, Socket},
    declared::{FeedError, Service},
    handle::Handle,
    journal::Journal,
    options::{Options, OptionsError},
    platform::Platform,
    recognised::Recognised,
    tls::{self, TlsError},
};

/// The largest number of open connections; further ones wait in the operating system's accept queue.
const MAX_CONNECTIONS: usize = 4_096;

/// The time limit for a TLS handshake.
const TLS_TIMEOUT: Duration = Duration::from_secs(10);

/// The interval at which the records are written to the operating system, and so the largest delay for a reader of the
/// files.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// The time limit for connections to close after the simulator was stopped.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// The simulated platform, bound to its address.
#[derive(Debug)]
pub struct Simulator {
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    record: Option<PathBuf>,
    recognised: Option<PathBuf>,
    acknowledged: Option<PathBuf>,
    handle: Handle,
}

/// An error that prevents the simulator from starting.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BindError {
    /// An option has an invalid value.
    #[error("invalid simulator options")]
    Options(#[from] OptionsError),
    /// The declared feed cannot be played.
    #[error("cannot play the declared feed")]
    Feed(#[from] FeedError),
    /// The TLS files are unusable.
    #[error("cannot set up TLS")]
    Tls(#[from] TlsError),
    /// The record of sent frames or the record of recognised entries cannot be created.
    #[error("cannot create the record {path:?}")]
    Record {
        /// The path of the record.
        path: PathBuf,
        /// The cause, as the operating system reported it.
        source: io::Error,
    },
    /// The address cannot be bound.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address to listen on.
        address: SocketAddr,
        /// The cause, as the operating system reported it.
        source: io::Error,
    },
}

/// An error that stops a running simulator.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// A record cannot be written; the file may end in the middle of a line.
    #[error("cannot write the record {path:?}")]
    Record {
        /// The path of the record.
        path: PathBuf,
        /// The cause, as the operating system reported it.
        source: io::Error,
    },
}

impl Simulator {
    /// Binds the listener and creates the records; connections are served once [`Simulator::run`] runs.
    ///
    /// # Errors
    /// Returns an error if an option is invalid, if a file cannot be read or created, or if the address cannot be
    /// bound.
    pub async fn bind(mut options: Options) -> Result<Self, BindError> {
        options.check()?;
        if let Some(feed) = &mut options.feed {
            options.faults.append(&mut feed.script.faults);
        }
        let tls = options.tls.as_ref().map(tls::server_config).transpose()?;
        let listen = |source| BindError::Listen {
            address: options.listen,
            source,
        };
        let listener = TcpListener::bind(options.listen).await.map_err(listen)?;
        let local_addr = listener.local_addr().map_err(listen)?;
        let acknowledged = options.feed.as_ref().and_then(|feed| feed.acknowledged.clone());
        let declared = match options.feed.take() {
            Some(feed) => Some(Service::new(
                feed,
                options.seed,
                options.created_step(),
                options.start,
            )?),
            None => None,
        };
        if let Some(service) = &declared {
            let mut rules = options.faults.iter();
            if let Some(rule) = rules.find(|rule| !service.supports(rule.reaction())) {
                return Err(FeedError::new(format!(
                    "the declared feed does not support the fault rule `{rule}`"
                ))
                .into());
            }
        }
        // The records are created last, so that a failed start does not truncate the records of an earlier run.
        let journal = Journal::create(options.record.as_deref(), options.keep_frames).map_err(|source| {
            BindError::Record {
                path: options.record.clone().unwrap_or_default(),
                source,
            }
        })?;
        let recognised =
            Recognised::create(options.recognised.as_deref()).map_err(|source| BindError::Record {
                path: options.recognised.clone().unwrap_or_default(),
                source,
            })?;
        let record = options.record.clone();
        let recognised_path = options.recognised.clone();
        let platform = Platform::new(options, declared, journal, recognised);
        let handle = Handle {
            platform: Arc::new(platform),
            local_addr,
        };
        Ok(Self {
            listener,
            tls,
            record,
            recognised: recognised_path,
            acknowledged,
            handle,
        })
    }

    /// Returns the address that the simulator listens on, with the port that the operating system assigned.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.handle.local_addr
    }

    /// Returns a handle that controls the running simulator.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Serves connections until `stop` is cancelled; then closes all of them with code 1001 within two seconds and
    /// completes the records. If the future is dropped earlier, all connections end at once, and the last second of the
    /// records may be missing.
    ///
    /// # Errors
    /// Returns an error only if a record cannot be written.
    pub async fn run(self, stop: CancellationToken) -> Result<(), RunError> {
        let stop = stop.child_token();
        let mut connections = JoinSet::new();
        let result = self.accept(&mut connections, &stop).await;
        let stopped = Instant::now();
        // Connections write to the records until they end, so the records are completed after them.
        stop.cancel();
        let deadline = Instant::now() + STOP_TIMEOUT;
        while let Ok(Some(joined)) = timeout_at(deadline, connections.join_next()).await {
            propagate_panic(joined);
        }
        connections.shutdown().await;
        result.and_then(|()| self.flush(stopped))
    }

    async fn accept(&self, connections: &mut JoinSet<()>, stop: &CancellationToken) -> Result<(), RunError> {
        let mut flush = interval(FLUSH_INTERVAL);
        flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Some(joined) = connections.join_next() => propagate_panic(joined),
                _ = flush.tick() => self.flush(Instant::now())?,
                accepted = self.listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                    Ok((stream, peer)) => {
                        debug!(%peer, "connection accepted");
                        connections.spawn(serve(stream, self.tls.clone(), self.handle.platform.clone(), stop.clone()));
                    }
                    Err(error) => {
                        // The usual cause is too many open files. It disappears when connections end, and must not
                        // cause a hot loop.
                        warn!(%error, "cannot accept a connection");
                        sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
    }

    fn flush(&self, now: Instant) -> Result<(), RunError> {
        let platform = &*self.handle.platform;
        let failed = |path: &Option<PathBuf>, source| RunError::Record {
            path: path.clone().unwrap_or_default(),
            source,
        };
        platform
            .journal
            .flush()
            .map_err(|source| failed(&self.record, source))?;
        platform
            .recognised
            .write(platform, now)
            .map_err(|source| failed(&self.recognised, source))?;
        match &platform.declared {
            Some(service) => service
                .flush()
                .map_err(|source| failed(&self.acknowledged, source)),
            None => Ok(()),
        }
    }
}

async fn serve(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    platform: Arc<Platform>,
    stop: CancellationToken,
) {
    // Without TCP_NODELAY, an event may wait for the TCP acknowledgement of the previous event.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "cannot set TCP_NODELAY; small frames may be delayed");
    }
    let socket: Socket = match tls {
        None => Either::Left(stream),
        Some(tls) => match timeout(TLS_TIMEOUT, TlsAcceptor::from(tls).accept(stream)).await {
            Ok(Ok(stream)) => Either::Right(Box::new(stream)),
            Ok(Err(error)) => return debug!(%error, "TLS handshake failed"),
            Err(_) => return debug!("TLS handshake did not complete within {TLS_TIMEOUT:?}"),
        },
    };
    connection::serve(socket, platform, stop).await;
}

fn propagate_panic(joined: Result<(), JoinError>) {
    if let Err(error) = joined
        && error.is_panic()
    {
        panic::resume_unwind(error.into_panic());
    }
}
