//! Values at a path within valid JSON.

use super::{Scanner, Span};

/// Returns the value at a path of keys and array indexes, as written. `None` if there is none. Of equal keys, the last one
/// counts.
///
/// Each step scans the whole array or object, because an equal key may follow.
pub fn at<'a>(text: &'a str, path: &[impl AsRef<str>]) -> Option<&'a str> {
    path.iter()
        .try_fold(text, |value, step| child(value, step.as_ref()))
}

/// Calls `element` with each element of an array, as written, until it returns true. Returns whether one call
/// returned true. A text that is not an array has no elements.
pub fn any_element<'a>(text: &'a str, mut element: impl FnMut(&'a str) -> bool) -> bool {
    let mut found = false;
    let scanned = Scanner::new(text).and_then(|mut scanner| {
        scanner.array(|scanner| {
            let value = scanner.value()?;
            found = found || value.of(text).is_some_and(&mut element);
            Ok(())
        })
    });
    scanned.is_ok() && found
}

fn child<'a>(value: &'a str, step: &str) -> Option<&'a str> {
    let mut scanner = Scanner::new(value).ok()?;
    let mut found = Span::ABSENT;
    if scanner.at_object() {
        scanner
            .object(|scanner, key| {
                let matches = key.name() == step;
                let span = scanner.value()?;
                if matches {
                    found = span;
                }
                Ok(())
            })
            .ok()?;
    } else if scanner.at_array() {
        let wanted = index(step)?;
        let mut position = 0;
        scanner
            .array(|scanner| {
                let span = scanner.value()?;
                if position == wanted {
                    found = span;
                }
                position += 1;
                Ok(())
            })
            .ok()?;
    }
    found.of(value)
}

/// Parses a step of a path as an array index: `0`, or digits without a leading zero.
pub fn index(step: &str) -> Option<usize> {
    let is_index = step == "0"
        || (!step.starts_with('0') && !step.is_empty() && step.bytes().all(|b| b.is_ascii_digit()));
    is_index.then(|| step.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_selects_a_value_of_any_type() {
        let text = r#" {"a":{"b":1},"a":{"b":[{"id":7}, "x" ,[true,null]]},"0":"zero"} "#;
        for (path, value) in [
            (&["a", "b", "0", "id"][..], Some("7")),
            (&["a", "b", "1"], Some("\"x\"")),
            (&["a", "b", "2", "1"], Some("null")),
            (&["0"], Some("\"zero\"")),
            (&["a", "b", "3"], None),
            (&["a", "b", "00"], None),
            (&["a", "b", "-1"], None),
            (&["a", "b", "1", "0"], None),
            (&["b"], None),
        ] {
            assert_eq!(at(text, path), value, "{path:?}");
        }
        assert_eq!(at("[1,2]", &[] as &[&str]), Some("[1,2]"));
    }

    #[test]
    fn elements_are_visited_in_order_until_one_matches() {
        let mut seen = Vec::new();
        assert!(any_element(r#"[1, "a" ,{},[2]]"#, |element| {
            seen.push(element);
            element == "{}"
        }));
        assert_eq!(seen, ["1", "\"a\"", "{}"]);
        assert!(!any_element(r#"{"a":1}"#, |_| true));
        assert!(!any_element("[]", |_| true));
    }
}
