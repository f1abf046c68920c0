//! Where the common sequence of entries stands: what may be sent now, who reads where, what was sent already.
//!
//! Entries are functions of their ids, so nothing waits in memory here: a connection that lags only has a lower number.

mod handed;

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use self::handed::Handed;

/// How many entries one connection may be ahead of the slowest, when no rate is given: the platform sends each entry to all at
/// about the same time, and a receiver of two connections may count on that.
const MAX_LEAD: u64 = 1_024;

/// The state of the sequence, shared by all connections.
#[derive(Debug)]
pub(crate) struct Feed {
    state: Mutex<State>,
    changes: watch::Sender<()>,
}

/// What a connection may do now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Allowance {
    /// Send up to this id, included.
    UpTo(u64),
    /// Nothing before this time, unless the feed changes.
    At(Instant),
    /// Nothing until the feed changes.
    Wait,
}

#[derive(Debug)]
struct State {
    pace: Pace,
    hold: bool,
    count: u64,
    readers: BTreeMap<u64, Reader>,
    handed: Handed,
}

#[derive(Debug)]
enum Pace {
    /// As fast as it is read.
    Free,
    Fixed {
        per_second: f64,
        /// The last id that was due at `since`.
        before: u64,
        /// When the clock started; `None`: it stands.
        since: Option<Instant>,
    },
}

#[derive(Debug)]
struct Reader {
    next: u64,
    /// Whether the others wait for it when no rate is given.
    sets_pace: bool,
}

impl Feed {
    pub(crate) fn new(rate: Option<f64>, hold: bool, count: Option<u64>) -> Self {
        let pace = rate.map_or(Pace::Free, |per_second| Pace::Fixed {
            per_second,
            before: 0,
            since: None,
        });
        let state = State {
            pace,
            hold,
            count: count.unwrap_or(u64::MAX),
            readers: BTreeMap::new(),
            handed: Handed::default(),
        };
        Self {
            state: Mutex::new(state),
            changes: watch::Sender::new(()),
        }
    }

    /// Hears of every change that may allow more, or finish the sequence.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Takes an authorised connection in and gives the first id that it gets.
    pub(crate) fn join(&self, connection: u64, now: Instant) -> u64 {
        let next = self.with(|state| state.join(connection, now));
        self.changes.send_replace(());
        next
    }

    /// Takes a connection out, because it is closed or sends no more.
    pub(crate) fn leave(&self, connection: u64, now: Instant) {
        self.with(|state| state.leave(connection, now));
        self.changes.send_replace(());
    }

    /// Lets the others run ahead of a connection that is slow on purpose.
    pub(crate) fn leave_behind(&self, connection: u64) {
        self.with(|state| {
            if let Some(reader) = state.readers.get_mut(&connection) {
                reader.sets_pace = false;
            }
        });
        self.changes.send_replace(());
    }

    /// Says up to which id a connection that stands before `next` may send.
    pub(crate) fn allowance(&self, next: u64, now: Instant) -> Allowance {
        self.with(|state| state.allowance(next, now))
    }

    /// Notes ids that a connection has handed over, and gives those of them that no other had handed over before.
    pub(crate) fn handed(&self, connection: u64, ids: RangeInclusive<u64>) -> Vec<RangeInclusive<u64>> {
        let (fresh, wake) = self.with(|state| state.note_handed(connection, ids));
        if wake {
            self.changes.send_replace(());
        }
        fresh
    }

    /// Lets every connection look again, because something beside the feed has changed.
    pub(crate) fn wake_all(&self) {
        self.changes.send_replace(());
    }

    /// Gives the last id that there will ever be.
    pub(crate) fn last_id(&self) -> u64 {
        self.with(|state| state.count)
    }

    /// Gives the id of the newest entry that exists.
    pub(crate) fn produced(&self, now: Instant) -> u64 {
        self.with(|state| state.produced(now))
    }

    /// Changes the rate from now on.
    pub(crate) fn set_rate(&self, rate: Option<f64>, now: Instant) {
        self.with(|state| state.set_rate(rate, now));
        self.changes.send_replace(());
    }

    /// Waits until all `count` entries were sent, or were due while nobody was connected, and every open connection has its
    /// last one. Never ends without a count.
    pub(crate) async fn done(&self) {
        let mut changes = self.changes();
        loop {
            changes.mark_unchanged();
            let again = match self.with(|state| state.done(Instant::now())) {
                Done::Yes => return,
                Done::At(time) => time,
                Done::Wait => Instant::now() + Duration::from_secs(3_600),
            };
            // Both ways lead to another look; the sender lives as long as `self`.
            let _ = tokio::time::timeout_at(again, changes.changed()).await;
        }
    }

