//! Tests of the delivery with a scripted broker that fails.

/// Implements the methods of a fake sink that has no optional capability, no cursor note, and nothing to flush or to close.
macro_rules! plain_sink {
    () => {
        const REPLACES_CLIENT: bool = true;

        fn cursor_note(&self) -> Option<String> {
            None
        }

        fn dead_letters(&mut self) -> Option<&mut dyn DeadLetterSink> {
            None
        }

        fn transactions(&mut self) -> Option<&mut dyn Transactions> {
            None
        }

        async fn flush(&mut self) -> Result<(), SinkFault> {
            Ok(())
        }

        async fn close(&mut self) {}
    };
}

/// Implements all methods except `connect` for a fake sink that accepts events and never reports an outcome.
macro_rules! silent_sink {
    () => {
        fn publish(&mut self, _: &Event<'_>, _: &Bytes) -> Result<(), PublishError> {
            Ok(())
        }

        async fn outcomes(&mut self, _: &mut Vec<Ack>) -> Result<AfterOutcomes, SinkFault> {
            pending().await
        }

        fn status(&self) -> SinkStatus {
            SinkStatus::default()
        }

        plain_sink!();
    };
}

mod broker;
mod connecting;
mod idle;
mod member;
mod memory;
mod model;
mod replacement;
mod setup;
mod stall;
mod transactions;

use std::{
    collections::BTreeSet,
    future::{Future, pending},
    io,
    pin::Pin,
    sync::Mutex,
};

use bytes::Bytes;
use jiff::Timestamp;
use proptest::prelude::*;
use tokio::time::Instant;

use self::broker::*;
use self::setup::*;
use super::*;
use crate::{
    dead_letter::DeadLetter,
    event::{Event, Sequence},
    ledger::SinkCounts,
    reader::{Cursor, SkipReason},
    record::{Batch, SealedBatch},
    sink::{
        Ack, Connected, DeadLetterSink, FaultKind, Outcome, PublishError, Rejection, RejectionReason,
        SinkFuture, Transactions,
    },
    testing,
};

/// Returns the properties of a connection without cumulative acknowledgements and without a committed cursor.
const fn plain_connection() -> Connected {
    Connected {
        acks_are_cumulative: false,
        committed_cursor: None,
    }
}

#[test]
fn all_events_are_delivered_in_order_and_counted() {
    let outcome = run(Setup::default());
    assert_eq!(outcome.ended, DeliveryEnd::Drained);
    assert_eq!(outcome.broker.stored, (1..=10).collect::<Vec<_>>());
    assert_eq!(outcome.cursor.next.get(), 11);
    assert_eq!(
        outcome.cursor.counts,
        SinkCounts {
            delivered: 10,
            ..SinkCounts::default()
        }
    );
    assert_eq!((outcome.progress.in_flight, outcome.progress.resent), (0, 0));
    assert_eq!(outcome.broker.in_buffer, 10);
}

#[test]
fn connected_sink_without_acknowledgement_is_not_up() {
    // The broker takes its turns from the end of the list.
    let turns = vec![
        Turn::Acknowledge(1),
        Turn::Fail(0),
        Turn::FailTwice,
        Turn::Fail(0),
    ];
    let outcome = run(Setup {
        turns,
        ..Setup::default()
    });
    let (before, after) = outcome.broker.states.split_at(4);
    // The test's delivery drains from the beginning.
    assert_eq!(before[0], SinkState::Draining);
    assert_eq!(before[1..], [SinkState::Down; 3]);
    // One event was settled before the fifth call, so the sink has recovered.
    assert_eq!(after[0], SinkState::Up);
    assert!(!after.contains(&SinkState::Down), "{after:?}");
    assert!(outcome.progress.reason.is_none());
}

#[test]
fn filtered_events_are_counted_and_not_published() {
    let outcome = run(Setup {
        filter: Filter::new([("result", ["junk"])]).unwrap(),
        ..Setup::default()
    });
    assert_eq!(outcome.broker.stored, [3, 6, 9]);
    assert_eq!(
        outcome.cursor.counts,
        SinkCounts {
            delivered: 3,
            filtered: 7,
            ..SinkCounts::default()
        }
    );
}

#[test]
fn only_an_event_rejected_alone_is_dead_lettered() {
    for keeps_dead_letters in [false, true] {
        let turns = vec![Turn::AcknowledgeBatch; 20];
        let outcome = run(Setup {
            bad: |sequence| sequence == 2,
            turns,
            keeps_dead_letters,
            ..Setup::default()
        });
        assert_eq!(outcome.dead_letters, [2]);
        assert_eq!(outcome.broker.stored.iter().collect::<BTreeSet<_>>().len(), 9);
        assert_eq!(
            outcome.cursor.counts,
            SinkCounts {
                delivered: 9,
                dead_lettered: 1,
                ..SinkCounts::default()
            }
        );
        assert_eq!(outcome.progress.dead_letters.get(RejectionReason::TooLarge), 1);
    }
}

