//! Encodes an event as a record: topic, key, headers, value.

use std::{borrow::Cow, fmt::Write};

use neurobridge_core::{
    cloudevents::{self, DATA_CONTENT_TYPE, REPLAY, STRIPPED, STRUCTURED_CONTENT_TYPE},
    event::Event,
    identity::{self, SpoolId},
    sink_config::Format,
    template::Template,
};
use rdkafka::message::{Header, OwnedHeaders};

use crate::config::{KafkaConfig, MAX_TOPIC_LENGTH, is_topic_character};

/// The header for [`STRIPPED`] in records without CloudEvents.
const RAW_STRIPPED: &str = "neurobridge_strippedfields";
/// The header for [`REPLAY`] in records without CloudEvents.
const RAW_REPLAY: &str = "neurobridge_replay";

/// The header with the identity of an event, by which the members of a cluster recognise their copies.
pub(crate) const IDENTITY: &str = "neurobridge_identity";

/// The upper bound on the bytes of a record and its batch in addition to key, headers and value.
const RECORD_OVERHEAD: usize = 61 + 40;
/// The upper bound on the bytes that encode the lengths of a header's name and value.
const HEADER_OVERHEAD: usize = 10;

/// Encodes events as records. Reuses its buffers, so that a record costs no allocations except those of librdkafka.
#[derive(Debug)]
pub(crate) struct Encoder {
    format: Format,
    topic: Rendered,
    key: Rendered,
    replay: Option<String>,
    /// Whether each record has the header [`IDENTITY`].
    has_identity: bool,
    structured: String,
    scratch: String,
}

/// A template and the text last rendered from it; for a constant template the text never changes.
#[derive(Debug)]
struct Rendered {
    template: Template,
    is_constant: bool,
    text: String,
}

/// A record that borrows from the event and the encoder.
#[derive(Debug)]
pub(crate) struct Record<'a> {
    pub(crate) topic: &'a str,
    /// `None` is the null key: a placeholder text would send all events without a key to one partition.
    pub(crate) key: Option<&'a str>,
    pub(crate) headers: Option<OwnedHeaders>,
    pub(crate) value: &'a str,
    /// An upper bound on the uncompressed size in a batch of its own, in bytes.
    pub(crate) size: usize,
}

impl Encoder {
    pub(crate) fn new(config: &KafkaConfig) -> Self {
        Self {
            format: config.format,
            topic: Rendered::new(&config.topic),
            key: Rendered::new(&config.key),
            replay: None,
            has_identity: false,
            structured: String::new(),
            scratch: String::new(),
        }
    }

    /// Marks all following records as part of this replay.
    pub(crate) fn set_replay(&mut self, run: &str) {
        self.replay = Some(run.to_owned());
    }

    /// Adds the header [`IDENTITY`] to all following records.
    pub(crate) const fn add_identity(&mut self) {
        self.has_identity = true;
    }

    /// Encodes an event as a record. `stripped` names the fields that were removed from the event, if any.
    pub(crate) fn encode<'a>(
        &'a mut self,
        event: &Event<'a>,
        spool: &SpoolId,
        stripped: Option<&str>,
    ) -> Record<'a> {
        self.topic.render_topic(event);
        let has_key = self.key.render_key(event);
        let (mut headers, value) = match self.format {
            Format::Cloudevents => (self.binary_headers(event, spool, stripped), event.body()),
            Format::CloudeventsJson => {
                self.structured.clear();
                let ours = [(REPLAY, self.replay.as_deref()), (STRIPPED, stripped)];
                cloudevents::write_structured(event, spool, &ours, &mut self.scratch, &mut self.structured);
                let mut headers = Headers::with_capacity(1);
                headers.add("content-type", STRUCTURED_CONTENT_TYPE);
                (headers, self.structured.as_str())
            }
            Format::Raw => {
                let mut headers = Headers::none();
                let ours = [(RAW_STRIPPED, stripped), (RAW_REPLAY, self.replay.as_deref())];
                for (name, value) in ours.into_iter().filter_map(|(name, value)| Some((name, value?))) {
                    headers.list.get_or_insert_with(OwnedHeaders::new);
                    headers.add(name, value);
                }
                (headers, event.frame)
            }
        };
        if self.has_identity {
            self.scratch.clear();
            identity::write_identity(event, spool, &mut self.scratch);
            headers.list.get_or_insert_with(OwnedHeaders::new);
            headers.add(IDENTITY, &self.scratch);
        }
        let key = has_key.then_some(self.key.text.as_str());
        Record {
            topic: &self.topic.text,
            key,
            value,
            size: RECORD_OVERHEAD + key.map_or(0, str::len) + headers.size + value.len(),
            headers: headers.list,
        }
    }

    /// Encodes the attributes as headers, according to the Kafka binding of CloudEvents 1.0.
    fn binary_headers(&mut self, event: &Event<'_>, spool: &SpoolId, stripped: Option<&str>) -> Headers {
        let own = usize::from(stripped.is_some()) + usize::from(self.replay.is_some());
        let mut headers = Headers::with_capacity(7 + own);
        headers.add("content-type", DATA_CONTENT_TYPE);
        cloudevents::attributes(event, spool, &mut self.scratch, |name, value| {
            headers.add(&header_name(name), value);
        });
        if let Some(fields) = stripped {
            headers.add(&header_name(STRIPPED), fields);
        }
        if let Some(run) = &self.replay {
            headers.add(&header_name(REPLAY), run);
        }
        headers
    }
}

