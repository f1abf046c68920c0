//! The platform's two public clients connect to the simulated platform without changes and receive the sent events.
//!
//! The tests set only the URL and the token, as users do.

mod clients;

use std::fmt::Debug;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::platform::{Platform, Sent};
use neurobridge_tests::poll::wait_with_progress;
use neurobridge_tests::process::Process;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use self::clients::{Client, Language};

/// The time limit of each wait: far longer than an interpreter needs to start and to receive a thousand events.
const SOON: Duration = Duration::from_secs(60);
const EVENTS: usize = 1000;
const TOKEN: &str = "the-right-one";
const CLOSE_IN_THE_MIDDLE: [&str; 2] = ["--fault", "close=1001,after=500,times=1"];
const MIDDLE: usize = 500;

/// A callback of the client.
#[derive(Debug, Clone, PartialEq)]
enum Callback {
    Connect,
    Disconnect(u64),
    Auth(String),
    Ping(String),
    Error(String),
    /// The value passed to the handler: text in Python, an object in JavaScript.
    Event(Value),
}

#[test]
fn python_client_receives_and_lists_all_events() {
    let Some(client) = Language::Python.client() else {
        return;
    };
    let dir = Scratch::new("python-client").unwrap();
    let platform = start(&dir, &[]);
    let callbacks = receive(&client, &dir, &platform, last_ping_is_answered);
    let all = list(&client, &dir, &platform, &[]);
    let some = list(&client, &dir, &platform, &["new", "junk"]);
    let sent = platform.stop().unwrap();

    assert_eq!(other_callbacks_without_pongs(&callbacks), [authenticated()]);
    assert_same(&events(&callbacks), &texts(&sent));

    let newest_first = |kinds: &[&str]| -> Vec<String> {
        let newest_first = sent.iter().rev();
        let kept = newest_first.filter(|event| kinds.is_empty() || kinds.contains(&result(event).as_str()));
        kept.map(|event| event.data.clone()).collect()
    };
    assert_same(&all, &newest_first(&[]));
    assert_same(&some, &newest_first(&["new", "junk"]));
    assert!(
        !some.is_empty() && some.len() < EVENTS,
        "{} events have these results",
        some.len()
    );
}

#[test]
fn python_client_reconnects_after_a_close() {
    let Some(client) = Language::Python.client() else {
        return;
    };
    let dir = Scratch::new("python-client").unwrap();
    let platform = start(&dir, &CLOSE_IN_THE_MIDDLE);
    let callbacks = receive(&client, &dir, &platform, last_ping_is_answered);
    let sent = platform.stop().unwrap();

    assert_eq!(
        other_callbacks_without_pongs(&callbacks),
        [authenticated(), authenticated()]
    );
    assert_eq!(events(before_last_auth(&callbacks)).len(), MIDDLE);
    assert_same(&events(&callbacks), &texts(&sent));
}

#[test]
fn javascript_client_receives_all_events() {
    let Some(client) = Language::JavaScript.client() else {
        return;
    };
    let dir = Scratch::new("javascript-client").unwrap();
    let platform = start(&dir, &[]);
    let callbacks = receive(&client, &dir, &platform, |_| true);
    let sent = platform.stop().unwrap();

    assert_eq!(other_callbacks(&callbacks), [Callback::Connect, authenticated()]);
    assert_same(&javascript(events(&callbacks)), &javascript(objects(&sent)));
}

#[test]
fn javascript_client_reconnects_after_a_close() {
    let Some(client) = Language::JavaScript.client() else {
        return;
    };
    let dir = Scratch::new("javascript-client").unwrap();
    let platform = start(&dir, &CLOSE_IN_THE_MIDDLE);
    let callbacks = receive(&client, &dir, &platform, |_| true);
    let sent = platform.stop().unwrap();

    let twice = [
        Callback::Connect,
        authenticated(),
        Callback::Disconnect(1001),
        Callback::Connect,
        authenticated(),
    ];
    assert_eq!(other_callbacks(&callbacks), twice);
    assert_eq!(events(before_last_auth(&callbacks)).len(), MIDDLE);
    assert_same(&javascript(events(&callbacks)), &javascript(objects(&sent)));
}

fn start(dir: &Scratch, more: &[&str]) -> Platform {
    let count = EVENTS.to_string();
    let args = [&["--count", &count, "--token", TOKEN], more].concat();
    Platform::start(dir, &args).unwrap()
}

/// Runs a client until it has reported all events and the condition `enough` holds.
fn receive(
    client: &Client,
    dir: &Scratch,
    platform: &Platform,
    enough: impl Fn(&[Callback]) -> bool,
) -> Vec<Callback> {
    let output = dir.join("callbacks.jsonl");
    let mut command = client.script("events");
    command.args([&platform.url(), TOKEN]);
    let mut process =
        Process::spawn_split("the client", &mut command, &output, &dir.join("client.log")).unwrap();
    let mut callbacks = Vec::new();
    let received = wait_with_progress("all events and answers", SOON, |patience| {
        if let Some(status) = process.exit_status()? {
            anyhow::bail!("the client exited with {status}");
        }
        callbacks = read(&fs::read_to_string(&output)?)?;
        patience.observe(callbacks.len());
        Ok((events(&callbacks).len() >= EVENTS && enough(&callbacks)).then_some(()))
    });
    if let Err(error) = received {
        let (count, beside) = (events(&callbacks).len(), other_callbacks(&callbacks));
        // For a client that keeps reconnecting, the last messages are enough.
        let last = &beside[beside.len().saturating_sub(20)..];
        panic!(
            "{error:#}; the client reported {count} events and last {last:?}; {}",
            process.log_tail()
        );
    }
    callbacks
}

