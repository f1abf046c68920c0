//! The gaps of a source and its last proof of life, as plain data.

use std::{borrow::Cow, collections::BTreeMap};

use jiff::Timestamp;
use neurobridge_listener::{DisconnectReason, Label};
use serde::{Deserialize, Serialize};

/// The outcome of a gap.
pub(crate) const OPEN: &str = "open";
pub(crate) const UNRECOVERED: &str = "unrecovered";
pub(crate) const RECOVERED: &str = "recovered";
/// The source is connected again, and the missed events are being fetched.
pub(crate) const FILLING: &str = "filling";
/// Some of the missed events were fetched.
pub(crate) const PARTLY: &str = "partly";
/// This member of a cluster follows: the leader records the outcome of its own gap at that time.
pub(crate) const LEFT_TO_LEADER: &str = "left_to_leader";
/// The final outcomes of gaps.
pub(crate) const OUTCOMES: [&str; 4] = [UNRECOVERED, PARTLY, RECOVERED, LEFT_TO_LEADER];
/// The reasons of gaps between two runs of the bridge.
pub(crate) const RESTART: &str = "restart";
pub(crate) const CRASH: &str = "crash";
/// The reason of the gap between the former leader's connection and that of this member, which did not connect while it followed.
pub(crate) const TAKEOVER: &str = "takeover";

/// A time in which a source was not connected. Events that the platform sent in it are missed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Gap {
    pub(crate) id: u64,
    pub(crate) source: String,
    /// The last proof of life before the gap.
    pub(crate) began: Timestamp,
    /// `None` while the gap is open.
    pub(crate) ended: Option<Timestamp>,
    /// The cause: `token_refused` if a token was refused during the gap, otherwise the first cause.
    pub(crate) reason: Cow<'static, str>,
    pub(crate) outcome: Cow<'static, str>,
    /// The time without a connection: less than from `began` to `ended` if several gaps were merged.
    pub(crate) seconds: f64,
    /// The number of gaps that were merged.
    #[serde(default = "one")]
    pub(crate) gaps: u64,
    /// The number of missed events that were fetched and stored.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) fetched: u64,
    /// The id of the last event that was stored before the gap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_event: Option<String>,
    /// The id of an early event of the feed after the gap, up to which the missed events are fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) next_event: Option<String>,
}

const fn one() -> u64 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Gap {
    pub(crate) const fn is_open(&self) -> bool {
        self.ended.is_none()
    }

    /// Returns the time without a connection in seconds; of an open gap, the time until `now`.
    pub(crate) fn seconds_at(&self, now: Timestamp) -> f64 {
        if self.is_open() {
            seconds_between(self.began, now)
        } else {
            self.seconds
        }
    }
}

/// The last proof of life of a source: all that the platform sent before it was received and stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProofOfLife {
    pub(crate) at: Timestamp,
    /// The id of the last event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) event: Option<String>,
    /// The resume value of another member that received the events before this time; `None` if this one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) resume: Option<String>,
}

impl ProofOfLife {
    /// Creates the proof of life of a source of this bridge.
    pub(crate) const fn new(at: Timestamp, event: Option<String>) -> Self {
        Self {
            at,
            event,
            resume: None,
        }
    }
}

/// A number of gaps, and their duration.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct GapSum {
    pub(crate) gaps: u64,
    pub(crate) seconds: f64,
}

impl GapSum {
    /// Adds a gap.
    pub(crate) const fn add(&mut self, gap: &Gap) {
        self.gaps += gap.gaps;
        self.seconds += gap.seconds;
    }
}

/// The gaps of a source.
#[derive(Debug, Default)]
pub(crate) struct SourceGaps {
    /// The newest gaps, the newest first, with the open one.
    pub(crate) newest: Vec<Gap>,
    /// The time since which the source was connected outside of these gaps, as far as is known.
    pub(crate) known_since: Option<Timestamp>,
    /// The length of the open gap in seconds.
    pub(crate) open_seconds: Option<f64>,
    /// The number of gaps whose events are being fetched.
    pub(crate) filling: u64,
    /// The last proof of life; `None` before the first one.
    pub(crate) alive: Option<ProofOfLife>,
    /// The number and the duration in seconds of the gaps that have ended since the start.
    pub(crate) ended: GapSum,
    /// The ended gaps whose events are missed, without the gaps whose events are still being fetched.
    pub(crate) lost: GapSum,
    /// The number of gaps with a final outcome, by reason and outcome, with those of earlier runs.
    pub(crate) totals: BTreeMap<(Cow<'static, str>, Cow<'static, str>), u64>,
    /// The duration of all gaps, with those of earlier runs and the open one.
    pub(crate) total_seconds: f64,
}

/// Returns the reasons of gaps.
pub(crate) fn gap_reasons() -> impl Iterator<Item = &'static str> {
    DisconnectReason::ALL
        .iter()
        // A stop begins no gap, nor does a connection that was never authenticated.
        .filter(|reason| !matches!(reason, DisconnectReason::Stopped | DisconnectReason::AuthTimeout))
        .map(|reason| reason.as_str())
        .chain([RESTART, CRASH, TAKEOVER])
}

/// Returns the time between two timestamps in seconds; 0 if the clock was set back.
pub(crate) fn seconds_between(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64().max(0.0)
}
