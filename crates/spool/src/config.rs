//! The table `[spool]` of the configuration.

use std::{borrow::Cow, fmt, path::PathBuf, str::FromStr, time::Duration};

use neurobridge_core::units::{self, ByteSize};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The log that stores events until all sinks have settled them.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum SpoolConfig {
    /// In memory: undelivered events are lost when the process ends.
    Memory(MemoryConfig),
    /// On disk: stored events are delivered whatever happens to the process.
    Disk(DiskConfig),
}

impl Default for SpoolConfig {
    fn default() -> Self {
        Self::Memory(MemoryConfig::default())
    }
}

/// A log in memory.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryConfig {
    /// The largest size. 64 MiB by default: about 100,000 events, and the process uses about 100 MiB.
    pub max_size: ByteSize,
    /// What happens when the log is full.
    pub when_full: WhenFull,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            max_size: ByteSize::from_mib(64),
            when_full: WhenFull::default(),
        }
    }
}

/// A log on disk.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DiskConfig {
    /// The folder of the log; a relative path begins at the data folder. It has to be on a local disk, because network file
    /// systems do not guarantee locks and syncs.
    pub path: PathBuf,
    /// The largest size. 10 GiB by default: about 15 million events.
    pub max_size: ByteSize,
    /// The size of each file of the log. 64 MiB by default. At most an eighth of `max_size` is used.
    pub segment_size: ByteSize,
    /// When written events are synced to the disk: `"always"` (before they count as stored), an interval such as `"100ms"`
    /// (a power cut loses at most the events of one interval), or `"never"` (the system decides). A crash of the process
    /// alone loses no stored event, whatever the value.
    pub sync: SyncPolicy,
    /// What happens when the log is full.
    pub when_full: WhenFull,
    /// The time for which events are stored after all sinks have settled them, while there is space: to send them again, and
    /// to detect duplicates after a restart. 1 hour by default, because they contain personal data. Events are deleted in
    /// whole files, so at most an eighth of this time (and 10 seconds) later. While the clock of the system is not trusted
    /// (it was changed, or nothing has confirmed it since the start), the age of events counts from the start of the bridge
    /// at the earliest. Copies of damaged bytes, in `damaged`, are stored for a week.
    #[serde(with = "units::duration")]
    #[schemars(with = "neurobridge_core::units::DurationText")]
    pub retain: Duration,
}

impl Default for DiskConfig {
    fn default() -> Self {
        Self {
            path: PathBuf::from("spool"),
            max_size: ByteSize::from_mib(10 * 1024),
            segment_size: ByteSize::from_mib(64),
            sync: SyncPolicy::default(),
            when_full: WhenFull::default(),
            retain: Duration::from_secs(3600),
        }
    }
}

/// When written events are synced to the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncPolicy {
    /// Before an event counts as stored.
    #[default]
    Always,
    /// At this interval: a power cut loses at most the events of one interval.
    Interval(Duration),
    /// When a file is full, and at the end; otherwise the system decides.
    Never,
}

/// The error for a text that is not a [`SyncPolicy`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("found \"{found}\", expected \"always\", \"never\", or an interval such as \"100ms\"")]
pub struct SyncPolicyError {
    /// The text.
    pub found: String,
}

impl FromStr for SyncPolicy {
    type Err = SyncPolicyError;

    fn from_str(text: &str) -> Result<Self, SyncPolicyError> {
        match text {
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            text => match units::parse_duration(text) {
                Ok(interval) if !interval.is_zero() => Ok(Self::Interval(interval)),
                _ => Err(SyncPolicyError {
                    found: text.to_owned(),
                }),
            },
        }
    }
}

impl fmt::Display for SyncPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always => f.write_str("always"),
            Self::Interval(interval) => f.write_str(&units::format_duration(*interval)),
            Self::Never => f.write_str("never"),
        }
    }
}

impl<'de> Deserialize<'de> for SyncPolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl Serialize for SyncPolicy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for SyncPolicy {
    fn schema_name() -> Cow<'static, str> {
        "SyncPolicy".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string" })
    }
}

/// What happens when the log is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// The feed is not read until there is space. The platform may close the connection, and the events that it sends
    /// meanwhile are lost; no event that was read is lost.
    #[default]
    Block,
    /// The oldest events are dropped and counted, and the feed is read further.
    DropOldest,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sync_policy_is_a_name_or_an_interval() {
        for text in ["always", "never", "100ms"] {
            assert_eq!(text.parse::<SyncPolicy>().unwrap().to_string(), text);
        }
        for bad in ["", "sometimes", "0s"] {
            assert!(bad.parse::<SyncPolicy>().is_err(), "{bad}");
        }
    }
}
