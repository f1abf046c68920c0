//! Interprets a declaration on one connection after another.

use std::time::Duration;

use neurobridge_core::json::{JsonError, Span, text};

use crate::{
    check::{self, Compiled},
    declaration::{Declaration, Heartbeat, Meaning},
    fields::{self, FeedEvent, Fields},
    locate::{self, Elements},
    notation::{Answer, FeedPath},
    problem::Problem,
    resume,
    text::{Message, Secrets, Values},
};

/// The maximum number of bytes of a text of the feed: more than is searched for secrets, and so more than is shown.
const MAX_TEXT_BYTES: usize = 16 * 1024;

/// What a frame means. One frame may have several actions.
#[derive(Clone, Debug)]
pub enum Action<'a> {
    /// An event.
    Event(FeedEvent<'a>),
    /// A proof that the connection is alive: an answer to a ping, or a message of the feed's own heartbeat.
    Alive,
    /// The opening is complete.
    Ready,
    /// The feed refused the connection, with its text, which may repeat a secret.
    Refused(String),
    /// An error of the feed, with its text, which may repeat a secret.
    Error(String),
    /// A message to send: a reply, or the next step of the opening.
    Reply(Message),
    /// A message without a meaning for the bridge.
    Ignore,
    /// A text without a meaning: the frame, or the frame with only the unit that no rule matches.
    Malformed(&'a str, MalformedReason),
}

/// Why a frame is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MalformedReason {
    /// The text is not JSON.
    #[error("not JSON")]
    NotJson(#[source] JsonError),
    /// JSON that no rule of the declaration matches.
    #[error("unrecognised message, no rule of the feed matches")]
    NoRule,
}

/// A ping to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ping {
    /// A message in a text frame.
    Message(Message),
    /// A WebSocket ping.
    WebSocket,
}

/// The request that opens a connection, with its secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Prepared {
    /// Headers in addition to those of the client.
    pub headers: Vec<(String, String)>,
    /// Query parameters, encoded, without `?`; empty if there are none.
    pub query: String,
    /// Sub-protocols to offer.
    pub subprotocols: Vec<String>,
}

/// Where a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Waits for the answer of the opening step with this index.
    Opening(usize),
    Ready,
    Refused,
}

/// A declared feed and the state of its connection.
#[derive(Clone, Debug)]
pub struct Declared {
    declaration: Declaration,
    compiled: Compiled,
    paths: Vec<FeedPath>,
    fields: Fields,
    secrets: Secrets,
    phase: Phase,
    /// The number of the last message with a request id.
    request_id: u64,
    positions: Vec<Span>,
    scratch: String,
}

impl Declared {
    /// Compiles a declaration.
    ///
    /// # Errors
    /// All mistakes.
    pub fn new(declaration: Declaration) -> Result<Self, Vec<Problem>> {
        let compiled = check::compile(&declaration)?;
        let paths = fields::paths(&declaration);
        Ok(Self {
            fields: Fields::new(&declaration, &paths),
            compiled,
            paths,
            declaration,
            secrets: Secrets::new(),
            phase: Phase::Opening(0),
            request_id: 0,
            positions: Vec::new(),
            scratch: String::new(),
        })
    }

    /// Returns the declaration.
    pub fn declaration(&self) -> &Declaration {
        &self.declaration
    }

    /// Returns the paths whose positions an event has, in this order.
    pub fn paths(&self) -> &[FeedPath] {
        &self.paths
    }

    /// Returns the request of the next connection. `last` is the resume value of the last event that is stored, as the feed
    /// wrote it.
    pub fn request(&self, secrets: &Secrets, last: Option<&str>) -> Prepared {
        let values = Values {
            secrets,
            request_id: 0,
            events: &[],
        };
        let render = |(name, value): &(String, crate::text::Text)| {
            let mut text = String::new();
            value.render(&values, &mut text);
            (name.clone(), text)
        };
        let mut query: Vec<(String, String)> = self.compiled.query.iter().map(render).collect();
        if let (Some(resume), Some(last)) = (&self.declaration.resume, last)
            && let Some(value) = resume::value(resume, last)
        {
            query.push((resume.query.clone(), value));
        }
        let pairs: Vec<String> = query
            .iter()
            .map(|(name, value)| format!("{}={}", encode(name), encode(value)))
            .collect();
        Prepared {
            headers: self.compiled.headers.iter().map(render).collect(),
            query: pairs.join("&"),
            subprotocols: self.declaration.request.subprotocols.clone(),
        }
    }

