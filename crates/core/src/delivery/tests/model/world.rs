//! What the fakes of the model share, driven by a script of bytes.

use std::collections::BTreeSet;

use super::*;
use crate::ledger::Settlement;

/// What the fakes share, over all processes of a run.
pub(super) struct World {
    /// Decides at every call; benign when it has run out.
    script: std::vec::IntoIter<u8>,
    draws: u64,
    pub(super) reference: Reference,
    pub(super) filter: Filter,
    pub(super) is_transactional: bool,
    pub(super) acks_are_cumulative: bool,
    pub(super) removes_duplicates: bool,
    pub(super) keeps_dead_letters: bool,
    batch_size: u64,
    /// The broker's records; of transactions, the committed ones.
    pub(super) stored: Vec<u64>,
    pub(super) dead_letters: Vec<u64>,
    /// The cursor that was committed with a transaction.
    pub(super) broker_cursor: Option<Cursor>,
    /// All cursors that the reader has committed in this process, and the one at which it began.
    pub(super) cursors: Vec<Cursor>,
    pub(super) cursor: Cursor,
    /// Dead letters that this process has stored in the file.
    pub(super) dead_lettered: BTreeSet<u64>,
    pub(super) kill: CancellationToken,
    abort: CancellationToken,
}

impl World {
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
            50..60 => Kind::BadLetter,
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

    /// Returns the next events of the log, up to one that was dropped.
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

    /// Starts a process at a cursor: what was reported after it is not known to it, but by the broker's cursor.
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

    /// Returns the cursor of the next process: that of this one, or an older one where a crash came before it was saved.
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

    pub(super) fn forget_uncommitted(&mut self) {
        let kept = self
            .broker_cursor
            .as_ref()
            .map_or(Sequence::FIRST, |cursor| cursor.next);
        self.reference.forget_from(self.cursor.next.max(kept));
    }

    pub(super) fn draw(&mut self) -> u8 {
        self.draws += 1;
        assert!(self.draws < 100_000, "the delivery makes no progress");
        self.script.next().unwrap_or(255)
    }

    /// What may go wrong at any call: the process is killed or aborted, or the call fails.
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
