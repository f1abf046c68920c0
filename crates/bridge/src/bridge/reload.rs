//! Applies a reloaded configuration to the running bridge.
//!
//! Everything that may fail comes first: the configuration is loaded and compared, and the files of the new parts are read. Then
//! the parts change without an await, so that a stop of the bridge finds either the earlier parts or the new ones.

use std::{sync::Arc, time::Duration};

use tokio::{sync::oneshot, task::spawn_blocking, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Bridge;
use crate::{
    cluster::Cluster,
    config::{self, Loaded},
    control::{Answer, Greeting, PendingRequest, Request},
    deliveries::PreparedSink,
    exit::{Exit, Failure},
    feed::PreparedSource,
    member,
    parts::BackfillRequest,
    reload::{Plan, plan},
    task::joined,
};

/// The time for which the answer to a reload waits until the changed parts work: longer than a sink takes to stop, and than a
/// source takes to authenticate.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// The answer of a member of a cluster to a reload that changes what the cluster publishes.
const CHANGES_PUBLICATION: &str = "error: the configuration is valid, but it changes what the cluster publishes (sources, sinks, filters or \
     redaction): restart the members one after the other, the leader last\n\nnothing was changed";
/// The answer of a bridge without a cluster.
const NO_CLUSTER: &str = "this bridge is not a member of a cluster: its configuration has no table [cluster]";

/// The parts that a reload starts.
struct Prepared {
    sources: Vec<PreparedSource>,
    sinks: Vec<PreparedSink>,
}

/// A change that is complete after some time.
struct Pending {
    /// The report if the change is complete in time.
    done: String,
    /// The report if the change is not complete after [`ANSWER_LIMIT`].
    until_then: String,
    completion: Completion,
}

enum Completion {
    Sink(oneshot::Receiver<()>),
    Source(CancellationToken),
}

impl Completion {
    /// Waits until the change is complete.
    async fn wait(self) {
        match self {
            // A dropped sender means that the sink has ended.
            Self::Sink(done) => drop(done.await),
            Self::Source(authenticated) => authenticated.cancelled().await,
        }
    }
}

impl Bridge {
    /// Passes a request for missed events to the filler of the source, which answers it. Answers at once if there is no filler.
    fn backfill(&self, source: &str, request: BackfillRequest) {
        if let Some(cluster) = self
            .state
            .cluster
            .as_ref()
            .filter(|cluster| !cluster.lead().is_held())
        {
            let text = cluster.view().refusal_of_follower();
            let _ = request.answer.send(Answer::failed(Exit::Usage, text));
            return;
        }
        let handle = self.state.parts.source(source);
        let requests = handle.as_ref().map(|handle| handle.backfill.as_ref());
        let (exit, text, request) = match requests {
            None => (
                Exit::Usage,
                format!("the bridge has no source \"{source}\""),
                request,
            ),
            Some(None) => (
                Exit::Config,
                format!(
                    "sources.{source}.backfill: the bridge runs without the address of a REST interface; configure \
                     the address and reload the bridge"
                ),
                request,
            ),
            Some(Some(requests)) => match requests.try_send(request) {
                Ok(()) => return,
                Err(error) => (
                    Exit::TryLater,
                    "the source has too many requests; try again".to_owned(),
                    error.into_inner(),
                ),
            },
        };
        let _ = request.answer.send(Answer::failed(exit, text));
    }

    /// Returns the members of the cluster as a text for people.
    fn members(&self) -> Answer {
        match &self.state.cluster {
            Some(cluster) => Answer {
                exit: Exit::Ok.code(),
                text: cluster.view().to_string(),
            },
            None => Answer::failed(Exit::Config, NO_CLUSTER),
        }
    }

    /// Hands the leadership over in a task of its own, which sends the answer.
    fn hand_over(&self, answer: oneshot::Sender<Answer>) {
        let state = Arc::clone(&self.state);
        tokio::spawn(async move {
            let result = match &state.cluster {
                Some(cluster) => member::hand_over(cluster, &state).await,
                None => Answer::failed(Exit::Config, NO_CLUSTER),
            };
            let _ = answer.send(result);
        });
    }

    /// Performs a request of the control socket or of `run --watch`. Cancel-safe: nothing is changed, or everything.
    pub(super) async fn perform(&mut self, pending: PendingRequest) {
        let PendingRequest { request, answer } = pending;
        let (colours, width) = match request {
            Request::Reload { colours, width } => (colours, width),
            Request::Backfill {
                source,
                from,
                to,
                after,
            } => {
                let request = BackfillRequest {
                    from,
                    to,
                    after,
                    answer,
                };
                self.backfill(&source, request);
                return;
            }
            Request::Cluster => {
                let _ = answer.send(self.members());
                return;
            }
            Request::HandOver => {
                self.hand_over(answer);
                return;
            }
            Request::Tail => return,
        };
        match self.reload(colours, width).await {
            Ok(pending) => {
                tokio::spawn(async move {
                    let mut text = String::new();
                    let deadline = tokio::time::Instant::now() + ANSWER_LIMIT;
                    for change in pending {
                        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
                        let is_complete = timeout(left, change.completion.wait()).await.is_ok();
                        let line = if is_complete {
                            change.done
                        } else {
                            change.until_then
                        };
                        info!("{line}");
                        text.push_str(&line);
                        text.push('\n');
                    }
                    if text.is_empty() {
                        text.push_str("the configuration has not changed\n");
                    }
                    let _ = answer.send(Answer {
                        exit: Exit::Ok.code(),
                        text,
                    });
                });
            }
            Err((exit, text)) => {
                let _ = answer.send(Answer::failed(exit, text));
            }
        }
    }

    /// Loads the configuration and applies it. Returns what has changed.
    ///
    /// # Errors
    /// Returns the exit code and the report if the configuration is invalid or needs a restart. Nothing is changed then.
    async fn reload(&mut self, colours: bool, width: usize) -> Result<Vec<Pending>, (Exit, String)> {
        let Some(reloader) = &self.reloader else {
            return Err((
                Exit::Usage,
                "this bridge has no configuration file; restart the bridge to apply changes".to_owned(),
            ));
        };
        let named = reloader.named.clone();
        let loaded = joined(spawn_blocking(move || config::load_with_keys(named.as_deref())).await);
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(report) => {
                self.refuse(&report.to_string());
                return Err((Exit::Config, report.render(colours, width)));
            }
        };
        let planned = plan(&reloader.loaded, &loaded, &reloader.located);
        if let Some(cluster) = &self.state.cluster
            && planned.is_ok()
        {
            // A member whose published content differs could not join again: members compare it when they join.
            let changed = match cluster.publishes_the_same(&loaded.config).await {
                Ok(true) => None,
                Ok(false) => Some(CHANGES_PUBLICATION.to_owned()),
                Err(failure) => Some(format!("error: {failure}\n\nnothing was changed")),
            };
            if let Some(text) = changed {
                self.refuse(&text);
                return Err((Exit::Config, text));
            }
        }
        let result = match planned {
            Err(keys) => Err((Exit::Config, needs_restart(&keys))),
            Ok(plan) if plan.is_empty() => {
                info!("configuration reloaded: it has not changed");
                self.state.configuration.unchanged();
                return Ok(Vec::new());
            }
            Ok(plan) => match self.prepare(&plan, &loaded).await {
                Ok(prepared) => Ok((plan, prepared)),
                Err(failure) => Err((failure.exit, format!("error: {failure}\n\nnothing was changed"))),
            },
        };
        match result {
            Ok((plan, prepared)) => Ok(self.apply(&plan, prepared, loaded)),
            Err((exit, text)) => {
                self.refuse(&text);
                Err((exit, text))
            }
        }
    }

    fn refuse(&self, reason: &str) {
        warn!("configuration not reloaded, the bridge continues with the running one: {reason}");
        self.state.configuration.failed(reason);
    }

    /// Reads the files of all parts that change.
    async fn prepare(&self, plan: &Plan, loaded: &Loaded) -> Result<Prepared, Failure> {
        let config = &loaded.config;
        let changing: Vec<&String> = plan
            .sinks
            .changed
            .iter()
            .chain(&plan.sinks.removed)
            .chain(&plan.sinks.added)
            .filter(|name| self.sinks.is_changing(name))
            .collect();
        if let Some(name) = changing.first() {
            let message =
                format!("the last change of sinks.{name} is not complete yet; reload again in some seconds");
            return Err(Failure::message(Exit::TryLater, message));
        }
        let mut added = plan.sources.added.iter();
        // A new source of this name would continue the counters of the removed one, and hide the gap between the two.
        if let Some(name) = added.find(|name| self.state.parts.source(name).is_some()) {
            let message = format!(
                "sources.{name} was removed, and its events are not stored yet; reload again in some seconds"
            );
            return Err(Failure::message(Exit::TryLater, message));
        }
        let located = match &self.reloader {
            Some(reloader) if !plan.changes_located_fields => reloader.located.clone(),
            _ => config.named_fields(),
        };
        let mut prepared = Prepared {
            sources: Vec::new(),
            sinks: Vec::new(),
        };
        for name in plan.sinks.added.iter().chain(&plan.sinks.changed) {
            prepared
                .sinks
                .push(PreparedSink::new(name, config, &self.sinks).await?);
        }
        let rules = self.feed.reloaded_rules(config);
        for name in plan.sources.added.iter().chain(&plan.sources.changed) {
            let source = PreparedSource::new(name, config, &rules, located.clone()).await?;
            prepared.sources.push(source);
        }
        Ok(prepared)
    }

    /// Changes the parts. Does not wait.
    fn apply(&mut self, plan: &Plan, prepared: Prepared, loaded: Loaded) -> Vec<Pending> {
        let mut pending = Vec::new();
        // The sinks start first, so that an added sink misses no event of an added source.
        for sink in prepared.sinks {
            let name = Arc::clone(sink.name());
            let done = if plan.sinks.added.iter().any(|added| **added == *name) {
                format!("sinks.{name}: added")
            } else {
                format!("sinks.{name}: reopened at its cursor")
            };
            pending.push(Pending {
                done,
                until_then: format!(
                    "sinks.{name}: waits for the outcomes of the events in flight; it reopens at its cursor"
                ),
                completion: Completion::Sink(self.sinks.run_sink(sink)),
            });
        }
        for source in prepared.sources {
            let name = Arc::clone(source.name());
            let is_added = plan.sources.added.iter().any(|added| **added == *name);
            let mut authenticated = self.feed.run_source(source);
            let stands_by = self.state.cluster.as_ref().is_some_and(Cluster::stands_by);
            let (done, until_then) = if stands_by {
                authenticated = completed();
                let text = if is_added {
                    "added; it connects when this member leads"
                } else {
                    "changed; it connects when this member leads"
                };
                (text, text)
            } else if is_added {
                ("added and authenticated", "added, not authenticated yet")
            } else {
                (
                    "replaced by an authenticated connection",
                    "not authenticated with the new settings yet; connections with the earlier ones stay open until then",
                )
            };
            pending.push(Pending {
                done: format!("sources.{name}: {done}"),
                until_then: format!("sources.{name}: {until_then}"),
                completion: Completion::Source(authenticated),
            });
        }
        for name in &plan.sources.removed {
            self.feed.remove_source(name);
            let done = format!(
                "sources.{name}: removed; the events that it has received are still stored and delivered"
            );
            pending.push(Pending {
                until_then: done.clone(),
                done,
                completion: Completion::Source(completed()),
            });
        }
        for name in &plan.sinks.removed {
            pending.push(Pending {
                done: format!("sinks.{name}: removed"),
                until_then: format!(
                    "sinks.{name}: waits for the outcomes of the events in flight before it is removed"
                ),
                completion: Completion::Sink(self.sinks.remove_sink(name)),
            });
        }
        self.drain_timeout = loaded.config.drain_timeout;
        self.greeting
            .send_replace(Greeting::new(&self.state.spool.id(), &loaded.config));
        self.state.configuration.reloaded(&loaded.config);
        self.state
            .history
            .configuration_loaded(loaded.file.as_deref(), &loaded.config);
        for warning in loaded.warnings() {
            warn!(key = warning.key, "{}", warning.message);
        }
        if let Some(reloader) = &mut self.reloader {
            if plan.changes_located_fields {
                reloader.located = loaded.config.named_fields();
            }
            reloader.loaded = loaded;
        }
        pending
    }
}

/// Returns the token of a change that is complete.
fn completed() -> CancellationToken {
    let completed = CancellationToken::new();
    completed.cancel();
    completed
}

/// Returns the report about keys that cannot be changed while the bridge runs.
fn needs_restart(keys: &[String]) -> String {
    format!(
        "error: the configuration is valid, but the bridge has to be restarted to change {}\n\nnothing was changed",
        keys.join(", ")
    )
}
