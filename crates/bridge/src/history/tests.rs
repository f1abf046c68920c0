use std::fs;

use jiff::SignedDuration;
use neurobridge_listener::SourceState;
use proptest::prelude::*;

use super::{
    content::{MAX_ENTRIES, MAX_GAPS},
    facts::SourceFacts,
    *,
};
use crate::gaps::{RECOVERED, RESTART, UNRECOVERED};

const NAME: &str = "history.ndjson";

pub(super) fn time(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

fn down(sink: &str, at: i64) -> Entry {
    Entry::new(Kind::SinkDown, time(at), "the sink is down").of_sink(sink)
}

fn write_without_error(history: &History) {
    history.write();
    assert_eq!(history.write_errors.load(Ordering::Relaxed), 0);
}

/// Returns the facts of a source that was connected at this time.
pub(super) fn connected_source(at: i64) -> SourceFacts {
    SourceFacts {
        name: "main".to_owned(),
        state: SourceState::Authenticated,
        reason: None,
        since: time(at),
        handles_gaps: false,
        first_authenticated: Some(time(at)),
        first_resumed: false,
        open_gap: None,
        gaps: 0,
        newest_gaps: Vec::new(),
        proof_of_life: Some(time(at)),
        may_hide_gap: false,
        last_event: Some("7".to_owned()),
        received: 0,
        in_flight: 0,
        dead_letters: 0,
        newest_dead_letter: None,
    }
}

fn kinds(content: &HistoryContent) -> Vec<&str> {
    content.entries.values().map(|entry| &*entry.kind).collect()
}

#[test]
fn entries_of_a_flapping_sink_displace_no_others() {
    let mut content = HistoryContent::default();
    content.add(down("quiet", 0));
    // The entries are two hours apart, so that none counts as a repetition.
    for hours in 0..5000 {
        content.add(down("flapping", hours * 7200));
    }
    assert_eq!(content.entries.len(), MAX_ENTRIES);
    let quiet = |entry: &&Entry| entry.sink.as_deref() == Some("quiet");
    assert_eq!(content.entries.values().filter(quiet).count(), 1);
    let newest = content.newest_entries()[0].at;
    assert_eq!(newest, time(4999 * 7200));
}

#[test]
fn repeats_within_an_hour_are_merged() {
    let mut content = HistoryContent::default();
    for second in 0..100 {
        content.add(down("kafka", second).with_reason("timeout").events(2));
    }
    content.add(down("kafka", 100).with_reason("unreachable"));
    let counts: Vec<u64> = content.entries.values().map(|entry| entry.count).collect();
    assert_eq!(counts, [1, 1, 98, 1], "another reason is another change");
    let merged = &content.entries[&2];
    assert_eq!((merged.at, merged.last), (time(2), Some(time(99))));
    assert_eq!(merged.events, Some(196));
    content.add(down("kafka", 4000).with_reason("timeout"));
    assert_eq!(content.entries.len(), 5, "an hour later it is a change again");
}

#[test]
fn refused_token_replaces_the_cause_of_an_open_gap() {
    let mut content = HistoryContent::default();
    content.begin_gap("main", time(0), "broken");
    content.begin_gap("main", time(1), "pong_timeout");
    assert_eq!(content.open_gap("main").unwrap().reason, "broken");
    content.begin_gap("main", time(2), "token_refused");
    let gap = content.end_gap("main", time(9), UNRECOVERED).unwrap();
    assert_eq!(
        (&*gap.reason, gap.began, gap.seconds),
        ("token_refused", time(0), 9.0)
    );
}

#[test]
fn merged_gaps_keep_their_number_and_duration() {
    let mut content = HistoryContent::default();
    content.begin_gap("main", time(-100_000), "closed");
    content.end_gap("main", time(-99_000), UNRECOVERED);
    let many = 3 * MAX_GAPS as i64;
    for gap in 0..many {
        content.begin_gap("main", time(gap * 10), "closed");
        content.end_gap("main", time(gap * 10 + 4), UNRECOVERED);
    }
    assert_eq!(content.gaps.len(), MAX_GAPS);
    let first = &content.gaps[&0];
    assert_eq!(
        (first.gaps, first.seconds),
        (1, 1000.0),
        "the distant gap stays alone"
    );
    let sums = gaps_of("main", &content, &Watch::default(), time(0));
    let count = sums.totals[&("closed".into(), UNRECOVERED.into())];
    assert_eq!(count, 1 + many as u64);
    assert!((sums.total_seconds - (1000.0 + 4.0 * many as f64)).abs() < 1e-6);
}

#[test]
fn time_between_two_runs_is_a_gap() {
    for (is_orderly, reason) in [(true, RESTART), (false, CRASH)] {
        let dir = tempfile::tempdir().unwrap();
        let first = History::open(dir.path(), &[("main", false)]);
        {
            let mut inner = first.lock();
            assert!(inner.content.gaps.is_empty(), "the first start is no gap");
            let Inner { content, watch, .. } = &mut *inner;
            watch.observe_source(&connected_source(10), content, time(10));
        }
        if is_orderly {
            first.stopped("SIGTERM");
        }
        write_without_error(&first);
        drop(first);

        let second = History::open(dir.path(), &[("main", false)]);
        let mut inner = second.lock();
        let open = inner.content.open_gap("main").unwrap().clone();
        assert_eq!((open.began, &*open.reason), (time(10), reason));
        assert_eq!(open.last_event.as_deref(), Some("7"));
        let Inner { content, watch, .. } = &mut *inner;
        watch.observe_source(&connected_source(70), content, time(71));
        let gap = content.gaps.values().next().unwrap();
        assert_eq!((gap.ended, gap.seconds), (Some(time(70)), 60.0));
        let ended = watch.ended("main");
        assert_eq!((ended.gaps, ended.seconds), (1, 60.0));
        let started = content.entries.values().rev();
        let started = started.into_iter().find(|entry| entry.kind == "bridge_started");
        assert_eq!(
            started.unwrap().text.contains("without an orderly stop"),
            !is_orderly
        );
    }
}

#[test]
fn gap_that_is_open_at_a_stop_keeps_its_cause() {
    let dir = tempfile::tempdir().unwrap();
    let first = History::open(dir.path(), &[("main", false)]);
    {
        let mut inner = first.lock();
        let Inner { content, watch, .. } = &mut *inner;
        watch.observe_source(&connected_source(10), content, time(10));
        let mut lost = connected_source(10);
        lost.state = SourceState::Waiting;
        lost.since = time(25);
        lost.reason = Some("no answer to a ping".to_owned());
        lost.open_gap = Some((time(20), "pong_timeout"));
        watch.observe_source(&lost, content, time(25));
        watch.observe_source(&lost, content, time(26));
        let entry = content.entries.values().next_back().unwrap().clone();
        assert_eq!(entry.text, "not connected: no answer to a ping");
        assert_eq!((entry.at, entry.count), (time(25), 1), "stated once");
        lost.state = SourceState::Refused;
        lost.reason = Some("the token is refused".to_owned());
        watch.observe_source(&lost, content, time(27));
        assert_eq!(*kinds(content).last().unwrap(), "source_refused");
    }
    first.stopped("SIGTERM");
    write_without_error(&first);
    let second = History::open(dir.path(), &[("main", false)]);
    let mut inner = second.lock();
    let Inner { content, watch, .. } = &mut *inner;
    assert_eq!(content.gaps.len(), 1);
    watch.observe_source(&connected_source(80), content, time(80));
    let gap = content.gaps.values().next().unwrap();
    assert_eq!((gap.began, gap.ended), (time(20), Some(time(80))));
    assert_eq!(gap.reason, "pong_timeout");
}

#[test]
fn gap_of_a_source_that_resumes_is_recovered() {
    let dir = tempfile::tempdir().unwrap();
    let first = History::open(dir.path(), &[("main", false)]);
    {
        let mut inner = first.lock();
        let Inner { content, watch, .. } = &mut *inner;
        watch.observe_source(&connected_source(10), content, time(10));
    }
    write_without_error(&first);
    let second = History::open(dir.path(), &[("main", false)]);
    let mut inner = second.lock();
    let Inner { content, watch, .. } = &mut *inner;
    let mut facts = connected_source(80);
    facts.first_resumed = true;
    watch.observe_source(&facts, content, time(80));
    facts.newest_gaps = vec![(time(85), Duration::from_secs(1), "closed", RECOVERED)];
    facts.gaps = 1;
    watch.observe_source(&facts, content, time(90));
    let outcomes: Vec<_> = content
        .gaps
        .values()
        .map(|gap| (&*gap.reason, &*gap.outcome))
        .collect();
    assert_eq!(outcomes, [("crash", RECOVERED), ("closed", RECOVERED)]);
}

#[test]
fn proof_of_life_waits_until_its_events_are_stored() {
    let (mut content, mut watch) = (HistoryContent::default(), Watch::default());
    let at = |content: &HistoryContent| content.alive.get("main").map(|alive| alive.at);
    let mut facts = connected_source(0);
    watch.observe_source(&facts, &mut content, time(0));
    assert_eq!(at(&content), Some(time(0)));
    (facts.proof_of_life, facts.received, facts.in_flight) = (Some(time(5)), 100, 1);
    watch.observe_source(&facts, &mut content, time(5));
    assert_eq!(at(&content), Some(time(0)), "an event is in flight");
    (facts.proof_of_life, facts.received, facts.in_flight) = (Some(time(9)), 300, 200);
    watch.observe_source(&facts, &mut content, time(9));
    assert_eq!(at(&content), Some(time(5)), "the first 100 events are stored");
}

#[test]
fn short_gap_between_two_views_is_recorded() {
    let (mut content, mut watch) = (HistoryContent::default(), Watch::default());
    let mut facts = connected_source(0);
    watch.observe_source(&facts, &mut content, time(0));
    facts.gaps = 2;
    let half = Duration::from_millis(500);
    facts.newest_gaps = vec![
        (time(8), half, "broken", UNRECOVERED),
        (time(5), half, "closed", UNRECOVERED),
    ];
    watch.observe_source(&facts, &mut content, time(10));
    let gaps: Vec<_> = content
        .gaps
        .values()
        .map(|gap| (gap.began, &*gap.reason))
        .collect();
    assert_eq!(gaps, [(time(5), "closed"), (time(8), "broken")]);
    assert_eq!(
        kinds(&content),
        [
            "source_connected",
            "source_disconnected",
            "gap",
            "source_disconnected",
            "gap"
        ]
    );
}

#[test]
fn gap_in_or_after_a_pause_begins_with_the_pause() {
    let (mut content, mut watch) = (HistoryContent::default(), Watch::default());
    let mut facts = connected_source(0);
    for at in [1, 5] {
        watch.tick(time(at));
        if at == 5 {
            // The last byte was read after the pause.
            facts.open_gap = Some((time(5), "broken"));
        }
        watch.observe_source(&facts, &mut content, time(at));
    }
    assert_eq!(content.open_gap("main").unwrap().began, time(1));
    // The open gap has ended, and the next pause contains a short gap.
    for tenth in 51..=60 {
        watch.tick(time(0) + Duration::from_millis(100 * tenth));
    }
    watch.tick(time(20));
    facts.open_gap = None;
    facts.gaps = 2;
    let gap = |began, length| (time(began), Duration::from_secs(length), "closed", UNRECOVERED);
    facts.newest_gaps = vec![gap(18, 1), gap(5, 3)];
    watch.observe_source(&facts, &mut content, time(20));
    let gaps: Vec<(Timestamp, Option<Timestamp>)> =
        content.gaps.values().map(|gap| (gap.began, gap.ended)).collect();
    assert_eq!(gaps, [(time(1), Some(time(8))), (time(6), Some(time(19)))]);
}

#[test]
fn gap_of_a_removed_source_ends() {
    let dir = tempfile::tempdir().unwrap();
    let first = History::open(dir.path(), &[("main", false), ("old", false)]);
    {
        let mut inner = first.lock();
        inner.content.begin_gap("old", time(0), "closed");
        let alive = ProofOfLife::new(time(0), None);
        inner.content.alive.insert("old".to_owned(), alive);
    }
    write_without_error(&first);
    let second = History::open(dir.path(), &[("main", false)]);
    let inner = second.lock();
    assert!(inner.content.gaps.values().all(|gap| !gap.is_open()));
    assert!(inner.content.alive.is_empty());
}

#[test]
fn file_of_a_newer_version_is_renamed_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let newer = "{\"history\":{\"version\":9,\"next\":4}}\n{\"surprise\":1}\n";
    fs::write(dir.path().join(NAME), newer).unwrap();
    let history = History::open(dir.path(), &[("main", false)]);
    write_without_error(&history);
    assert_eq!(
        fs::read_to_string(dir.path().join("history.ndjson.old")).unwrap(),
        newer
    );
    let found = read(dir.path()).unwrap();
    assert_eq!(
        (found.state, kinds(&found.content)),
        (FileState::Read, vec!["bridge_started"])
    );
}

