//! Validates a deserialised declaration, and compiles its texts and messages.

pub(crate) mod backfill;
mod request;

use std::time::Duration;

use neurobridge_core::{
    address::{Address, describe_scheme},
    positions::{MAX_PARTS, TimeFormat},
    units::format_duration,
};

use self::backfill::CompiledList;
use crate::{
    declaration::{Declaration, Heartbeat, Meaning, OpeningStep, Rule, SecretSource},
    declaration_error::DeclarationError,
    notation::{Answer, MessageTemplate, Paths, Rewind},
    text::{Allowed, Template, Text},
};

/// The shortest interval or time limit.
const SHORTEST: Duration = Duration::from_millis(10);
/// The longest interval or time limit.
const LONGEST: Duration = Duration::from_secs(86_400);

/// The compiled texts and messages of a declaration.
#[derive(Clone, Debug, Default)]
pub(crate) struct Compiled {
    pub(crate) headers: Vec<(String, Text)>,
    pub(crate) query: Vec<(String, Text)>,
    /// The message of each opening step; `None` for a step that only waits.
    pub(crate) open: Vec<Option<Template>>,
    pub(crate) ping: Option<Template>,
    /// The reply of each rule; `None` for a rule without a reply.
    pub(crate) replies: Vec<Option<Template>>,
    pub(crate) ack: Option<Template>,
    pub(crate) list: Option<CompiledList>,
}

/// Validates and compiles a declaration.
///
/// # Errors
/// Returns all configuration errors of the declaration.
pub(crate) fn compile(declaration: &Declaration) -> Result<Compiled, Vec<DeclarationError>> {
    let secrets: Vec<&str> = declaration.secrets.keys().map(String::as_str).collect();
    let mut check = Check {
        secrets: &secrets,
        errors: Vec::new(),
    };
    let mut compiled = Compiled::default();
    check.address(declaration);
    for (name, source) in &declaration.secrets {
        check.secret(name, source);
    }
    check.request(declaration, &mut compiled);
    for (index, step) in declaration.open.iter().enumerate() {
        let template = check.step(index, step);
        compiled.open.push(template);
    }
    compiled.ping = check.heartbeat(declaration);
    compiled.replies = check.rules(&declaration.rules);
    check.event(declaration);
    check.resume(declaration);
    compiled.ack = check.ack(declaration);
    compiled.list = check.backfill(declaration);
    if let Some(max_age) = declaration.max_age {
        check.time(
            &["max_age"],
            max_age,
            Duration::from_secs(60),
            Duration::from_secs(30 * 86_400),
        );
    }
    if check.errors.is_empty() {
        Ok(compiled)
    } else {
        Err(check.errors)
    }
}

/// Collects the configuration errors of a declaration.
struct Check<'a> {
    /// The names of the declared secrets.
    secrets: &'a [&'a str],
    errors: Vec<DeclarationError>,
}

