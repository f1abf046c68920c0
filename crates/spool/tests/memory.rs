//! Tests of each guarantee of the log in memory, and a comparison of the log with a model.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic as the test does")]

use std::{collections::VecDeque, future::Future, time::Duration};

use futures_util::FutureExt;
use neurobridge_core::{
    event::{Event, Sequence},
    reader::{Read, ReadError, Reader, SkipReason},
    record::Batch,
    testing,
    units::ByteSize,
};
use neurobridge_spool::{AppendError, MemoryConfig, Spool, SpoolConfig, SpoolReader, Stored, WhenFull};
use proptest::prelude::*;

/// The time after which a step counts as failed: far more than any step needs.
const DEADLINE: Duration = Duration::from_secs(10);

fn open(max_size: ByteSize, when_full: WhenFull) -> Spool {
    Spool::open(
        &SpoolConfig::Memory(MemoryConfig { max_size, when_full }),
        "data".as_ref(),
    )
    .unwrap()
}

fn small() -> Spool {
    open(ByteSize::from_mib(1), WhenFull::Block)
}

/// Returns a batch of events whose ids follow `id`, each of about `size` bytes.
fn batch(id: &mut u64, events: usize, size: usize) -> Batch {
    batch_with_room(0, id, events, size)
}

fn batch_with_room(room: usize, id: &mut u64, events: usize, size: usize) -> Batch {
    let mut batch = Batch::with_capacity(room);
    for _ in 0..events {
        *id += 1;
        let frame = format!(r#"{{"id":{id},"data":{{"fill":"{}"}}}}"#, "x".repeat(size));
        batch.push(&Event {
            received_at: jiff::Timestamp::from_second(*id as i64).unwrap(),
            ..testing::event(&frame)
        });
    }
    batch
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what)
        .await
        .expect("the step does not end")
}

async fn next(reader: &mut SpoolReader) -> Read {
    soon(reader.next()).await.unwrap()
}

fn commit(reader: &mut SpoolReader, next: Sequence) {
    let mut cursor = reader.cursor().clone();
    cursor.next = next;
    reader.commit(&cursor);
}

/// Reads until `until` events are read or skipped. Returns the sequences of the events, and the number of skipped events.
async fn read_until(reader: &mut SpoolReader, until: u64) -> (Vec<u64>, u64) {
    let (mut sequences, mut skipped) = (Vec::new(), 0);
    while (sequences.len() as u64) + skipped < until {
        match next(reader).await {
            Read::Events(batch) => sequences.extend(batch.iter().map(|event| event.unwrap().sequence.get())),
            Read::Skipped {
                events,
                reason: SkipReason::Dropped,
                ..
            } => skipped += events,
            other => panic!("{other:?}"),
        }
    }
    (sequences, skipped)
}

/// Polls several appends together, as the bridge does.
#[tokio::test]
async fn small_append_waits_for_an_earlier_large_one() {
    let (spool, mut id) = (small(), 0);
    let mut reader = spool.reader("sink");
    // The log still has room for a small batch.
    spool.append(batch(&mut id, 9, 100_000)).await.unwrap();
    let mut large = Box::pin(spool.append(batch(&mut id, 3, 100_000)));
    assert!((&mut large).now_or_never().is_none());
    let mut small = Box::pin(spool.append(batch(&mut id, 1, 10)));
    assert!((&mut small).now_or_never().is_none());
    assert_eq!(read_until(&mut reader, 9).await.0.len(), 9);
    commit(&mut reader, Sequence::new(10).unwrap());
    let (large, small) = soon(async { tokio::join!(large, small) }).await;
    let first = |stored: Result<Option<Stored>, _>| stored.unwrap().unwrap().first.get();
    assert_eq!((first(large), first(small)), (10, 13));
}

#[tokio::test]
async fn readers_are_independent_and_in_order() {
    let (spool, mut id) = (small(), 0);
    let (mut quick, mut slow) = (spool.reader("quick"), spool.reader("slow"));
    for _ in 0..10 {
        spool.append(batch(&mut id, 3, 10)).await.unwrap();
    }
    assert_eq!(read_until(&mut quick, 30).await.0, (1..=30).collect::<Vec<_>>());
    commit(&mut quick, Sequence::new(31).unwrap());
    assert_eq!(read_until(&mut slow, 30).await.0, (1..=30).collect::<Vec<_>>());
    assert_eq!(*spool.durable().borrow(), 30);
    assert_eq!(
        spool.received_at(Sequence::new(7).unwrap()).unwrap().as_second(),
        7
    );
    commit(&mut slow, Sequence::new(31).unwrap());
    assert_eq!(spool.status().size_bytes, 0);
    assert_eq!(spool.received_at(Sequence::new(7).unwrap()), None);
}

