//! Recognises rendered messages and returns the values of their placeholders: the inverse of rendering.

use std::collections::BTreeMap;

use neurobridge_core::{json, path::Path, secret::Secret};
use serde_json::value::RawValue;

use super::{Node, Piece, Placeholder, Secrets, Template, Text};

/// The values of the placeholders in a recognised message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recognised {
    /// The request id; `None` if the message contains none.
    pub request_id: Option<u64>,
    /// The acknowledgement values, as texts.
    pub values: Vec<String>,
    /// The values of `{from}`, `{to}` and `{last_id}`, as texts.
    pub window: [Option<String>; 3],
}

impl Template {
    /// Returns the values of the placeholders if `message` is a rendering of this template with `secrets`. A secret without
    /// a known value matches any text of at least one character.
    pub(crate) fn recognise(&self, message: &str, secrets: &Secrets) -> Option<Recognised> {
        let mut found = Recognised::default();
        let matches = match self {
            Self::Plain(text) => text.recognise(message, secrets, &mut found),
            Self::Json(node) => node.recognise(message.trim(), secrets, &mut found),
        };
        matches.then_some(found)
    }
}

impl Template {
    /// Returns the path of `{entry:json}` in the message; `None` without one.
    pub(crate) fn entry_path(&self) -> Option<Path> {
        fn find(node: &Node, steps: &mut Vec<String>) -> bool {
            let mut below = |step: String, node: &Node| {
                steps.push(step);
                let is_found = find(node, steps);
                if !is_found {
                    steps.pop();
                }
                is_found
            };
            match node {
                Node::Text(Text(pieces)) => pieces.contains(&Piece::Json(Placeholder::Entry)),
                Node::Scalar(_) => false,
                Node::Array(items) => items
                    .iter()
                    .enumerate()
                    .any(|(index, item)| below(index.to_string(), item)),
                Node::Object(keys) => keys.iter().any(|(key, node)| below(key.clone(), node)),
            }
        }
        let mut steps = Vec::new();
        match self {
            Self::Json(node) => find(node, &mut steps).then(|| Path::new(steps)),
            Self::Plain(_) => None,
        }
    }
}

impl Text {
    /// Returns whether `text` is a rendering of this text with `secrets`, and adds the values of the placeholders to `found`.
    pub(crate) fn recognise(&self, text: &str, secrets: &Secrets, found: &mut Recognised) -> bool {
        pieces(&self.0, text, secrets, found)
    }

    /// Returns whether the text contains a secret.
    pub(crate) fn has_secret(&self) -> bool {
        let is_secret = |piece: &Piece| {
            matches!(
                piece,
                Piece::Text(Placeholder::Secret(_)) | Piece::Json(Placeholder::Secret(_))
            )
        };
        self.0.iter().any(is_secret)
    }
}

fn pieces(left: &[Piece], text: &str, secrets: &Secrets, found: &mut Recognised) -> bool {
    let Some((piece, left)) = left.split_first() else {
        return text.is_empty();
    };
    match piece {
        Piece::Literal(literal) => text
            .strip_prefix(literal.as_str())
            .is_some_and(|rest| pieces(left, rest, secrets, found)),
        Piece::Text(placeholder) | Piece::Json(placeholder) => {
            let known = match placeholder {
                Placeholder::Secret(name) => secrets.get(name).map(Secret::expose),
                _ => None,
            };
            if let Some(known) = known {
                return text
                    .strip_prefix(known)
                    .is_some_and(|rest| pieces(left, rest, secrets, found));
            }
            let mut ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
            // The shortest value after which the rest matches.
            ends.any(|end| {
                let mut tried = found.clone();
                let matches = insert(placeholder, &text[..end], &mut tried)
                    && pieces(left, &text[end..], secrets, &mut tried);
                if matches {
                    *found = tried;
                }
                matches
            })
        }
    }
}

/// Adds the value of a placeholder; returns whether the value is valid.
fn insert(placeholder: &Placeholder, value: &str, found: &mut Recognised) -> bool {
    match placeholder {
        Placeholder::Secret(_) => {}
        Placeholder::RequestId => {
            let number = value.parse().ok().filter(|_| !value.starts_with('+'));
            if number.is_none() || found.request_id.is_some_and(|known| Some(known) != number) {
                return false;
            }
            found.request_id = number;
        }
        Placeholder::Value | Placeholder::Values | Placeholder::Entry => found.values.push(value.to_owned()),
        Placeholder::From => found.window[0] = Some(value.to_owned()),
        Placeholder::To => found.window[1] = Some(value.to_owned()),
        Placeholder::LastId => found.window[2] = Some(value.to_owned()),
    }
    true
}

