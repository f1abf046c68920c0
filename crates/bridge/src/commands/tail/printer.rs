//! The output of a tail: frames, lines for people, or a sink's messages.

use std::io::{self, ErrorKind, IsTerminal, Write};

use neurobridge_core::{cloudevents::push_one_line, event::Event, foreign_text};
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::line;
use crate::{
    preview::Preview,
    task::joined,
    terminal::{self, Paint, Style},
};

/// Formats the events of a batch.
pub(super) struct Printer<'a> {
    format: OutputFormat<'a>,
    is_terminal: bool,
    paint: Paint,
    text: String,
    /// Whether no message with headers has been written yet. An empty line precedes each further one.
    is_first: bool,
}

enum OutputFormat<'a> {
    /// The stored frame, one JSON object a line.
    Frame,
    /// A line for people.
    Line { shows_source: bool },
    /// The message that a sink would send.
    Message(Box<Preview<'a>>),
    /// The message that a sink would send, as one JSON object per line.
    MessageJson(Box<Preview<'a>>),
}

impl<'a> Printer<'a> {
    /// Creates a printer for standard output. `shows_source`: events come from more than one source, so each line names
    /// its source.
    pub(super) fn new(preview: Option<Preview<'a>>, json: bool, raw: bool, shows_source: bool) -> Self {
        let is_terminal = io::stdout().is_terminal();
        let format = match preview {
            Some(preview) if json => OutputFormat::MessageJson(Box::new(preview)),
            Some(preview) => OutputFormat::Message(Box::new(preview)),
            None if raw || !is_terminal => OutputFormat::Frame,
            None => OutputFormat::Line { shows_source },
        };
        Self {
            format,
            is_terminal,
            paint: Paint::of(&io::stdout()),
            text: String::new(),
            is_first: true,
        }
    }

    /// Adds the output for an event. Returns false if the filter of the previewed sink rejects the event.
    pub(super) fn add(&mut self, event: &Event<'_>) -> bool {
        match &self.format {
            OutputFormat::Frame => {
                let mut line = String::with_capacity(event.frame.len() + 1);
                push_one_line(event.frame, &mut line);
                line.push('\n');
                self.push(&line);
            }
            OutputFormat::Line { shows_source } => {
                let columns = terminal::size().0;
                let line = line::of(event, *shows_source, columns, self.paint);
                self.text.push_str(&line);
            }
            OutputFormat::Message(preview) => {
                let Some(message) = preview.message(event) else {
                    return false;
                };
                self.push_message(&message);
            }
            OutputFormat::MessageJson(preview) => {
                let Some(message) = preview.message(event) else {
                    return false;
                };
                let line = json_of(&message);
                self.push(&line);
            }
        }
        true
    }

    /// Writes the pending output to standard output and waits while the pipe is full. Returns false if the reader has closed the
    /// pipe.
    pub(super) async fn write(&mut self) -> io::Result<bool> {
        if self.text.is_empty() {
            return Ok(true);
        }
        let text = std::mem::take(&mut self.text);
        let written = joined(
            tokio::task::spawn_blocking(move || {
                let mut stdout = io::stdout().lock();
                stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
            })
            .await,
        );
        match written {
            Ok(()) => Ok(true),
            // `neurobridge tail | head` is not an error.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn push(&mut self, text: &str) {
        if self.is_terminal {
            self.text.push_str(&foreign_text::escape_lines(text));
        } else {
            self.text.push_str(text);
        }
    }

    /// Adds a message. An empty line separates a message with headers from the previous one; header names are coloured.
    fn push_message(&mut self, message: &str) {
        let Some((head, body)) = message.split_once("\n\n") else {
            self.push(message);
            return;
        };
        if !std::mem::take(&mut self.is_first) {
            self.text.push('\n');
        }
        for header in head.lines() {
            let (name, value) = header.split_once(": ").unwrap_or((header, ""));
            let name = foreign_text::escape(name);
            self.text.push_str(&self.paint.paint(Style::Cyan, &name));
            self.text.push_str(": ");
            self.text.push_str(&foreign_text::escape(value));
            self.text.push('\n');
        }
        self.text.push('\n');
        self.push(body);
    }
}

/// Returns a message as one JSON object on one line, with its line break: `head` has the fields before the empty line
/// (destination, key, headers), `body` is the message body: as JSON if it is valid JSON, otherwise as a string. Programs read this
/// format, so it must stay compatible.
fn json_of(message: &str) -> String {
    let (head, body) = message.split_once("\n\n").unwrap_or(("", message));
    let head: Map<String, Value> = head
        .lines()
        .map(|line| {
            let (name, value) = line.split_once(": ").unwrap_or((line, ""));
            (name.to_owned(), value.into())
        })
        .collect();
    let body = body.strip_suffix('\n').unwrap_or(body);
    let mut line = format!("{{\"head\":{},\"body\":", Value::from(head));
    if serde_json::from_str::<IgnoredAny>(body).is_ok() {
        push_one_line(body, &mut line);
    } else {
        line.push_str(&Value::from(body).to_string());
    }
    line.push_str("}\n");
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_is_one_line_of_json() {
        insta::assert_snapshot!(
            json_of("topic: a\nkey: p: \"1\"\n\n{\"n\":\n1.50}\n"),
            @r#"{"head":{"key":"p: \"1\"","topic":"a"},"body":{"n": 1.50}}"#
        );
        insta::assert_snapshot!(json_of("{\"id\":\"7\"}\n"), @r#"{"head":{},"body":{"id":"7"}}"#);
        insta::assert_snapshot!(
            json_of("a dead letter: too \"large\"\n"),
            @r#"{"head":{},"body":"a dead letter: too \"large\""}"#
        );
    }
}
