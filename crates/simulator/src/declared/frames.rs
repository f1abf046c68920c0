//! The frames of a declared feed that are not events: taken from a script, or built from the conditions of the declaration.

use neurobridge_protocol::{
    Action, Answer, Conditions, Counterpart, Declaration, FeedPath, Interpreter, Meaning, OpeningStep,
    Secrets,
};

use super::{FeedError, build::Builder, sample::range_of, script::Line};
use crate::faults::{ERROR, REFUSAL};

/// A frame in which one value, a text or a request id, is set when the frame is sent.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    text: String,
    /// The path of this value, from the root of the frame. `None` if the frame is sent unchanged.
    value: Option<neurobridge_core::path::Path>,
    /// Whether the frame is from a script. Such a frame keeps its own text instead of a default text.
    is_scripted: bool,
}

impl Frame {
    fn new(text: String, path: Option<&FeedPath>, declaration: &Declaration) -> Self {
        let value = path.map(|path| {
            let steps = neurobridge_core::path::Path::new(path.steps().iter().cloned());
            match &declaration.events {
                Some(events) if !path.is_of_frame() && is_array(&text, events) => {
                    let events = neurobridge_core::path::Path::new(events.steps().iter().cloned());
                    events
                        .join(&neurobridge_core::path::Path::new(["0"]))
                        .join(&steps)
                }
                _ => steps,
            }
        });
        Self {
            text,
            value,
            is_scripted: false,
        }
    }

    /// Returns the frame with this text. A frame of a script keeps its own text instead of the default.
    pub(crate) fn with_text(&self, text: &str, default: &str) -> String {
        self.with(Some(text).filter(|text| !self.is_scripted || *text != default))
    }

    /// Fixes the text of the frame if the frame would lose its effect with another text.
    fn variable_if(self, has_effect: impl Fn(&str) -> bool) -> Self {
        let value = self.value.clone().filter(|_| has_effect(&self.with(Some(ERROR))));
        Self { value, ..self }
    }

    fn scripted(self) -> Self {
        Self {
            is_scripted: true,
            ..self
        }
    }

    /// Returns the frame with this value. The value is written as a JSON string if it replaces a string or is not JSON itself.
    pub(crate) fn with(&self, value: Option<&str>) -> String {
        let place = self.value.as_ref().and_then(|path| path.of(&self.text));
        let (Some(value), Some(place)) = (value, place) else {
            return self.text.clone();
        };
        let range = range_of(&self.text, place);
        let is_json = || serde_json::from_str::<serde::de::IgnoredAny>(value).is_ok();
        let value = match place.starts_with('"') || !is_json() {
            true => serde_json::Value::from(value).to_string(),
            false => value.to_owned(),
        };
        format!("{}{value}{}", &self.text[..range.start], &self.text[range.end..])
    }
}

fn is_array(frame: &str, events: &FeedPath) -> bool {
    events
        .of(frame, frame)
        .is_some_and(|array| array.starts_with('['))
}

/// An opening step, as performed by the server.
#[derive(Debug)]
pub(crate) struct Step {
    /// Whether the client sends a message first.
    pub(crate) expects_message: bool,
    pub(crate) answer: Option<Frame>,
    pub(crate) refusal: Option<Frame>,
}

/// The frames of a declared feed.
#[derive(Debug, Default)]
pub(super) struct Frames {
    pub(super) opening: Vec<Step>,
    pub(super) ping_answer: Option<String>,
    /// The heartbeat that the feed sends on its own.
    pub(super) alive: Option<String>,
    /// The ping of the feed: a message to which the client has to reply.
    pub(super) ping: Option<String>,
    pub(super) error: Option<Frame>,
    /// The lines of the script with events.
    pub(super) events: Vec<String>,
}

/// The actions of a client that a frame causes.
#[derive(Debug, Default)]
struct Effect {
    event: bool,
    alive: bool,
    reply: bool,
    error: bool,
    ended: bool,
    refused: bool,
    malformed: bool,
}

fn effect(client: &mut Interpreter, frame: &str) -> Effect {
    let mut effect = Effect::default();
    client.receive(frame, &mut |action| match action {
        Action::Event(_) => effect.event = true,
        Action::Alive => effect.alive = true,
        Action::Reply(_) => effect.reply = true,
        Action::Error(_) => effect.error = true,
        Action::Ended(_) => effect.ended = true,
        Action::Refused(_) => effect.refused = true,
        Action::Malformed(..) => effect.malformed = true,
        Action::Ready | Action::Ignore | Action::UnexpectedAnswer(_) => {}
    });
    effect
}

