//! Renders the message that a sink would send for an event, for `check --event`.

use std::{fs, io, path::Path};

use anyhow::Context;
use neurobridge_core::{event_buf::EventBuf, identity::SpoolId, neuroio::Frames};

use crate::{
    config::Config,
    exit::{Exit, Failure, OrExit},
    frames::StoredFrameReader,
    preview::{self, Preview},
    redaction::redaction,
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

/// Renders the event in `file` as the sink would send it: read with the protocol of the source, filtered and redacted as in
/// the bridge.
///
/// # Errors
/// Fails for an unknown source or sink, or when the file contains no event.
pub(super) fn render(
    config: &Config,
    source: Option<&str>,
    file: &Path,
    name: &str,
) -> Result<String, Failure> {
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
    let redaction = redaction(&config.event.redact, config.event.pseudonymise.as_ref(), "event")?;
    let mut reader = StoredFrameReader::new(config, source_named(config, source)?)?;
    let rendered = reader.first_event(&frame, |event| {
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
    });
    rendered.unwrap_or_else(|| {
        let expected = "expected the JSON of one event such as {\"id\":1,\"data\":{\"result\":\"new\"}}";
        Frames::default()
            .read(&frame)
            .with_context(|| format!("--event: {} is not JSON, {expected}", file.display()))
            .or_exit(Exit::Usage)?;
        let message = format!(
            "--event: found a message that is not an event in {}, {expected}",
            file.display()
        );
        Err(Failure::message(Exit::Usage, message))
    })
}

/// Returns the name of the given source; without one, the first name in alphabetical order.
///
/// # Errors
/// There is no source with this name.
pub(super) fn source_named<'a>(config: &'a Config, name: Option<&str>) -> Result<&'a str, Failure> {
    let mut names = config.sources.keys().map(String::as_str);
    let Some(name) = name else {
        return Ok(names.next().unwrap_or("main"));
    };
    names.find(|known| *known == name).ok_or_else(|| {
        let names: Vec<&str> = config.sources.keys().map(String::as_str).collect();
        Failure::message(
            Exit::Usage,
            format!("--source: found \"{name}\", expected one of {}", names.join(", ")),
        )
    })
}
