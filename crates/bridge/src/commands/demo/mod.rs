//! `neurobridge demo`: a simulated platform, the bridge and a file sink in one process. The first command for newcomers.

mod content;
mod rates;
mod scenario;
mod screen;
mod stoppable;
mod totals;

use std::{collections::BTreeMap, fs, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Context;
use neurobridge_listener::SourceConfig;
use neurobridge_protocol::{Declaration, SecretSource, shipped_script};
use neurobridge_simulator::{DeclaredFeed, Options, Script, Simulator};
use tokio::{net::TcpListener, sync::watch, time::interval};
use tokio_util::sync::CancellationToken;

use self::{
    content::Locations, scenario::Scenario, screen::Screen, stoppable::StoppableFile, totals::Totals,
};
use crate::{
    bridge::Bridge,
    config::{Config, ConfiguredSink, DEFAULT_SINK, feeds},
    data_dir::DataDir,
    exit::{Exit, Failure, OrExit},
    history,
    http::Status,
    signals::{Signals, Suspension},
    spool,
};

/// The interval at which the state is sampled and the screen is redrawn: short enough to look live, long enough to be
/// read.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(250);
/// The largest backoff delay of the source.
const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// The options of the demo.
#[derive(Clone, Debug)]
pub(crate) struct DemoOptions {
    /// Events per second.
    pub(crate) rate: f64,
    /// The time after which the demo stops; without it, it runs until a signal.
    pub(crate) duration: Option<Duration>,
    /// The folder for the events file and the data of the bridge.
    pub(crate) data_dir: PathBuf,
    /// The name of a shipped declaration, or a file; without it, the simulator is NeuroIO's platform.
    pub(crate) feed: Option<String>,
}

/// Runs the demo until a signal, or until its duration has passed.
///
/// # Errors
/// Returns an error if a port or a file is not available, and the errors of `run`.
pub(crate) async fn run(options: DemoOptions) -> Result<(), Failure> {
    let mut signals = Signals::new().or_exit(Exit::Unavailable)?;
    let declaration = options.feed.as_deref().map(declaration).transpose()?;
    let simulator = Simulator::bind(Options {
        rate: Some(options.rate),
        feed: declaration.clone().map(|declaration| DeclaredFeed {
            script: script(options.feed.as_deref()),
            ..DeclaredFeed::new(declaration)
        }),
        ..Options::default()
    })
    .await
    .context("the simulated platform cannot start")
    .or_exit(Exit::Unavailable)?;
    let handle = simulator.handle();
    let stop_simulator = CancellationToken::new();
    let simulation = tokio::spawn(simulator.run(stop_simulator.clone()));

    let (stopped, is_stopped) = watch::channel(false);
    let config = config(handle.local_addr(), &options, declaration, is_stopped)?;
    // The documented port, as with `run`; another one if the port is in use, for example by a running bridge.
    let listener = match TcpListener::bind(config.http.listen).await {
        Err(_) => TcpListener::bind((config.http.listen.ip(), 0)).await,
        bound => bound,
    };
    let listener = listener
        .context("the HTTP server of the demo's page cannot listen on a port")
        .or_exit(Exit::Unavailable)?;
    let had_events = fs::metadata(events_file(&options)).is_ok_and(|file| file.len() > 0);
    let data_dir = DataDir::lock(&config.data_dir).await?;
    // The simulated platform starts with the demo: no event was missed since the last run, so no gap is reported for that time.
    history::delete(&config.data_dir);
    let spool = spool::open(&config).await?;
    let bridge = Bridge::start_on(listener, &config, data_dir, spool).await?;
    let state = std::sync::Arc::clone(bridge.state());
    let totals = Totals::start(&state.spool);
    let mut scenario = Scenario::new(handle, stopped);
    let locations = Locations {
        has_earlier_events: had_events,
        events: events_file(&options),
        page: format!("http://{}/", bridge.address()),
        metrics: format!("http://{}/metrics", bridge.address()),
    };
    let mut suspension = Suspension::new().or_exit(Exit::Unavailable)?;
    let mut screen = Screen::begin(locations).or_exit(Exit::Disk)?;

    let stop_bridge = CancellationToken::new();
    let timeout = tokio::time::sleep(options.duration.unwrap_or(Duration::MAX));
    let running = bridge.run_until(stop_bridge.clone(), &mut signals);
    tokio::pin!(running, timeout);
    let mut tick = interval(SAMPLE_INTERVAL);
    let ended = loop {
        tokio::select! {
            biased;
            ended = &mut running => break ended,
            () = suspension.requested() => screen.suspend().or_exit(Exit::Disk)?,
            () = &mut timeout, if !stop_bridge.is_cancelled() => stop_bridge.cancel(),
            _ = tick.tick() => {
                let view = state.view();
                scenario.watch(&view);
                screen.draw(&view, &totals, &scenario).or_exit(Exit::Disk)?;
            }
        }
    };
    stop_simulator.cancel();
    let _ = simulation.await;
    let view = state.view();
    screen
        .end(&view, &scenario, &Status::of(&view).ledger(), &totals)
        .or_exit(Exit::Disk)?;
    ended
}

/// Returns a declaration with made-up secrets, which the simulator accepts.
///
/// # Errors
/// The declaration does not exist or is invalid.
fn declaration(named: &str) -> Result<Declaration, Failure> {
    let mut declaration = feeds::declaration(named)?;
    for secret in declaration.secrets.values_mut() {
        *secret = SecretSource {
            value: Some("demo-secret".into()),
            ..SecretSource::default()
        };
    }
    Ok(declaration)
}

/// Returns the frames of a shipped declaration, so that the events look like those of the feed. The demo has faults of its own.
fn script(feed: Option<&str>) -> Script {
    feed.and_then(shipped_script)
        .and_then(|text| Script::parse(text).ok())
        .unwrap_or_default()
        .without_faults()
}

/// Returns the path that the default file sink writes to.
fn events_file(options: &DemoOptions) -> PathBuf {
    options.data_dir.join("events.jsonl")
}

fn config(
    platform: SocketAddr,
    options: &DemoOptions,
    declaration: Option<Declaration>,
    is_stopped: watch::Receiver<bool>,
) -> Result<Config, Failure> {
    let mut config = Config {
        data_dir: options.data_dir.clone(),
        ..Config::default()
    };
    let mut source = SourceConfig::new(format!("ws://{platform}/"), "demo");
    if let Some(declaration) = declaration {
        source.token = None;
        source.feed = Some(Box::new(declaration));
    } else {
        source.backfill.url = Some(format!("http://{platform}"));
    }
    // The faults follow each other before a connection counts as stable, so the default delays would grow until hardly
    // any event arrives.
    source.backoff.max = MAX_BACKOFF;
    config.sources = BTreeMap::from([("platform".to_owned(), source)]);
    let sink = ConfiguredSink::new(StoppableFile::new(is_stopped));
    config.sinks = BTreeMap::from([(DEFAULT_SINK.to_owned(), sink)]);
    config.complete().or_exit(Exit::Config)?;
    Ok(config)
}
