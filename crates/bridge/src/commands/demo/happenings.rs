//! Faults, made now and then, and what the bridge did about each.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use neurobridge_core::delivery::SinkState;
use neurobridge_listener::{ConnectionOutcome, DisconnectReason, Label, SourceSnapshot};
use neurobridge_simulator::Handle;
use tokio::sync::watch;

use crate::{
    state::{SinkLedger, View},
    terminal::Style,
};

/// The first fault comes when a person has seen what it looks like without, the next ones now and then.
const FIRST_AFTER: Duration = Duration::from_secs(6);
const EVERY: Duration = Duration::from_secs(14);
/// How long the disk stops at a time: long enough for a person to see it, far below what a drain may take.
const SLOW_FOR: Duration = Duration::from_secs(4);
/// How many happenings are kept for the screen.
const KEPT: usize = 40;

/// Something that happened.
#[derive(Clone, Debug)]
pub(super) struct Happening {
    pub(super) at: Timestamp,
    pub(super) who: Who,
    pub(super) what: String,
}

/// Who did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Platform,
    Disk,
    Bridge,
}

impl Who {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Platform => "platform",
            Self::Disk => "disk",
            Self::Bridge => "bridge",
        }
    }

    pub(super) const fn style(self) -> Style {
        match self {
            Self::Platform | Self::Disk => Style::Yellow,
            Self::Bridge => Style::Green,
        }
    }
}

/// Makes faults, and writes down what comes of them.
pub(super) struct Happenings {
    platform: Handle,
    slow: watch::Sender<bool>,
    next_fault: Instant,
    faults: u64,
    slowness: Option<Slowness>,
    /// What was seen of the feed at the last look; nothing, before the first one.
    seen: Seen,
    list: VecDeque<Happening>,
    /// Happenings ever: how many are new to a reader of the list.
    total: usize,
}

/// Of the feed, what tells that something has happened: counters, not the state, since a connection may be lost and found
/// between two looks.
#[derive(Default)]
struct Seen {
    outcomes: Vec<(ConnectionOutcome, u64)>,
    disconnections: Vec<(DisconnectReason, u64)>,
    /// The time within gaps that are over: one that is open grows from look to look, and counts when it ends.
    missed: Duration,
    is_connected: bool,
}

/// A disk that has stopped, or that is being caught up with.
struct Slowness {
    until: Instant,
    /// The most events that waited.
    most: u64,
    /// How many had been stored ever, the last of those included.
    stored: u64,
}

impl Seen {
    fn of(now: &SourceSnapshot) -> Self {
        Self {
            outcomes: now.outcomes.iter().collect(),
            disconnections: now.disconnections.iter().collect(),
            missed: now.gap_time.saturating_sub(now.open_gap.unwrap_or_default()),
            is_connected: now.outcomes.get(ConnectionOutcome::Authorised) > 0 && now.open_gap.is_none(),
        }
    }

    /// What happened since an earlier look, in the order in which it can have: who is connected loses the connection
    /// first, who is not is let in first.
    fn since(&self, before: &Self) -> Vec<String> {
        let lost = grown(&before.disconnections, &self.disconnections)
            // A refusal is told by the outcome of the attempt.
            .filter(|(reason, _)| {
                !matches!(reason, DisconnectReason::Stopped | DisconnectReason::TokenRefused)
            })
            .map(|(reason, _)| format!("lost the connection ({}), dials again", words(reason.as_str())));
        let (authorised, failed): (Vec<_>, Vec<_>) = grown(&before.outcomes, &self.outcomes)
            .partition(|(outcome, _)| *outcome == ConnectionOutcome::Authorised);
        let failed = failed.into_iter().map(|(outcome, _)| {
            let reason = words(outcome.as_str());
            format!("not let in ({reason}), tries again, ever more slowly")
        });
        let authorised = authorised.into_iter().map(|(_, count)| {
            if count == 1 {
                return "connected and authorised: events flow into the file".to_owned();
            }
            let missed = self.missed.saturating_sub(before.missed).as_secs_f64();
            format!("authorised again; {missed:.1} s missed, counted as a gap")
        });
        let let_in = failed.chain(authorised);
        if before.is_connected {
            lost.chain(let_in).collect()
        } else {
            let_in.chain(lost).collect()
        }
    }
}

