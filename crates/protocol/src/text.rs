//! Texts with placeholders, and messages that contain such texts.

mod matching;

use std::{collections::BTreeMap, fmt, fmt::Write as _};

use neurobridge_core::{
    secret::Secret,
    suggest::{did_you_mean, nearest},
};
use serde_json::Value;

pub use self::matching::Recognised;
use crate::notation::MessageTemplate;

/// The secrets of a declaration, by name.
pub type Secrets = BTreeMap<String, Secret>;

/// A placeholder for a value in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Placeholder {
    /// `{secret.NAME}`.
    Secret(String),
    /// `{request_id}`: a number that increases with each message that contains the placeholder.
    RequestId,
    /// `{value}`: the acknowledgement value of an event.
    Value,
    /// `{values}`: the acknowledgement values of several events.
    Values,
    /// `{from}`: the time from which missed events are requested.
    From,
    /// `{to}`: the time up to which missed events are requested.
    To,
    /// `{last_id}`: the id of the last event before the gap.
    LastId,
    /// `{entry:json}`: an entry of the list of past events.
    Entry,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Text(Placeholder),
    /// A placeholder with `:json`; always the only piece of its text.
    Json(Placeholder),
}

/// The placeholders that are valid in a text.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Allowed<'a> {
    pub(crate) secrets: &'a [&'a str],
    pub(crate) request_id: bool,
    pub(crate) values: bool,
    /// `{from}`, `{to}` and `{last_id}`. Then any other word in braces is an error.
    pub(crate) window: bool,
    /// `{entry:json}`.
    pub(crate) entry: bool,
}

impl Allowed<'_> {
    /// Returns the valid placeholders of a text that is not part of a request for a list, as errors list them.
    const fn expected(&self) -> &'static str {
        match (self.request_id, self.values) {
            (false, _) => "{secret.NAME}",
            (true, false) => "{secret.NAME}, {request_id}",
            (true, true) => "{secret.NAME}, {request_id}, {value}, {values:json}",
        }
    }
}

/// A text with placeholders. Braces around any other content are literal text, as in a GraphQL query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Text(Vec<Piece>);

impl Text {
    /// Parses a text.
    ///
    /// # Errors
    /// A placeholder is mistyped or not allowed here. The error is a sentence with the found and the expected text.
    pub(crate) fn parse(text: &str, allowed: Allowed<'_>) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let (mut literal, mut rest) = (String::new(), text);
        while let Some(open) = rest.find('{') {
            let (before, from) = rest.split_at(open);
            literal.push_str(before);
            let word_end = from[1..].find(|c: char| !c.is_ascii_alphanumeric() && !"_.:-".contains(c));
            let word = word_end.and_then(|end| {
                from[1 + end..]
                    .starts_with('}')
                    .then(|| (&from[1..1 + end], &from[end + 2..]))
            });
            let Some((word, after)) = word else {
                literal.push('{');
                rest = &from[1..];
                continue;
            };
            let (name, is_json) = match word.strip_suffix(":json") {
                Some(name) => (name, true),
                None => (word, false),
            };
            match placeholder(name, allowed)? {
                None => literal.push_str(&from[..word.len() + 2]),
                Some(Placeholder::Values | Placeholder::Entry) if !is_json => {
                    return Err(format!(
                        "found {{{name}}}, expected \"{{{name}:json}}\" as the whole text"
                    ));
                }
                Some(placeholder) if is_json => {
                    if text.len() != word.len() + 2 {
                        return Err(format!(
                            "found {{{word}}} within a text, expected \"{{{word}}}\" as the whole text, or {{{name}}}"
                        ));
                    }
                    pieces.push(Piece::Json(placeholder));
                }
                Some(placeholder) => {
                    if !literal.is_empty() {
                        pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                    }
                    pieces.push(Piece::Text(placeholder));
                }
            }
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Self(pieces))
    }

