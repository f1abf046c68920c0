//! A declared list of past events, without I/O: renders the requests, and reads the answers.

use jiff::Timestamp;
use neurobridge_core::{
    address::{self, Address},
    json,
    positions::TimeFormat,
    secret::Secret,
};
use serde::de::IgnoredAny;

use crate::{
    action::Action,
    backfill::{BackfillList, PageType},
    check::{
        self,
        backfill::{CompiledList, Origin},
    },
    declaration::Declaration,
    declaration_error::DeclarationError,
    interpreter::Interpreter,
    percent,
    text::{Secrets, Text, Values},
};

/// The number of characters of an answer that an error shows.
const SHOWN_CHARS: usize = 60;

/// A declared list of past events.
#[derive(Clone, Debug)]
pub struct EventList {
    list: BackfillList,
    compiled: CompiledList,
    /// Interprets the frame of an entry like a frame of the feed.
    feed: Interpreter,
}

/// The part of a list to request: the time of a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListWindow {
    /// The start, for `{from}`.
    pub from: Timestamp,
    /// The end, for `{to}`.
    pub to: Timestamp,
    /// The id of the last event before the start, for `{last_id}`.
    pub last_id: Option<String>,
}

/// A position in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Position {
    /// The start.
    First,
    /// After this number of entries.
    Offset(u64),
    /// The page with this number.
    Page(u64),
    /// The position named by the cursor in the previous answer.
    Cursor(String),
}

/// One page of a list.
#[derive(Debug)]
pub struct ListPage {
    /// The entries, in the order of the list.
    pub entries: Vec<ListEntry>,
    /// The link or the cursor of the next page.
    pub next: Option<String>,
}

/// The meaning of an entry, according to the rules of the feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListEntry {
    /// An event.
    Event {
        /// The identity.
        id: String,
        /// The time of the event.
        time: Option<Timestamp>,
        /// The frame that the feed would have sent.
        frame: String,
    },
    /// An event without an id.
    WithoutId,
    /// A rule ignores the entry.
    Ignored,
    /// Anything else: no rule for events matches, or the frame of the entry has several events.
    NoEvent,
}

/// Why an answer is not a page of the list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// The answer is not JSON.
    #[error("the answer is not JSON")]
    NotJson,
    /// The answer contains no array at the path of the list.
    #[error("found {found} at \"backfill.list\" ({path})")]
    NoArray {
        /// A description of the value at the path.
        found: String,
        /// The path.
        path: String,
    },
}

/// A link to another server, which is not followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the next page is at {found}, and the list at {expected}; expected the same scheme, host and port, because the secrets are sent nowhere else"
)]
pub struct OtherOrigin {
    /// The address of the next page.
    pub found: String,
    /// The address of the list.
    pub expected: String,
}

impl EventList {
    /// Compiles the list of a declaration; `None` if it declares none.
    ///
    /// # Errors
    /// All configuration errors of the declaration.
    pub fn new(declaration: &Declaration) -> Result<Option<Self>, Vec<DeclarationError>> {
        let compiled = check::compile(declaration)?;
        let (Some(list), Some(compiled)) = (declaration.backfill.clone(), compiled.list) else {
            return Ok(None);
        };
        let mut feed = Interpreter::new(declaration.clone(), &[])?;
        feed.skip_opening();
        Ok(Some(Self { list, compiled, feed }))
    }

    /// Returns the declaration.
    pub const fn declaration(&self) -> &BackfillList {
        &self.list
    }

    /// Returns scheme, host and port: `https://host[:port]`.
    pub fn origin(&self) -> &str {
        &self.compiled.address
    }

    /// Returns whether a request needs the id of the last event before the gap, because no `{from}` selects the start.
    pub fn needs_last_id(&self) -> bool {
        !self.texts().any(|text| text.uses_window()[0])
    }