impl Slowness {
    fn watch(&mut self, ledger: &SinkLedger) {
        if ledger.pending >= self.most {
            (self.most, self.stored) = (ledger.pending, ledger.stored);
        }
    }
}

impl Happenings {
    pub(super) fn new(platform: Handle, slow: watch::Sender<bool>) -> Self {
        Self {
            platform,
            slow,
            next_fault: Instant::now() + FIRST_AFTER,
            faults: 0,
            slowness: None,
            seen: Seen::default(),
            list: VecDeque::new(),
            total: 0,
        }
    }

    /// The last ones, the newest last; `most` at most.
    pub(super) fn last(&self, most: usize) -> impl Iterator<Item = &Happening> {
        self.list.iter().skip(self.list.len().saturating_sub(most))
    }

    /// Those after the first `told` ever, as far as they are kept, and how many there were ever.
    pub(super) fn after(&self, told: usize) -> (impl Iterator<Item = &Happening>, usize) {
        (self.last(self.total - told), self.total)
    }

    /// Looks at the bridge, and makes the next fault when its time has come.
    pub(super) fn watch(&mut self, view: &View<'_>) {
        if let Some(source) = view.sources.first() {
            self.watch_feed(Seen::of(&source.snapshot));
        }
        let mut is_ending = false;
        if let Some(sink) = view.sinks.first() {
            is_ending = sink.snapshot.state == SinkState::Draining;
            self.watch_disk(&sink.ledger, is_ending);
        }
        if Instant::now() >= self.next_fault && !is_ending {
            self.next_fault = Instant::now() + EVERY;
            self.fault();
        }
    }

    fn watch_feed(&mut self, now: Seen) {
        for what in now.since(&self.seen) {
            self.note(Who::Bridge, what);
        }
        self.seen = now;
    }

    fn watch_disk(&mut self, ledger: &SinkLedger, is_ending: bool) {
        let Some(slowness) = &mut self.slowness else {
            return;
        };
        let what = if *self.slow.borrow() {
            slowness.watch(ledger);
            if Instant::now() < slowness.until && !is_ending {
                return;
            }
            self.slow.send_replace(false);
            if slowness.most == 0 {
                // Nothing came meanwhile: there is nothing to tell.
                self.slowness = None;
                return;
            }
            let kept = events(slowness.most);
            format!("kept {kept} in its spool meanwhile; the feed went on")
        } else if ledger.counts.settled() >= slowness.stored {
            let kept = events(slowness.most);
            self.slowness = None;
            format!("has caught up: {kept} written, none lost, in order")
        } else {
            return;
        };
        self.note(Who::Bridge, what);
    }

    fn fault(&mut self) {
        self.faults += 1;
        match self.faults % 3 {
            1 => {
                self.note(Who::Platform, "cuts the connection".to_owned());
                self.platform.cut_all();
            }
            2 => {
                let seconds = SLOW_FOR.as_secs();
                self.note(
                    Who::Disk,
                    format!("stops for {seconds} s: nothing is written to the file"),
                );
                self.slow.send_replace(true);
                self.slowness = Some(Slowness {
                    until: Instant::now() + SLOW_FOR,
                    most: 0,
                    stored: 0,
                });
            }
            _ => {
                if let Ok(rule) = "refuse-token,times=1".parse() {
                    self.platform.add_fault(rule);
                }
                self.note(
                    Who::Platform,
                    "cuts the connection, and refuses the token once".to_owned(),
                );
                self.platform.cut_all();
            }
        }
    }

    fn note(&mut self, who: Who, what: String) {
        if self.list.len() == KEPT {
            self.list.pop_front();
        }
        self.list.push_back(Happening {
            at: Timestamp::now(),
            who,
            what,
        });
        self.total += 1;
    }
}

fn words(label: &str) -> String {
    label.replace('_', " ")
}

