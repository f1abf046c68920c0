//! The redaction of events for a sink.

use bytes::Bytes;

use super::Options;
use crate::{
    envelope::{self, Kind},
    event::Event,
    sink::{PublishError, Rejection, RejectionReason, Sink},
};

/// Publishes an event, which lies in `buffer`, as this sink may see it.
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
pub(super) fn redacted<'a>(
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
