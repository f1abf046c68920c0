//! The platform's two public clients connect to the simulated platform unchanged, and get what it sent.
//!
//! Only what their users configure is set: the address and the token.

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

/// Far more than an interpreter needs to start, and a thousand events to arrive.
const SOON: Duration = Duration::from_secs(60);
const EVENTS: usize = 1000;
const TOKEN: &str = "the-right-one";
const CLOSE_IN_THE_MIDDLE: [&str; 2] = ["--fault", "close=1001,after=500,times=1"];
const MIDDLE: usize = 500;

/// What a client told its user.
#[derive(Debug, Clone, PartialEq)]
enum Told {
    Connect,
    Disconnect(u64),
    Auth(String),
    Ping(String),
    Error(String),
    /// As the handler got it: Python's gets text, JavaScript's an object.
    Event(Value),
}

#[test]
fn the_python_client_gets_its_events_and_lists_the_same() {
    let Some(client) = Language::Python.client() else {
        return;
    };
    let dir = Scratch::new("python-client").unwrap();
    let platform = start(&dir, &[]);
    let told = hear(&client, &dir, &platform, last_ping_is_answered);
    let all = list(&client, &dir, &platform, &[]);
    let some = list(&client, &dir, &platform, &["new", "junk"]);
    let sent = platform.stop().unwrap();

    assert_eq!(beside_events_and_pongs(&told), [authorised()]);
    assert_same(&events(&told), &texts(&sent));

    let newest_first = |kinds: &[&str]| -> Vec<String> {
        let newest_first = sent.iter().rev();
        let kept = newest_first.filter(|event| kinds.is_empty() || kinds.contains(&result(event).as_str()));
        kept.map(|event| event.data.clone()).collect()
    };
    assert_same(&all, &newest_first(&[]));
    assert_same(&some, &newest_first(&["new", "junk"]));
    assert!(
        !some.is_empty() && some.len() < EVENTS,
        "{} events are of these kinds",
        some.len()
    );
}

#[test]
fn the_python_client_comes_back_after_a_close() {
    let Some(client) = Language::Python.client() else {
        return;
    };
    let dir = Scratch::new("python-client").unwrap();
    let platform = start(&dir, &CLOSE_IN_THE_MIDDLE);
    let told = hear(&client, &dir, &platform, last_ping_is_answered);
    let sent = platform.stop().unwrap();

    assert_eq!(beside_events_and_pongs(&told), [authorised(), authorised()]);
    assert_eq!(events(before_last_auth(&told)).len(), MIDDLE);
    assert_same(&events(&told), &texts(&sent));
}

#[test]
fn the_javascript_client_gets_its_events() {
    let Some(client) = Language::JavaScript.client() else {
        return;
    };
    let dir = Scratch::new("javascript-client").unwrap();
    let platform = start(&dir, &[]);
    let told = hear(&client, &dir, &platform, |_| true);
    let sent = platform.stop().unwrap();

    assert_eq!(beside_events(&told), [Told::Connect, authorised()]);
    assert_same(&javascript(events(&told)), &javascript(objects(&sent)));
}

#[test]
fn the_javascript_client_comes_back_after_a_close() {
    let Some(client) = Language::JavaScript.client() else {
        return;
    };
    let dir = Scratch::new("javascript-client").unwrap();
    let platform = start(&dir, &CLOSE_IN_THE_MIDDLE);
    let told = hear(&client, &dir, &platform, |_| true);
    let sent = platform.stop().unwrap();

    let twice = [
        Told::Connect,
        authorised(),
        Told::Disconnect(1001),
        Told::Connect,
        authorised(),
    ];
    assert_eq!(beside_events(&told), twice);
    assert_eq!(events(before_last_auth(&told)).len(), MIDDLE);
    assert_same(&javascript(events(&told)), &javascript(objects(&sent)));
}

fn start(dir: &Scratch, more: &[&str]) -> Platform {
    let count = EVENTS.to_string();
    let args = [&["--count", &count, "--token", TOKEN], more].concat();
    Platform::start(dir, &args).unwrap()
}

