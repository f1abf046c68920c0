//! A broker with scripted behaviour, and fakes of the sink, the reader and the dead-letter store of a delivery.

use super::*;

/// The broker's behaviour for one call of `outcomes`. After the last turn, all messages are acknowledged.
#[derive(Clone, Debug)]
pub(super) enum Turn {
    /// Acknowledges this number of waiting messages.
    Acknowledge(usize),
    /// Rejects all waiting messages if one of them is bad, as a broker rejects a batch. Otherwise acknowledges all of them.
    AcknowledgeBatch,
    /// Stores this number of waiting messages, acknowledges none, and fails.
    Fail(usize),
    /// As `Fail`, and the next connection fails too.
    FailTwice,
    /// Reports nothing.
    Later,
    /// Stores this number of waiting messages, and reports nothing until the client is replaced.
    Silent(usize),
    /// As `Silent`, and the next connection attempt hangs.
    SilentTwice,
    /// Acknowledges this number of waiting messages. The others have to be published again over the same connection.
    Resend(usize),
}

/// The messages stored by the broker, in order: events and dead letters by sequence.
#[derive(Debug, Default)]
pub(super) struct Broker {
    pub(super) stored: Vec<u64>,
    pub(super) dead_letters: Vec<u64>,
    pub(super) connects: u64,
    pub(super) turns: Vec<Turn>,
    pub(super) refuse_connects: u64,
    pub(super) hanging_connects: u64,
    /// The number of published events whose text was in the backing buffer.
    pub(super) in_buffer: u64,
    /// The state of the sink that the status showed at each call of `outcomes`.
    pub(super) states: Vec<SinkState>,
}

pub(super) struct FakeSink {
    pub(super) broker: Arc<Mutex<Broker>>,
    /// The sequence of each message, and whether it is a dead letter.
    pub(super) waiting: Vec<(Sequence, bool)>,
    /// Whether the client reports nothing any more.
    pub(super) is_silent: bool,
    pub(super) bad: fn(u64) -> bool,
    /// The reason for which bad events are rejected.
    pub(super) reason: RejectionReason,
    /// If set, bad events are rejected by `publish`.
    pub(super) acks_are_cumulative: bool,
    pub(super) refused: BTreeSet<u64>,
    pub(super) dead_letters: Arc<FakeDeadLetters>,
    pub(super) keeps_dead_letters: bool,
    pub(super) room: usize,
    pub(super) progress: Arc<Progress>,
}

pub(super) fn too_large() -> Rejection {
    Rejection {
        reason: RejectionReason::TooLarge,
        detail: "found 2 MiB, expected at most 1 MiB".into(),
    }
}

impl FakeSink {
    fn acknowledge(&mut self, count: usize, acks: &mut Vec<Ack>) {
        let count = count.min(self.waiting.len());
        let mut broker = self.broker.lock().unwrap();
        for (sequence, is_dead_letter) in self.waiting.drain(..count) {
            let outcome = if is_dead_letter {
                broker.dead_letters.push(sequence.get());
                Outcome::Delivered
            } else if (self.bad)(sequence.get()) {
                Outcome::Rejected(Rejection {
                    reason: self.reason,
                    ..too_large()
                })
            } else {
                broker.stored.push(sequence.get());
                Outcome::Delivered
            };
            acks.push(Ack { sequence, outcome });
        }
    }
}

impl DeadLetterSink for FakeSink {
    fn publish_dead_letter(&mut self, dead_letter: &DeadLetter<'_>) -> Result<(), PublishError> {
        if self.waiting.len() >= self.room {
            return Err(PublishError::Full);
        }
        assert!(serde_json::from_str::<serde_json::Value>(dead_letter.json).is_ok());
        self.waiting.push((dead_letter.sequence, true));
        Ok(())
    }
}

impl Sink for FakeSink {
    const REPLACES_CLIENT: bool = true;

