//! Tests of the whole configuration: accepted input and the report of every error.

use std::{ffi::OsString, fs, path::Path};

use neurobridge_core::sink_type::DeadLetterPlace;
use neurobridge_sink_file::FileConfig;

#[cfg(feature = "nats")]
mod cluster;
mod environment;
mod fields;
mod shape;
mod shipped;
mod validate;

use super::{
    load::{Keys, Loaded, load_from},
    report::{Origin, Report},
    sink::ConfiguredSink,
};

/// Reads `text` as the file `neurobridge.toml`, overridden by these environment variables.
fn load_with(text: &str, variables: &[(&str, &str)]) -> Result<Loaded, Report> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("neurobridge.toml");
    fs::write(&path, text).unwrap();
    load_from(Some(&path), [], environment(variables), Keys::Unread)
}

fn load(text: &str) -> Result<Loaded, Report> {
    load_with(text, &[])
}

fn environment(variables: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    variables
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()))
        .collect()
}

/// Returns the report without the temporary folder, whose name differs from run to run.
fn report(loaded: Result<Loaded, Report>) -> String {
    let report = loaded.unwrap_err().to_string();
    let lines = report
        .lines()
        .map(|line| match (line.find("--> /"), line.find("neurobridge.toml")) {
            (Some(arrow), Some(start)) => format!("{}{}", &line[..arrow + 4], &line[start..]),
            _ => line.to_owned(),
        });
    lines.collect::<Vec<_>>().join("\n")
}

fn file(sink: &ConfiguredSink) -> &FileConfig {
    let config: &dyn std::any::Any = &*sink.config;
    config.downcast_ref().unwrap()
}

const SOURCE: &str = "[sources.main]\ntoken_file = \"/run/secrets/token\"\n";

#[test]
fn spool_larger_than_its_disk_has_a_warning() {
    for (size, is_warned) in [("100000 TiB", true), ("64 MiB", false)] {
        let loaded = load(&format!(
            "{SOURCE}[spool]\ntype = \"disk\"\nmax_size = \"{size}\"\n"
        ))
        .unwrap();
        let is_found = loaded.warnings().iter().any(|warning| {
            warning.key == "spool.max_size"
                && warning
                    .message
                    .contains("the disk fills up before the spool does")
        });
        assert_eq!(is_found, is_warned, "{size}");
    }
}

#[test]
fn source_alone_is_a_valid_configuration() {
    let loaded = load(SOURCE).unwrap();
    let config = loaded.config;
    assert_eq!(config.sources["main"].address(), "wss://events.neuroio.com");
    assert_eq!(config.drain_timeout.as_secs(), 8);
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:9797");
    assert_eq!(config.sinks.keys().collect::<Vec<_>>(), ["events"]);
    assert_eq!(file(&config.sinks["events"]).path, Path::new("events.jsonl"));
    assert!(config.sinks["events"].common.required);
}

#[test]
fn variables_alone_are_a_valid_configuration() {
    let loaded = load_from(
        None,
        [],
        environment(&[("NEUROBRIDGE__SOURCES__MAIN__TOKEN", "007")]),
        Keys::Unread,
    )
    .unwrap();
    assert_eq!(loaded.file, None);
    let token = loaded.config.sources["main"].token.clone().unwrap();
    assert_eq!(token.expose(), "007");
    insta::assert_snapshot!(report(load_from(None, [], environment(&[]), Keys::Unread)));
}

#[test]
fn first_default_path_with_a_file_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let [missing, first, second] =
        ["missing.toml", "first.toml", "second.toml"].map(|name| folder.path().join(name));
    fs::write(&first, SOURCE).unwrap();
    fs::write(&second, "not toml").unwrap();
    let places = [missing.as_path(), first.as_path(), second.as_path()];
    assert_eq!(
        load_from(None, places, [], Keys::Unread).unwrap().file,
        Some(first)
    );
}

#[test]
fn missing_file_named_on_the_command_line_is_an_error() {
    // figment alone would treat a missing file as an empty one.
    let missing = Path::new("/nowhere/neurobridge.toml");
    let variables = environment(&[("NEUROBRIDGE__SOURCES__MAIN__TOKEN", "t")]);
    let report = load_from(Some(missing), [], variables, Keys::Unread)
        .unwrap_err()
        .to_string();
    assert!(
        report.contains("/nowhere/neurobridge.toml") && report.contains("No such file"),
        "{report}"
    );
}

