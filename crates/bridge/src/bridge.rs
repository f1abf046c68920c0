//! The bridge: builds its parts from the configuration, runs them, and drains them in order.

mod reload;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use neurobridge_cluster::Standby;
use neurobridge_core::sink_type::InCluster;
use neurobridge_spool::Spool;
use nix::unistd::gethostname;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::{JoinHandle, spawn_blocking},
    time::{Instant as Deadline, interval, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{error, info, warn};

use crate::{
    cluster::Cluster,
    config::Config,
    control::{Control, Greeting, PendingRequest},
    data_dir::DataDir,
    deliveries::{Deliveries, PreparedSink},
    exit::{Exit, Failure, OrExit},
    feed::Feed,
    history::{History, Recorder},
    http::{self, Access, Status},
    member,
    parts::Parts,
    reload::{Configuration, Reloader},
    signals::Signals,
    spool,
    state::{State, View},
    systemd,
    task::joined,
};

/// The largest number of requests that wait for the bridge.
const MAX_REQUESTS: usize = 4;
/// The time limit for the end of all parts after the drain timeout.
const ABORT_LIMIT: Duration = Duration::from_secs(3);
/// The drain ends early after no sink has needed it for this time (see [`Bridge::needs_drain`]). Longer than a reconnection
/// takes.
const DRAIN_GRACE: Duration = Duration::from_secs(1);
/// The interval at which the drain checks whether a sink needs it.
const DRAIN_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// A running bridge. All tasks stop immediately on drop.
pub(crate) struct Bridge {
    state: Arc<State>,
    drain_timeout: Duration,
    address: SocketAddr,
    feed: Feed,
    sinks: Deliveries,
    http: JoinHandle<()>,
    stop_http: CancellationToken,
    /// `None` if the socket could not be created: then other commands cannot send requests to this bridge.
    control: Option<JoinHandle<()>>,
    stop_control: CancellationToken,
    /// What the control socket states about the running configuration.
    greeting: watch::Sender<Greeting>,
    requests: mpsc::Receiver<PendingRequest>,
    /// The sender of `requests`, so that the channel stays open.
    requester: mpsc::Sender<PendingRequest>,
    /// `None` if the configuration was built in code.
    reloader: Option<Reloader>,
    /// `None` once the end of the run is recorded.
    recorder: Option<Recorder<State>>,
    /// The reports to the other members of the cluster, and the standby of the sources.
    _in_cluster: [AbortOnDropHandle<()>; 2],
    /// Dropped last, so that the folder stays locked until all parts have ended.
    _data_dir: DataDir,
}

impl Bridge {
    /// Builds and starts all parts: the sinks first, so that their readers miss no event.
    ///
    /// # Errors
    /// Returns an error if a file or key cannot be read, or the address is not available. Parts that have started are
    /// stopped.
    pub(crate) async fn start(config: &Config) -> Result<Self, Failure> {
        // Locked first: "another bridge runs" is a more helpful error than "address in use".
        let data_dir = DataDir::lock(&config.data_dir).await?;
        let spool = spool::open(config).await?;
        let listener = http::bind(config.http.listen)
            .await
            .with_context(|| {
                format!(
                    "cannot listen on http.listen = \"{}\"; if another bridge runs there, stop it, or set \
                     http.listen of this bridge to another address",
                    config.http.listen
                )
            })
            .or_exit(Exit::Unavailable)?;
        Self::start_on(listener, config, data_dir, spool).await
    }

    /// As [`start`](Self::start), with a listener, a data folder and a spool that are open already.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub(crate) async fn start_on(
        listener: TcpListener,
        config: &Config,
        data_dir: DataDir,
        spool: Spool,
    ) -> Result<Self, Failure> {
        let address = listener.local_addr().or_exit(Exit::Unavailable)?;
        let history = open_history(config).await;
        let access = Access::open(&config.http).await.or_exit(Exit::Config)?;
        let parts = Arc::<Parts>::default();
        let cluster = match &config.cluster {
            Some(cluster) => Some(Cluster::join(cluster, config).await?),
            None => None,
        };
        let lead = cluster.as_ref().map(|cluster| cluster.lead().clone());
        let mut sinks = Deliveries::new(config, spool.clone(), Arc::clone(&parts), lead).await?;
        for name in config.sinks.keys() {
            let prepared = PreparedSink::new(name, config, &sinks).await?;
            drop(sinks.run_sink(prepared));
        }

        for name in spool.release_unopened_readers() {
            warn!(
                sink = name,
                "cursor of a sink that is not configured; the spool no longer retains events for this sink"
            );
        }

        let stop_control = CancellationToken::new();
        let greeting = watch::Sender::new(Greeting::new(&spool.id(), config));
        let (requester, requests) = mpsc::channel(MAX_REQUESTS);
        let control = match Control::bind(&config.data_dir).await {
            Ok(control) => {
                let serving = control.serve(
                    spool.clone(),
                    greeting.subscribe(),
                    requester.clone(),
                    stop_control.clone(),
                );
                Some(tokio::spawn(serving))
            }
            Err(error) => {
                // The folder may not support sockets.
                warn!(%error, data_dir = %config.data_dir.display(), "control socket not available; commands cannot reach this bridge");
                None
            }
        };
        let state = Arc::new(State {
            started: Instant::now(),
            instance: instance(address),
            parts,
            spool,
            http: Arc::default(),
            history,
            configuration: Configuration::new(config),
            cluster,
        });
        let feed = Feed::start(
            config,
            state.spool.clone(),
            sinks.dead_letters(),
            Arc::clone(&state.parts),
            Some(Arc::clone(&state)),
        )
        .await?;
        let in_cluster = [
            tokio::spawn(member::report(Arc::clone(&state))),
            tokio::spawn(member::stand_by(Arc::clone(&state))),
        ];
        let in_cluster = in_cluster.map(AbortOnDropHandle::new);
        let recorder = Some(Recorder::start(Arc::clone(&state)));
        let stop_http = CancellationToken::new();
        let http = tokio::spawn(http::serve(
            listener,
            config.http.hosts.clone(),
            access,
            Arc::clone(&state),
            stop_http.clone(),
        ));
        info!(listen = %address, sources = config.sources.len(), sinks = config.sinks.len(), "bridge started");
        Ok(Self {
            state,
            drain_timeout: config.drain_timeout,
            address,
            feed,
            sinks,
            http,
            stop_http,
            control,
            stop_control,
            greeting,
            requests,
            requester,
            reloader: None,
            recorder,
            _in_cluster: in_cluster,
            _data_dir: data_dir,
        })
    }

    /// Returns the address of the HTTP server.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the state shown by `/status` and the metrics.
    pub(crate) fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Allows reloads of the configuration with which the bridge was started.
    pub(crate) fn allow_reload(&mut self, reloader: Reloader) {
        self.reloader = Some(reloader);
    }

    /// Returns a sender of requests, which the bridge performs while it runs.
    pub(crate) fn requester(&self) -> mpsc::Sender<PendingRequest> {
        self.requester.clone()
    }

    /// Runs until a signal or the failure of a part, then drains. Logs the ledger.
    ///
    /// # Errors
    /// Returns the failure of a part, or an error if events in memory were not delivered in time.
    pub(crate) async fn run(self, signals: &mut Signals) -> Result<(), Failure> {
        self.run_until(CancellationToken::new(), signals).await
    }

    /// As [`run`](Self::run), and stops also when `stop` is cancelled.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub(crate) async fn run_until(
        mut self,
        stop: CancellationToken,
        signals: &mut Signals,
    ) -> Result<(), Failure> {
        let (mut cause, reason) = tokio::select! {
            biased;
            () = stop.cancelled() => (None, "requested".to_owned()),
            signal = signals.next() => {
                info!(signal, timeout = ?self.drain_timeout, "draining; a second signal stops at once");
                (None, signal.to_string())
            }
            failure = self.failed() => {
                error!(error = %failure, "a part of the bridge failed; draining");
                let reason = failure.to_string();
                (Some(failure), reason)
            }
        };
        // The clients of the requests that are dropped receive the answer that the bridge is stopping.
        self.requests.close();
        while let Ok(pending) = self.requests.try_recv() {
            drop(pending);
        }
        let deadline = Deadline::now() + self.drain_timeout;
        systemd::notify_stopping().await;
        tokio::select! {
            biased;
            signal = signals.next() => warn!(signal, "stopping at once; pending events are not delivered before the exit"),
            drained = timeout_at(deadline, self.drain()) => match drained {
                Ok(failure) => cause = cause.or(failure),
                Err(_) if self.state.view().sinks.iter().all(|sink| sink.ledger.pending == 0) => {}
                Err(_) => warn!(
                    timeout = ?self.drain_timeout,
                    "drain timeout exceeded; pending events are not delivered before the exit"
                ),
            }
        }
        // The member leaves after its last message, so that the next leader continues at once.
        if let Some(cluster) = &self.state.cluster {
            member::update_settled_positions(&self.state);
            cluster.leave().await;
        }
        cause = cause.or(self.abort().await);
        // Saves the final cursors, so all sinks have ended before. The limit: a hanging disk must not delay the exit for ever.
        let finished = timeout(ABORT_LIMIT, self.state.spool.finish()).await;
        let cause = match finished {
            Ok(Err(error)) => cause.or_else(|| Some(Failure::new(Exit::Disk, error))),
            Ok(Ok(())) => cause,
            Err(_) => {
                warn!(limit = ?ABORT_LIMIT, "cursors not saved within the limit; the next start may send events again");
                cause
            }
        };
        if let Some(recorder) = self.recorder.take() {
            recorder.stop(&reason).await;
        }
        self.finish(cause)
    }

    /// Waits until a part of the bridge ends unexpectedly. Meanwhile performs requests, such as those of the control socket.
    async fn failed(&mut self) -> Failure {
        let spool = self.state.spool.clone();
        loop {
            let pending = tokio::select! {
                failure = self.feed.failed() => return failure,
                // An append would fail too, but without events there is no append.
                error = spool.failed() => return Failure::new(Exit::Disk, error),
                failure = self.sinks.failed() => return failure,
                ended = &mut self.http => {
                    joined(ended);
                    return Failure::message(Exit::Unavailable, "the HTTP server stopped unexpectedly");
                }
                Some(pending) = self.requests.recv() => pending,
            };
            self.perform(pending).await;
        }
    }

    /// Stops the sources and the intake, then waits until the sinks have delivered all stored events. Ends earlier if no sink
    /// needs the drain: the feed is closed, so each second until the restart is a gap. Returns the failure of a sink.
    async fn drain(&mut self) -> Option<Failure> {
        self.feed.drain().await;
        self.state.spool.close();
        self.sinks.drain();
        let mut failure = None;
        let mut checks = interval(DRAIN_CHECK_INTERVAL);
        let mut needed_at = Deadline::now();
        loop {
            tokio::select! {
                biased;
                ended = self.sinks.next_ended() => match ended {
                    Some(ended) => failure = failure.or(ended),
                    None => return failure,
                },
                now = checks.tick() => {
                    if self.needs_drain() {
                        needed_at = now;
                    } else if now.duration_since(needed_at) >= DRAIN_GRACE {
                        return failure;
                    }
                }
            }
        }
    }

    /// Returns whether a sink can still deliver pending events, or would lose them at the stop. A spool on disk keeps the pending
    /// events of a sink that is not up. Those of a follower are published by the leader.
    fn needs_drain(&self) -> bool {
        let view = self.state.view();
        let is_durable = view.spool.kind == "disk";
        let follows = self
            .state
            .cluster
            .as_ref()
            .is_some_and(|cluster| !cluster.lead().is_held());
        view.sinks.iter().any(|sink| {
            let is_left = follows && matches!(sink.handle.in_cluster, InCluster::Shared { .. });
            sink.ledger.pending > 0 && !is_left && (sink.is_up() || !is_durable)
        })
    }

    /// Ends all parts that are still running. Returns the failure of a sink.
    async fn abort(&mut self) -> Option<Failure> {
        self.state.spool.close();
        self.sinks.abort();
        let deadline = Deadline::now() + ABORT_LIMIT;
        let mut failure = None;
        while let Ok(Some(ended)) = timeout_at(deadline, self.sinks.next_ended()).await {
            failure = failure.or(ended);
        }
        self.sinks.abort_all();
        self.stop_control.cancel();
        if let Some(control) = self.control.take() {
            // The task has its own time limit for clients that still read.
            joined(control.await);
        }
        self.stop_http.cancel();
        failure
    }

    fn finish(self, cause: Option<Failure>) -> Result<(), Failure> {
        let view = self.state.view();
        for line in Status::of(&view).ledger().lines() {
            info!("{line}");
        }
        let lost = Self::lost(&view);
        match (cause, lost) {
            (Some(failure), Some(lost)) => {
                // The exit code is that of the cause, so the loss is only logged.
                error!(reason = %lost, "events lost at the stop");
                Err(failure)
            }
            (Some(failure), None) => Err(failure),
            (None, Some(lost)) => Err(Failure::message(Exit::TryLater, lost)),
            (None, None) => Ok(()),
        }
    }

    /// Returns a description of the events that are lost at the stop, if any.
    fn lost(view: &View<'_>) -> Option<String> {
        let in_flight: u64 = view.sources.iter().map(|source| source.ledger.in_flight).sum();
        let pending = view
            .sinks
            .iter()
            .map(|sink| sink.ledger.pending)
            .max()
            .unwrap_or(0);
        let is_durable = view.spool.kind == "disk";
        if is_durable && pending > 0 {
            info!("{pending} pending events stored in the spool; they are delivered after the next start");
        }
        if in_flight == 0 && (is_durable || pending == 0) {
            return None;
        }
        if is_durable {
            return Some(format!(
                "{in_flight} events were not stored in the spool within drain_timeout and are lost; increase \
                 drain_timeout"
            ));
        }
        Some(format!(
            "{} events in memory were not delivered within drain_timeout and are lost ({pending} pending at a sink, \
             {in_flight} not yet in the spool); increase drain_timeout, or use a spool on disk",
            in_flight + pending
        ))
    }
}

/// Reads the history. The file system may hang.
async fn open_history(config: &Config) -> History {
    let data_dir = config.data_dir.clone();
    let sources: Vec<(String, bool)> = config
        .sources
        .iter()
        .map(|(name, source)| (name.clone(), config.handles_gaps(source)))
        .collect();
    let is_cold = config
        .cluster
        .as_ref()
        .is_some_and(|cluster| cluster.standby == Standby::Cold);
    let open = move || {
        let sources: Vec<(&str, bool)> = sources
            .iter()
            .map(|(name, fills)| (name.as_str(), *fills))
            .collect();
        if is_cold {
            History::open_standby(&data_dir, &sources)
        } else {
            History::open(&data_dir, &sources)
        }
    };
    joined(spawn_blocking(open).await)
}

/// Returns the name of this bridge among others: its host and the port of its HTTP server, as Prometheus names a target.
fn instance(address: SocketAddr) -> String {
    let host = gethostname().unwrap_or_default();
    format!("{}:{}", host.to_string_lossy(), address.port())
}
