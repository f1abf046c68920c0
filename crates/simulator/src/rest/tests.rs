use std::num::NonZeroU64;

use serde_json::Value;
use tokio_tungstenite::tungstenite::http;

use super::*;
use crate::{entries::EntryOptions, journal::Journal, options::Options, recognised::Recognised};

/// Returns a platform that has recognised this many entries, one each second.
fn platform(options: Options, recognised: u64) -> Platform {
    let options = Options {
        start: Some("2026-03-01T08:00:00Z".parse().unwrap()),
        step: Some(std::time::Duration::from_secs(1)),
        ..options
    };
    let platform = Platform::new(
        options,
        None,
        Journal::create(None, 0).unwrap(),
        Recognised::create(None).unwrap(),
    );
    platform.feed.join(1, crate::declared::Start::Now, Instant::now());
    if recognised > 0 {
        platform.feed.mark_sent(1, 1..=recognised);
    }
    platform
}

fn answer(platform: &Platform, path: &str, fault: Option<&RestFault>) -> (u16, Value) {
    let request = http::Request::builder()
        .uri(path)
        .header("Authorization", "Token any")
        .body(())
        .unwrap();
    let response = respond(&request, &[], platform, fault);
    (response.status, serde_json::from_slice(&response.body).unwrap())
}

fn get(path: &str, recognised: u64) -> (u16, Value) {
    answer(&platform(Options::default(), recognised), path, None)
}

fn ids_of(list: &Value) -> Vec<u64> {
    let list = list.as_array().unwrap();
    list.iter().filter_map(|entry| entry["id"].as_u64()).collect()
}

fn listed(platform: &Platform, path: &str, fault: Option<&RestFault>) -> Vec<u64> {
    let (status, body) = answer(platform, path, fault);
    assert_eq!(status, 200, "{body}");
    ids_of(&body["results"])
}

fn ids(path: &str, recognised: u64) -> Vec<u64> {
    listed(&platform(Options::default(), recognised), path, None)
}

fn with_entries(options: EntryOptions) -> Platform {
    let options = Options {
        entries: options,
        ..Options::default()
    };
    platform(options, 50)
}

fn with_rest(rest: RestOptions) -> Platform {
    let options = Options {
        rest,
        ..Options::default()
    };
    platform(options, 50)
}

#[test]
fn pages_start_with_the_newest_entry() {
    assert_eq!(ids("/v1/entries/", 50), (31..=50).rev().collect::<Vec<_>>());
    assert_eq!(ids("/v1/entries/?limit=5&offset=48", 50), [2, 1]);
    assert_eq!(ids("/v1/entries/?limit=1000", 5_000).len(), 100);
    assert!(ids("/v1/entries/", 0).is_empty());
}

#[test]
fn options_determine_order_shape_and_page_size() {
    let platform = with_rest(RestOptions {
        shape: RestShape::List,
        order: RestOrder::OldestFirst,
        max_page: NonZeroU64::new(3).unwrap(),
        ..RestOptions::default()
    });
    let (_, body) = answer(&platform, "/v1/entries/?id_from=7", None);
    assert_eq!(ids_of(&body), [7, 8, 9]);
}

#[test]
fn entries_beyond_retention_are_not_listed() {
    let by_number = with_rest(RestOptions {
        keep: 10,
        ..RestOptions::default()
    });
    assert_eq!(listed(&by_number, "/v1/entries/?offset=8", None), [42, 41]);
    // All entries were created long ago.
    let by_age = with_rest(RestOptions {
        keep_for: Some(std::time::Duration::from_secs(60)),
        ..RestOptions::default()
    });
    assert!(listed(&by_age, "/v1/entries/", None).is_empty());
}