/// Lists the entries with these results, or all, with the REST client; returns the unmodified text of each.
fn list(client: &Client, dir: &Scratch, platform: &Platform, kinds: &[&str]) -> Vec<String> {
    #[derive(Deserialize)]
    struct Page<'a> {
        #[serde(borrow)]
        results: Vec<&'a RawValue>,
    }
    let output = dir.join(format!("listed{}.jsonl", kinds.concat()));
    let url = platform.url().replace("ws://", "http://");
    let mut command = client.script("entries");
    command.args([url.trim_end_matches('/'), TOKEN]).args(kinds);
    let mut process =
        Process::spawn_split("the client", &mut command, &output, &dir.join("client.log")).unwrap();
    let status = process.wait(SOON).unwrap();
    assert!(status.success(), "{status}: {}", process.log_tail());
    let mut entries = Vec::new();
    for line in fs::read_to_string(output).unwrap().lines() {
        let (_, page): (String, String) = serde_json::from_str(line).unwrap();
        let page: Page<'_> = serde_json::from_str(&page).unwrap();
        entries.extend(page.results.iter().map(|entry| entry.get().to_owned()));
    }
    entries
}

/// Parses the complete lines of a script's output.
fn read(text: &str) -> Result<Vec<Callback>> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|line| parse(line).with_context(|| format!("the client's script wrote {line}")))
        .collect()
}

fn parse(line: &str) -> Result<Callback> {
    let (word, value): (String, Value) = serde_json::from_str(line)?;
    match word.as_str() {
        "connect" => Ok(Callback::Connect),
        "disconnect" => Ok(Callback::Disconnect(value.as_u64().context("a close code")?)),
        "auth" => Ok(Callback::Auth(text(&value))),
        "error" => Ok(Callback::Error(text(&value))),
        "message" => message(value),
        _ => anyhow::bail!("unknown word in the script's output: {word}"),
    }
}

/// Distinguishes the four kinds of messages in the order of the Python client's documentation.
fn message(value: Value) -> Result<Callback> {
    let object = match &value {
        Value::String(text) => serde_json::from_str(text)?,
        _ => value.clone(),
    };
    ensure!(object.is_object(), "the message is not an object");
    Ok(
        match (object.get("PING"), object.get("auth"), object.get("error")) {
            (Some(answer), _, _) => Callback::Ping(text(answer)),
            (_, Some(answer), _) => Callback::Auth(text(answer)),
            (_, _, Some(error)) => Callback::Error(text(error)),
            _ => Callback::Event(value),
        },
    )
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn authenticated() -> Callback {
    Callback::Auth("ok".to_owned())
}

fn pong() -> Callback {
    Callback::Ping("PONG".to_owned())
}

/// Returns whether the last ping was answered. Each connection begins with a ping, and an earlier connection may have
/// closed before the answer.
fn last_ping_is_answered(callbacks: &[Callback]) -> bool {
    callbacks
        .rsplit(|callback| matches!(callback, Callback::Auth(_)))
        .next()
        .is_some_and(|last| last.contains(&pong()))
}

fn before_last_auth(callbacks: &[Callback]) -> &[Callback] {
    let last = callbacks
        .iter()
        .rposition(|callback| matches!(callback, Callback::Auth(_)));
    &callbacks[..last.unwrap_or_default()]
}

fn other_callbacks(callbacks: &[Callback]) -> Vec<Callback> {
    callbacks
        .iter()
        .filter(|callback| !matches!(callback, Callback::Event(_)))
        .cloned()
        .collect()
}

fn other_callbacks_without_pongs(callbacks: &[Callback]) -> Vec<Callback> {
    other_callbacks(callbacks)
        .into_iter()
        .filter(|callback| *callback != pong())
        .collect()
}

fn events(callbacks: &[Callback]) -> Vec<Value> {
    let event = |callback: &Callback| {
        if let Callback::Event(event) = callback {
            Some(event.clone())
        } else {
            None
        }
    };
    callbacks.iter().filter_map(event).collect()
}

fn texts(sent: &[Sent]) -> Vec<Value> {
    sent.iter().map(|event| json!(event.frame)).collect()
}

fn objects(sent: &[Sent]) -> Vec<Value> {
    sent.iter()
        .map(|event| serde_json::from_str(&event.frame).unwrap())
        .collect()
}

/// Converts values to JavaScript's single number type, in which 5.0 is written as 5.
fn javascript(values: Vec<Value>) -> Vec<Value> {
    fn one(value: Value) -> Value {
        match value {
            Value::Number(number) => json!(number.as_f64()),
            Value::Array(values) => values.into_iter().map(one).collect(),
            Value::Object(fields) => fields
                .into_iter()
                .map(|(name, value)| (name, one(value)))
                .collect(),
            other => other,
        }
    }
    values.into_iter().map(one).collect()
}

fn result(event: &Sent) -> String {
    let data: Value = serde_json::from_str(&event.data).unwrap();
    text(&data["result"])
}

/// Compares two lists and shows only the first difference.
fn assert_same<T: PartialEq + Debug>(arrived: &[T], sent: &[T]) {
    for (position, (arrived, sent)) in arrived.iter().zip(sent).enumerate() {
        assert_eq!(arrived, sent, "at position {position}");
    }
    assert_eq!(arrived.len(), sent.len());
}
