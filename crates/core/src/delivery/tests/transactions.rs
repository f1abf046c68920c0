//! Tests of the delivery with transactions and a scripted broker that fails.

use super::*;

/// The broker's behaviour for one call of `outcomes`. After the last turn, all messages are acknowledged.
#[derive(Clone, Copy, Debug)]
enum Turn {
    Acknowledge(usize),
    /// Rejects all waiting messages if one of them is bad. Otherwise acknowledges all of them.
    AcknowledgeBatch,
    Fail,
    /// Reports nothing until the client is replaced.
    Silent,
}

/// The broker's behaviour for one commit. After the last element of the script, all commits succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Commit {
    Done,
    /// The commit succeeds, and its response is lost.
    ResponseLost,
    Failed,
    /// The commit succeeds, and the call does not return.
    Hanging,
}

#[derive(Debug, Default)]
struct Broker {
    /// The sequence of each message, and whether it is a dead letter.
    committed: Vec<(u64, bool)>,
    committed_cursor: Option<Cursor>,
    turns: Vec<Turn>,
    commits: Vec<Commit>,
}

/// Returns whether the broker rejects this event, and with it the batch that contains the event.
fn is_bad(sequence: u64) -> bool {
    sequence % 7 == 3
}

/// Returns whether the broker rejects even the dead letter of this event while it contains the event.
fn has_bad_dead_letter(sequence: u64) -> bool {
    sequence % 14 == 10
}

/// Returns whether this event is deferred at its first publication in each connection, because of a look-up.
fn needs_look_up(sequence: u64) -> bool {
    sequence % 5 == 2
}

struct Message {
    sequence: Sequence,
    is_deferred: bool,
    is_dead_letter: bool,
    is_bad: bool,
}

struct FakeSink {
    broker: Arc<Mutex<Broker>>,
    keeps_dead_letters: bool,
    waiting: Vec<Message>,
    /// The messages acknowledged in the open transaction.
    open: Vec<(u64, bool)>,
    is_open: bool,
    is_due: bool,
    is_broken: bool,
    /// Whether the client reports nothing any more.
    is_silent: bool,
    /// The results of look-ups in this connection.
    known: std::collections::BTreeSet<Sequence>,
}

impl FakeSink {
    fn accept(&mut self, sequence: Sequence, is_dead_letter: bool, is_bad: bool) -> Result<(), PublishError> {
        assert!(!self.is_broken, "published into a broken transaction");
        if self.waiting.len() >= 4 {
            return Err(PublishError::Full);
        }
        let is_deferred = !is_dead_letter && needs_look_up(sequence.get()) && self.known.insert(sequence);
        self.is_open = true;
        self.waiting.push(Message {
            sequence,
            is_deferred,
            is_dead_letter,
            is_bad,
        });
        Ok(())
    }

    fn acknowledge(&mut self, count: usize, acks: &mut Vec<Ack>) {
        for message in self.waiting.drain(..count.min(self.waiting.len())) {
            let outcome = if message.is_deferred {
                Outcome::Deferred
            } else if message.is_bad {
                self.is_broken = true;
                Outcome::RetryAlone(too_large())
            } else {
                self.open.push((message.sequence.get(), message.is_dead_letter));
                Outcome::Delivered
            };
            acks.push(Ack {
                sequence: message.sequence,
                outcome,
            });
        }
    }

    fn reset(&mut self) {
        self.waiting.clear();
        self.open.clear();
        (self.is_open, self.is_due, self.is_broken) = (false, false, false);
        self.is_silent = false;
    }
}

impl DeadLetterSink for FakeSink {
    fn publish_dead_letter(&mut self, dead_letter: &DeadLetter<'_>) -> Result<(), PublishError> {
        let json: serde_json::Value = serde_json::from_str(dead_letter.json).unwrap();
        let is_bad = has_bad_dead_letter(dead_letter.sequence.get()) && json.get("event").is_some();
        self.accept(dead_letter.sequence, true, is_bad)
    }
}

impl Transactions for FakeSink {
    fn state(&self) -> TransactionState {
        state_of(self.is_open, self.is_due || self.open.len() >= 6)
    }