    /// Returns for each of `{from}`, `{to}` and `{last_id}` whether the text contains it.
    pub(crate) fn uses_window(&self) -> [bool; 3] {
        [Placeholder::From, Placeholder::To, Placeholder::LastId].map(|wanted| self.uses(&wanted))
    }

    fn uses(&self, wanted: &Placeholder) -> bool {
        self.0
            .iter()
            .any(|piece| matches!(piece, Piece::Text(found) | Piece::Json(found) if found == wanted))
    }

    /// Appends the rendered text.
    pub(crate) fn render(&self, values: &Values<'_>, out: &mut String) {
        for piece in &self.0 {
            match piece {
                Piece::Literal(literal) => out.push_str(literal),
                Piece::Text(placeholder) | Piece::Json(placeholder) => values.text(placeholder, out),
            }
        }
    }

    /// Appends the rendered text as a JSON string, or for a placeholder with `:json` its JSON value.
    fn render_json(&self, values: &Values<'_>, out: &mut String) {
        if let [Piece::Json(placeholder)] = &self.0[..] {
            values.json(placeholder, out);
            return;
        }
        let mut text = String::new();
        self.render(values, &mut text);
        push_string(&text, out);
    }
}

/// Returns the placeholder with this name; `None` if the braces are literal text.
fn placeholder(name: &str, allowed: Allowed<'_>) -> Result<Option<Placeholder>, String> {
    if let Some(secret) = name.strip_prefix("secret.") {
        if allowed.secrets.contains(&secret) {
            return Ok(Some(Placeholder::Secret(secret.to_owned())));
        }
        let suggestion = did_you_mean(secret, allowed.secrets);
        return Err(format!(
            "found {{{name}}}, an unknown secret{suggestion}, expected a name in the table \"secrets\""
        ));
    }
    let found = match name {
        "request_id" => Placeholder::RequestId,
        "value" => Placeholder::Value,
        "values" => Placeholder::Values,
        "from" if allowed.window => Placeholder::From,
        "to" if allowed.window => Placeholder::To,
        "last_id" if allowed.window => Placeholder::LastId,
        "entry" if allowed.entry => Placeholder::Entry,
        _ if allowed.window => {
            let suggestion = nearest(name, &["from", "to", "last_id"])
                .map_or_else(String::new, |known| format!(" (did you mean {{{known}}}?)"));
            return Err(format!(
                "found {{{name}}}, an unknown placeholder{suggestion}, expected {{from}}, {{to}} or {{last_id}}"
            ));
        }
        _ => {
            // Only a text similar to a placeholder is an error: `{secrets.x}`, `{request_di}`.
            let first = name.split('.').next().unwrap_or(name);
            let suggestion = match name.contains('.') {
                true => nearest(first, &["secret"]).map(|_| "{secret.NAME}"),
                false => nearest(name, &["request_id"])
                    .filter(|_| name.contains('_') && allowed.request_id)
                    .map(|_| "{request_id}"),
            };
            return match suggestion {
                Some(suggestion) => Err(format!(
                    "found {{{name}}} (did you mean {suggestion}?), expected {}, or other text in braces",
                    allowed.expected()
                )),
                None => Ok(None),
            };
        }
    };
    let is_allowed = match found {
        Placeholder::RequestId => allowed.request_id,
        Placeholder::Value | Placeholder::Values => allowed.values,
        _ => true,
    };
    if is_allowed {
        return Ok(Some(found));
    }
    Err(match found {
        Placeholder::RequestId => {
            "found {request_id}, which is valid only in messages, expected {secret.NAME} or a fixed text"
                .to_owned()
        }
        _ => format!(
            "found {{{name}}}, which is valid only in \"ack.send\", expected {}, or literal text with blanks within braces",
            allowed.expected()
        ),
    })
}

/// The values of the placeholders of one message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Values<'a> {
    pub(crate) secrets: &'a Secrets,
    pub(crate) request_id: u64,
    /// The acknowledgement values of events, as written by the feed; or one entry of a list.
    pub(crate) events: &'a [&'a str],
    /// The texts of `{from}`, `{to}` and `{last_id}`.
    pub(crate) window: [&'a str; 3],
}