#[test]
fn variables_set_maps_key_by_key_and_arrays_as_a_whole() {
    let text = format!(
        "{SOURCE}[event]\nredact = [\"a\", \"b\"]\n[sinks.archive]\ntype = \"file\"\nmax_size = \"1 MiB\"\n"
    );
    let config = load_with(
        &text,
        &[
            ("NEUROBRIDGE__EVENT__REDACT", "[\"*_image\"]"),
            ("NEUROBRIDGE__EVENT__FILTER__RESULT", "[new, exact]"),
            ("NEUROBRIDGE__SINKS__ARCHIVE__PATH", "1.jsonl"),
            ("NEUROBRIDGE__SINKS__OTHER__TYPE", "file"),
            ("NEUROBRIDGE__SINKS__OTHER__REQUIRED", "false"),
            ("NEUROBRIDGE__SOURCES__MAIN__URL", "ws://localhost:1"),
            ("NEUROBRIDGE__DEDUPLICATE__MAX_EVENTS", "5"),
            ("NEUROBRIDGE_PORT", "tcp://10.0.0.1:9797"),
        ],
    )
    .unwrap()
    .config;
    assert_eq!(config.event.redact.len(), 1);
    assert!(!config.event.filter.is_empty());
    let archive = file(&config.sinks["archive"]);
    assert_eq!(
        (archive.path.to_str(), archive.max_size.bytes()),
        (Some("1.jsonl"), 1 << 20)
    );
    assert!(!config.sinks["other"].common.required);
    assert_eq!(config.sources["main"].address(), "ws://localhost:1");
    assert!(config.sources["main"].token_file.is_some());
    assert_eq!(config.deduplicate.max_events, 5);
}

#[test]
fn sink_may_have_its_own_dead_letter_file() {
    let sinks = "[sinks.a]\ntype = \"file\"\ndead_letter = { path = \"a.dead.jsonl\" }\n\
                 [sinks.b]\ntype = \"file\"\npath = \"b.jsonl\"\ndead_letter.path = \"/var/b.dead.jsonl\"\n";
    let config = load(&format!("data_dir = \"keep\"\n{SOURCE}{sinks}"))
        .unwrap()
        .config;
    assert_eq!(
        config.sinks["a"].config.dead_letter_place(),
        DeadLetterPlace::File(Path::new("a.dead.jsonl"))
    );
    assert_eq!(
        config.sinks["b"].config.dead_letter_place(),
        DeadLetterPlace::File(Path::new("/var/b.dead.jsonl"))
    );
}

// The build has to include the sink type of the key `topic`: otherwise the key is unknown, and its value is hidden.
#[cfg(feature = "kafka")]
#[test]
fn unknown_keys_are_all_reported_with_suggestions() {
    insta::assert_snapshot!(report(load_with(
        "drain_timout = \"1s\"\n[sources.main]\ntokn = \"hunter2\"\nping-interval = \"5s\"\n[sinks.a]\ntype = \"file\"\nmax_sise = 1\n\
         topic = \"x\"\n[event.pseudonymise]\nfields = [\"pid\"]\nkeyfile = \"k\"\n[htpp]\nlisten = 1\n",
        &[("NEUROBRIDGE__SPOOL__SIZE", "1 GiB")],
    )));
}

#[test]
fn key_of_the_disk_spool_in_a_memory_spool_is_an_error() {
    insta::assert_snapshot!(report(load(&format!("{SOURCE}[spool]\nretain = \"2h\"\n"))));
}

#[test]
fn key_of_another_sink_type_is_an_error() {
    let text = format!("{SOURCE}[sinks.nats]\ntype = \"nats\"\nsubject = \"faces\"\ntopic = \"faces\"\n");
    insta::assert_snapshot!(report(load(&text)));
}