    fn commit<'a>(&'a mut self, cursor: &'a Cursor) -> SinkFuture<'a> {
        Box::pin(async move {
            assert!(self.is_open && self.waiting.is_empty() && !self.is_broken);
            let commit = {
                let mut broker = self.broker.lock().unwrap();
                let commit = broker.commits.pop().unwrap_or(Commit::Done);
                if commit != Commit::Failed {
                    broker.committed.append(&mut self.open);
                    broker.committed_cursor = Some(cursor.clone());
                }
                commit
            };
            if commit == Commit::Hanging {
                return pending().await;
            }
            if commit != Commit::Done {
                return Err(SinkFault::new(FaultKind::Timeout, "no answer"));
            }
            self.reset();
            Ok(())
        })
    }

    fn abort(&mut self) -> SinkFuture<'_> {
        Box::pin(async move {
            self.reset();
            Ok(())
        })
    }
}

impl Sink for FakeSink {
    const REPLACES_CLIENT: bool = true;

    async fn connect(&mut self, _: &ConnectContext<'_>) -> Result<Connected, SinkFault> {
        self.reset();
        self.known.clear();
        let committed_cursor = self.broker.lock().unwrap().committed_cursor.clone();
        Ok(Connected {
            acks_are_cumulative: false,
            committed_cursor,
        })
    }

    fn publish(&mut self, event: &Event<'_>, _: &Bytes) -> Result<(), PublishError> {
        assert_ne!(
            self.state(),
            TransactionState::Due,
            "an event was published although the commit is due"
        );
        self.accept(event.sequence, false, is_bad(event.sequence.get()))
    }

    fn cursor_note(&self) -> Option<String> {
        None
    }

    fn dead_letters(&mut self) -> Option<&mut dyn DeadLetterSink> {
        self.keeps_dead_letters.then_some(self as _)
    }

    fn transactions(&mut self) -> Option<&mut dyn Transactions> {
        Some(self)
    }

    async fn flush(&mut self) -> Result<(), SinkFault> {
        Ok(())
    }

    async fn outcomes(&mut self, acks: &mut Vec<Ack>) -> Result<AfterOutcomes, SinkFault> {
        if self.is_silent {
            return pending().await;
        }
        if self.waiting.is_empty() {
            assert!(
                self.is_open && !self.is_due,
                "outcomes() was called without messages or a due commit"
            );
            // All messages have outcomes, so the commit is due.
            self.is_due = true;
            return Ok(AfterOutcomes::Continue);
        }
        let turn = self.broker.lock().unwrap().turns.pop();
        match turn {
            Some(Turn::Silent) => self.is_silent = true,
            Some(Turn::Acknowledge(count)) => self.acknowledge(count.max(1), acks),
            Some(Turn::AcknowledgeBatch) => {
                let any_bad = self.waiting.iter().any(|message| message.is_bad);
                for message in &mut self.waiting {
                    message.is_bad = any_bad;
                }
                self.acknowledge(usize::MAX, acks);
            }
            Some(Turn::Fail) => return Err(SinkFault::new(FaultKind::Unavailable, "no leader")),
            None => self.acknowledge(usize::MAX, acks),
        }
        Ok(AfterOutcomes::Continue)
    }

    fn status(&self) -> SinkStatus {
        SinkStatus::default()
    }

    async fn close(&mut self) {}
}

struct Ending {
    broker: Broker,
    in_file: Vec<u64>,
    cursor: Cursor,
    progress: ProgressSnapshot,
}

