//! Faults of the simulated platform, and what the bridge did about them.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use neurobridge_listener::{ConnectionOutcome, DisconnectReason, Label, SourceSnapshot};
use neurobridge_simulator::Handle;

use crate::state::View;

/// The first fault comes when a person has seen what it looks like without, the next ones now and then.
const FIRST_AFTER: Duration = Duration::from_secs(8);
const EVERY: Duration = Duration::from_secs(20);
/// How many happenings are kept for the screen.
const KEPT: usize = 6;

fn words(label: &str) -> String {
    label.replace('_', " ")
}

/// Makes faults, and writes down what comes of them.
pub(super) struct Happenings {
    platform: Handle,
    next_fault: Instant,
    faults: u64,
    /// What was seen at the last look.
    seen: Option<SourceSnapshot>,
    list: VecDeque<(Timestamp, String)>,
    /// Happenings ever: how many are new to a reader of the list.
    pub(super) total: u64,
}

impl Happenings {
    pub(super) fn new(platform: Handle) -> Self {
        Self {
            platform,
            next_fault: Instant::now() + FIRST_AFTER,
            faults: 0,
            seen: None,
            list: VecDeque::new(),
            total: 0,
        }
    }

    pub(super) const fn list(&self) -> &VecDeque<(Timestamp, String)> {
        &self.list
    }

    /// Looks at the bridge, and makes the next fault when its time has come.
    pub(super) fn watch(&mut self, view: &View<'_>) {
        let Some(source) = view.sources.first() else {
            return;
        };
        let now = source.snapshot.clone();
        // Told from counters, not from the state: a connection may be lost and found between two looks.
        if let Some(before) = self.seen.replace(now.clone()) {
            for (reason, count) in now.disconnections.iter() {
                if count > before.disconnections.get(reason) && reason != DisconnectReason::Stopped {
                    self.note(format!(
                        "bridge: lost the connection ({}), dials again",
                        words(reason.as_str())
                    ));
                }
            }
            for (outcome, count) in now.outcomes.iter() {
                if count == before.outcomes.get(outcome) {
                    continue;
                }
                self.note(if outcome != ConnectionOutcome::Authorised {
                    format!(
                        "bridge: not connected ({}), tries again with a growing delay",
                        words(outcome.as_str())
                    )
                } else if count == 1 {
                    "bridge: connected and authorised; events flow into the file".to_owned()
                } else {
                    let gap = now.gap_time.saturating_sub(before.gap_time);
                    format!(
                        "bridge: authorised again; what was sent in the {:.1} s between is missed",
                        gap.as_secs_f64()
                    )
                });
            }
        }
        if Instant::now() >= self.next_fault {
            self.next_fault = Instant::now() + EVERY;
            self.fault();
        }
    }

    fn fault(&mut self) {
        self.faults += 1;
        if self.faults % 2 == 1 {
            self.note("platform: cuts the connection".to_owned());
        } else if let Ok(rule) = "refuse-token,times=1".parse() {
            self.platform.add_fault(rule);
            self.note("platform: cuts the connection, and refuses the token once".to_owned());
        }
        self.platform.cut_all();
    }

    fn note(&mut self, happening: String) {
        if self.list.len() == KEPT {
            self.list.pop_front();
        }
        self.list.push_back((Timestamp::now(), happening));
        self.total += 1;
    }
}
