//! The state that the fakes of the model share. A script of bytes decides the behaviour of each call.

use std::collections::BTreeSet;

use super::*;
use crate::ledger::Settlement;

/// The state that the fakes share during all processes of a run.
pub(super) struct World {
    /// The behaviour of the next calls. At the end of the script all calls succeed.
    script: std::vec::IntoIter<u8>,
    draws: u64,
    pub(super) reference: Reference,
    pub(super) filter: Filter,
    pub(super) is_transactional: bool,
    pub(super) acks_are_cumulative: bool,
    pub(super) removes_duplicates: bool,
    pub(super) keeps_dead_letters: bool,
    batch_size: u64,
    /// The sequences of the events stored by the broker; with transactions, only of committed events.
    pub(super) stored: Vec<u64>,
    pub(super) dead_letters: Vec<u64>,
    /// The cursor that was committed with a transaction.
    pub(super) broker_cursor: Option<Cursor>,
    /// The cursor at which this process began, and all cursors that its reader has committed.
    pub(super) cursors: Vec<Cursor>,
    pub(super) cursor: Cursor,
    /// The events whose dead letters this process has stored in the file.
    pub(super) dead_lettered: BTreeSet<u64>,
    pub(super) kill: CancellationToken,
    abort: CancellationToken,
}

impl World {
    /// Creates the state before the first process. `kinds` determines the [`Kind`] of each event. `mode`: 0 for transactions,
    /// 1 for cumulative acknowledgements, 2 for a broker that removes duplicates, 3 for none of these.
    pub(super) fn new(
        kinds: &[u8],
        script: Vec<u8>,
        filtered: bool,
        keeps_dead_letters: bool,
        mode: u8,
        batch_size: u64,
    ) -> Self {
        let kind = |(index, byte): (usize, &u8)| match byte {
            0..20 => Kind::Dropped,
            _ if filtered && (index + 1).is_multiple_of(3) => Kind::Filtered,
            20..50 => Kind::Bad,
            50..60 => Kind::BadDeadLetter,
            _ => Kind::Good,
        };
        let kinds: Vec<Kind> = kinds.iter().enumerate().map(kind).collect();
        Self {
            script: script.into_iter(),
            draws: 0,
            batch_size,
            reference: Reference::new(kinds),
            filter: if filtered {
                Filter::new([("result", ["new"])]).unwrap()
            } else {
                Filter::default()
            },
            is_transactional: mode == 0,
            acks_are_cumulative: mode == 1,
            removes_duplicates: mode == 2,
            keeps_dead_letters,
            stored: Vec::new(),
            dead_letters: Vec::new(),
            broker_cursor: None,
            cursors: Vec::new(),
            cursor: Cursor::starting_at(Sequence::FIRST),
            dead_lettered: BTreeSet::new(),
            kill: CancellationToken::new(),
            abort: CancellationToken::new(),
        }
    }

    /// Returns the next events of the log, up to the first dropped event.
    pub(super) fn batch(&self, first: Sequence) -> SealedBatch {
        let mut batch = Batch::default();
        for id in first.get()..=self.reference.events() {
            if self.reference.kind(id) == Kind::Dropped || batch.events() == self.batch_size {
                break;
            }
            let result = if id.is_multiple_of(3) { "junk" } else { "new" };
            let frame = format!(r#"{{"id":{id},"data":{{"result":"{result}"}}}}"#);
            batch.push(&Event {
                received_at: Timestamp::from_second(id as i64).unwrap(),
                ..testing::event(&frame)
            });
        }
        batch.seal(first)
    }

    /// Starts a process at a cursor. The process has no information about later events, except for the cursor that is stored in
    /// the broker.
    pub(super) fn start_process(
        &mut self,
        cursor: &Cursor,
        kill: CancellationToken,
        abort: CancellationToken,
    ) {
        (self.kill, self.abort) = (kill, abort);
        self.cursor = cursor.clone();
        self.cursors = vec![cursor.clone()];
        self.dead_lettered.clear();
        self.reference.start_at(cursor);
        self.forget_uncommitted();
    }

    /// Returns the cursor at which the next process starts: the last one of this process, or an older one, as after a crash
    /// before the last cursor was saved.
    pub(super) fn restart(&mut self) -> Cursor {
        let back = usize::from(self.draw() % 3);
        self.cursors[self.cursors.len().saturating_sub(1 + back)].clone()
    }

    /// Returns the settlement of an event. A dead letter in the file remains after a rollback.
    pub(super) fn settlement(&self, sequence: u64) -> Option<Settlement> {
        let in_file = self
            .dead_lettered
            .contains(&sequence)
            .then_some(Settlement::DeadLettered);
        self.reference.settlement(sequence).or(in_file)
    }

    pub(super) fn check(&mut self, cursor: &Cursor) {
        for sequence in self.dead_lettered.range(..cursor.next.get()) {
            self.reference.settle(*sequence, Settlement::DeadLettered);
        }
        self.reference.check(cursor);
    }

    /// Discards the settlements of the events after the local and the committed cursor.
    pub(super) fn forget_uncommitted(&mut self) {
        let committed = self
            .broker_cursor
            .as_ref()
            .map_or(Sequence::FIRST, |cursor| cursor.next);
        self.reference.discard_from(self.cursor.next.max(committed));
    }

    /// Returns the next byte of the script, or 255 at its end.
    pub(super) fn draw(&mut self) -> u8 {
        self.draws += 1;
        assert!(self.draws < 100_000, "the delivery makes no progress");
        self.script.next().unwrap_or(255)
    }

    /// Returns the fault of a call, if it has one: the process is killed or aborted during the call, or the call hangs or fails.
    pub(super) fn draw_fault(&mut self, what: &str) -> Option<Interruption> {
        match self.draw() {
            0..3 => {
                self.kill.cancel();
                Some(Interruption::Hang)
            }
            3..5 => {
                self.abort.cancel();
                Some(Interruption::Hang)
            }
            5 => Some(Interruption::Hang),
            6..20 => Some(Interruption::Fault(SinkFault::new(FaultKind::Unavailable, what))),
            _ => None,
        }
    }
}

pub(super) enum Interruption {
    /// The call does not return.
    Hang,
    Fault(SinkFault),
}

pub(super) async fn interrupted(interruption: Option<Interruption>) -> Result<(), SinkFault> {
    match interruption {
        Some(Interruption::Hang) => pending().await,
        Some(Interruption::Fault(fault)) => Err(fault),
        None => Ok(()),
    }
}
