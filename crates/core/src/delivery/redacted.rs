//! The redaction of events for a sink.

use bytes::Bytes;

use super::{DeliveryOptions, refusals::Body};
use crate::{
    dead_letter,
    event::Event,
    event_buf::EventBuf,
    labels::Label,
    sink::{PublishError, Rejection, RejectionReason, Sink},
};

/// Publishes an event after the sink's redaction. `buffer` is the backing buffer of the event before the redaction.
pub(super) fn publish_redacted<S: Sink>(
    options: &DeliveryOptions,
    sink: &mut S,
    event: &Event<'_>,
    buffer: &Bytes,
    scratch: &mut EventBuf,
) -> Result<(), PublishError> {
    let event = redacted(options, event, scratch).map_err(PublishError::Rejected)?;
    sink.publish(&event, buffer)
}

/// Returns the event after the sink's redaction.
fn redacted<'a>(
    options: &DeliveryOptions,
    event: &Event<'a>,
    scratch: &'a mut EventBuf,
) -> Result<Event<'a>, Rejection> {
    options
        .redaction
        .apply(event, scratch)
        .map_err(|error| Rejection {
            reason: RejectionReason::Unrenderable,
            detail: error.to_string(),
        })
}

/// Appends the dead letter of an event after the sink's redaction. If the redaction fails, the dead letter does not contain the
/// event.
pub(super) fn write_dead_letter(
    options: &DeliveryOptions,
    event: &Event<'_>,
    rejection: &Rejection,
    body: Body,
    out: &mut String,
) {
    let mut scratch = EventBuf::default();
    let redacted = redacted(options, event, &mut scratch);
    let whole = body == Body::Whole && redacted.is_ok();
    dead_letter::write_event(
        &redacted.unwrap_or(*event),
        &options.spool,
        &options.name,
        rejection.reason.as_str(),
        &rejection.detail,
        whole,
        out,
    );
}
