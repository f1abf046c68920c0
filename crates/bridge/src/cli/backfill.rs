//! The flags of `backfill`.

use clap::Args;

use super::{ConfigFlag, TimeOrAge};

pub(super) const EXAMPLES: &str = "\
Examples:
  neurobridge backfill --source main --from 1h
  neurobridge backfill --source main --from 1h --dry-run
  neurobridge backfill --source main --from 2026-01-31T12:00:00Z --to 2026-01-31T12:10:00Z --dry-run --json
  neurobridge backfill --source main --from 1h --after 4711 --dry-run

Exit codes: 0 all events were read, 69 not all of them, 77 the token was refused.";

/// Flags of `backfill`.
#[derive(Clone, Debug, Args)]
pub struct BackfillFlags {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigFlag,
    /// The name of the source in the configuration.
    #[arg(long, value_name = "NAME")]
    pub source: String,
    /// The start: a creation time such as 2026-01-31T12:00:00Z, or a duration before now such as 1h.
    #[arg(long, value_name = "TIME")]
    pub from: TimeOrAge,
    /// The end, in the same forms [default: now].
    #[arg(long, value_name = "TIME")]
    pub to: Option<TimeOrAge>,
    /// The id of the last known event, such as "last_event" in `gaps ls --json`: fetches only later events. Then --from
    /// has no effect, since an event may have been created long before it was recognised.
    #[arg(long, value_name = "ID")]
    pub after: Option<String>,
    /// Shows the events, and stores none. No bridge is needed.
    #[arg(long)]
    pub dry_run: bool,
    /// With --dry-run: prints JSON.
    #[arg(long, requires = "dry_run")]
    pub json: bool,
}