#[test]
fn unreadable_file_does_not_prevent_the_start() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join(NAME)).unwrap();
    let history = History::open(dir.path(), &[("main", false)]);
    write_without_error(&history);
    assert_eq!(kinds(&read(dir.path()).unwrap().content), ["bridge_started"]);
}

#[test]
fn failed_write_is_counted_and_repeated_in_full() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("data");
    fs::create_dir(&folder).unwrap();
    let history = History::open(&folder, &[("main", false)]);
    write_without_error(&history);
    // The old file is removed, and no new one can be created.
    fs::remove_dir_all(&folder).unwrap();
    history.lock().content.add(down("kafka", 1));
    history.write();
    history.write();
    assert_eq!(
        history.write_errors.load(Ordering::Relaxed),
        1,
        "the second attempt waits"
    );
    fs::create_dir(&folder).unwrap();
    history.lock().retry_at = Some(Instant::now());
    history.write();
    assert_eq!(
        kinds(&read(&folder).unwrap().content),
        ["bridge_started", "sink_down"]
    );
}

#[test]
fn file_stays_bounded_while_proofs_of_life_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let history = History::open(dir.path(), &[("main", false)]);
    let mut largest = 0;
    for second in 0..8000 {
        let mut inner = history.lock();
        let alive = ProofOfLife::new(time(second), Some(second.to_string()));
        inner.content.alive.insert("main".to_owned(), alive);
        inner.written_alive.1 = None;
        drop(inner);
        write_without_error(&history);
        largest = largest.max(fs::metadata(dir.path().join(NAME)).unwrap().len());
    }
    assert!(largest < 300 << 10, "{largest}");
    let found = read(dir.path()).unwrap();
    assert_eq!(found.content.alive["main"].at, time(7999));
}