fn run(events: u64, broker: Broker, keeps_dead_letters: bool, filter: Filter) -> Ending {
    let runtime = runtime();
    let cursor = Cursor::starting_at(Sequence::FIRST);
    let committed = Arc::new(Mutex::new(cursor.clone()));
    let broker = Arc::new(Mutex::new(broker));
    let dead_letters = Arc::new(FakeDeadLetters::default());
    let progress = Arc::new(Progress::new(cursor.clone()));
    let reader = FakeReader {
        batches: batches(events, None),
        next: Sequence::FIRST,
        cursor,
        committed: Arc::clone(&committed),
        ends: true,
        skips: None,
    };
    let sink = FakeSink {
        broker: Arc::clone(&broker),
        keeps_dead_letters,
        waiting: Vec::new(),
        open: Vec::new(),
        is_open: false,
        is_due: false,
        is_broken: false,
        is_silent: false,
        known: std::collections::BTreeSet::new(),
    };
    let options = DeliveryOptions {
        name: "fake".into(),
        spool: SpoolId::from_bytes([7; 16]),
        filter,
        redaction: Redaction::default(),
        dead_letters: Arc::clone(&dead_letters) as Arc<dyn DeadLetters>,
        dead_letter_place: String::new(),
        max_dead_letters_in_a_row: 100,
        lead: None,
    };
    let shutdown = Shutdown {
        drain: CancellationToken::new(),
        abort: CancellationToken::new(),
    };
    shutdown.drain.cancel();
    let delivery = deliver(sink, reader, options, Arc::clone(&progress), shutdown);
    let ended = runtime
        .block_on(async { timeout(Duration::from_secs(86_400), delivery).await })
        .expect("the delivery ends")
        .unwrap();
    assert_eq!(ended, DeliveryEnd::Drained);
    let lines = dead_letters.lines.lock().unwrap();
    Ending {
        in_file: lines.iter().map(|line| sequence_of(line)).collect(),
        broker: std::mem::take(&mut *broker.lock().unwrap()),
        cursor: committed.lock().unwrap().clone(),
        progress: progress.snapshot(),
    }
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        10 => (0..5_usize).prop_map(Turn::Acknowledge),
        10 => Just(Turn::AcknowledgeBatch),
        10 => Just(Turn::Fail),
        // Rare, because each one advances the clock by minutes in steps of half a second.
        1 => Just(Turn::Silent),
    ]
}

fn commit() -> impl Strategy<Value = Commit> {
    prop_oneof![
        Just(Commit::Done),
        Just(Commit::ResponseLost),
        Just(Commit::Failed),
        Just(Commit::Hanging)
    ]
}

proptest! {
    #[test]
    fn failures_commit_each_event_once_in_order(
        events in 1..60_u64,
        turns in proptest::collection::vec(turn(), 0..30),
        commits in proptest::collection::vec(commit(), 0..12),
        keeps_dead_letters: bool,
        filtered: bool,
    ) {
        let filter = if filtered { Filter::new([("result", ["new"])]).unwrap() } else { Filter::default() };
        let passes = |sequence: &u64| !filtered || !sequence.is_multiple_of(3);
        let broker = Broker { turns, commits, ..Broker::default() };
        let result = run(events, broker, keeps_dead_letters, filter);
        let wanted: Vec<u64> = (1..=events).filter(passes).filter(|sequence| !is_bad(*sequence)).collect();
        let bad: Vec<u64> = (1..=events).filter(passes).filter(|sequence| is_bad(*sequence)).collect();
        let of = |dead_letters: bool| -> Vec<u64> {
            let all = result.broker.committed.iter();
            all.filter(|(_, is_dead_letter)| *is_dead_letter == dead_letters).map(|(sequence, _)| *sequence).collect()
        };
        prop_assert_eq!(of(false), wanted.clone());
        let dead_letters = if keeps_dead_letters { of(true) } else { result.in_file.clone() };
        prop_assert_eq!(&dead_letters, &bad);
        prop_assert_eq!(result.cursor.next.get(), events + 1);
        prop_assert_eq!(result.cursor.counts.delivered, wanted.len() as u64);
        prop_assert_eq!(result.cursor.counts.dead_lettered, bad.len() as u64);
        prop_assert_eq!(result.cursor.counts.settled(), events);
        let counted = result.progress.dead_letters.total();
        // The dead letters of a commit whose response was lost are in the ledger and not in this metric.
        prop_assert!(counted <= bad.len() as u64);
        prop_assert_eq!(result.progress.cursor, result.cursor);
    }
}

#[test]
fn later_committed_cursor_replaces_local_cursor_and_counts() {
    let mut committed = Cursor::starting_at(Sequence::FIRST);
    committed.next = Sequence::new(5).unwrap();
    committed.counts.delivered = 3;
    committed.counts.dead_lettered = 1;
    let broker = Broker {
        committed_cursor: Some(committed),
        ..Broker::default()
    };
    let result = run(6, broker, true, Filter::default());
    assert_eq!(result.broker.committed, [(5, false), (6, false)]);
    assert_eq!(
        result.cursor.counts,
        SinkCounts {
            delivered: 5,
            dead_lettered: 1,
            ..SinkCounts::default()
        }
    );
}
