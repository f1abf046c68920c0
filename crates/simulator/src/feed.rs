//! The state of the sequence of entries that all connections share: the entries that may be sent, the position of each
//! connection, and the entries already sent.
//!
//! Entries are identified by their position in the sequence, from 1, which differs from the id where ids have holes. An
//! entry can be generated from its position, so no entry is buffered: a slow connection merely has a lower position.

mod sent;

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

pub(crate) use self::sent::SentIds;
use crate::declared::Start;

/// The largest number of entries by which a connection may be ahead of the slowest one when there is no rate. The
/// platform sends an entry to all connections at about the same time, and a receiver with two connections may rely on
/// that.
const MAX_LEAD: u64 = 1_024;

/// The state of the sequence, shared by all connections.
#[derive(Debug)]
pub(crate) struct Feed {
    state: Mutex<State>,
    changes: watch::Sender<()>,
}

/// The entries that a connection may send next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Allowance {
    /// Entries up to and including this position.
    UpTo(u64),
    /// No entry before this time, unless the feed changes.
    At(Instant),
    /// No entry until the feed changes.
    Wait,
}

#[derive(Debug)]
struct State {
    pace: Pace,
    hold: bool,
    /// Whether a connection may receive events that were created before the connection.
    replays: bool,
    count: u64,
    readers: BTreeMap<u64, Reader>,
    sent: SentIds,
}

#[derive(Debug)]
enum Pace {
    /// As fast as clients read.
    Free,
    Fixed {
        per_second: f64,
        /// The last position that was released before `since`.
        before: u64,
        /// The time at which the clock started; `None` while it is paused.
        since: Option<Instant>,
    },
}

#[derive(Debug)]
struct Reader {
    /// The positions that the connection has sent. The positions before its first one count as sent.
    sent: SentIds,
    /// Whether other connections wait for this one when there is no rate.
    sets_pace: bool,
}

impl Reader {
    /// Returns the first position that was not sent.
    fn next(&self) -> u64 {
        self.sent.first_missing()
    }
}

impl Feed {
    pub(crate) fn new(rate: Option<f64>, hold: bool, count: Option<u64>, replays: bool) -> Self {
        let pace = rate.map_or(Pace::Free, |per_second| Pace::Fixed {
            per_second,
            before: 0,
            since: None,
        });
        let state = State {
            pace,
            hold,
            replays,
            count: count.unwrap_or(u64::MAX),
            readers: BTreeMap::new(),
            sent: SentIds::default(),
        };
        Self {
            state: Mutex::new(state),
            changes: watch::Sender::new(()),
        }
    }

    /// Subscribes to changes that may allow further entries or finish the sequence.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Adds an authenticated connection and returns the first position for this connection.
    pub(crate) fn join(&self, connection: u64, start: Start, now: Instant) -> u64 {
        let next = self.with(|state| state.join(connection, start, now));
        self.changes.send_replace(());
        next
    }

    /// Removes a connection that is closed or sends no further entries.
    pub(crate) fn leave(&self, connection: u64, now: Instant) {
        self.with(|state| state.leave(connection, now));
        self.changes.send_replace(());
    }

    /// Excludes a deliberately slow connection from the pace, so that others do not wait for it.
    pub(crate) fn exclude_from_pace(&self, connection: u64) {
        self.with(|state| {
            if let Some(reader) = state.readers.get_mut(&connection) {
                reader.sets_pace = false;
            }
        });
        self.changes.send_replace(());
    }

    /// Returns the entries that a connection whose next position is `next` may send.
    pub(crate) fn allowance(&self, next: u64, now: Instant) -> Allowance {
        self.with(|state| state.allowance(next, now))
    }

    /// Marks positions as sent by a connection and returns the positions that no connection had sent before.
    pub(crate) fn mark_sent(
        &self,
        connection: u64,
        positions: RangeInclusive<u64>,
    ) -> Vec<RangeInclusive<u64>> {
        let (fresh, wake) = self.with(|state| state.mark_sent(connection, positions));
        if wake {
            self.changes.send_replace(());
        }
        fresh
    }

    /// Wakes every connection, because the fault rules have changed.
    pub(crate) fn wake_all(&self) {
        self.changes.send_replace(());
    }

    /// Returns the last position of the sequence.
    pub(crate) fn last_id(&self) -> u64 {
        self.with(|state| state.count)
    }

    /// Returns the position of the newest entry that was created.
    pub(crate) fn produced(&self, now: Instant) -> u64 {
        self.with(|state| state.produced(now))
    }

    /// Returns the time at which an entry was released; `now` without a rate, or if the rate has changed since then.
    pub(crate) fn released_at(&self, position: u64, now: Instant) -> Instant {
        self.with(|state| match state.pace {
            Pace::Fixed { before, .. } if position > before => {
                state.due(position).map_or(now, |due| due.min(now))
            }
            _ => now,
        })
    }