    /// Returns whether a request contains the id of the last event before the gap, if that id is known.
    pub fn uses_last_id(&self) -> bool {
        self.texts().any(|text| text.uses_window()[2])
    }

    fn texts(&self) -> impl Iterator<Item = &Text> {
        let query = self.compiled.query.iter().map(|(_, text)| text);
        query.chain([&self.compiled.path])
    }

    /// Returns the headers of a request.
    pub fn headers(&self, secrets: &Secrets) -> Vec<(String, Secret)> {
        let values = values(secrets, [""; 3], &[]);
        let render = |(name, text): &(String, Text)| {
            let mut value = String::new();
            text.render(&values, &mut value);
            (name.clone(), Secret::new(value))
        };
        self.compiled.headers.iter().map(render).collect()
    }

    /// Returns path and query of a request. `limit` is the number of entries to request.
    pub fn target(
        &self,
        window: &ListWindow,
        position: &Position,
        limit: Option<u32>,
        secrets: &Secrets,
    ) -> String {
        let (from, to) = (
            written(window.from, self.list.unit, false),
            written(window.to, self.list.unit, true),
        );
        let last_id = window.last_id.as_deref();
        let texts = [&*from, &*to, last_id.unwrap_or_default()];
        let encoded = texts.map(percent::segment);
        let mut target = String::new();
        let in_path = encoded.each_ref().map(String::as_str);
        self.compiled
            .path
            .render(&values(secrets, in_path, &[]), &mut target);
        let mut query: Vec<(String, String)> = Vec::new();
        let known = |text: &Text| last_id.is_some() || !text.uses_window()[2];
        for (name, text) in self.compiled.query.iter().filter(|(_, text)| known(text)) {
            let mut value = String::new();
            text.render(&values(secrets, texts, &[]), &mut value);
            query.push((name.clone(), value));
        }
        if let Some(pages) = &self.list.pages {
            let value = match position {
                Position::First => None,
                Position::Offset(number) | Position::Page(number) => Some(number.to_string()),
                Position::Cursor(cursor) => Some(cursor.clone()),
            };
            if let (Some(name), Some(value)) = (pages.parameter(), value) {
                query.retain(|(known, _)| known != name);
                query.push((name.to_owned(), value));
            }
            if let Some(limit) = limit {
                query.push((pages.limit_parameter().to_owned(), limit.to_string()));
            }
        }
        for (index, (name, value)) in query.iter().enumerate() {
            target.push(if index == 0 { '?' } else { '&' });
            target.push_str(&percent::pair(name, value));
        }
        target
    }

