//! The sink of the model: publishes to the broker of the [`World`], and checks the calls of the delivery.

use std::collections::BTreeSet;

use super::{world::interrupted, *};
use crate::ledger::Settlement;

#[derive(Clone, Copy, Debug)]
struct Message {
    /// The number of this message in the order of publication.
    order: u64,
    sequence: u64,
    is_dead_letter: bool,
    is_bad: bool,
}

/// The sink of one process.
pub(super) struct Model {
    world: Arc<Mutex<World>>,
    is_transactional: bool,
    acks_are_cumulative: bool,
    waiting: Vec<Message>,
    published: u64,
    /// The messages accepted in the open transaction.
    open: Vec<Message>,
    is_open: bool,
    is_due: bool,
    /// Whether a message of the open transaction was rejected, so that the transaction can only be aborted.
    is_broken: bool,
    /// Whether the client reports nothing any more.
    is_silent: bool,
    /// The events that must be the only ones in flight when they are published again.
    alone: BTreeSet<u64>,
    /// The rejected events. They must not be published again in this connection, and with transactions not in this process.
    rejected: BTreeSet<u64>,
    /// Whether the broker has rejected a message, so that with cumulative acknowledgements it rejects all later ones too.
    is_chain_broken: bool,
}

impl Model {
    pub(super) fn new(world: Arc<Mutex<World>>) -> Self {
        let (is_transactional, acks_are_cumulative) = {
            let world = world.lock().unwrap();
            (world.is_transactional, world.acks_are_cumulative)
        };
        Self {
            world,
            is_transactional,
            acks_are_cumulative,
            waiting: Vec::new(),
            published: 0,
            open: Vec::new(),
            is_open: false,
            is_due: false,
            is_broken: false,
            is_silent: false,
            alone: BTreeSet::new(),
            rejected: BTreeSet::new(),
            is_chain_broken: false,
        }
    }

    fn discard_transaction(&mut self) {
        self.waiting.clear();
        self.open.clear();
        (self.is_open, self.is_due, self.is_broken) = (false, false, false);
    }

    fn discard_refusals(&mut self) {
        self.waiting.clear();
        self.alone.clear();
        self.rejected.clear();
        self.is_chain_broken = false;
    }

    fn accept(&mut self, sequence: u64, is_dead_letter: bool, is_bad: bool) -> Result<(), PublishError> {
        let choice = self.world.lock().unwrap().draw();
        assert!(
            !self.is_broken,
            "{sequence} published into a transaction that cannot be committed"
        );
        let is_doubled = self
            .waiting
            .iter()
            .any(|other| (other.sequence, other.is_dead_letter) == (sequence, is_dead_letter));
        assert!(!is_doubled, "{sequence} was published while it was in flight");
        let settlement = self.world.lock().unwrap().settlement(sequence);
        assert_eq!(settlement, None, "{sequence} was published after it was settled");
        let alone = self
            .waiting
            .iter()
            .find(|other| !other.is_dead_letter && self.alone.contains(&other.sequence));
        assert!(
            alone.is_none(),
            "{sequence} published while {alone:?} had to be alone in flight"
        );
        let has_room = self.waiting.len() < 5 && !(3..10).contains(&choice);
        match choice {
            0..3 => {
                return Err(PublishError::Fault(SinkFault::new(
                    FaultKind::Unavailable,
                    "publish",
                )));
            }
            _ if !has_room && !self.waiting.is_empty() => return Err(PublishError::Full),
            10..90 if is_bad => return Err(PublishError::Rejected(too_large())),
            _ => {}
        }
        let must_be_alone = !is_dead_letter && self.alone.contains(&sequence);
        assert!(
            !must_be_alone || self.waiting.is_empty(),
            "{sequence} had to be alone in flight, with {:?} in flight",
            self.waiting
        );
        self.is_open = self.is_transactional;
        self.published += 1;
        self.waiting.push(Message {
            order: self.published,
            sequence,
            is_dead_letter,
            is_bad,
        });
        Ok(())
    }

    /// Decides the outcome of one message and reports it.
    fn answer(&mut self, message: Message, is_shared_refusal: bool, acks: &mut Vec<Ack>) {
        let Message {
            sequence,
            is_dead_letter,
            is_bad,
            ..
        } = message;
        let outcome = if is_shared_refusal {
            self.alone.insert(sequence);
            Outcome::RetryAlone(too_large())
        } else if is_bad {
            let is_alone = !is_dead_letter && self.alone.remove(&sequence);
            self.rejected.insert(sequence);
            if is_alone {
                Outcome::RetryAlone(too_large())
            } else {
                Outcome::Rejected(too_large())
            }
        } else {
            let outcome = self.store(message);
            let settlement = match (is_dead_letter, &outcome) {
                (true, _) => Settlement::DeadLettered,
                (false, Outcome::Duplicate) => Settlement::Duplicate,
                (false, _) => Settlement::Delivered,
            };
            if !is_dead_letter {
                self.alone.remove(&sequence);
            }
            self.world.lock().unwrap().reference.settle(sequence, settlement);
            outcome
        };
        let is_refused = !matches!(outcome, Outcome::Delivered | Outcome::Duplicate);
        self.is_broken |= is_refused && self.is_transactional;
        self.is_chain_broken |= is_refused && self.acks_are_cumulative && !is_dead_letter;
        acks.push(Ack {
            sequence: Sequence::new(sequence).unwrap(),
            outcome,
        });
    }