/// Those that are more than before, with how many they are now.
fn grown<L: Copy + PartialEq>(before: &[(L, u64)], now: &[(L, u64)]) -> impl Iterator<Item = (L, u64)> {
    now.iter()
        .copied()
        .filter(|(label, count)| *count > 0 && !before.contains(&(*label, *count)))
}

fn events(count: u64) -> String {
    format!("{count} event{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use neurobridge_core::ledger::SinkCounts;
    use neurobridge_simulator::{Options, Simulator};

    use super::*;

    async fn happenings() -> Happenings {
        let platform = Simulator::bind(Options::default()).await.unwrap();
        Happenings::new(platform.handle(), watch::channel(false).0)
    }

    fn told(happenings: &Happenings) -> Vec<&str> {
        happenings
            .last(KEPT)
            .map(|happening| happening.what.as_str())
            .collect()
    }

    fn seen(authorised: u64, refused: u64, lost: u64, missed: u64, is_connected: bool) -> Seen {
        Seen {
            outcomes: vec![
                (ConnectionOutcome::Authorised, authorised),
                (ConnectionOutcome::TokenRefused, refused),
            ],
            disconnections: vec![
                (DisconnectReason::Broken, lost),
                (DisconnectReason::TokenRefused, refused),
            ],
            missed: Duration::from_secs(missed),
            is_connected,
        }
    }

    #[tokio::test]
    async fn a_gap_is_told_in_whole_when_it_ends() {
        let mut happenings = happenings().await;
        happenings.watch_feed(seen(1, 0, 0, 0, true));
        happenings.watch_feed(seen(1, 0, 1, 0, false));
        happenings.watch_feed(seen(1, 1, 1, 0, false));
        happenings.watch_feed(seen(2, 1, 1, 23, true));
        happenings.watch_feed(seen(2, 1, 1, 23, true));
        assert_eq!(
            told(&happenings),
            [
                "connected and authorised: events flow into the file",
                "lost the connection (broken), dials again",
                "not let in (token refused), tries again, ever more slowly",
                "authorised again; 23.0 s missed, counted as a gap",
            ]
        );
    }

    #[test]
    fn what_is_seen_in_one_look_is_told_in_its_order() {
        let since_connected = seen(2, 1, 1, 1, true).since(&seen(1, 0, 0, 0, true));
        let starts = since_connected.iter().map(|what| &what[..8]).collect::<Vec<_>>();
        assert_eq!(starts, ["lost the", "not let ", "authoris"]);
        let since_lost = seen(2, 1, 2, 1, false).since(&seen(1, 0, 1, 0, false));
        let starts = since_lost.iter().map(|what| &what[..8]).collect::<Vec<_>>();
        assert_eq!(starts, ["not let ", "authoris", "lost the"]);
    }

    fn ledger(stored: u64, delivered: u64) -> SinkLedger {
        SinkLedger {
            stored,
            counts: SinkCounts {
                delivered,
                ..SinkCounts::default()
            },
            pending: stored - delivered,
        }
    }

    fn stop(happenings: &mut Happenings) {
        happenings.slow.send_replace(true);
        happenings.slowness = Some(Slowness {
            until: Instant::now(),
            most: 0,
            stored: 0,
        });
    }

    #[tokio::test]
    async fn what_was_kept_while_the_disk_stopped_is_told_until_all_of_it_is_written() {
        let mut happenings = happenings().await;
        stop(&mut happenings);
        happenings.watch_disk(&ledger(300, 100), false);
        happenings.watch_disk(&ledger(310, 299), false);
        assert_eq!(told(&happenings).len(), 1);
        happenings.watch_disk(&ledger(320, 300), false);
        assert_eq!(
            told(&happenings),
            [
                "kept 200 events in its spool meanwhile; the feed went on",
                "has caught up: 200 events written, none lost, in order",
            ]
        );
    }

    #[tokio::test]
    async fn a_disk_that_stopped_while_nothing_came_is_not_told_of() {
        let mut happenings = happenings().await;
        stop(&mut happenings);
        happenings.watch_disk(&ledger(100, 100), false);
        assert!(told(&happenings).is_empty() && happenings.slowness.is_none());
        assert!(!*happenings.slow.borrow());
    }
}
