//! What a tail writes: frames, lines for people, or a sink's messages.

use std::io::{self, ErrorKind, IsTerminal, Write};

use neurobridge_core::{cloudevents::push_one_line, event::Event, foreign_text};

use super::line;
use crate::{
    feed::joined,
    preview::Preview,
    terminal::{self, Paint, Style},
};

/// Gathers what is to be written for the events of a batch.
pub(super) struct Printer<'a> {
    look: Look<'a>,
    is_terminal: bool,
    paint: Paint,
    text: String,
    /// Something was written before: messages of several lines are set apart.
    is_first: bool,
}

enum Look<'a> {
    /// The frame as the spool has it, one JSON object a line.
    Frame,
    /// A line for people.
    Line { names_feed: bool },
    /// What a sink would send.
    Message(Box<Preview<'a>>),
}

impl<'a> Printer<'a> {
    /// One for standard output. `names_feed`: events come from more than one source.
    pub(super) fn new(preview: Option<Preview<'a>>, raw: bool, names_feed: bool) -> Self {
        let is_terminal = io::stdout().is_terminal();
        let look = match preview {
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

    /// Adds what is to be written for an event; false when it is nothing.
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
        }
        true
    }

    /// Writes to standard output, which may be a pipe that nobody empties; false when it is closed.
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
            // `neurobridge tail | head` is no error.
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

    /// A message of one line stands by itself; one with headers is set apart from the one before by an empty line, and its
    /// headers are told from its body by their colour.
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
