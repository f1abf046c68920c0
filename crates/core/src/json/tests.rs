//! Compares the scanner with serde_json, also for damaged text.

use proptest::prelude::*;

use super::*;

fn accepts(text: &str) -> bool {
    Scanner::new(text)
        .and_then(|mut scanner| scanner.value().and_then(|_| scanner.end()))
        .is_ok()
}

fn serde_accepts(text: &str) -> bool {
    serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok()
}

#[test]
fn accepts_what_serde_json_accepts() {
    let deep = |depth| "[".repeat(depth) + &"]".repeat(depth);
    let cases = [
        "null",
        "tru",
        "truee",
        "-",
        "-0",
        "01",
        "1.",
        "1.5e",
        "1e+5",
        "1E-05",
        "[]",
        "[1,]",
        "[,]",
        "{}",
        "{\"a\":1,}",
        "{\"a\" : [ 1 , {} ] }",
        "\"\\u00e9\"",
        "\"\\u00g9\"",
        "\"\\ud800\"",
        "\"\\x\"",
        "\"a\nb\"",
        "\"abcdefghijklmnopqrstuvwxyz\\\"0123456789\"",
        "\"abc",
        "",
        " ",
        "1 2",
        "{1:2}",
        "\u{feff}1",
        "nul",
    ];
    for case in cases {
        assert_eq!(accepts(case), serde_accepts(case), "{case:?}");
    }
    assert!(accepts(&deep(MAX_DEPTH)) && !accepts(&deep(MAX_DEPTH + 1)));
}

#[test]
fn error_names_position_and_value() {
    let error = |text: &str| {
        Scanner::new(text)
            .and_then(|mut scanner| scanner.value())
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        error("{\"a\":tru}"),
        "unexpected byte 0x7d at offset 8, expected true"
    );
    assert_eq!(
        error("{\"a\""),
        "the text ends at offset 4, expected ':' after a key"
    );
}

#[test]
fn plain_text_ends_at_the_first_special_byte() {
    let is_special = |byte: &u8| *byte < b' ' || matches!(*byte, b'"' | b'\\');
    for byte in 0..=u8::MAX {
        for at in 0..40 {
            let mut text = [b'x'; 40];
            text[at] = byte;
            for start in 0..=20 {
                let end = text[start..].iter().position(is_special);
                let end = end.map_or(text.len(), |end| start + end);
                assert_eq!(scalar::end_of_plain(&text, start), end, "{byte:#x} at {at}");
            }
        }
    }
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(5, 64, 8, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..8).prop_map(Into::into),
            proptest::collection::hash_map(any::<String>(), inner, 0..8)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_value_is_scanned_to_its_end(value in any_json(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        let mut scanner = Scanner::new(&text).unwrap();
        prop_assert_eq!(scanner.value().unwrap().of(&text), Some(text.as_str()));
        prop_assert!(scanner.end().is_ok());
    }

    #[test]
    fn damaged_value_has_the_result_of_serde_json(
        value in any_json(), cut in any::<prop::sample::Index>(), byte in 0u8..128, insert in any::<bool>(),
    ) {
        let mut text = serde_json::to_string(&value).unwrap().into_bytes();
        let at = cut.index(text.len());
        if insert { text.insert(at, byte) } else { text[at] = byte }
        if let Ok(text) = String::from_utf8(text) {
            prop_assert_eq!(accepts(&text), serde_accepts(&text), "{:?}", text);
        }
    }

    #[test]
    fn text_is_what_serde_json_reads(string in any::<String>()) {
        let quoted = serde_json::to_string(&string).unwrap();
        let read = text(&quoted);
        prop_assert_eq!(read.as_deref(), Some(string.as_str()));
    }

    #[test]
    fn fast_scalar_end_equals_the_full_scan(
        text in r#"["-]?[0-9a.eE"\\\\ \x1f\x20\x7fé]{0,40}["]?,?"#, before in 0usize..20,
    ) {
        let text = " ".repeat(before) + &text;
        let end = scalar::end(text.as_bytes(), before);
        if let Some(usual) = scalar::fast_end(text.as_bytes(), before) {
            prop_assert_eq!(end, Ok(usual));
        } else {
            // No other value is left to the slow path.
            let value = end.map(|end| &text[before..end]).unwrap_or_default();
            let is_unusual = if value.starts_with('"') {
                value.contains('\\')
            } else {
                value.contains(['e', 'E']) || value.trim_start_matches('-') == "0"
            };
            prop_assert!(value.is_empty() || is_unusual, "{}", value);
        }
    }
}
