//! Replays transcripts through the shipped declarations. The frames are those of the public documentation of each feed.
//!
//! A transcript has one line for each step: `> ` a sent message, `< ` a received frame, `= ` an action or a result of the line
//! before, `! ` a call of the listener (`begin`, `ping`, `request`, `resume VALUE`), `# ` a comment. With the environment
//! variable `UPDATE_TRANSCRIPTS`, the test rewrites the sent messages, actions and results instead of comparing them.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

use std::{fmt::Write as _, fs, path::PathBuf};

use neurobridge_core::secret::Secret;
use neurobridge_protocol::{Action, Declaration, FeedEvent, Interpreter, Message, Ping, SHIPPED, Secrets};

fn feeds() -> Vec<&'static str> {
    SHIPPED.iter().map(|(name, _)| *name).collect()
}

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn interpreter(name: &str) -> Interpreter {
    let text = fs::read_to_string(root().join(format!("config/feeds/{name}.toml"))).unwrap();
    let declaration: Declaration = toml::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
    Interpreter::new(declaration, &[]).unwrap_or_else(|errors| panic!("{name}: {errors:?}"))
}

fn secrets(interpreter: &Interpreter) -> Secrets {
    let names = interpreter.declaration().secrets.keys();
    names
        .map(|name| (name.clone(), Secret::new(format!("<{name}>"))))
        .collect()
}

fn event(event: &FeedEvent<'_>, out: &mut String) {
    let shown = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let _ = writeln!(
        out,
        "= event id={} time={} type={} key={}",
        shown(event.id().map(Into::into)),
        shown(event.time().map(|time| time.to_string())),
        shown(event.kind().map(Into::into)),
        shown(event.key().map(Into::into))
    );
    let _ = writeln!(out, "= body {}", event.body());
    if let Some(value) = event.resume {
        let _ = writeln!(out, "= resume {value}");
    }
    assert!(
        serde_json::from_str::<serde_json::Value>(event.text).is_ok(),
        "{}",
        event.text
    );
}

fn message(message: &Message, out: &mut String) {
    let _ = writeln!(out, "> {}", message.expose());
}

/// Replays the calls and frames of a transcript, and returns the resulting transcript.
fn replayed(interpreter: &mut Interpreter, transcript: &str) -> String {
    let mut out = String::new();
    for line in transcript.lines() {
        let (kind, rest) = line.split_at(line.len().min(2));
        match kind {
            "> " | "= " => continue,
            _ => drop(writeln!(out, "{line}")),
        }
        match (kind, rest) {
            ("! ", "begin") => {
                let secrets = secrets(interpreter);
                interpreter
                    .begin(secrets)
                    .iter()
                    .for_each(|sent| message(sent, &mut out));
            }
            ("! ", "ping") => match interpreter.ping() {
                Some(Ping::Message(ping)) => message(&ping, &mut out),
                Some(Ping::WebSocket) => out.push_str("= websocket ping\n"),
                None => out.push_str("= no ping\n"),
            },
            ("! ", call) if call == "request" || call.starts_with("resume ") => {
                let request = interpreter.request(&secrets(interpreter), call.strip_prefix("resume "));
                let _ = writeln!(
                    out,
                    "= ?{} {:?} {:?}",
                    request.query, request.headers, request.subprotocols
                );
            }
            ("< ", frame) => interpreter.receive(frame, &mut |action| match action {
                Action::Event(found) => event(&found, &mut out),
                Action::Alive => out.push_str("= alive\n"),
                Action::Ready => out.push_str("= ready\n"),
                Action::Ignore => out.push_str("= ignore\n"),
                Action::UnexpectedAnswer(text) => drop(writeln!(out, "= unexpected answer {text}")),
                Action::Refused(text) => drop(writeln!(out, "= refused {text}")),
                Action::Error(text) => drop(writeln!(out, "= error {text}")),
                Action::Ended(text) => drop(writeln!(out, "= ended {text}")),
                Action::Reply(reply) => message(&reply, &mut out),
                Action::Malformed(text, reason) => drop(writeln!(out, "= malformed: {reason}: {text}")),
            }),
            ("# ", _) | ("", _) => {}
            other => panic!("unknown line {other:?}"),
        }
    }
    out
}

#[test]
fn shipped_declarations_interpret_their_transcripts() {
    for name in feeds() {
        let path = root().join(format!("crates/protocol/tests/transcripts/{name}.txt"));
        let transcript = fs::read_to_string(&path).unwrap();
        let replayed = replayed(&mut interpreter(name), &transcript);
        if std::env::var_os("UPDATE_TRANSCRIPTS").is_some() {
            fs::write(&path, &replayed).unwrap();
            continue;
        }
        assert_eq!(transcript, replayed, "{name}");
    }
}

#[test]
fn each_shipped_declaration_has_a_script_and_a_transcript() {
    let names = |folder: &str| {
        let entries = fs::read_dir(root().join(folder)).unwrap();
        let files = entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_file());
        let mut names: Vec<_> = files
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names("config/feeds"), feeds());
    assert_eq!(names("config/feeds/scripts"), feeds());
    assert_eq!(names("crates/protocol/tests/transcripts"), feeds());
}

#[test]
fn shipped_declarations_match_the_schema() {
    let schema = schemars::schema_for!(Declaration).to_value();
    let validator = jsonschema::validator_for(&schema).unwrap();
    for name in feeds() {
        let text = fs::read_to_string(root().join(format!("config/feeds/{name}.toml"))).unwrap();
        let value: serde_json::Value = toml::from_str(&text).unwrap();
        let errors: Vec<String> = validator
            .iter_errors(&value)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{name}: {errors:?}");
    }
}
