//! Gaps on the time axes of the page have the correct position, length, outcome and description.

use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::browser::Browser;
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::platform::Platform;
use neurobridge_tests::poll::wait_until;
use neurobridge_tests::relay::Relay;
use serde_json::Value;

use super::readers::assert_legible;
use super::{DESK, SOON, TELEPHONE, watch};

/// The length of the gap in seconds: its mark is wider than the smallest possible mark on an axis of ten minutes.
const GAP_SECONDS: f64 = 8.0;
/// The seconds by which a mark may be misplaced: four updates of the page on a busy machine.
const TOLERANCE: f64 = 2.0;
/// The seconds by which the length of a mark may be wrong: its border, and the rounding, on an axis of ten minutes.
const LENGTH_TOLERANCE: f64 = 1.0;

/// Waits until the only gap on the strip in the element `place` has this outcome. Returns the seconds from the start
/// and from the end of the gap's mark until now, on an axis of `span` seconds, and the time of the browser.
fn mark(browser: &mut Browser, place: &str, outcome: &str, span: &str) -> [f64; 3] {
    let expression = format!(
        "(() => {{
            const strip = document.querySelector('{place} .strip[role=img]');
            const gaps = strip?.querySelectorAll('[data-outcome={outcome}]') ?? [];
            if (gaps.length !== 1 || strip.querySelectorAll('.gap').length !== 1) return null;
            const [axis, gap] = [strip, gaps[0]].map(element => element.getBoundingClientRect());
            const before = x => (axis.right - x) / axis.width * ({span});
            return [before(gap.left), before(gap.right), Date.now() / 1000];
        }})()"
    );
    let found = browser
        .wait(&format!("one {outcome} gap"), SOON, &expression)
        .unwrap();
    [0, 1, 2].map(|i| found[i].as_f64().unwrap())
}

/// An expression for the length in seconds of the axis of all sources.
const TIMELINE_SPAN: &str = "Number(document.querySelector('#timeline .lanes').dataset.span)";
/// An expression for the length in seconds of the axis on a source's card, read from the label of the axis.
const CARD_SPAN: &str =
    "Number(document.querySelector('#sources .connection .axis small').textContent.match(/\\d+/)[0])";

fn source(bridge: &Bridge) -> Value {
    let status: Value = serde_json::from_str(&bridge.get("/status").unwrap()).unwrap();
    status["sources"]["main"].clone()
}

fn newest_gap(bridge: &Bridge) -> Value {
    source(bridge)["newest_gaps"][0].clone()
}

fn seconds(time: &Value) -> f64 {
    let time: jiff::Timestamp = time.as_str().unwrap().parse().unwrap();
    time.as_duration().as_secs_f64()
}

/// Moves the pointer to the middle of the mark of a gap and away again, and returns the words that appeared.
fn tip(browser: &mut Browser, place: &str) -> String {
    let words = point(browser, place);
    let leave = format!(
        "document.querySelector('{place} .strip[role=img]').dispatchEvent(new PointerEvent('pointerleave')); \
         document.querySelectorAll('.tip').length === 0"
    );
    assert_eq!(browser.evaluate(&leave).unwrap(), true);
    words
}

