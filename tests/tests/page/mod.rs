//! The page of a bridge in a real browser: display of faults, accessibility, and the absence of personal data.

mod cluster;
mod faults;
mod many;
mod outages;
mod readers;
mod slow_connect;
mod timeline;

use std::collections::BTreeSet;
use std::time::Duration;

use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::browser::{self, Browser, Screen};
use neurobridge_tests::http::EventStream;
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::platform::Platform;
use neurobridge_tests::status::Status;
use serde_json::Value;

/// The time limit of each wait: far longer than any wait of these tests takes on two busy cores.
const SOON: Duration = Duration::from_secs(120);
const DESK: Screen = Screen {
    width: 1280,
    height: 900,
    dark: false,
};
const TELEPHONE: Screen = Screen {
    width: 360,
    height: 740,
    dark: true,
};

/// Opens a bridge's live page in a browser; returns `None` if the test is to be skipped.
fn watch(bridge: &Bridge, dir: &Scratch, screen: Screen) -> Option<Browser> {
    let chromium = browser::for_test()?;
    let mut browser = Browser::start(&chromium, dir).unwrap();
    browser.show_on(screen).unwrap();
    browser.open(&format!("http://{}/", bridge.address())).unwrap();
    browser
        .wait(
            "the page to be live",
            SOON,
            "document.querySelector('#link')?.textContent === 'live'",
        )
        .unwrap();
    Some(browser)
}

fn source(url: &str) -> String {
    format!("[sources.main]\nurl = \"{url}\"\ntoken = \"t\"\n[sinks.events]\ntype = \"file\"\n")
}

#[test]
fn page_shows_nothing_personal_and_loads_nothing_foreign() {
    let dir = Scratch::new("page-personal").unwrap();
    let faults = [
        "--count",
        "500",
        "--fault",
        "bad-json,after=20,times=1",
        "--fault",
        "unknown-kind,after=30,times=1",
    ];
    let platform = Platform::start(&dir, &faults).unwrap();
    let bridge = Bridge::start(&dir, &source(&platform.url())).unwrap();
    let Some(mut browser) = watch(&bridge, &dir, DESK) else {
        return;
    };
    let all = "document.querySelector('#received').textContent === '502'";
    browser.wait("all events to be counted", SOON, all).unwrap();
    let mut stream = EventStream::open(bridge.address(), "/status/stream")
        .unwrap()
        .unwrap();
    let streamed = stream.next_event().unwrap();
    let status = Status::read(&streamed).unwrap();
    assert_eq!(status.losing_events.answer, "no", "{status:#}");
    let dead_letters = &status.source("main").newest_dead_letters;
    assert_eq!(dead_letters.len(), 2, "{dead_letters:?}");
    let page = browser.evaluate("document.documentElement.outerHTML").unwrap();
    let page = page.as_str().unwrap();
    assert!(
        page.contains("main: not json"),
        "the page must show the reason: {page}"
    );

    let origin = format!("http://{}/", bridge.address());
    for request in browser.requests() {
        assert!(
            request.starts_with(&origin) || request.starts_with("data:"),
            "{request}"
        );
    }
    assert_eq!(
        browser.errors(),
        [""; 0],
        "the page must not violate its security policy"
    );

    let sent = platform.stop().unwrap();
    let secrets: BTreeSet<String> = sent.iter().flat_map(|event| secrets(&event.data)).collect();
    assert!(secrets.len() > 500, "only {} secrets", secrets.len());
    for (place, text) in [("page", page), ("stream", &streamed)] {
        let found = secrets.iter().find(|secret| text.contains(secret.as_str()));
        assert!(found.is_none(), "{found:?} is in the {place}");
    }
}

/// Returns the texts in an entry that are too long to occur by chance: persons, names and pictures.
fn secrets(entry: &str) -> Vec<String> {
    fn texts(value: &Value, found: &mut Vec<String>) {
        match value {
            // A word in lower case belongs to a closed set, such as a result.
            Value::String(text) if text.len() >= 6 && !text.bytes().all(|byte| byte.is_ascii_lowercase()) => {
                found.push(text.clone());
            }
            Value::Array(list) => list.iter().for_each(|value| texts(value, found)),
            Value::Object(fields) => fields.values().for_each(|value| texts(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    texts(&serde_json::from_str(entry).unwrap(), &mut found);
    found
}

#[test]
fn stream_subscribers_are_limited() {
    let dir = Scratch::new("page-listeners").unwrap();
    let bridge = Bridge::start(&dir, &source("ws://127.0.0.1:1/")).unwrap();
    let open = || EventStream::open(bridge.address(), "/status/stream").unwrap();
    let mut listeners: Vec<EventStream> = std::iter::from_fn(open).take(100).collect();
    assert_eq!(listeners.len(), 32);
    for listener in &mut listeners {
        let mut answer = || {
            let status = Status::read(&listener.next_event().unwrap()).unwrap();
            Ok((status.losing_events.answer == "yes").then_some(()))
        };
        neurobridge_tests::poll::wait_for("the refused connection on each listener", SOON, &mut answer)
            .unwrap();
    }
    listeners.pop();
    let again = neurobridge_tests::poll::wait_for("another subscription to be accepted", SOON, || Ok(open()));
    again.unwrap().next_event().unwrap();
    // Other requests are answered in the meantime.
    bridge.status().unwrap();
}
