//! `[spool]` in the configuration.

use neurobridge_core::units::ByteSize;
use schemars::JsonSchema;
use serde::Deserialize;

/// Where events wait for the sinks.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum SpoolConfig {
    /// In memory: what is not delivered is lost when the process ends.
    Memory(MemoryConfig),
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

/// What becomes of events when the log is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// Stop reading the feed until there is room. The platform may cut the connection, and what it sends meanwhile is
    /// missed; nothing that was read is lost.
    #[default]
    Block,
    /// Drop the oldest events, count them, and go on reading.
    DropOldest,
}