    /// Starts a connection with the secrets of this moment, and returns the messages to send at once.
    pub fn begin(&mut self, secrets: Secrets) -> Vec<Message> {
        self.secrets = secrets;
        self.request_id = 0;
        self.phase = Phase::Opening(0);
        let mut messages = Vec::new();
        self.enter(0, &mut |message| messages.push(message));
        messages
    }

    /// Returns whether the opening is complete.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// Returns the index of the opening step that waits for an answer, and its time limit, which begins with the step.
    pub fn deadline(&self) -> Option<(usize, Duration)> {
        match self.phase {
            Phase::Opening(step) => Some((step, self.declaration.open.get(step)?.timeout)),
            _ => None,
        }
    }

    /// Returns the times of the heartbeat.
    pub fn heartbeat(&self) -> &Heartbeat {
        &self.declaration.heartbeat
    }

    /// Returns the next ping, which is due `interval` after the last one; `None` if the feed has no pings.
    pub fn ping(&mut self) -> Option<Ping> {
        if self.declaration.heartbeat.websocket {
            return Some(Ping::WebSocket);
        }
        let template = self.compiled.ping.as_ref()?;
        Some(Ping::Message(render(
            template,
            &self.secrets,
            &mut self.request_id,
            &[],
        )))
    }

    /// Returns the messages that acknowledge events. `values` are the acknowledgement values of events that are durable, as the
    /// feed wrote them, in order. Empty for a feed without acknowledgements.
    pub fn acknowledge(&mut self, values: &[&str]) -> Vec<Message> {
        let (Some(template), Some(ack)) = (&self.compiled.ack, &self.declaration.ack) else {
            return Vec::new();
        };
        let batches: Vec<&[&str]> = if template.uses_values() {
            values.chunks(ack.max_batch.max(1) as usize).collect()
        } else if ack.cumulative {
            values.last().map(std::slice::from_ref).into_iter().collect()
        } else {
            values.chunks(1).collect()
        };
        batches
            .into_iter()
            .map(|batch| render(template, &self.secrets, &mut self.request_id, batch))
            .collect()
    }

