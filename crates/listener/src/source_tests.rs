use std::{sync::Mutex, time::Duration};

use neurobridge_core::secret::SecretSet;
use neurobridge_protocol::{ConnectionRequest, FeedEvent, MalformedReason};
use tokio::{io::DuplexStream, join, time::Instant};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::*;
use crate::{
    batch::Messages,
    connection::{
        Dial, Dialled,
        testing::{AUTH, LIMIT, Platform, TestOutlet, event, sockets},
    },
    error::{DialError, sentence},
    stats::{ConnectionOutcome, DisconnectReason, FrameKind, GapOutcome, SourceSnapshot, SourceState},
};

#[path = "source_test_dial.rs"]
mod dial;
use dial::TestDial;
#[path = "source_declared_tests.rs"]
mod declared;
#[path = "hidden_gap_tests.rs"]
mod hidden_gap;
#[path = "source_ledger_tests.rs"]
mod ledger;
#[path = "source_outage_tests.rs"]
mod outage;
#[path = "connections_tests.rs"]
mod several;
#[path = "source_standby_tests.rs"]
mod standby;

/// A running source on a scripted platform.
struct Bench {
    handle: Handle,
    platforms: mpsc::UnboundedReceiver<Platform>,
    batches: mpsc::Receiver<Vec<String>>,
    stop: CancellationToken,
    stats: Arc<SourceStats>,
    stored: Arc<StoredPosition>,
    requests: Arc<Mutex<Vec<String>>>,
    /// The errors of the next dials.
    failures: Arc<Mutex<Vec<DialError>>>,
    hold: Arc<Hold>,
}

impl Bench {
    fn snapshot(&self) -> SourceSnapshot {
        self.stats.snapshot()
    }

    async fn in_state(&self, state: SourceState) {
        while self.snapshot().state != state {
            tokio::task::yield_now().await;
        }
    }
}

fn bench(
    change: impl FnOnce(&mut SourceConfig),
    failures: Vec<DialError>,
) -> (impl Future<Output = Result<(), SourceError>>, Bench) {
    bench_while(None, change, failures)
}

fn bench_while(
    may_connect: Option<watch::Receiver<bool>>,
    change: impl FnOnce(&mut SourceConfig),
    failures: Vec<DialError>,
) -> (impl Future<Output = Result<(), SourceError>>, Bench) {
    let (platforms_in, platforms) = mpsc::unbounded_channel();
    let (items, batches) = mpsc::channel(4);
    let mut config = SourceConfig::new("ws://localhost", "s3cret");
    config.max_frame_size = LIMIT;
    change(&mut config);
    let (requests, live) = (Arc::default(), Live::default());
    let failures = Arc::new(Mutex::new(failures));
    let setup = Setup {
        dialler: TestDial {
            platforms: platforms_in,
            failures: Arc::clone(&failures),
            requests: Arc::clone(&requests),
        },
        reader: SecretReader {
            sources: config.secrets(),
            live: live.clone(),
        },
        secrets: SecretSet::default(),
        protocol: config.protocol(&[]).unwrap(),
        config,
    };
    let (stop, stats) = (CancellationToken::new(), Arc::new(SourceStats::new()));
    let stored = Arc::<StoredPosition>::default();
    let mut link = SourceLink::new(
        "test".into(),
        TestOutlet::default(),
        items,
        stop.clone(),
        stats.clone(),
        Arc::clone(&stored),
    );
    link.may_connect = may_connect;
    let bench = Bench {
        handle: live.handle(),
        platforms,
        batches,
        stop,
        stats,
        stored,
        requests,
        failures,
        hold: Arc::clone(&link.hold),
    };
    (connections::run(setup, link), bench)
}

/// Answers every connection in the same way for ten minutes, and returns the counters.
async fn ten_minutes<F: AsyncFn(Platform)>(answer: F) -> SourceSnapshot {
    let (source, mut bench) = bench(|_| {}, Vec::new());
    let server = async {
        let end = Instant::now() + Duration::from_secs(600);
        while let Ok(Some(platform)) = tokio::time::timeout_at(end, bench.platforms.recv()).await {
            tokio::time::timeout_at(end, answer(platform)).await.ok();
        }
        let snapshot = bench.snapshot();
        bench.stop.cancel();
        snapshot
    };
    let (result, snapshot) = join!(source, server);
    result.unwrap();
    snapshot
}

