//! Tests of members that do not connect while they follow.

use neurobridge_listener::SourceState;

use super::{
    tests::{connected_source, time},
    *,
};
use crate::gaps::{OPEN, TAKEOVER};

const SOURCES: &[(&str, bool)] = &[("main", true)];

fn settled(second: i64, event: &str, resume: Option<&str>) -> ProofOfLife {
    ProofOfLife {
        at: time(second),
        event: Some(event.to_owned()),
        resume: resume.map(str::to_owned),
    }
}

/// Observes a source at a second.
fn observe(history: &History, facts: SourceFacts, second: i64) {
    let mut inner = history.lock();
    let Inner { content, watch, .. } = &mut *inner;
    watch.observe_source(&facts, content, time(second));
}

fn connected(since: i64) -> SourceFacts {
    SourceFacts {
        handles_gaps: true,
        ..connected_source(since)
    }
}

fn standby(proof: i64) -> SourceFacts {
    SourceFacts {
        state: SourceState::Standby,
        first_authenticated: None,
        ..connected(proof)
    }
}

fn resume_at_takeover(history: &History) -> Option<String> {
    history.take_over("main").and_then(|began| began.resume)
}

fn gaps(history: &History) -> Vec<(Timestamp, Option<Timestamp>, String, String)> {
    let inner = history.lock();
    let gaps = inner.content.gaps.values();
    gaps.map(|gap| {
        (
            gap.began,
            gap.ended,
            gap.reason.to_string(),
            gap.outcome.to_string(),
        )
    })
    .collect()
}

#[test]
fn gap_of_a_new_leader_begins_where_the_former_one_had_settled() {
    let dir = tempfile::tempdir().unwrap();
    let history = History::open_standby(dir.path(), SOURCES);
    history.set_settled_by_leader("main", settled(5, "40", None));
    history.set_settled_by_leader("main", settled(9, "42", Some("r")));
    history.set_settled_by_leader("main", settled(7, "41", None));
    observe(&history, standby(3), 10);
    assert_eq!(resume_at_takeover(&history).as_deref(), Some("r"));
    observe(&history, connected(20), 21);
    let gap = history.filling("main").remove(0);
    assert_eq!(
        (gap.began, gap.ended, &*gap.reason),
        (time(9), Some(time(20)), TAKEOVER)
    );
    assert_eq!(gap.last_event.as_deref(), Some("42"));
}

#[test]
fn takeover_gap_begins_at_the_later_own_proof_of_life() {
    let dir = tempfile::tempdir().unwrap();
    let history = History::open_standby(dir.path(), SOURCES);
    assert_eq!(resume_at_takeover(&history), None);
    observe(&history, connected(1), 2);
    observe(&history, standby(8), 9);
    history.stand_by("main");
    assert_eq!(
        gaps(&history),
        [],
        "the first start is no gap, and neither is standby"
    );
    history.set_settled_by_leader("main", settled(6, "5", Some("r")));
    assert_eq!(
        resume_at_takeover(&history),
        None,
        "its own resume value is later"
    );
    assert_eq!(gaps(&history), [(time(8), None, TAKEOVER.into(), OPEN.into())]);
}

#[test]
fn later_settled_position_of_the_leader_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let history = History::open_standby(dir.path(), SOURCES);
    history.set_settled_by_leader("main", settled(50, "9", None));
    for second in 51..55 {
        observe(&history, standby(8), second);
    }
    assert_eq!(history.lock().content.alive["main"].at, time(50));
}

#[test]
fn gaps_of_a_follower_are_left_to_the_leader() {
    let dir = tempfile::tempdir().unwrap();
    let history = History::open_standby(dir.path(), SOURCES);
    history.set_settled_by_leader("main", settled(5, "7", None));
    history.take_over("main");
    observe(&history, connected(20), 21);
    assert_eq!(history.filling("main").len(), 1);
    let lost = SourceFacts {
        state: SourceState::Waiting,
        open_gap: Some((time(30), "broken")),
        proof_of_life: Some(time(30)),
        ..connected(20)
    };
    observe(&history, lost, 31);
    history.stand_by("main");
    history.set_settled_by_leader("main", settled(19, "8", None));
    let outcomes = |history: &History| -> Vec<String> {
        gaps(history).into_iter().map(|(.., outcome)| outcome).collect()
    };
    assert_eq!(outcomes(&history), [FILLING, LEFT_TO_LEADER]);
    history.set_settled_by_leader("main", settled(20, "9", None));
    assert_eq!(outcomes(&history), [LEFT_TO_LEADER, LEFT_TO_LEADER]);
    assert_eq!(history.lock().content.alive["main"].at, time(30));
}

#[test]
fn restart_of_a_follower_is_no_gap() {
    let dir = tempfile::tempdir().unwrap();
    let first = History::open_standby(dir.path(), SOURCES);
    first.set_settled_by_leader("main", settled(5, "7", Some("r")));
    first.take_over("main");
    first.write();
    let second = History::open_standby(dir.path(), SOURCES);
    assert_eq!(gaps(&second)[0].3, LEFT_TO_LEADER);
    assert_eq!(resume_at_takeover(&second).as_deref(), Some("r"));
    assert_eq!(gaps(&second)[1], (time(5), None, TAKEOVER.into(), OPEN.into()));
}
