//! Renders the message that a sink would send as readable text, for `check --event` and `tail --sink`.

use neurobridge_core::{
    envelope::{self, Kind},
    event::Event,
    identity::SpoolId,
    redact::Redaction,
};

use crate::{
    config::{Config, SinkEntry},
    exit::{Exit, Failure},
    feed::redaction,
};

/// Renders the messages of one sink.
pub(crate) struct Preview<'a> {
    sink: &'a SinkEntry,
    redaction: Redaction,
    spool: SpoolId,
}

impl<'a> Preview<'a> {
    /// Creates the preview of a sink, for events of a spool.
    ///
    /// # Errors
    /// Returns an error if there is no sink with this name, or its key file cannot be read.
    pub(crate) fn new(config: &'a Config, name: &str, spool: SpoolId) -> Result<Self, Failure> {
        let sink = config.sinks.get(name).ok_or_else(|| {
            let names: Vec<&str> = config.sinks.keys().map(String::as_str).collect();
            Failure::message(
                Exit::Usage,
                format!("--sink: found \"{name}\", expected one of {}", names.join(", ")),
            )
        })?;
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
        let mut redacted = String::new();
        let mut message = if self.redaction.apply(event.frame, &mut redacted) {
            match envelope::read(&redacted) {
                Ok(Kind::Event(envelope)) => self.render(&Event {
                    envelope,
                    frame: &redacted,
                    ..*event
                }),
                _ => "a dead letter: the redacted frame is not an event".to_owned(),
            }
        } else {
            self.render(event)
        };
        if !message.ends_with('\n') {
            message.push('\n');
        }
        Some(message)
    }

    fn render(&self, event: &Event<'_>) -> String {
        self.sink.config.preview(event, &self.spool)
    }
}

/// Returns the redaction of a sink.
///
/// # Errors
/// Returns an error if the key file cannot be read or is invalid.
pub(crate) fn of_sink(name: &str, sink: &SinkEntry) -> Result<Redaction, Failure> {
    redaction(
        &sink.common.redact,
        sink.common.pseudonymise.as_ref(),
        &format!("sinks.{name}"),
    )
}