impl Values<'_> {
    fn text(&self, placeholder: &Placeholder, out: &mut String) {
        match placeholder {
            Placeholder::Secret(name) => out.push_str(self.secrets.get(name).map_or("", Secret::expose)),
            Placeholder::RequestId => drop(write!(out, "{}", self.request_id)),
            Placeholder::From => out.push_str(self.window[0]),
            Placeholder::To => out.push_str(self.window[1]),
            Placeholder::LastId => out.push_str(self.window[2]),
            Placeholder::Value | Placeholder::Entry => {
                let raw = self.events.first().copied().unwrap_or("null");
                out.push_str(&neurobridge_core::json::text(raw).unwrap_or(raw.into()));
            }
            Placeholder::Values => self.json(placeholder, out),
        }
    }

    fn json(&self, placeholder: &Placeholder, out: &mut String) {
        match placeholder {
            Placeholder::Secret(_) | Placeholder::From | Placeholder::To | Placeholder::LastId => {
                let mut text = String::new();
                self.text(placeholder, &mut text);
                push_string(&text, out);
            }
            Placeholder::RequestId => self.text(placeholder, out),
            Placeholder::Value | Placeholder::Entry => {
                out.push_str(self.events.first().copied().unwrap_or("null"));
            }
            Placeholder::Values => {
                let _ = write!(out, "[{}]", self.events.join(","));
            }
        }
    }
}

/// A message with placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Template {
    Plain(Text),
    Json(Node),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    Text(Text),
    /// A number, a boolean or null.
    Scalar(String),
    Array(Vec<Node>),
    Object(Vec<(String, Node)>),
}

impl Template {
    /// Parses a message.
    ///
    /// # Errors
    /// See [`Text::parse`].
    pub(crate) fn parse(message: &MessageTemplate, allowed: Allowed<'_>) -> Result<Self, String> {
        match &message.0 {
            Value::String(text) => Text::parse(text, allowed).map(Self::Plain),
            json => node(json, allowed).map(Self::Json),
        }
    }

    /// Returns whether the message contains `{request_id}`.
    pub(crate) fn uses_request_id(&self) -> bool {
        self.uses(&Placeholder::RequestId)
    }

    /// Returns whether the message contains `{value}`.
    pub(crate) fn uses_value(&self) -> bool {
        self.uses(&Placeholder::Value)
    }

    /// Returns whether the message contains `{values:json}`.
    pub(crate) fn uses_values(&self) -> bool {
        self.uses(&Placeholder::Values)
    }

    /// Returns whether the message contains `{entry:json}`.
    pub(crate) fn uses_entry(&self) -> bool {
        self.uses(&Placeholder::Entry)
    }

    fn uses(&self, wanted: &Placeholder) -> bool {
        fn is_in(node: &Node, wanted: &Placeholder) -> bool {
            match node {
                Node::Text(text) => text.uses(wanted),
                Node::Scalar(_) => false,
                Node::Array(items) => items.iter().any(|item| is_in(item, wanted)),
                Node::Object(keys) => keys.iter().any(|(_, value)| is_in(value, wanted)),
            }
        }
        match self {
            Self::Plain(text) => text.uses(wanted),
            Self::Json(node) => is_in(node, wanted),
        }
    }

    /// Returns the rendered message.
    pub(crate) fn render(&self, values: &Values<'_>) -> Message {
        let mut out = String::new();
        match self {
            Self::Plain(text) => text.render(values, &mut out),
            Self::Json(node) => node.render(values, &mut out),
        }
        Message(out)
    }
}