fn point(browser: &mut Browser, place: &str) -> String {
    let expression = format!(
        "(() => {{
            const strip = document.querySelector('{place} .strip[role=img]');
            const {{ left, right, top }} = strip.querySelector('.gap').getBoundingClientRect();
            strip.dispatchEvent(new PointerEvent('pointermove', {{ clientX: (left + right) / 2, clientY: top }}));
            return strip.querySelector('.tip').textContent;
        }})()"
    );
    browser
        .evaluate(&expression)
        .unwrap()
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn gap_is_on_the_time_axes_at_its_place_with_its_outcome() {
    let dir = Scratch::new("page-timeline").unwrap();
    let platform = Platform::start(&dir, &["--rate", "50"]).unwrap();
    let relay = Relay::to(platform.address().to_owned()).unwrap();
    let config = format!(
        "[sources.main]\nurl = \"ws://{}/\"\ntoken = \"t\"\nbackoff = {{ min = \"20ms\", max = \"200ms\" }}\n\
         [sources.main.backfill]\nurl = \"http://{}\"\n[sinks.events]\ntype = \"file\"\n",
        relay.address(),
        platform.address()
    );
    let bridge = Bridge::start(&dir, &config).unwrap();
    let Some(mut browser) = watch(&bridge, &dir, DESK) else {
        return;
    };
    let connected = "document.querySelector('#timeline .facts')?.textContent === '100 % no gap'";
    browser
        .wait("a connection without a gap", SOON, connected)
        .unwrap();

    relay.cut();
    let [_, end, _] = mark(&mut browser, "#timeline", "open", TIMELINE_SPAN);
    assert!(end < 6.0, "an open gap reaches until now: it ends {end} s ago");
    wait_until("the gap to be long", SOON, || {
        source(&bridge)["unconnected_seconds"].as_f64() > Some(GAP_SECONDS)
    })
    .unwrap();
    relay.restore();
    for (place, span) in [("#timeline", TIMELINE_SPAN), ("#sources", CARD_SPAN)] {
        let [start, end, now] = mark(&mut browser, place, "recovered", span);
        let gap = newest_gap(&bridge);
        let (began, ended) = (seconds(&gap["began"]), seconds(&gap["ended"]));
        assert!(ended - began >= GAP_SECONDS, "{gap}");
        assert!(
            ((start - end) - (ended - began)).abs() < LENGTH_TOLERANCE,
            "{place}: {start} {end}: {gap}"
        );
        assert!(
            (now - start - began).abs() < TOLERANCE,
            "{place}: {start} before {now}: {gap}"
        );
    }
    let gap = newest_gap(&bridge);
    let expected = format!(
        "{}; recovered, {} events fetched",
        gap["reason"].as_str().unwrap(),
        gap["fetched"]
    )
    .replace('_', " ");
    for place in ["#timeline", "#sources"] {
        let words = tip(&mut browser, place);
        assert!(
            words.ends_with(&expected) && words.contains(" – "),
            "{words:?} lacks {expected:?}"
        );
    }
    let listed = browser
        .evaluate("document.querySelector('#gaps li').textContent")
        .unwrap();
    assert!(
        listed
            .as_str()
            .unwrap()
            .ends_with(&format!("recovered, {} fetched", gap["fetched"])),
        "{listed}"
    );
    let named = browser
        .evaluate("document.querySelector('#timeline .strip[role=img]').getAttribute('aria-label')")
        .unwrap();
    let named = named.as_str().unwrap();
    assert!(
        named.starts_with("main: connected ") && named.contains("; 1 gap, "),
        "{named}"
    );
    assert_legible(&mut browser);
    // The words at the pointer also fit on the screen of a telephone.
    browser.show_on(TELEPHONE).unwrap();
    browser.wait("the screen", SOON, "innerWidth === 360").unwrap();
    point(&mut browser, "#timeline");
    let wide = browser.evaluate("document.documentElement.scrollWidth").unwrap();
    assert_eq!(wide, 360);
}

/// The source has a token whose renewal the platform refuses.
#[test]
fn expiry_of_a_token_and_a_refused_renewal_are_on_the_card() {
    let dir = Scratch::new("page-tokens").unwrap();
    let faults = [
        "--token",
        "credential",
        "--token-life",
        "20s",
        "--rate",
        "10",
        "--fault",
        "rest-http=403,request=2",
    ];
    let platform = Platform::start(&dir, &faults).unwrap();
    let config = format!(
        "[sources.main]\nurl = \"{}\"\n[sources.main.token_from]\nurl = \"http://{}\"\ncredential = \"credential\"\n[sinks.events]\ntype = \"file\"\n",
        platform.url(),
        platform.address()
    );
    let bridge = Bridge::start(&dir, &config).unwrap();
    let Some(mut browser) = watch(&bridge, &dir, DESK) else {
        return;
    };
    let card = "document.querySelector('#sources .part')?.innerText.replace(/\\s+/g, ' ')";
    for fact in [
        "token expires \\d\\d:\\d\\d:\\d\\d, in [\\d.]+ s",
        "next renewal \\d\\d:\\d\\d:\\d\\d, in [\\d.]+ s",
    ] {
        browser
            .wait(fact, SOON, &format!("/{fact}/.test({card})"))
            .unwrap();
    }
    let problem = "document.querySelector('#sources .reason[data-tone=bad]:not(:empty)')?.textContent";
    let problem = browser.wait("the refusal", SOON, problem).unwrap();
    let problem = problem.as_str().unwrap();
    assert!(
        problem.starts_with("no token created: ") && problem.contains("403"),
        "{problem}"
    );
    let state = "document.querySelector('#sources .pill').dataset.tone";
    assert_eq!(
        browser.evaluate(state).unwrap(),
        "good",
        "the source is still connected"
    );
}
