//! Tests of declared feeds in the configuration.

use super::*;
use crate::config::load;

fn load_with(config: &str, files: &[(&str, &str)]) -> Result<load::Loaded, String> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let path = folder.path().join("neurobridge.toml");
    std::fs::write(&path, config).unwrap();
    let loaded = load::load_from(Some(&path), [], [], load::Keys::Unread);
    loaded.map_err(|report| {
        let folder = folder.path().display().to_string();
        report.to_string().replace(&folder, "FOLDER")
    })
}

#[test]
fn shipped_declarations_are_valid() {
    for (name, _) in SHIPPED {
        let config = format!("[sources.main]\nfeed = \"{name}\"\n");
        let loaded = load_with(&config, &[]).unwrap_or_else(|report| panic!("{report}"));
        assert!(
            loaded.config.sources["main"].address().starts_with("wss://"),
            "{name}"
        );
    }
}

#[test]
fn declaration_is_read_from_a_file_beside_the_configuration() {
    let declaration = "url = \"ws://localhost:1/feed\"\n[[rules]]\nis = \"event\"\n";
    let config = "[sources.main]\nfeed = \"mine.toml\"\n";
    let loaded = load_with(config, &[("mine.toml", declaration)]).unwrap();
    assert_eq!(loaded.config.sources["main"].address(), "ws://localhost:1/feed");
}

#[test]
fn error_in_a_declaration_has_its_file_and_line() {
    let declaration = "url = \"ws://localhost:1/feed\"\n[[rules]]\nis = \"evnt\"\n";
    let config = "[sources.main]\nfeed = \"mine.toml\"\n";
    let report = load_with(config, &[("mine.toml", declaration)]).unwrap_err();
    insta::assert_snapshot!(report, @r#"
    error: sources.main.feed.rules.0.is: found "evnt"
     --> FOLDER/mine.toml:3:6
      |
    3 | is = "evnt"
      |      ^^^^^^ did you mean "event"?
      |
      = expected: one of "event", "ignore", "alive", "error", "reply", "end"

    error: 1 configuration error; fix it and run `neurobridge check` again
    "#);
}

#[test]
fn neuroio_key_beside_a_declared_feed_is_an_error() {
    let config = "[sources.main]\nfeed = \"okx\"\nping_interval = \"3s\"\n";
    let report = load_with(config, &[]).unwrap_err();
    assert!(
        report.contains("sources.main.ping_interval: found a key of NeuroIO's protocol")
            && report.contains(":3:"),
        "{report}"
    );
}

#[test]
fn errors_of_a_list_of_past_events_have_their_lines() {
    let declaration = r#"
url = "ws://localhost:1/feed"
rules = [{ is = "event" }]
event = { id = "n" }
[backfill]
url = "http://localhost:1/orders?since={form}"
lst = "data"
pages = { type = "pages", path = "next" }
"#;
    let config = "[sources.main]\nfeed = \"mine.toml\"\nbackfill = { url = \"http://localhost:1\" }\n";
    let report = load_with(config, &[("mine.toml", declaration)]).unwrap_err();
    insta::assert_snapshot!(report, @r#"
    error: sources.main.backfill.url: found together with a declared feed
     --> FOLDER/neurobridge.toml:3:20
      |
    3 | backfill = { url = "http://localhost:1" }
      |                    ^^^^^^^^^^^^^^^^^^^^
      |
      = expected: the list of past events in "feed.backfill"

    error: sources.main.feed.backfill.url: found {form}, an unknown placeholder (did you mean {from}?)
     --> FOLDER/mine.toml:6:7
      |
    6 | url = "http://localhost:1…"
      |       ^^^^^^^^^^^^^^^^^^^^^
      |
      = expected: {from}, {to} or {last_id}

    error: sources.main.feed.backfill.lst: unknown key
     --> FOLDER/mine.toml:7:1
      |
    7 | lst = …
      | ^^^ did you mean "list"?
      |
      = expected: one of "frame", "headers", "list", "order", "pages", "query", "unit", "url"

    error: sources.main.feed.backfill.pages.type: found "pages"
     --> FOLDER/mine.toml:8:18
      |
    8 | pages = { type = "pages", path = "next" }
      |                  ^^^^^^^ did you mean "page"?
      |
      = expected: one of "offset", "page", "next"

    error: sources.main.feed.backfill.pages.path: found without a next link
     --> FOLDER/mine.toml:8:34
      |
    8 | pages = { type = "pages", path = "next" }
      |                                  ^^^^^^
      |
      = expected: type = "next"

    error: 5 configuration errors; fix them and run `neurobridge check` again
    "#);
}

#[test]
fn backfill_without_a_list_of_past_events_is_an_error() {
    let config = "[sources.main]\nfeed = \"okx\"\nbackfill = { enabled = true }\n";
    let report = load_with(config, &[]).unwrap_err();
    assert!(
        report.contains(
            "sources.main.backfill.enabled: found true, but the declared feed has no list of past events"
        ) && report.contains(":3:"),
        "{report}"
    );
}

#[test]
fn unknown_missing_or_invalid_declaration_is_an_error() {
    for (named, found) in [
        ("okex", "found \"okex\""),
        ("missing.toml", "file FOLDER/missing.toml cannot be read"),
    ] {
        let report = load_with(&format!("[sources.main]\nfeed = \"{named}\"\n"), &[]).unwrap_err();
        assert!(
            report.contains(found) && report.contains("1 configuration error"),
            "{report}"
        );
    }
    let report = load_with(
        "[sources.main]\nfeed = \"mine.toml\"\n",
        &[("mine.toml", "a = = 1\n")],
    )
    .unwrap_err();
    assert!(report.contains("FOLDER/mine.toml:1:"), "{report}");
}

#[test]
fn default_topic_and_subject_of_feeds_name_the_source() {
    let sinks = "[sinks.k]\ntype = \"kafka\"\nbootstrap_servers = \"localhost:9092\"\n\
                 [sinks.n]\ntype = \"nats\"\nservers = [\"nats://localhost\"]\nstream = { name = \"S\" }\n\
                 [sinks.o]\ntype = \"kafka\"\nbootstrap_servers = \"localhost:9092\"\ntopic = \"mine\"\n";
    let templates = |sources: &str| {
        let loaded = load_with(&format!("{sources}{sinks}"), &[]).unwrap_or_else(|report| panic!("{report}"));
        let of_sink = |name: &str| loaded.config.sinks[name].config.templates()[0].1.to_string();
        let is_warned = loaded
            .warnings()
            .iter()
            .any(|warning| warning.message.contains("feeds.{feed}"));
        (["k", "n", "o"].map(of_sink), is_warned)
    };
    let declared = "[sources.a]\nfeed = \"okx\"\n";
    assert_eq!(
        templates(declared),
        (["feeds.{feed}", "feeds.{feed}", "mine"].map(str::to_owned), false)
    );
    let (mixed, is_warned) = templates(&format!("{declared}[sources.b]\ntoken = \"x\"\n"));
    assert!(is_warned && mixed[0] == "neuroio.entries", "{mixed:?}");
}