fn node(value: &Value, allowed: Allowed<'_>) -> Result<Node, String> {
    Ok(match value {
        Value::String(text) => Node::Text(Text::parse(text, allowed)?),
        Value::Array(items) => Node::Array(
            items
                .iter()
                .map(|item| node(item, allowed))
                .collect::<Result<_, _>>()?,
        ),
        Value::Object(keys) => Node::Object(
            keys.iter()
                .map(|(key, value)| Ok((key.clone(), node(value, allowed)?)))
                .collect::<Result<_, String>>()?,
        ),
        scalar => Node::Scalar(scalar.to_string()),
    })
}

impl Node {
    fn render(&self, values: &Values<'_>, out: &mut String) {
        match self {
            Self::Text(text) => text.render_json(values, out),
            Self::Scalar(scalar) => out.push_str(scalar),
            Self::Array(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    item.render(values, out);
                }
                out.push(']');
            }
            Self::Object(keys) => {
                out.push('{');
                for (index, (key, value)) in keys.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    push_string(key, out);
                    out.push(':');
                    value.render(values, out);
                }
                out.push('}');
            }
        }
    }
}

/// Appends a text as a JSON string.
fn push_string(text: &str, out: &mut String) {
    out.push_str(&Value::from(text).to_string());
}

/// A text frame to send. `Debug` does not show the text, because it may contain a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Message(String);

impl Message {
    pub(crate) const fn new(text: String) -> Self {
        Self(text)
    }

    /// Returns the text: only for sending, never for a log.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Returns the text: only for sending, never for a log.
    pub fn into_text(self) -> String {
        self.0
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[a message]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: Allowed<'_> = Allowed {
        secrets: &["token"],
        request_id: true,
        values: true,
        window: false,
        entry: false,
    };

    fn render(message: &Value, events: &[&str]) -> String {
        let template = Template::parse(&MessageTemplate(message.clone()), ALLOWED).unwrap();
        let secrets = Secrets::from([("token".to_owned(), Secret::new("hunter\"2"))]);
        let message = template.render(&Values {
            secrets: &secrets,
            request_id: 7,
            events,
            window: Default::default(),
        });
        assert!(!format!("{message:?}").contains("hunter"));
        message.into_text()
    }

    #[test]
    fn placeholders_are_replaced() {
        use serde_json::json;
        for (message, text) in [
            (json!("ping"), "ping"),
            (json!("id {request_id} {x} { y } {"), "id 7 {x} { y } {"),
            (
                json!({"id": "{request_id}", "n": "{request_id:json}"}),
                r#"{"id":"7","n":7}"#,
            ),
            (
                json!({"a": ["Bearer {secret.token}", 1, null]}),
                r#"{"a":["Bearer hunter\"2",1,null]}"#,
            ),
            (
                json!({"v": "{value}", "w": "{value:json}"}),
                r#"{"v":"18446744073709551616","w":18446744073709551616}"#,
            ),
            (
                json!({"all": "{values:json}"}),
                r#"{"all":[18446744073709551616,"b"]}"#,
            ),
            (json!("query { a { id } b }"), "query { a { id } b }"),
        ] {
            assert_eq!(render(&message, &["18446744073709551616", "\"b\""]), text);
        }
        assert_eq!(render(&json!("{value}"), &["\"b\""]), "b");
    }

    #[test]
    fn mistyped_placeholder_is_explained() {
        let error = |text: &str, allowed| Text::parse(text, allowed).unwrap_err();
        assert!(error("{secret.tokn}", ALLOWED).contains("(did you mean \"token\"?)"));
        assert!(error("{secrets.token}", ALLOWED).contains("did you mean {secret.NAME}?"));
        assert!(error("{request_di}", ALLOWED).contains("did you mean {request_id}?"));
        assert!(error("a{value:json}", ALLOWED).contains("as the whole text"));
        assert!(error("{values}", ALLOWED).contains("{values:json}"));
        let none = Allowed::default();
        assert!(error("{request_id}", none).contains("valid only in messages"));
        assert!(!error("{secrets.token}", none).contains("request_id"));
        assert!(Text::parse("{request_di}", none).is_ok());
        assert!(error("{value}", none).contains("valid only in \"ack.send\""));
    }
}