impl Check<'_> {
    fn add(&mut self, key: &[&str], message: impl Into<String>) {
        self.errors.push(DeclarationError {
            key: key.iter().map(|part| (*part).to_owned()).collect(),
            message: message.into(),
            hint: None,
        });
    }

    fn time(&mut self, key: &[&str], time: Duration, shortest: Duration, longest: Duration) {
        if time < shortest || time > longest {
            let [found, from, to] = [time, shortest, longest].map(format_duration);
            self.add(key, format!("found \"{found}\", expected \"{from}\" to \"{to}\""));
        }
    }

    fn address(&mut self, declaration: &Declaration) {
        let Some(url) = &declaration.url else {
            return;
        };
        const EXPECTED: &str = "expected wss://host[:port][/path], or ws:// without TLS";
        // No error quotes a part of the address, because the address may contain a password by mistake.
        match Address::parse(url) {
            Err(error) => self.add(&["url"], format!("{error}, {EXPECTED}")),
            Ok(address) if address.user.is_some() => {
                self.add(
                    &["url"],
                    format!("found a user or password in the URL, {EXPECTED}"),
                );
            }
            Ok(address) => {
                let is_known = |scheme: &str| {
                    ["ws", "wss"]
                        .iter()
                        .any(|known| scheme.eq_ignore_ascii_case(known))
                };
                if !address.scheme.is_some_and(is_known) {
                    let found = describe_scheme(address.scheme);
                    self.add(&["url"], format!("{found}, {EXPECTED}"));
                }
            }
        }
    }

    fn secret(&mut self, name: &str, source: &SecretSource) {
        let key = ["secrets", name];
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if name.is_empty() || !name.chars().all(is_word) {
            self.add(
                &key,
                format!("found the name \"{name}\", expected letters, digits, \"_\" and \"-\""),
            );
        }
        let given = [
            source.value.is_some(),
            source.file.is_some(),
            source.variable.is_some(),
        ];
        match given.iter().filter(|is_given| **is_given).count() {
            1 => {}
            0 => self.add(
                &key,
                "missing: expected one of the keys \"file\", \"variable\" and \"value\"",
            ),
            _ => self.add(
                &key,
                "found several sources, expected one of the keys \"file\", \"variable\" and \"value\"",
            ),
        }
        if source
            .value
            .as_ref()
            .is_some_and(|value| value.expose().trim().is_empty())
        {
            self.add(
                &["secrets", name, "value"],
                "found an empty secret, expected a text of at least one character",
            );
        }
    }

    fn text(&mut self, key: &[&str], text: &str, request_id: bool) -> Option<Text> {
        let allowed = Allowed {
            secrets: self.secrets,
            request_id,
            ..Allowed::default()
        };
        Text::parse(text, allowed)
            .map_err(|message| self.add(key, message))
            .ok()
    }

    fn message(&mut self, key: &[&str], message: &MessageTemplate, values: bool) -> Option<Template> {
        let allowed = Allowed {
            secrets: self.secrets,
            request_id: true,
            values,
            ..Allowed::default()
        };
        if message.0.as_str() == Some("") {
            self.add(key, "found an empty text, expected a message");
        }
        Template::parse(message, allowed)
            .map_err(|message| self.add(key, message))
            .ok()
    }

    fn step(&mut self, index: usize, step: &OpeningStep) -> Option<Template> {
        let index = index.to_string();
        let key = |name: &'static str| ["open", &index, name].map(str::to_owned);
        let mut add = |name, message: &str| {
            self.errors.push(DeclarationError {
                key: key(name).to_vec(),
                message: message.to_owned(),
                hint: None,
            });
        };
        if step.send.is_none() && step.until.is_none() {
            add(
                "until",
                "missing: expected a message to send, an answer to wait for, or both",
            );
        }
        if step.until.is_none() {
            if step.refused.is_some() {
                add(
                    "refused",
                    "found without \"until\", expected the answer that completes the step as \"until\"",
                );
            }
            if step.answer_id.is_some() {
                add(
                    "answer_id",
                    "found without \"until\", expected the answer that completes the step as \"until\"",
                );
            }
        }
        if step.refused_text.is_some() && step.refused.is_none() {
            add(
                "refused_text",
                "found without \"refused\", expected the conditions of a refusal as \"refused\"",
            );
        }
        self.time(&["open", &index, "timeout"], step.timeout, SHORTEST, LONGEST);
        let template = step
            .send
            .as_ref()
            .and_then(|send| self.message(&["open", &index, "send"], send, false));
        let has_id = template.as_ref().is_some_and(Template::uses_request_id);
        if step.answer_id.is_some() && step.send.is_some() == template.is_some() && !has_id {
            self.add(
                &["open", &index, "answer_id"],
                "found without a request id, expected {request_id} in \"send\" of this step",
            );
        }
        template
    }

    fn heartbeat(&mut self, declaration: &Declaration) -> Option<Template> {
        let heartbeat = &declaration.heartbeat;
        if heartbeat.send.is_some() && heartbeat.websocket {
            self.add(
                &["heartbeat", "websocket"],
                "found together with \"send\", expected a message or WebSocket pings",
            );
        }
        let default = Heartbeat::default();
        for (key, is_given) in [
            ("interval", heartbeat.interval != default.interval),
            ("timeout", heartbeat.timeout != default.timeout),
        ] {
            if is_given && heartbeat.send.is_none() && !heartbeat.websocket {
                self.add(
                    &["heartbeat", key],
                    "found without a ping, expected \"send\" or \"websocket\" beside it, or \"idle_timeout\" for a server that sends the pings",
                );
            }
        }
        if heartbeat.answer.is_some() && heartbeat.send.is_none() {
            self.add(
                &["heartbeat", "answer"],
                "found without \"send\", expected the ping as \"send\"",
            );
        }
        if let Some(Answer::Text(text)) = &heartbeat.answer
            && text.is_empty()
        {
            self.add(
                &["heartbeat", "answer"],
                "found an empty text, expected the answer to a ping",
            );
        }
        self.time(&["heartbeat", "interval"], heartbeat.interval, SHORTEST, LONGEST);
        self.time(&["heartbeat", "timeout"], heartbeat.timeout, SHORTEST, LONGEST);
        if let Some(idle) = heartbeat.idle_timeout {
            self.time(&["heartbeat", "idle_timeout"], idle, SHORTEST, LONGEST);
        }
        self.message(&["heartbeat", "send"], heartbeat.send.as_ref()?, false)
    }

    fn rules(&mut self, rules: &[Rule]) -> Vec<Option<Template>> {
        let mut catch_all = None;
        let mut replies = Vec::new();
        for (index, rule) in rules.iter().enumerate() {
            let number = index.to_string();
            if let Some(earlier) = catch_all {
                self.add(
                    &["rules", &number],
                    format!("unreachable: rules.{earlier} matches everything; add `when` or `frame` to it, or move it to the end"),
                );
                catch_all = None;
            }
            if rule.when.is_some() && rule.frame.is_some() {
                self.add(
                    &["rules", &number, "frame"],
                    "found together with \"when\", expected one of them",
                );
            }
            if rule.when.is_none() && rule.frame.is_none() {
                catch_all = Some(index);
            }
            if rule.is == Meaning::Event && rule.frame.is_some() {
                self.add(
                    &["rules", &number, "frame"],
                    "found in a rule for events, expected \"when\": an event is JSON",
                );
            }
            if rule.text.is_some() && !matches!(rule.is, Meaning::Error | Meaning::End) {
                self.add(
                    &["rules", &number, "text"],
                    "found in a rule without an error or an end, expected is = \"error\" or \"end\"",
                );
            }
            match (&rule.send, rule.is) {
                (Some(_), Meaning::Reply) => {}
                (None, Meaning::Reply) => {
                    self.add(&["rules", &number, "send"], "missing: expected the reply");
                }
                (Some(_), _) => {
                    self.add(
                        &["rules", &number, "send"],
                        "found in a rule without a reply, expected is = \"reply\"",
                    );
                }
                (None, _) => {}
            }
            replies.push(
                rule.send
                    .as_ref()
                    .and_then(|send| self.message(&["rules", &number, "send"], send, false)),
            );
        }
        if !rules.iter().any(|rule| rule.is == Meaning::Event) {
            self.add(
                &["rules"],
                "found no rule for events, expected at least one with is = \"event\"",
            );
        }
        replies
    }

    fn event(&mut self, declaration: &Declaration) {
        for (key, paths) in [("id", &declaration.event.id), ("key", &declaration.event.key)] {
            let count = paths.iter().flat_map(Paths::iter).count();
            if count > MAX_PARTS {
                self.add(
                    &["event", key],
                    format!("found {count} paths, expected {MAX_PARTS} or fewer"),
                );
            }
        }
        if let Some(events) = &declaration.events
            && !events.is_of_frame()
            && events.steps().iter().any(|step| &**step == "$")
        {
            self.add(
                &["events"],
                format!("found \"{events}\", expected \"$\" alone, or the path of an array"),
            );
        }
        let prefix = declaration.event.type_prefix.as_deref().unwrap_or_default();
        if prefix.contains(|c: char| c.is_whitespace() || c.is_control()) {
            self.add(
                &["event", "type_prefix"],
                "found a blank, expected a text such as \"com.example.\"",
            );
        }
    }

    fn resume(&mut self, declaration: &Declaration) {
        let Some(resume) = &declaration.resume else {
            return;
        };
        if resume.query.is_empty() {
            self.add(
                &["resume", "query"],
                "found an empty name, expected the name of a query parameter",
            );
        }
        if declaration.request.query.contains_key(&resume.query) {
            self.add(
                &["resume", "query"],
                format!(
                    "found \"{}\", which \"request.query\" also contains, expected it in one place",
                    resume.query
                ),
            );
        }
        match (resume.rewind, resume.unit) {
            (Some(Rewind::Time(_)), None) => {
                let units = ["rfc3339", "s", "ms", "us", "ns"].join("\", \"");
                self.add(
                    &["resume", "unit"],
                    format!(
                        "missing: a rewind by a time needs the unit of the value, expected one of \"{units}\""
                    ),
                );
            }
            (Some(Rewind::Number(_)), Some(TimeFormat::Text)) => self.add(
                &["resume", "rewind"],
                "found a number, expected a time such as \"5s\" for a value with a unit",
            ),
            _ => {}
        }
    }

    fn ack(&mut self, declaration: &Declaration) -> Option<Template> {
        let ack = declaration.ack.as_ref()?;
        if ack.max_batch == 0 || ack.max_batch > 10_000 {
            self.add(
                &["ack", "max_batch"],
                format!("found {}, expected 1 to 10000", ack.max_batch),
            );
        }
        let template = self.message(&["ack", "send"], &ack.send, true)?;
        match (template.uses_value(), template.uses_values()) {
            (false, false) => self.add(
                &["ack", "send"],
                "found no value of the event, expected \"{value}\", \"{value:json}\" or \"{values:json}\" in the message",
            ),
            (true, true) => self.add(
                &["ack", "send"],
                "found both {value} and {values:json}, expected one of them",
            ),
            (false, true) if ack.cumulative => self.add(
                &["ack", "cumulative"],
                "found together with {values:json}, expected {value}: the last acknowledgement includes all earlier events",
            ),
            _ => {}
        }
        Some(template)
    }
}

/// Returns whether a text is a token of HTTP (RFC 9110, 5.6.2).
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

#[cfg(test)]
mod tests;
