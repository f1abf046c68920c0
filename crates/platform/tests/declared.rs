//! Reads the list of past events of a declared feed from a simulator that uses the same declaration.

#![allow(clippy::unwrap_used, reason = "a helper of a test may fail the test")]

mod support;

use std::time::Duration;

use futures_util::StreamExt;
use neurobridge_listener::SourceConfig;
use neurobridge_platform::{BackfillReader, Client, Window};
use neurobridge_protocol::{Declaration, EventList};
use neurobridge_simulator::{DeclaredFeed, Options, RestOrder};
use tokio::net::TcpStream;
use tokio_tungstenite::{client_async, tungstenite::Message};

use self::support::{Platform, START, read, within};

/// The number of recognised events, one each second.
const EVENTS: u64 = 60;

fn declaration(address: &str, pages: &str) -> Declaration {
    let text = format!(
        r#"
        secrets = {{ key = {{ value = "key-of-the-test" }} }}
        rules = [{{ when = {{ kind = "order" }}, is = "event" }}]
        event = {{ id = "n", time = "at" }}
        [backfill]
        url = "http://{address}/orders?since={{from}}&until={{to}}"
        query = {{ after = "{{last_id}}", key = "{{secret.key}}" }}
        pages = {pages}
        "#
    );
    toml::from_str(&text).unwrap()
}

const OFFSET: &str = r#"{ type = "offset", limit = 20 }"#;

/// Starts a simulator that has recognised all events.
async fn recognised(order: RestOrder, pages: &str) -> Platform {
    let mut options = Options {
        feed: Some(DeclaredFeed::new(declaration("simulator.invalid", pages))),
        count: Some(EVENTS),
        start: Some(START.parse().unwrap()),
        step: Some(Duration::from_secs(1)),
        ..Options::default()
    };
    options.rest.order = order;
    let platform = Platform::start(options).await;
    let stream = TcpStream::connect(platform.handle.local_addr()).await.unwrap();
    let (mut feed, _) = within(client_async("ws://localhost/", stream)).await.unwrap();
    for _ in 0..EVENTS {
        assert!(matches!(
            within(feed.next()).await.unwrap().unwrap(),
            Message::Text(_)
        ));
    }
    platform
}

fn config(platform: &Platform, pages: &str, key: &str) -> SourceConfig {
    let address = platform.handle.local_addr().to_string();
    let mut declaration = declaration(&address, pages);
    let secret = declaration.secrets.get_mut("key").unwrap();
    secret.value = Some(key.into());
    let mut config = SourceConfig::default();
    config.url = Some(format!("ws://{address}/"));
    config.feed = Some(Box::new(declaration));
    config.backfill.rate = 1_000;
    config.backoff.min = Duration::from_millis(10);
    config.backoff.max = Duration::from_millis(20);
    assert_eq!(config.check(), []);
    config
}

fn entries(config: &SourceConfig) -> BackfillReader {
    let list = EventList::new(config.feed.as_ref().unwrap()).unwrap().unwrap();
    let client = Client::new(config, list.origin()).unwrap();
    BackfillReader::declared(client, config, list)
}

fn window(after: Option<u64>) -> Window {
    Window {
        after: after.map(|id| id.to_string()),
        ..support::window(None)
    }
}

#[tokio::test]
async fn declared_list_is_read_by_time_or_by_id() {
    for (pages, order) in [
        (OFFSET, RestOrder::OldestFirst),
        (OFFSET, RestOrder::NewestFirst),
        (r#"{ type = "page", limit = 7 }"#, RestOrder::NewestFirst),
        (
            r#"{ type = "next", path = "next", limit = 7 }"#,
            RestOrder::OldestFirst,
        ),
    ] {
        // An answer with a next link is an object, which contains the list as `items`.
        let pages = pages.replace("}", "}\nlist = \"items\"");
        let platform = recognised(order, &pages).await;
        let config = config(&platform, &pages, "key-of-the-test");
        let (missed, report) = read(entries(&config), window(None)).await;
        assert_eq!(
            support::ids(&missed),
            (1..=EVENTS).collect::<Vec<_>>(),
            "{pages}: {report:?}"
        );
        assert_eq!(report.outcome.label(), "complete");
        assert!(missed[0].frame.starts_with("{\"") && missed[0].time.is_some());
        let (missed, _) = read(entries(&config), window(Some(50))).await;
        assert_eq!(
            support::ids(&missed),
            (51..=EVENTS).collect::<Vec<_>>(),
            "{pages}"
        );
    }
}

#[tokio::test]
async fn each_fault_of_a_declared_list_has_its_reason() {
    let mut lines = Vec::new();
    for rule in [
        "rest-http=503,times=1",
        "rest-http=429,times=1",
        "rest-http=503",
        "rest-http=403",
        "rest-cut,times=1",
        "rest-no-json",
        "rest-other-shape",
        "rest-same-page",
    ] {
        let platform = recognised(RestOrder::OldestFirst, OFFSET).await;
        platform.fault(rule);
        let (missed, report) = read(
            entries(&config(&platform, OFFSET, "key-of-the-test")),
            window(None),
        )
        .await;
        let host = platform.handle.local_addr().to_string();
        let outcome = report.outcome.to_string().replace(&host, "HOST");
        lines.push(format!("{rule}: {} events, {outcome}", missed.len()));
    }
    let platform = recognised(RestOrder::OldestFirst, OFFSET).await;
    let (missed, report) = read(entries(&config(&platform, OFFSET, "another-key")), window(None)).await;
    assert!(missed.is_empty() && report.outcome.is_token_refused());
    let host = platform.handle.local_addr().to_string();
    lines.push(format!(
        "another key: {}",
        report.outcome.to_string().replace(&host, "HOST")
    ));
    insta::assert_snapshot!(lines.join("\n"), @r#"
    rest-http=503,times=1: 60 events, complete
    rest-http=429,times=1: 60 events, complete
    rest-http=503: 0 events, failed: HOST answered HTTP 503: refused by a fault rule (error 600)
    rest-http=403: 0 events, failed: HOST answered HTTP 403: refused by a fault rule (error 600); expected a token with the rights for this request
    rest-cut,times=1: 60 events, complete
    rest-no-json: 0 events, failed: the answer of HOST is not JSON: found "<html><body>Please sign in</body></html>"; check the address of the interface
    rest-other-shape: 0 events, failed: the answer of HOST has an unknown shape: found a table at "backfill.list" (the answer itself); expected an array at the path `feed.backfill.list`, or the answer itself as an array
    rest-same-page: 20 events, partly: the answer for offset 38 is the same as an earlier answer; expected the next entries of the list, or an empty page at the end of the list: check `feed.backfill.pages`
    another key: failed: HOST refused the token (HTTP 401): the parameter "key" is missing or differs from the declared value (error 601); replace the token
    "#);
}

#[tokio::test]
async fn missing_secret_is_the_reason_and_no_request_is_sent() {
    let platform = recognised(RestOrder::OldestFirst, OFFSET).await;
    let mut config = config(&platform, OFFSET, "key-of-the-test");
    let feed = config.feed.as_mut().unwrap();
    let secret = feed.secrets.get_mut("key").unwrap();
    secret.value = None;
    secret.variable = Some("NEUROBRIDGE_TEST_NO_SUCH_VARIABLE".to_owned());
    let (missed, report) = read(entries(&config), window(None)).await;
    assert!(missed.is_empty() && report.requests == 0);
    let text = report.outcome.to_string();
    assert!(text.contains("the secret \"key\" cannot be read"), "{text}");
    assert_eq!(platform.handle.counters().requests, 0);
}
