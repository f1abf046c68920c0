//! Tests of parsing the configuration file.

use serde_json::json;

use super::*;

fn parse(text: &str) -> Result<Document, Report> {
    let schema = crate::config::schema();
    Document::parse(Path::new("n.toml"), text, &Shape::root(&schema))
}

#[test]
fn parsed_document_has_values_and_positions_of_its_keys() {
    let text = "a = 0x10\n[b.c]\n  d = [\n 1.5,\n true]\ne.f = { g = \"1979-05-27\" }\n";
    let document = parse(text).unwrap();
    assert_eq!(
        Value::Object(document.values.clone()),
        json!({ "a": 16, "b": { "c": { "d": [1.5, true], "e": { "f": { "g": "1979-05-27" } } } } })
    );
    let at = |key: &str| {
        let key: KeyPath = key.split('.').map(str::to_owned).collect();
        document.key_origins.get(&key).map(|origin| match origin {
            KeyOrigin::File { key, .. } => position(text, key.start),
            KeyOrigin::Variable(name) => panic!("{name}"),
        })
    };
    assert_eq!(at("a"), Some((1, 1)));
    assert_eq!(at("b.c.d"), Some((3, 3)));
    assert_eq!(at("b.c.d.1"), Some((5, 2)));
    assert_eq!(at("b.c.e.f.g"), Some((6, 9)));
    assert_eq!(at("b.d"), None);
}

#[test]
fn syntax_errors_state_the_line_and_never_quote_a_secret() {
    let report = parse("[sources.main]\ntoken = \"hunter2\nurl = = 1\n")
        .unwrap_err()
        .to_string();
    assert!(
        report.contains("n.toml:2:") && report.contains("n.toml:3:"),
        "{report}"
    );
    assert!(!report.contains("hunter2"), "{report}");
}

#[test]
fn file_in_yaml_or_json_is_reported_by_its_language() {
    for (text, language) in [
        ("# comment\nsources:\n  main:\n    token: hunter2\n", "YAML"),
        ("---\ndata_dir: data\n", "YAML"),
        ("log.level: debug\n", "YAML"),
        ("{\n  \"sources\": {}\n}\n", "JSON"),
    ] {
        let report = parse(text).unwrap_err();
        assert_eq!(report.problems().len(), 1);
        let report = report.to_string();
        assert!(
            report.contains(&format!("found {language}")) && report.contains("TOML"),
            "{report}"
        );
        assert!(!report.contains("hunter2"), "{report}");
    }
    let report = parse("url = wss://h\n").unwrap_err().to_string();
    assert!(report.contains("invalid TOML"), "{report}");
}