    fn with<T>(&self, use_state: impl FnOnce(&mut State) -> T) -> T {
        // No code under this lock can panic half-way through a change; a poisoned lock is as good as another.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        use_state(&mut state)
    }
}

enum Done {
    Yes,
    At(Instant),
    Wait,
}

impl State {
    /// Without a rate entries exist by being read, so the sequence stands still while nobody reads, whatever `hold` says.
    fn holds(&self) -> bool {
        self.hold || matches!(self.pace, Pace::Free)
    }

    fn join(&mut self, connection: u64, now: Instant) -> u64 {
        if let Pace::Fixed {
            since: since @ None, ..
        } = &mut self.pace
        {
            *since = Some(now);
        }
        let next = if self.holds() {
            self.handed.first_missing()
        } else {
            let produced = self.produced(now);
            if self.readers.is_empty() {
                self.handed.settle(produced);
            }
            produced + 1
        };
        self.readers.insert(
            connection,
            Reader {
                next,
                sets_pace: true,
            },
        );
        next
    }

    fn leave(&mut self, connection: u64, now: Instant) {
        if self.readers.remove(&connection).is_none() {
            return;
        }
        let handed = self.handed.first_missing() - 1;
        match &mut self.pace {
            Pace::Fixed { before, since, .. } if self.hold && self.readers.is_empty() => {
                *before = handed;
                *since = None;
            }
            _ => self.settle(now),
        }
    }

    /// Forgets details below what any reader can still hand over.
    fn settle(&mut self, now: Instant) {
        if self.holds() {
            return;
        }
        let floor = match self.readers.values().map(|reader| reader.next).min() {
            Some(next) => next - 1,
            None => self.produced(now),
        };
        self.handed.settle(floor);
    }

    fn allowance(&self, next: u64, now: Instant) -> Allowance {
        if next > self.count {
            return Allowance::Wait;
        }
        match self.pace {
            Pace::Free => {
                let slowest = self
                    .readers
                    .values()
                    .filter(|reader| reader.sets_pace)
                    .map(|reader| reader.next)
                    .min();
                let last = slowest
                    .map_or(u64::MAX, |slowest| slowest.saturating_add(MAX_LEAD))
                    .min(self.count);
                if next <= last {
                    Allowance::UpTo(last)
                } else {
                    Allowance::Wait
                }
            }
            Pace::Fixed { .. } => {
                let produced = self.produced(now);
                if next <= produced {
                    return Allowance::UpTo(produced);
                }
                self.due(next).map_or(Allowance::Wait, Allowance::At)
            }
        }
    }

    fn note_handed(&mut self, connection: u64, ids: RangeInclusive<u64>) -> (Vec<RangeInclusive<u64>>, bool) {
        let fresh = self.handed.insert(ids.clone());
        if let Some(reader) = self.readers.get_mut(&connection) {
            reader.next = reader.next.max(ids.end() + 1);
        }
        if !self.holds() {
            let floor = self.readers.values().map(|reader| reader.next - 1).min();
            self.handed.settle(floor.unwrap_or(0));
        }
        (fresh, self.readers.len() > 1 || *ids.end() >= self.count)
    }

    fn produced(&self, now: Instant) -> u64 {
        let produced = match self.pace {
            Pace::Free => self.handed.last(),
            Pace::Fixed {
                before, since: None, ..
            } => before,
            Pace::Fixed {
                per_second,
                before,
                since: Some(since),
            } => {
                // A millionth more, so that the very instant at which an entry is due is not rounded to before it.
                let after = now.saturating_duration_since(since).as_secs_f64() * per_second + 1e-6;
                before.saturating_add(after as u64)
            }
        };
        produced.min(self.count)
    }

    /// Gives when an entry is due; `None`: never, as things are.
    fn due(&self, id: u64) -> Option<Instant> {
        match self.pace {
            Pace::Fixed {
                per_second,
                before,
                since: Some(since),
            } if per_second > 0.0 => {
                let seconds = id.saturating_sub(before) as f64 / per_second;
                since.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
            }
            _ => None,
        }
    }

    fn set_rate(&mut self, rate: Option<f64>, now: Instant) {
        let before = self.produced(now);
        let running = match self.pace {
            Pace::Free => !self.readers.is_empty(),
            Pace::Fixed { since, .. } => since.is_some(),
        };
        if !self.holds() && rate.is_none() {
            // From here on the sequence is driven by those who read: what nobody can hand over any more is settled.
            self.settle(now);
        }
        self.pace = rate.map_or(Pace::Free, |per_second| Pace::Fixed {
            per_second,
            before,
            since: running.then_some(now),
        });
    }

