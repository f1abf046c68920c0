//! The first half of the bridge: the sources and the intake, up to the spool.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, anyhow};
use neurobridge_core::{
    address, dead_letter::DeadLetters, event::FieldPath, ledger::SourceLedger, redact::Redaction,
};
use neurobridge_listener::{
    Batcher, EventAttributes, MAX_READ_INTERVAL, REPLACEMENT_OVERLAP, Replacement, Source, SourceConfig,
    SourceError, SourceState,
};
use neurobridge_spool::{AppendError, Spool, SpoolConfig};
use tokio::{
    sync::mpsc,
    task::{JoinSet, spawn_blocking},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::{
    backfill::{Filler, FillerSettings, manual},
    cluster::Cluster,
    config::Config,
    exit::{Exit, Failure, OrExit},
    gaps::UNRECOVERED,
    intake::{self, Encoded, Encoder, IntakeSource, Rules},
    parts::{Parts, SourceHandle},
    redaction::read_redaction,
    spool,
    state::State,
    task::joined,
    tokens::TokenProvider,
};

/// The interval at which each socket is read is at least this time multiplied by the number of sources, so that all sockets
/// together are read at most 5,000 times a second. A read of a socket costs as much processor time as some events.
const READ_SHARE: Duration = Duration::from_micros(200);

/// The running sources and the intake. They stop immediately on drop.
pub(crate) struct Feed {
    stop: CancellationToken,
    /// Cancelled when the intake has loaded the events of earlier runs with which fetched events are compared.
    known_events_loaded: CancellationToken,
    spool: Spool,
    parts: Arc<Parts>,
    /// The channel to the intake, which ends when all senders are dropped. `None` once no source is left.
    batches: Option<mpsc::Sender<Encoded>>,
    sources: JoinSet<(Arc<str>, u64, Result<(), SourceError>)>,
    /// The running instances of each source, the newest last: while a source is replaced, the earlier ones still run.
    instances: BTreeMap<Arc<str>, Vec<Instance>>,
    /// The number of the instance that was started last.
    last: u64,
    /// The redaction of all events, which stays the same while the bridge runs, so that each person has one pseudonym.
    redaction: Redaction,
    /// The tasks that fetch the events of gaps.
    fillers: JoinSet<()>,
    /// `None` for commands that store nothing, which fill no gaps.
    state: Option<Arc<State>>,
    /// A single task, in a set because a set can be polled again after the task has ended.
    intake: JoinSet<Result<(), AppendError>>,
}

/// Waits until an instance has been authenticated for [`REPLACEMENT_OVERLAP`].
async fn overlap(replacement: &Replacement) {
    replacement.authenticated.cancelled().await;
    sleep(REPLACEMENT_OVERLAP).await;
}

/// A running source, with the settings with which it was started.
#[derive(Clone)]
struct Instance {
    number: u64,
    stop: CancellationToken,
    replacement: Replacement,
}

impl Instance {
    /// Closes the connections because another instance has replaced them.
    fn retire(&self) {
        self.replacement.replaced.cancel();
        self.stop.cancel();
    }
}

/// A source that is ready to be started.
pub(crate) struct PreparedSource {
    source: Source,
    address: String,
    attributes: EventAttributes,
    rules: Arc<Rules>,
    /// `None` if its gaps are neither filled nor reported.
    backfill: Option<FillerSettings>,
    provider: Option<TokenProvider>,
}

impl Feed {
    /// Starts all configured sources, which store their events in a spool, and adds them to `parts`.
    ///
    /// # Errors
    /// Returns an error if a file or key cannot be read. No source is started then.
    pub(crate) async fn start(
        config: &Config,
        spool: Spool,
        dead_letters: Arc<dyn DeadLetters>,
        parts: Arc<Parts>,
        state: Option<Arc<State>>,
    ) -> Result<Self, Failure> {
        let event = &config.event;
        let redaction = read_redaction(&event.redact, event.pseudonymise.as_ref(), "event").await?;
        let rules = rules(config, redaction.clone());
        let mut prepared = Vec::new();
        for name in config.sources.keys() {
            prepared.push(PreparedSource::new(name, config, &rules, config.named_fields()).await?);
        }
        let options = intake::Options {
            window_events: config.deduplicate.max_events,
            known_events: match &state {
                Some(state)
                    if config
                        .sources
                        .keys()
                        .any(|name| !state.history.filling(name).is_empty()) =>
                {
                    intake::KNOWN_EVENTS
                }
                _ => 0,
            },
            known_events_loaded: CancellationToken::new(),
            dead_letters,
            concurrent_appends: match &config.spool {
                SpoolConfig::Memory(_) => 1,
                _ => intake::CONCURRENT_APPENDS_ON_DISK,
            },
        };
        let known_events_loaded = options.known_events_loaded.clone();
        let (batches, intake_batches) = mpsc::channel(intake::channel_capacity(config.sources.len()));
        let mut intake = JoinSet::new();
        intake.spawn(intake::run(options, spool.clone(), intake_batches));
        let mut feed = Self {
            stop: CancellationToken::new(),
            known_events_loaded,
            spool,
            parts,
            batches: Some(batches),
            sources: JoinSet::new(),
            redaction,
            fillers: JoinSet::new(),
            state,
            instances: BTreeMap::new(),
            last: 0,
            intake,
        };
        for source in prepared {
            drop(feed.run_source(source));
        }
        Ok(feed)
    }

    /// Returns the filter of a reloaded configuration with the running redaction.
    pub(crate) fn reloaded_rules(&self, config: &Config) -> Arc<Rules> {
        rules(config, self.redaction.clone())
    }

    /// Starts a source. A connected instance of the same name runs until the new one has been authenticated
    /// for [`REPLACEMENT_OVERLAP`], so that there is no gap; an earlier instance without a connection is stopped at once.
    /// Returns a token that is cancelled when the new instance is authenticated.
    pub(crate) fn run_source(&mut self, prepared: PreparedSource) -> CancellationToken {
        let Some(batches) = self.batches.clone() else {
            return CancellationToken::new();
        };
        let PreparedSource {
            source,
            address,
            attributes,
            rules,
            backfill,
            provider,
        } = prepared;
        let earlier = self.parts.source(source.name());
        let intake = match &earlier {
            Some(earlier) => Arc::clone(&earlier.intake),
            None => Arc::new(self.new_intake(source.name())),
        };
        let cluster = self.state.as_ref().and_then(|state| state.cluster.as_ref());
        let source = match cluster {
            Some(cluster) => source.reading_every(cluster.read_interval()),
            None => source,
        };
        let source = match cluster.and_then(Cluster::cold) {
            Some(cold) => source.connecting_while(cold.may_connect()),
            None => source,
        };
        let mut source = source.continuing(Arc::clone(&intake.ledger), Arc::clone(&intake.stored));
        if let Some(earlier) = &earlier {
            source = source.replacing(Arc::clone(&earlier.stats));
        }
        let (requester, requests) = manual::channel();
        let can_fetch = backfill.as_ref().is_some_and(FillerSettings::can_fetch);
        self.parts.set_source(Arc::new(SourceHandle {
            handles_gaps: backfill.is_some(),
            backfill: can_fetch.then_some(requester),
            address,
            intake: Arc::clone(&intake),
            stats: source.stats(),
            tokens: provider.as_ref().map(TokenProvider::tokens),
            has_ended: AtomicBool::new(false),
        }));
        self.last += 1;
        let instance = Instance {
            number: self.last,
            stop: self.stop.child_token(),
            replacement: source.replacement(),
        };
        let name = Arc::clone(&intake.name);
        let instances = self.instances.entry(Arc::clone(&name)).or_default();
        let replaced = instances.clone();
        instances.push(instance.clone());
        let stats = source.stats().snapshot();
        let is_connected = matches!(stats.state, SourceState::Authenticated | SourceState::Blocked);
        for earlier in &replaced {
            // Without a connection, no event is lost, and attempts of the earlier instance would delay those of the new one.
            if !is_connected || !earlier.replacement.authenticated.is_cancelled() {
                earlier.retire();
            }
        }
        let encoder = Encoder::new(Arc::clone(&intake), attributes, rules);
        let authenticated = instance.replacement.authenticated.clone();
        let state = self.state.as_ref();
        if let (Some(settings), Some(state)) = (backfill, state) {
            let ends = source.on_gap_end(settings.hold());
            let filler = Filler::new(
                settings,
                intake,
                ends,
                encoder.for_connection(),
                batches.clone(),
                requests,
            );
            // The filler also fills the gaps that the filler of a replaced instance has not filled.
            let filler = filler
                .taking_over((!replaced.is_empty()).then(|| authenticated.clone()))
                .comparing_after(self.known_events_loaded.clone());
            let stop = instance.stop.child_token();
            self.fillers.spawn(filler.run(Arc::clone(state), stop));
        } else if let Some(state) = state {
            // A reload has switched `backfill` off, so no filler will set the outcomes of these gaps.
            let text = "missed events were not fetched: `backfill` was switched off";
            for gap in state.history.filling(&name) {
                state.history.filled(&gap, UNRECOVERED, 0, text);
            }
        }
        let tokens = provider.map(|provider| provider.start(source.handle()));
        self.sources.spawn(async move {
            let running = source.run(encoder, batches, instance.stop);
            tokio::pin!(running);
            let ended = tokio::select! {
                ended = &mut running => Some(ended),
                () = overlap(&instance.replacement) => None,
            };
            let result = match ended {
                Some(ended) => ended,
                None => {
                    replaced.iter().for_each(Instance::retire);
                    running.await
                }
            };
            if let Some(tokens) = tokens {
                tokens.stop().await;
            }
            (name, instance.number, result)
        });
        authenticated
    }

    /// Stops a source. The events that it has received are stored.
    pub(crate) fn remove_source(&mut self, name: &str) {
        for instance in self.instances.get(name).into_iter().flatten() {
            instance.stop.cancel();
        }
    }

    /// Creates the handle of a source that did not run before, with its resume value.
    fn new_intake(&self, name: &Arc<str>) -> IntakeSource {
        let intake = IntakeSource::new(Arc::clone(name));
        // The value of the last run, so that this run continues after the last stored event.
        if let Some(value) = self.spool.resume_value(name) {
            intake.stored.set_resume(value.to_string());
        }
        intake
    }

    /// Records the end of an instance of a source.
    fn ended(&mut self, name: &str, number: u64) {
        if let Some(instances) = self.instances.get_mut(name) {
            instances.retain(|instance| instance.number != number);
            if instances.is_empty() {
                info!(source = name, "source stopped");
                self.instances.remove(name);
                if let Some(handle) = self.parts.source(name) {
                    handle.has_ended.store(true, Ordering::Release);
                }
            }
        }
        if self.sources.is_empty() {
            self.batches = None;
        }
    }

    /// Waits until a source fails or the intake ends. Cancel-safe.
    pub(crate) async fn failed(&mut self) -> Failure {
        loop {
            tokio::select! {
                Some(ended) = self.sources.join_next() => match joined(ended) {
                    (name, _, Err(error)) => {
                        let refused = matches!(error, SourceError::TokenRefused { .. });
                        let exit = if refused { Exit::TokenRefused } else { Exit::Unavailable };
                        return Failure::new(exit, anyhow!(error).context(format!("source {name} failed")));
                    }
                    (name, number, Ok(())) => self.ended(&name, number),
                },
                Some(ended) = self.fillers.join_next() => joined(ended),
                // Without an error, the intake has ended because the last source has ended, whose result states the reason.
                Some(ended) = self.intake.join_next() => if let Err(error) = joined(ended) {
                    let exit = spool::exit_of(&error);
                    return Failure::new(exit, anyhow!(error).context("intake failed"));
                },
                else => return Failure::message(Exit::Unavailable, "all sources have stopped"),
            }
        }
    }

    /// Stops the sources, and stores the events that they have received. Cancel-safe.
    pub(crate) async fn drain(&mut self) {
        self.stop.cancel();
        self.batches = None;
        while let Some(ended) = self.sources.join_next().await {
            // The result of a source that was stopped is of no interest; only a panic is propagated.
            let (_, _, _) = joined(ended);
        }
        while let Some(ended) = self.fillers.join_next().await {
            joined(ended);
        }
        // The intake ends by itself, since the last sender of its channel was dropped with the listeners.
        while let Some(ended) = self.intake.join_next().await {
            if let Err(error) = joined(ended) {
                error!(
                    "intake failed: {error}; received events that are not stored are lost, unless the feed sends them again"
                );
            }
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.stop.cancel();
        self.intake.abort_all();
    }
}

impl PreparedSource {
    /// Returns the name of the source.
    pub(crate) const fn name(&self) -> &Arc<str> {
        self.source.name()
    }

    /// Builds a configured source that locates these fields while it reads a frame, and reads its files.
    ///
    /// # Errors
    /// Returns an error if a file cannot be read.
    pub(crate) async fn new(
        name: &str,
        config: &Config,
        rules: &Arc<Rules>,
        fields: Vec<FieldPath>,
    ) -> Result<Self, Failure> {
        let place = format!("sources.{name}");
        let mut settings = config.sources.get(name).cloned().unwrap_or_default();
        settings.read_interval = read_interval(settings.read_interval, config.sources.len());
        let address = address::shown(settings.address());
        let attributes = settings.attributes(name);
        let backfill = FillerSettings::new(&settings, config)
            .await
            .context(place.clone())
            .or_exit(Exit::Config)?;
        let provider = TokenProvider::new(name, &settings, &config.data_dir).await?;
        let source = build_source(name, settings, Arc::default(), fields)
            .await
            .context(place)
            .or_exit(Exit::Config)?;
        Ok(Self {
            backfill,
            source,
            address,
            attributes,
            rules: Arc::clone(rules),
            provider,
        })
    }
}

/// Returns the interval at which a socket is read: the configured one, or a longer one if there are many sources.
fn read_interval(configured: Duration, sources: usize) -> Duration {
    if configured.is_zero() {
        return configured;
    }
    let shares = READ_SHARE.saturating_mul(u32::try_from(sources).unwrap_or(u32::MAX));
    configured.max(shares.min(MAX_READ_INTERVAL))
}

/// Returns the filter and the redaction of all events.
fn rules(config: &Config, redaction: Redaction) -> Arc<Rules> {
    let redacts = config.event.redacts() || config.sinks.values().any(|sink| sink.common.redacts());
    Arc::new(Rules {
        filter: config.event.filter.clone(),
        redaction,
        keep_malformed: !redacts,
    })
}

/// Builds a source, and reads its files without blocking the runtime.
///
/// # Errors
/// As [`Source::new`].
pub(crate) async fn build_source(
    name: &str,
    config: SourceConfig,
    ledger: Arc<SourceLedger>,
    fields: Vec<FieldPath>,
) -> Result<Source, SourceError> {
    let name = name.to_owned();
    joined(spawn_blocking(move || Source::new(name, config, ledger, &fields)).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_sources_are_read_less_often_unless_interval_is_zero() {
        let milliseconds =
            |configured, sources| read_interval(Duration::from_millis(configured), sources).as_millis();
        assert_eq!(milliseconds(4, 1), 4);
        assert_eq!(milliseconds(4, 20), 4);
        assert_eq!(milliseconds(4, 100), 20);
        assert_eq!(milliseconds(50, 100), 50);
        assert_eq!(milliseconds(4, 100_000), 100);
        assert_eq!(milliseconds(0, 100), 0);
    }

    #[tokio::test]
    #[should_panic = "a source is broken"]
    async fn panic_of_a_source_is_propagated_by_drain() {
        let mut sources = JoinSet::new();
        sources.spawn(async { panic!("a source is broken") });
        let mut feed = Feed {
            stop: CancellationToken::new(),
            known_events_loaded: CancellationToken::new(),
            spool: Spool::open(&SpoolConfig::default(), "data".as_ref()).unwrap(),
            parts: Arc::default(),
            batches: None,
            sources,
            redaction: Redaction::default(),
            fillers: JoinSet::new(),
            state: None,
            instances: BTreeMap::new(),
            last: 0,
            intake: JoinSet::new(),
        };
        feed.drain().await;
    }
}
