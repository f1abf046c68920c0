//! Interprets a declaration on successive connections.

use std::time::Duration;

use neurobridge_core::{
    event::FieldPath,
    json::{Span, text},
    path::Path,
    positions::PositionsBuf,
};

use crate::{
    action::{Action, ConnectionRequest, MalformedReason, Ping},
    check::{self, Compiled},
    declaration::{Declaration, Meaning},
    declaration_error::DeclarationError,
    elements::Elements,
    fields::{CompiledConditions, EventSlots, Unit, UnitReader, ValuePaths},
    notation::{Answer, Conditions, FeedPath},
    percent,
    protocol::Pings,
    resume,
    text::{Message, Secrets, Values},
};

/// The maximum number of bytes of a returned text of the feed. The caller searches a shorter part for secrets, and shows a
/// shorter part only.
pub(crate) const MAX_TEXT_BYTES: usize = 16 * 1024;

/// The place of a unit in its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The unit is the whole frame.
    Frame,
    /// The unit is the only element of the array of events.
    Element,
}

/// The phase of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Waits for the answer to the opening step with this index.
    Opening(usize),
    Ready,
    Refused,
}

/// The interpreter of a declared feed, with the state of its connection.
#[derive(Clone, Debug)]
pub struct Interpreter {
    declaration: Declaration,
    compiled: Compiled,
    tests: Tests,
    /// The slot of the array of events.
    events: Option<usize>,
    event_slots: EventSlots,
    /// Reads frames.
    frames: UnitReader,
    /// Reads elements of the array of events, each in its own text.
    elements: UnitReader,
    secrets: Secrets,
    phase: Phase,
    /// The request id of the last message that contains one; 0 before the first.
    request_id: u64,
    /// The request id of the last opening message that contains one. Differs from `request_id` after replies with request
    /// ids were sent during the opening.
    awaited_id: u64,
    spans: Vec<Span>,
    positions: PositionsBuf,
    /// The text of an element.
    scratch: String,
}

/// The conditions of a declaration.
#[derive(Clone, Debug)]
struct Tests {
    /// `until` and `refused` of each opening step.
    open: Vec<(Option<CompiledConditions>, Option<CompiledConditions>)>,
    /// The answer to a ping.
    answer: Option<CompiledConditions>,
    /// The conditions of each rule.
    rules: Vec<Option<CompiledConditions>>,
}

impl Tests {
    fn new(declaration: &Declaration, paths: &mut ValuePaths) -> Self {
        let mut compile = |when: &Option<Conditions>| when.as_ref().map(|when| paths.compile(when));
        Self {
            open: declaration
                .open
                .iter()
                .map(|step| (compile(&step.until), compile(&step.refused)))
                .collect(),
            rules: declaration.rules.iter().map(|rule| compile(&rule.when)).collect(),
            answer: match &declaration.heartbeat.answer {
                Some(Answer::Conditions(when)) => Some(paths.compile(when)),
                _ => None,
            },
        }
    }
}

impl Interpreter {
    /// Compiles a declaration. The positions of `fields`, which filters and templates name, are found in each event.
    ///
    /// # Errors
    /// All configuration errors of the declaration.
    pub fn new(declaration: Declaration, fields: &[FieldPath]) -> Result<Self, Vec<DeclarationError>> {
        let compiled = check::compile(&declaration)?;
        let mut value_paths = ValuePaths::default();
        let tests = Tests::new(&declaration, &mut value_paths);
        let event_slots = EventSlots {
            resume: declaration
                .resume
                .as_ref()
                .map(|resume| value_paths.of(&resume.value)),
            ack: declaration.ack.as_ref().map(|ack| value_paths.of(&ack.value)),
        };
        let events = declaration.events.as_ref().map(|path| value_paths.of(path));
        let array = declaration.events.iter().flat_map(FeedPath::steps).cloned();
        let element = Path::new(array).join(&Path::new(["0"]));
        Ok(Self {
            frames: UnitReader::new(&declaration, &value_paths, fields, &Path::default()),
            elements: UnitReader::new(&declaration, &value_paths, fields, &element),
            compiled,
            tests,
            events,
            event_slots,
            declaration,
            secrets: Secrets::new(),
            phase: Phase::Opening(0),
            request_id: 0,
            awaited_id: 0,
            spans: Vec::new(),
            positions: PositionsBuf::default(),
            scratch: String::new(),
        })
    }

