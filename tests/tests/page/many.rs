//! The page of a bridge with many sources and sinks: rows instead of cards, and a bounded number of elements and changes.

use std::fmt::Write;

use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::browser::Browser;
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::platform::Platform;

use super::readers::assert_legible;
use super::{DESK, SOON, watch};

/// The largest height of the page in pixels, far below the 10,000 pixels of a page with one card for each source.
const MAX_HEIGHT: u64 = 2800;
/// The largest number of elements for each row, and for the rest of the page.
const MAX_ROW_NODES: u64 = 25;
const MAX_OTHER_NODES: u64 = 600;
/// The largest number of changes for each row in an update: the texts of its cells, and its line.
const MAX_ROW_CHANGES: u64 = 10;
const MAX_OTHER_CHANGES: u64 = 150;

/// Returns a configuration with sources of this platform, one source without a platform, and six sinks.
fn config(url: &str, sources: usize) -> String {
    let mut config = String::new();
    for number in 1..sources {
        write!(
            config,
            "[sources.gate_{number:02}]\nurl = \"{url}\"\ntoken = \"t\"\n"
        )
        .unwrap();
    }
    config.push_str("[sources.yard]\nurl = \"ws://127.0.0.1:1/secret-path\"\ntoken = \"t\"\n");
    for number in 1..=6 {
        write!(
            config,
            "[sinks.copy_{number}]\ntype = \"file\"\npath = \"copy-{number}.jsonl\"\n"
        )
        .unwrap();
    }
    config
}

/// Opens the page, and waits until the rows have rates and the unreachable source has a reason.
fn shown(dir: &Scratch, sources: usize, rate: &str) -> Option<(Browser, Bridge, Platform)> {
    let platform = Platform::start(dir, &["--rate", rate]).unwrap();
    let bridge = Bridge::start(dir, &config(&platform.url(), sources)).unwrap();
    let mut browser = watch(&bridge, dir, DESK)?;
    let complete = format!(
        "document.querySelectorAll('#source-rows tbody tr:not(.why)').length === {sources} \
         && document.querySelectorAll('#source-rows .pill[data-tone=good]').length === {} \
         && document.querySelector('#source-rows .why')",
        sources - 1
    );
    browser.wait("all rows", SOON, &complete).unwrap();
    Some((browser, bridge, platform))
}

#[test]
fn many_sources_are_rows_with_the_faulty_one_first() {
    let dir = Scratch::new("page-many").unwrap();
    let Some((mut browser, _bridge, _platform)) = shown(&dir, 30, "5") else {
        return;
    };
    let height = browser.evaluate("document.documentElement.scrollHeight").unwrap();
    assert!(height.as_u64().unwrap() < MAX_HEIGHT, "{height}");
    let cards = "[...document.querySelectorAll('#way h3')].map(title => title.textContent).join()";
    assert_eq!(browser.evaluate(cards).unwrap(), "30 sources,In memory,6 sinks");
    let first = "document.querySelector('#source-rows tbody').rows[0].innerText";
    let first = browser.evaluate(first).unwrap();
    assert!(
        first.as_str().unwrap().contains("yard") && first.as_str().unwrap().contains("ws://127.0.0.1:1/…"),
        "{first}"
    );
    let sinks = browser
        .evaluate("document.querySelector('#sink-rows tbody').innerText")
        .unwrap();
    assert!(sinks.as_str().unwrap().contains("copy-6.jsonl"), "{sinks}");
    assert_legible(&mut browser);
}

#[test]
fn rows_can_be_filtered_and_opened() {
    let dir = Scratch::new("page-rows").unwrap();
    let Some((mut browser, _bridge, _platform)) = shown(&dir, 30, "5") else {
        return;
    };
    let visible = "[...document.querySelectorAll('#source-rows tbody tr:not([hidden]) .open')].map(name => name.textContent).join()";
    let filter = "(({ value }) => {
        const input = document.querySelector('#source-rows input');
        input.value = value;
        input.dispatchEvent(new Event('input'));
        return true;
    })";
    browser
        .evaluate(&format!("{filter}({{ value: 'GATE_1' }})"))
        .unwrap();
    let ten: Vec<_> = (10..20).map(|number| format!("gate_{number}")).collect();
    assert_eq!(browser.evaluate(visible).unwrap(), ten.join(","));
    let count = "document.querySelector('#source-rows .head span').textContent";
    assert_eq!(browser.evaluate(count).unwrap(), "10 of 30");
    // All sources but one have the address of the platform.
    browser
        .evaluate(&format!("{filter}({{ value: '127.0.0.1:1/' }})"))
        .unwrap();
    assert_eq!(browser.evaluate(visible).unwrap(), "yard");

    browser
        .evaluate("document.querySelector('#source-rows tbody tr:not([hidden]) .open').click()")
        .unwrap();
    let opened = "[...document.querySelectorAll('#source-rows .detail figure svg')].map(plot => plot.getAttribute('aria-label')?.split(':')[0]).join()";
    assert_eq!(browser.evaluate(opened).unwrap(), "received,round trip");
    let reason = "document.querySelector('#source-rows .detail .reason').textContent";
    let reason = browser.evaluate(reason).unwrap();
    assert!(!reason.as_str().unwrap().is_empty());
    let open = "[...document.querySelectorAll('#source-rows .open')].filter(button => button.getAttribute('aria-expanded') === 'true').length";
    assert_eq!(browser.evaluate(open).unwrap(), 1);
    browser
        .evaluate("document.querySelector('#source-rows tbody tr:not([hidden]) .open').click()")
        .unwrap();
    let closed = "document.querySelectorAll('#source-rows .detail').length === 0";
    browser.wait("the row to be closed", SOON, closed).unwrap();

    let strip = "getComputedStyle(document.querySelector('#strip')).display !== 'none' \
                 && document.querySelector('#strip').textContent";
    assert_eq!(browser.evaluate(strip).unwrap(), false);
    browser.evaluate("scrollTo(0, 10000)").unwrap();
    let text = browser
        .wait("the summary in the head of the page", SOON, strip)
        .unwrap();
    let text = text.as_str().unwrap();
    assert!(
        text.starts_with("Yes · ") && text.matches("/s").count() == 2 && text.contains("% full"),
        "{text}"
    );
}

