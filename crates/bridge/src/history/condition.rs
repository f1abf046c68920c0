//! The condition of the spool, whose changes the history records.

use neurobridge_spool::SpoolStatus;

/// The condition of the spool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Condition {
    #[default]
    Fine,
    Full,
    DiskFull,
    Retrying,
    Failed,
}

impl Condition {
    pub(super) const fn of(spool: &SpoolStatus) -> Self {
        if spool.has_failed {
            Self::Failed
        } else if spool.is_disk_full {
            Self::DiskFull
        } else if spool.is_full {
            Self::Full
        } else if spool.is_retrying {
            Self::Retrying
        } else {
            Self::Fine
        }
    }
}
