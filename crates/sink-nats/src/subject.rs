//! Subjects: valid characters, and the pattern of a template's subjects.

use neurobridge_core::template::Template;

/// The longest subject that is sent. A server closes the connection if a line of the protocol exceeds its `max_control_line`
/// (4096 bytes by default), which contains the subject, the reply subject and numbers.
pub(crate) const MAX_LENGTH: usize = 1024;

/// Returns whether a character of an event's field is valid in a token: printable ASCII without the separator, the wildcards,
/// and the `$` that starts the server's own subjects.
pub(crate) const fn is_token_character(character: char) -> bool {
    character.is_ascii_graphic() && !matches!(character, '.' | '*' | '>' | '$')
}

/// The first tokens of subjects reserved for servers and clients: responses, service imports, gateways.
const RESERVED: [&str; 3] = ["_INBOX", "_R_", "_GR_"];

/// Returns whether a subject is reserved for servers or clients.
pub(crate) fn is_reserved(subject: &str) -> bool {
    let first = subject.split('.').next().unwrap_or_default();
    first.starts_with('$') || RESERVED.contains(&first)
}

/// Returns the pattern of a template's subjects: a token with a field becomes a wildcard.
pub(crate) fn pattern(template: &Template) -> String {
    if let Some(constant) = template.constant() {
        return constant.to_owned();
    }
    let mut pattern = String::new();
    let mut in_field = false;
    let mut token = String::new();
    for character in template.to_string().chars() {
        match character {
            // The dots of a field's path do not separate tokens.
            '.' if !in_field => {
                push_token(&token, &mut pattern);
                pattern.push('.');
                token.clear();
                continue;
            }
            '{' => in_field = true,
            '}' => in_field = false,
            _ => {}
        }
        token.push(character);
    }
    push_token(&token, &mut pattern);
    pattern
}

fn push_token(token: &str, pattern: &mut String) {
    pattern.push_str(if token.contains('{') { "*" } else { token });
}

/// Returns the error of a subject, or of a pattern if `wildcards` is set.
pub(crate) fn error_of(subject: &str, wildcards: bool) -> Option<String> {
    if subject.is_empty() {
        return Some("found an empty text, expected a subject such as \"neuroio.entries\"".into());
    }
    if subject.len() > MAX_LENGTH {
        return Some(format!(
            "found a subject of {} bytes, expected at most {MAX_LENGTH}",
            subject.len()
        ));
    }
    if is_reserved(subject) {
        return Some(format!(
            "found \"{subject}\", expected a subject that does not begin with $, {}: servers and clients use these \
             subjects",
            RESERVED.join(", ")
        ));
    }
    let tokens: Vec<_> = subject.split('.').collect();
    for (position, token) in tokens.iter().enumerate() {
        let what = match *token {
            "" => "an empty token",
            "*" if wildcards => continue,
            ">" if wildcards && position + 1 == tokens.len() => continue,
            token if token.chars().any(|c| c.is_whitespace() || c.is_control()) => "white space",
            token if token.contains(['*', '>']) => "a wildcard",
            _ => continue,
        };
        return Some(format!(
            "found {what} in \"{subject}\", expected tokens of letters and digits with dots between them"
        ));
    }
    None
}

/// Returns whether the first pattern matches every subject of the second one.
pub(crate) fn covers(pattern: &str, other: &str) -> bool {
    let (mut pattern, mut other) = (pattern.split('.'), other.split('.'));
    loop {
        match (pattern.next(), other.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(token)) if token != ">" => {}
            (Some(expected), Some(token)) if expected == token => {}
            _ => return false,
        }
    }
}

/// Returns whether a subject can match both patterns.
pub(crate) fn overlap(pattern: &str, other: &str) -> bool {
    let (mut pattern, mut other) = (pattern.split('.'), other.split('.'));
    loop {
        match (pattern.next(), other.next()) {
            (Some(">"), Some(_)) | (Some(_), Some(">")) | (None, None) => return true,
            (Some(one), Some(two)) if one == two || one == "*" || two == "*" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn template_converts_to_a_pattern() {
        let pattern = |template: &str| pattern(&template.parse().unwrap());
        assert_eq!(
            pattern("neuroio.entries.{space.id}.{source.id}.{result}"),
            "neuroio.entries.*.*.*"
        );
        assert_eq!(pattern("a.b"), "a.b");
        assert_eq!(pattern("{feed}.x-{result}.c"), "*.*.c");
    }

    #[test]
    fn coverage_and_overlap_of_patterns_are_detected() {
        for (one, other, covered, overlapping) in [
            ("a.>", "a.*.b", true, true),
            ("a.>", "a", false, false),
            ("a.*", "a.b", true, true),
            ("a.*", "a.>", false, true),
            ("a.b", "a.*", false, true),
            (">", "a.b", true, true),
            ("a.*.c", "a.b.d", false, false),
            ("a", "b", false, false),
        ] {
            assert_eq!(covers(one, other), covered, "{one} {other}");
            assert_eq!(overlap(one, other), overlapping, "{one} {other}");
        }
    }

    #[test]
    fn invalid_subjects_and_patterns_are_errors() {
        for wrong in ["", "a..b", ".a", "a.", "a b", "a.*", "a.>", "$JS.API", "a.b*"] {
            assert!(error_of(wrong, false).is_some(), "{wrong}");
        }
        for right in ["a", "a.b-c_d", "a.$b"] {
            assert_eq!(error_of(right, false), None);
        }
        assert_eq!(error_of("a.*.>", true), None);
        assert!(error_of("a.>.b", true).is_some());
    }

    #[test]
    fn reserved_subjects_are_detected() {
        for reserved in [
            "_INBOX.x",
            "_INBOX",
            "$JS.API.x",
            "$SYS.a",
            "$x",
            "_R_.a",
            "_GR_.a.b",
        ] {
            assert!(is_reserved(reserved), "{reserved}");
            assert!(error_of(reserved, true).unwrap().contains("servers and clients"));
        }
        for free in ["_INBOXES.x", "a._INBOX", "a.$JS", "_", "neuroio.entries"] {
            assert!(!is_reserved(free), "{free}");
        }
    }

    proptest! {
        #[test]
        fn covered_patterns_overlap(one in "[ab*](\\.[ab*>])?", other in "[ab*](\\.[ab*>])?") {
            if covers(&one, &other) {
                prop_assert!(overlap(&one, &other) && overlap(&other, &one));
            }
            prop_assert!(covers(&one, &one) || one.contains('>'));
        }
    }
}
