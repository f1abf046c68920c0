//! From an event to a message: subject, headers, payload.

use std::fmt::Write;

use async_nats::{HeaderMap, HeaderName};
use neurobridge_core::{
    cloudevents::{self, DATA_CONTENT_TYPE, STRUCTURED_CONTENT_TYPE, percent_encode},
    dead_letter::DeadLetter,
    event::Event,
    identity::{self, SpoolId},
    sink::{Rejection, RejectionReason},
    template::Template,
};

use crate::{
    config::{Format, Mode, NatsConfig},
    subject,
};

/// The attribute that names the fields that were taken out.
const STRIPPED: &str = "strippedfields";
/// Its header without CloudEvents.
const RAW_STRIPPED: &str = "neurobridge-strippedfields";
/// The attribute that names the replay that a message is part of.
const REPLAY: &str = "replay";
/// Its header without CloudEvents.
const RAW_REPLAY: &str = "neurobridge-replay";
/// By this JetStream knows a message again that is sent twice.
const MESSAGE_ID: &str = "Nats-Msg-Id";

/// The first line of the headers, and the empty line behind them.
const HEADERS_OVERHEAD: usize = "NATS/1.0\r\n\r\n".len();
/// What stands between name and value, and behind the value.
const HEADER_OVERHEAD: usize = ": \r\n".len();
/// JetStream takes 64 KiB. Half of it, because with strict order the id stands in the next message's headers as well.
const MAX_HEADERS: usize = 32_000;

/// Makes messages of events.
#[derive(Debug)]
pub(crate) struct Encoder {
    format: Format,
    has_id: bool,
    template: Template,
    replay: Option<String>,
    structured: String,
    scratch: String,
}

/// A message, its payload borrowed from event and encoder. The rest is the client's own to take.
#[derive(Debug)]
pub(crate) struct Message<'a> {
    pub(crate) subject: String,
    pub(crate) headers: Headers,
    /// The id in the headers, for JetStream.
    pub(crate) id: Option<String>,
    pub(crate) payload: &'a str,
}

/// Headers, and how many bytes they take.
#[derive(Debug)]
pub(crate) struct Headers {
    pub(crate) map: HeaderMap,
    pub(crate) size: usize,
}

impl NatsConfig {
    /// The message that the sink would send for an event, as text for people: subject and headers a line each, an empty
    /// line, the payload. What a server's limit would change, and what strict order adds, is not known here.
    pub fn preview(&self, event: &Event<'_>, spool: &SpoolId) -> String {
        match Encoder::new(self).encode(event, spool, None) {
            Ok(message) => message.describe(),
            Err(rejection) => format!("a dead letter: {}", rejection.detail),
        }
    }
}

impl Encoder {
    pub(crate) fn new(config: &NatsConfig) -> Self {
        Self {
            format: config.format,
            has_id: config.mode == Mode::Jetstream,
            template: config.subject.clone(),
            replay: None,
            structured: String::new(),
            scratch: String::new(),
        }
    }

    /// From now on all messages are part of this replay.
    pub(crate) fn set_replay(&mut self, run: &str) {
        self.replay = Some(run.to_owned());
    }