#[test]
fn filters_select_matching_entries() {
    assert_eq!(ids("/v1/entries/?id_from=48", 50), [50, 49, 48]);
    assert_eq!(ids("/v1/entries/?entry_id_from=49", 50), [50, 49]);
    let times = "date_from=2026-03-01T08:00:10Z&date_to=2026-03-01T08:00:12";
    assert_eq!(ids(&format!("/v1/entries/?{times}"), 50), [13, 12, 11]);
    assert!(ids("/v1/entries/?date_to=2020-01-01", 50).is_empty());
    assert!(ids("/v1/entries/?date_from=2030-01-01", 50).is_empty());
    assert!(ids("/v1/entries/?id_from=60", 50).is_empty());
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
fn skipped_ids_and_deleted_entries_are_not_listed() {
    let platform = with_entries(EntryOptions {
        holes: NonZeroU64::new(10),
        deleted: NonZeroU64::new(4),
        ..EntryOptions::default()
    });
    // The positions 50 to 43 without 48 and 44; four ids are skipped before the 50th entry.
    assert_eq!(
        listed(&platform, "/v1/entries/?limit=6", None),
        [54, 53, 51, 50, 49, 47]
    );
    assert_eq!(listed(&platform, "/v1/entries/?id_from=52", None), [54, 53]);
}

#[test]
fn late_entries_have_an_earlier_creation_time() {
    let platform = with_entries(EntryOptions {
        late: NonZeroU64::new(5),
        ..EntryOptions::default()
    });
    let times = "date_from=2026-03-01T08:00:10Z&date_to=2026-03-01T08:00:15Z";
    assert_eq!(
        listed(&platform, &format!("/v1/entries/?{times}"), None),
        [16, 14, 13, 12, 11]
    );
    let (_, body) = answer(&platform, "/v1/entries/?id_from=50", None);
    assert_eq!(body["results"][0]["created"], "2026-03-01T07:00:49.000000Z");
}

#[test]
fn clock_offset_moves_creation_times() {
    let platform = with_entries(EntryOptions {
        clock_offset: jiff::SignedDuration::from_hours(-1),
        ..EntryOptions::default()
    });
    let times = "date_from=2026-03-01T07:00:10Z&date_to=2026-03-01T07:00:12Z";
    assert_eq!(
        listed(&platform, &format!("/v1/entries/?{times}"), None),
        [13, 12, 11]
    );
}

#[test]
fn each_list_fault_changes_the_page() {
    let platform = platform(Options::default(), 6);
    let list = |path: &str, fault| listed(&platform, &format!("/v1/entries/?{path}"), Some(&fault));
    assert_eq!(list("limit=2&offset=4&id_from=5", RestFault::SamePage), [6, 5]);
    assert_eq!(list("limit=3", RestFault::Backwards), [4, 5, 6]);
    assert_eq!(list("limit=4", RestFault::NoId), [5, 3]);
    // The first list continues after its last entry; in the second, no entry matches.
    assert_eq!(list("limit=4&offset=4", RestFault::Endless), [2, 1, 13, 14]);
    assert_eq!(list("limit=3&id_from=20", RestFault::Endless), [21, 22, 23]);
    let huge = RestFault::Huge { bytes: 1 << 20 };
    assert_eq!(list("limit=2", huge.clone()), [6, 5]);
    for path in ["/v1/entries/", "/v1/entries/?id_from=20"] {
        let request = http::Request::builder().uri(path);
        let request = request.header("Authorization", "Token any").body(()).unwrap();
        assert!(respond(&request, &[], &platform, Some(&huge)).body.len() >= 1 << 20);
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
    let platform = platform(Options::default(), 200);
    let entries = &platform.entries;
    let person = (1..200).find_map(|id| entries.describe(id).person).unwrap();
    let pid = entries.pid(person).to_string();
    let (status, body) = get(&format!("/v1/entries/stats/pid/{pid}/"), 200);
    assert_eq!(status, 200, "{body}");
    let (_, listed) = get(&format!("/v1/entries/?pid={pid}&limit=100"), 200);
    assert_eq!(body["count"], listed["results"].as_array().unwrap().len());
    insta::assert_snapshot!(body.to_string());
}

#[test]
fn authorization_requires_the_token_scheme() {
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
