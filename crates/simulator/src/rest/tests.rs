use std::time::Duration;

use serde_json::Value;
use tokio_tungstenite::tungstenite::http;

use super::*;

fn entries() -> Entries {
    Entries::new(
        1,
        Some("2026-03-01T08:00:00Z".parse().unwrap()),
        Duration::from_secs(1),
        None,
    )
}

fn get(path: &str, produced: u64) -> (u16, Value) {
    let request = http::Request::builder().uri(path).body(()).unwrap();
    let response = respond(&request, &entries(), produced);
    (response.status, serde_json::from_slice(&response.body).unwrap())
}

fn ids(path: &str, produced: u64) -> Vec<u64> {
    let (status, body) = get(path, produced);
    assert_eq!(status, 200, "{body}");
    body["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["id"].as_u64().unwrap())
        .collect()
}

#[test]
fn pages_start_with_the_newest_entry() {
    assert_eq!(ids("/v1/entries/", 50), (31..=50).rev().collect::<Vec<_>>());
    assert_eq!(ids("/v1/entries/?limit=5&offset=48", 50), [2, 1]);
    assert_eq!(ids("/v1/entries/?limit=1000", 5_000).len(), MAX_PAGE);
    assert!(ids("/v1/entries/", 0).is_empty());
}

#[test]
fn entries_before_the_window_are_not_returned() {
    let offset = REST_WINDOW - 1;
    assert_eq!(
        ids(&format!("/v1/entries/?offset={offset}"), REST_WINDOW + 10),
        [11]
    );
}

#[test]
fn filters_select_matching_entries() {
    assert_eq!(ids("/v1/entries/?id_from=48", 50), [50, 49, 48]);
    let times = "date_from=2026-03-01T08:00:10Z&date_to=2026-03-01T08:00:12";
    assert_eq!(ids(&format!("/v1/entries/?{times}"), 50), [13, 12, 11]);
    let (_, body) = get(
        "/v1/entries/?spaces_ids=1,2&sources_ids=1,7&result=new,exact&limit=100",
        1_000,
    );
    let found = body["results"].as_array().unwrap();
    assert!(found.len() > 50, "{}", found.len());
    for entry in found {
        assert!([1, 2].contains(&entry["space"]["id"].as_u64().unwrap()));
        assert!([1, 7].contains(&entry["source"]["id"].as_u64().unwrap()));
        assert!(["new", "exact"].contains(&entry["result"].as_str().unwrap()));
    }
}

#[test]
fn errors_use_the_platform_format() {
    let (status, body) = get("/v1/entries/?limit=many", 50);
    assert_eq!(status, 400);
    insta::assert_snapshot!(body.to_string());
    assert_eq!(get("/v1/persons/", 50).0, 404);
    assert_eq!(get("/v1/entries/stats/pid/nobody/", 50).0, 404);
}

#[test]
fn person_statistics_match_listed_entries() {
    let entries = entries();
    let person = (1..200).find_map(|id| entries.describe(id).person).unwrap();
    let pid = entries.pid(person).to_string();
    let (status, body) = get(&format!("/v1/entries/stats/pid/{pid}/"), 200);
    assert_eq!(status, 200, "{body}");
    let (_, listed) = get(&format!("/v1/entries/?pid={pid}&limit=100"), 200);
    assert_eq!(body["count"], listed["results"].as_array().unwrap().len());
    insta::assert_snapshot!(body.to_string());
}

#[test]
fn token_requires_the_token_scheme() {
    let with = |value: &str| {
        let request = http::Request::builder()
            .header("Authorization", value)
            .body(())
            .unwrap();
        token(&request).map(str::to_owned)
    };
    assert_eq!(with("Token abc").as_deref(), Some("abc"));
    assert_eq!(with("Bearer abc"), None);
}
