//! The message that a sink would send, as text for people: for `check --event` and `tail --sink`.

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

/// Makes the messages of one sink.
pub(crate) struct Preview<'a> {
    sink: &'a SinkEntry,
    redaction: Redaction,
    spool: SpoolId,
}

impl<'a> Preview<'a> {
    /// That of the sink of this name, for events of this spool.
    ///
    /// # Errors
    /// There is no such sink, or a key of its is not to be had.
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

    /// The message for an event as the spool has it; `None` when the sink's filter leaves it out. Ends with a line break.
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
                _ => "a dead letter: what is left after redaction is no event".to_owned(),
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

/// What is taken out of events for one sink.
///
/// # Errors
/// A key can't be had.
pub(crate) fn of_sink(name: &str, sink: &SinkEntry) -> Result<Redaction, Failure> {
    redaction(
        &sink.common.redact,
        sink.common.pseudonymise.as_ref(),
        &format!("sinks.{name}"),
    )
}