    fn done(&self, now: Instant) -> Done {
        if self.count == u64::MAX {
            return Done::Wait;
        }
        if self
            .readers
            .values()
            .any(|reader| reader.sets_pace && reader.next <= self.count)
        {
            return Done::Wait;
        }
        let over = if self.holds() {
            self.handed.first_missing() > self.count
        } else {
            self.produced(now) >= self.count
        };
        match over {
            true => Done::Yes,
            false => self
                .due(self.count)
                .filter(|_| !self.holds())
                .map_or(Done::Wait, Done::At),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn without_a_rate_nothing_is_lost_between_connections() {
        let (feed, now) = (Feed::new(None, false, Some(100)), Instant::now());
        assert_eq!(feed.join(1, now), 1);
        assert_eq!(feed.allowance(1, now), Allowance::UpTo(100));
        assert_eq!(feed.handed(1, 1..=40), [1..=40]);
        feed.leave(1, now);
        assert_eq!(feed.join(2, now + SECOND), 41);
        assert_eq!(feed.handed(2, 41..=100), [41..=100]);
        assert_eq!(feed.allowance(101, now), Allowance::Wait);
    }

    #[test]
    fn without_a_rate_the_slowest_sets_the_pace() {
        let (feed, now) = (Feed::new(None, false, None), Instant::now());
        feed.join(1, now);
        feed.join(2, now);
        feed.handed(1, 1..=MAX_LEAD + 1);
        assert_eq!(feed.allowance(MAX_LEAD + 2, now), Allowance::Wait);
        assert_eq!(feed.handed(2, 1..=10), []);
        assert_eq!(feed.allowance(MAX_LEAD + 2, now), Allowance::UpTo(MAX_LEAD + 11));
        feed.leave_behind(2);
        assert_eq!(
            feed.allowance(MAX_LEAD + 2, now),
            Allowance::UpTo(2 * MAX_LEAD + 2)
        );
    }

    #[test]
    fn with_a_rate_what_comes_while_nobody_listens_is_lost() {
        let (feed, now) = (Feed::new(Some(10.0), false, None), Instant::now());
        assert_eq!(feed.join(1, now), 1);
        assert_eq!(feed.allowance(1, now), Allowance::At(now + SECOND / 10));
        assert_eq!(feed.allowance(1, now + SECOND), Allowance::UpTo(10));
        feed.handed(1, 1..=5);
        feed.leave(1, now + SECOND);
        assert_eq!(feed.join(2, now + 2 * SECOND), 21);
        assert_eq!(feed.produced(now + 3 * SECOND), 30);
    }

    #[test]
    fn with_a_rate_and_hold_the_clock_stands_while_nobody_listens() {
        let (feed, now) = (Feed::new(Some(10.0), true, None), Instant::now());
        feed.join(1, now);
        feed.handed(1, 1..=5);
        feed.leave(1, now + SECOND);
        assert_eq!(feed.join(2, now + 9 * SECOND), 6);
        assert_eq!(feed.allowance(6, now + 10 * SECOND), Allowance::UpTo(15));
    }

    #[test]
    fn a_lagging_connection_still_hands_over_what_a_newer_one_never_got() {
        let (feed, now) = (Feed::new(Some(10.0), false, None), Instant::now());
        feed.join(1, now);
        assert_eq!(feed.join(2, now + SECOND), 11);
        assert_eq!(feed.handed(2, 11..=15), [11..=15]);
        assert_eq!(feed.handed(1, 1..=12), [1..=10]);
    }

    #[test]
    fn a_new_rate_goes_on_where_the_old_one_was() {
        let (feed, now) = (Feed::new(Some(10.0), false, None), Instant::now());
        feed.join(1, now);
        feed.set_rate(Some(1_000.0), now + SECOND);
        assert_eq!(feed.produced(now + 2 * SECOND), 1_010);
        feed.set_rate(Some(0.0), now + 2 * SECOND);
        assert_eq!(feed.allowance(1_011, now + 9 * SECOND), Allowance::Wait);
    }

    #[tokio::test(start_paused = true)]
    async fn done_waits_for_the_last_entry_of_a_rate_even_when_all_are_gone() {
        let (feed, now) = (Feed::new(Some(10.0), false, Some(20)), Instant::now());
        feed.join(1, now);
        feed.leave(1, now);
        feed.done().await;
        assert!(now.elapsed() >= 2 * SECOND, "{:?}", now.elapsed());
    }
}
