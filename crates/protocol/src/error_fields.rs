//! Selects the parts of an error object or an unexpected answer of the platform that may be shown.

use neurobridge_core::json::{JsonError, Scanner};

/// The fields that describe an error. Any other field may contain personal data.
const SHOWN: &[&str] = &[
    "code",
    "codes",
    "detail",
    "details",
    "error",
    "error_code",
    "error_codes",
    "error_description",
    "errors",
    "message",
    "msg",
    "name",
    "reason",
    "status",
    "status_code",
    "title",
    "type",
];

/// Returns the text of an array or object without the fields that may contain personal data, followed by the
/// number of omitted fields. Shows nothing of a value that is not JSON.
pub(crate) fn reduce(raw: &str) -> String {
    let (mut text, mut hidden) = (String::new(), 0);
    let read = Scanner::new(raw).and_then(|mut scanner| value(&mut scanner, raw, &mut text, &mut hidden));
    match (read, hidden) {
        (Err(_), _) => "a value that cannot be read".to_owned(),
        (Ok(()), 0) => text,
        (Ok(()), 1) => text + " (1 field is not shown)",
        (Ok(()), hidden) => format!("{text} ({hidden} fields are not shown)"),
    }
}

fn value(
    scanner: &mut Scanner<'_>,
    raw: &str,
    text: &mut String,
    hidden: &mut usize,
) -> Result<(), JsonError> {
    if scanner.at_object() {
        text.push('{');
        let start = text.len();
        scanner.object(|scanner, key| {
            let name = key.name().to_ascii_lowercase();
            let Ok(index) = SHOWN.binary_search(&name.as_str()) else {
                *hidden += 1;
                return scanner.value().map(drop);
            };
            separate(text, start);
            text.push('"');
            text.push_str(SHOWN[index]);
            text.push_str("\":");
            value(scanner, raw, text, hidden)
        })?;
        text.push('}');
    } else if scanner.at_array() {
        text.push('[');
        let start = text.len();
        scanner.array(|scanner| {
            separate(text, start);
            value(scanner, raw, text, hidden)
        })?;
        text.push(']');
    } else {
        text.push_str(scanner.value()?.of(raw).unwrap_or_default());
    }
    Ok(())
}

fn separate(text: &mut String, start: usize) {
    if text.len() > start {
        text.push(',');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_descriptive_error_fields_are_shown() {
        for (raw, expected) in [
            (r#"{"code":401}"#, r#"{"code":401}"#),
            (
                r#"{"Message":"no \u00fc","error_codes":[1, 2]}"#,
                r#"{"message":"no \u00fc","error_codes":[1,2]}"#,
            ),
            (
                r#"{"message":"blurred","pid":"Ada Lovelace","entry":{"name":"Ada","face_image":"x"}}"#,
                r#"{"message":"blurred"} (2 fields are not shown)"#,
            ),
            (
                r#"{"error":{"type":"t","person":"Ada"}}"#,
                r#"{"error":{"type":"t"}} (1 field is not shown)"#,
            ),
            (
                r#"[{"reason":null,"age":36},"text",[]]"#,
                r#"[{"reason":null},"text",[]] (1 field is not shown)"#,
            ),
            (r#"{"age":36}"#, "{} (1 field is not shown)"),
            (r#"{"message":"#, "a value that cannot be read"),
        ] {
            assert_eq!(reduce(raw), expected, "{raw}");
        }
    }

    #[test]
    fn shown_fields_are_sorted_for_binary_search() {
        assert!(SHOWN.is_sorted());
    }
}