impl Node {
    fn recognise(&self, raw: &str, secrets: &Secrets, found: &mut Recognised) -> bool {
        match self {
            Self::Text(Text(parts)) if let [Piece::Json(placeholder)] = &parts[..] => {
                json_value(placeholder, raw, secrets, found)
            }
            Self::Text(text) => string(raw).is_some_and(|value| text.recognise(&value, secrets, found)),
            Self::Scalar(scalar) => raw == scalar,
            Self::Array(items) => serde_json::from_str::<Vec<&RawValue>>(raw).is_ok_and(|values| {
                values.len() == items.len()
                    && items
                        .iter()
                        .zip(values)
                        .all(|(item, value)| item.recognise(value.get(), secrets, found))
            }),
            Self::Object(keys) => {
                serde_json::from_str::<BTreeMap<String, &RawValue>>(raw).is_ok_and(|values| {
                    values.len() == keys.len()
                        && keys.iter().all(|(key, node)| {
                            values
                                .get(key)
                                .is_some_and(|value| node.recognise(value.get(), secrets, found))
                        })
                })
            }
        }
    }
}

fn string(raw: &str) -> Option<String> {
    raw.starts_with('"')
        .then(|| json::text(raw).map(std::borrow::Cow::into_owned))?
}

fn json_value(placeholder: &Placeholder, raw: &str, secrets: &Secrets, found: &mut Recognised) -> bool {
    match placeholder {
        Placeholder::Secret(name) => string(raw).is_some_and(|value| {
            secrets
                .get(name)
                .map_or(!value.is_empty(), |known| known.expose() == value)
        }),
        Placeholder::RequestId | Placeholder::Entry => insert(placeholder, raw, found),
        Placeholder::From | Placeholder::To | Placeholder::LastId => {
            string(raw).is_some_and(|value| insert(placeholder, &value, found))
        }
        Placeholder::Value => json::text(raw).is_some_and(|value| insert(placeholder, &value, found)),
        Placeholder::Values => serde_json::from_str::<Vec<&RawValue>>(raw).is_ok_and(|values| {
            values.iter().all(|value| {
                json::text(value.get()).is_some_and(|text| insert(&Placeholder::Value, &text, found))
            })
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        notation::MessageTemplate,
        text::{Allowed, Values},
    };

    fn template(message: &serde_json::Value) -> Template {
        let allowed = Allowed {
            secrets: &["token"],
            request_id: true,
            values: true,
            window: false,
            entry: false,
        };
        Template::parse(&MessageTemplate(message.clone()), allowed).unwrap()
    }

    #[test]
    fn rendered_message_is_recognised_with_its_values() {
        let secrets = Secrets::from([("token".to_owned(), Secret::new("a\"b"))]);
        for (message, request_id, values) in [
            (json!("ping"), None, vec![]),
            (
                json!("id {request_id} of {secret.token} {value}"),
                Some(7),
                vec!["10"],
            ),
            (
                json!({"id": "{request_id}", "n": "{request_id:json}", "t": ["Bearer {secret.token}", 1, null]}),
                Some(7),
                vec![],
            ),
            (json!({"v": "{value:json}"}), None, vec!["10"]),
            (json!({"all": "{values:json}"}), None, vec!["10", "b"]),
        ] {
            let template = template(&message);
            let text = template
                .render(&Values {
                    secrets: &secrets,
                    request_id: 7,
                    events: &["10", "\"b\""],
                    window: Default::default(),
                })
                .into_text();
            let expected = Recognised {
                request_id,
                values: values.into_iter().map(str::to_owned).collect(),
                window: Default::default(),
            };
            assert_eq!(
                template.recognise(&text, &secrets),
                Some(expected.clone()),
                "{text}"
            );
            assert_eq!(
                template.recognise(&text, &Secrets::new()),
                Some(expected),
                "{text}"
            );
            // The text differs at its start, because a value at the end of a plain text may have any length.
            assert_eq!(template.recognise(&format!("x{text}"), &secrets), None, "{text}");
        }
    }

    #[test]
    fn other_message_is_not_recognised() {
        let secrets = Secrets::from([("token".to_owned(), Secret::new("right"))]);
        let template = template(&json!({"token": "{secret.token}", "id": "{request_id:json}"}));
        assert!(
            template
                .recognise(r#"{ "id": 1, "token": "right" }"#, &secrets)
                .is_some()
        );
        for other in [
            r#"{"id":1,"token":"wrong"}"#,
            r#"{"id":"1","token":"right"}"#,
            r#"{"id":1,"token":"right","more":1}"#,
            r#"{"id":1}"#,
            "ping",
        ] {
            assert_eq!(template.recognise(other, &secrets), None, "{other}");
        }
    }
}