impl Frames {
    /// Selects the frames from the lines of a script, and builds the missing ones. Returns them with a client whose opening
    /// is complete. Each frame has its declared effect on that client.
    pub(super) fn new(
        counterpart: &Counterpart,
        secrets: &Secrets,
        script: &[Line],
    ) -> Result<(Self, Interpreter), FeedError> {
        let declaration = counterpart.declaration();
        let mut client = Interpreter::new(declaration.clone(), &[]).map_err(|problems| {
            let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
            FeedError::new(texts.join("; "))
        })?;
        let mut frames = Self::default();
        let mut used = vec![false; script.len()];
        let mut sent = client.begin(secrets.clone());
        for (index, step) in declaration.open.iter().enumerate() {
            let message = if step.send.is_some() && !sent.is_empty() {
                Some(sent.remove(0))
            } else {
                None
            };
            let request_id = message
                .and_then(|message| counterpart.opening(index, message.expose())?.request_id)
                .map(|id| id.to_string());
            let mut opening = Step {
                expects_message: step.send.is_some(),
                answer: None,
                refusal: refusal(&client, declaration, step, script, request_id.as_deref()),
            };
            if step.until.is_some() {
                let scripted = script
                    .iter()
                    .enumerate()
                    .filter(|(line, _)| !used[*line])
                    .map(|(index, line)| (Some(index), line.frame.clone()));
                let own = built(declaration, step.until.as_ref(), step.answer_id.as_ref());
                let mut candidates = scripted.chain(own.into_iter().map(|frame| (None, frame)));
                let found = candidates.find_map(|(line, text)| {
                    let frame = Frame::new(text, step.answer_id.as_ref(), declaration);
                    let mut tried = client.clone();
                    let mut replies = Vec::new();
                    let mut refused = false;
                    tried.receive(&frame.with(request_id.as_deref()), &mut |action| match action {
                        Action::Reply(message) => replies.push(message),
                        Action::Refused(_) => refused = true,
                        _ => {}
                    });
                    let waits = tried.deadline().map(|(step, _)| step);
                    (!refused && waits != Some(index)).then_some((line, frame, tried, replies))
                });
                let Some((line, frame, next, replies)) = found else {
                    return Err(FeedError::new(format!(
                        "no frame completes step {} of the opening: add one to the script (--script FILE)",
                        index + 1
                    )));
                };
                if let Some(line) = line {
                    used[line] = true;
                }
                opening.answer = Some(frame);
                client = next;
                sent = replies;
            }
            frames.opening.push(opening);
        }
        frames.classify(&client, declaration, script, &used)?;
        frames.complete(&client, declaration)?;
        Ok((frames, client))
    }

    /// Assigns the unused lines of a script according to their effects on a client.
    fn classify(
        &mut self,
        client: &Interpreter,
        declaration: &Declaration,
        script: &[Line],
        used: &[bool],
    ) -> Result<(), FeedError> {
        let unused = script.iter().zip(used).filter(|(_, is_used)| !**is_used);
        for Line { number, frame } in unused.map(|(line, _)| line) {
            let effect = effect(&mut client.clone(), frame);
            let is_refusal = declaration.open.iter().any(|step| {
                let refused = step.refused.as_ref();
                refused.is_some_and(|refused| holds(refused, frame, declaration))
            });
            if effect.event {
                self.events.push(frame.clone());
            } else if is_answer(declaration, frame) {
                self.ping_answer.get_or_insert_with(|| frame.clone());
            } else if effect.alive {
                self.alive.get_or_insert_with(|| frame.clone());
            } else if effect.reply {
                self.ping.get_or_insert_with(|| frame.clone());
            } else if effect.error {
                let mut rules = declaration.rules.iter();
                let rule = rules.find(|rule| rule.is == Meaning::Error);
                let path = rule.and_then(|rule| rule.text.as_ref());
                self.error.get_or_insert_with(|| {
                    let frame = Frame::new(frame.clone(), path, declaration).scripted();
                    frame.variable_if(|text| self::effect(&mut client.clone(), text).error)
                });
            } else if effect.malformed && !is_refusal {
                return Err(FeedError::new(format!(
                    "line {number} of the script: no rule matches {frame}"
                )));
            }
        }
        Ok(())
    }