impl Rendered {
    fn new(template: &Template) -> Self {
        Self {
            is_constant: template.constant().is_some(),
            text: template.constant().unwrap_or_default().to_owned(),
            template: template.clone(),
        }
    }

    fn render_topic(&mut self, event: &Event<'_>) {
        if self.is_constant {
            return;
        }
        self.text.clear();
        self.template
            .render_name(event, is_topic_character, &mut self.text);
        if self.text.len() > MAX_TOPIC_LENGTH {
            // Each character is a single byte: values are restricted to the characters of topic names, and the literal parts were
            // checked.
            let end = (0..=MAX_TOPIC_LENGTH)
                .rfind(|end| self.text.is_char_boundary(*end))
                .unwrap_or_default();
            self.text.truncate(end);
        }
        // Kafka rejects these two names.
        if self.text == "." || self.text == ".." {
            self.text = "_".repeat(self.text.len());
        }
    }

    /// Renders the key and returns whether there is one. An empty key counts as none: it would be the same for all such events.
    fn render_key(&mut self, event: &Event<'_>) -> bool {
        if !self.is_constant {
            self.text.clear();
            if !self.template.render_complete(event, &mut self.text) {
                return false;
            }
        }
        !self.text.is_empty()
    }
}

/// The headers for librdkafka, and their size in a record.
struct Headers {
    list: Option<OwnedHeaders>,
    size: usize,
}

impl Headers {
    const fn none() -> Self {
        Self { list: None, size: 0 }
    }

    fn with_capacity(headers: usize) -> Self {
        Self {
            list: Some(OwnedHeaders::new_with_capacity(headers)),
            size: 0,
        }
    }

    fn add(&mut self, key: &str, value: &str) {
        self.size += key.len() + value.len() + HEADER_OVERHEAD;
        self.list = self.list.take().map(|list| {
            list.insert(Header {
                key,
                value: Some(value),
            })
        });
    }
}

/// Returns `ce_` and the attribute's name. Allocates nothing for the attributes that every event has.
fn header_name(attribute: &str) -> Cow<'static, str> {
    Cow::Borrowed(match attribute {
        "specversion" => "ce_specversion",
        "id" => "ce_id",
        "source" => "ce_source",
        "type" => "ce_type",
        "time" => "ce_time",
        "sequence" => "ce_sequence",
        other => return Cow::Owned(format!("ce_{other}")),
    })
}

/// Encodes a dead letter as a record.
pub(crate) fn dead_letter<'a>(topic: &'a str, json: &'a str) -> Record<'a> {
    let mut headers = Headers::with_capacity(1);
    headers.add("content-type", DATA_CONTENT_TYPE);
    Record {
        topic,
        key: None,
        value: json,
        size: RECORD_OVERHEAD + headers.size + json.len(),
        headers: headers.list,
    }
}