    /// Interprets a frame, and calls `act` for each thing that it means, in order.
    pub fn receive(&mut self, frame: &str, act: &mut dyn FnMut(Action<'_>)) {
        if let Some(Answer::Text(answer)) = &self.declaration.heartbeat.answer
            && answer == frame
        {
            return act(Action::Alive);
        }
        let plain = |rule: &crate::declaration::Rule| rule.frame.as_deref() == Some(frame);
        if let Some(index) = self.declaration.rules.iter().position(plain) {
            return self.apply(index, frame, frame, act);
        }
        if let Err(error) = locate::check(frame) {
            return act(Action::Malformed(frame, MalformedReason::NotJson(error)));
        }
        let whole = Span {
            start: 0,
            end: frame.len() as u32,
        };
        let elements = self
            .declaration
            .events
            .as_ref()
            .and_then(|path| Elements::find(frame, path));
        match elements {
            None => self.unit(frame, whole, self.declaration.events.is_none(), act),
            Some(elements) => {
                let mut scratch = std::mem::take(&mut self.scratch);
                let mut is_empty = true;
                elements.each(frame, &mut scratch, |text, element| {
                    is_empty = false;
                    self.unit(text, element, true, act);
                });
                self.scratch = scratch;
                if is_empty {
                    act(Action::Ignore);
                }
            }
        }
    }

    /// Interprets a unit in its own text.
    fn unit(&mut self, frame: &str, at: Span, can_be_event: bool, act: &mut dyn FnMut(Action<'_>)) {
        let unit = at.of(frame).unwrap_or(frame);
        let is_answer = match self.answer(unit, frame) {
            Some(Err(text)) => {
                self.phase = Phase::Refused;
                return act(Action::Refused(text));
            }
            Some(Ok(next)) => {
                let is_complete = self.enter(next, &mut |message| act(Action::Reply(message)));
                if is_complete {
                    act(Action::Ready);
                }
                true
            }
            None => false,
        };
        if let Some(Answer::When(when)) = &self.declaration.heartbeat.answer
            && when.holds(unit, frame)
        {
            return act(Action::Alive);
        }
        let rule = self.declaration.rules.iter().position(|rule| {
            rule.frame.is_none()
                && (can_be_event || rule.is != Meaning::Event)
                && rule.when.as_ref().is_none_or(|when| when.holds(unit, frame))
        });
        let meaning = rule.map(|index| self.declaration.rules[index].is);
        match (rule, meaning) {
            (Some(_), Some(Meaning::Event)) => {
                locate::locate(frame, at, &self.paths, &mut self.positions);
                act(Action::Event(FeedEvent {
                    text: frame,
                    unit: at,
                    positions: &self.positions,
                    fields: &self.fields,
                }));
            }
            // An answer that is no event needs no rule of its own.
            (None, _) | (_, Some(Meaning::Ignore | Meaning::Alive)) if is_answer => {}
            (Some(index), _) => self.apply(index, unit, frame, act),
            (None, _) => act(Action::Malformed(frame, MalformedReason::NoRule)),
        }
    }

    /// Acts as a rule says that makes no event.
    fn apply(&mut self, index: usize, unit: &str, frame: &str, act: &mut dyn FnMut(Action<'_>)) {
        let rule = &self.declaration.rules[index];
        match rule.is {
            Meaning::Event | Meaning::Ignore => act(Action::Ignore),
            Meaning::Alive => act(Action::Alive),
            Meaning::Error => act(Action::Error(shown(rule.text.as_ref(), unit, frame))),
            Meaning::Reply => {
                if let Some(Some(template)) = self.compiled.replies.get(index) {
                    act(Action::Reply(render(
                        template,
                        &self.secrets,
                        &mut self.request_id,
                        &[],
                    )));
                }
            }
        }
    }

    /// Returns whether a unit completes the current opening step, with the index of the next one, or refuses it, with its text.
    fn answer(&self, unit: &str, frame: &str) -> Option<Result<usize, String>> {
        let Phase::Opening(index) = self.phase else {
            return None;
        };
        let step = self.declaration.open.get(index)?;
        if let Some(path) = &step.answer_id {
            let id = path.of(unit, frame).and_then(text)?;
            if *id != self.request_id.to_string() {
                return None;
            }
        }
        if step.until.as_ref().is_some_and(|until| until.holds(unit, frame)) {
            return Some(Ok(index + 1));
        }
        let is_refusal = step
            .refused
            .as_ref()
            .is_some_and(|refused| refused.holds(unit, frame));
        is_refusal.then(|| Err(shown(step.refused_text.as_ref(), unit, frame)))
    }

    /// Sends the messages from a step on, up to the first one that waits for an answer. Returns whether the opening is
    /// complete.
    fn enter(&mut self, from: usize, send: &mut dyn FnMut(Message)) -> bool {
        for index in from..self.declaration.open.len() {
            if let Some(Some(template)) = self.compiled.open.get(index) {
                send(render(template, &self.secrets, &mut self.request_id, &[]));
            }
            if self.declaration.open[index].until.is_some() {
                self.phase = Phase::Opening(index);
                return false;
            }
        }
        self.phase = Phase::Ready;
        true
    }
}

fn render(
    template: &crate::text::Template,
    secrets: &Secrets,
    request_id: &mut u64,
    events: &[&str],
) -> Message {
    *request_id += u64::from(template.uses_request_id());
    template.render(&Values {
        secrets,
        request_id: *request_id,
        events,
    })
}

/// Returns a text of the feed for people: the value at the path, or the whole unit.
fn shown(path: Option<&FeedPath>, unit: &str, frame: &str) -> String {
    let raw = path.and_then(|path| path.of(unit, frame)).unwrap_or(unit);
    let whole = text(raw).unwrap_or(raw.into());
    whole[..whole.floor_char_boundary(MAX_TEXT_BYTES)].to_owned()
}

/// Encodes a name or a value of a query: what RFC 3986 allows in a query stays as it is, except `&`, `=`, `+` and `#`.
fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~!$'()*,;:@/?".contains(&byte) {
            encoded.push(byte as char);
        } else {
            use std::fmt::Write as _;
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests;
