//! Runs a complete delivery of some events to the scripted broker.

use super::*;

/// Returns a runtime with a paused clock, which advances as soon as all tasks wait for it.
pub(super) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}

pub(super) struct Setup {
    pub(super) events: u64,
    /// The behaviour of the broker, last element first.
    pub(super) turns: Vec<Turn>,
    /// Whether the broker rejects the event with this sequence.
    pub(super) bad: fn(u64) -> bool,
    pub(super) reason: RejectionReason,
    pub(super) filter: Filter,
    pub(super) acks_are_cumulative: bool,
    /// Whether the sink stores dead letters in the broker. Otherwise they are stored in a file.
    pub(super) keeps_dead_letters: bool,
    /// The first event that the log has dropped, and the number of dropped events.
    pub(super) skips: Option<(u64, u64)>,
    /// The number of times that storing dead letters in the file fails.
    pub(super) failing_dead_letters: u64,
    pub(super) max_in_a_row: u64,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            events: 10,
            turns: Vec::new(),
            bad: |_| false,
            reason: RejectionReason::TooLarge,
            filter: Filter::default(),
            acks_are_cumulative: false,
            keeps_dead_letters: false,
            skips: None,
            failing_dead_letters: 0,
            max_in_a_row: 100,
        }
    }
}

pub(super) struct Ending {
    /// The duration by the paused clock, which includes only the time of timers.
    pub(super) took: Duration,
    pub(super) ended: DeliveryEnd,
    pub(super) broker: Broker,
    pub(super) dead_letters: Vec<u64>,
    pub(super) cursor: Cursor,
    pub(super) progress: ProgressSnapshot,
}

/// Runs a delivery to its end, with a paused clock.
pub(super) fn run(setup: Setup) -> Ending {
    let runtime = runtime();
    let cursor = Cursor::starting_at(Sequence::FIRST);
    let committed = Arc::new(Mutex::new(cursor.clone()));
    let broker = Arc::new(Mutex::new(Broker {
        turns: setup.turns,
        ..Broker::default()
    }));
    let dead_letters = Arc::new(FakeDeadLetters {
        fail: Mutex::new(setup.failing_dead_letters),
        ..FakeDeadLetters::default()
    });
    let progress = Arc::new(Progress::new(cursor.clone()));
    let reader = FakeReader {
        batches: batches(setup.events, setup.skips),
        next: Sequence::FIRST,
        cursor,
        committed: Arc::clone(&committed),
        ends: true,
        skips: setup.skips,
    };
    let sink = FakeSink {
        broker: Arc::clone(&broker),
        waiting: Vec::new(),
        is_silent: false,
        bad: setup.bad,
        reason: setup.reason,
        acks_are_cumulative: setup.acks_are_cumulative,
        refused: BTreeSet::new(),
        dead_letters: Arc::clone(&dead_letters),
        keeps_dead_letters: setup.keeps_dead_letters,
        room: 5,
        progress: Arc::clone(&progress),
    };
    let options = DeliveryOptions {
        filter: setup.filter,
        dead_letters: Arc::clone(&dead_letters) as Arc<dyn DeadLetters>,
        max_dead_letters_in_a_row: setup.max_in_a_row,
        ..options("fake")
    };
    let shutdown = Shutdown {
        drain: CancellationToken::new(),
        abort: CancellationToken::new(),
    };
    shutdown.drain.cancel();
    let delivery = deliver(sink, reader, options, Arc::clone(&progress), shutdown);
    let (ended, took) = runtime.block_on(async {
        let began = Instant::now();
        let ended = timeout(Duration::from_secs(86_400), delivery).await;
        (ended.expect("the delivery ends").unwrap(), began.elapsed())
    });
    let in_file = dead_letters.sequences();
    let broker = std::mem::take(&mut *broker.lock().unwrap());
    let dead_letters = if setup.keeps_dead_letters {
        broker.dead_letters.clone()
    } else {
        in_file
    };
    let cursor = committed.lock().unwrap().clone();
    Ending {
        took,
        ended,
        broker,
        dead_letters,
        cursor,
        progress: progress.snapshot(),
    }
}

/// Returns a reader that waits after the tenth event, and default options.
pub(super) fn ten_events(cursor: &Cursor, name: &str) -> (FakeReader, DeliveryOptions) {
    let reader = FakeReader {
        batches: batches(10, None),
        next: Sequence::FIRST,
        cursor: cursor.clone(),
        committed: Arc::new(Mutex::new(cursor.clone())),
        ends: false,
        skips: None,
    };
    (reader, options(name))
}

/// Returns options without filter and redaction, with which a second consecutive dead letter stops the sink.
pub(super) fn options(name: &str) -> DeliveryOptions {
    DeliveryOptions {
        name: name.into(),
        spool: SpoolId::from_bytes([7; 16]),
        filter: Filter::default(),
        redaction: Redaction::default(),
        dead_letters: Arc::new(FakeDeadLetters::default()),
        dead_letter_place: String::new(),
        max_dead_letters_in_a_row: 1,
        lead: None,
    }
}

/// Returns the state of a transaction of a fake sink.
pub(super) const fn state_of(is_open: bool, is_due: bool) -> TransactionState {
    match (is_open, is_due) {
        (false, _) => TransactionState::Closed,
        (true, false) => TransactionState::Open,
        (true, true) => TransactionState::Due,
    }
}

pub(super) fn sequence_of(dead_letter: &str) -> u64 {
    serde_json::from_str::<serde_json::Value>(dead_letter).unwrap()["sequence"]
        .as_u64()
        .unwrap()
}
