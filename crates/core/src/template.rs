//! Topics, subjects and keys by template: `neuroio.entries.{space.id}.{result}`.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::event::{Event, FieldPath};

/// Text with fields of the event in braces.
///
/// A field is a path of keys and array indexes below the event's `data`, such as `{result}`, `{space.id}` or
/// `{groups.0}`, or with `$.` a path from the frame; `{feed}` is the name of the source in the configuration, `{id}` the
/// feed's id, `{key}` the event's key (NeuroIO's `pid`, or the key of a declared feed). `{{` and `}}` stand for braces.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String")]
pub struct Template {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Placeholder(FieldPath),
}

/// Why a text is not a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// `{` without `}`.
    #[error(
        "\"{template}\": the brace at offset {offset} is not closed, expected \"}}\" (write \"{{{{\" for the character itself)"
    )]
    NotClosed {
        /// The text.
        template: String,
        /// The offset of the brace.
        offset: usize,
    },
    /// `}` without `{`.
    #[error(
        "\"{template}\": the brace at offset {offset} closes nothing (write \"}}}}\" for the character itself)"
    )]
    NotOpened {
        /// The text.
        template: String,
        /// The offset of the brace.
        offset: usize,
    },
    /// The text between braces is not a path of keys.
    #[error(
        "\"{template}\": found \"{{{found}}}\", expected a path of keys such as {{result}} or {{space.id}}"
    )]
    NoPath {
        /// The text.
        template: String,
        /// The text between the braces.
        found: String,
    },
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(brace) = rest.find(['{', '}']) {
            let offset = text.len() - rest.len() + brace;
            literal.push_str(&rest[..brace]);
            let found = &rest[brace..];
            if found.starts_with("{{") || found.starts_with("}}") {
                literal.push_str(&found[..1]);
                rest = &found[2..];
                continue;
            }
            if found.starts_with('}') {
                return Err(TemplateError::NotOpened {
                    template: text.to_owned(),
                    offset,
                });
            }
            let Some(close) = found.find('}') else {
                return Err(TemplateError::NotClosed {
                    template: text.to_owned(),
                    offset,
                });
            };
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal)));
            }
            let path = &found[1..close];
            let placeholder = FieldPath::parse(path).ok_or_else(|| TemplateError::NoPath {
                template: text.to_owned(),
                found: path.to_owned(),
            })?;
            parts.push(Part::Placeholder(placeholder));
            rest = &found[close + 1..];
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self {
            text: text.to_owned(),
            parts,
        })
    }
}

impl Template {
    /// Returns the text if it has no placeholders and so is the same for every event.
    pub fn constant(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Literal(literal)] => Some(literal),
            _ => None,
        }
    }

    /// Returns the fields of the placeholders.
    pub fn fields(&self) -> impl Iterator<Item = &FieldPath> {
        self.parts.iter().filter_map(|part| match part {
            Part::Placeholder(field) => Some(field),
            Part::Literal(_) => None,
        })
    }

    /// Returns whether a placeholder has this path.
    pub fn uses(&self, path: &str) -> bool {
        let wanted = FieldPath::parse(path);
        self.parts
            .iter()
            .any(|part| matches!((part, &wanted), (Part::Placeholder(is), Some(wanted)) if is == wanted))
    }

    /// Appends the text for an event. Returns false if a field has no value; then the appended text is
    /// incomplete.
    pub fn render_complete(&self, event: &Event<'_>, out: &mut String) -> bool {
        for part in &self.parts {
            match part {
                Part::Literal(literal) => out.push_str(literal),
                Part::Placeholder(placeholder) => match placeholder.value(event) {
                    Some(value) => out.push_str(&value),
                    None => return false,
                },
            }
        }
        true
    }

    /// Appends the text for an event: a field without a value becomes `unknown`, and each character of a
    /// value for which `allowed` is false becomes `_`.
    pub fn render_name(&self, event: &Event<'_>, allowed: impl Fn(char) -> bool, out: &mut String) {
        for part in &self.parts {
            match part {
                Part::Literal(literal) => out.push_str(literal),
                Part::Placeholder(placeholder) => match placeholder.value(event) {
                    // In most values every character is allowed.
                    Some(value) if !value.is_empty() && value.chars().all(&allowed) => out.push_str(&value),
                    Some(value) if !value.is_empty() => {
                        out.extend(value.chars().map(|c| if allowed(c) { c } else { '_' }));
                    }
                    _ => out.push_str("unknown"),
                },
            }
        }
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl Serialize for Template {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::event;

    const FRAME: &str =
        r#"{"id":7,"data":{"result":"new","pid":null,"space":{"id":"a b.c"},"extra":{"deep":true}}}"#;

    #[test]
    fn placeholders_are_replaced_by_fields() {
        let name = |template: &str| {
            let mut out = String::new();
            let template: Template = template.parse().unwrap();
            template.render_name(&event(FRAME), |c| c.is_ascii_alphanumeric(), &mut out);
            out
        };
        assert_eq!(name("x.{result}.{space.id}.{extra.deep}"), "x.new.a_b_c.true");
        assert_eq!(name("{feed}/{id}/{pid}/{no.such}"), "main/7/unknown/unknown");
        assert_eq!(name("{{{result}}}"), "{new}");
    }

    #[test]
    fn template_with_a_missing_value_is_incomplete() {
        let complete = |template: &str| {
            let mut out = String::new();
            let template: Template = template.parse().unwrap();
            template.render_complete(&event(FRAME), &mut out).then_some(out)
        };
        assert_eq!(complete("{space.id}/{result}").as_deref(), Some("a b.c/new"));
        assert_eq!(complete("{result}-{pid}"), None);
    }

    #[test]
    fn invalid_template_is_rejected_with_an_explanation() {
        let error = |template: &str| template.parse::<Template>().unwrap_err().to_string();
        assert_eq!(
            error("a.{result"),
            "\"a.{result\": the brace at offset 2 is not closed, expected \"}\" (write \"{{\" for the character itself)"
        );
        assert_eq!(
            error("a}b"),
            "\"a}b\": the brace at offset 1 closes nothing (write \"}}\" for the character itself)"
        );
        assert_eq!(
            error("{}"),
            "\"{}\": found \"{}\", expected a path of keys such as {result} or {space.id}"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_rejected_or_serialises_unchanged(text in any::<String>()) {
            if let Ok(template) = text.parse::<Template>() {
                prop_assert_eq!(template.to_string(), text);
                let mut out = String::new();
                template.render_name(&event(FRAME), |_| true, &mut out);
            }
        }

        #[test]
        fn text_without_braces_is_constant(text in "[^{}]*") {
            let template: Template = text.parse().unwrap();
            prop_assert_eq!(template.constant(), Some(text.as_str()));
        }
    }
}
