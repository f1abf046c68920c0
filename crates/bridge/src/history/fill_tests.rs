//! Tests of gaps whose events are fetched.

use jiff::SignedDuration;

use super::{
    tests::{connected_source, time},
    *,
};
use crate::gaps::{PARTLY, ProofOfLife, RECOVERED, UNRECOVERED};

/// Runs a source that fills its gaps, with one gap of ten seconds.
fn with_gap(dir: &Path) -> History {
    let history = History::open(dir, &[("main", true)]);
    {
        let mut inner = history.lock();
        let Inner { content, watch, .. } = &mut *inner;
        let mut facts = SourceFacts {
            handles_gaps: true,
            ..connected_source(10)
        };
        watch.observe_source(&facts, content, time(10));
        facts.gaps = 1;
        facts.newest_gaps = vec![(time(20), Duration::from_secs(10), "closed", UNRECOVERED)];
        watch.observe_source(&facts, content, time(31));
    }
    history
}

fn sums(history: &History) -> SourceGaps {
    let inner = history.lock();
    gaps_of("main", &inner.content, &inner.watch, time(100))
}

#[test]
fn gap_has_no_outcome_while_it_is_filled() {
    let dir = tempfile::tempdir().unwrap();
    let history = with_gap(dir.path());
    let gap = &history.filling("main")[0];
    assert_eq!((gap.began, gap.ended), (time(20), Some(time(30))));
    assert_eq!(gap.last_event.as_deref(), Some("7"));
    assert!(history.filling("other").is_empty());
    let found = sums(&history);
    assert_eq!((found.filling, found.ended.gaps, found.lost.gaps), (1, 1, 0));
    assert!(found.totals.is_empty(), "a counter never decreases");
}

#[test]
fn known_since_is_the_first_connection_or_the_oldest_gap() {
    let dir = tempfile::tempdir().unwrap();
    let history = with_gap(dir.path());
    let gap = history.filling("main").remove(0);
    assert_eq!(known_since(&[], None), None);
    assert_eq!(known_since(&[], Some(time(5))), Some(time(5)));
    let gaps = [
        Gap {
            began: time(40),
            ..gap.clone()
        },
        gap,
    ];
    assert_eq!(known_since(&gaps, Some(time(5))), Some(time(5)));
    assert_eq!(
        known_since(&gaps, Some(time(50))),
        Some(time(20)),
        "entries are removed before gaps"
    );
    let many = vec![gaps[1].clone(); SHOWN_GAPS];
    assert_eq!(
        known_since(&many, Some(time(5))),
        Some(time(20)),
        "gaps before these may exist"
    );
}

#[test]
fn repeated_outcome_of_a_gap_counts_once() {
    for outcome in [RECOVERED, PARTLY, UNRECOVERED] {
        let dir = tempfile::tempdir().unwrap();
        let history = with_gap(dir.path());
        let gap = history.filling("main").remove(0);
        for _ in 0..2 {
            history.filled(&gap, outcome, 12, "missed events were fetched: 12");
        }
        assert!(history.filling("main").is_empty());
        let found = sums(&history);
        assert_eq!(found.totals[&("closed".into(), outcome.into())], 1);
        assert_eq!((found.filling, found.newest[0].fetched), (0, 12));
        let lost = u64::from(outcome != RECOVERED);
        assert_eq!((found.lost.gaps, found.lost.seconds), (lost, 10.0 * lost as f64));
        let entries = history
            .lock()
            .content
            .entries
            .values()
            .cloned()
            .collect::<Vec<_>>();
        let filled: Vec<_> = entries
            .iter()
            .filter(|entry| entry.kind == "gap_filled")
            .collect();
        assert_eq!((filled.len(), filled[0].events), (1, Some(12)));
    }
}

#[test]
fn gap_is_filled_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let first = with_gap(dir.path());
    first.stopped("SIGTERM");
    first.write();
    let second = History::open(dir.path(), &[("main", true)]);
    assert_eq!(second.filling("main").len(), 1);
    // Without an interface to fetch events from, the gap is lost.
    drop(second);
    let third = History::open(dir.path(), &[("main", false)]);
    assert!(third.filling("main").is_empty());
    let outcomes: Vec<String> = third
        .lock()
        .content
        .gaps
        .values()
        .map(|gap| gap.outcome.to_string())
        .collect();
    assert_eq!(outcomes, [UNRECOVERED, "open"]);
}

#[test]
fn gap_has_no_last_event_if_it_may_follow_the_gap() {
    let mut content = HistoryContent::default();
    let event = || Some("7".to_owned());
    let alive = |at| ProofOfLife::new(at, event());
    let after = |millis| time(0) + SignedDuration::from_millis(millis);
    for (at, expected) in [(-1000, event()), (200, event()), (201, None)] {
        content.alive.insert("main".to_owned(), alive(after(at)));
        content.begin_gap("main", time(0), "pong_timeout");
        let gap = content.end_gap("main", time(9), UNRECOVERED).unwrap();
        assert_eq!(gap.last_event, expected, "{at} ms");
    }
}

#[test]
fn gap_extended_while_it_is_filled_is_filled_again() {
    let mut content = HistoryContent::default();
    let begin = |content: &mut HistoryContent, at: i64| {
        content.begin_gap("main", time(at), "closed");
        content.end_gap("main", time(at + 1), FILLING).unwrap()
    };
    let first = begin(&mut content, 0);
    // One more than the limit: the closest two are merged.
    for gap in 0..content::MAX_GAPS as i64 {
        begin(&mut content, 2 + gap * 10);
    }
    let merged = &content.gaps[&first.id];
    assert_eq!((merged.gaps, merged.ended), (2, Some(time(3))));
    assert!(
        content.fill_gap(&first, RECOVERED, 1).is_none(),
        "a part of it is not fetched"
    );
    let merged = content.gaps[&first.id].clone();
    assert_eq!(merged.outcome, FILLING);
    assert_eq!(
        content.fill_gap(&merged, RECOVERED, 1).unwrap().outcome,
        RECOVERED
    );
}

#[test]
fn crash_with_a_dead_connection_keeps_event_before_the_gap() {
    let (mut content, mut watch) = (HistoryContent::default(), Watch::default());
    let mut facts = connected_source(5);
    facts.handles_gaps = true;
    watch.observe_source(&facts, &mut content, time(5));
    // One of two connections is dead since second 6; the other one was opened again and receives events from after the gap.
    (facts.may_hide_gap, facts.proof_of_life) = (true, Some(time(6)));
    facts.last_event = Some("99".to_owned());
    watch.observe_source(&facts, &mut content, time(20));
    Watch::begin(&mut content, &[("main", true)], time(30));
    let gap = content.open_gap("main").unwrap();
    assert_eq!((gap.began, &*gap.reason), (time(5), "crash"));
    assert_eq!(gap.last_event.as_deref(), Some("7"));
}
