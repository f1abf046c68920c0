//! The message that a sink would send for an event.

use std::{fs, path::Path};

use anyhow::{Context, anyhow};
use jiff::Timestamp;
use neurobridge_core::{
    cloudevents,
    envelope::{self, Kind},
    event::{Event, Sequence},
    identity::SpoolId,
    redact::Redaction,
};
use neurobridge_sink_file::FileFormat;

use crate::{
    config::{Config, SinkEntry, SinkKind},
    exit::{Exit, Failure, OrExit},
    feed::redaction,
};

/// Makes all redactions of a configuration, which reads the files of their keys.
///
/// # Errors
/// A key can't be had.
pub(super) fn redactions(config: &Config) -> Result<(), Failure> {
    redaction(&config.event.redact, config.event.pseudonymise.as_ref(), "event")?;
    for (name, sink) in &config.sinks {
        of_sink(name, sink)?;
    }
    Ok(())
}

/// Renders the event in `file` as the sink would send it: filtered and redacted as in the bridge.
///
/// # Errors
/// There is no such sink, or the file holds no event.
pub(super) fn render(config: &Config, file: &Path, name: &str) -> Result<String, Failure> {
    let sink = config.sinks.get(name).ok_or_else(|| {
        let names: Vec<&str> = config.sinks.keys().map(String::as_str).collect();
        Failure::message(
            Exit::Usage,
            format!("--sink: found \"{name}\", expected one of {}", names.join(", ")),
        )
    })?;
    let frame = fs::read_to_string(file)
        .with_context(|| format!("--event: {} can't be read", file.display()))
        .or_exit(Exit::Usage)?;
    // The first one by name, as an event in a file comes from none.
    let source = config.sources.keys().next().map_or("main", String::as_str);
    let source_redaction = redaction(&config.event.redact, config.event.pseudonymise.as_ref(), "event")?;

    let (mut kept, mut sent) = (String::new(), String::new());
    let event = read(&frame, file, source)?;
    if !config.event.filter.matches(&event) {
        return Ok("no sink gets this event: it does not pass event.filter\n".to_owned());
    }
    let event = redacted(event, &source_redaction, &mut kept, file)?;
    if !sink.common.filter.matches(&event) {
        return Ok(format!(
            "this sink does not get this event: it does not pass sinks.{name}.filter\n"
        ));
    }
    let event = redacted(event, &of_sink(name, sink)?, &mut sent, file)?;
    let mut message = preview(sink, &event);
    if !message.ends_with('\n') {
        message.push('\n');
    }
    Ok(message)
}

fn of_sink(name: &str, sink: &SinkEntry) -> Result<Redaction, Failure> {
    redaction(
        &sink.common.redact,
        sink.common.pseudonymise.as_ref(),
        &format!("sinks.{name}"),
    )
}

fn redacted<'a>(
    event: Event<'a>,
    redaction: &Redaction,
    frame: &'a mut String,
    file: &Path,
) -> Result<Event<'a>, Failure> {
    if redaction.apply(event.frame, frame) {
        let redacted = read(frame, file, event.source)?;
        return Ok(Event {
            received_at: event.received_at,
            ..redacted
        });
    }
    Ok(event)
}

fn read<'a>(frame: &'a str, file: &Path, source: &'a str) -> Result<Event<'a>, Failure> {
    let expected = "expected the JSON of one event such as {\"id\":1,\"data\":{\"result\":\"new\"}}";
    let kind = envelope::read(frame)
        .with_context(|| format!("--event: {} is no JSON, {expected}", file.display()))
        .or_exit(Exit::Usage)?;
    let Kind::Event(envelope) = kind else {
        let error = anyhow!("--event: found another message in {}, {expected}", file.display());
        return Err(Failure::new(Exit::Usage, error));
    };
    Ok(Event {
        sequence: Sequence::FIRST,
        received_at: Timestamp::now(),
        source,
        conflict: None,
        envelope,
        frame,
    })
}

/// The message as text. Its sequence is the first of a spool that never is: every start of a memory spool has another.
fn preview(sink: &SinkEntry, event: &Event<'_>) -> String {
    let spool = SpoolId::from_bytes([0; 16]);
    match &sink.kind {
        SinkKind::File(file) => {
            let mut line = String::new();
            match file.format {
                FileFormat::CloudeventsJson => {
                    cloudevents::write_structured(event, &spool, &mut String::new(), &mut line);
                }
                FileFormat::Raw => cloudevents::push_one_line(event.frame, &mut line),
            }
            line
        }
        #[cfg(feature = "kafka")]
        SinkKind::Kafka(kafka) => kafka.preview(event, &spool),
        #[cfg(feature = "nats")]
        SinkKind::Nats(nats) => nats.preview(event, &spool),
    }
}
