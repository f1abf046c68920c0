//! `[spool]` in the configuration.

use std::{borrow::Cow, fmt, path::PathBuf, str::FromStr, time::Duration};

use neurobridge_core::units::{self, ByteSize};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Where events wait for the sinks.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum SpoolConfig {
    /// In memory: what is not delivered is lost when the process ends.
    Memory(MemoryConfig),
    /// On disk: what was stored is delivered whatever happens to the process.
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
    /// How much it may hold. 64 MiB by default: about 100,000 events, and the process stays below 100 MiB or little more.
    pub max_size: ByteSize,
    /// What to do when it holds that much.
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
    /// Its folder; a relative path is below the data folder. On a local disk: network file systems break promises about
    /// locks and syncing.
    pub path: PathBuf,
    /// How much it may hold. 10 GiB by default: about 15 million events.
    pub max_size: ByteSize,
    /// The size of each of its files. 64 MiB by default. At most an eighth of `max_size` is used.
    pub segment_size: ByteSize,
    /// When what was written is forced onto the disk: "always" (before it counts as stored), an interval such as "100ms"
    /// (what a power cut may take), or "never" (the system decides). A crash of the process alone loses
    /// nothing that is stored, in any.
    pub sync: SyncPolicy,
    /// What to do when it holds that much.
    pub when_full: WhenFull,
    /// For how long events stay after all sinks have settled them, while there is room: for sending them again, and for
    /// knowing them when they come again after a restart. 1 hour by default, because they hold personal data. They are deleted
    /// by files, at most an eighth later (and 10 seconds). While the system's clock is not trusted (it stepped, or nothing
    /// has confirmed it since the start), their age counts from the start of the bridge at the earliest. Copies of damaged bytes, in
    /// `damaged`, stay for a week.
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

/// When what was written is forced onto the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncPolicy {
    /// Before it counts as stored.
    #[default]
    Always,
    /// That often: so much a power cut may take.
    Interval(Duration),
    /// When a file is full, and at the end; else when the system likes to.
    Never,
}

/// A text is no [`SyncPolicy`].
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

/// What becomes of events when the log is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// Stop reading the feed until there is room. The platform may cut the connection, and what it sends meanwhile is
    /// missed; nothing that was read is lost.
    #[default]
    Block,
    /// Drop the oldest events, count them, and go on reading.
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
