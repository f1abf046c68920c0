//! Prints the meaning of received frames, for `check --frames`.

use std::{fs, io, path::Path};

use anyhow::Context;
use neurobridge_core::{
    cloudevents, event::Event, event_buf::EventBuf, foreign_text::clean_to, identity::SpoolId,
    redact::Redaction,
};
use neurobridge_protocol::{Action, Declaration, FeedEvent, Paths};

use super::event::source_named;
use crate::{
    config::Config,
    exit::{Exit, Failure, OrExit, chain},
    frames::StoredFrameReader,
    preview::Preview,
    redaction::redaction,
    table::Table,
};

/// The largest length of an id, key or text in the table, in characters.
const MAX_CHARS: usize = 60;
const REPLIED: &str = "is answered with a message";

/// Reads the frames in `file`, one per line, as a connection of the source does, and returns a table of their meanings. The
/// exit code is that of a configuration error if a frame is malformed.
///
/// # Errors
/// The source does not exist, or the file cannot be read.
pub(super) fn classify(
    config: &Config,
    source: Option<&str>,
    file: &Path,
) -> Result<(String, Exit), Failure> {
    let source = source_named(config, source)?;
    let frames = if file == Path::new("-") {
        io::read_to_string(io::stdin())
    } else {
        fs::read_to_string(file)
    };
    let frames = frames
        .with_context(|| format!("--frames: {} cannot be read", file.display()))
        .or_exit(Exit::Usage)?;
    let mut reader = StoredFrameReader::new(config, source)?;
    reader.begin();
    let destinations = Destinations::new(config)?;
    let sinks = config.sinks.keys().map(|name| format!("to {name}"));
    let head = ["line", "meaning", "id", "time", "key", "type"].map(str::to_owned);
    let mut table = Table::new(head.into_iter().chain(sinks));
    let (mut events, mut malformed) = (0_u64, 0_u64);
    let declaration = config.sources.get(source).and_then(|source| source.feed.as_ref());
    let mut missing: Vec<Field> = declaration.map(|feed| fields(feed)).unwrap_or_default();
    let attributes = reader.attributes().clone();
    // A script of the simulator has comments and faults, which begin with "#".
    let lines = frames.lines().enumerate();
    for (index, frame) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        let mut rows: Vec<Vec<String>> = Vec::new();
        let before = reader.step();
        reader.read(frame, &mut |action| {
            rows.push(match &action {
                Action::Event(event) => {
                    events += 1;
                    missing.retain(|field| !(field.has_value)(event));
                    destinations.row(&attributes.event(source, event), event)
                }
                Action::Malformed(_, reason) => {
                    malformed += 1;
                    vec![format!("malformed: {}", chain(reason))]
                }
                action => vec![meaning(action)],
            });
        });
        if let Some(step) = before.filter(|before| reader.step() != Some(*before)) {
            let text = format!("completes step {} of the opening", step + 1);
            // A message sent at the end of a step begins the next step: it is no reply to a request of the feed.
            match rows.iter().position(|row| row[..] == [REPLIED]) {
                Some(index) => rows[index] = vec![text],
                None if rows.is_empty() => rows.push(vec![text]),
                None => {}
            }
        }
        for row in rows {
            table.row(std::iter::once((index + 1).to_string()).chain(row));
        }
    }
    let exit = if malformed > 0 { Exit::Config } else { Exit::Ok };
    let summary = format!(
        "{}, {}",
        count(events, "event"),
        count(malformed, "malformed frame")
    );
    let mut text = format!("{table}\n{summary}\n");
    for field in missing.iter().filter(|_| events > 0) {
        text.push_str(&format!(
            "warning: \"feed.{}\" ({}) has no value in any event\n",
            field.key, field.paths
        ));
    }
    Ok((text, exit))
}

