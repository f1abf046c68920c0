//! A hash of what all members of a cluster have in common: the messages that they publish, and the standby of followers.

use std::fmt::Write;

use neurobridge_core::{event_buf::EventBuf, identity, identity::SpoolId, neuroio::Frames};

use crate::{config::Config, exit::Failure, frames::sample_event, redaction::read_redaction};

/// An event with the fields of NeuroIO's events, for comparing what two members would publish.
const SAMPLE: &str = r#"{"id":1,"data":{"pid":"p","result":"new","space":{"id":1,"name":"s"},"source":{"id":1,"name":"c"},"groups":[{"id":1,"name":"g"}],"note":{},"external_id":"e","email":"m","name":"n","images":[{"id":"i"}],"created":"2024-01-01T00:00:00Z"}}"#;

/// Returns a hash of the messages that a configuration publishes: equal for two members that publish the same messages to the same
/// topics and subjects. Addresses, credentials and paths may differ.
///
/// # Errors
/// Returns an error if a key file cannot be read.
pub(crate) async fn published_hash(config: &Config) -> Result<String, Failure> {
    let event = &config.event;
    let mut text = String::new();
    // A member with connected sources would be a second connection beside the leader's.
    let standby = config.cluster.as_ref().map(|cluster| cluster.standby);
    let _ = writeln!(text, "standby {standby:?}");
    for (name, source) in &config.sources {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "source {name} {:?} {:?}",
            source.feed,
            source.attributes(name)
        );
    }
    let _ = writeln!(text, "event {:?} {:?}", event.filter, event.redact);
    let _ = writeln!(text, "{:?}", event.pseudonymise.as_ref().map(|of| &of.fields));
    let redaction = read_redaction(&event.redact, event.pseudonymise.as_ref(), "event").await?;
    let _ = writeln!(text, "{:?}", redaction.key_digest());
    let fields = config.named_fields();
    let mut frames = Frames::new(&fields);
    let positions = frames.event(SAMPLE).expect("the constant SAMPLE is an event");
    let sample = sample_event(SAMPLE, positions);
    let mut redacted = EventBuf::default();
    // An event that cannot be redacted is published by no member.
    let sample = redaction.apply(&sample, &mut redacted).unwrap_or(sample);
    for (name, sink) in &config.sinks {
        let common = &sink.common;
        let _ = writeln!(text, "sink {name} {:?} {:?}", common.filter, common.redact);
        let _ = writeln!(text, "{:?}", common.pseudonymise.as_ref().map(|of| &of.fields));
        let _ = writeln!(text, "{:?}", sink.config.in_cluster());
        let place = format!("sinks.{name}");
        let redaction = read_redaction(&common.redact, common.pseudonymise.as_ref(), &place).await?;
        let _ = writeln!(text, "{:?}", redaction.key_digest());
        let mut redacted = EventBuf::default();
        if let Ok(sample) = redaction.apply(&sample, &mut redacted) {
            text.push_str(sink.config.type_name());
            text.push_str(&sink.config.preview(&sample, &SpoolId::from_bytes([0; 16])));
        }
    }
    Ok(format!("{:032x}", identity::body_hash(&text)))
}

#[cfg(test)]
mod tests;