    /// Makes the message of an event. `stripped` names the fields that were taken out of it, if any were.
    ///
    /// # Errors
    /// The server would take it for an attack and close the connection, or its headers are more than a stream stores.
    pub(crate) fn encode<'a>(
        &'a mut self,
        event: &Event<'a>,
        spool: &SpoolId,
        stripped: Option<&str>,
    ) -> Result<Message<'a>, Rejection> {
        let subject = self.subject(event)?;
        let mut headers = Headers::default();
        let id = self.has_id.then(|| {
            self.scratch.clear();
            identity::write_identity(event, spool, &mut self.scratch);
            let mut id = percent_encode(&self.scratch).into_owned();
            if let Some(run) = &self.replay {
                // Under its own id the server would take it for a duplicate and swallow it.
                id.push_str(";replay=");
                id.push_str(&percent_encode(run));
            }
            id
        });
        if let Some(id) = &id {
            headers.add(MESSAGE_ID, id.clone());
        }
        match self.format {
            Format::Cloudevents => self.add_attributes(event, spool, stripped, &mut headers),
            Format::CloudeventsJson => headers.add("content-type", STRUCTURED_CONTENT_TYPE.into()),
            Format::Raw => {
                if let Some(fields) = stripped {
                    headers.add(RAW_STRIPPED, percent_encode(fields).into_owned());
                }
                if let Some(run) = &self.replay {
                    headers.add(RAW_REPLAY, percent_encode(run).into_owned());
                }
            }
        }
        if headers.size > MAX_HEADERS {
            return Err(Rejection {
                reason: RejectionReason::TooLarge,
                detail: format!(
                    "found headers of {} bytes, expected at most {MAX_HEADERS}",
                    headers.size
                ),
            });
        }
        let payload = match self.format {
            Format::Cloudevents => event.data(),
            Format::CloudeventsJson => self.structured(event, spool, stripped),
            Format::Raw => event.frame,
        };
        Ok(Message {
            subject,
            headers,
            id,
            payload,
        })
    }

    fn subject(&self, event: &Event<'_>) -> Result<String, Rejection> {
        let mut subject = String::with_capacity(64);
        self.template
            .render_name(event, subject::is_token_character, &mut subject);
        if subject.len() > subject::MAX_LENGTH {
            return Err(Rejection {
                reason: RejectionReason::Unrenderable,
                detail: format!(
                    "found a subject of {} bytes, expected at most {}: a field in it is too long",
                    subject.len(),
                    subject::MAX_LENGTH
                ),
            });
        }
        Ok(subject)
    }

    /// Attributes as headers, after the NATS binding of CloudEvents: the working draft of 1.0.3, the first that has
    /// headers and encodes their values.
    fn add_attributes(
        &mut self,
        event: &Event<'_>,
        spool: &SpoolId,
        stripped: Option<&str>,
        headers: &mut Headers,
    ) {
        cloudevents::attributes(event, spool, &mut self.scratch, |name, value| {
            headers.add_named(header_name(name), percent_encode(value).into_owned());
        });
        headers.add("ce-datacontenttype", DATA_CONTENT_TYPE.into());
        if let Some(fields) = stripped {
            headers.add_named(header_name(STRIPPED), percent_encode(fields).into_owned());
        }
        if let Some(run) = &self.replay {
            headers.add_named(header_name(REPLAY), percent_encode(run).into_owned());
        }
    }

    fn structured(&mut self, event: &Event<'_>, spool: &SpoolId, stripped: Option<&str>) -> &str {
        self.structured.clear();
        cloudevents::write_structured(event, spool, &mut self.scratch, &mut self.structured);
        let ours = [(STRIPPED, stripped), (REPLAY, self.replay.as_deref())];
        for (name, value) in ours.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            // Among the attributes, before all that comes from them: the object begins with a brace.
            let attribute = format!("\"{name}\":{},", serde_json::Value::from(value));
            self.structured.insert_str(1, &attribute);
        }
        &self.structured
    }
}

/// Makes the message of a dead letter.
pub(crate) fn dead_letter<'a>(
    subject: &str,
    letter: &DeadLetter<'a>,
    sink: &str,
    spool: &SpoolId,
    mode: Mode,
) -> Message<'a> {
    let mut headers = Headers::default();
    let id = (mode == Mode::Jetstream).then(|| format!("dead-letter/{sink}/{spool}:{}", letter.sequence));
    if let Some(id) = &id {
        headers.add(MESSAGE_ID, id.clone());
    }
    headers.add("content-type", DATA_CONTENT_TYPE.into());
    Message {
        subject: subject.to_owned(),
        headers,
        id,
        payload: letter.json,
    }
}

/// `ce-` and the attribute's name. Names are case-sensitive on the wire.
fn header_name(attribute: &str) -> HeaderName {
    HeaderName::from_static(match attribute {
        "specversion" => "ce-specversion",
        "id" => "ce-id",
        "source" => "ce-source",
        "type" => "ce-type",
        "time" => "ce-time",
        "sequence" => "ce-sequence",
        STRIPPED => "ce-strippedfields",
        REPLAY => "ce-replay",
        other => return header_name_of_another(other),
    })
}

/// For an attribute that is added later and forgotten above: slower, and right all the same.
fn header_name_of_another(attribute: &str) -> HeaderName {
    use async_nats::header::IntoHeaderName;

    format!("ce-{attribute}").into_header_name()
}

impl Default for Headers {
    fn default() -> Self {
        Self {
            map: HeaderMap::new(),
            size: HEADERS_OVERHEAD,
        }
    }
}

impl Headers {
    /// Adds a header; the client takes no line breaks in its value, which percent-encoding or its making rules out.
    pub(crate) fn add(&mut self, name: &'static str, value: String) {
        self.size += name.len() + value.len() + HEADER_OVERHEAD;
        self.map.insert(HeaderName::from_static(name), value);
    }

    fn add_named(&mut self, name: HeaderName, value: String) {
        let name_length = AsRef::<str>::as_ref(&name).len();
        self.size += name_length + value.len() + HEADER_OVERHEAD;
        self.map.insert(name, value);
    }

    /// A line each, sorted: the map has no order.
    pub(crate) fn lines(&self) -> String {
        let mut lines: Vec<_> = self
            .map
            .iter()
            .flat_map(|(name, values)| values.iter().map(move |value| format!("{name}: {value}")))
            .collect();
        lines.sort();
        lines.join("\n")
    }
}

impl Message<'_> {
    /// What a server and a stream count: headers and payload.
    pub(crate) fn size(&self) -> usize {
        self.headers.size + self.payload.len()
    }

    /// As text, for people.
    fn describe(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "subject: {}", self.subject);
        let _ = write!(text, "{}\n\n{}", self.headers.lines(), self.payload);
        text
    }
}

#[cfg(test)]
mod tests;
