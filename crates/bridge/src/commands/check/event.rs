//! Renders the message that a sink would send for an event.

use std::{fs, io, path::Path};

use anyhow::{Context, anyhow};
use jiff::Timestamp;
use neurobridge_core::{
    event::{Event, Sequence},
    event_buf::EventBuf,
    identity::SpoolId,
    neuroio::{self, Frames, Kind},
};

use crate::{
    config::Config,
    exit::{Exit, Failure, OrExit},
    feed::redaction,
    preview::{self, Preview},
};

/// Builds all redactions of a configuration, which reads their key files.
///
/// # Errors
/// Fails when a key cannot be read.
pub(super) fn redactions(config: &Config) -> Result<(), Failure> {
    redaction(&config.event.redact, config.event.pseudonymise.as_ref(), "event")?;
    for (name, sink) in &config.sinks {
        preview::of_sink(name, sink)?;
    }
    Ok(())
}

/// Renders the event in `file` as the sink would send it: filtered and redacted as in the bridge.
///
/// # Errors
/// Fails for an unknown sink, or when the file contains no event.
pub(super) fn render(config: &Config, file: &Path, name: &str) -> Result<String, Failure> {
    // The spool id is only an example: every start of a memory spool has another one.
    let preview = Preview::new(config, name, SpoolId::from_bytes([0; 16]))?;
    let frame = if file == Path::new("-") {
        io::read_to_string(io::stdin())
    } else {
        fs::read_to_string(file)
    };
    let frame = frame
        .with_context(|| format!("--event: {} cannot be read", file.display()))
        .or_exit(Exit::Usage)?;
    // An event in a file has no source, so that the first one by name is used.
    let source = config.sources.keys().next().map_or("main", String::as_str);
    let redaction = redaction(&config.event.redact, config.event.pseudonymise.as_ref(), "event")?;

    let mut frames = Frames::default();
    let source_uri = neuroio::source_uri(source);
    let event = Event {
        source,
        source_uri: &source_uri,
        ..read(&mut frames, &frame, file)?
    };
    if !config.event.filter.matches(&event) {
        return Ok("no sink gets this event: it does not pass event.filter\n".to_owned());
    }
    let mut redacted = EventBuf::default();
    let event = redaction
        .apply(&event, &mut redacted)
        .context("--event")
        .or_exit(Exit::Usage)?;
    Ok(preview.message(&event).unwrap_or_else(|| {
        format!("this sink does not get this event: it does not pass sinks.{name}.filter\n")
    }))
}

fn read<'a>(frames: &'a mut Frames, frame: &'a str, file: &Path) -> Result<Event<'a>, Failure> {
    let expected = "expected the JSON of one event such as {\"id\":1,\"data\":{\"result\":\"new\"}}";
    let (kind, _) = frames
        .read(frame)
        .with_context(|| format!("--event: {} is not JSON, {expected}", file.display()))
        .or_exit(Exit::Usage)?;
    let Kind::Event(positions) = kind else {
        let error = anyhow!("--event: found another message in {}, {expected}", file.display());
        return Err(Failure::new(Exit::Usage, error));
    };
    Ok(Event {
        sequence: Sequence::FIRST,
        received_at: Timestamp::now(),
        source: "",
        source_uri: "",
        type_prefix: neuroio::TYPE_PREFIX,
        conflict: None,
        positions,
        frame,
    })
}
