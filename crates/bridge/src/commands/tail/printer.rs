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
    look: Look<'a>,
    is_terminal: bool,
    paint: Paint,
    text: String,
    /// Whether output was written before: messages of several lines are separated.
    is_first: bool,
}

enum Look<'a> {
    /// The stored frame, one JSON object a line.
    Frame,
    /// A line for people.
    Line { names_feed: bool },
    /// The message that a sink would send.
    Message(Box<Preview<'a>>),
    /// The same as one JSON object a line.
    MessageJson(Box<Preview<'a>>),
}

impl<'a> Printer<'a> {
    /// Creates a printer for standard output. `names_feed`: events come from more than one source.
    pub(super) fn new(preview: Option<Preview<'a>>, json: bool, raw: bool, names_feed: bool) -> Self {
        let is_terminal = io::stdout().is_terminal();
        let look = match preview {
            Some(preview) if json => Look::MessageJson(Box::new(preview)),
            Some(preview) => Look::Message(Box::new(preview)),
            None if raw || !is_terminal => Look::Frame,
            None => Look::Line { names_feed },
        };
        Self {
            look,
            is_terminal,
            paint: Paint::of(&io::stdout()),
            text: String::new(),
            is_first: true,
        }
    }

    /// Adds the output for an event; returns false when there is none.
    pub(super) fn add(&mut self, event: &Event<'_>) -> bool {
        match &self.look {
            Look::Frame => {
                let mut line = String::with_capacity(event.frame.len() + 1);
                push_one_line(event.frame, &mut line);
                line.push('\n');
                self.push(&line);
            }
            Look::Line { names_feed } => {
                let columns = terminal::size().0;
                let line = line::of(event, *names_feed, columns, self.paint);
                self.text.push_str(&line);
            }
            Look::Message(preview) => {
                let Some(message) = preview.message(event) else {
                    return false;
                };
                self.push_message(&message);
            }
            Look::MessageJson(preview) => {
                let Some(message) = preview.message(event) else {
                    return false;
                };
                let line = json_of(&message);
                self.push(&line);
            }
        }
        true
    }

    /// Writes to standard output, and waits while a pipe is full; returns false when it is closed.
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

    /// Adds a message. A message with headers is separated from the previous one by an empty line, and its headers have a
    /// colour of their own.
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
/// (destination, key, headers), `body` is JSON where it is, otherwise a text. A stable interface.
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
