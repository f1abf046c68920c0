//! `neurobridge demo`: the platform, simulated, the bridge, and a file, in one process. What a newcomer runs first.

mod happenings;
mod picture;
mod rates;
mod screen;
mod slow;
mod totals;

use std::{collections::BTreeMap, fs, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Context;
use neurobridge_listener::SourceConfig;
use neurobridge_simulator::{Options, Simulator};
use tokio::{net::TcpListener, sync::watch, time::interval};
use tokio_util::sync::CancellationToken;

use self::{happenings::Happenings, picture::Places, screen::Screen, slow::SlowFile, totals::Totals};
use crate::{
    bridge::Bridge,
    config::{Config, DEFAULT_SINK, SinkEntry},
    data_dir::DataDir,
    exit::{Exit, Failure, OrExit},
    http::Status,
    signals::Signals,
    spool,
};

/// How often is looked at what happens, and the picture changes on a terminal: quick enough to look alive, slow enough to
/// be read.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// The longest time until the bridge dials again.
const LONGEST_DELAY: Duration = Duration::from_secs(2);

/// What the demo is asked for.
#[derive(Clone, Debug)]
pub(crate) struct DemoOptions {
    /// Events a second.
    pub(crate) rate: f64,
    /// Ends by itself after so long.
    pub(crate) duration: Option<Duration>,
    /// The folder of what it writes.
    pub(crate) data_dir: PathBuf,
}

/// Runs the demo until a signal, or until its time is over.
///
/// # Errors
/// A port or a file is not to be had; or what `run` ends with.
pub(crate) async fn run(options: DemoOptions) -> Result<(), Failure> {
    let mut signals = Signals::new().or_exit(Exit::Unavailable)?;
    let simulator = Simulator::bind(Options {
        rate: Some(options.rate),
        ..Options::default()
    })
    .await
    .context("the simulated platform can't start")
    .or_exit(Exit::Unavailable)?;
    let handle = simulator.handle();
    let stop_simulator = CancellationToken::new();
    let simulation = tokio::spawn(simulator.run(stop_simulator.clone()));

    let (slow, is_slow) = watch::channel(false);
    let config = config(handle.local_addr(), &options, is_slow)?;
    // The documented port, so that what is learnt here holds later; another when a bridge runs already.
    let listener = match TcpListener::bind(config.http.listen).await {
        Err(_) => TcpListener::bind((config.http.listen.ip(), 0)).await,
        bound => bound,
    };
    let listener = listener
        .context("the page has no port to listen on")
        .or_exit(Exit::Unavailable)?;
    let had_events = fs::metadata(events_file(&options)).is_ok_and(|file| file.len() > 0);
    let data_dir = DataDir::lock(&config.data_dir).await?;
    let spool = spool::open(&config).await?;
    let bridge = Bridge::start_on(listener, &config, data_dir, spool).await?;
    let state = std::sync::Arc::clone(bridge.state());
    let totals = Totals::start(&state.spool);
    let mut happenings = Happenings::new(handle, slow);
    let places = Places {
        has_earlier_events: had_events,
        events: events_file(&options),
        page: format!("http://{}/", bridge.address()),
        metrics: format!("http://{}/metrics", bridge.address()),
    };
    let mut screen = Screen::begin(places).or_exit(Exit::Disk)?;

    let stop_bridge = CancellationToken::new();
    let over = tokio::time::sleep(options.duration.unwrap_or(Duration::MAX));
    let running = bridge.run_until(stop_bridge.clone(), &mut signals);
    tokio::pin!(running, over);
    let mut tick = interval(LOOK_INTERVAL);
    let ended = loop {
        tokio::select! {
            biased;
            ended = &mut running => break ended,
            () = &mut over, if !stop_bridge.is_cancelled() => stop_bridge.cancel(),
            _ = tick.tick() => {
                let view = state.view();
                happenings.watch(&view);
                screen.draw(&view, &totals, &happenings).or_exit(Exit::Disk)?;
            }
        }
    };
    stop_simulator.cancel();
    let _ = simulation.await;
    let view = state.view();
    screen
        .end(&view, &happenings, &Status::of(&view).ledger(), &totals)
        .or_exit(Exit::Disk)?;
    ended
}

/// Where the file sink that is there without a configuration writes.
fn events_file(options: &DemoOptions) -> PathBuf {
    options.data_dir.join("events.jsonl")
}

fn config(
    platform: SocketAddr,
    options: &DemoOptions,
    is_slow: watch::Receiver<bool>,
) -> Result<Config, Failure> {
    let mut config = Config {
        data_dir: options.data_dir.clone(),
        ..Config::default()
    };
    let mut source = SourceConfig::new(format!("ws://{platform}/"), "demo");
    // Faults come sooner after one another than a connection counts as stable: by and by, the usual delays would grow
    // until nothing flows.
    source.backoff.max = LONGEST_DELAY;
    config.sources = BTreeMap::from([("platform".to_owned(), source)]);
    let sink = SinkEntry::new(SlowFile::new(is_slow));
    config.sinks = BTreeMap::from([(DEFAULT_SINK.to_owned(), sink)]);
    config.complete().or_exit(Exit::Config)?;
    Ok(config)
}