    /// Returns path and query of the page that a link names in the answer to the request for `target`.
    ///
    /// # Errors
    /// The link names another server, which must not receive the secrets.
    pub fn follow(&self, target: &str, link: &str) -> Result<String, OtherOrigin> {
        let other = |found: String| OtherOrigin {
            found,
            expected: self.compiled.address.clone(),
        };
        let link = link.split('#').next().unwrap_or_default();
        if link.contains(|c: char| c.is_control() || c == ' ' || c == '\\' || !c.is_ascii()) {
            return Err(other(
                "an address with characters that no URL contains".to_owned(),
            ));
        }
        let path = target.split('?').next().unwrap_or_default();
        if let Some(rest) = link.strip_prefix("//") {
            let scheme = if self.compiled.origin.is_tls {
                "https"
            } else {
                "http"
            };
            return self.follow(target, &format!("{scheme}://{rest}"));
        }
        if link.starts_with('/') {
            return Ok(link.to_owned());
        }
        if link.starts_with('?') {
            return Ok(format!("{path}{link}"));
        }
        if !link.split('?').next().is_some_and(|path| path.contains("://")) {
            // A colon before the first slash ends a scheme.
            let first = link.split(['/', '?']).next().unwrap_or_default();
            if first.contains(':') {
                return Err(other("an address with another scheme".to_owned()));
            }
            let folder = path.rfind('/').map_or("/", |end| &path[..=end]);
            return Ok(format!("{folder}{link}"));
        }
        let address = Address::parse(link).map_err(|_| other(address::shown(link)))?;
        if Origin::of(&address).as_ref() != Some(&self.compiled.origin) {
            return Err(other(address::shown(link)));
        }
        Ok(match address.rest {
            rest if rest.starts_with('/') => rest.to_owned(),
            rest => format!("/{rest}"),
        })
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// The answer is not JSON, or has no array at the path of the list. Null at the path of the list is an empty list.
    pub fn read(&mut self, body: &[u8]) -> Result<ListPage, ListError> {
        let text = str::from_utf8(body).map_err(|_| ListError::NotJson)?.trim();
        serde_json::from_str::<IgnoredAny>(text).map_err(|_| ListError::NotJson)?;
        let path = self.list.list.as_ref();
        let mut found = path.map_or(Some(text), |path| path.of(text, text));
        if path.is_some() && found == Some("null") {
            found = Some("[]");
        }
        let Some(array) = found.filter(|found| found.starts_with('[')) else {
            return Err(ListError::NoArray {
                found: found.map_or_else(|| "nothing".to_owned(), described),
                path: path.map_or_else(|| "the answer itself".to_owned(), ToString::to_string),
            });
        };
        let mut entries = Vec::new();
        json::any_element(array, |entry| {
            entries.push(read_entry(&self.compiled, &mut self.feed, entry));
            false
        });
        let next = match &self.list.pages {
            Some(pages) if pages.kind == PageType::Next => pages.path.as_ref(),
            _ => None,
        };
        let next = next.and_then(|path| json::text(path.of(text, text)?));
        Ok(ListPage {
            entries,
            next: next
                .filter(|next| !next.is_empty() && next != "false")
                .map(Into::into),
        })
    }
}

fn read_entry(compiled: &CompiledList, feed: &mut Interpreter, entry: &str) -> ListEntry {
    let frame = match &compiled.frame {
        Some(template) => template
            .render(&values(&Secrets::new(), [""; 3], &[entry]))
            .into_text(),
        None => entry.to_owned(),
    };
    let mut read = ListEntry::NoEvent;
    let mut actions = 0;
    feed.receive(&frame, &mut |action| {
        actions += 1;
        read = match action {
            // A frame with several actions is not exactly one event, so the entry has no id.
            _ if actions > 1 => ListEntry::NoEvent,
            Action::Event(event) => match event.id() {
                Some(id) => ListEntry::Event {
                    id: id.into_owned(),
                    time: event.time(),
                    frame: String::new(),
                },
                None => ListEntry::WithoutId,
            },
            Action::Ignore | Action::Alive => ListEntry::Ignored,
            _ => ListEntry::NoEvent,
        };
    });
    match read {
        ListEntry::Event { id, time, .. } => ListEntry::Event { id, time, frame },
        other => other,
    }
}

const fn values<'a>(secrets: &'a Secrets, window: [&'a str; 3], events: &'a [&'a str]) -> Values<'a> {
    Values {
        secrets,
        request_id: 0,
        events,
        window,
    }
}

/// Describes a value for an error.
fn described(value: &str) -> String {
    let kind = match value.as_bytes().first() {
        Some(b'{') => "a table",
        Some(b'"') => "a text",
        _ => return value.chars().take(SHOWN_CHARS).collect(),
    };
    kind.to_owned()
}

/// Returns a time in the format of the list. A fraction of the unit is rounded so that the window grows: down for the start,
/// up for the end.
fn written(time: Timestamp, unit: TimeFormat, is_end: bool) -> String {
    match unit.nanoseconds() {
        None => time.to_string(),
        Some(length) => {
            let length = i128::from(length);
            let extra = if is_end { length - 1 } else { 0 };
            (time.as_nanosecond() + extra).div_euclid(length).to_string()
        }
    }
}

#[cfg(test)]
mod tests;