/// A key of a declaration that names a value of each event.
struct Field {
    key: &'static str,
    paths: String,
    has_value: fn(&FeedEvent<'_>) -> bool,
}

/// Returns the declared keys that name values of events.
fn fields(feed: &Declaration) -> Vec<Field> {
    let joined = |paths: &Paths| {
        let texts: Vec<String> = paths.iter().map(ToString::to_string).collect();
        texts.join(", ")
    };
    let event = &feed.event;
    let mut fields = Vec::new();
    let mut add = |key, paths: Option<String>, has_value: fn(&FeedEvent<'_>) -> bool| {
        fields.extend(paths.map(|paths| Field {
            key,
            paths,
            has_value,
        }));
    };
    add("event.id", event.id.as_ref().map(joined), |event| {
        event.id().is_some()
    });
    add(
        "event.time",
        event.time.as_ref().map(|time| time.path.to_string()),
        |event| event.time().is_some(),
    );
    add(
        "event.type",
        event.kind.as_ref().map(ToString::to_string),
        |event| event.kind().is_some(),
    );
    add("event.key", event.key.as_ref().map(joined), |event| {
        event.key().is_some()
    });
    add(
        "resume.value",
        feed.resume.as_ref().map(|resume| resume.value.to_string()),
        |event| event.resume.is_some(),
    );
    add(
        "ack.value",
        feed.ack.as_ref().map(|ack| ack.value.to_string()),
        |event| event.ack.is_some(),
    );
    fields
}

/// Formats a number with its noun, in the plural unless the number is 1.
fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Returns the meaning of a frame that is not an event, for display. Texts of the feed are shortened; messages are not shown,
/// because they may contain secrets.
fn meaning(action: &Action<'_>) -> String {
    let with_text = |meaning: &str, text: &str| format!("{meaning}: {}", clean_to(text, MAX_CHARS));
    match action {
        Action::Event(_) | Action::Malformed(..) => String::new(),
        Action::Alive => "alive".to_owned(),
        Action::Ready => "completes the opening".to_owned(),
        Action::Refused(text) => with_text("refuses the connection", text),
        Action::UnexpectedAnswer(text) => with_text("unexpected answer to a ping", text),
        Action::Error(text) => with_text("error", text),
        Action::Ended(text) => with_text("ends the connection", text),
        Action::Reply(_) => REPLIED.to_owned(),
        Action::Ignore => "ignored".to_owned(),
    }
}

/// The previews of all sinks, which contain the topics and subjects of events.
struct Destinations<'a> {
    config: &'a Config,
    redaction: Redaction,
    previews: Vec<(&'a str, Preview<'a>)>,
}

impl<'a> Destinations<'a> {
    fn new(config: &'a Config) -> Result<Self, Failure> {
        let previews = config.sinks.keys().map(|name| {
            let preview = Preview::new(config, name, SpoolId::from_bytes([0; 16]))?;
            Ok((name.as_str(), preview))
        });
        Ok(Self {
            config,
            redaction: redaction(&config.event.redact, config.event.pseudonymise.as_ref(), "event")?,
            previews: previews.collect::<Result<_, Failure>>()?,
        })
    }

    /// Returns the cells of an event: meaning, id, time, key, type, and the destination at each sink.
    fn row(&self, event: &Event<'_>, found: &FeedEvent<'_>) -> Vec<String> {
        let shown =
            |text: Option<&str>| text.map_or_else(|| "-".to_owned(), |text| clean_to(text, MAX_CHARS));
        let mut kind = None;
        cloudevents::attributes(
            event,
            &SpoolId::from_bytes([0; 16]),
            &mut String::new(),
            |name, value| {
                if name == "type" {
                    kind = Some(value.to_owned());
                }
            },
        );
        let mut cells = vec![
            "event".to_owned(),
            shown(found.id().as_deref()),
            shown(found.time().map(|time| time.to_string()).as_deref()),
            shown(found.key().as_deref()),
            shown(kind.as_deref()),
        ];
        let mut redacted = EventBuf::default();
        let stored = if self.config.event.filter.matches(event) {
            self.redaction.apply(event, &mut redacted).ok()
        } else {
            None
        };
        for (name, preview) in &self.previews {
            let message = stored.as_ref().and_then(|event| preview.message(event));
            cells.push(match &message {
                None => "filtered".to_owned(),
                Some(message) => self.destination(name, message),
            });
        }
        cells
    }

    /// Returns the topic or subject of a rendered message, which is in its first line; for other sinks the configured
    /// destination.
    fn destination(&self, sink: &str, message: &str) -> String {
        let first = message.lines().next().unwrap_or_default();
        match first.split_once(": ") {
            Some(("topic" | "subject", destination)) => destination.to_owned(),
            _ => self.config.sinks[sink].config.destination(&self.config.data_dir),
        }
    }
}
