//! Tests of the REST interface and its faults over real sockets.

#![allow(clippy::unwrap_used, reason = "a helper of a test may fail the test")]

mod support;

use std::time::Duration;

use neurobridge_simulator::{Options, RestOptions, RestShape};
use serde_json::Value;
use tokio::time::Instant;

use self::support::{Answer, Running, assert_silent, start, start_with, within};

/// Starts a simulator that has recognised 100 entries.
async fn recognised(options: Options) -> Running {
    let simulator = start(Options {
        count: Some(100),
        ..options
    })
    .await;
    simulator.authenticated().await.ids(100).await;
    within(simulator.handle.done()).await;
    assert_eq!(simulator.handle.newest_id(), 100);
    simulator
}

async fn with_fault(rule: &str) -> Running {
    recognised(Options {
        faults: vec![rule.parse().unwrap()],
        ..Options::default()
    })
    .await
}

async fn list(simulator: &Running, query: &str) -> Answer {
    simulator.get(&format!("/v1/entries/?{query}")).await
}

fn ids(answer: &Answer) -> Vec<u64> {
    let list = answer.json()["results"].as_array().unwrap().clone();
    list.iter().filter_map(|entry| entry["id"].as_u64()).collect()
}

#[tokio::test]
async fn listed_entry_equals_the_entry_of_the_feed() {
    let simulator = start_with(&[], Some(100)).await;
    let mut client = simulator.authenticated().await;
    let mut last = Value::Null;
    for _ in 0..100 {
        last = client.json().await;
    }
    let answer = list(&simulator, "limit=3").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["results"][0], last["data"]);
    assert_eq!(ids(&answer), [100, 99, 98]);
    assert_eq!(list(&simulator, "limit=x").await.status, 400);
    let pid = last["data"]["pid"].as_str().unwrap_or("none").to_owned();
    let statistics = simulator.get(&format!("/v1/entries/stats/pid/{pid}/")).await;
    assert_eq!(statistics.status, if pid == "none" { 404 } else { 200 });
}

#[tokio::test]
async fn wrong_or_missing_token_is_refused() {
    let simulator = recognised(Options {
        tokens: vec!["secret".into()],
        ..Options::default()
    })
    .await;
    assert_eq!(list(&simulator, "").await.status, 200);
    for token in [Some("wrong"), None] {
        let answer = simulator.request("GET", "/v1/entries/", token, "").await;
        assert_eq!(answer.status, 401);
        assert_eq!(answer.json()["error_codes"], serde_json::json!([601]));
    }
}

#[tokio::test]
async fn entries_created_while_no_client_is_connected_are_listed() {
    let simulator = start(Options {
        rate: Some(1_000.0),
        rest: RestOptions {
            shape: RestShape::List,
            ..RestOptions::default()
        },
        ..Options::default()
    })
    .await;
    let mut client = simulator.authenticated().await;
    let last = client.id().await;
    drop(client);
    simulator.handle.wait_until(|counters| counters.open == 0).await;
    let sent = simulator.handle.counters().sent;
    within(async {
        while simulator.handle.newest_id() < sent + 50 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let answer = list(&simulator, &format!("id_from={last}&limit=100")).await;
    let listed = answer.json().as_array().unwrap().len() as u64;
    assert!(listed > 50, "{listed}");
}

#[tokio::test]
async fn status_fault_ends_after_its_last_application() {
    let simulator = with_fault("rest-http=429,retry-after=7,times=2").await;
    for _ in 0..2 {
        let answer = list(&simulator, "").await;
        assert_eq!(answer.status, 429);
        assert_eq!(answer.header("retry-after"), Some("7"));
    }
    assert_eq!(list(&simulator, "").await.status, 200);
    assert_eq!(simulator.handle.counters().faults, 2);
    let simulator = with_fault("rest-http=503,request=2").await;
    for status in [200, 503, 200] {
        assert_eq!(list(&simulator, "").await.status, status);
    }
}

#[tokio::test]
async fn slow_answer_comes_after_its_delay() {
    let simulator = with_fault("rest-slow=300ms,times=1").await;
    let start = Instant::now();
    assert_eq!(ids(&list(&simulator, "limit=1").await), [100]);
    assert!(start.elapsed() >= Duration::from_millis(300));
    let simulator = with_fault("rest-slow=1h").await;
    assert_silent(list(&simulator, "")).await;
    simulator.stop().await.unwrap();
}

#[tokio::test]
async fn dripped_answer_is_complete_and_slow() {
    let simulator = with_fault("rest-drip=4000").await;
    let start = Instant::now();
    assert_eq!(ids(&list(&simulator, "limit=2").await), [100, 99]);
    // About 1,400 bytes at 4,000 bytes per second.
    assert!(start.elapsed() > Duration::from_millis(200));
}

#[tokio::test]
async fn cut_answer_ends_in_the_middle_of_its_body() {
    let simulator = with_fault("rest-cut,times=1").await;
    let answer = list(&simulator, "limit=2").await;
    let announced: usize = answer.header("content-length").unwrap().parse().unwrap();
    let received = answer.body.len();
    assert!((1..announced).contains(&received), "{received} of {announced}");
    assert_eq!(ids(&list(&simulator, "limit=2").await), [100, 99]);
}

#[tokio::test]
async fn no_json_and_other_shape_replace_the_list() {
    let simulator = with_fault("rest-no-json").await;
    assert!(list(&simulator, "").await.body.starts_with("<html>"));
    let simulator = with_fault("rest-other-shape").await;
    let answer = list(&simulator, "").await.json();
    assert!(answer.is_object() && answer.get("results").is_none());
}

#[tokio::test]
async fn paging_faults_return_repeated_unordered_or_endless_pages() {
    let simulator = with_fault("rest-same-page").await;
    assert_eq!(ids(&list(&simulator, "limit=2&offset=50").await), [100, 99]);
    let simulator = with_fault("rest-backwards").await;
    assert_eq!(ids(&list(&simulator, "limit=2").await), [99, 100]);
    let simulator = with_fault("rest-no-id").await;
    assert_eq!(ids(&list(&simulator, "limit=4").await), [99, 97]);
    let simulator = with_fault("rest-endless").await;
    for offset in [0, 1_000, 1_000_000] {
        let page = list(&simulator, &format!("limit=100&offset={offset}")).await;
        assert_eq!(ids(&page).len(), 100, "{offset}");
    }
}

#[tokio::test]
async fn huge_answer_has_ten_mebibytes_by_default() {
    let simulator = with_fault("rest-huge").await;
    let answer = list(&simulator, "limit=2").await;
    assert!(answer.body.len() >= 10 << 20);
    assert_eq!(ids(&answer), [100, 99]);
}