#[test]
fn unstorable_dead_letter_stops_the_cursor() {
    let outcome = run(Setup {
        bad: |sequence| sequence == 2,
        failing_dead_letters: 3,
        ..Setup::default()
    });
    assert_eq!(outcome.dead_letters, [2]);
    assert_eq!(outcome.progress.faults.get(FaultKind::Disk), 3);
    assert_eq!(
        outcome.cursor.counts,
        SinkCounts {
            delivered: 9,
            dead_lettered: 1,
            ..SinkCounts::default()
        }
    );
}

#[test]
fn too_many_consecutive_dead_letters_stop_the_sink() {
    for keeps_dead_letters in [false, true] {
        let outcome = run(Setup {
            bad: |_| true,
            max_in_a_row: 4,
            keeps_dead_letters,
            events: 30,
            ..Setup::default()
        });
        assert_eq!(outcome.ended, DeliveryEnd::Unfinished);
        assert!(outcome.dead_letters.len() <= 4);
        assert_eq!(outcome.progress.state, SinkState::Down);
        let reason = outcome.progress.reason.unwrap();
        assert!(
            reason.starts_with("more than 4 events in a row were rejected, the last one with \"found 2 MiB"),
            "{reason}"
        );
        assert!(
            outcome.cursor.next.get() <= 5,
            "the cursor passed events after the stop"
        );
    }
}

#[test]
fn dead_letters_with_an_unambiguous_cause_stop_no_sink() {
    for keeps_dead_letters in [false, true] {
        let outcome = run(Setup {
            bad: |sequence| sequence < 30,
            reason: RejectionReason::MissingKey,
            max_in_a_row: 4,
            keeps_dead_letters,
            events: 30,
            ..Setup::default()
        });
        assert_eq!(outcome.ended, DeliveryEnd::Drained);
        assert_eq!(
            (outcome.dead_letters.len(), outcome.broker.stored),
            (29, vec![30])
        );
    }
}

#[test]
fn delivered_event_resets_the_dead_letter_count() {
    for (keeps_dead_letters, acks_are_cumulative) in
        [(false, false), (true, false), (false, true), (true, true)]
    {
        let outcome = run(Setup {
            bad: |sequence| sequence == 2 || sequence == 4,
            max_in_a_row: 1,
            keeps_dead_letters,
            acks_are_cumulative,
            ..Setup::default()
        });
        assert_eq!(
            outcome.ended,
            DeliveryEnd::Drained,
            "{:?}",
            outcome.progress.reason
        );
        assert_eq!(outcome.dead_letters, [2, 4]);
    }
}

#[test]
fn deliveries_before_the_last_fault_are_counted() {
    let outcome = run(Setup {
        bad: |sequence| sequence > 1,
        max_in_a_row: 1,
        ..Setup::default()
    });
    assert_eq!(outcome.ended, DeliveryEnd::Unfinished);
    assert_eq!(outcome.broker.stored, [1]);
    assert_eq!(
        (outcome.cursor.next.get(), outcome.cursor.counts.delivered),
        (2, 1)
    );
}

#[test]
fn dropped_events_are_counted() {
    for turns in [vec![], vec![Turn::Later, Turn::Later]] {
        check_dropped_events_are_counted(turns);
    }
    let outcome = run(Setup {
        skips: Some((4, 3)),
        bad: |sequence| sequence == 3,
        turns: vec![Turn::Later],
        ..Setup::default()
    });
    assert_eq!((outcome.dead_letters, outcome.took), (vec![3], Duration::ZERO));
}

fn check_dropped_events_are_counted(turns: Vec<Turn>) {
    let outcome = run(Setup {
        skips: Some((4, 3)),
        turns,
        ..Setup::default()
    });
    assert_eq!(outcome.broker.stored, [1, 2, 3, 7, 8, 9, 10]);
    // The delivery does not pause after a skip, because more events would be dropped during a pause.
    assert_eq!(outcome.took, Duration::ZERO);
    assert_eq!(
        outcome.cursor.counts,
        SinkCounts {
            delivered: 7,
            dropped: 3,
            ..SinkCounts::default()
        }
    );
}