#[test]
fn wrong_type_of_a_value_hides_no_other_error_of_its_table() {
    let report = report(load(&format!(
        "{SOURCE}[spool]\ntype = \"disc\"\nmax_size = \"10GB\"\nretian = \"1h\"\n[sinks.near]\ntype = \"fiel\"\nmax_size = 5\n\
         [sinks.far]\ntype = \"amqp\"\nmax_age = 5\nmax_sise = 1\nrequired = 1\n"
    )));
    for expected in [
        "spool.type: found \"disc\"\n --> neurobridge.toml:4:8\n  |\n4 | type = \"disc\"\n  |        ^^^^^^ did you mean \"disk\"?",
        "spool.max_size: found \"10GB\"",
        "did you mean \"retain\"?",
        "sinks.near.type: found \"fiel\"",
        "sinks.near.max_size: found 5",
        "sinks.far.type: found \"amqp\"",
        "sinks.far.max_age: found 5",
        "sinks.far.max_sise: unknown key",
        "sinks.far.required: found 1",
        "9 configuration errors",
    ] {
        assert!(report.contains(expected), "{expected}: {report}");
    }
}

#[test]
fn mistyped_fields_are_warned_about() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    fs::write(&key, "0123456789abcdef").unwrap();
    let loaded = load(&format!(
        "{SOURCE}[event]\nfilter = {{ result = [\"nwe\", \"new\"] }}\nredact = [\"faceimage\", \"*_image\"]\n\
         [sinks.a]\ntype = \"file\"\nredact = [\"space.nam\"]\nfilter = {{ \"space.idd\" = [1], age = {{ at_last = 18 }}, groups = {{ any = \"vip\" }} }}\n\
         pseudonymise = {{ fields = [\"pidd\", \"pid\"], key_file = {key:?} }}\n"
    ));
    let warnings = loaded.unwrap().warnings();
    let unknown = warnings
        .iter()
        .filter(|warning| warning.message.starts_with("unknown "));
    let lines: Vec<_> = unknown
        .map(|warning| format!("{}: {}", warning.key, warning.message))
        .collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    event.filter.result: unknown result "nwe" (did you mean "new"?): the platform is not known to send it
    event.redact: unknown field "faceimage" (did you mean "face_image"?): it redacts no known field
    sinks.a.filter.age.at_last: unknown field "age.at_last" (did you mean "at_least"?): events without it do not pass
    sinks.a.filter.space.idd: unknown field "space.idd" (did you mean "space.id"?): events without it do not pass
    sinks.a.redact: unknown field "space.nam" (did you mean "space.name"?): it redacts no known field
    sinks.a.pseudonymise.fields: unknown field "pidd" (did you mean "pid"?): it pseudonymises no known field
    "#);
}

#[cfg(feature = "kafka")]
#[test]
fn mistyped_field_of_a_topic_is_warned_about() {
    let text =
        "[sinks.k]\ntype = \"kafka\"\nbootstrap_servers = \"localhost:9092\"\ntopic = \"x.{space.idd}\"\n";
    let warnings = load(&format!("{SOURCE}{text}")).unwrap().warnings();
    let topic = warnings
        .iter()
        .find(|warning| warning.key == "sinks.k.topic")
        .unwrap();
    assert!(
        topic
            .message
            .contains("\"space.idd\" (did you mean \"space.id\"?)"),
        "{}",
        topic.message
    );
}

#[test]
fn error_of_an_http_url_suggests_the_scheme_of_a_feed() {
    for (scheme, expected) in [("http", "ws"), ("https", "wss"), ("HTTPS", "wss")] {
        let report = report(load(&format!("{SOURCE}url = \"{scheme}://h/x?t=hunter2\"\n")));
        assert!(
            report.contains(&format!("expected: \"{expected}://h/…\"")),
            "{report}"
        );
        assert!(!report.contains("hunter2"), "{report}");
    }
}

#[test]
fn invalid_log_level_or_filter_is_an_error() {
    for wrong in ["warning", "verbose", "", "a=loud", "off"] {
        let report = report(load(&format!("{SOURCE}[log]\nlevel = \"{wrong}\"\n")));
        assert!(
            report.contains("one of \"error\", \"warn\", \"info\", \"debug\", \"trace\""),
            "{report}"
        );
    }
    for wrong in ["a=loud", "debug", "a=debug,warning", ""] {
        let report = report(load(&format!("{SOURCE}[log]\nfilter = \"{wrong}\"\n")));
        assert!(report.contains("log.filter: found"), "{wrong}: {report}");
    }
    let log = "[log]\nlevel = \"warn\"\nfilter = \"neurobridge_listener=debug,hyper=error\"\n";
    let config = load(&format!("{SOURCE}{log}")).unwrap().config;
    assert_eq!(
        config.log.directives(),
        "warn,neurobridge_listener=debug,hyper=error"
    );
    assert_eq!(load(SOURCE).unwrap().config.log.directives(), "info");
}

