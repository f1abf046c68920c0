//! Inspects the file of the resume values.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use neurobridge_core::{event::Sequence, identity::SpoolId};

use super::Finding;
use crate::{
    DiskError,
    disk::resume_file::{self, Stored},
};

/// The content of the file of the resume values.
#[derive(Clone, Debug)]
pub struct ResumeFileState {
    /// The sequence after the last record that the values cover: a start reads only later records. `None` if the file is
    /// damaged.
    pub next: Option<Sequence>,
    /// The values by the name of their source, as JSON. Newer values are in the records from `next` on.
    pub values: BTreeMap<Arc<str>, Arc<str>>,
    /// The damage of the file: of the whole file, or of one of the two copies in it.
    pub damage: Option<String>,
}

/// Reads the file; `None` if it does not exist.
pub(super) fn state(folder: &Path, id: Option<SpoolId>) -> Result<Option<ResumeFileState>, DiskError> {
    let damaged = |damage| ResumeFileState {
        next: None,
        values: BTreeMap::new(),
        damage: Some(damage),
    };
    // Without the log's id every file is that of another log.
    let stored = resume_file::read(folder, id.unwrap_or(SpoolId::from_bytes([0; 16])))?;
    Ok(match stored {
        Stored::Missing => None,
        Stored::Values { slot, damage, .. } => Some(ResumeFileState {
            next: Some(slot.next),
            values: slot.values,
            damage: damage.map(|error| format!("one of its two copies is damaged: {error}")),
        }),
        Stored::Foreign if id.is_none() => Some(damaged("the log's id is missing or damaged".to_owned())),
        Stored::Foreign => Some(damaged("the values belong to another spool".to_owned())),
        Stored::Damaged(error) => Some(damaged(error.to_string())),
    })
}

/// Returns the damage of the file as a finding.
pub(super) fn finding(folder: &Path, state: Option<&ResumeFileState>) -> Option<Finding> {
    let damage = state?.damage.as_ref()?;
    Some(Finding {
        path: folder.join(resume_file::NAME),
        offset: 0,
        from: Sequence::FIRST,
        events: 0,
        what: format!("the resume values of the sources: {damage}"),
    })
}
