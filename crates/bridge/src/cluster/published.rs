//! A hash of what all members of a cluster have in common: the messages that they publish, and the standby of followers.

use neurobridge_core::{
    event_buf::EventBuf, identity, identity::SpoolId, neuroio::Frames, sink_type::InCluster,
};
use serde_json::{Map, Value, json};

use crate::{
    config::Config,
    exit::Failure,
    redaction::{read_redaction, sample_event},
};

/// An event with the fields of NeuroIO's events, for comparing what two members would publish.
const SAMPLE: &str = r#"{"id":1,"data":{"pid":"p","result":"new","space":{"id":1,"name":"s"},"source":{"id":1,"name":"c"},"groups":[{"id":1,"name":"g"}],"note":{},"external_id":"e","email":"m","name":"n","images":[{"id":"i"}],"created":"2024-01-01T00:00:00Z"}}"#;

/// Returns a hash of the messages that a configuration publishes, and of the standby: equal for two members that publish the same
/// messages to the same topics and subjects. Addresses, credentials and paths may differ.
///
/// # Errors
/// Returns an error if a key file cannot be read.
pub(crate) async fn published_hash(config: &Config) -> Result<String, Failure> {
    let event = &config.event;
    let sources = config.sources.iter().map(|(name, source)| {
        let attributes = source.attributes(name);
        let feed = source.feed.as_deref();
        let feed = feed.map(|feed| json!([feed.binary, feed.events, feed.rules, feed.event]));
        (
            name.clone(),
            json!([feed, attributes.source, attributes.type_prefix]),
        )
    });
    let sources: Map<String, Value> = sources.collect();
    let redaction = read_redaction(&event.redact, event.pseudonymise.as_ref(), "event").await?;
    let fields = config.named_fields();
    let mut frames = Frames::new(&fields);
    let positions = frames.event(SAMPLE).expect("the constant SAMPLE is an event");
    let sample = sample_event(SAMPLE, positions);
    let mut redacted = EventBuf::default();
    // An event that cannot be redacted is published by no member.
    let sample = redaction.apply(&sample, &mut redacted).unwrap_or(sample);
    let mut sinks = Map::new();
    for (name, sink) in &config.sinks {
        let common = &sink.common;
        let settings = match sink.config.in_cluster() {
            InCluster::Shared { settings, .. } => Some(format!("{settings:032x}")),
            InCluster::OwnDestination | InCluster::Unsupported(_) => None,
        };
        let place = format!("sinks.{name}");
        let redaction = read_redaction(&common.redact, common.pseudonymise.as_ref(), &place).await?;
        let mut redacted = EventBuf::default();
        let redacted = redaction.apply(&sample, &mut redacted);
        let preview = redacted.map(|sample| sink.config.preview(&sample, &SpoolId::from_bytes([0; 16])));
        let sink = json!({
            "type": sink.config.type_name(),
            "filter": common.filter,
            "redact": common.redact,
            "pseudonymise": common.pseudonymise.as_ref().map(|of| &of.fields),
            "key": redaction.key_digest(),
            "settings": settings,
            "preview": preview.ok(),
        });
        sinks.insert(name.clone(), sink);
    }
    let mut published = json!({
        // A member with connected sources would be a second connection beside the leader's.
        "standby": config.cluster.as_ref().map(|cluster| cluster.standby),
        "sources": sources,
        "filter": event.filter,
        "redact": event.redact,
        "pseudonymise": event.pseudonymise.as_ref().map(|of| &of.fields),
        "key": redaction.key_digest(),
        "sinks": sinks,
    });
    remove_defaults(&mut published);
    published.sort_all_objects();
    Ok(format!("{:032x}", identity::body_hash(&published.to_string())))
}

/// Removes `null` and `false`, the values of keys that are not set, so that a key added by a later version changes no hash.
fn remove_defaults(value: &mut Value) {
    match value {
        Value::Object(table) => {
            table.values_mut().for_each(remove_defaults);
            table.retain(|_, value| !matches!(value, Value::Null | Value::Bool(false)));
        }
        Value::Array(items) => items.iter_mut().for_each(remove_defaults),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