    /// Changes the rate, effective immediately.
    pub(crate) fn set_rate(&self, rate: Option<f64>, now: Instant) {
        self.with(|state| state.set_rate(rate, now));
        self.changes.send_replace(());
    }

    /// Waits until all `count` entries were sent, or released while no client was connected, and the last entry was sent
    /// to every connection that sets the pace. Never returns if there is no count.
    pub(crate) async fn done(&self) {
        let mut changes = self.changes();
        loop {
            changes.mark_unchanged();
            let again = match self.with(|state| state.done(Instant::now())) {
                Done::Yes => return,
                Done::At(time) => time,
                Done::Wait => Instant::now() + Duration::from_secs(3_600),
            };
            // A timeout and a change both lead to another check. The channel cannot close, because `self` owns its
            // sender.
            let _ = tokio::time::timeout_at(again, changes.changed()).await;
        }
    }

    fn with<T>(&self, use_state: impl FnOnce(&mut State) -> T) -> T {
        // No code under this lock can panic in the middle of a change, so a poisoned lock still protects a consistent
        // state.
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
    /// Returns whether the sequence pauses while no connection is open. Without a rate the sequence always pauses, because
    /// entries are created only for connections.
    fn holds(&self) -> bool {
        self.hold || matches!(self.pace, Pace::Free)
    }

    fn join(&mut self, connection: u64, start: Start, now: Instant) -> u64 {
        if let Pace::Fixed {
            since: since @ None, ..
        } = &mut self.pace
        {
            *since = Some(now);
        }
        let next = if let Start::At(position) = start {
            position
        } else if self.holds() {
            self.sent.first_missing()
        } else {
            let produced = self.produced(now);
            if self.readers.is_empty() && !self.replays {
                self.sent.discard_below(produced);
            }
            produced + 1
        };
        let mut sent = SentIds::default();
        sent.discard_below(next - 1);
        self.readers.insert(
            connection,
            Reader {
                sent,
                sets_pace: true,
            },
        );
        next
    }

    fn leave(&mut self, connection: u64, now: Instant) {
        if self.readers.remove(&connection).is_none() {
            return;
        }
        let sent = self.sent.first_missing() - 1;
        match &mut self.pace {
            Pace::Fixed { before, since, .. } if self.hold && self.readers.is_empty() => {
                *before = sent;
                *since = None;
            }
            _ => self.discard_below(now),
        }
    }

    /// Discards details about positions that no connection can send any more.
    fn discard_below(&mut self, now: Instant) {
        if self.holds() || self.replays {
            return;
        }
        let floor = match self.readers.values().map(Reader::next).min() {
            Some(next) => next - 1,
            None => self.produced(now),
        };
        self.sent.discard_below(floor);
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
                    .map(Reader::next)
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

    /// Returns the positions that no connection had sent before, and whether other tasks may have to continue.
    fn mark_sent(
        &mut self,
        connection: u64,
        positions: RangeInclusive<u64>,
    ) -> (Vec<RangeInclusive<u64>>, bool) {
        let fresh = self.sent.insert(positions.clone());
        if let Some(reader) = self.readers.get_mut(&connection) {
            reader.sent.insert(positions.clone());
        }
        if !self.holds() && !self.replays {
            let floor = self.readers.values().map(|reader| reader.next() - 1).min();
            self.sent.discard_below(floor.unwrap_or(0));
        }
        (fresh, self.readers.len() > 1 || *positions.end() >= self.count)
    }

    fn produced(&self, now: Instant) -> u64 {
        let produced = match self.pace {
            Pace::Free => self.sent.last(),
            Pace::Fixed {
                before, since: None, ..
            } => before,
            Pace::Fixed {
                per_second,
                before,
                since: Some(since),
            } => {
                // The small addend prevents rounding down at the exact instant at which an entry is released.
                let after = now.saturating_duration_since(since).as_secs_f64() * per_second + 1e-6;
                before.saturating_add(after as u64)
            }
        };
        produced.min(self.count)
    }

    /// Returns the time at which an entry is released; `None` if the current rate never releases it.
    fn due(&self, position: u64) -> Option<Instant> {
        match self.pace {
            Pace::Fixed {
                per_second,
                before,
                since: Some(since),
            } if per_second > 0.0 => {
                let seconds = position.saturating_sub(before) as f64 / per_second;
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
            // Without a rate, entries are created for connections from the first missing position on. So positions that no
            // connection can send any more are discarded first.
            self.discard_below(now);
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
            .any(|reader| reader.sets_pace && reader.next() <= self.count)
        {
            return Done::Wait;
        }
        let over = if self.holds() || self.replays {
            self.sent.first_missing() > self.count
        } else {
            self.produced(now) >= self.count
        };
        match over {
            true => Done::Yes,
            false => self
                .due(self.count)
                .filter(|_| !self.holds() && !self.replays)
                .map_or(Done::Wait, Done::At),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn feed_without_rate_loses_nothing_between_connections() {
        let (feed, now) = (Feed::new(None, false, Some(100), false), Instant::now());
        assert_eq!(feed.join(1, Start::Now, now), 1);
        assert_eq!(feed.allowance(1, now), Allowance::UpTo(100));
        assert_eq!(feed.mark_sent(1, 1..=40), [1..=40]);
        feed.leave(1, now);
        assert_eq!(feed.join(2, Start::Now, now + SECOND), 41);
        assert_eq!(feed.mark_sent(2, 41..=100), [41..=100]);
        assert_eq!(feed.allowance(101, now), Allowance::Wait);
    }

    #[test]
    fn feed_without_rate_waits_for_the_slowest_connection() {
        let (feed, now) = (Feed::new(None, false, None, false), Instant::now());
        feed.join(1, Start::Now, now);
        feed.join(2, Start::Now, now);
        feed.mark_sent(1, 1..=MAX_LEAD + 1);
        assert_eq!(feed.allowance(MAX_LEAD + 2, now), Allowance::Wait);
        assert_eq!(feed.mark_sent(2, 1..=10), []);
        assert_eq!(feed.allowance(MAX_LEAD + 2, now), Allowance::UpTo(MAX_LEAD + 11));
        feed.exclude_from_pace(2);
        assert_eq!(
            feed.allowance(MAX_LEAD + 2, now),
            Allowance::UpTo(2 * MAX_LEAD + 2)
        );
    }

    #[test]
    fn rate_without_clients_loses_entries() {
        let (feed, now) = (Feed::new(Some(10.0), false, None, false), Instant::now());
        assert_eq!(feed.join(1, Start::Now, now), 1);
        assert_eq!(feed.allowance(1, now), Allowance::At(now + SECOND / 10));
        assert_eq!(feed.allowance(1, now + SECOND), Allowance::UpTo(10));
        feed.mark_sent(1, 1..=5);
        feed.leave(1, now + SECOND);
        assert_eq!(feed.join(2, Start::Now, now + 2 * SECOND), 21);
        assert_eq!(feed.produced(now + 3 * SECOND), 30);
    }

    #[test]
    fn hold_pauses_the_rate_without_clients() {
        let (feed, now) = (Feed::new(Some(10.0), true, None, false), Instant::now());
        feed.join(1, Start::Now, now);
        feed.mark_sent(1, 1..=5);
        feed.leave(1, now + SECOND);
        assert_eq!(feed.join(2, Start::Now, now + 9 * SECOND), 6);
        assert_eq!(feed.allowance(6, now + 10 * SECOND), Allowance::UpTo(15));
    }

    #[test]
    fn slow_connection_sends_entries_a_newer_one_skipped() {
        let (feed, now) = (Feed::new(Some(10.0), false, None, false), Instant::now());
        feed.join(1, Start::Now, now);
        assert_eq!(feed.join(2, Start::Now, now + SECOND), 11);
        assert_eq!(feed.mark_sent(2, 11..=15), [11..=15]);
        assert_eq!(feed.mark_sent(1, 1..=12), [1..=10]);
    }

    #[test]
    fn entry_sent_after_a_later_one_counts_as_newly_sent() {
        let (feed, now) = (Feed::new(Some(10.0), false, None, false), Instant::now());
        feed.join(1, Start::Now, now);
        assert_eq!(feed.mark_sent(1, 2..=2), [2..=2]);
        assert_eq!(feed.mark_sent(1, 1..=1), [1..=1]);
        assert_eq!(feed.mark_sent(1, 1..=2), []);
    }

    #[test]
    fn new_rate_continues_at_the_current_position() {
        let (feed, now) = (Feed::new(Some(10.0), false, None, false), Instant::now());
        feed.join(1, Start::Now, now);
        feed.set_rate(Some(1_000.0), now + SECOND);
        assert_eq!(feed.produced(now + 2 * SECOND), 1_010);
        feed.set_rate(Some(0.0), now + 2 * SECOND);
        assert_eq!(feed.allowance(1_011, now + 9 * SECOND), Allowance::Wait);
    }

    #[tokio::test(start_paused = true)]
    async fn done_waits_for_last_entry_without_connections() {
        let (feed, now) = (Feed::new(Some(10.0), false, Some(20), false), Instant::now());
        feed.join(1, Start::Now, now);
        feed.leave(1, now);
        feed.done().await;
        assert!(now.elapsed() >= 2 * SECOND, "{:?}", now.elapsed());
    }
}
