//! The first half of the bridge: sources and intake, as far as the spool.

use std::{io, sync::Arc};

use anyhow::{Context, anyhow};
use neurobridge_core::{
    dead_letter::DeadLetters,
    ledger::SourceLedger,
    redact::{KeyFileError, Pattern, Pseudonymise, Redaction},
};
use neurobridge_listener::{Source, SourceConfig, SourceError, SourceStats};
use neurobridge_spool::{AppendError, Spool, SpoolConfig};
use tokio::{
    sync::mpsc,
    task::{JoinError, JoinSet, spawn_blocking},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::{
    config::Config,
    exit::{Exit, Failure, OrExit},
    intake::{self, Encoder, IntakeSource, IntakeStats, Rules},
    spool,
};

/// Running sources and the intake behind them. Dropping it stops them at once.
pub(crate) struct Feed {
    stop: CancellationToken,
    sources: JoinSet<(String, Result<(), SourceError>)>,
    /// One task; in a set, so that its end can be asked for more than once.
    intake: JoinSet<Result<(), AppendError>>,
}

/// What is known of a source while it runs.
pub(crate) struct SourceHandle {
    pub(crate) intake: IntakeSource,
    pub(crate) stats: Arc<SourceStats>,
}

impl Feed {
    /// Starts all sources of the configuration into a spool.
    ///
    /// # Errors
    /// A file or a key is not to be had. What was started is stopped again.
    pub(crate) async fn start(
        config: &Config,
        spool: Spool,
        dead_letters: Arc<dyn DeadLetters>,
    ) -> Result<(Self, Vec<SourceHandle>), Failure> {
        let redaction =
            read_redaction(&config.event.redact, config.event.pseudonymise.as_ref(), "event").await?;
        let redacts = !redaction.is_empty() || config.sinks.values().any(|sink| sink.common.redacts());
        let rules = Arc::new(Rules {
            filter: config.event.filter.clone(),
            redaction,
            keep_malformed: !redacts,
        });
        let (batches, intake_batches) = mpsc::channel(intake::CHANNEL);
        let stop = CancellationToken::new();
        let mut sources = JoinSet::new();
        let mut handles = Vec::new();
        for (name, source) in &config.sources {
            let ledger = Arc::new(SourceLedger::default());
            let source = made(name, source.clone(), Arc::clone(&ledger))
                .await
                .with_context(|| format!("sources.{name}"))
                .or_exit(Exit::Config)?;
            let intake = IntakeSource {
                name: Arc::clone(source.name()),
                ledger,
                stats: Arc::new(IntakeStats::default()),
            };
            let encoder = Encoder::new(
                Arc::clone(&intake.name),
                handles.len(),
                Arc::clone(&intake.stats),
                Arc::clone(&rules),
            );
            handles.push(SourceHandle {
                intake,
                stats: source.stats(),
            });
            let (name, batches, stop) = (name.clone(), batches.clone(), stop.child_token());
            sources.spawn(async move { (name, source.run(encoder, batches, stop).await) });
        }
        let options = intake::Options {
            remembered_events: config.deduplicate.max_events,
            dead_letters,
            appends_at_once: match &config.spool {
                SpoolConfig::Memory(_) => 1,
                _ => intake::AT_ONCE_ON_DISK,
            },
        };
        let intake_sources = handles
            .iter()
            .map(|source: &SourceHandle| source.intake.clone())
            .collect();
        let mut intake = JoinSet::new();
        intake.spawn(intake::run(options, intake_sources, spool, intake_batches));
        Ok((
            Self {
                stop,
                sources,
                intake,
            },
            handles,
        ))
    }

    /// Waits until a source ends for a reason of its own, or the intake ends at all. Safe to cancel.
    pub(crate) async fn failed(&mut self) -> Failure {
        loop {
            tokio::select! {
                Some(ended) = self.sources.join_next() => match joined(ended) {
                    (name, Err(error)) => {
                        let refused = matches!(error, SourceError::TokenRefused { .. });
                        let exit = if refused { Exit::TokenRefused } else { Exit::Unavailable };
                        return Failure::new(exit, anyhow!(error).context(format!("source {name} stops")));
                    }
                    (name, Ok(())) => info!(source = name, "the source has ended"),
                },
                // Without an error it has ended because the last source has; why, that source says next.
                Some(ended) = self.intake.join_next() => if let Err(error) = joined(ended) {
                    let exit = spool::exit_of(&error);
                    return Failure::new(exit, anyhow!(error).context("the intake has ended"));
                },
                else => return Failure::message(Exit::Unavailable, "no source is left"),
            }
        }
    }

    /// Stops the sources, and stores what they have read. Safe to cancel.
    pub(crate) async fn drain(&mut self) {
        self.stop.cancel();
        while let Some(ended) = self.sources.join_next().await {
            // Told to stop, it has no reason of its own to tell any more.
            let (_, _) = joined(ended);
        }
        // It ends by itself: with the listeners the last sender of its channel is gone.
        while let Some(ended) = self.intake.join_next().await {
            if let Err(error) = joined(ended) {
                error!("the intake has stopped: {error}");
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

/// Makes a source, without blocking while its files are read.
///
/// # Errors
/// As [`Source::new`].
pub(crate) async fn made(
    name: &str,
    config: SourceConfig,
    ledger: Arc<SourceLedger>,
) -> Result<Source, SourceError> {
    let name = name.to_owned();
    joined(spawn_blocking(move || Source::new(name, config, ledger)).await)
}

/// As [`redaction`], without blocking: the disk of the key file may hang.
///
/// # Errors
/// As [`redaction`].
pub(crate) async fn read_redaction(
    redact: &[Pattern],
    pseudonymise: Option<&Pseudonymise>,
    place: &str,
) -> Result<Redaction, Failure> {
    let (redact, pseudonymise, place) = (redact.to_vec(), pseudonymise.cloned(), place.to_owned());
    joined(spawn_blocking(move || redaction(&redact, pseudonymise.as_ref(), &place)).await)
}

/// What a part of the configuration takes out of events. Blocks while it reads the key file.
///
/// # Errors
/// The key file can't be used.
pub(crate) fn redaction(
    redact: &[Pattern],
    pseudonymise: Option<&Pseudonymise>,
    place: &str,
) -> Result<Redaction, Failure> {
    Redaction::new(redact, pseudonymise).map_err(|error| {
        // A disk that hangs may recover, and a restart may help; a wrong file stays wrong.
        let exit = match &error {
            KeyFileError::Unreadable { source, .. } if source.kind() == io::ErrorKind::TimedOut => {
                Exit::Unavailable
            }
            _ => Exit::Config,
        };
        Failure::new(
            exit,
            anyhow!(error).context(format!("{place}.pseudonymise.key_file")),
        )
    })
}

/// The result of a task; a panic in it goes on here.
pub(crate) fn joined<T>(result: Result<T, JoinError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => panic!("unexpected cancellation of a task: {error}"),
        },
    }
}

/// Dead letters of a program that keeps none: to the log, without their content.
#[derive(Debug)]
pub(crate) struct LoggedDeadLetters;

impl DeadLetters for LoggedDeadLetters {
    fn store<'a>(
        &'a self,
        lines: &'a str,
    ) -> std::pin::Pin<Box<dyn Future<Output = io::Result<()>> + Send + 'a>> {
        Box::pin(async move {
            tracing::warn!(frames = lines.lines().count(), "malformed frames discarded");
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[should_panic = "a source is broken"]
    async fn a_panic_of_a_source_goes_on_while_draining() {
        let mut sources = JoinSet::new();
        sources.spawn(async { panic!("a source is broken") });
        let mut feed = Feed {
            stop: CancellationToken::new(),
            sources,
            intake: JoinSet::new(),
        };
        feed.drain().await;
    }
}
