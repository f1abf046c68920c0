//! The log of the model, and the store for dead letters outside the sink.

use super::*;
use crate::ledger::Settlement;

/// The reader of the log in one process.
pub(super) struct Feed {
    world: Arc<Mutex<World>>,
    next: Sequence,
    cursor: Cursor,
}

impl Feed {
    pub(super) const fn new(world: Arc<Mutex<World>>, cursor: Cursor) -> Self {
        Self {
            world,
            next: cursor.next,
            cursor,
        }
    }
}

impl Reader for Feed {
    async fn next(&mut self) -> Result<Read, ReadError> {
        let mut world = self.world.lock().unwrap();
        let (from, events) = (self.next, world.reference.events());
        let dropped =
            (from.get()..=events).take_while(|sequence| world.reference.kind(*sequence) == Kind::Dropped);
        let dropped = dropped.count() as u64;
        if dropped > 0 {
            self.next = from.plus(dropped);
            for sequence in from.get()..self.next.get() {
                world.reference.settle(sequence, Settlement::Dropped);
            }
            return Ok(Read::Skipped {
                from,
                events: dropped,
                reason: SkipReason::Dropped,
            });
        }
        if from.get() > events {
            return Ok(Read::End);
        }
        let batch = world.batch(from);
        self.next = batch.end();
        Ok(Read::Events(batch))
    }

    fn rewind(&mut self, sequence: Sequence) {
        self.next = sequence;
        let mut world = self.world.lock().unwrap();
        if world.is_transactional {
            world.forget_uncommitted();
        }
        let next = world.cursor.next.get();
        if sequence.get() == next && world.draw() < 20 {
            let last = world.reference.events().min(next + u64::from(world.draw() % 8));
            for sequence in next..=last {
                // The model drops no filtered event, because it cannot determine whether the delivery has settled this event.
                if world.reference.kind(sequence) == Kind::Filtered {
                    break;
                }
                world.reference.drop_event(sequence);
            }
        }
    }

    fn commit(&mut self, cursor: &Cursor) {
        let mut world = self.world.lock().unwrap();
        assert!(cursor.next > world.cursor.next, "a cursor never moves back");
        world.check(cursor);
        world.cursor = cursor.clone();
        world.cursors.push(cursor.clone());
    }

    fn cursor(&self) -> &Cursor {
        &self.cursor
    }
}

/// The store for dead letters outside the sink.
pub(super) struct DeadLetterPlace(pub(super) Arc<Mutex<World>>);

impl DeadLetters for DeadLetterPlace {
    fn store<'a>(&'a self, lines: &'a str) -> Pin<Box<dyn Future<Output = io::Result<()>> + Send + 'a>> {
        Box::pin(async move {
            let (choice, count) = {
                let mut world = self.0.lock().unwrap();
                (world.draw(), usize::from(world.draw()))
            };
            let lines: Vec<u64> = lines.lines().map(sequence_of).collect();
            let stored = if choice < 60 {
                count % (lines.len() + 1)
            } else {
                lines.len()
            };
            {
                let mut world = self.0.lock().unwrap();
                for sequence in &lines[..stored] {
                    let kind = world.reference.kind(*sequence);
                    assert!(
                        matches!(kind, Kind::Bad | Kind::BadDeadLetter),
                        "a dead letter of {sequence}: {kind:?}"
                    );
                    assert_eq!(world.settlement(*sequence), None, "{sequence} is settled");
                    world.dead_letters.push(*sequence);
                }
                if choice < 5 {
                    world.kill.cancel();
                }
            }
            match choice {
                0..5 => pending().await,
                5..60 => Err(io::Error::from(io::ErrorKind::StorageFull)),
                _ => {
                    let mut world = self.0.lock().unwrap();
                    for sequence in lines {
                        world.reference.settle(sequence, Settlement::DeadLettered);
                        world.dead_lettered.insert(sequence);
                    }
                    Ok(())
                }
            }
        })
    }
}