/// A change of the content.
#[derive(Clone, Debug)]
enum Change {
    Entry(u8, u8),
    Begin(u8),
    End(u8),
    Alive(u8),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        (0..3_u8, 0..3_u8).prop_map(|(sink, reason)| Change::Entry(sink, reason)),
        (0..3_u8).prop_map(Change::Begin),
        (0..3_u8).prop_map(Change::End),
        (0..3_u8).prop_map(Change::Alive),
    ];
    prop::collection::vec(change, 1..40)
}

fn apply(content: &mut HistoryContent, change: &Change, at: Timestamp) {
    let name = |number: u8| format!("part-{number}");
    match change {
        Change::Entry(sink, reason) => {
            let entry = Entry::new(Kind::SinkDown, at, "the sink is down\n\u{202e}");
            content.add(entry.of_sink(&name(*sink)).with_reason(name(*reason)));
        }
        Change::Begin(source) => content.begin_gap(&name(*source), at, "closed"),
        Change::End(source) => drop(content.end_gap(&name(*source), at, UNRECOVERED)),
        Change::Alive(source) => {
            let alive = ProofOfLife::new(at, Some("1".to_owned()));
            content.alive.insert(name(*source), alive);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// For any changes and any truncation of the file: all entries before the end of the truncated file are read, and a restart
    /// keeps these entries and can write again.
    #[test]
    fn truncated_file_keeps_all_complete_lines(changes in changes(), cut in any::<prop::sample::Index>()) {
        let dir = tempfile::tempdir().unwrap();
        let history = History::open(dir.path(), &[]);
        write_without_error(&history);
        let path = dir.path().join(NAME);
        // The length of the file and the content after each change.
        let mut states = vec![(0, HistoryContent::default())];
        let state = |history: &History| {
            let mut content = history.lock().content.clone();
            content.unwritten.clear();
            (fs::metadata(&path).unwrap().len(), content)
        };
        states.push(state(&history));
        for (second, change) in (0..).zip(&changes) {
            apply(&mut history.lock().content, change, time(second * SignedDuration::from_mins(7).as_secs()));
            history.lock().written_alive.1 = None;
            write_without_error(&history);
            states.push(state(&history));
        }
        let whole = read(dir.path()).unwrap();
        prop_assert_eq!(whole.damaged_lines, 0);
        prop_assert_eq!(&whole.content, &states[states.len() - 1].1);

        let bytes = fs::read(&path).unwrap();
        let cut = cut.index(bytes.len() + 1);
        fs::write(&path, &bytes[..cut]).unwrap();
        let complete = states.iter().rev().find(|(length, _)| *length <= cut as u64).unwrap();
        let found = read(dir.path()).unwrap();
        prop_assert_eq!(found.damaged_lines, 0);
        for (id, entry) in &complete.1.entries {
            let kept = found.content.entries.get(id);
            prop_assert!(kept.is_some_and(|kept| kept.count >= entry.count), "{:?} of {:?}", kept, entry);
        }
        for id in complete.1.gaps.keys() {
            prop_assert!(found.content.gaps.contains_key(id));
        }
        for (source, alive) in &complete.1.alive {
            prop_assert!(found.content.alive[source].at >= alive.at);
        }

        let again = History::open(dir.path(), &[]);
        write_without_error(&again);
        let reread = read(dir.path()).unwrap();
        prop_assert_eq!(reread.damaged_lines, 0);
        for id in complete.1.entries.keys() {
            prop_assert!(reread.content.entries.contains_key(id));
        }
    }

    #[test]
    fn damaged_byte_loses_only_its_lines(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let dir = tempfile::tempdir().unwrap();
        let history = History::open(dir.path(), &[]);
        for second in 0..3 {
            history.lock().content.add(down("kafka", second));
        }
        write_without_error(&history);
        let path = dir.path().join(NAME);
        let mut bytes = fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        fs::write(&path, &bytes).unwrap();
        let found = read(dir.path()).unwrap();
        if !matches!(found.state, FileState::Newer(_)) {
            // A damaged line break costs two lines, a damaged id may replace another entry.
            prop_assert!(found.content.entries.len() >= 2, "{:?}", found.content.entries);
        }
        write_without_error(&History::open(dir.path(), &[]));
    }
}
