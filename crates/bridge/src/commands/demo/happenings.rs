//! Faults, made now and then, and what the bridge did about each.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use neurobridge_core::delivery::SinkState;
use neurobridge_listener::{
    ConnectionCounts, ConnectionOutcome, DisconnectCounts, DisconnectReason, Label, SourceSnapshot,
};
use neurobridge_simulator::Handle;
use tokio::sync::watch;

use crate::{
    state::{SinkView, View},
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

/// Of the feed, what tells that something has happened.
#[derive(Default)]
struct Seen {
    outcomes: ConnectionCounts,
    disconnections: DisconnectCounts,
    gap_time: Duration,
}

/// A disk that has stopped, or that is being caught up with.
struct Slowness {
    until: Instant,
    /// The most events that waited.
    most: u64,
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
            self.watch_feed(&source.snapshot);
        }
        let mut is_ending = false;
        if let Some(sink) = view.sinks.first() {
            is_ending = sink.snapshot.state == SinkState::Draining;
            self.watch_disk(sink, is_ending);
        }
        if Instant::now() >= self.next_fault && !is_ending {
            self.next_fault = Instant::now() + EVERY;
            self.fault();
        }
    }

    /// Told from counters, not from the state: a connection may be lost and found between two looks.
    fn watch_feed(&mut self, now: &SourceSnapshot) {
        let seen = Seen {
            outcomes: now.outcomes,
            disconnections: now.disconnections,
            gap_time: now.gap_time,
        };
        let before = std::mem::replace(&mut self.seen, seen);
        for (reason, count) in now.disconnections.iter() {
            // A refusal is told by the outcome of the attempt.
            let is_told = matches!(reason, DisconnectReason::Stopped | DisconnectReason::TokenRefused);
            if count > before.disconnections.get(reason) && !is_told {
                let reason = words(reason.as_str());
                self.note(
                    Who::Bridge,
                    format!("lost the connection ({reason}), dials again"),
                );
            }
        }
        for (outcome, count) in now.outcomes.iter() {
            if count == before.outcomes.get(outcome) {
                continue;
            }
            let what = if outcome != ConnectionOutcome::Authorised {
                let reason = words(outcome.as_str());
                format!("not let in ({reason}), tries again, ever more slowly")
            } else if count == 1 {
                "connected and authorised: events flow into the file".to_owned()
            } else {
                let gap = now.gap_time.saturating_sub(before.gap_time).as_secs_f64();
                format!("authorised again; {gap:.1} s missed, counted as a gap")
            };
            self.note(Who::Bridge, what);
        }
    }

    fn watch_disk(&mut self, sink: &SinkView<'_>, is_ending: bool) {
        let Some(slowness) = &mut self.slowness else {
            return;
        };
        let waiting = sink.ledger.pending;
        slowness.most = slowness.most.max(waiting);
        let is_over = Instant::now() >= slowness.until || is_ending;
        if is_over && self.slow.send_replace(false) {
            let most = slowness.most;
            self.note(
                Who::Bridge,
                format!("kept {most} events in its spool meanwhile; the feed went on"),
            );
        } else if is_over && waiting < slowness.most / 2 {
            let most = slowness.most;
            self.slowness = None;
            self.note(
                Who::Bridge,
                format!("has caught up: all {most} are in the file, none lost, in order"),
            );
        }
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
