//! Compares deliveries with a reference, in both commit modes and for generated schedules of faults: the broker fails at any
//! call, rejects events, stops responding and is restarted; the process is killed and restarts from an older cursor.

mod log;
mod reference;
mod sink;
mod world;

use self::{
    log::{DeadLetterPlace, Feed},
    reference::{Kind, Reference},
    sink::Model,
    world::World,
};
use super::*;

/// The end of one process.
#[derive(Debug, PartialEq, Eq)]
enum Exit {
    Ended(DeliveryEnd),
    Killed,
}

/// Runs one process from a committed cursor.
fn run_process(world: &Arc<Mutex<World>>, cursor: &Cursor) -> (Exit, ProgressSnapshot) {
    let shutdown = Shutdown {
        drain: CancellationToken::new(),
        abort: CancellationToken::new(),
    };
    shutdown.drain.cancel();
    let kill = CancellationToken::new();
    let progress = Arc::new(Progress::new(cursor.clone()));
    let filter = {
        let mut world = world.lock().unwrap();
        world.start_process(cursor, kill.clone(), shutdown.abort.clone());
        world.filter.clone()
    };
    let options = DeliveryOptions {
        name: "model".into(),
        spool: SpoolId::from_bytes([7; 16]),
        filter,
        redaction: Redaction::default(),
        dead_letters: Arc::new(DeadLetterPlace(Arc::clone(world))),
        dead_letter_place: String::new(),
        max_dead_letters_in_a_row: 1000,
        lead: None,
    };
    let sink = Model::new(Arc::clone(world));
    let reader = Feed::new(Arc::clone(world), cursor.clone());
    let delivery = deliver(sink, reader, options, Arc::clone(&progress), shutdown);
    let exit = runtime().block_on(async {
        tokio::select! {
            biased;
            () = kill.cancelled() => Exit::Killed,
            ended = timeout(Duration::from_secs(10 * 86_400), delivery) => {
                Exit::Ended(ended.expect("the delivery ends").expect("the log is readable"))
            }
        }
    });
    (exit, progress.snapshot())
}

/// Runs processes until one has delivered all events, and compares the messages of the broker with the reference.
fn check(world: World) {
    let events = world.reference.events();
    let is_transactional = world.is_transactional;
    let world = Arc::new(Mutex::new(world));
    let mut cursor = Cursor::starting_at(Sequence::FIRST);
    for process in 0.. {
        assert!(process < 1000, "no process delivers all events");
        let (exit, snapshot) = run_process(&world, &cursor);
        let mut world = world.lock().unwrap();
        assert_eq!(
            snapshot.cursor, world.cursor,
            "the status shows the committed cursor"
        );
        if exit == Exit::Ended(DeliveryEnd::Drained) {
            assert_eq!(
                (world.cursor.next.get(), snapshot.in_flight),
                (events + 1, 0),
                "drained with unsettled events"
            );
            let shown = snapshot.dead_letters.total();
            let counted = world.cursor.counts.dead_lettered - cursor.counts.dead_lettered;
            // The metric does not count the dead letters of a commit whose response was lost.
            assert!(shown == counted || is_transactional && shown < counted);
            break;
        }
        cursor = world.restart();
    }
    let world = world.lock().unwrap();
    let reference = &world.reference;
    for sequence in 1..=events {
        let is_stored = world.stored.contains(&sequence);
        let has_dead_letter = world.dead_letters.contains(&sequence);
        match reference.kind(sequence) {
            // A killed process may have published the event before it was dropped.
            Kind::Dropped => {}
            Kind::Filtered => assert!(!is_stored && !has_dead_letter, "{sequence} was filtered"),
            Kind::Good => assert!(is_stored && !has_dead_letter, "{sequence} was good"),
            Kind::Bad | Kind::BadDeadLetter => {
                assert!(!is_stored && has_dead_letter, "{sequence} was bad");
            }
        }
    }
    if is_transactional {
        assert!(
            world.stored.is_sorted_by(|one, next| one < next),
            "events are duplicated or out of order"
        );
    }
    if is_transactional && world.keeps_dead_letters {
        assert!(
            world.dead_letters.is_sorted_by(|one, next| one < next),
            "dead letters are duplicated or out of order"
        );
    }
    if world.acks_are_cumulative {
        assert!(
            world.stored.is_sorted_by(|one, next| one < next),
            "events are duplicated or out of order"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        max_shrink_iters: 20_000,
        ..ProptestConfig::with_cases(cases())
    })]
    #[test]
    fn any_schedule_has_the_outcomes_of_the_reference(
        kinds in proptest::collection::vec(any::<u8>(), 1..60),
        script in proptest::collection::vec(any::<u8>(), 0..400),
        filtered: bool,
        keeps_dead_letters: bool,
        mode in 0_u8..4,
        batch_size in 1_u64..6,
    ) {
        check(World::new(&kinds, script, filtered, keeps_dead_letters, mode, batch_size));
    }
}

/// Returns the number of cases: `PROPTEST_CASES`, or 512.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(512)
}