    /// Builds the frames that the script does not contain.
    fn complete(&mut self, client: &Interpreter, declaration: &Declaration) -> Result<(), FeedError> {
        let frame_of = |meaning: Meaning, has_effect: fn(&Effect) -> bool| {
            let rules = declaration.rules.iter().filter(move |rule| rule.is == meaning);
            let mut built = rules.filter_map(|rule| {
                let frame = match &rule.frame {
                    Some(frame) => frame.clone(),
                    None => built(declaration, rule.when.as_ref(), rule.text.as_ref())?,
                };
                let is_right = has_effect(&effect(&mut client.clone(), &frame));
                is_right.then(|| {
                    let frame = Frame::new(frame, rule.text.as_ref(), declaration);
                    frame.variable_if(|text| has_effect(&effect(&mut client.clone(), text)))
                })
            });
            built.next()
        };
        if self.ping_answer.is_none() {
            self.ping_answer = match &declaration.heartbeat.answer {
                Some(Answer::Text(text)) => Some(text.clone()),
                Some(Answer::Conditions(when)) => {
                    let own = built(declaration, Some(when), None);
                    let own = own.filter(|frame| effect(&mut client.clone(), frame).alive);
                    Some(own.ok_or_else(|| {
                        FeedError::new("no frame answers a ping: add one to the script (--script FILE)")
                    })?)
                }
                None => None,
            };
        }
        if self.alive.is_none() {
            self.alive = frame_of(Meaning::Alive, |effect| effect.alive).map(|frame| frame.text);
        }
        if self.ping.is_none() {
            self.ping = frame_of(Meaning::Reply, |effect| effect.reply).map(|frame| frame.text);
        }
        if self.error.is_none() {
            self.error = frame_of(Meaning::Error, |effect| effect.error);
        }
        Ok(())
    }
}

/// Returns whether a frame is the declared answer to a ping.
fn is_answer(declaration: &Declaration, frame: &str) -> bool {
    match &declaration.heartbeat.answer {
        Some(Answer::Text(text)) => text == frame,
        Some(Answer::Conditions(when)) => holds(when, frame, declaration),
        None => false,
    }
}

/// Returns whether conditions hold for a frame, or for the first element of its array of events.
fn holds(when: &Conditions, frame: &str, declaration: &Declaration) -> bool {
    if serde_json::from_str::<serde::de::IgnoredAny>(frame).is_err() {
        return false;
    }
    let events = declaration
        .events
        .as_ref()
        .filter(|events| is_array(frame, events));
    let mut unit = None;
    if let Some(array) = events.and_then(|events| events.of(frame, frame)) {
        neurobridge_core::json::any_element(array, |element| {
            unit = Some(element);
            true
        });
    }
    when.holds(unit.unwrap_or(frame), frame)
}

/// Builds a frame that is not an event. The frame is an array with one element only if each frame of the feed is an array of
/// events.
fn built(declaration: &Declaration, when: Option<&Conditions>, text: Option<&FeedPath>) -> Option<String> {
    let mut builder = Builder::of(Some(when?));
    if let Some(path) = text {
        builder.set_default(path, ERROR.into());
    }
    let events = declaration
        .events
        .as_ref()
        .filter(|events| events.steps().is_empty());
    Some(builder.finish(events))
}

/// Returns a frame that refuses an opening step, from the script or built.
fn refusal(
    client: &Interpreter,
    declaration: &Declaration,
    step: &OpeningStep,
    script: &[Line],
    request_id: Option<&str>,
) -> Option<Frame> {
    let refused = step.refused.as_ref()?;
    let mut builder = Builder::of(Some(refused));
    for path in [&step.refused_text, &step.answer_id].into_iter().flatten() {
        builder.set_default(path, REFUSAL.into());
    }
    let events = declaration
        .events
        .as_ref()
        .filter(|events| events.steps().is_empty());
    let own = builder.finish(events);
    let frame_of = |text: String| {
        let with_id = Frame::new(text, step.answer_id.as_ref(), declaration).with(request_id);
        let is_right = effect(&mut client.clone(), &with_id).refused;
        is_right.then(|| {
            let frame = Frame::new(with_id, step.refused_text.as_ref(), declaration);
            frame.variable_if(|text| effect(&mut client.clone(), text).refused)
        })
    };
    let mut scripted = script.iter();
    scripted
        .find_map(|line| frame_of(line.frame.clone()).map(Frame::scripted))
        .or_else(|| frame_of(own))
}