    /// Returns the declaration.
    pub fn declaration(&self) -> &Declaration {
        &self.declaration
    }

    /// Returns the request of the next connection. `last` is the resume value of the last event that is stored, as the feed
    /// wrote it.
    pub fn request(&self, secrets: &Secrets, last: Option<&str>) -> ConnectionRequest {
        let values = Values {
            secrets,
            request_id: 0,
            events: &[],
            window: Default::default(),
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
            .map(|(name, value)| percent::pair(name, value))
            .collect();
        ConnectionRequest {
            headers: self.compiled.headers.iter().map(render).collect(),
            query: pairs.join("&"),
            subprotocols: self.declaration.request.subprotocols.clone(),
        }
    }

    /// Starts a connection with the current secrets, and returns the messages to send at once.
    pub fn begin(&mut self, secrets: Secrets) -> Vec<Message> {
        self.secrets = secrets;
        self.request_id = 0;
        self.awaited_id = 0;
        self.phase = Phase::Opening(0);
        let mut messages = Vec::new();
        self.enter(0, &mut |message| messages.push(message));
        messages
    }

    /// Completes the opening without a connection.
    pub(crate) const fn skip_opening(&mut self) {
        self.phase = Phase::Ready;
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

    pub(crate) fn pings(&self) -> Pings {
        let heartbeat = &self.declaration.heartbeat;
        let has_pings = heartbeat.websocket || self.compiled.ping.is_some();
        Pings {
            interval: has_pings.then_some(heartbeat.interval),
            timeout: heartbeat.timeout,
            idle_timeout: heartbeat.idle_timeout,
            websocket: heartbeat.websocket,
            any_frame_answers: !heartbeat.websocket && heartbeat.answer.is_none(),
        }
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

    /// Returns the messages that acknowledge events. `values` are the acknowledgement values of durable events, as written by the
    /// feed and in its order. Returns no messages for a feed without acknowledgements.
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

    /// Interprets a frame, and calls `act` with each action that it requires, in order.
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
        let mut spans = std::mem::take(&mut self.spans);
        match self.frames.read(frame, &mut spans) {
            Ok(()) => self.json(frame, &mut spans, act),
            Err(error) => act(Action::Malformed(frame, MalformedReason::NotJson(error))),
        }
        self.spans = spans;
    }

    /// Interprets a frame of JSON, whose values are at `spans`.
    fn json(&mut self, frame: &str, spans: &mut Vec<Span>, act: &mut dyn FnMut(Action<'_>)) {
        let whole = Span {
            start: 0,
            end: frame.len() as u32,
        };
        let first_slot = self.frames.projection().paths().len();
        let array = self.events.map(|slot| spans[first_slot + slot]);
        let Some(elements) = array.and_then(|at| Elements::at(frame, at)) else {
            return self.unit(Place::Frame, frame, whole, spans, act);
        };
        if !elements.are_bounded(frame) {
            return act(Action::Malformed(frame, MalformedReason::TooManyEvents));
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut is_empty = true;
        elements.each(frame, &mut scratch, |text, element| {
            is_empty = false;
            // The text of an element is JSON, as the frame is.
            if self.elements.read(text, spans).is_ok() {
                self.unit(Place::Element, text, element, spans, act);
            }
        });
        self.scratch = scratch;
        if is_empty {
            act(Action::Ignore);
        }
    }

    /// Interprets a unit in its own text.
    fn unit(
        &mut self,
        place: Place,
        frame: &str,
        at: Span,
        spans: &mut [Span],
        act: &mut dyn FnMut(Action<'_>),
    ) {
        let (reader, can_be_event) = match place {
            Place::Frame => (&self.frames, self.events.is_none()),
            Place::Element => (&self.elements, true),
        };
        let (projected, slots) = spans.split_at_mut(reader.projection().paths().len());
        let unit = Unit { frame, at, slots };
        let is_answer = match self.answer(&unit) {
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
        if self
            .tests
            .answer
            .as_ref()
            .is_some_and(|answer| answer.holds(&unit))
        {
            return act(Action::Alive);
        }
        let mut rules = self.declaration.rules.iter().zip(&self.tests.rules);
        let rule = rules.position(|(rule, test)| {
            rule.frame.is_none()
                && (can_be_event || rule.is != Meaning::Event)
                && test.as_ref().is_none_or(|test| test.holds(&unit))
        });
        let meaning = rule.map(|index| self.declaration.rules[index].is);
        match (rule, meaning) {
            (Some(_), Some(Meaning::Event)) => {
                // An event without the declared body is published as a whole.
                if projected[0].is_absent() {
                    projected[0] = at;
                }
                let reader = match place {
                    Place::Frame => &mut self.frames,
                    Place::Element => &mut self.elements,
                };
                reader.projection().write(projected, &mut self.positions);
                reader.learn(frame);
                act(Action::Event(
                    self.event_slots.event(&unit, self.positions.positions()),
                ));
            }
            // An answer to an opening step needs no rule, and requires no further action if its rule has none.
            (None, _) | (_, Some(Meaning::Ignore | Meaning::Alive)) if is_answer => {}
            (Some(index), _) => self.apply(index, unit.text(), frame, act),
            (None, _) => act(Action::Malformed(frame, MalformedReason::NoRule)),
        }
    }

    /// Performs the action of a rule that does not declare an event.
    fn apply(&mut self, index: usize, unit: &str, frame: &str, act: &mut dyn FnMut(Action<'_>)) {
        let rule = &self.declaration.rules[index];
        match rule.is {
            Meaning::Event | Meaning::Ignore => act(Action::Ignore),
            Meaning::Alive => act(Action::Alive),
            Meaning::Error => act(Action::Error(shown(rule.text.as_ref(), unit, frame))),
            Meaning::End => act(Action::Ended(shown(rule.text.as_ref(), unit, frame))),
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

    /// Returns the index of the next opening step if a unit completes the current step, and the text of the refusal as an
    /// error if the unit refuses the connection. `None` if the unit is no answer to the current step.
    fn answer(&self, unit: &Unit<'_>) -> Option<Result<usize, String>> {
        let Phase::Opening(index) = self.phase else {
            return None;
        };
        let step = self.declaration.open.get(index)?;
        if let Some(path) = &step.answer_id {
            let id = path.of(unit.text(), unit.frame).and_then(text)?;
            if *id != self.awaited_id.to_string() {
                return None;
            }
        }
        let (until, refused) = self.tests.open.get(index)?;
        if until.as_ref().is_some_and(|until| until.holds(unit)) {
            return Some(Ok(index + 1));
        }
        let is_refusal = refused.as_ref().is_some_and(|refused| refused.holds(unit));
        is_refusal.then(|| Err(shown(step.refused_text.as_ref(), unit.text(), unit.frame)))
    }

    /// Sends the messages of the opening steps from `from` on, up to the first step that waits for an answer. Returns whether
    /// the opening is complete.
    fn enter(&mut self, from: usize, send: &mut dyn FnMut(Message)) -> bool {
        for index in from..self.declaration.open.len() {
            if let Some(Some(template)) = self.compiled.open.get(index) {
                send(render(template, &self.secrets, &mut self.request_id, &[]));
                if template.uses_request_id() {
                    self.awaited_id = self.request_id;
                }
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
        window: Default::default(),
    })
}

/// Returns the text to show: the value at the path, or the whole unit without a value.
fn shown(path: Option<&FeedPath>, unit: &str, frame: &str) -> String {
    let raw = path.and_then(|path| path.of(unit, frame)).unwrap_or(unit);
    let whole = text(raw).unwrap_or(raw.into());
    whole[..whole.floor_char_boundary(MAX_TEXT_BYTES)].to_owned()
}

#[cfg(test)]
mod tests;
