//! The redaction of a section of the configuration, with its key file.

use std::io;

use anyhow::anyhow;
use jiff::Timestamp;
use neurobridge_core::{
    event::{Event, Origin, Sequence},
    positions::Positions,
    redact::{KeyFileError, Pattern, Pseudonymise, Redaction},
};
use tokio::task::spawn_blocking;

use crate::{
    exit::{Exit, Failure},
    task::joined,
};

/// Returns an event without a source, to which a redaction can be applied.
pub(crate) fn sample_event<'a>(frame: &'a str, positions: Positions<'a>) -> Event<'a> {
    Event {
        sequence: Sequence::FIRST,
        received_at: Timestamp::UNIX_EPOCH,
        source: "",
        source_uri: "",
        type_prefix: "",
        conflict: None,
        origin: Origin::Feed,
        positions,
        frame,
    }
}

/// As [`redaction`], without blocking the runtime: the disk of the key file may hang.
///
/// # Errors
/// As [`redaction`].
pub(crate) async fn read_redaction(
    redact: &[Pattern],
    pseudonymise: Option<&Pseudonymise>,
    place: &str,
) -> Result<Redaction, Failure> {
    let (redact, pseudonymise, place) = (redact.to_vec(), pseudonymise.cloned(), place.to_owned());
    joined(spawn_blocking(move || redaction(&redact, pseudonymise.as_ref(), &place)).await)
}

/// Returns the redaction of a section of the configuration. Blocks while it reads the key file.
///
/// # Errors
/// Returns an error if the key file cannot be read or is invalid.
pub(crate) fn redaction(
    redact: &[Pattern],
    pseudonymise: Option<&Pseudonymise>,
    place: &str,
) -> Result<Redaction, Failure> {
    Redaction::new(redact, pseudonymise).map_err(|error| {
        // A hanging disk may recover, so a restart may help; an invalid file stays invalid.
        let exit = match &error {
            KeyFileError::Unreadable { source, .. } if source.kind() == io::ErrorKind::TimedOut => {
                Exit::Unavailable
            }
            _ => Exit::Config,
        };
        Failure::new(
            exit,
            anyhow!(error).context(format!("{place}.pseudonymise.key_file")),
        )
    })
}
