//! The paths of the resume values of declared feeds in stored events.

use neurobridge_core::{
    event::FieldPath,
    event_buf::EventBuf,
    frame_reader::FrameReader,
    json,
    path::Path,
    positions::PositionsBuf,
    projection::{EventPaths, Projection},
    redact::Redaction,
};
use neurobridge_protocol::Declaration;
use neurobridge_spool::ResumePaths;
use serde_json::{Value, json};
use tracing::warn;

use crate::{
    config::{Config, EventConfig},
    redaction::sample_event,
};

/// Returns the sources that resume, each with the path of the resume value in its stored events; without a path if a redaction
/// or pseudonymisation changes the value before the events are stored.
pub(crate) fn paths(config: &Config) -> ResumePaths {
    let mut paths = ResumePaths::new();
    for (name, source) in &config.sources {
        let Some(feed) = source.feed.as_deref().filter(|feed| feed.resume.is_some()) else {
            continue;
        };
        let field = feed.resume_field();
        let kept = field.filter(|field| is_kept(feed, field, &config.event));
        if kept.is_none() {
            warn!(
                source = name,
                "stored events do not contain their resume value as received, for example because a redaction changes it; after \
                 a crash events may be received again"
            );
        }
        paths.insert(name.clone(), kept);
    }
    paths
}

/// Returns whether the resume value is stored as received. Applies the redaction to a sample; no pseudonymisation key is
/// needed, since any replacement is a change.
fn is_kept(feed: &Declaration, field: &FieldPath, config: &EventConfig) -> bool {
    const SAMPLE: &str = "1";
    let pseudonyms = config
        .pseudonymise
        .iter()
        .flat_map(|pseudonymise| &pseudonymise.fields);
    let patterns: Vec<_> = config.redact.iter().chain(pseudonyms).cloned().collect();
    let Ok(redaction) = Redaction::new(&patterns, None) else {
        return false;
    };
    let paths = EventPaths {
        body: feed.body_path(),
        id: feed.id_paths(),
        ..EventPaths::default()
    };
    // Every id has a value, as in a stored event.
    let steps = |path: &Path| {
        path.steps()
            .iter()
            .map(|step| step.to_string())
            .collect::<Vec<_>>()
    };
    let mut frame = Value::Null;
    for path in paths.id.iter().map(steps).chain([field_steps(field)]) {
        frame = with(frame, &path);
    }
    let frame = frame.to_string();
    let projection = Projection::new(&paths, []);
    let mut reader = FrameReader::new(projection.paths().iter().map(Option::as_ref));
    let mut positions = PositionsBuf::default();
    let Ok(spans) = reader.read(&frame) else {
        return false;
    };
    projection.write(spans, &mut positions);
    let event = sample_event(&frame, positions.positions());
    let mut redacted = EventBuf::default();
    redaction
        .apply(&event, &mut redacted)
        .is_ok_and(|stored| field.locate(stored.positions, stored.frame) == Some(SAMPLE))
}

/// Returns the steps of a path that begins at the frame.
fn field_steps(field: &FieldPath) -> Vec<String> {
    let path = field.to_string();
    let steps = path.strip_prefix("$.").unwrap_or(&path);
    steps.split('.').map(str::to_owned).collect()
}

/// Returns the value with a number at a path, unless another value is there already.
fn with(value: Value, path: &[String]) -> Value {
    let Some((step, rest)) = path.split_first() else {
        return if value.is_null() { json!(1) } else { value };
    };
    match (json::index(step), value) {
        (Some(index), mut value @ (Value::Null | Value::Array(_))) => {
            let mut elements = value.as_array_mut().map(std::mem::take).unwrap_or_default();
            if elements.len() <= index {
                elements.resize(index + 1, Value::Null);
            }
            elements[index] = with(elements[index].take(), rest);
            Value::Array(elements)
        }
        (_, mut value) => {
            let mut fields = value.as_object_mut().map(std::mem::take).unwrap_or_default();
            let below = fields.remove(step).unwrap_or_default();
            fields.insert(step.clone(), with(below, rest));
            Value::Object(fields)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(declaration: &str, redact: &[&str]) -> Option<bool> {
        let feed: Declaration = serde_json::from_str(declaration).unwrap();
        let config = EventConfig {
            redact: redact.iter().map(|pattern| pattern.parse().unwrap()).collect(),
            ..EventConfig::default()
        };
        Some(is_kept(&feed, &feed.resume_field()?, &config))
    }

    #[test]
    fn redacted_resume_value_is_not_read_from_events() {
        let flat =
            r#"{"rules":[{"is":"event"}],"event":{"id":"n"},"resume":{"value":"pos","query":"after"}}"#;
        assert_eq!(kept(flat, &[]), Some(true));
        assert_eq!(kept(flat, &["other", "n"]), Some(true));
        assert_eq!(kept(flat, &["pos"]), Some(false));
        let list = r#"{"rules":[{"is":"event"}],"events":"a.list","event":{"id":"n","body":"b"},
            "resume":{"value":"b.1.pos","query":"after"}}"#;
        assert_eq!(kept(list, &[]), Some(true));
        assert_eq!(kept(list, &["p*"]), Some(false));
        let own = r#"{"rules":[{"is":"event"}],"event":{"id":"n"},"resume":{"value":"n","query":"after"}}"#;
        assert_eq!(kept(own, &["n"]), Some(true), "an id is never replaced");
        let none = r#"{"rules":[{"is":"event"}],"event":{"id":"n"}}"#;
        assert_eq!(kept(none, &[]), None);
    }
}
