//! The key with this member's state in the store, and the detection of another process with the same name, without I/O.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    record::{Identity, MemberRecord},
    shared::Shared,
    store::Value,
};

/// The number of writes of the own state within the ttl.
const BEATS: u32 = 5;

/// The next step of the driver for the own state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Reads the own key.
    Read,
    /// Waits until an instant.
    Wait(Instant),
    /// Writes the own key, under the condition that its revision is the expected one.
    Write { expected: u64, record: MemberRecord },
    /// Deletes the own key, under the same condition.
    Delete { expected: u64 },
}

/// The relation of this process to its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The key was not read yet.
    Unknown,
    /// The key belongs to another process that was not seen alive. `since`: the time at which this revision was read first.
    Inherited { revision: u64, since: Instant },
    /// The key belongs to another process that was alive at `since`, because it wrote this revision.
    Taken { revision: u64, since: Instant },
    /// The key belongs to this process.
    Own { revision: u64, write_at: Instant },
    /// The key was deleted at a stop.
    Left,
}

/// The state of the own member.
#[derive(Debug)]
pub(crate) struct Presence {
    me: Identity,
    ttl: Duration,
    phase: Phase,
    must_read: bool,
    read_at: Option<Instant>,
    is_leaving: bool,
    term: Option<u64>,
    beat: u64,
}

impl Presence {
    pub(crate) const fn new(me: Identity, ttl: Duration) -> Self {
        Self {
            me,
            ttl,
            phase: Phase::Unknown,
            must_read: true,
            read_at: None,
            is_leaving: false,
            term: None,
            beat: 0,
        }
    }

    /// Returns whether the name belongs to this process.
    pub(crate) const fn is_joined(&self) -> bool {
        matches!(self.phase, Phase::Own { .. })
    }

    /// Returns whether another live process has the name.
    pub(crate) const fn is_taken(&self) -> bool {
        matches!(self.phase, Phase::Taken { .. })
    }

    /// Makes the next step a read.
    pub(crate) const fn read_next(&mut self) {
        self.must_read = true;
    }

    /// Deletes the own key with the next step.
    pub(crate) const fn leave(&mut self) {
        self.is_leaving = true;
    }

    /// Returns whether nothing is left to delete.
    pub(crate) const fn has_left(&self) -> bool {
        self.is_leaving && !self.is_joined()
    }

    /// Records the value of the own key.
    pub(crate) fn observe(&mut self, value: &Value, owner: Option<&str>, now: Instant) {
        self.must_read = false;
        self.read_at = Some(now);
        let revision = value.revision;
        let is_free = value.bytes.is_none() || owner == Some(&self.me.instance);
        self.phase = match self.phase {
            _ if is_free => Phase::Own {
                revision,
                write_at: now,
            },
            Phase::Unknown => Phase::Inherited { revision, since: now },
            Phase::Inherited { revision: before, .. } | Phase::Taken { revision: before, .. }
                if before == revision =>
            {
                self.phase
            }
            // The revision has changed, so another process with this name is alive. It may have taken the name while this
            // process was stopped for long.
            _ => Phase::Taken { revision, since: now },
        };
    }

    /// Returns the next step. `term`: the term of the own leadership; `None` for a follower.
    pub(crate) fn next(&mut self, now: Instant, term: Option<u64>, shared: &Shared) -> Step {
        let interval = self.ttl / BEATS;
        match self.phase {
            _ if self.must_read => Step::Read,
            Phase::Unknown => Step::Read,
            Phase::Left => Step::Wait(now + self.ttl),
            Phase::Own { revision, .. } if self.is_leaving => Step::Delete { expected: revision },
            Phase::Own { revision, write_at } => {
                if now < write_at && term == self.term {
                    return Step::Wait(write_at);
                }
                self.term = term;
                self.write(revision, shared)
            }
            Phase::Inherited { revision, since } | Phase::Taken { revision, since } => {
                let next_read = self.read_at.unwrap_or(since) + interval;
                let free_at = since + self.ttl;
                if now >= next_read {
                    Step::Read
                } else if now >= free_at {
                    self.write(revision, shared)
                } else {
                    Step::Wait(free_at.min(next_read))
                }
            }
        }
    }

    /// Records an accepted write or deletion.
    pub(crate) fn written(&mut self, revision: u64, now: Instant) {
        self.phase = if self.is_leaving {
            Phase::Left
        } else {
            Phase::Own {
                revision,
                write_at: now + self.ttl / BEATS,
            }
        };
    }

    fn write(&mut self, expected: u64, shared: &Shared) -> Step {
        self.beat += 1;
        let record = MemberRecord::new(&self.me, self.term, shared.report(), self.beat);
        Step::Write { expected, record }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    fn presence() -> Presence {
        let me = Identity {
            member: "a".into(),
            instance: "new".into(),
            config: "c".into(),
        };
        Presence::new(me, TTL)
    }

    fn value(revision: u64) -> Value {
        Value {
            revision,
            bytes: Some(Vec::new()),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn name_of_a_live_process_is_refused_until_it_ends() {
        let mut presence = presence();
        presence.observe(&value(5), Some("old"), Instant::now());
        assert!(!presence.is_joined() && !presence.is_taken());
        advance(TTL / 2).await;
        presence.observe(&value(6), Some("old"), Instant::now());
        assert!(presence.is_taken());
        for _ in 0..6 {
            advance(TTL / 5).await;
            presence.observe(&value(6), Some("old"), Instant::now());
        }
        let step = presence.next(Instant::now(), None, &Shared::new(""));
        assert!(matches!(step, Step::Write { expected: 6, .. }), "{step:?}");
        presence.written(7, Instant::now());
        assert!(presence.is_joined());
    }

    #[tokio::test(start_paused = true)]
    async fn name_of_a_killed_process_is_free_after_the_ttl() {
        let mut presence = presence();
        presence.observe(&value(5), Some("old"), Instant::now());
        for _ in 0..4 {
            advance(TTL / 5).await;
            assert_eq!(presence.next(Instant::now(), None, &Shared::new("")), Step::Read);
            presence.observe(&value(5), Some("old"), Instant::now());
            assert!(matches!(
                presence.next(Instant::now(), None, &Shared::new("")),
                Step::Wait(_)
            ));
        }
        advance(TTL / 5).await;
        presence.observe(&value(5), Some("old"), Instant::now());
        let step = presence.next(Instant::now(), None, &Shared::new(""));
        assert!(matches!(step, Step::Write { expected: 5, .. }), "{step:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn process_that_lost_its_name_is_refused() {
        let mut presence = presence();
        presence.observe(&Value::default(), None, Instant::now());
        presence.written(1, Instant::now());
        presence.observe(&value(2), Some("other"), Instant::now());
        assert!(presence.is_taken());
    }
}
