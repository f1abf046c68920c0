//! Faults of the bridge appear on its page within two seconds.
//!
//! The time is measured with the bridge's own clock, because this test may have to wait for a core: each status
//! contains the bridge's uptime, and the page stores the uptime of the status that it shows. On a slow machine, each
//! limit is extended according to the time that the machine needs for a trivial request.

use std::process::Command;
use std::time::Instant;

use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::browser::Browser;
use neurobridge_tests::nats::NatsOptions;
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::platform::Platform;
use neurobridge_tests::process::Process;
use neurobridge_tests::program::neurobridge;
use neurobridge_tests::shared::own_nats;
use neurobridge_tests::status::{SinkState, SourceState, Status};

use super::{DESK, SOON, source, watch};

const LIMIT_SECONDS: f64 = 2.0;
/// The number of responses, each as late as the slowest measured one, by which the limit is extended.
const LATE_ANSWERS: f64 = 4.0;

/// A script that records each change of the page: the displayed uptime, the browser's clock in seconds, and the
/// displayed words.
const RECORD: &str = r##"
    window.recorded = [];
    new MutationObserver(() => {
        const parts = [...document.querySelectorAll(".part")].map(part =>
            `${part.querySelector("h3").firstChild.textContent}=${part.querySelector(".pill").textContent}`);
        const words = [document.querySelector("#word").textContent, ...parts].join(" ");
        if (recorded.at(-1)?.[2] !== words)
            recorded.push([Number(document.documentElement.dataset.uptime), performance.now() / 1000, words]);
    }).observe(document.querySelector("main"), { subtree: true, childList: true, characterData: true });
    true
"##;

/// Returns the uptime at which `/status` first satisfies a condition, and the time of the slowest response.
fn first_in_status(bridge: &Bridge, what: &str, condition: impl Fn(&Status) -> bool) -> (f64, f64) {
    let slowest = std::cell::Cell::new(0.0_f64);
    let requested = std::cell::Cell::new(Instant::now());
    let status = bridge.wait(what, SOON, |status| {
        slowest.set(slowest.get().max(requested.get().elapsed().as_secs_f64()));
        requested.set(Instant::now());
        condition(status)
    });
    (status.unwrap().uptime_seconds, slowest.get())
}

/// Returns the time at which the page first had words that satisfy a condition: the displayed uptime, and the
/// browser's clock.
fn first_on_page(browser: &mut Browser, what: &str, condition: &str) -> (f64, f64) {
    let found = format!("recorded.find(([uptime, at, words]) => {condition}) ?? null");
    let found = browser.wait(what, SOON, &found).unwrap();
    (found[0].as_f64().unwrap_or(f64::NAN), found[1].as_f64().unwrap())
}

#[test]
fn page_shows_each_fault_within_two_seconds() {
    let Some(mut nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let dir = Scratch::new("page-faults").unwrap();
    let mut platform = Platform::start(&dir, &["--rate", "50"]).unwrap();
    let config = format!(
        "{}[sinks.nats]\ntype = \"nats\"\nservers = [\"{}\"]\n\
         stream = {{ name = \"PAGE\", create = true, max_age = \"1h\", replicas = 1 }}\n",
        source(&platform.url()),
        nats.url()
    );
    let mut bridge = Bridge::start(&dir, &config).unwrap();
    let Some(mut browser) = watch(&bridge, &dir, DESK) else {
        return;
    };
    let no_fault = "document.querySelector('#word').textContent === 'No'";
    browser.wait("no fault to be shown", SOON, no_fault).unwrap();
    browser.evaluate(RECORD).unwrap();

    nats.kill().unwrap();
    let (in_status, slow) = first_in_status(&bridge, "the sink to be down", |status| {
        status.sink("nats").state == SinkState::Down
    });
    let (on_page, _) = first_on_page(
        &mut browser,
        "the page to show that the sink is down",
        "words.startsWith('At risk') && words.includes('nats=down')",
    );
    let limit = LIMIT_SECONDS + LATE_ANSWERS * slow;
    assert!(
        on_page - in_status < limit,
        "{on_page} after {in_status}, limit {limit}"
    );

    platform.process().kill().unwrap();
    let (in_status, slow) = first_in_status(&bridge, "the source to be disconnected", |status| {
        status.source("main").state != SourceState::Authenticated
    });
    let (on_page, _) = first_on_page(
        &mut browser,
        "the page to show that the source is disconnected",
        "words.startsWith('Yes') && !words.includes('main=authenticated')",
    );
    let limit = LIMIT_SECONDS + LATE_ANSWERS * slow;
    assert!(
        on_page - in_status < limit,
        "{on_page} after {in_status}, limit {limit}"
    );
    let because = browser
        .evaluate("document.querySelector('#because').textContent")
        .unwrap();
    assert!(
        because.as_str().unwrap().contains("main is not connected"),
        "{because}"
    );

    let requested = Instant::now();
    let killed_at = browser
        .evaluate("performance.now() / 1000")
        .unwrap()
        .as_f64()
        .unwrap();
    let slow = requested.elapsed().as_secs_f64();
    bridge.process().kill().unwrap();
    let (_, said_at) = first_on_page(
        &mut browser,
        "the page to show that the bridge does not respond",
        "words.startsWith('Unknown')",
    );
    let limit = LIMIT_SECONDS + LATE_ANSWERS * slow;
    assert!(
        said_at - killed_at < limit,
        "{said_at} after {killed_at}, limit {limit}"
    );
    let announced = browser
        .evaluate("document.querySelector('#said').textContent")
        .unwrap();
    assert_eq!(announced, "The bridge does not respond.");

    let mut again = Command::new(neurobridge());
    again.args(["run", "-c"]).arg(dir.join("neurobridge.toml"));
    let _again = Process::spawn("bridge", &mut again, &dir.join("again.log")).unwrap();
    let back = "document.querySelector('#link').textContent === 'live' \
                && document.querySelector('#seen').textContent.includes('The bridge was restarted')";
    browser.wait("the page to reconnect", SOON, back).unwrap();
}

#[test]
fn frozen_bridge_is_shown_as_unreachable_until_resumed() {
    let dir = Scratch::new("page-frozen").unwrap();
    let mut bridge = Bridge::start(&dir, &source("ws://127.0.0.1:1/")).unwrap();
    let Some(mut browser) = watch(&bridge, &dir, DESK) else {
        return;
    };
    bridge.process().freeze().unwrap();
    let is_unknown = "document.querySelector('#word').textContent === 'Unknown'";
    browser
        .wait("the page to show that the bridge is silent", SOON, is_unknown)
        .unwrap();
    bridge.process().thaw().unwrap();
    let live = "document.querySelector('#link').textContent === 'live'";
    browser.wait("the page to be live again", SOON, live).unwrap();
}
