//! Tokens of a simulated platform over real sockets, with short lives.

use std::{fs, io, os::unix::fs::PermissionsExt, path::PathBuf};

use neurobridge_core::ledger::SourceLedger;
use neurobridge_listener::{Messages, Source};
use neurobridge_simulator::{Handle as Platform, Options, Simulator, TokenOptions};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::DropGuard;

use super::*;

/// The longest wait of a test before it fails.
const PATIENCE: Duration = Duration::from_secs(30);
/// The life of a token: renewed after 8 s, so that the second in which both connections are open ends before the old token
/// expires.
const LIFE: Duration = Duration::from_secs(10);

struct Bench {
    platform: Platform,
    config: SourceConfig,
    folder: tempfile::TempDir,
    _stop: DropGuard,
}

/// A source that reads the feed, with its tokens.
struct Reading {
    handle: Handle,
    tokens: Arc<Tokens>,
    running: Running,
    _batches: tokio::task::JoinHandle<()>,
    _stop: DropGuard,
}

impl Bench {
    async fn start(life: Duration) -> Self {
        let options = Options {
            tokens: vec!["credential".into()],
            token_options: TokenOptions {
                life,
                ..TokenOptions::default()
            },
            rate: Some(50.0),
            ..Options::default()
        };
        let simulator = Simulator::bind(options).await.unwrap();
        let (platform, stop) = (simulator.handle(), CancellationToken::new());
        tokio::spawn(simulator.run(stop.clone()));
        let mut from = TokenFromConfig::default();
        from.url = format!("http://{}", platform.local_addr());
        from.credential = Some("credential".into());
        let mut config = SourceConfig::new(format!("ws://{}/", platform.local_addr()), "");
        (config.token, config.token_from) = (None, Some(from));
        Self {
            platform,
            config,
            folder: tempfile::tempdir().unwrap(),
            _stop: stop.drop_guard(),
        }
    }

    async fn read(&self) -> Reading {
        let provider = TokenProvider::new("main", &self.config, self.folder.path())
            .await
            .unwrap();
        let provider = provider.unwrap();
        let tokens = provider.tokens();
        let source = Source::new("main", self.config.clone(), Arc::<SourceLedger>::default(), &[]).unwrap();
        let (handle, stop) = (source.handle(), CancellationToken::new());
        let running = provider.start(source.handle());
        let (items, mut batches) = mpsc::channel(16);
        tokio::spawn(source.run(Messages::new("main"), items, stop.clone()));
        Reading {
            handle,
            tokens,
            running,
            _batches: tokio::spawn(async move { while batches.recv().await.is_some() {} }),
            _stop: stop.drop_guard(),
        }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("main.token")
    }

    /// Returns the number of valid tokens at the platform, without the credential.
    fn alive(&self) -> usize {
        self.platform.active_tokens() - 1
    }

    /// Waits for a condition, and asserts meanwhile that at most two tokens are valid.
    async fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            assert!(self.alive() <= 2, "{} tokens are valid", self.alive());
            assert!(Instant::now() < deadline, "{what}");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

fn count(tokens: &Tokens, outcome: Outcome) -> u64 {
    tokens.outcomes().get(outcome)
}

impl Reading {
    fn is_in_use(&self) -> bool {
        self.handle.token_state() == TokenState::InUse
    }