#[test]
fn page_of_100_sources_has_bounded_elements_and_changes() {
    const SOURCES: usize = 100;
    const ROWS: u64 = SOURCES as u64 + 6;
    let dir = Scratch::new("page-hundred").unwrap();
    let Some((mut browser, _bridge, _platform)) = shown(&dir, SOURCES, "2") else {
        return;
    };
    let nodes = "document.querySelectorAll('*').length";
    let before = browser.evaluate(nodes).unwrap().as_u64().unwrap();
    assert!(
        before < ROWS * MAX_ROW_NODES + MAX_OTHER_NODES,
        "{before} elements"
    );
    // Each change of the shown uptime is an update.
    browser
        .evaluate(
            "window.updates = window.changes = 0;
             new MutationObserver(list => { changes += list.length })
                 .observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true });
             new MutationObserver(list => { updates += list.length })
                 .observe(document.documentElement, { attributeFilter: ['data-uptime'] });
             true",
        )
        .unwrap();
    browser.wait("ten updates", SOON, "updates >= 10").unwrap();
    let counted = browser.evaluate("[changes, updates]").unwrap();
    let (changes, updates) = (counted[0].as_u64().unwrap(), counted[1].as_u64().unwrap());
    assert!(
        changes < updates * (ROWS * MAX_ROW_CHANGES + MAX_OTHER_CHANGES),
        "{changes} changes in {updates} updates"
    );
    assert!(
        changes > updates * SOURCES as u64,
        "the rows must be live: {changes}"
    );
    let after = browser.evaluate(nodes).unwrap().as_u64().unwrap();
    // A list of changes may have grown by some lines.
    assert!(
        after < before + 100,
        "{before} elements at first, {after} after {updates} updates"
    );
    let rows = "document.querySelectorAll('#source-ledgers tr').length";
    assert_eq!(
        browser.evaluate(rows).unwrap(),
        0,
        "closed ledgers must have no rows"
    );
}

#[test]
fn plots_have_a_time_axis_a_scale_and_values() {
    let dir = Scratch::new("page-plots").unwrap();
    let platform = Platform::start(&dir, &["--rate", "50"]).unwrap();
    let bridge = Bridge::start(&dir, &super::source(&platform.url())).unwrap();
    let Some(mut browser) = watch(&bridge, &dir, DESK) else {
        return;
    };
    let plot = |part: &str| format!("document.querySelector('#sources figure {part}')?.textContent");
    let ends_with_rate = format!("{}?.endsWith('/s')", plot("b"));
    browser.wait("a rate", SOON, &ends_with_rate).unwrap();
    let scale = browser.evaluate(&plot(".scale")).unwrap();
    assert!(scale.as_str().unwrap().ends_with("/s"), "{scale}");
    assert_eq!(browser.evaluate(&plot(".axis")).unwrap(), "−30 snow");
    // A second without an answer has no value.
    let has_value = format!(
        "(() => {{
            const plot = document.querySelector('#sources .plot');
            const {{ right, top }} = plot.getBoundingClientRect();
            plot.dispatchEvent(new PointerEvent('pointermove', {{ clientX: right - 1, clientY: top + 1 }}));
            return /^\\d\\d:\\d\\d:\\d\\d  [\\d.,]+\\/s$/.test({});
        }})()",
        plot(".tip")
    );
    browser.wait("a value at the pointer", SOON, &has_value).unwrap();
    let words = browser.text().unwrap();
    for word in ["latency p50 · p99", "oldest pending", &host()] {
        assert!(words.contains(word), "{word:?} is missing in {words}");
    }
    browser
        .evaluate(
            "document.querySelector('#sources .plot').dispatchEvent(new PointerEvent('pointerleave')); true",
        )
        .unwrap();
    assert_eq!(
        browser
            .evaluate("document.querySelectorAll('.tip').length")
            .unwrap(),
        0
    );
}

/// Returns the name of this machine, with which the page begins.
fn host() -> String {
    nix::unistd::gethostname().unwrap().to_string_lossy().into_owned()
}