#[test]
fn abort_ends_a_sink_that_never_connects() {
    let runtime = runtime();
    let broker = Arc::new(Mutex::new(Broker {
        refuse_connects: u64::MAX,
        ..Broker::default()
    }));
    let cursor = Cursor::starting_at(Sequence::FIRST);
    let progress = Arc::new(Progress::new(cursor.clone()));
    let sink = FakeSink {
        broker: Arc::clone(&broker),
        waiting: Vec::new(),
        is_silent: false,
        bad: |_| false,
        reason: RejectionReason::TooLarge,
        acks_are_cumulative: false,
        refused: BTreeSet::new(),
        dead_letters: Arc::default(),
        keeps_dead_letters: false,
        room: 5,
        progress: Arc::clone(&progress),
    };
    let reader = FakeReader {
        batches: Vec::new(),
        next: Sequence::FIRST,
        cursor: cursor.clone(),
        committed: Arc::new(Mutex::new(cursor.clone())),
        ends: false,
        skips: None,
    };
    let shutdown = Shutdown {
        drain: CancellationToken::new(),
        abort: CancellationToken::new(),
    };
    runtime.block_on(async {
        let abort = shutdown.abort.clone();
        tokio::spawn(async move {
            sleep(Duration::from_secs(600)).await;
            abort.cancel();
        });
        let ended = deliver(sink, reader, options("fake"), Arc::clone(&progress), shutdown)
            .await
            .unwrap();
        assert_eq!(ended, DeliveryEnd::Unfinished);
    });
    let connects = broker.lock().unwrap().connects;
    assert!(
        (20..200).contains(&connects),
        "{connects} connection attempts in ten minutes"
    );
    assert_eq!(progress.snapshot().reason.as_deref(), Some("nobody answers"));
}

fn any_turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        30 => (1usize..6).prop_map(Turn::Acknowledge),
        20 => Just(Turn::AcknowledgeBatch),
        10 => (0usize..6).prop_map(Turn::Fail),
        10 => Just(Turn::FailTwice),
        10 => (0usize..6).prop_map(Turn::Resend),
        // Rare, because each one advances the clock by minutes in steps of half a second.
        1 => (0usize..6).prop_map(Turn::Silent),
        1 => Just(Turn::SilentTwice),
    ]
}

#[test]
fn resending_keeps_connection_and_order() {
    let outcome = run(Setup {
        turns: vec![Turn::Resend(0), Turn::Acknowledge(2), Turn::Resend(3)],
        ..Setup::default()
    });
    assert_eq!(
        (outcome.ended, outcome.broker.connects),
        (DeliveryEnd::Drained, 1)
    );
    assert_eq!(outcome.broker.stored, (1..=10).collect::<Vec<_>>());
    assert_eq!(outcome.progress.faults.total(), 0);
    assert_eq!(outcome.cursor.counts.delivered, 10);
}

#[test]
fn progress_resets_the_backoff() {
    // Each connection settles one event before its fault.
    let turns = [Turn::Fail(0), Turn::Acknowledge(1)].into_iter().cycle();
    let outcome = run(Setup {
        events: 40,
        turns: turns.take(78).collect(),
        ..Setup::default()
    });
    assert_eq!(
        (outcome.ended, outcome.broker.connects),
        (DeliveryEnd::Drained, 40)
    );
    assert!(outcome.took <= Duration::from_secs(10), "{:?}", outcome.took);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn any_broker_schedule_loses_no_event(
        turns in proptest::collection::vec(any_turn(), 0..40),
        keeps_dead_letters: bool,
        acks_are_cumulative: bool,
        filtered: bool,
        failing_dead_letters in 0u64..3,
        skips in proptest::option::of((1u64..40, 1u64..10)),
    ) {
        let filter = if filtered { Filter::new([("result", ["new"])]).unwrap() } else { Filter::default() };
        let bad = |sequence: u64| sequence.is_multiple_of(7);
        let outcome = run(Setup { events: 50, turns, bad, filter, acks_are_cumulative, keeps_dead_letters, skips, failing_dead_letters, max_in_a_row: 100, ..Setup::default() });
        prop_assert_eq!(outcome.ended, DeliveryEnd::Drained);
        let dropped = |sequence: u64| skips.is_some_and(|(from, events)| (from..from + events).contains(&sequence));
        let excluded = |sequence: u64| filtered && sequence.is_multiple_of(3);
        let sent = |sequence: &u64| !dropped(*sequence) && !excluded(*sequence);
        let expected: Vec<u64> = (1..=50).filter(sent).filter(|sequence| !bad(*sequence)).collect();
        let first_copies: BTreeSet<u64> = outcome.broker.stored.iter().copied().collect();
        prop_assert_eq!(first_copies.into_iter().collect::<Vec<_>>(), expected.clone());
        let dead_letters: BTreeSet<u64> = outcome.dead_letters.iter().copied().collect();
        prop_assert_eq!(dead_letters.into_iter().collect::<Vec<_>>(), (1..=50).filter(sent).filter(|sequence| bad(*sequence)).collect::<Vec<_>>());
        let counts = outcome.cursor.counts;
        prop_assert_eq!(outcome.cursor.next.get(), 51);
        prop_assert_eq!(counts.settled(), 50);
        prop_assert_eq!(counts.delivered, expected.len() as u64);
        prop_assert_eq!(counts.dropped, (1..=50).filter(|sequence| dropped(*sequence)).count() as u64);
    }
}
