//! Tests the connections of a configuration for `check --connect`: feeds and tokens, brokers and topics, files, the lease of a
//! cluster, the HTTP address.

use std::{
    io,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use neurobridge_cluster::ClusterConfig;
use neurobridge_core::{
    connect::ConnectSteps, ledger::SourceLedger, secret::Secret, sink::FaultKind, sink_type::BuildContext,
};
use neurobridge_listener::{Messages, SourceConfig, SourceError, SourceState, TokenFromConfig};
use neurobridge_platform::{RequestError, sentence};
use tokio::{
    net::TcpListener,
    sync::mpsc,
    task::JoinSet,
    time::{interval, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::table::Table;
use crate::{
    config::{Config, ConfiguredSink},
    exit::{Exit, chain},
    feed::build_source,
    terminal::{Paint, Style},
    tokens,
};

/// The time limit of a sink's probe, about as long as librdkafka's own time-out.
const SINK_TIMEOUT: Duration = Duration::from_secs(15);
/// The interval at which the state of a source is read.
const STATE_INTERVAL: Duration = Duration::from_millis(20);

/// The test of a source, a sink, the lease of the cluster or the HTTP address.
#[derive(Debug)]
pub(super) struct Attempt {
    /// `source`, `sink`, `lease` or `http`.
    pub(super) kind: &'static str,
    /// The name in the configuration, or the address.
    pub(super) name: String,
    pub(super) result: AttemptResult,
}

/// Runs all attempts concurrently.
pub(super) async fn attempt_all(config: &Config) -> Vec<Attempt> {
    let mut attempts = JoinSet::new();
    for (name, source) in &config.sources {
        let (name, source) = (name.clone(), source.clone());
        attempts.spawn(async move {
            let result = try_source(&name, source).await;
            ("source", name, result)
        });
    }
    for (name, sink) in &config.sinks {
        let (name, sink, data_dir) = (name.clone(), sink.clone(), config.data_dir.clone());
        attempts.spawn(async move {
            let result = try_sink(&name, &sink, &data_dir).await;
            ("sink", name, result)
        });
    }
    if let Some(cluster) = config.cluster.clone() {
        let name = cluster.name.clone();
        attempts.spawn(async move { ("lease", name, try_lease(&cluster).await) });
    }
    let listen = config.http.listen;
    attempts.spawn(async move { ("http", listen.to_string(), try_listening(listen).await) });
    // A panic in an attempt is a bug and is propagated.
    let attempts = attempts.join_all().await.into_iter();
    let mut attempts: Vec<Attempt> = attempts
        .map(|(kind, name, result)| Attempt { kind, name, result })
        .collect();
    attempts.sort_by(|one, other| (one.kind, &one.name).cmp(&(other.kind, &other.name)));
    attempts
}

/// Returns the exit code of a refused token if there is one, otherwise of a configuration error, otherwise of the first failure.
pub(super) fn worst(attempts: &[Attempt]) -> Exit {
    let failures: Vec<Exit> = attempts
        .iter()
        .filter_map(|attempt| Some(attempt.result.as_ref().err()?.0))
        .collect();
    // Only an operator can correct these two, while most other failures may be temporary.
    let permanent = [Exit::TokenRefused, Exit::Config];
    let worst = permanent.into_iter().find(|exit| failures.contains(exit));
    worst.or(failures.first().copied()).unwrap_or(Exit::Ok)
}

/// Returns the table of the results, for people. One row for each attempt, or for each of its warnings.
pub(super) fn table(attempts: &[Attempt]) -> String {
    let mut table = Table::new(["", "tried", "result"]);
    for Attempt { kind, name, result } in attempts {
        let what = format!("{kind} {name}");
        match result {
            Ok(Passed { time, warnings }) if warnings.is_empty() => {
                table.row([PASSED.to_owned(), what, format!("ok, {} ms", time.as_millis())]);
            }
            Ok(Passed { warnings, .. }) => {
                for warning in warnings {
                    table.row([WARNING.to_owned(), what.clone(), warning.clone()]);
                }
            }
            Err((_, reason)) => table.row([FAILED.to_owned(), what, reason.clone()]),
        }
    }
    let paint = Paint::of(&io::stdout());
    let table = table
        .to_string()
        .replace(PASSED, &paint.paint(Style::Green, PASSED))
        .replace(FAILED, &paint.paint(Style::Red, FAILED))
        .replace(WARNING, &paint.paint(Style::Yellow, WARNING));
    let advice = if worst(attempts) == Exit::Ok {
        String::new()
    } else {
        format!("\nFix the lines marked {FAILED} and run the command again. Nothing was published.\n")
    };
    format!("\n{table}{advice}")
}

/// The marks of success, failure, and success with a warning.
const PASSED: &str = "✓";
const FAILED: &str = "✗";
const WARNING: &str = "⚠";

/// A successful attempt: its duration and warnings.
#[derive(Debug)]
pub(super) struct Passed {
    pub(super) time: Duration,
    pub(super) warnings: Vec<String>,
}

pub(super) type AttemptResult = Result<Passed, (Exit, String)>;

/// Connects, authenticates, and closes the connection. With `token_from` the credential itself is used, so that no token
/// is created.
async fn try_source(name: &str, mut config: SourceConfig) -> AttemptResult {
    let begin = Instant::now();
    let unavailable = |error: &SourceError| (Exit::Unavailable, chain(error));
    if let Some(from) = config.token_from.take() {
        config.token = Some(try_credential(&config, &from).await?);
    }
    let source = build_source(name, config, Arc::new(SourceLedger::default()), Vec::new())
        .await
        .map_err(|error| unavailable(&error))?;
    let messages = Messages::new(Arc::clone(source.name()));
    let stats = source.stats();
    let stop = CancellationToken::new();
    // Events that arrive meanwhile are discarded: two batches are queued, then reading stops.
    let (batches, _kept) = mpsc::channel(2);
    let running = source.run(messages, batches, stop.clone());
    tokio::pin!(running);
    let mut look = interval(STATE_INTERVAL);
    loop {
        tokio::select! {
            biased;
            ended = &mut running => {
                return match ended {
                    Err(error @ SourceError::TokenRefused { .. }) => Err((Exit::TokenRefused, chain(&error))),
                    Err(error) => Err(unavailable(&error)),
                    Ok(()) => Err((Exit::Unavailable, "source ended unexpectedly".to_owned())),
                };
            }
            _ = look.tick() => {}
        }
        // The attempt needs no further time limit: it ends within open_timeout and auth_timeout.
        let snapshot = stats.snapshot();
        let reason = || {
            snapshot
                .reason
                .clone()
                .unwrap_or_else(|| "no reason given".to_owned())
        };
        match snapshot.state {
            SourceState::Authenticated | SourceState::Blocked => {
                return Ok(Passed {
                    time: begin.elapsed(),
                    warnings: Vec::new(),
                });
            }
            SourceState::Refused => return Err((Exit::TokenRefused, reason())),
            SourceState::Waiting => return Err((Exit::Unavailable, reason())),
            _ => {}
        }
    }
}

/// Requests the account and the space of a credential, and returns the credential.
async fn try_credential(config: &SourceConfig, from: &TokenFromConfig) -> Result<Secret, (Exit, String)> {
    let failed = |error: RequestError| {
        let exit = match &error {
            RequestError::Unauthorised { .. } => Exit::TokenRefused,
            _ => Exit::Unavailable,
        };
        (exit, format!("token_from: {}", sentence(&error)))
    };
    let iam = tokens::client(config, from)
        .await
        .map_err(|(key, error)| (Exit::Config, format!("token_from: {key}: {error}")))?;
    let credential = tokens::credential(from).await.map_err(failed)?;
    let identity = iam.whoami(&credential).await.map_err(failed)?;
    match (from.space, identity.space) {
        (Some(expected), Some(found)) if expected != found.id => Err((
            Exit::Config,
            format!(
                "token_from.space: found {expected}, expected {}, the space of the credential, or a credential of the account",
                found.id
            ),
        )),
        _ => Ok(credential),
    }
}

/// Binds the HTTP address. An address in use is only a warning, because this bridge may be running.
async fn try_listening(address: SocketAddr) -> AttemptResult {
    let begin = Instant::now();
    let bound = TcpListener::bind(address).await;
    let mut warnings = Vec::new();
    match bound {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let warning = "address in use; unless this bridge is running, set http.listen to another address";
            warnings.push(warning.to_owned());
        }
        Err(error) => {
            let reason = format!("cannot listen: {error}; set http.listen to an address of this machine");
            return Err((Exit::Unavailable, reason));
        }
    }
    let time = begin.elapsed();
    Ok(Passed { time, warnings })
}

/// Probes a sink: connects as for delivery, and publishes nothing.
async fn try_sink(name: &str, sink: &ConfiguredSink, data_dir: &Path) -> AttemptResult {
    let begin = Instant::now();
    let context = BuildContext {
        name,
        data_dir,
        replay: None,
        lead: None,
    };
    // After the time limit, a client that hangs continues until the process ends.
    let steps = ConnectSteps::default();
    let probed = timeout(SINK_TIMEOUT, sink.config.probe(&context, &steps))
        .await
        .unwrap_or_else(|_| Err(steps.pending().fault));
    let time = begin.elapsed();
    match probed {
        Ok(warnings) => Ok(Passed { time, warnings }),
        Err(fault) if fault.kind == FaultKind::Disk => Err((Exit::Disk, fault.reason)),
        Err(fault) => Err((Exit::Unavailable, fault.reason)),
    }
}

/// Connects to the engine of a lease without acquiring the lease.
async fn try_lease(cluster: &ClusterConfig) -> AttemptResult {
    let begin = Instant::now();
    let probed = timeout(SINK_TIMEOUT, cluster.probe("check")).await;
    let time = begin.elapsed();
    match probed {
        Ok(Ok(warnings)) => Ok(Passed { time, warnings }),
        Ok(Err(fault)) => Err((Exit::Unavailable, fault.reason)),
        Err(_) => {
            let reason = format!(
                "no answer within {} s; check the servers of cluster.lease and the network",
                SINK_TIMEOUT.as_secs()
            );
            Err((Exit::Unavailable, reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use neurobridge_simulator::{Options, Simulator};

    use super::*;

    #[tokio::test]
    async fn refused_token_and_missing_feed_are_reported() {
        let options = Options {
            tokens: vec!["right".into()],
            ..Options::default()
        };
        let simulator = Simulator::bind(options).await.unwrap();
        let url = format!("ws://{}/", simulator.local_addr());
        let (handle, stop) = (simulator.handle(), CancellationToken::new());
        let running = tokio::spawn(simulator.run(stop.clone()));

        try_source("main", SourceConfig::new(url.as_str(), "right"))
            .await
            .unwrap();
        let (exit, reason) = try_source("main", SourceConfig::new(url.as_str(), "wrong"))
            .await
            .unwrap_err();
        assert_eq!(exit, Exit::TokenRefused, "{reason}");
        let mut config = SourceConfig::new(url.as_str(), "wrong");
        config.exit_on_refused_token = true;
        let (exit, reason) = try_source("main", config).await.unwrap_err();
        assert_eq!(exit, Exit::TokenRefused, "{reason}");

        let created_from = |credential: &str, space: Option<u64>| {
            let mut from = TokenFromConfig::default();
            from.url = url.replace("ws://", "http://");
            (from.credential, from.space) = (Some(credential.into()), space);
            let mut config = SourceConfig::new(url.as_str(), "");
            (config.token, config.token_from) = (None, Some(from));
            config
        };
        let before = handle.active_tokens();
        try_source("main", created_from("right", Some(1))).await.unwrap();
        let (exit, reason) = try_source("main", created_from("wrong", None)).await.unwrap_err();
        assert_eq!(exit, Exit::TokenRefused, "{reason}");
        assert!(
            reason.starts_with("token_from: ") && !reason.contains("wrong"),
            "{reason}"
        );
        assert_eq!(handle.active_tokens(), before);

        stop.cancel();
        running.await.unwrap().unwrap();
        let (exit, reason) = try_source("main", SourceConfig::new(url.as_str(), "right"))
            .await
            .unwrap_err();
        assert_eq!(exit, Exit::Unavailable, "{reason}");
        assert!(!reason.contains("right"), "{reason}");
    }

    #[test]
    fn table_shows_success_or_warnings_or_failure_of_an_attempt() {
        let attempt = |name: &str, result| Attempt {
            kind: "sink",
            name: name.to_owned(),
            result,
        };
        let fine = |warnings: &[&str]| Passed {
            time: Duration::from_millis(7),
            warnings: warnings.iter().map(|warning| (*warning).to_owned()).collect(),
        };
        let attempts = [
            attempt("a", Ok(fine(&[]))),
            attempt("b", Ok(fine(&["one", "two"]))),
            attempt("c", Err((Exit::Disk, "no".to_owned()))),
            attempt("d", Err((Exit::Config, "wrong".to_owned()))),
            attempt("e", Err((Exit::TokenRefused, "never".to_owned()))),
        ];
        let table = table(&attempts);
        let rows: Vec<&str> = table.lines().skip(2).take(6).collect();
        assert_eq!(
            rows,
            [
                "✓  sink a  ok, 7 ms",
                "⚠  sink b  one",
                "⚠  sink b  two",
                "✗  sink c  no",
                "✗  sink d  wrong",
                "✗  sink e  never"
            ]
        );
        assert_eq!(worst(&attempts), Exit::TokenRefused);
        assert_eq!(worst(&attempts[..4]), Exit::Config);
        assert_eq!(worst(&attempts[..3]), Exit::Disk);
        assert_eq!(worst(&attempts[..2]), Exit::Ok);
    }

    #[tokio::test]
    async fn http_address_in_use_warns_and_nonlocal_one_fails() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        assert_eq!(try_listening(address).await.unwrap().warnings.len(), 1);
        let any = "127.0.0.1:0".parse().unwrap();
        assert!(try_listening(any).await.unwrap().warnings.is_empty());
        // An address reserved for documentation, which no machine has.
        let (exit, reason) = try_listening("192.0.2.1:9797".parse().unwrap())
            .await
            .unwrap_err();
        assert!(
            exit == Exit::Unavailable && reason.contains("http.listen"),
            "{reason}"
        );
    }

    #[tokio::test]
    async fn unwritable_file_of_a_sink_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let sink = |path: &str| {
            let config = neurobridge_sink_file::FileConfig {
                path: path.into(),
                ..Default::default()
            };
            ConfiguredSink::new(config)
        };
        try_sink("a", &sink("events.jsonl"), folder.path()).await.unwrap();
        let file = folder.path().join("events.jsonl");
        assert!(!file.exists(), "a probe creates no file");
        std::fs::write(&file, "").unwrap();
        // A file has the name of the required folder.
        let (exit, reason) = try_sink("a", &sink("events.jsonl/x.jsonl"), folder.path())
            .await
            .unwrap_err();
        assert_eq!(exit, Exit::Disk, "{reason}");
    }
}
