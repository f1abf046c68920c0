//! Runs every command line in the documents exactly as written, unless the document states why the command is not run.
//!
//! A new command fails the test until this module implements its run, or until the line `<!-- not run: why -->` precedes the
//! block of the command.

mod commands;
mod site;

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use neurobridge_tests::configuration;
use neurobridge_tests::paths::{Scratch, workspace_root};
use neurobridge_tests::program::neurobridge;
use neurobridge_tests::shared::kafka_bootstrap;
use serde_json::json;

use self::site::Site;

/// How a command is run.
enum How {
    /// Runs the command until it exits.
    Once,
    /// Starts a simulator that runs until the end of the test, because later commands need its feed.
    Simulator,
    /// Starts a bridge that runs until the next bridge starts; commands in between find events in its sinks.
    Bridge,
    /// Runs `cargo demo` without compiling the program again.
    Demo,
}

/// Returns `None` for a command that is not known here.
fn how(command: &str) -> Option<How> {
    Some(match command {
        "cargo demo" => How::Demo,
        "neurobridge run" | "neurobridge run &" => How::Bridge,
        _ if command.starts_with("neurobridge simulate ") && command.ends_with('&') => How::Simulator,
        "neurobridge check"
        | "neurobridge check --connect"
        | "neurobridge reload"
        | "neurobridge healthcheck --ready"
        | "neurobridge gaps ls"
        | "neurobridge gaps ls --source main --json"
        | "neurobridge dead-letters ls"
        | "neurobridge dead-letters replay"
        | "neurobridge spool ls"
        | "neurobridge spool verify" => How::Once,
        _ if command.starts_with("neurobridge history ") => How::Once,
        _ if command.contains("neurobridge tail -n ") => How::Once,
        _ => return None,
    })
}

/// The commands in comments that are not run, with the reason, because a comment has no place for a marker.
const NOT_RUN: [(&str, &str); 5] = [
    (
        "docker compose",
        "the tests have no container engine; the test operator_stack validates the file against its schema",
    ),
    ("NEUROIO_URL=", "same as docker compose"),
    (
        "kubectl",
        "the tests have no cluster; the test operator_stack checks the manifest",
    ),
    (
        "systemctl",
        "the tests have no systemd; the test packages starts the service according to the unit",
    ),
    ("install -o root", "covered by the test packages"),
];

#[test]
fn every_command_runs_or_has_a_stated_reason() {
    let Some(bootstrap) = kafka_bootstrap() else {
        return;
    };
    let mut site = Site::new(&bootstrap);
    let mut unknown = Vec::new();
    let mut run = 0;
    for command in commands::in_documents() {
        if let Some(reason) = command.not_run {
            assert!(
                reason.len() > 10,
                "{}: \"{reason}\" is not a sufficient reason",
                command.place
            );
            continue;
        }
        match how(&command.text) {
            None => unknown.push(format!("{}: {}", command.place, command.text)),
            Some(How::Once) => drop(site.once(&command.text)),
            Some(How::Simulator) => site.simulator(&command.text),
            Some(How::Bridge) => site.bridge(&command.text),
            Some(How::Demo) => demo(),
        }
        run += 1;
    }
    site.stop();
    assert!(
        unknown.is_empty(),
        "these commands are not known to `how`, and no reason is stated: {unknown:#?}"
    );
    assert!(run >= 6, "{run}");
}