    fn store(&mut self, message: Message) -> Outcome {
        let mut world = self.world.lock().unwrap();
        if self.is_transactional {
            self.open.push(message);
        } else if message.is_dead_letter {
            world.dead_letters.push(message.sequence);
        } else {
            let is_stored = world.stored.contains(&message.sequence);
            let is_before_end = world.stored.last() >= Some(&message.sequence);
            if world.removes_duplicates && is_stored || self.acks_are_cumulative && is_before_end {
                return Outcome::Duplicate;
            }
            world.stored.push(message.sequence);
        }
        Outcome::Delivered
    }

    /// Stores the first messages, up to the first one to be rejected, without reporting an outcome.
    fn store_silently(&mut self, count: usize) {
        let mut stored = std::mem::take(&mut self.waiting);
        stored.sort_by_key(|message| message.order);
        for message in stored
            .into_iter()
            .take(count)
            .take_while(|message| !message.is_bad)
        {
            self.store(message);
        }
    }

    fn answer_some(&mut self, count: usize, acks: &mut Vec<Ack>) {
        let count = count.min(self.waiting.len());
        for message in self.waiting.drain(..count).collect::<Vec<_>>() {
            if self.is_chain_broken && !message.is_dead_letter {
                self.waiting.push(message);
            } else {
                self.answer(message, false, acks);
            }
        }
        self.waiting.sort_by_key(|message| message.order);
    }

    /// Requests that all events without an outcome are published again, unless a dead letter is in flight.
    fn resend(&mut self) -> AfterOutcomes {
        if self.waiting.iter().any(|message| message.is_dead_letter) {
            return AfterOutcomes::Continue;
        }
        self.discard_refusals();
        AfterOutcomes::Resend {
            acks_are_cumulative: self.acks_are_cumulative,
        }
    }

    /// Reports outcomes, as decided by the script.
    fn report(&mut self, acks: &mut Vec<Ack>) -> Result<AfterOutcomes, SinkFault> {
        let (choice, number) = {
            let mut world = self.world.lock().unwrap();
            (world.draw(), usize::from(world.draw()))
        };
        match choice {
            0..20 => {
                self.answer_some(number % 3, acks);
                if !self.is_chain_broken {
                    self.store_silently(number / 3 % 6);
                }
                return Err(SinkFault::new(FaultKind::Unavailable, "no leader"));
            }
            20..22 if !self.is_chain_broken => {
                self.store_silently(number % 6);
                self.is_silent = true;
            }
            _ if self.is_chain_broken => {
                if self.waiting.iter().any(|message| message.is_dead_letter) {
                    self.answer_some(usize::MAX, acks);
                } else {
                    return Ok(self.resend());
                }
            }
            22..60 if !self.acks_are_cumulative => {
                let is_shared = self.waiting.len() > 1 && self.waiting.iter().any(|message| message.is_bad);
                for message in std::mem::take(&mut self.waiting) {
                    self.answer(message, is_shared && !message.is_dead_letter, acks);
                }
            }
            60..75 if !self.acks_are_cumulative => {
                let index = number % self.waiting.len();
                let sequence = Sequence::new(self.waiting.remove(index).sequence).unwrap();
                acks.push(Ack {
                    sequence,
                    outcome: Outcome::Deferred,
                });
                self.is_broken = self.is_transactional;
            }
            75..90 if !self.is_transactional => {
                self.answer_some(number % 6, acks);
                if !self.is_chain_broken {
                    return Ok(self.resend());
                }
            }
            90..110 if !self.acks_are_cumulative => {
                let length = self.waiting.len();
                self.waiting.rotate_left(number % length);
                self.answer_some(1 + number / 16, acks);
            }
            110..160 => self.answer_some(1 + number % 5, acks),
            160..170 => self.is_due |= self.is_open,
            _ => self.answer_some(usize::MAX, acks),
        }
        Ok(AfterOutcomes::Continue)
    }
}

impl DeadLetterSink for Model {
    fn publish_dead_letter(&mut self, dead_letter: &DeadLetter<'_>) -> Result<(), PublishError> {
        let sequence = dead_letter.sequence.get();
        let json: serde_json::Value = serde_json::from_str(dead_letter.json).unwrap();
        let kind = self.world.lock().unwrap().reference.kind(sequence);
        assert!(
            matches!(kind, Kind::Bad | Kind::BadDeadLetter),
            "a dead letter of {sequence}: {kind:?}"
        );
        assert!(self.is_transactional || self.rejected.contains(&sequence));
        let is_bad = kind == Kind::BadDeadLetter && json.get("event").is_some();
        self.accept(sequence, true, is_bad)
    }
}

