//! Every command line in the documents is run as it stands there, or the document says why it can't be.
//!
//! A new one fails the test until it is known here how to run it, or a line `<!-- not run: why -->` stands before its block.

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
    /// To its end.
    Once,
    /// Until the end of all; the next commands find it listening.
    Simulator,
    /// Until the next one; the commands between find events in its sinks.
    Bridge,
    /// `cargo demo`, without compiling the program a second time.
    Demo,
}

fn how(command: &str) -> Option<How> {
    Some(match command {
        "cargo demo" => How::Demo,
        "neurobridge run" | "neurobridge run &" => How::Bridge,
        _ if command.starts_with("neurobridge simulate ") && command.ends_with('&') => How::Simulator,
        "neurobridge check"
        | "neurobridge check --connect"
        | "neurobridge healthcheck --ready"
        | "neurobridge spool ls"
        | "neurobridge spool verify" => How::Once,
        _ if command.contains("neurobridge tail -n ") => How::Once,
        _ => return None,
    })
}

/// Of the commands in comments, which have no room for a marker: those that are not run, and why.
const NOT_RUN: [(&str, &str); 5] = [
    (
        "docker compose",
        "no container engine runs where the tests do; the test operator_stack holds the file to its schema",
    ),
    ("NEUROIO_URL=", "as docker compose"),
    (
        "kubectl",
        "no cluster runs where the tests do; the test operator_stack reads the manifest",
    ),
    (
        "systemctl",
        "no systemd runs where the tests do; the test packages starts the service as the unit says",
    ),
    ("install -o root", "the test packages does it"),
];

#[test]
fn every_command_runs_or_the_document_says_why_not() {
    let Some(bootstrap) = kafka_bootstrap() else {
        return;
    };
    let mut site = Site::new(&bootstrap);
    let mut unknown = Vec::new();
    let mut run = 0;
    for command in commands::in_documents() {
        if let Some(reason) = command.not_run {
            assert!(reason.len() > 10, "{}: \"{reason}\" is no reason", command.place);
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
        "not known how to run these, and nothing says why they can't be: {unknown:#?}"
    );
    assert!(run >= 6, "{run}");
}

/// What the alias of cargo comes to, with the program that is there.
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
fn commands_in_comments_are_known() {
    let mut unknown = Vec::new();
    let found = commands::in_comments();
    assert!(found.len() >= 6, "{found:#?}");
    for command in found {
        let is_known = NOT_RUN.iter().any(|(begin, _)| command.text.starts_with(begin));
        if !is_known && how(&command.text).is_none() {
            unknown.push(format!("{}: {}", command.place, command.text));
        }
    }
    assert!(unknown.is_empty(), "{unknown:#?}");
}

/// Commands within sentences are not run; what they name has to be there.
#[test]
fn every_subcommand_and_flag_that_is_named_is_there() {
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
        // It has subcommands of its own.
        if subcommand == "spool"
            && let Some(below) = words.next_if(|word| word.chars().all(char::is_alphabetic))
        {
            subcommand = format!("spool {below}");
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
                    "{}: {} knows no {word}",
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
fn the_reference_of_the_configuration_is_up_to_date() {
    let made = configuration::make().unwrap();
    let path = configuration::path();
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        found,
        made,
        "{}: renew it with `cargo xtask docs`",
        path.display()
    );
}

/// Who looks for what to change finds the file that ARCHITECTURE.md names: from the root, or from `crates`.
#[test]
fn every_place_to_start_is_there() {
    let root = workspace_root();
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let (_, table) = text.split_once("## Where to start").unwrap();
    let named: Vec<&str> = table
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| name.contains('/') && !name.contains(' '))
        .collect();
    assert!(named.len() > 20, "{named:?}");
    for name in named {
        let found = root.join(name).exists() || root.join("crates").join(name).exists();
        assert!(found, "{name}");
    }
}

/// Links within the repository lead somewhere.
#[test]
fn every_link_to_a_file_leads_to_one() {
    for path in commands::documents() {
        let text = fs::read_to_string(&path).unwrap();
        for link in text.split("](").skip(1) {
            let target = link.split([')', '#']).next().unwrap();
            if !target.is_empty() && !target.contains("://") {
                let file = path.parent().unwrap().join(target);
                assert!(file.exists(), "{}: {target}", path.display());
            }
        }
    }
}

/// An editor marks as wrong what the schema does not take.
#[test]
fn the_schema_takes_what_the_program_takes() {
    let output = Command::new(neurobridge()).arg("schema").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let schema = serde_json::from_slice(&output.stdout).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    // Without a type it is a spool in memory.
    assert!(schema.is_valid(&json!({ "spool": { "max_size": "1 GiB", "when_full": "drop_oldest" } })));
    assert!(schema.is_valid(&json!({ "spool": { "type": "disk", "sync": "100ms" } })));
    assert!(!schema.is_valid(&json!({ "spool": { "sync": "100ms" } })));
    assert!(!schema.is_valid(&json!({ "spool": { "max_sise": "1 GiB" } })));
}