#[tokio::test(start_paused = true)]
async fn no_server_fault_causes_a_hot_loop() {
    let mut seen = Vec::new();
    let closes_at_once = ten_minutes(async |mut platform| platform.close(CloseCode::Normal).await).await;
    seen.push((closes_at_once, DisconnectReason::Closed));
    let vanishes = ten_minutes(async |_| {}).await;
    seen.push((vanishes, DisconnectReason::Broken));
    let refuses = ten_minutes(async |mut platform| {
        platform.receive_text().await;
        platform.send_text(r#"{"error":"Invalid token"}"#).await;
        platform.receive_text().await;
    })
    .await;
    seen.push((refuses, DisconnectReason::TokenRefused));
    let closes_after_auth = ten_minutes(async |mut platform| {
        platform.authenticate().await;
        platform.close(CloseCode::Normal).await;
    })
    .await;
    seen.push((closes_after_auth, DisconnectReason::Closed));
    let answers_nothing = ten_minutes(async |mut platform| {
        platform.receive_text().await;
        platform.receive_text().await;
    })
    .await;
    seen.push((answers_nothing, DisconnectReason::AuthTimeout));
    let answers_wrongly = ten_minutes(async |mut platform| {
        platform.authenticate().await;
        platform.receive_text().await;
        platform.send_text(r#"{"PING":"no"}"#).await;
        platform.receive_text().await;
    })
    .await;
    seen.push((answers_wrongly, DisconnectReason::BadPong));
    for (snapshot, reason) in seen {
        let count = snapshot.disconnections.get(reason);
        // Once the delays have grown, an attempt every fifteen seconds on average.
        assert!((15..=80).contains(&count), "{reason}: {count}");
        assert_eq!(
            snapshot.connections - snapshot.open_connections,
            snapshot.disconnections.total()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn each_connection_outcome_is_counted_and_shown() {
    let status = |status| DialError::Status {
        target: "host:80".into(),
        status,
        words: "",
        retry_after: None,
    };
    let failures = [401, 403, 429, 503, 500].map(status).into_iter().collect();
    let (source, mut bench) = bench(|_| {}, failures);
    let server = async {
        let mut platform = bench.platforms.recv().await.unwrap();
        let snapshot = bench.snapshot();
        for outcome in [
            ConnectionOutcome::HttpUnauthorized,
            ConnectionOutcome::HttpForbidden,
            ConnectionOutcome::HttpTooManyRequests,
            ConnectionOutcome::HttpUnavailable,
            ConnectionOutcome::HttpOther,
        ] {
            assert_eq!(snapshot.outcomes.get(outcome), 1, "{outcome}");
        }
        let reason = snapshot.reason.unwrap();
        assert!(reason.starts_with("host:80 answered HTTP 401"), "{reason}");
        platform.authenticate().await;
        bench.in_state(SourceState::Authenticated).await;
        assert_eq!(bench.snapshot().reason, None);
        assert_eq!(
            bench.snapshot().gaps.total(),
            0,
            "no gap before the first authentication"
        );
        platform.close(CloseCode::Away).await;
        bench.in_state(SourceState::Waiting).await;
        let mut platform = bench.platforms.recv().await.unwrap();
        platform.authenticate().await;
        bench.in_state(SourceState::Authenticated).await;
        let snapshot = bench.snapshot();
        assert_eq!(snapshot.gaps.get(GapOutcome::Unrecovered), 1);
        assert!(snapshot.gap_time >= Duration::from_millis(250));
        assert_eq!(snapshot.outcomes.get(ConnectionOutcome::Authenticated), 2);
        bench.stop.cancel();
    };
    join!(source, server).0.unwrap();
}

#[tokio::test(start_paused = true)]
async fn retry_after_delays_the_next_attempt() {
    let requested = Duration::from_secs(42);
    let failure = DialError::Status {
        target: "host:80".into(),
        status: 429,
        words: "",
        retry_after: Some(requested),
    };
    let (source, mut bench) = bench(|_| {}, vec![failure]);
    let start = Instant::now();
    let (result, ()) = join!(source, async {
        bench.platforms.recv().await.unwrap();
        assert!(start.elapsed() >= requested && start.elapsed() <= requested + Duration::from_millis(500));
        bench.stop.cancel();
    });
    result.unwrap();
}

#[tokio::test(start_paused = true)]
async fn delay_is_reset_only_after_a_stable_connection() {
    for (lasts, is_reset) in [(29, false), (31, true)] {
        let (source, mut bench) = bench(|config| config.backoff.min = Duration::from_secs(8), Vec::new());
        let (result, ()) = join!(source, async {
            for _ in 0..3 {
                bench.platforms.recv().await.unwrap();
            }
            // The next delay is between 8 and 30 seconds, or between 8 and 16 after a reset: many attempts
            // show which.
            let mut longest = Duration::ZERO;
            for _ in 0..40 {
                let mut platform = bench.platforms.recv().await.unwrap();
                platform.authenticate().await;
                tokio::time::timeout(Duration::from_secs(lasts), platform.answer_pings())
                    .await
                    .ok();
                drop(platform);
                let since = Instant::now();
                bench.in_state(SourceState::Waiting).await;
                bench.in_state_after_delay(SourceState::Opening).await;
                longest = longest.max(since.elapsed());
            }
            assert_eq!(longest <= Duration::from_millis(16_100), is_reset, "{longest:?}");
            bench.stop.cancel();
        });
        result.unwrap();
    }
}

impl Bench {
    /// Advances the time until the source has this state.
    async fn in_state_after_delay(&self, state: SourceState) {
        while self.snapshot().state != state {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn refused_token_ends_the_source_only_if_configured() {
    for exits in [false, true] {
        let (source, mut bench) = bench(|config| config.exit_on_refused_token = exits, Vec::new());
        let server = async {
            let mut platform = bench.platforms.recv().await.unwrap();
            assert_eq!(platform.receive_text().await, AUTH);
            platform.send_text(r#"{"auth":"denied s3cret"}"#).await;
            // The platform answers the close frame.
            platform.answer_pings().await;
            bench.in_state(SourceState::Refused).await;
            let reason = bench.snapshot().reason.unwrap();
            assert_eq!(reason, "the platform refused the token: denied [redacted]");
            if !exits {
                bench.platforms.recv().await.unwrap();
                bench.stop.cancel();
            }
        };
        let (result, ()) = join!(source, server);
        assert_eq!(matches!(result, Err(SourceError::TokenRefused { .. })), exits);
    }
}

#[tokio::test(start_paused = true)]
async fn stop_is_immediate_in_every_state() {
    // Dialling.
    let (source, bench) = bench_without_platform();
    stopped_at_once(source, &bench, SourceState::Dialling).await;
    // Authenticating.
    let (source, mut bench) = self::bench(|_| {}, Vec::new());
    let mut platforms = std::mem::replace(&mut bench.platforms, mpsc::unbounded_channel().1);
    let server = async { platforms.recv().await.unwrap().answer_pings().await };
    join!(stopped_at_once(source, &bench, SourceState::Opening), server);
    // Waiting.
    let failure = DialError::NoAddress { host: "h".into() };
    let (source, bench) = self::bench(|_| {}, vec![failure]);
    stopped_at_once(source, &bench, SourceState::Waiting).await;
    // Authenticated. A stop during backpressure is tested with `connection::receive`.
    let (source, mut bench) = self::bench(|_| {}, Vec::new());
    let mut platforms = std::mem::replace(&mut bench.platforms, mpsc::unbounded_channel().1);
    let server = async {
        let mut platform = platforms.recv().await.unwrap();
        platform.authenticate().await;
        platform.answer_pings().await;
    };
    join!(
        stopped_at_once(source, &bench, SourceState::Authenticated),
        server
    );
}

fn bench_without_platform() -> (impl Future<Output = Result<(), SourceError>>, Bench) {
    let (source, mut bench) = bench(|_| {}, Vec::new());
    bench.platforms.close();
    (source, bench)
}

async fn stopped_at_once(
    source: impl Future<Output = Result<(), SourceError>>,
    bench: &Bench,
    state: SourceState,
) {
    let (result, since) = join!(source, async {
        bench.in_state(state).await;
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(bench.snapshot().state, state);
        bench.stop.cancel();
        Instant::now()
    });
    result.unwrap();
    assert_eq!(since.elapsed(), Duration::ZERO, "{state}");
}

#[tokio::test(start_paused = true)]
async fn source_ends_when_the_receiver_of_batches_is_dropped() {
    let (source, mut bench) = bench(|_| {}, vec![DialError::NoAddress { host: "h".into() }]);
    bench.batches.close();
    source.await.unwrap();
}

/// Returns a source with the token "first" in a file, and the path of the file.
fn bench_with_token_file() -> (
    impl Future<Output = Result<(), SourceError>>,
    Bench,
    tempfile::TempDir,
    std::path::PathBuf,
) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, "first\n").unwrap();
    let named = path.clone();
    let (source, bench) = bench(
        |config| {
            config.token = None;
            config.token_file = Some(named);
        },
        Vec::new(),
    );
    (source, bench, folder, path)
}

#[tokio::test(start_paused = true)]
async fn rotated_token_is_used_at_the_next_connection() {
    let (source, mut bench, _folder, path) = bench_with_token_file();
    let (result, ()) = join!(source, async {
        let mut platform = bench.platforms.recv().await.unwrap();
        assert!(platform.receive_text().await.contains(r#""first""#));
        std::fs::write(&path, "second").unwrap();
        platform.close(CloseCode::Normal).await;
        let mut platform = bench.platforms.recv().await.unwrap();
        assert!(platform.receive_text().await.contains(r#""second""#));
        std::fs::remove_file(&path).unwrap();
        platform.close(CloseCode::Normal).await;
        while bench.snapshot().outcomes.get(ConnectionOutcome::TokenUnreadable) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let reason = bench.snapshot().reason.unwrap();
        assert!(
            reason.starts_with("the token cannot be read: \"token_file\": cannot read"),
            "{reason}"
        );
        bench.stop.cancel();
    });
    result.unwrap();
}

#[test]
fn creating_a_source_reports_configuration_and_tls_errors() {
    let make = |config| Source::new("main", config, Arc::default(), &[]).map(|_| ());
    let error = make(SourceConfig::default()).unwrap_err();
    assert!(
        error.to_string().starts_with("source main: token: missing"),
        "{error}"
    );
    let mut config = SourceConfig::new("wss://localhost", "t");
    config.tls.ca_file = Some("/nowhere/ca.pem".into());
    let error = make(config).unwrap_err();
    assert!(
        sentence(&error).contains("cannot read `tls.ca_file`, /nowhere/ca.pem"),
        "{error}"
    );
}

#[tokio::test]
async fn hundred_sources_run_in_one_process() {
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::Message;

    const SOURCES: usize = 100;
    const EVENTS: usize = 50;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
                socket.next().await.unwrap().unwrap();
                socket.feed(Message::text(r#"{"auth":"ok"}"#)).await.unwrap();
                for id in 0..EVENTS {
                    socket.feed(Message::text(event(id))).await.unwrap();
                }
                socket.flush().await.unwrap();
                while let Some(Ok(_)) = socket.next().await {}
            });
        }
        Ok(())
    });
    // Room for fewer batches than there are sources: no source may reserve room that it does not use.
    let (batches_in, mut batches) = mpsc::channel(4);
    let stop = CancellationToken::new();
    let mut ledgers = Vec::new();
    for number in 0..SOURCES {
        let ledger = Arc::new(SourceLedger::default());
        let mut config = SourceConfig::new(url.clone(), format!("token {number}"));
        config.proxy = Some("none".into());
        config.open_timeout = Duration::from_secs(30);
        config.auth_timeout = Duration::from_secs(30);
        let name = format!("source{number}");
        let source = Source::new(name.as_str(), config, ledger.clone(), &[]).unwrap();
        tasks.spawn(source.run(Messages::new(name), batches_in.clone(), stop.clone()));
        ledgers.push(ledger);
    }
    drop(batches_in);
    let mut seen = std::collections::HashMap::<Arc<str>, usize>::new();
    let all = async {
        while seen.values().sum::<usize>() < SOURCES * EVENTS {
            let batch = batches.recv().await.unwrap();
            *seen.entry(batch.source).or_default() += batch.messages.len();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.unwrap();
    assert!(seen.len() == SOURCES && seen.values().all(|count| *count == EVENTS));
    assert!(
        ledgers
            .iter()
            .all(|ledger| ledger.counts().received == EVENTS as u64)
    );
    stop.cancel();
    assert!(batches.recv().await.is_none(), "all sources have ended");
}
