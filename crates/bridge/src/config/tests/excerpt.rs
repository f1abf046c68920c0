//! Tests of excerpts of the file in reports: no secret is shown.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::config::{
    load::{Keys, load_from},
    schema,
};

fn shown(text: &str, key: &str) -> String {
    let schema = schema();
    let shape = Shape::root(&schema);
    let document = Document::parse(Path::new("n.toml"), text, &shape).unwrap();
    let key: Vec<String> = key.split('.').map(str::to_owned).collect();
    let excerpt = of(&document, &shape, &key).unwrap();
    format!(
        "{} {} [{}]",
        excerpt.line,
        excerpt.text,
        &excerpt.text[excerpt.span.clone()]
    )
}

#[test]
fn excerpt_shows_the_marked_span_and_hides_secrets() {
    for (text, key, expected) in [
        (
            "drain_timeout = 8 # hunter2",
            "drain_timeout",
            "1 drain_timeout = 8 [8]",
        ),
        (
            "\n[sources.main]\ntokne = \"hunter2\"",
            "sources.main.tokne",
            "3 tokne = … [tokne]",
        ),
        (
            "[sources.main]\n token = 'hunter2' # x",
            "sources.main.token",
            "2  token = … […]",
        ),
        (
            "sources.main = \"hunter2\"",
            "sources.main",
            "1 sources.main = … […]",
        ),
        (
            "sources.main = { token = \"hunter2\", urrl = \"hunter2\", ping_interval = 5 }",
            "sources.main.ping_interval",
            "1 sources.main = { token = …, urrl = …, ping_interval = 5 } [5]",
        ),
        (
            "[sources.main]\nurl = \"wss://u:hunter2@h/?t=hunter2\" ",
            "sources.main.url",
            "2 url = … […]",
        ),
        (
            "[sources.main]\nurl = \"wss://h:81/hunter2?t=hunter2\" ",
            "sources.main.url",
            "2 url = \"wss://h:81…\" [\"wss://h:81…\"]",
        ),
        (
            "[sources.main]\nproxy = \"bob:hunt^er2@p:3128\"",
            "sources.main.proxy",
            "2 proxy = … […]",
        ),
        (
            "[sinks.n]\ntype = \"nats\"\nservers = [\"nats://a:hunter2@h\", 5]",
            "sinks.n.servers.1",
            "3 servers = […, 5] [5]",
        ),
        (
            "[sinks.n]\ntype = \"nats\"\nservers = [\"nats://bob:1,hunter2@h\", 'tls://h:1', \"tls://h:hunter2\"]",
            "sinks.n.servers.1",
            "3 servers = […, 'tls://h:1', …] ['tls://h:1']",
        ),
        (
            "[sources.Big]\ntoken_file = \"x\"",
            "sources.Big",
            "1 [sources.Big] [Big]",
        ),
        (
            "[sources.main]\ntoken = \"\"\"\nhunter2\n\"\"\"",
            "sources.main.token",
            "2 token = … [token]",
        ),
        ("[event]\nredact = [\n 'a',\n 7]", "event.redact.1", "4  7] [7]"),
    ] {
        // Without its crate the keys of a sink are unknown, and their values hidden.
        if cfg!(feature = "nats") || !text.contains("nats") {
            assert_eq!(shown(text, key), expected, "{text}");
        }
    }
}

#[test]
fn only_known_keys_of_invalid_toml_are_shown() {
    let schema = schema();
    let shape = Shape::root(&schema);
    for (text, at, expected) in [
        ("token = \"hunter2", 8, "token = … […]"),
        ("url = hunter2", 0, "url = … [url = …]"),
        ("hunter2", 0, "… […]"),
        ("aHVudGVyMg==", 3, "… […]"),
        ("tokne = hunter2", 8, "… […]"),
        ("[sources.main", 13, "[sources.main []"),
        ("[hunter2", 1, "… […]"),
        ("token =", 7, "token = []"),
    ] {
        let excerpt = of_broken(text, &shape, &(at..text.len()));
        let shown = format!("{} [{}]", excerpt.text, &excerpt.text[excerpt.span.clone()]);
        assert_eq!(shown, expected, "{text}");
    }
}

proptest! {
    #[test]
    fn no_password_of_an_address_is_shown(
        start in "(|http://|wss://|nats://|bob:)", middle in "[ -~]{0,8}", end in "[ -~]{0,8}", more in "(|, 'tls://h:1')",
    ) {
        let address = format!("{start}bob:{middle}hunter2{end}@proxy:3128");
        let quoted = serde_json::to_string(&address).unwrap();
        let schema = schema();
        let shape = Shape::root(&schema);
        let text = format!(
            "[sources.main]\nurl = {quoted}\nproxy = {quoted}\n[sinks.n]\ntype = \"nats\"\nservers = [{quoted}{more}]\n[sinks.m]\ntype = \"nats\"\nservers = {quoted}"
        );
        let path = std::env::temp_dir();
        let document = Document::parse(&path, &text, &shape).unwrap();
        for key in document.key_origins.keys() {
            let excerpt = of(&document, &shape, key).unwrap();
            prop_assert!(!excerpt.text.contains("hunter2"), "{}", excerpt.text);
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("n.toml");
        std::fs::write(&file, &text).unwrap();
        let report = load_from(Some(&file), [], [], Keys::Unread).unwrap_err().to_string();
        prop_assert!(!report.contains("hunter2"), "{}", report);
    }

    #[test]
    fn marked_span_of_any_text_has_character_boundaries(
        text in "[a-z\\[\\]=\"' #\n.é…0-9]{0,60}", start in 0usize..60, length in 0usize..20,
    ) {
        let schema = schema();
        let shape = Shape::root(&schema);
        let start = text.floor_char_boundary(start);
        let end = text.floor_char_boundary(start + length).max(start);
        let excerpt = of_broken(&text, &shape, &(start..end));
        prop_assert!(excerpt.text.get(excerpt.span).is_some());
        if let Ok(document) = Document::parse(Path::new("n"), &text, &shape) {
            for key in document.key_origins.keys() {
                let excerpt = of(&document, &shape, key).unwrap();
                prop_assert!(excerpt.text.get(excerpt.span).is_some());
            }
        }
    }
}