/// Lets a client listen until it has told of all events, and of what else is wanted.
fn hear(client: &Client, dir: &Scratch, platform: &Platform, enough: impl Fn(&[Told]) -> bool) -> Vec<Told> {
    let output = dir.join("told.jsonl");
    let mut command = client.script("events");
    command.args([&platform.url(), TOKEN]);
    let mut process =
        Process::spawn_split("the client", &mut command, &output, &dir.join("client.log")).unwrap();
    let mut told = Vec::new();
    let heard = wait_with_progress("all events and answers", SOON, |patience| {
        if let Some(status) = process.exit_status()? {
            anyhow::bail!("the client ended with {status}");
        }
        told = read(&fs::read_to_string(&output)?)?;
        patience.observe(told.len());
        Ok((events(&told).len() >= EVENTS && enough(&told)).then_some(()))
    });
    if let Err(error) = heard {
        let (count, beside) = (events(&told).len(), beside_events(&told));
        // Of a client that connects again and again, the last words will do.
        let last = &beside[beside.len().saturating_sub(20)..];
        panic!(
            "{error:#}; it told of {count} events and, last, {last:?}; {}",
            process.log_tail()
        );
    }
    told
}

/// Lists the entries of these kinds, or all, with the client for REST; each byte for byte.
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

/// Reads the whole lines of a script's output.
fn read(text: &str) -> Result<Vec<Told>> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|line| parse(line).with_context(|| format!("the client's script wrote {line}")))
        .collect()
}

fn parse(line: &str) -> Result<Told> {
    let (word, value): (String, Value) = serde_json::from_str(line)?;
    match word.as_str() {
        "connect" => Ok(Told::Connect),
        "disconnect" => Ok(Told::Disconnect(value.as_u64().context("a close code")?)),
        "auth" => Ok(Told::Auth(text(&value))),
        "error" => Ok(Told::Error(text(&value))),
        "message" => message(value),
        _ => anyhow::bail!("no word of the scripts: {word}"),
    }
}

/// Tells the four kinds apart, in the order that the Python client's documentation has.
fn message(value: Value) -> Result<Told> {
    let object = match &value {
        Value::String(text) => serde_json::from_str(text)?,
        _ => value.clone(),
    };
    ensure!(object.is_object(), "a message that is no object");
    Ok(
        match (object.get("PING"), object.get("auth"), object.get("error")) {
            (Some(answer), _, _) => Told::Ping(text(answer)),
            (_, Some(answer), _) => Told::Auth(text(answer)),
            (_, _, Some(error)) => Told::Error(text(error)),
            _ => Told::Event(value),
        },
    )
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn authorised() -> Told {
    Told::Auth("ok".to_owned())
}

fn pong() -> Told {
    Told::Ping("PONG".to_owned())
}

/// Each connection begins with a ping; of an earlier one, the close may have come before the answer.
fn last_ping_is_answered(told: &[Told]) -> bool {
    told.rsplit(|told| matches!(told, Told::Auth(_)))
        .next()
        .is_some_and(|last| last.contains(&pong()))
}

fn before_last_auth(told: &[Told]) -> &[Told] {
    let last = told.iter().rposition(|told| matches!(told, Told::Auth(_)));
    &told[..last.unwrap_or_default()]
}

fn beside_events(told: &[Told]) -> Vec<Told> {
    told.iter()
        .filter(|told| !matches!(told, Told::Event(_)))
        .cloned()
        .collect()
}

fn beside_events_and_pongs(told: &[Told]) -> Vec<Told> {
    beside_events(told)
        .into_iter()
        .filter(|told| *told != pong())
        .collect()
}

fn events(told: &[Told]) -> Vec<Value> {
    let event = |told: &Told| {
        if let Told::Event(event) = told {
            Some(event.clone())
        } else {
            None
        }
    };
    told.iter().filter_map(event).collect()
}

fn texts(sent: &[Sent]) -> Vec<Value> {
    sent.iter().map(|event| json!(event.frame)).collect()
}

fn objects(sent: &[Sent]) -> Vec<Value> {
    sent.iter()
        .map(|event| serde_json::from_str(&event.frame).unwrap())
        .collect()
}

/// The values as JavaScript has them: with one kind of number, so that 5.0 is written as 5.
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

/// Shows the first difference alone, not two lists of a thousand.
fn assert_same<T: PartialEq + Debug>(arrived: &[T], sent: &[T]) {
    for (place, (arrived, sent)) in arrived.iter().zip(sent).enumerate() {
        assert_eq!(arrived, sent, "at place {place}");
    }
    assert_eq!(arrived.len(), sent.len());
}
