//! An entry of the history: a change of state, described with the text of the log message.

use std::{borrow::Cow, time::Duration};

use jiff::Timestamp;
use neurobridge_core::{foreign_text, labels, labels::Label};
use serde::{Deserialize, Serialize};

use crate::gaps::seconds_between;

/// The maximum length of a text, in characters: a log message with a reason.
const MAX_TEXT_CHARS: usize = 400;

labels! {
    /// The kind of a change. Its label is used in the file, in `/status` and in the metrics.
    pub(crate) enum Kind {
        BridgeStarted = "bridge_started",
        ConfigurationLoaded = "configuration_loaded",
        BridgeStopped = "bridge_stopped",
        SourceConnected = "source_connected",
        SourceDisconnected = "source_disconnected",
        SourceRefused = "source_refused",
        /// A gap has ended.
        Gap = "gap",
        /// The events of a gap were fetched, or could not be.
        GapFilled = "gap_filled",
        SinkUp = "sink_up",
        SinkDown = "sink_down",
        SinkRecovered = "sink_recovered",
        SinkStopped = "sink_stopped",
        SpoolFull = "spool_full",
        DiskFull = "disk_full",
        SpoolRetrying = "spool_retrying",
        SpoolFailed = "spool_failed",
        SpoolRecovered = "spool_recovered",
        EventsDropped = "events_dropped",
        DeadLetters = "dead_letters",
        /// The stream or topic of a sink was removed and recreated.
        DestinationRecreated = "destination_recreated",
        /// Another program moved, truncated or removed the file of a sink.
        FileChanged = "file_changed",
    }
}

impl Kind {
    /// The changes of the bridge as a whole.
    pub(crate) const OF_BRIDGE: [Self; 3] = [
        Self::BridgeStarted,
        Self::ConfigurationLoaded,
        Self::BridgeStopped,
    ];
    /// The changes of a source.
    pub(crate) const OF_SOURCE: [Self; 6] = [
        Self::SourceConnected,
        Self::SourceDisconnected,
        Self::SourceRefused,
        Self::Gap,
        Self::GapFilled,
        Self::DeadLetters,
    ];
    /// The changes of a sink.
    pub(crate) const OF_SINK: [Self; 7] = [
        Self::SinkUp,
        Self::SinkDown,
        Self::SinkRecovered,
        Self::SinkStopped,
        Self::DeadLetters,
        Self::DestinationRecreated,
        Self::FileChanged,
    ];
    /// The changes of the spool.
    pub(crate) const OF_SPOOL: [Self; 6] = [
        Self::SpoolFull,
        Self::DiskFull,
        Self::SpoolRetrying,
        Self::SpoolFailed,
        Self::SpoolRecovered,
        Self::EventsDropped,
    ];
}

/// A change of state. Repeats within a short time are merged into one entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) id: u64,
    /// The time of the change; of the first one, if repeats were merged.
    pub(crate) at: Timestamp,
    /// The time of the last repeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last: Option<Timestamp>,
    /// The number of changes that were merged.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub(crate) count: u64,
    /// The label of a [`Kind`], or another text if a newer version wrote the entry.
    pub(crate) kind: Cow<'static, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sink: Option<String>,
    /// The reason as a label, as in the metrics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<Cow<'static, str>>,
    /// The text of the log message.
    pub(crate) text: String,
    /// The start of the gap or the outage that has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) began: Option<Timestamp>,
    /// The duration of the gap or the outage that has ended; the sum of all, if repeats were merged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seconds: Option<f64>,
    /// The number of events concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) events: Option<u64>,
    /// A hash of the configuration without its secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fingerprint: Option<String>,
}

const fn one() -> u64 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_one(count: &u64) -> bool {
    *count == 1
}

impl Entry {
    pub(crate) fn new(kind: Kind, at: Timestamp, text: &str) -> Self {
        Self {
            id: 0,
            at,
            last: None,
            count: 1,
            kind: Cow::Borrowed(kind.as_str()),
            source: None,
            sink: None,
            reason: None,
            text: foreign_text::clean_to(text, MAX_TEXT_CHARS),
            began: None,
            seconds: None,
            events: None,
            fingerprint: None,
        }
    }

    pub(crate) fn of_source(mut self, name: &str) -> Self {
        self.source = Some(name.to_owned());
        self
    }

    pub(crate) fn of_sink(mut self, name: &str) -> Self {
        self.sink = Some(name.to_owned());
        self
    }

    pub(crate) fn with_reason(mut self, reason: impl Into<Cow<'static, str>>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    /// Adds the start and the duration of the gap or outage that has ended.
    pub(crate) fn lasting_since(mut self, began: Timestamp) -> Self {
        self.began = Some(began);
        self.seconds = Some(seconds_between(began, self.at));
        self
    }

    pub(crate) fn events(mut self, events: u64) -> Self {
        self.events = Some(events);
        self
    }

    /// Returns the time of the newest change of the entry.
    pub(crate) fn newest(&self) -> Timestamp {
        self.last.unwrap_or(self.at)
    }

    /// Returns the part of the bridge, as in the configuration: `sources.NAME`, `sinks.NAME`, `spool` or `bridge`.
    pub(crate) fn part(&self) -> String {
        match (&self.source, &self.sink) {
            (Some(name), _) => format!("sources.{name}"),
            (None, Some(name)) => format!("sinks.{name}"),
            _ if self.kind.starts_with("bridge") || self.kind.starts_with("configuration") => {
                "bridge".to_owned()
            }
            _ => "spool".to_owned(),
        }
    }

    /// Returns whether both are the same change.
    pub(super) fn is_repeat_of(&self, other: &Self) -> bool {
        self.has_same_kind_and_part(other) && self.reason == other.reason
    }

    pub(super) fn has_same_kind_and_part(&self, other: &Self) -> bool {
        self.kind == other.kind && self.source == other.source && self.sink == other.sink
    }

    /// Adds a later repeat.
    pub(super) fn merge(&mut self, repeat: Self) {
        let sum = |one: Option<f64>, other: Option<f64>| match (one, other) {
            (Some(one), Some(other)) => Some(one + other),
            (one, other) => one.or(other),
        };
        self.last = Some(repeat.newest());
        self.count = self.count.saturating_add(repeat.count);
        self.text = repeat.text;
        self.fingerprint = repeat.fingerprint;
        self.seconds = sum(self.seconds, repeat.seconds);
        self.events = match (self.events, repeat.events) {
            (Some(one), Some(other)) => Some(one.saturating_add(other)),
            (one, other) => one.or(other),
        };
    }
}

/// Adds a duration to a time. Returns the latest possible time on an overflow.
pub(super) fn saturating_add(time: Timestamp, duration: Duration) -> Timestamp {
    time.checked_add(duration).unwrap_or(Timestamp::MAX)
}

/// Returns the entry about a lost connection.
pub(super) fn disconnected(source: &str, at: Timestamp, label: &'static str, reason: Option<&str>) -> Entry {
    let text = match reason {
        Some(reason) => format!("not connected: {reason}"),
        None => format!("not connected: {}", label.replace('_', " ")),
    };
    Entry::new(Kind::SourceDisconnected, at, &text)
        .of_source(source)
        .with_reason(label)
}

/// Returns the entry about further dead letters.
pub(super) fn dead_letters(count: u64, reason: &'static str, now: Timestamp) -> Entry {
    Entry::new(Kind::DeadLetters, now, "dead letters stored")
        .with_reason(reason)
        .events(count)
}
