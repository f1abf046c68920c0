//! The flags of `history` and `gaps`.

use std::{path::PathBuf, str::FromStr};

use clap::{Args, Subcommand};
use jiff::Timestamp;
use neurobridge_core::units;

use super::ConfigFlag;

pub(super) const EXAMPLES: &str = "\
Examples:
  neurobridge history --since 1h
  neurobridge history --since 2026-01-31T12:00:00Z --json";

const GAPS_EXAMPLES: &str = "\
Examples:
  neurobridge gaps ls
  neurobridge gaps ls --source main --json";

/// Flags of `history`.
#[derive(Clone, Debug, Args)]
pub struct HistoryFlags {
    /// The configuration, which names the data folder with the history.
    #[command(flatten)]
    pub config: ConfigFlag,
    /// Shows only changes since this time, or within this duration, such as 2026-01-31T12:00:00Z or 1h.
    #[arg(long, value_name = "TIME")]
    pub since: Option<TimeOrAge>,
    /// Prints JSON lines.
    #[arg(long)]
    pub json: bool,
}

/// A time, or a duration before now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeOrAge(pub Timestamp);

impl FromStr for TimeOrAge {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(time) = text.parse() {
            return Ok(Self(time));
        }
        units::parse_duration(text)
            .ok()
            .and_then(|duration| Timestamp::now().checked_sub(duration).ok())
            .map(Self)
            .ok_or_else(|| {
                format!(
                    "found \"{text}\", expected a time such as 2026-01-31T12:00:00Z, or a duration such as 1h"
                )
            })
    }
}

/// Flags of `gaps`.
#[derive(Clone, Debug, Args)]
pub struct GapsFlags {
    /// The configuration file [default: $NEUROBRIDGE_CONFIG, ./neurobridge.toml, /etc/neurobridge/neurobridge.toml, or none].
    #[arg(short, long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The subcommand.
    #[command(subcommand)]
    pub command: GapsCommand,
}

/// The commands of `gaps`.
#[derive(Clone, Debug, Subcommand)]
pub enum GapsCommand {
    /// Lists the gaps of all sources, with start, end, reason, and whether the events were fetched, the oldest first.
    #[command(after_help = GAPS_EXAMPLES)]
    Ls(GapsLsFlags),
}

/// Flags of `gaps ls`.
#[derive(Clone, Debug, Args)]
pub struct GapsLsFlags {
    /// Shows only the gaps of this source.
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,
    /// Prints JSON lines.
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_time_or_a_duration_before_now() {
        let TimeOrAge(time) = "2026-01-31T12:00:00Z".parse().unwrap();
        assert_eq!(time.to_string(), "2026-01-31T12:00:00Z");
        let TimeOrAge(ago) = "90m".parse().unwrap();
        let minutes = Timestamp::now().duration_since(ago).as_mins();
        assert!((89..=91).contains(&minutes), "{minutes}");
        let error = "yesterday".parse::<TimeOrAge>().unwrap_err();
        assert!(
            error.starts_with("found \"yesterday\", expected a time"),
            "{error}"
        );
    }
}