    async fn connect(&mut self, context: &ConnectContext<'_>) -> Result<Connected, SinkFault> {
        assert_eq!(context.spool, SpoolId::from_bytes([7; 16]));
        self.waiting.clear();
        self.is_silent = false;
        let hangs = {
            let mut broker = self.broker.lock().unwrap();
            broker.connects += 1;
            let hangs = broker.hanging_connects > 0;
            broker.hanging_connects -= u64::from(hangs);
            hangs
        };
        if hangs {
            pending::<()>().await;
        }
        let mut broker = self.broker.lock().unwrap();
        if broker.refuse_connects > 0 {
            broker.refuse_connects -= 1;
            return Err(SinkFault::new(FaultKind::Unreachable, "nobody answers"));
        }
        Ok(Connected {
            acks_are_cumulative: self.acks_are_cumulative,
            committed_cursor: None,
        })
    }

    fn publish(&mut self, event: &Event<'_>, buffer: &Bytes) -> Result<(), PublishError> {
        if self.waiting.len() >= self.room {
            return Err(PublishError::Full);
        }
        let number = event.sequence.get();
        if self.acks_are_cumulative {
            let mut stored = self.dead_letters.sequences();
            stored.extend(&self.broker.lock().unwrap().dead_letters);
            let unsafe_before = self
                .refused
                .range(..number)
                .find(|refused| !stored.contains(refused));
            assert_eq!(
                unsafe_before, None,
                "event {number} was published before the dead letter of an earlier one"
            );
            if (self.bad)(number) {
                self.refused.insert(number);
                return Err(PublishError::Rejected(too_large()));
            }
        }
        let is_in_buffer = buffer.as_ptr_range().contains(&event.frame.as_bytes().as_ptr());
        self.broker.lock().unwrap().in_buffer += u64::from(is_in_buffer);
        self.waiting.push((event.sequence, false));
        Ok(())
    }

    fn cursor_note(&self) -> Option<String> {
        None
    }

    fn dead_letters(&mut self) -> Option<&mut dyn DeadLetterSink> {
        self.keeps_dead_letters.then_some(self as _)
    }

    fn transactions(&mut self) -> Option<&mut dyn Transactions> {
        None
    }

    async fn flush(&mut self) -> Result<(), SinkFault> {
        Ok(())
    }

    async fn outcomes(&mut self, acks: &mut Vec<Ack>) -> Result<AfterOutcomes, SinkFault> {
        if self.is_silent {
            return pending().await;
        }
        assert!(!self.waiting.is_empty(), "nothing is in flight");
        let turn = {
            let mut broker = self.broker.lock().unwrap();
            broker.states.push(self.progress.snapshot().state);
            broker.turns.pop()
        };
        match turn {
            Some(Turn::Acknowledge(count)) => self.acknowledge(count.max(1), acks),
            Some(Turn::AcknowledgeBatch) => {
                let any_bad = self
                    .waiting
                    .iter()
                    .any(|(sequence, dead_letter)| !dead_letter && (self.bad)(sequence.get()));
                if any_bad {
                    let retry_alone = |sequence| Ack {
                        sequence,
                        outcome: Outcome::RetryAlone(too_large()),
                    };
                    acks.extend(self.waiting.drain(..).map(|(sequence, _)| retry_alone(sequence)));
                } else {
                    self.acknowledge(usize::MAX, acks);
                }
            }
            Some(Turn::Fail(count)) => {
                self.acknowledge(count, &mut Vec::new());
                return Err(SinkFault::new(FaultKind::Unavailable, "no leader"));
            }
            Some(Turn::FailTwice) => {
                self.broker.lock().unwrap().refuse_connects = 1;
                return Err(SinkFault::new(FaultKind::Unavailable, "no leader"));
            }
            // The paused clock moves only when all tasks wait for it.
            Some(Turn::Silent(count)) => {
                self.acknowledge(count, &mut Vec::new());
                self.is_silent = true;
            }
            Some(Turn::SilentTwice) => {
                self.broker.lock().unwrap().hanging_connects = 1;
                self.is_silent = true;
            }
            Some(Turn::Later) => tokio::time::sleep(Duration::from_millis(10)).await,
            Some(Turn::Resend(count)) => {
                self.acknowledge(count, acks);
                self.waiting.clear();
                return Ok(AfterOutcomes::Resend {
                    acks_are_cumulative: self.acks_are_cumulative,
                });
            }
            None => self.acknowledge(usize::MAX, acks),
        }
        Ok(AfterOutcomes::Continue)
    }

