//! The redaction of events for a sink.

use bytes::Bytes;

use super::{Options, refusals::Body};
use crate::{
    dead_letter,
    envelope::{self, Kind},
    event::Event,
    sink::{PublishError, Rejection, RejectionReason, Sink},
};

/// Publishes an event after the sink's redaction. `buffer` holds the event.
pub(super) fn publish_redacted<S: Sink>(
    options: &Options,
    sink: &mut S,
    event: &Event<'_>,
    buffer: &Bytes,
    scratch: &mut String,
) -> Result<(), PublishError> {
    if options.redaction.is_empty() {
        return sink.publish(event, buffer);
    }
    let event = redacted(options, event, scratch).map_err(PublishError::Rejected)?;
    sink.publish(&event, buffer)
}

/// Returns the event after the sink's redaction.
fn redacted<'a>(
    options: &Options,
    event: &Event<'a>,
    scratch: &'a mut String,
) -> Result<Event<'a>, Rejection> {
    scratch.clear();
    if options.redaction.is_empty() || !options.redaction.apply(event.frame, scratch) {
        return Ok(*event);
    }
    match envelope::read(scratch) {
        Ok(Kind::Event(envelope)) => Ok(Event {
            envelope,
            frame: scratch,
            ..*event
        }),
        _ => Err(Rejection {
            reason: RejectionReason::Unrenderable,
            detail: "the redacted frame is not an event".to_owned(),
        }),
    }
}

/// Appends the dead letter of an event after the sink's redaction. If the redaction fails, the dead letter does not contain the
/// event.
pub(super) fn write_dead_letter(
    options: &Options,
    event: &Event<'_>,
    rejection: &Rejection,
    body: Body,
    out: &mut String,
) {
    let mut scratch = String::new();
    let redacted = redacted(options, event, &mut scratch);
    let whole = body == Body::Whole && redacted.is_ok();
    dead_letter::write_event(
        &redacted.unwrap_or(*event),
        &options.spool,
        &options.name,
        rejection.reason.label(),
        &rejection.detail,
        whole,
        out,
    );
}