    async fn stop(self) {
        self.running.stop().await;
    }
}

#[tokio::test]
async fn token_is_renewed_and_the_old_one_deleted() {
    let bench = Bench::start(LIFE).await;
    let reading = bench.read().await;
    bench
        .until("two old tokens are deleted", || {
            count(&reading.tokens, Outcome::Deleted) >= 2
        })
        .await;
    assert!(count(&reading.tokens, Outcome::Created) >= 3);
    let shown = reading.tokens.shown();
    assert!(shown.problem.is_none() && shown.expires.is_some(), "{shown:?}");
    // The credential and two tokens.
    assert!(bench.platform.most_tokens() <= 3);
}

#[tokio::test]
async fn restart_uses_the_stored_token() {
    let bench = Bench::start(Duration::from_secs(3_600)).await;
    let reading = bench.read().await;
    bench.until("the token is in use", || reading.is_in_use()).await;
    let mode = fs::metadata(bench.file()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let expires = reading.tokens.shown().expires.unwrap();
    reading.stop().await;

    let reading = bench.read().await;
    bench
        .until("the stored token is in use", || reading.is_in_use())
        .await;
    assert_eq!(count(&reading.tokens, Outcome::Created), 0);
    assert_eq!(bench.alive(), 1);
    let difference = reading.tokens.shown().expires.unwrap().duration_since(expires);
    assert!(difference.abs().as_secs() < 2, "{difference}");
    reading.stop().await;

    fs::write(bench.file(), "{\"version\":1,").unwrap();
    let reading = bench.read().await;
    bench
        .until("another token is in use", || reading.is_in_use())
        .await;
    assert_eq!(reading.tokens.file_errors(), 1);
    assert_eq!(count(&reading.tokens, Outcome::Created), 1);
}

#[tokio::test]
async fn deleted_token_is_replaced_before_it_expires() {
    let bench = Bench::start(Duration::from_secs(3_600)).await;
    let reading = bench.read().await;
    bench.until("the token is in use", || reading.is_in_use()).await;
    let stored: serde_json::Value = serde_json::from_slice(&fs::read(bench.file()).unwrap()).unwrap();
    let id = stored["token"]["id"].as_u64().unwrap();
    let from = bench.config.token_from.clone().unwrap();
    let iam = client(&bench.config, &from).await.unwrap();
    iam.delete_token(&"credential".into(), id).await.unwrap();
    bench
        .until("another token is in use", || {
            reading.is_in_use() && count(&reading.tokens, Outcome::Created) == 2
        })
        .await;
    bench.until("one token is left", || bench.alive() == 1).await;
    // The credential, the new token, and before its deletion the old one.
    assert!(bench.platform.most_tokens() <= 3);
}

#[tokio::test]
async fn each_failure_of_iam_is_counted_without_hot_loop() {
    for (rule, outcome, text) in [
        ("rest-http=401", Outcome::Refused, "refused the token (HTTP 401)"),
        (
            "rest-http=429,retry-after=1",
            Outcome::RateLimited,
            "too many requests (HTTP 429), retry after 1s",
        ),
        ("rest-http=400", Outcome::Rejected, "HTTP 400"),
        ("rest-http=503", Outcome::Unavailable, "HTTP 503"),
        ("rest-no-json", Outcome::InvalidAnswer, "is not JSON"),
        ("rest-other-shape", Outcome::InvalidAnswer, "unknown shape"),
    ] {
        let bench = Bench::start(Duration::from_secs(3_600)).await;
        bench.platform.add_fault(rule.parse().unwrap());
        let reading = bench.read().await;
        bench
            .until(rule, || reading.tokens.shown().problem.is_some())
            .await;
        let problem = reading.tokens.shown().problem.unwrap();
        assert!(
            problem.starts_with("no token created: ")
                && problem.contains(text)
                && !problem.contains("credential-"),
            "{rule}: {problem}"
        );
        assert_eq!(count(&reading.tokens, outcome), 1, "{rule}");
        assert_eq!(bench.platform.counters().requests, 1, "{rule}");
        assert_eq!(reading.tokens.shown().alive, 0);
    }
}

#[tokio::test]
async fn unwritable_folder_is_counted_and_the_token_used() {
    let bench = Bench::start(Duration::from_secs(3_600)).await;
    // A folder in the place of the temporary file cannot be replaced, also not by root.
    fs::create_dir_all(bench.folder.path().join("main.token.new/x")).unwrap();
    let reading = bench.read().await;
    bench.until("the token is in use", || reading.is_in_use()).await;
    assert_eq!(reading.tokens.file_errors(), 1);
    assert_eq!(
        fs::metadata(bench.file()).unwrap_err().kind(),
        io::ErrorKind::NotFound
    );
}
