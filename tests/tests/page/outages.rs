//! The page states since when a source or sink is not connected, and lists the open gaps.

use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::ports::free_ports;

use super::{DESK, SOON, watch};

#[test]
fn open_gap_and_age_of_an_outage_are_on_the_page() {
    let dir = Scratch::new("page-outages").unwrap();
    let [port] = free_ports().unwrap();
    let config = format!(
        "[sources.main]\nurl = \"ws://127.0.0.1:1/\"\ntoken = \"t\"\n\
         [sinks.nats]\ntype = \"nats\"\nservers = [\"nats://127.0.0.1:{port}\"]\nstream = {{ name = \"X\" }}\n"
    );
    let bridge = Bridge::start(&dir, &config).unwrap();
    let Some(mut browser) = watch(&bridge, &dir, DESK) else {
        return;
    };
    let gap = "/^main: open for \\d/.test(document.querySelector('#gaps li span')?.textContent)";
    browser.wait("the open gap in the list", SOON, gap).unwrap();
    for (what, pattern) in [
        ("the open gap of the source", "/gapsopen for \\d/"),
        ("the age of the sink's outage", "/nats ?down.*since \\d\\d:/"),
    ] {
        let shown = format!(
            "[...document.querySelectorAll('.part')].some(part => {pattern}.test(part.textContent.replace(/\\s+/g, ' ')))"
        );
        browser.wait(what, SOON, &shown).unwrap();
    }
    for entry in [
        "main: not connected: ",
        "nats: the sink is down: ",
        "bridge: bridge started",
    ] {
        let shown = format!("document.querySelector('#history').textContent.includes({entry:?})");
        browser.wait(entry, SOON, &shown).unwrap();
    }
}
