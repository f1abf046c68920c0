//! Encodes an event as a message: subject, headers, payload.

use std::{borrow::Cow, fmt::Write};

use async_nats::Subject;
use neurobridge_core::{
    cloudevents::{self, DATA_CONTENT_TYPE, REPLAY, STRIPPED, STRUCTURED_CONTENT_TYPE, percent_encode},
    dead_letter::DeadLetter,
    event::Event,
    foreign_text,
    identity::{self, SpoolId},
    sink::{Rejection, RejectionReason},
    sink_config::Format,
    template::Template,
};

use crate::{
    config::{Mode, NatsConfig},
    headers::{self, Headers},
    subject,
    subjects::Subjects,
};

/// The header for [`STRIPPED`] in messages without CloudEvents.
const RAW_STRIPPED: &str = "neurobridge-strippedfields";
/// The header for [`REPLAY`] in messages without CloudEvents.
const RAW_REPLAY: &str = "neurobridge-replay";
/// The header by which JetStream detects a duplicate.
pub(crate) const MESSAGE_ID: &str = "Nats-Msg-Id";

/// The largest headers in bytes: half of the 64 KiB that JetStream accepts, because with strict order the headers of the next
/// message contain the id as well.
const MAX_HEADERS: usize = 32_000;

/// Encodes events as messages.
#[derive(Debug)]
pub(crate) struct Encoder {
    format: Format,
    /// Whether messages of events have the header [`MESSAGE_ID`].
    has_id: bool,
    template: Template,
    subjects: Subjects,
    /// The longest subject that the server is known to accept, in bytes.
    max_subject: usize,
    /// The name of the run of a replay.
    replay: Option<String>,
    // Buffers that are reused for each message.
    structured: String,
    id: String,
    scratch: String,
}

/// A message whose payload borrows from the event and the encoder. The client takes ownership of the other parts.
#[derive(Debug)]
pub(crate) struct Message<'a> {
    pub(crate) subject: Subject,
    pub(crate) headers: Headers,
    /// The id in the headers; only for an event sent to JetStream, or in a cluster.
    pub(crate) id: Option<&'a str>,
    pub(crate) payload: &'a str,
}

impl Encoder {
    pub(crate) fn new(config: &NatsConfig) -> Self {
        Self {
            format: config.format,
            has_id: config.mode == Mode::Jetstream,
            template: config.subject.clone(),
            subjects: Subjects::default(),
            max_subject: subject::MAX_LENGTH,
            replay: None,
            structured: String::new(),
            id: String::new(),
            scratch: String::new(),
        }
    }

    /// Adds the id to all messages, also without JetStream: the members of a cluster recognise their copies by the id.
    pub(crate) const fn add_ids(&mut self) {
        self.has_id = true;
    }

    /// Marks all following messages as part of this replay.
    pub(crate) fn set_replay(&mut self, run: &str) {
        self.replay = Some(run.to_owned());
    }