#[tokio::test]
async fn rewind_continues_at_its_sequence() {
    let (spool, mut id) = (small(), 0);
    let mut reader = spool.reader("sink");
    for _ in 0..20 {
        spool.append(batch(&mut id, 2, 10)).await.unwrap();
    }
    read_until(&mut reader, 10).await;
    reader.rewind(Sequence::new(4).unwrap());
    assert_eq!(read_until(&mut reader, 37).await.0, (4..=40).collect::<Vec<_>>());
}

#[tokio::test]
async fn append_blocks_until_space_is_free() {
    let (spool, mut id) = (small(), 0);
    let mut reader = spool.reader("sink");
    while spool.status().size_bytes < 900 << 10 {
        spool.append(batch(&mut id, 1, 50_000)).await.unwrap();
    }
    let stored = spool.status().durable_sequence;
    let large = batch(&mut id, 1, 200_000);
    let waiting = tokio::spawn({
        let spool = spool.clone();
        async move { spool.append(large).await }
    });
    tokio::task::yield_now().await;
    assert_eq!(spool.status().durable_sequence, stored);
    commit(&mut reader, Sequence::new(stored).unwrap());
    assert_eq!(
        soon(waiting).await.unwrap().unwrap().unwrap().first.get(),
        stored + 1
    );
    assert!(spool.status().size_bytes <= spool.status().limit_bytes);
}

#[tokio::test]
async fn full_log_drops_and_counts_the_oldest_events() {
    let (spool, mut id) = (open(ByteSize::from_mib(1), WhenFull::DropOldest), 0);
    let mut reader = spool.reader("sink");
    for _ in 0..100 {
        soon(spool.append(batch(&mut id, 1, 50_000))).await.unwrap();
        assert!(spool.status().size_bytes <= spool.status().limit_bytes);
    }
    let dropped = spool.status().dropped_events;
    assert!(dropped > 70, "{dropped}");
    // The lag of a cursor at a dropped event counts from the oldest remaining event.
    let oldest = spool.received_at(Sequence::FIRST).unwrap().as_second();
    assert_eq!(u64::try_from(oldest), Ok(dropped + 1));
    let (sequences, skipped) = read_until(&mut reader, 100).await;
    assert!(skipped <= dropped && sequences.last() == Some(&100));
    assert!(sequences.is_sorted() && sequences.len() as u64 + skipped == 100);
}

#[tokio::test]
async fn full_log_drops_and_counts_events_in_flight_last() {
    let (spool, mut id) = (open(ByteSize::from_mib(1), WhenFull::DropOldest), 0);
    let mut reader = spool.reader("sink");
    let (mut handed, mut skipped, mut settled) = (0, 0, Sequence::FIRST);
    for round in 1..=200 {
        soon(spool.append(batch(&mut id, 1, 50_000))).await.unwrap();
        // A batch is read after each third append, and settled after the next one is read.
        if round % 3 == 0 {
            match next(&mut reader).await {
                Read::Events(batch) => {
                    handed += batch.events();
                    commit(&mut reader, settled);
                    settled = batch.first();
                }
                Read::Skipped { events, .. } => skipped += events,
                Read::End => panic!("the log is open"),
            }
        }
    }
    let (rest, skipped_later) = read_until(&mut reader, 200 - handed - skipped).await;
    assert_eq!(rest.last(), Some(&200));
    let dropped = spool.status().dropped_events;
    assert!(dropped > 100, "{dropped}");
    assert_eq!(dropped, skipped + skipped_later);
    assert!(spool.status().size_bytes <= spool.status().limit_bytes);
    // A delivery rewinds to its cursor after a fault.
    reader.rewind(settled);
    match next(&mut reader).await {
        Read::Events(batch) => assert_eq!(batch.first(), settled),
        other => panic!("an event in flight was dropped: {other:?}"),
    }
}

#[tokio::test]
async fn event_larger_than_the_log_is_stored_alone() {
    let (spool, mut id) = (small(), 0);
    let mut reader = spool.reader("sink");
    soon(spool.append(batch(&mut id, 1, 3 << 20))).await.unwrap();
    assert_eq!(read_until(&mut reader, 1).await.0, [1]);
    commit(&mut reader, Sequence::new(2).unwrap());
    soon(spool.append(batch(&mut id, 1, 10))).await.unwrap();
}

#[tokio::test]
async fn closed_log_is_read_to_its_end_and_after_a_rewind() {
    let (spool, mut id) = (small(), 0);
    let mut reader = spool.reader("sink");
    spool.append(batch(&mut id, 3, 10)).await.unwrap();
    spool.close();
    assert!(matches!(
        spool.append(batch(&mut id, 1, 10)).await,
        Err(AppendError::Closed)
    ));
    for _ in 0..2 {
        assert_eq!(read_until(&mut reader, 3).await.0, [1, 2, 3]);
        assert!(matches!(next(&mut reader).await, Read::End));
        reader.rewind(Sequence::FIRST);
    }
}