    fn status(&self) -> SinkStatus {
        SinkStatus::default()
    }

    async fn close(&mut self) {}
}

/// A reader of batches in memory. After the last batch, it reports the end of the log or waits until the delivery is aborted.
pub(super) struct FakeReader {
    pub(super) batches: Vec<SealedBatch>,
    pub(super) next: Sequence,
    pub(super) cursor: Cursor,
    pub(super) committed: Arc<Mutex<Cursor>>,
    pub(super) ends: bool,
    pub(super) skips: Option<(u64, u64)>,
}

impl Reader for FakeReader {
    async fn next(&mut self) -> Result<Read, ReadError> {
        if let Some((from, events)) = self.skips
            && self.next.get() == from
        {
            self.next = self.next.plus(events);
            return Ok(Read::Skipped {
                from: Sequence::new(from).unwrap(),
                events,
                reason: SkipReason::Dropped,
            });
        }
        let found = self
            .batches
            .iter()
            .find_map(|batch| batch.from(self.next).filter(|part| part.first() == self.next));
        match found {
            Some(batch) => {
                self.next = batch.end();
                Ok(Read::Events(batch))
            }
            None if self.ends => Ok(Read::End),
            None => pending().await,
        }
    }

    fn rewind(&mut self, sequence: Sequence) {
        self.next = sequence;
    }

    fn commit(&mut self, cursor: &Cursor) {
        let mut committed = self.committed.lock().unwrap();
        assert!(cursor.next > committed.next, "a cursor never moves back");
        assert_eq!(
            cursor.counts.settled(),
            cursor.next.since(cursor.first),
            "the ledger balances at each commit"
        );
        *committed = cursor.clone();
    }

    fn cursor(&self) -> &Cursor {
        &self.cursor
    }
}

#[derive(Default)]
pub(super) struct FakeDeadLetters {
    pub(super) lines: Mutex<Vec<String>>,
    pub(super) fail: Mutex<u64>,
}

impl FakeDeadLetters {
    pub(super) fn sequences(&self) -> Vec<u64> {
        let lines = self.lines.lock().unwrap();
        lines.iter().map(|line| sequence_of(line)).collect()
    }
}

impl DeadLetters for FakeDeadLetters {
    fn store<'a>(&'a self, lines: &'a str) -> Pin<Box<dyn Future<Output = io::Result<()>> + Send + 'a>> {
        Box::pin(async move {
            let mut fail = self.fail.lock().unwrap();
            if *fail > 0 {
                *fail -= 1;
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            self.lines
                .lock()
                .unwrap()
                .extend(lines.lines().map(str::to_owned));
            Ok(())
        })
    }
}

/// Returns events 1 to `count` in batches of three. Every third event has another result.
pub(super) fn batches(count: u64, missing: Option<(u64, u64)>) -> Vec<SealedBatch> {
    let mut batches = Vec::new();
    let mut first = 1;
    while first <= count {
        if let Some((from, events)) = missing
            && first == from
        {
            first += events;
            continue;
        }
        let end = (first + 3)
            .min(count + 1)
            .min(missing.map_or(u64::MAX, |(from, _)| if from > first { from } else { u64::MAX }));
        let mut batch = Batch::default();
        for id in first..end {
            let result = if id % 3 == 0 { "junk" } else { "new" };
            let frame = format!(r#"{{"id":{id},"data":{{"result":"{result}","pid":"p"}}}}"#);
            batch.push(&Event {
                received_at: Timestamp::from_second(id as i64).unwrap(),
                ..testing::event(&frame)
            });
        }
        batches.push(batch.seal(Sequence::new(first).unwrap()));
        first = end;
    }
    batches
}