    /// Encodes an event as a message. `stripped` names the fields that were removed from the event, if any.
    ///
    /// # Errors
    /// Returns a rejection if the subject is too long or reserved, or if the headers exceed [`MAX_HEADERS`].
    pub(crate) fn encode<'a>(
        &'a mut self,
        event: &Event<'a>,
        spool: &SpoolId,
        stripped: Option<&str>,
    ) -> Result<Message<'a>, Rejection> {
        let subject = self.subject(event)?;
        let mut headers = Headers::with_room(match self.format {
            Format::Cloudevents => headers::ROOM_FOR_ATTRIBUTES,
            Format::Raw | Format::CloudeventsJson => headers::ROOM_FOR_ID,
        });
        if self.has_id {
            self.scratch.clear();
            identity::write_identity(event, spool, &mut self.scratch);
            self.id.clear();
            self.id.push_str(&percent_encode(&self.scratch));
            if let Some(run) = &self.replay {
                // With the original id the server would drop the message as a duplicate.
                self.id.push_str(";replay=");
                self.id.push_str(&percent_encode(run));
            }
            headers.add(MESSAGE_ID, &self.id);
        }
        match self.format {
            Format::Cloudevents => self.add_attributes(event, spool, stripped, &mut headers),
            Format::CloudeventsJson => headers.add("content-type", STRUCTURED_CONTENT_TYPE),
            Format::Raw => {
                if let Some(fields) = stripped {
                    headers.add(RAW_STRIPPED, &percent_encode(fields));
                }
                if let Some(run) = &self.replay {
                    headers.add(RAW_REPLAY, &percent_encode(run));
                }
            }
        }
        if headers.size() > MAX_HEADERS {
            return Err(Rejection {
                reason: RejectionReason::TooLarge,
                detail: format!(
                    "found headers of {} bytes, expected at most {MAX_HEADERS}",
                    headers.size()
                ),
            });
        }
        let payload = match self.format {
            Format::Cloudevents => event.body(),
            Format::CloudeventsJson => {
                self.structured.clear();
                let extensions = [(REPLAY, self.replay.as_deref()), (STRIPPED, stripped)];
                cloudevents::write_structured(
                    event,
                    spool,
                    &extensions,
                    &mut self.scratch,
                    &mut self.structured,
                );
                &self.structured
            }
            Format::Raw => event.frame,
        };
        Ok(Message {
            subject,
            headers,
            id: self.has_id.then_some(&self.id),
            payload,
        })
    }

    fn subject(&mut self, event: &Event<'_>) -> Result<Subject, Rejection> {
        let subject = self.subjects.make(|text| {
            self.template
                .render_name(event, subject::is_token_character, text);
        });
        let detail = if subject.len() > self.max_subject {
            let limit = if self.max_subject < subject::MAX_LENGTH {
                "the server closed the connection for a longer subject: raise max_control_line of the server and \
                 restart the bridge"
            } else {
                "a field in the subject is too long"
            };
            format!(
                "found a subject of {} bytes, expected at most {}: {limit}",
                subject.len(),
                self.max_subject
            )
        } else if subject::is_reserved(&subject) {
            format!(
                "found the subject \"{subject}\", expected one that servers and clients do not use themselves"
            )
        } else {
            return Ok(subject);
        };
        Err(Rejection {
            reason: RejectionReason::Unroutable,
            detail,
        })
    }

    /// Rejects longer subjects from now on, because the server does not accept them.
    pub(crate) fn limit_subject(&mut self, max_bytes: usize) {
        self.max_subject = self.max_subject.min(max_bytes);
    }

    /// Encodes attributes as headers, according to the NATS binding of CloudEvents: the working draft of 1.0.3, the first
    /// version that has headers and encodes their values.
    fn add_attributes(
        &mut self,
        event: &Event<'_>,
        spool: &SpoolId,
        stripped: Option<&str>,
        headers: &mut Headers,
    ) {
        cloudevents::attributes(event, spool, &mut self.scratch, |name, value| {
            headers.add(header_name(name), &percent_encode(value));
        });
        headers.add("ce-datacontenttype", DATA_CONTENT_TYPE);
        if let Some(fields) = stripped {
            headers.add(header_name(STRIPPED), &percent_encode(fields));
        }
        if let Some(run) = &self.replay {
            headers.add(header_name(REPLAY), &percent_encode(run));
        }
    }
}

/// Encodes a dead letter as a message.
pub(crate) fn dead_letter<'a>(
    subject: &str,
    dead_letter: &DeadLetter<'a>,
    sink: &str,
    spool: &SpoolId,
    mode: Mode,
) -> Message<'a> {
    let mut headers = Headers::default();
    if mode == Mode::Jetstream {
        let id = format_args!("dead-letter/{sink}/{spool}:{}", dead_letter.sequence);
        headers.add_written(MESSAGE_ID, id);
    }
    headers.add("content-type", DATA_CONTENT_TYPE);
    Message {
        subject: subject.into(),
        headers,
        id: None,
        payload: dead_letter.json,
    }
}

/// Returns `ce-` and the attribute's name. Names are case-sensitive in the protocol.
fn header_name(attribute: &str) -> Cow<'static, str> {
    Cow::Borrowed(match attribute {
        "specversion" => "ce-specversion",
        "id" => "ce-id",
        "source" => "ce-source",
        "type" => "ce-type",
        "time" => "ce-time",
        "sequence" => "ce-sequence",
        STRIPPED => "ce-strippedfields",
        REPLAY => "ce-replay",
        // An attribute that is missing above costs an allocation and is still correct.
        other => return Cow::Owned(format!("ce-{other}")),
    })
}

impl Message<'_> {
    /// Returns the size that a server and a stream count: headers and payload, in bytes.
    pub(crate) fn size(&self) -> usize {
        self.headers.size() + self.payload.len()
    }

    /// Formats the message as human-readable text.
    pub(crate) fn describe(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "subject: {}", foreign_text::escape(&self.subject));
        let headers = self.headers.lines();
        let headers = foreign_text::escape_except(&headers, |c| c == '\n');
        let _ = write!(text, "{headers}\n\n{}", self.payload);
        text
    }
}

#[cfg(test)]
mod tests;