#[tokio::test]
async fn close_ends_a_waiting_append() {
    let (spool, mut id) = (small(), 0);
    let _reader = spool.reader("sink");
    while spool.status().size_bytes < 900 << 10 {
        spool.append(batch(&mut id, 1, 50_000)).await.unwrap();
    }
    let large = batch(&mut id, 1, 500_000);
    let waiting = tokio::spawn({
        let spool = spool.clone();
        async move { spool.append(large).await }
    });
    tokio::task::yield_now().await;
    spool.close();
    assert!(matches!(soon(waiting).await.unwrap(), Err(AppendError::Closed)));
}

#[tokio::test]
async fn log_without_readers_retains_nothing() {
    let (spool, mut id) = (small(), 0);
    drop(spool.reader("gone"));
    for _ in 0..100 {
        soon(spool.append(batch(&mut id, 1, 50_000))).await.unwrap();
    }
    assert_eq!(spool.status().size_bytes, 0);
}

#[derive(Clone, Debug)]
enum Action {
    Append { events: usize },
    Read { reader: usize },
    Rewind { reader: usize, back: u64 },
    Commit { reader: usize },
}

fn any_action() -> impl Strategy<Value = Action> {
    prop_oneof![
        3 => (1usize..5).prop_map(|events| Action::Append { events }),
        4 => (0usize..2).prop_map(|reader| Action::Read { reader }),
        1 => (0usize..2, 0u64..10).prop_map(|(reader, back)| Action::Rewind { reader, back }),
        2 => (0usize..2).prop_map(|reader| Action::Commit { reader }),
    ]
}

/// The expected state of a reader.
#[derive(Clone, Copy, Debug)]
struct Model {
    /// The sequence of the next event to read.
    next: u64,
    /// The position of the cursor.
    committed: u64,
}

async fn run(actions: Vec<Action>) -> Result<(), ReadError> {
    let (spool, mut id) = (small(), 0);
    let mut readers = [spool.reader("a"), spool.reader("b")];
    let mut models = [Model {
        next: 1,
        committed: 1,
    }; 2];
    let mut appended = 0;
    let mut seen: [VecDeque<u64>; 2] = Default::default();
    for action in actions {
        match action {
            Action::Append { events } => {
                let stored = soon(spool.append(batch(&mut id, events, 10)))
                    .await
                    .unwrap()
                    .unwrap();
                assert_eq!(stored.first.get(), appended + 1);
                appended += events as u64;
            }
            Action::Read { reader } if models[reader].next <= appended => {
                let Read::Events(batch) = soon(readers[reader].next()).await? else {
                    panic!("no events")
                };
                for event in batch.iter() {
                    assert_eq!(event.unwrap().sequence.get(), models[reader].next);
                    seen[reader].push_back(models[reader].next);
                    models[reader].next += 1;
                }
            }
            Action::Rewind { reader, back } => {
                let to = models[reader]
                    .next
                    .saturating_sub(back)
                    .max(models[reader].committed);
                models[reader].next = to;
                readers[reader].rewind(Sequence::new(to).unwrap());
            }
            Action::Commit { reader } => {
                models[reader].committed = models[reader].next;
                commit(&mut readers[reader], Sequence::new(models[reader].next).unwrap());
            }
            Action::Read { .. } => {}
        }
        // The log contains the batches with events that a reader has not settled, and no other batches.
        let needed = models.iter().map(|model| model.committed).min().unwrap();
        assert!(
            (needed <= appended) == (spool.status().size_bytes > 0),
            "{needed} of {appended}"
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn each_reader_receives_consecutive_sequences(actions in proptest::collection::vec(any_action(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(run(actions)).unwrap();
    }
}

#[tokio::test]
async fn capacity_of_a_buffer_counts_as_its_size() {
    let spool = small();
    let _reader = spool.reader("sink");
    spool
        .append(batch_with_room(256 << 10, &mut 0, 1, 10))
        .await
        .unwrap();
    assert!(spool.status().size_bytes >= 256 << 10);
}

#[tokio::test]
async fn append_to_a_large_log_yields_to_the_readers() {
    let spool = open(ByteSize::from_mib(64), WhenFull::Block);
    let _reader = spool.reader("sink");
    let mut id = 0;
    // Below 4 MiB an append completes at once. Above, it first lets the readers run.
    while spool.status().size_bytes <= 4 << 20 {
        let stored = spool.append(batch(&mut id, 100, 600)).now_or_never();
        assert!(
            stored.is_some(),
            "an append waits at {} bytes",
            spool.status().size_bytes
        );
    }
    let stored = spool.status().durable_sequence;
    let mut append = Box::pin(spool.append(batch(&mut id, 100, 600)));
    assert!(append.as_mut().now_or_never().is_none());
    assert_eq!(spool.status().durable_sequence, stored);
    soon(append).await.unwrap();
    assert_eq!(spool.status().durable_sequence, stored + 100);
}