impl Transactions for Model {
    fn state(&self) -> TransactionState {
        state_of(self.is_open, self.is_due || self.open.len() >= 6)
    }

    fn commit<'a>(&'a mut self, cursor: &'a Cursor) -> SinkFuture<'a> {
        Box::pin(async move {
            assert!(
                self.is_open && self.waiting.is_empty() && !self.is_broken,
                "committed too early"
            );
            let interruption = {
                let mut world = self.world.lock().unwrap();
                let before = world.draw_fault("commit, not done");
                if before.is_none() {
                    world.check(cursor);
                    self.open.sort_by_key(|message| message.order);
                    for message in self.open.drain(..) {
                        assert!(
                            message.sequence < cursor.next.get(),
                            "{message:?} is after the cursor"
                        );
                        let place = if message.is_dead_letter {
                            &mut world.dead_letters
                        } else {
                            &mut world.stored
                        };
                        place.push(message.sequence);
                    }
                    world.broker_cursor = Some(cursor.clone());
                }
                before.or_else(|| world.draw_fault("commit, done"))
            };
            interrupted(interruption).await?;
            self.discard_transaction();
            self.alone.clear();
            Ok(())
        })
    }

    fn abort(&mut self) -> SinkFuture<'_> {
        Box::pin(async move {
            let interruption = self.world.lock().unwrap().draw_fault("abort");
            interrupted(interruption).await?;
            self.discard_transaction();
            Ok(())
        })
    }
}

impl Sink for Model {
    const REPLACES_CLIENT: bool = true;

    async fn connect(&mut self, _: &ConnectContext<'_>) -> Result<Connected, SinkFault> {
        let interruption = self.world.lock().unwrap().draw_fault("connect");
        interrupted(interruption).await?;
        self.discard_transaction();
        self.is_silent = false;
        if !self.is_transactional {
            self.discard_refusals();
        }
        let committed_cursor = self.world.lock().unwrap().broker_cursor.clone();
        Ok(Connected {
            acks_are_cumulative: self.acks_are_cumulative,
            committed_cursor: committed_cursor.filter(|_| self.is_transactional),
        })
    }

    fn publish(&mut self, event: &Event<'_>, _: &Bytes) -> Result<(), PublishError> {
        let sequence = event.sequence.get();
        assert_ne!(
            self.state(),
            TransactionState::Due,
            "{sequence} published although the commit is due"
        );
        assert!(!self.rejected.contains(&sequence), "{sequence} was rejected");
        let kind = {
            let world = self.world.lock().unwrap();
            let is_safe = |rejected: &&u64| world.dead_letters.contains(*rejected);
            let mut before = self.rejected.range(..sequence);
            let unsafe_before = before.find(|rejected| self.acks_are_cumulative && !is_safe(rejected));
            assert_eq!(
                unsafe_before, None,
                "{sequence} published before the dead letter is stored"
            );
            world.reference.kind(sequence)
        };
        assert!(
            !matches!(kind, Kind::Filtered | Kind::Dropped),
            "{sequence} published: {kind:?}"
        );
        let accepted = self.accept(sequence, false, kind != Kind::Good);
        if matches!(accepted, Err(PublishError::Rejected(_))) && !self.is_transactional {
            self.rejected.insert(sequence);
        }
        accepted
    }

    fn cursor_note(&self) -> Option<String> {
        None
    }

    fn dead_letters(&mut self) -> Option<&mut dyn DeadLetterSink> {
        let keeps_dead_letters = self.world.lock().unwrap().keeps_dead_letters;
        keeps_dead_letters.then_some(self as _)
    }

    fn transactions(&mut self) -> Option<&mut dyn Transactions> {
        self.is_transactional.then_some(self as _)
    }

    async fn flush(&mut self) -> Result<(), SinkFault> {
        let interruption = self.world.lock().unwrap().draw_fault("flush");
        interrupted(interruption).await
    }

    async fn outcomes(&mut self, acks: &mut Vec<Ack>) -> Result<AfterOutcomes, SinkFault> {
        if self.is_silent {
            return pending().await;
        }
        let (is_late, interruption) = {
            let mut world = self.world.lock().unwrap();
            (world.draw() < 10, world.draw_fault("outcomes"))
        };
        if is_late {
            sleep(Duration::from_millis(10)).await;
        }
        interrupted(interruption).await?;
        if self.waiting.is_empty() {
            assert!(self.is_open && !self.is_due, "nothing is in flight");
            self.is_due = true;
            return Ok(AfterOutcomes::Continue);
        }
        self.report(acks)
    }

    fn status(&self) -> SinkStatus {
        let broken = {
            let is_broken = self.world.lock().unwrap().draw() < 3;
            is_broken.then(|| SinkFault::new(FaultKind::Unreachable, "the connection broke"))
        };
        SinkStatus {
            broken,
            ..SinkStatus::default()
        }
    }

    async fn close(&mut self) {}
}