/// Formats a record as human-readable text.
pub(crate) fn describe(record: &Record<'_>) -> String {
    use neurobridge_core::foreign_text::escape;
    use rdkafka::message::Headers;

    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "topic: {}", escape(record.topic));
    let _ = writeln!(text, "key: {}", record.key.map_or("(none)".into(), escape));
    for header in record.headers.iter().flat_map(|headers| headers.iter()) {
        let value = header.value.map(String::from_utf8_lossy).unwrap_or_default();
        let _ = writeln!(text, "{}: {}", escape(header.key), escape(&value));
    }
    let _ = write!(text, "\n{}", record.value);
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use neurobridge_core::{event::Sequence, strip::Stripped, testing};
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn event(sequence: u64, frame: &str) -> Event<'_> {
        Event {
            sequence: Sequence::new(sequence).unwrap(),
            received_at: "2026-01-02T03:04:06Z".parse().unwrap(),
            ..testing::event(frame)
        }
    }

    const FRAME: &str = r#"{"id":7,"data":{"id":7,"created":"2026-01-02T03:04:05Z","result":"new","pid":"2f1c","source":{"id":3,"name":"Tür"},"space":{"id":5,"name":"a b"},"face_image":"https://x/y.jpg","später":[1]}}"#;

    fn encoder(format: Format, topic: &str, key: &str) -> Encoder {
        let mut config = KafkaConfig::new("localhost");
        config.format = format;
        config.topic = topic.parse().unwrap();
        config.key = key.parse().unwrap();
        Encoder::new(&config)
    }

    fn rendered(format: Format, frame: &str, stripped: Option<&str>) -> String {
        let mut encoder = encoder(format, "neuroio.entries", "{pid}");
        describe(&encoder.encode(&event(42, frame), &SpoolId::from_bytes([0x11; 16]), stripped))
    }

    #[test]
    fn event_is_encoded_in_each_format() {
        insta::assert_snapshot!("cloudevents", rendered(Format::Cloudevents, FRAME, None));
        insta::assert_snapshot!("cloudevents_json", rendered(Format::CloudeventsJson, FRAME, None));
        insta::assert_snapshot!("raw", rendered(Format::Raw, FRAME, None));
    }

    #[test]
    fn preview_escapes_control_characters() {
        let frame = r#"{"id":7,"data":{"pid":"a\u001b[2J\nkey: b\u202e"}}"#;
        let text = rendered(Format::Raw, frame, None);
        assert!(text.contains("\nkey: a\\u{1b}[2J\\nkey: b\\u{202e}\n"), "{text}");
    }

    #[test]
    fn event_without_fields_has_no_key_and_no_time() {
        insta::assert_snapshot!(rendered(Format::Cloudevents, r#"{"data":{"result":null}}"#, None));
    }

    #[test]
    fn stripped_event_is_marked_in_each_format() {
        for (name, format) in [
            ("stripped_cloudevents", Format::Cloudevents),
            ("stripped_cloudevents_json", Format::CloudeventsJson),
            ("stripped_raw", Format::Raw),
        ] {
            let stripped = Stripped::of(&event(42, FRAME)).unwrap();
            let event = event(42, FRAME);
            let event = stripped.event(&event);
            let mut encoder = encoder(format, "neuroio.entries", "{pid}");
            let record = encoder.encode(&event, &SpoolId::from_bytes([0x11; 16]), Some(&stripped.fields));
            if format == Format::CloudeventsJson {
                let json: serde_json::Value = serde_json::from_str(record.value).unwrap();
                assert_eq!(json["strippedfields"], "face_image");
            }
            insta::assert_snapshot!(name, describe(&record));
        }
    }

    #[test]
    fn topic_and_key_are_rendered_from_fields() {
        let both = |topic: &str, key: &str, frame: &str| {
            let mut encoder = encoder(Format::Raw, topic, key);
            let event = event(1, frame);
            let record = encoder.encode(&event, &SpoolId::from_bytes([0; 16]), None);
            (record.topic.to_owned(), record.key.map(str::to_owned))
        };
        assert_eq!(
            both("e.{space.name}.{source.name}", "{space.id}:{result}", FRAME),
            ("e.a_b.T_r".into(), Some("5:new".into()))
        );
        // A field without a value becomes a placeholder in the topic; the key is then null.
        assert_eq!(
            both("e.{age}", "{result}-{age}", FRAME),
            ("e.unknown".into(), None)
        );
        assert_eq!(both("e", "", FRAME).1, None);
        assert_eq!(both("e", "all", FRAME).1, Some("all".into()));
        assert_eq!(both("e", "{pid}", r#"{"data":{"pid":""}}"#).1, None);
        assert_eq!(both("{x}", "k", r#"{"data":{"x":".."}}"#).0, "__");
        assert_eq!(
            both(
                "{x}",
                "k",
                &format!(r#"{{"data":{{"x":"{}"}}}}"#, "y".repeat(300))
            )
            .0
            .len(),
            MAX_TOPIC_LENGTH
        );
    }

    proptest! {
        #[test]
        fn rendered_topic_is_always_valid(value in any::<String>()) {
            let frame = serde_json::json!({ "data": { "x": value } }).to_string();
            let mut encoder = encoder(Format::Raw, "{x}", "{x}");
            let event = event(1, &frame);
            let record = encoder.encode(&event, &SpoolId::from_bytes([0; 16]), None);
            prop_assert!(!record.topic.is_empty() && record.topic.len() <= MAX_TOPIC_LENGTH);
            prop_assert!(record.topic.chars().all(is_topic_character) && record.topic != "." && record.topic != "..");
            prop_assert_eq!(record.key, Some(value.as_str()).filter(|value| !value.is_empty()));
        }
    }
}
