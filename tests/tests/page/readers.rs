//! Accessibility of the page: screen readers, keyboards, small screens and the dark colour scheme.

use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::browser::{Browser, Screen};
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::platform::Platform;
use serde_json::{Value, json};

use super::{DESK, SOON, TELEPHONE, source, watch};

/// A script that returns each text whose contrast with the background is below 4.5, the minimum of WCAG.
const FAINT: &str = r#"
    (() => {
        const parse = colour => (colour.match(/[\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
        const light = colour => {
            const [r, g, b] = parse(colour).map(c => (c /= 255) <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
            return .2126 * r + .7152 * g + .0722 * b;
        };
        const background = element => {
            for (let at = element; at; at = at.parentElement) {
                const colour = getComputedStyle(at).backgroundColor;
                if ((parse(colour)[3] ?? 1) === 1) return colour;
            }
            return getComputedStyle(document.body).backgroundColor;
        };
        const faint = [];
        for (const element of document.body.querySelectorAll("*")) {
            const own = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
            if (!own || element.closest("noscript, svg, .unseen")) continue;
            const [a, b] = [light(getComputedStyle(element).color), light(background(element))].sort((a, b) => b - a);
            const contrast = (a + .05) / (b + .05);
            if (contrast < 4.5) faint.push(`${element.textContent}: ${contrast.toFixed(2)}`);
        }
        return faint;
    })()
"#;

fn shown(screen: Screen) -> Option<(Browser, Bridge, Platform, Scratch)> {
    let dir = Scratch::new("page-readers").unwrap();
    let platform = Platform::start(&dir, &["--rate", "50", "--fault", "bad-json,after=20,times=1"]).unwrap();
    let bridge = Bridge::start(&dir, &source(&platform.url())).unwrap();
    let mut browser = watch(&bridge, &dir, screen)?;
    // The page is complete: it shows a dead letter and the rates, which need two updates.
    let whole = "document.querySelector('#dead-letters time') && document.querySelector('#sources b').textContent.endsWith('/s')";
    browser.wait("a complete page", SOON, whole).unwrap();
    Some((browser, bridge, platform, dir))
}

#[test]
fn screen_reader_finds_landmarks_and_names() {
    let Some((mut browser, _bridge, _platform, _dir)) = shown(DESK) else {
        return;
    };
    let nodes = browser.accessibility().unwrap();
    let names = |role: &str| -> Vec<&str> {
        let found = nodes.iter().filter(|node| node.role == role);
        found.map(|node| node.name.as_str()).collect()
    };
    for landmark in ["banner", "main", "contentinfo"] {
        assert_eq!(names(landmark).len(), 1, "{landmark} in {nodes:#?}");
    }
    assert_eq!(names("navigation"), ["Links"]);
    assert_eq!(names("button"), ["Pause"]);
    assert_eq!(names("link"), ["Runbooks", "Metrics", "Status", "Readiness"]);
    assert_eq!(
        names("heading"),
        [
            "neurobridge",
            "Losing events",
            "Sources",
            "main",
            "Spool",
            "In memory",
            "Sinks",
            "events file",
            "Connections",
            "Ledgers",
            "History",
            "Dead letters",
            "Gaps",
            "Changes since this page was opened"
        ]
    );
    assert_eq!(names("meter"), ["fill level of the spool"]);
    for role in ["region", "image", "img"] {
        let nameless = names(role).into_iter().filter(|name| name.is_empty()).count();
        assert_eq!(nameless, 0, "each {role} has a name: {nodes:#?}");
    }
    let plots = [names("image"), names("img")].concat();
    assert_eq!(plots.len(), 8, "{plots:?}");
    assert!(
        plots[0].starts_with("received: ") && plots[0].contains("/s; at most "),
        "{plots:?}"
    );

    // The live region is read aloud only after a change, so it contains no continuously changing number.
    let aloud = "document.querySelectorAll('[role=status], [aria-live]').length === 1 && document.querySelector('#said').textContent";
    assert_eq!(browser.evaluate(aloud).unwrap(), "Losing events: No. ");
}

#[test]
fn keyboard_reaches_every_control() {
    let Some((mut browser, _bridge, _platform, _dir)) = shown(DESK) else {
        return;
    };
    let mut order = Vec::new();
    for _ in 0..8 {
        browser.press("Tab").unwrap();
        let focused = "(({ activeElement: at }) => at.getAttribute('aria-label') ?? (at.querySelector('h2') ?? at).textContent)(document)";
        order.push(browser.evaluate(focused).unwrap());
        let outline = browser
            .evaluate("getComputedStyle(document.activeElement).outlineStyle")
            .unwrap();
        assert_eq!(outline, "solid", "the focus must be visible: {order:?}");
        if order.last() == Some(&json!("Pause")) {
            browser.press("Enter").unwrap();
        }
    }
    assert_eq!(
        order,
        [
            "Runbooks",
            "Metrics",
            "Status",
            "Readiness",
            "Pause",
            "Ledgers",
            "Ledger of the sources, since the start",
            "Ledger of the sinks, since each one’s first event"
        ]
        .map(Value::from)
    );
    assert_eq!(
        browser
            .evaluate("document.querySelector('#pause').getAttribute('aria-pressed')")
            .unwrap(),
        "true"
    );
    browser
        .wait(
            "the pause",
            SOON,
            "document.querySelector('#link').textContent === 'paused'",
        )
        .unwrap();
}

/// Checks on each screen that all text is legible and nothing is wider than the screen.
pub(super) fn assert_legible(browser: &mut Browser) {
    for screen in [
        DESK,
        TELEPHONE,
        Screen { dark: true, ..DESK },
        Screen {
            dark: false,
            ..TELEPHONE
        },
    ] {
        browser.show_on(screen).unwrap();
        let width = screen.width;
        browser
            .wait("the screen", SOON, &format!("innerWidth === {width}"))
            .unwrap();
        assert_eq!(browser.evaluate(FAINT).unwrap(), json!([]), "on {screen:?}");
        let wide = browser.evaluate("document.documentElement.scrollWidth").unwrap();
        assert!(wide.as_u64().unwrap() <= u64::from(width), "{wide} on {screen:?}");
    }
}

#[test]
fn page_is_legible_on_every_screen() {
    let Some((mut browser, _bridge, _platform, _dir)) = shown(DESK) else {
        return;
    };
    assert_legible(&mut browser);
}
