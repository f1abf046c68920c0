//! A reference interpreter of declarations and frames as parsed JSON: slow, and as simple as possible.

use serde_json::{Map, Value, json};

pub(crate) struct Reference {
    declaration: Value,
    /// The opening step that waits for an answer; `None` when the connection is ready or refused.
    step: Option<usize>,
    is_ready: bool,
    request_id: u64,
    awaited_id: u64,
}

/// A unit (a frame, or one element of the array of events), and its frame reduced to this unit.
struct Unit {
    frame: Value,
    unit: Value,
}

fn child(value: &Value, path: &str) -> Option<Value> {
    path.split('.')
        .try_fold(value.clone(), |value, step| match value {
            Value::Array(items) => items.get(step.parse::<usize>().ok()?).cloned(),
            value => value.get(step).cloned(),
        })
}

impl Unit {
    fn at(&self, path: &Value) -> Option<Value> {
        match path.as_str()? {
            "$" => Some(self.frame.clone()),
            path => match path.strip_prefix("$.") {
                Some(path) => child(&self.frame, path),
                None => child(&self.unit, path),
            },
        }
    }

    fn holds(&self, when: &Value) -> bool {
        when.as_object().unwrap().iter().all(|(path, condition)| {
            let found = self.at(&json!(path));
            let found_text = found.as_ref().and_then(text);
            let equals = |wanted: &Value| found_text.is_some() && found_text == text(wanted);
            match condition {
                Value::Array(list) => list.iter().any(equals),
                Value::Object(table) => table.iter().all(|(operator, operand)| match operator.as_str() {
                    "present" => {
                        found.as_ref().is_some_and(|value| !value.is_null()) == operand.as_bool().unwrap()
                    }
                    "not" => !equals(operand),
                    other => panic!("{other}"),
                }),
                scalar => equals(scalar),
            }
        })
    }

    /// Returns the text to show: the value at a path, or the whole unit.
    fn shown(&self, path: &Value) -> String {
        let value = self.at(path).unwrap_or_else(|| self.unit.clone());
        match value {
            Value::String(text) => super::super::canonical(&text),
            other => other.to_string(),
        }
    }

    fn join(&self, paths: &Value) -> Option<String> {
        let part = |path: &Value| {
            self.at(path)
                .as_ref()
                .and_then(text)
                .filter(|text| !text.is_empty())
        };
        match paths {
            Value::Array(paths) => {
                let parts: Option<Vec<String>> = paths.iter().map(part).collect();
                let mut parts = parts?;
                if parts.len() > 1 {
                    parts
                        .iter_mut()
                        .for_each(|part| *part = part.replace('%', "%25").replace('/', "%2F"));
                }
                Some(parts.join("/"))
            }
            path => part(path),
        }
    }