/// Runs the command of the cargo alias `demo` with the program under test, so that nothing is compiled.
fn demo() {
    let aliases = fs::read_to_string(workspace_root().join(".cargo/config.toml")).unwrap();
    let alias = aliases.lines().find_map(|line| line.strip_prefix("demo = "));
    let alias = alias.unwrap().trim_matches('"');
    let (cargo, program) = alias.split_once(" -- ").unwrap();
    assert!(
        cargo.starts_with("run ") && cargo.contains("--package neurobridge"),
        "{alias}"
    );
    let dir = Scratch::new("demo").unwrap();
    let output = Command::new(neurobridge())
        .args(program.split_whitespace())
        .args(["--duration", "3s"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(fs::metadata(dir.join("demo-data/events.jsonl")).unwrap().len() > 0);
}

#[test]
fn commands_in_comments_are_known_or_have_a_reason() {
    let mut unknown = Vec::new();
    let found = commands::in_comments();
    assert!(found.len() >= 6, "{found:#?}");
    for command in found {
        let is_known = NOT_RUN.iter().any(|(begin, _)| command.text.starts_with(begin));
        if !is_known && how(&command.text).is_none() {
            unknown.push(format!("{}: {}", command.place, command.text));
        }
    }
    assert!(
        unknown.is_empty(),
        "these commands are neither known to `how` nor in NOT_RUN: {unknown:#?}"
    );
}

/// Commands within sentences are not run, but their subcommands and flags must exist.
#[test]
fn named_subcommands_and_flags_exist() {
    let mut helps: BTreeMap<String, String> = BTreeMap::new();
    let mut checked = 0;
    let in_blocks = commands::in_documents()
        .into_iter()
        .chain(commands::in_comments());
    for command in commands::in_text().into_iter().chain(in_blocks) {
        let Some((_, rest)) = command.text.split_once("neurobridge ").filter(|(before, _)| {
            before.is_empty()
                || before.ends_with("|")
                || before.split_whitespace().all(|word| word.contains('='))
        }) else {
            continue;
        };
        let mut words = rest.split_whitespace().peekable();
        let mut subcommand = words.next().unwrap().trim_matches(['[', ']', ',']).to_owned();
        if subcommand.starts_with('-') {
            continue;
        }
        // These commands have subcommands.
        if ["dead-letters", "gaps", "spool"].contains(&subcommand.as_str())
            && let Some(below) = words.next_if(|word| word.chars().all(char::is_alphabetic))
        {
            subcommand = format!("{subcommand} {below}");
        }
        let help = helps.entry(subcommand.clone()).or_insert_with(|| {
            let output = Command::new(neurobridge())
                .args(subcommand.split(' ').chain(["--help"]))
                .output()
                .unwrap();
            assert!(output.status.success(), "{}: {}", command.place, command.text);
            String::from_utf8(output.stdout).unwrap()
        });
        for word in words {
            let word = word.trim_start_matches('[').split(['=', ']']).next().unwrap();
            if word.starts_with('-') && word.len() > 1 {
                assert!(
                    help.contains(word),
                    "{}: {} has no {word}",
                    command.place,
                    subcommand
                );
            }
        }
        checked += 1;
    }
    assert!(checked >= 10, "{checked}");
}

#[test]
fn configuration_reference_is_up_to_date() {
    let generated = configuration::make().unwrap();
    let path = configuration::path();
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        found,
        generated,
        "{} is outdated; run `cargo xtask docs`",
        path.display()
    );
}

/// Every file that ARCHITECTURE.md names as a starting point must exist, relative to the root or to `crates`.
#[test]
fn files_named_as_starting_points_exist() {
    let root = workspace_root();
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let (_, rest) = text.split_once("## Where to start").unwrap();
    let table = rest.split("\n## ").next().unwrap();
    let named: Vec<&str> = table
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| name.contains('/') && !name.contains(' '))
        .collect();
    assert!(named.len() > 20, "{named:?}");
    for name in named {
        let found = root.join(name).exists() || root.join("crates").join(name).exists();
        assert!(found, "ARCHITECTURE.md names {name}, which does not exist");
    }
}

/// Every link within the repository must point to an existing file.
#[test]
fn links_to_files_resolve() {
    for path in commands::documents() {
        let text = fs::read_to_string(&path).unwrap();
        for link in text.split("](").skip(1) {
            let target = link.split([')', '#']).next().unwrap();
            if !target.is_empty() && !target.contains("://") {
                let file = path.parent().unwrap().join(target);
                assert!(
                    file.exists(),
                    "{} links to {target}, which does not exist",
                    path.display()
                );
            }
        }
    }
}

/// An editor reports errors according to the schema, so the schema must accept and reject the same keys as the program.
#[test]
fn schema_allows_only_the_keys_of_the_spool_type() {
    let output = Command::new(neurobridge()).arg("schema").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let schema = serde_json::from_slice(&output.stdout).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    // A spool without a type is a spool in memory.
    assert!(schema.is_valid(&json!({ "spool": { "max_size": "1 GiB", "when_full": "drop_oldest" } })));
    assert!(schema.is_valid(&json!({ "spool": { "type": "disk", "sync": "100ms" } })));
    assert!(!schema.is_valid(&json!({ "spool": { "sync": "100ms" } })));
    assert!(!schema.is_valid(&json!({ "spool": { "max_sise": "1 GiB" } })));
}