#[test]
fn missing_configuration_reports_the_default_paths() {
    let places = crate::config::DEFAULT_PATHS
        .iter()
        .map(|place| Path::new("/nowhere").join(place));
    let places: Vec<_> = places.collect();
    insta::assert_snapshot!(report(load_from(
        None,
        places.iter().map(|place| place.as_path()),
        [],
        Keys::Unread
    )));
}

#[test]
fn invalid_values_are_all_reported() {
    insta::assert_snapshot!(report(load_with(
        "drain_timeout = 8\ndata_dir = true\n[sources.main]\ntoken = [\"hunter2\"]\nurl = 7\nping_interval = \"5 fortnights\"\n\
         exit_on_refused_token = \"yes\"\n[sources.other]\ntoken = \"hunter3\"\ntoken_file = \"x\"\nurl = \"https://u:hunter4@h\"\n\
         [spool]\nwhen_full = \"explode\"\nmax_size = 5\n[event]\nfilter = { age = { at_last = 18, below = 65 } }\nredact = [\"a\", 7]\n\
         [sinks.a]\ntype = \"file\"\nformat = \"xml\"\nrequired = 1\nmax_size = \"1 KiB\"\n[http]\nlisten = \"localhost\"\n\
         [log]\nformat = \"yaml\"\nlevel = \"a=loud\"\n",
        &[
            ("NEUROBRIDGE__DEDUPLICATE__MAX_EVENTS", "-1"),
            ("NEUROBRIDGE__SOURCES__ENV__PROXY", "socks5://hunter5@p")
        ],
    )));
}

// The messages list the sink types in the build.
#[cfg(feature = "kafka")]
#[test]
fn invalid_sinks_and_names_are_all_reported() {
    insta::assert_snapshot!(report(load(&format!(
        "{SOURCE}[sources.Big-One]\ntoken_file = \"t\"\n[sinks]\nplain = 1\n[sinks.none]\npath = \"x\"\n\
         [sinks.odd]\ntype = \"fil\"\n[sinks.a]\ntype = \"file\"\nmax_dead_letters_in_a_row = 0\n[sinks.b]\ntype = \"file\"\n\
         path = \"b.jsonl\"\ndead_letter = {{ path = \"events.jsonl\" }}\n[sinks.c]\ntype = \"file\"\npath = \"c.jsonl\"\ndead_letter = \"c\"\n"
    ))));
}

#[test]
fn invalid_toml_is_reported_without_its_values() {
    let report = report(load("[sources.main]\ntoken = \"hunter2\nurl = = 1\n"));
    assert!(!report.contains("hunter2"), "{report}");
    insta::assert_snapshot!(report);
}

#[test]
fn two_sinks_with_one_file_under_two_paths_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    std::os::unix::fs::symlink(&data, folder.path().join("link")).unwrap();
    fs::write(data.join("there.jsonl"), "").unwrap();
    std::os::unix::fs::symlink(data.join("there.jsonl"), data.join("alias.jsonl")).unwrap();
    let link = folder.path().join("link/a.jsonl");
    for (one, other) in [
        ("a.jsonl", "./a.jsonl"),
        ("a.jsonl", "../data/a.jsonl"),
        ("there.jsonl", "alias.jsonl"),
        ("a.jsonl", link.to_str().unwrap()),
    ] {
        let text = |other: &str| {
            format!(
                "data_dir = {data:?}\n{SOURCE}[sinks.one]\ntype = \"file\"\npath = {one:?}\n[sinks.two]\ntype = \"file\"\npath = {other:?}\n"
            )
        };
        let report = report(load(&text(other)));
        assert!(
            report.contains("expected: a file different from sinks.one.path"),
            "{report}"
        );
        load(&text("b.jsonl")).unwrap();
        let dead_letters = format!(
            "{SOURCE}[dead_letters]\npath = {other:?}\n[sinks.one]\ntype = \"file\"\npath = {one:?}\n"
        );
        assert!(load(&format!("data_dir = {data:?}\n{dead_letters}")).is_err());
    }
}