    fn time(&self, field: &Value) -> Option<String> {
        let (path, unit) = match field {
            Value::Object(table) => (&table["path"], table["unit"].as_str().unwrap()),
            path => (path, "rfc3339"),
        };
        let value = self.at(path)?;
        let factor = match unit {
            "s" => 1_000_000_000,
            "ms" => 1_000_000,
            "us" => 1_000,
            "ns" => 1,
            _ => {
                let time: jiff::Timestamp = value.as_str()?.parse().ok()?;
                return Some(time.as_nanosecond().to_string());
            }
        };
        // The vocabulary of the generator contains only integers.
        let nanoseconds = text(&value)?.parse::<i128>().ok()? * factor;
        jiff::Timestamp::from_nanosecond(nanoseconds).ok()?;
        Some(nanoseconds.to_string())
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}

impl Reference {
    pub(crate) fn new(declaration: &Value) -> Self {
        Self {
            declaration: declaration.clone(),
            step: None,
            is_ready: false,
            request_id: 0,
            awaited_id: 0,
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.is_ready
    }

    pub(crate) fn step(&self) -> Option<usize> {
        self.step
    }

    pub(crate) fn begin(&mut self) -> Vec<Value> {
        self.request_id = 0;
        self.awaited_id = 0;
        let mut sent = Vec::new();
        self.enter(0, &mut sent);
        sent
    }

    pub(crate) fn ping(&mut self) -> Option<Value> {
        let heartbeat = self.declaration["heartbeat"].clone();
        if heartbeat["websocket"] == true {
            return Some(json!("websocket"));
        }
        (!heartbeat["send"].is_null()).then(|| self.send(&heartbeat["send"], &[]))
    }

    pub(crate) fn acknowledge(&mut self, values: &[Value]) -> Vec<Value> {
        let ack = self.declaration["ack"].clone();
        let batches: Vec<Vec<Value>> = if ack.is_null() {
            Vec::new()
        } else if ack["cumulative"] == true {
            values.last().map(|last| vec![last.clone()]).into_iter().collect()
        } else {
            let size = ack["max_batch"].as_u64().map_or(1, |size| size as usize);
            values.chunks(size).map(<[Value]>::to_vec).collect()
        };
        batches
            .iter()
            .map(|batch| self.send(&ack["send"], batch))
            .collect()
    }

    pub(crate) fn receive(&mut self, text: &str) -> Vec<Value> {
        let declaration = self.declaration.clone();
        let mut actions = Vec::new();
        if declaration["heartbeat"]["answer"] == text {
            return vec![json!("alive")];
        }
        let rules = declaration["rules"].as_array().unwrap();
        if let Some(rule) = rules.iter().find(|rule| rule["frame"] == text) {
            let unit = Unit {
                frame: json!(text),
                unit: json!(text),
            };
            actions.extend(self.apply(rule, &unit));
            return actions;
        }
        let Ok(frame) = serde_json::from_str::<Value>(text) else {
            return vec![json!({ "not_json": text })];
        };
        let path = &declaration["events"];
        let whole = Unit {
            frame: frame.clone(),
            unit: frame.clone(),
        };
        match whole.at(path) {
            Some(Value::Array(elements)) => {
                for element in &elements {
                    let unit = Unit {
                        frame: only(
                            &frame,
                            path.as_str().unwrap().trim_start_matches(['$', '.']),
                            element,
                        ),
                        unit: element.clone(),
                    };
                    self.unit(&unit, true, &mut actions);
                }
                if elements.is_empty() {
                    actions.push(json!("ignore"));
                }
            }
            _ => self.unit(&whole, path.is_null(), &mut actions),
        }
        actions
    }

    fn unit(&mut self, unit: &Unit, can_be_event: bool, actions: &mut Vec<Value>) {
        let declaration = self.declaration.clone();
        let mut is_answer = false;
        if let Some(index) = self.step {
            let step = &declaration["open"][index];
            let is_own = step["answer_id"].is_null()
                || unit.at(&step["answer_id"]).as_ref().and_then(text) == Some(self.awaited_id.to_string());
            if is_own && unit.holds(&step["until"]) {
                is_answer = true;
                self.enter(index + 1, actions);
                if self.is_ready {
                    actions.push(json!("ready"));
                }
            } else if is_own && !step["refused"].is_null() && unit.holds(&step["refused"]) {
                self.step = None;
                actions.push(json!({ "refused": unit.shown(&step["refused_text"]) }));
                return;
            }
        }
        let answer = &declaration["heartbeat"]["answer"];
        if answer.is_object() && unit.holds(answer) {
            actions.push(json!("alive"));
            return;
        }
        let rule = declaration["rules"].as_array().unwrap().iter().find(|rule| {
            rule["frame"].is_null()
                && (can_be_event || rule["is"] != "event")
                && (rule["when"].is_null() || unit.holds(&rule["when"]))
        });
        match rule {
            Some(rule) if rule["is"] == "event" => actions.push(self.event(unit)),
            Some(rule) if is_answer && (rule["is"] == "ignore" || rule["is"] == "alive") => {}
            Some(rule) => actions.extend(self.apply(rule, unit)),
            None if is_answer => {}
            None => actions.push(json!({ "no_rule": unit.frame })),
        }
    }

    fn event(&self, unit: &Unit) -> Value {
        let fields = &self.declaration["event"];
        let present = |path: &Value| unit.at(path);
        json!({
            "event": unit.frame,
            "unit": unit.unit,
            "id": unit.join(&fields["id"]),
            "key": unit.join(&fields["key"]),
            "time": unit.time(&fields["time"]),
            "kind": present(&fields["type"]).as_ref().and_then(text),
            "body": present(&fields["body"]).unwrap_or_else(|| unit.unit.clone()),
            "resume": present(&self.declaration["resume"]["value"]).filter(|value| text(value).is_some()),
            "ack": present(&self.declaration["ack"]["value"]).filter(|value| !value.is_null()),
        })
    }

    fn apply(&mut self, rule: &Value, unit: &Unit) -> Option<Value> {
        Some(match rule["is"].as_str().unwrap() {
            "error" => json!({ "error": unit.shown(&rule["text"]) }),
            "end" => json!({ "ended": unit.shown(&rule["text"]) }),
            "reply" => self.send(&rule["send"], &[]),
            other => json!(other),
        })
    }

    fn enter(&mut self, from: usize, actions: &mut Vec<Value>) {
        let open = self.declaration["open"].as_array().unwrap().clone();
        self.is_ready = false;
        for (index, step) in open.iter().enumerate().skip(from) {
            if !step["send"].is_null() {
                actions.push(self.send(&step["send"], &[]));
                if step["send"].to_string().contains("{request_id") {
                    self.awaited_id = self.request_id;
                }
            }
            if !step["until"].is_null() {
                self.step = Some(index);
                return;
            }
        }
        self.step = None;
        self.is_ready = true;
    }

    /// Renders a message.
    fn send(&mut self, message: &Value, events: &[Value]) -> Value {
        if message.to_string().contains("{request_id") {
            self.request_id += 1;
        }
        let sent = match self.fill(message, events) {
            Value::String(text) => super::super::canonical(&text),
            other => other.to_string(),
        };
        json!({ "send": sent })
    }

    fn fill(&self, message: &Value, events: &[Value]) -> Value {
        let first = events.first().cloned().unwrap_or_default();
        match message {
            Value::String(written) => match written.as_str() {
                "{request_id:json}" => json!(self.request_id),
                "{secret.s:json}" => json!("hunter2"),
                "{value:json}" => first,
                "{values:json}" => json!(events),
                written => json!(
                    written
                        .replace("{request_id}", &self.request_id.to_string())
                        .replace("{secret.s}", "hunter2")
                        .replace("{value}", &text(&first).unwrap_or_default())
                ),
            },
            Value::Array(items) => items.iter().map(|item| self.fill(item, events)).collect(),
            Value::Object(keys) => keys
                .iter()
                .map(|(key, value)| (key.clone(), self.fill(value, events)))
                .collect::<Map<_, _>>()
                .into(),
            other => other.clone(),
        }
    }
}

/// Returns a frame whose array at a path contains only this element.
fn only(frame: &Value, path: &str, element: &Value) -> Value {
    let mut frame = frame.clone();
    let mut place = &mut frame;
    for step in path.split('.').filter(|step| !step.is_empty()) {
        place = match place {
            Value::Array(items) => &mut items[step.parse::<usize>().unwrap()],
            value => &mut value[step],
        };
    }
    *place = json!([element]);
    frame
}
