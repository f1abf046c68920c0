//! Keys that the configurations of several sinks have in common.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    event::Event,
    sink::{PublishError, RejectionReason},
    strip::Stripped,
};

/// The format of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// CloudEvents 1.0 in binary mode: the entry is the body, the attributes are headers (`ce_…` in Kafka, `ce-…` in NATS).
    #[default]
    Cloudevents,
    /// CloudEvents 1.0 in structured mode: one JSON object with the attributes and the entry.
    CloudeventsJson,
    /// The frame of the feed, unchanged, without headers of CloudEvents.
    Raw,
}

/// What happens to an event that is larger than the destination accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Oversize")]
pub enum OversizeAction {
    /// It becomes a dead letter, complete if dead letters are stored in a file.
    #[default]
    DeadLetter,
    /// Its pictures (`*_image`) are replaced by null, and the attribute `strippedfields` names them (with `raw` a header:
    /// `neurobridge_strippedfields` in Kafka, `neurobridge-strippedfields` in NATS). If it is still too large, it becomes a
    /// dead letter.
    Strip,
}

impl OversizeAction {
    /// Publishes an event with `publish`. If the event is too large and this is [`OversizeAction::Strip`], publishes it again
    /// without its pictures. The second argument of `publish` names the stripped fields.
    ///
    /// # Errors
    /// Returns the errors of `publish`.
    pub fn publish(
        self,
        event: &Event<'_>,
        mut publish: impl FnMut(&Event<'_>, Option<&str>) -> Result<(), PublishError>,
    ) -> Result<(), PublishError> {
        let published = publish(event, None);
        if self == Self::Strip
            && let Err(PublishError::Rejected(rejection)) = &published
            && rejection.reason == RejectionReason::TooLarge
            && let Some(stripped) = Stripped::of(event)
        {
            return publish(&stripped.event(event), Some(&stripped.fields));
        }
        published
    }
}

/// Checks the table `dead_letter` of a sink, which needs either `key`, such as `topic`, or `path`.
///
/// # Errors
/// Both keys are set, or neither.
pub fn check_dead_letter(key: &str, has_destination: bool, has_path: bool) -> Result<(), String> {
    match (has_destination, has_path) {
        (true, true) => Err(format!("found {key} and path, expected one of them")),
        (false, false) => Err(format!("found neither {key} nor path, expected one of them")),
        _ => Ok(()),
    }
}