#[test]
fn device_as_a_file_is_an_error() {
    for table in ["[sinks.a]\ntype = \"file\"", "[dead_letters]"] {
        let report = report(load(&format!("{SOURCE}{table}\npath = \"/dev/null\"\n")));
        assert!(
            report.contains("\"/dev/null\", which is not a regular file"),
            "{report}"
        );
    }
}

#[cfg(feature = "kafka")]
#[test]
fn errors_of_a_kafka_sink_are_all_reported() {
    insta::assert_snapshot!(report(load_with(
        &format!(
            "{SOURCE}[sinks.kafka]\ntype = \"kafka\"\ntopic = \"{{pid\"\nlinger = 5\nsasl = {{ mechanism = \"md5\", username = \"u\", \
             password = \"hunter2\" }}\nproperties = {{ acks = \"1\", \"no.such\" = \"hunter3\" }}\ncreate = true\nrequird = true\n"
        ),
        &[
            ("NEUROBRIDGE__SINKS__SECOND__TYPE", "kafka"),
            ("NEUROBRIDGE__SINKS__SECOND__BOOTSTRAP_SERVERS", "")
        ],
    )));
}

#[test]
fn dates_are_errors_with_their_position() {
    let report = report(load(&format!(
        "{SOURCE}[sinks.kafka]\ntype = \"kafka\"\nbootstrap_servers = \"h\"\ntopic = 2026-01-01\nlinger = 07:32:00\n"
    )));
    for expected in [
        "sinks.kafka.topic: found a date",
        "sinks.kafka.linger: found a date",
        "neurobridge.toml:6:",
    ] {
        assert!(report.contains(expected), "{report}");
    }
}

#[cfg(not(feature = "kafka"))]
#[test]
fn sink_type_missing_in_this_build_is_reported() {
    let report = report(load(&format!(
        "{SOURCE}[sinks.kafka]\ntype = \"kafka\"\nbootstrap_servers = \"localhost:9092\"\n"
    )));
    assert!(
        report.contains("which this build of neurobridge does not include"),
        "{report}"
    );
}

#[test]
fn file_of_the_history_is_refused_for_a_sink() {
    let text = report(load(&format!(
        "{SOURCE}[sinks.a]\ntype = \"file\"\npath = \"history.ndjson\"\n"
    )));
    assert!(
        text.contains("a file different from the history of the bridge"),
        "{text}"
    );
}

#[test]
fn empty_token_file_variable_is_one_error() {
    let loaded = load_from(
        None,
        [],
        environment(&[("NEUROBRIDGE__SOURCES__MAIN__TOKEN_FILE", "")]),
        Keys::Unread,
    );
    let report = loaded.unwrap_err();
    let keys: Vec<&str> = report.problems().iter().map(|problem| &*problem.key).collect();
    assert_eq!(keys, ["sources.main.token_file"], "{report}");
}

#[test]
fn missing_key_file_is_reported_with_all_other_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("neurobridge.toml");
    let missing = folder.path().join("missing");
    let text = format!(
        "drain_timeout = \"long\"\n{SOURCE}[event]\npseudonymise = {{ fields = [\"pid\"], key_file = {missing:?} }}\n\
         [sinks.a]\ntype = \"file\"\npseudonymise = {{ fields = [\"pid\"] }}\n\
         [sinks.b]\ntype = \"file\"\npath = \"b\"\npseudonymise = {{ fields = [\"pid\"], key_file = {missing:?} }}\n"
    );
    fs::write(&path, text).unwrap();
    let report = load_from(Some(&path), [], [], Keys::Read).unwrap_err();
    let found: Vec<(&str, bool)> = report
        .problems()
        .iter()
        .map(|problem| (&*problem.key, problem.message.contains("cannot read")))
        .collect();
    let expected = [
        ("drain_timeout", false),
        ("event.pseudonymise.key_file", true),
        ("sinks.a.pseudonymise.key_file", false),
        ("sinks.b.pseudonymise.key_file", true),
    ];
    assert_eq!(found, expected, "{report}");
    let has_lines = report.problems().iter().all(|problem| {
        matches!(
            problem.origin,
            Origin::File {
                position: Some(_),
                ..
            }
        )
    });
    assert!(has_lines, "{report}");
}
