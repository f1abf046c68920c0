//! Examples of all operators, and a comparison with a slow reference that evaluates conditions on parsed JSON.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

fn holds(condition: &str, value: &str) -> bool {
    let condition: Condition = serde_json::from_str(condition).unwrap();
    condition.holds((!value.is_empty()).then_some(value))
}

#[test]
fn each_operator_holds_for_its_values() {
    for (condition, good, bad) in [
        (
            r#""new""#,
            &[r#""new""#, r#""n\u0065w""#][..],
            &[r#""old""#, "", "null", r#"["new"]"#][..],
        ),
        (r#"7"#, &["7", r#""7""#], &["7.0", "8"]),
        (r#"["a",true]"#, &[r#""a""#, "true"], &["false", r#"{"a":true}"#]),
        (r#"{"equals":1.5}"#, &["1.5"], &["1.50"]),
        (r#"{"one_of":[1,2]}"#, &["2"], &["3"]),
        (
            r#"{"present":true}"#,
            &["0", "false", "[]", r#""""#],
            &["", "null"],
        ),
        (r#"{"present":false}"#, &["", "null"], &["0", "{}"]),
        (
            r#"{"at_least":18}"#,
            &["18", "18.0", "1e2", r#""18""#],
            &["17.999", "", "null", r#""x""#, "[18]"],
        ),
        (r#"{"below":65,"at_least":18}"#, &["64.9", "18"], &["65", "17"]),
        (
            r#"{"at_least":9007199254740993}"#,
            &["9007199254740993"],
            &["9007199254740992"],
        ),
        (
            r#"{"at_least":"18446744073709551617"}"#,
            &["18446744073709551617"],
            &["18446744073709551616"],
        ),
        (
            r#"{"at_least":"2026-01-31T12:00:00Z"}"#,
            &[
                r#""2026-01-31T13:00:00+01:00""#,
                r#""2026-01-31T12:00:00.000001""#,
            ],
            &[r#""2026-01-31T12:59:59+01:00""#, "1800000000", r#""soon""#],
        ),
        (
            r#"{"prefix":"ord"}"#,
            &[r#""orders""#, r#""\u006frd""#],
            &[r#""Ord""#, "", r#"["ord"]"#],
        ),
        (
            r#"{"any":"vip"}"#,
            &[r#"["a","vip"]"#, r#"[{"name":"vip"}]"#],
            &[r#""vip""#, "[]", r#"[["vip"]]"#, r#"[{"id":"vip"}]"#],
        ),
        (r#"{"any":{"any":2}}"#, &["[[1],[3,2]]"], &["[1,2]"]),
        (
            r#"{"any":{"id":7,"x.0":{"below":1}}}"#,
            &[r#"[{"id":7,"x":[0]}]"#],
            &[r#"[{"id":7,"x":[1]}]"#, r#"[{"id":7},{"x":[0]}]"#],
        ),
        (
            r#"{"any":{"not":"vip"}}"#,
            &[r#"["vip","b"]"#, r#"[{"name":"b"}]"#],
            &[r#"["vip"]"#, r#"[{"name":"vip"}]"#, "[]"],
        ),
        (
            r#"{"not":{"any":"vip"}}"#,
            &["", "[]", r#"["b"]"#],
            &[r#"["b","vip"]"#],
        ),
        (
            r#"{"not":["junk"],"present":true}"#,
            &[r#""new""#],
            &[r#""junk""#, "null", ""],
        ),
        (
            r#"{"a":{"b":1}}"#,
            &[r#"{"a":{"b":1}}"#],
            &[r#"{"a.b":1}"#, "", "[]"],
        ),
    ] {
        for value in good {
            assert!(holds(condition, value), "{condition} {value}");
        }
        for value in bad {
            assert!(!holds(condition, value), "{condition} {value}");
        }
    }
}

#[test]
fn invalid_condition_is_explained() {
    let error = |text: &str| serde_json::from_str::<Condition>(text).unwrap_err().to_string();
    for (condition, sentence) in [
        (
            r#"{"at_least":"soon"}"#,
            "found \"soon\", expected a number, or a time in quotes such as",
        ),
        (r#"{"below":true}"#, "expected a number, or a time in quotes"),
        (r#"{"present":1}"#, "expected a boolean"),
        (r#"{"equals":[1]}"#, "expected a text, a number, true or false"),
        (r#"{"one_of":1}"#, "expected a list of values such as"),
        (r#"{"any":{}}"#, "found an empty table, expected a value"),
        (r#"{"a b":1}"#, "found \"a b\", expected the path of a field"),
        (
            r#"{"not":{"prefx":"x","present":true}}"#,
            "found \"prefx\" (did you mean \"prefix\"?) beside the operator \"present\"",
        ),
    ] {
        assert!(
            error(condition).contains(sentence),
            "{condition}: {}",
            error(condition)
        );
    }
}

/// Evaluates a condition, as written in the configuration, on a parsed value.
fn reference(condition: &Value, value: Option<&Value>, is_element: bool) -> bool {
    let scalar = match value {
        Some(Value::Object(object)) if is_element => object.get("name"),
        value => value,
    };
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    };
    let equals = |wanted: &Value| {
        scalar
            .and_then(text)
            .is_some_and(|found| Some(found) == text(wanted))
    };
    match condition {
        Value::Array(list) => list.iter().any(equals),
        Value::Object(table) if table.keys().all(|key| OPERATORS.contains(&key.as_str())) => {
            table.iter().all(|(operator, operand)| match operator.as_str() {
                "equals" => equals(operand),
                "one_of" => operand.as_array().unwrap().iter().any(equals),
                "present" => value.is_some_and(|value| !value.is_null()) == operand.as_bool().unwrap(),
                "at_least" => {
                    order(scalar.and_then(text), &text(operand).unwrap()).is_some_and(|order| order >= 0)
                }
                "below" => {
                    order(scalar.and_then(text), &text(operand).unwrap()).is_some_and(|order| order < 0)
                }
                "prefix" => scalar
                    .and_then(text)
                    .is_some_and(|text| text.starts_with(operand.as_str().unwrap())),
                "any" => value
                    .and_then(Value::as_array)
                    .is_some_and(|items| items.iter().any(|item| reference(operand, Some(item), true))),
                "not" => !reference(operand, value, is_element),
                _ => unreachable!(),
            })
        }
        Value::Object(table) => table.iter().all(|(path, condition)| {
            let found = path
                .split('.')
                .try_fold(value.unwrap_or(&Value::Null), |value, step| match value {
                    Value::Array(items) => items.get(step.parse::<usize>().ok()?),
                    value => value.get(step),
                });
            reference(condition, found, false)
        }),
        scalar => equals(scalar),
    }
}

/// Returns whether a text is below (-1), at (0) or above (1) a bound.
fn order(text: Option<String>, bound: &str) -> Option<i32> {
    let text = text?;
    if let Ok(bound) = bound.parse::<jiff::Timestamp>() {
        return Some(text.parse::<jiff::Timestamp>().ok()?.cmp(&bound) as i32);
    }
    let ((text_sign, text), (bound_sign, bound)) = (fixed_point(&text)?, fixed_point(bound)?);
    Some(match (text_sign, bound_sign) {
        (0 | 1, 0 | 1) => text.cmp(&bound) as i32,
        (-1, -1) => bound.cmp(&text) as i32,
        (text, bound) => text.cmp(&bound) as i32,
    })
}

/// Returns the sign of a number, and its digits with 400 places before and after the point.
fn fixed_point(text: &str) -> Option<(i32, String)> {
    serde_json::from_str::<serde_json::Number>(text).ok()?;
    let (text, is_negative) = text.strip_prefix('-').map_or((text, false), |text| (text, true));
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let before = usize::try_from(400 - whole.len() as i64 - exponent.parse::<i64>().unwrap()).unwrap();
    let digits = format!("{}{whole}{fraction}", "0".repeat(before));
    let digits = format!("{digits:0<800}");
    let sign = match (digits.bytes().all(|digit| digit == b'0'), is_negative) {
        (true, _) => 0,
        (_, true) => -1,
        (_, false) => 1,
    };
    Some((sign, digits))
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        prop::sample::select(vec![
            json!("a"),
            json!("ab"),
            json!("b"),
            json!("a\"\\ü"),
            json!("7"),
            json!("-1.50"),
            json!(true),
            json!(false),
            json!(7),
            json!(7.0),
            json!(1e2),
            json!(0.1),
            json!(-0.0),
            json!(9_007_199_254_740_993_u64),
            json!(9_007_199_254_740_992_u64),
            json!(9_007_199_254_740_992.0),
            json!(u64::MAX),
            json!("2026-01-31T12:00:00Z"),
            json!("2026-01-31T13:00:00.5+01:00"),
        ]),
        any::<i64>().prop_map(Value::from),
        (-1e30..1e30).prop_map(Value::from),
        (-20..20_i64).prop_map(Value::from),
    ]
}

fn key() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["x", "y", "name", "0"]).prop_map(str::to_owned)
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![8 => scalar(), 1 => Just(Value::Null)].prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key(), inner, 0..4)
                .prop_map(|map| Value::Object(Map::from_iter(map))),
        ]
    })
}

fn condition() -> impl Strategy<Value = Value> {
    let bound = || {
        scalar().prop_filter("a bound", |bound| {
            let text = bound.as_str().map_or_else(|| bound.to_string(), str::to_owned);
            serde_json::from_value::<Bound>(bound.clone()).is_ok()
                && order(Some(text.clone()), &text).is_some()
        })
    };
    let list = || prop::collection::vec(scalar(), 1..4).prop_map(Value::from);
    let leaf = prop_oneof![
        scalar(),
        list(),
        scalar().prop_map(|value| json!({ "equals": value })),
        list().prop_map(|list| json!({ "one_of": list })),
        any::<bool>().prop_map(|is_present| json!({ "present": is_present })),
        bound().prop_map(|bound| json!({ "at_least": bound })),
        bound().prop_map(|bound| json!({ "below": bound })),
        (bound(), bound()).prop_map(|(from, to)| json!({ "at_least": from, "below": to })),
        prop::sample::select(vec!["", "a", "-", "2026"]).prop_map(|prefix| json!({ "prefix": prefix })),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        let path = prop::collection::vec(key(), 1..3).prop_map(|keys| keys.join("."));
        prop_oneof![
            inner.clone().prop_map(|condition| json!({ "any": condition })),
            inner.clone().prop_map(|condition| json!({ "not": condition })),
            (inner.clone(), any::<bool>())
                .prop_map(|(condition, is_present)| json!({ "any": condition, "present": is_present })),
            prop::collection::btree_map(path, inner, 1..3)
                .prop_map(|fields| Value::Object(Map::from_iter(fields))),
        ]
    })
}

proptest! {
    #[test]
    fn condition_agrees_with_the_reference(
        condition in condition(),
        values in prop::collection::vec(prop::option::weighted(0.9, value()), 8)
    ) {
        let compiled: Condition = serde_json::from_value(condition.clone()).unwrap();
        let again: Condition = serde_json::from_value(serde_json::to_value(&compiled).unwrap()).unwrap();
        for value in values {
            let text = value.as_ref().map(Value::to_string);
            let expected = reference(&condition, value.as_ref(), false);
            prop_assert_eq!(compiled.holds(text.as_deref()), expected, "{} {:?}", condition, text);
            prop_assert_eq!(again.holds(text.as_deref()), expected, "{} {:?}", condition, text);
        }
    }

    #[test]
    fn any_table_is_a_condition_or_an_error(text in r#"\{("(equals|prefix|any|not|a\.b|)":(1|"x"|\[\]|\{\}|null),?)*\}"#) {
        if let Ok(condition) = serde_json::from_str::<Condition>(&text) {
            condition.holds(Some(r#"{"a":{"b":[1]}}"#));
        }
    }
}
