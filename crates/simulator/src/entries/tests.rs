use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::Value;

use super::*;

const START: &str = "2026-03-01T08:00:00Z";

fn entries(seed: u64, size: Option<usize>) -> Entries {
    Entries::new(
        seed,
        Some(START.parse().unwrap()),
        Duration::from_millis(10),
        size,
    )
}

fn frame(entries: &Entries, id: u64) -> String {
    let mut out = Vec::new();
    entries.write_frame(id, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn first_entries_of_seed_1_match_snapshot() {
    let entries = entries(1, None);
    let frames: Vec<String> = (1..=5).map(|id| frame(&entries, id)).collect();
    insta::assert_snapshot!(frames.join("\n"));
}

#[test]
fn late_entry_matches_snapshot() {
    insta::assert_snapshot!(frame(&entries(1, None), 123_456_789));
}

#[test]
fn inline_picture_frame_matches_snapshot() {
    insta::assert_snapshot!(frame(&entries(1, Some(800)), 7));
}

#[test]
fn default_event_has_about_600_bytes() {
    let entries = entries(1, None);
    let total: usize = (100_000..101_000).map(|id| frame(&entries, id).len()).sum();
    assert!((560_000..680_000).contains(&total), "{total}");
}

#[test]
fn generated_entries_have_all_values_and_repeat_persons() {
    let entries = entries(3, None);
    let all: Vec<Entry> = (1..=5_000).map(|id| entries.describe(id)).collect();
    let results: BTreeSet<EntryResult> = all.iter().map(|entry| entry.result).collect();
    assert_eq!(results.len(), EntryResult::ALL.len());
    let moods: BTreeSet<&str> = all.iter().map(|entry| entry.mood).collect();
    assert_eq!(moods.len(), 10);
    assert_eq!(
        all.iter()
            .map(|entry| entry.liveness)
            .collect::<BTreeSet<_>>()
            .len(),
        3
    );
    assert_eq!(
        all.iter().map(Entry::source_id).collect::<BTreeSet<_>>().len(),
        SOURCES.len()
    );
    assert_eq!(all.iter().map(Entry::space_id).collect::<BTreeSet<_>>().len(), 4);

    let mut seen: BTreeMap<u64, u32> = BTreeMap::new();
    for entry in &all {
        let Some(person) = entry.person else { continue };
        let times = seen.entry(person).or_default();
        assert!(*times == 0 || entry.result != EntryResult::New, "{entry:?}");
        *times += 1;
    }
    assert!(seen.len() > 500, "{}", seen.len());
    assert!(seen.values().filter(|times| **times > 1).count() > seen.len() / 2);
}

#[test]
fn variant_has_the_same_id_result_and_person() {
    let entries = entries(1, None);
    for id in 1..500 {
        let mut variant = Vec::new();
        entries.write_variant(id, 1, &mut variant);
        let (first, second): (Value, Value) = (
            serde_json::from_str(&frame(&entries, id)).unwrap(),
            serde_json::from_slice(&variant).unwrap(),
        );
        assert_ne!(first, second);
        for field in ["id", "result", "pid"] {
            assert_eq!(first["data"][field], second["data"][field]);
        }
    }
}

proptest! {
    #[test]
    fn same_seed_yields_the_same_bytes(seed: u64, id in 1_u64..1_000_000_000_000) {
        let (first, second) = (frame(&entries(seed, None), id), frame(&entries(seed, None), id));
        prop_assert_eq!(&first, &second);
        let json: Value = serde_json::from_str(&first).unwrap();
        prop_assert_eq!(&json["id"], id);
        prop_assert_eq!(&json["data"]["id"], id);
        prop_assert!(json["data"]["created"].as_str().unwrap() >= "2026-03-01T08:00:00");
        if let Some(first_seen) = json["data"]["pid_created"].as_str() {
            prop_assert!(first_seen <= json["data"]["created"].as_str().unwrap());
            prop_assert!(first_seen >= "2026-02-15");
        }
    }

    #[test]
    fn frame_has_exactly_the_configured_size(seed: u64, id in 1_u64..1_000_000_000_000, size in MIN_FRAME_BYTES..70_000) {
        let entries = entries(seed, Some(size));
        let text = frame(&entries, id);
        prop_assert_eq!(text.len(), size);
        let json: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(json["data"]["face_image"].as_str().unwrap().len() % 4, 0);
    }

    #[test]
    fn rest_entry_equals_the_frame_data(seed: u64, id in 1_u64..1_000_000) {
        let entries = entries(seed, None);
        let mut entry = Vec::new();
        entries.write_entry(&entries.describe(id), &mut entry);
        let json: Value = serde_json::from_str(&frame(&entries, id)).unwrap();
        prop_assert_eq!(serde_json::from_slice::<Value>(&entry).unwrap(), json["data"].clone());
    }
}

#[test]
fn creation_times_begin_at_the_first_call_of_begin() {
    let entries = Entries::new(1, None, Duration::from_secs(1), None);
    entries.begin();
    let begun = Timestamp::now().as_microsecond();
    assert!(entries.describe(1).created <= begun);
    entries.begin();
    assert_eq!(
        entries.describe(3).created,
        entries.describe(1).created + 2_000_000
    );
}
