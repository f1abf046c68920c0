//! Renders the message that a sink would send as readable text, for `check --event` and `tail --sink`.

use neurobridge_core::{event::Event, event_buf::EventBuf, identity::SpoolId, redact::Redaction};

use crate::{
    config::{Config, ConfiguredSink},
    exit::Failure,
    redaction::redaction,
};

/// Renders the messages of one sink.
pub(crate) struct Preview<'a> {
    sink: &'a ConfiguredSink,
    redaction: Redaction,
    spool: SpoolId,
}

impl<'a> Preview<'a> {
    /// Creates the preview of a sink, for events of a spool.
    ///
    /// # Errors
    /// Returns an error if there is no sink with this name, or its key file cannot be read.
    pub(crate) fn new(config: &'a Config, name: &str, spool: SpoolId) -> Result<Self, Failure> {
        let sink = config.sinks.get(name);
        let sink = sink.ok_or_else(|| Failure::unknown("sink", name, config.sinks.keys()))?;
        Ok(Self {
            sink,
            redaction: of_sink(name, sink)?,
            spool,
        })
    }

    /// Returns the message for a stored event, with a line break at its end; `None` if the sink's filter rejects the event.
    pub(crate) fn message(&self, event: &Event<'_>) -> Option<String> {
        if !self.sink.common.filter.matches(event) {
            return None;
        }
        let mut redacted = EventBuf::default();
        let mut message = match self.redaction.apply(event, &mut redacted) {
            Ok(event) => self.sink.config.preview(&event, &self.spool),
            Err(error) => format!("a dead letter: {error}"),
        };
        if !message.ends_with('\n') {
            message.push('\n');
        }
        Some(message)
    }
}

/// Returns the redaction of a sink.
///
/// # Errors
/// Returns an error if the key file cannot be read or is invalid.
pub(crate) fn of_sink(name: &str, sink: &ConfiguredSink) -> Result<Redaction, Failure> {
    redaction(
        &sink.common.redact,
        sink.common.pseudonymise.as_ref(),
        &format!("sinks.{name}"),
    )
}
