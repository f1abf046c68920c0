//! Takes screenshots of the bridge's HTML page, which shows sources, spool and sinks.

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::browser::{Browser, Screen, chromium};
use neurobridge_tests::paths::{Scratch, workspace_root};
use neurobridge_tests::platform::Platform;
use neurobridge_tests::shared::Broker;

use crate::brokers::provide;
use crate::chromium;
use crate::shell::log;

/// The uptime of the bridge at the time of the screenshots, after which the plots contain data.
const SHOWN_SECONDS: u32 = 40;
/// The time limit for this uptime, many times longer for a busy machine.
const LIMIT: Duration = Duration::from_secs(300);
/// The width of the page, as shown in the README.
const WIDTH: u32 = 1180;
const HEIGHT: u32 = 1000;

/// Runs a bridge between two simulated platforms and real brokers, and takes screenshots of its page in both colour
/// schemes.
pub(super) fn run() -> Result<ExitCode> {
    chromium::install()?;
    let [kafka, nats] = [provide(Broker::Kafka)?, provide(Broker::Nats)?];
    let entrance_dir = Scratch::new("picture-entrance")?;
    // Each platform cuts its connection once, so that there are gaps whose events are fetched.
    let faults = [
        "--rate",
        "50",
        "--fault",
        "bad-json,after=400,times=2",
        "--fault",
        "cut,after=1000,times=1",
    ];
    let entrance = Platform::start(&entrance_dir, &faults)?;
    let gate_dir = Scratch::new("picture-gate")?;
    let faults = [
        "--rate",
        "9",
        "--fault",
        "cut,after=90,times=1",
        "--fault",
        "refuse-token,connection=2",
        "--fault",
        "refuse-token,connection=3",
        "--fault",
        "refuse-token,connection=4",
    ];
    let gate = Platform::start(&gate_dir, &faults)?;
    let dir = Scratch::new("picture-bridge")?;
    let config = config(
        entrance.address(),
        gate.address(),
        &kafka.address(),
        &nats.address(),
    );
    let bridge = Bridge::start_with_relative_paths(&dir, &config)?;

    let browser_dir = Scratch::new("picture-browser")?;
    let mut browser = Browser::start(&chromium()?, &browser_dir)?;
    let mut screen = Screen {
        width: WIDTH,
        height: HEIGHT,
        dark: false,
    };
    browser.show_on(screen)?;
    browser.open(&format!("http://{}/", bridge.address()))?;
    log(&format!("watching the page for {SHOWN_SECONDS} s"));
    let shown = format!(
        "document.querySelector('#word').textContent === 'No' && document.documentElement.dataset.uptime > {SHOWN_SECONDS}"
    );
    browser.wait("a page with data", LIMIT, &shown)?;
    let pictures = workspace_root().join("docs/pictures");
    fs::create_dir_all(&pictures).with_context(|| format!("creating the folder {}", pictures.display()))?;
    for (name, dark) in [("page-light.png", false), ("page-dark.png", true)] {
        screen.dark = dark;
        browser.show_on(screen)?;
        let path = pictures.join(name);
        fs::write(&path, browser.picture()?).with_context(|| format!("writing {}", path.display()))?;
        log(&format!("{} is written", path.display()));
    }
    Ok(ExitCode::SUCCESS)
}

fn config(entrance: &str, gate: &str, kafka: &str, nats: &str) -> String {
    let id = std::process::id();
    format!(
        r#"
        [sources.entrance]
        url = "ws://{entrance}/"
        token = "t"
        backfill.url = "http://{entrance}"

        [sources.north_gate]
        url = "ws://{gate}/"
        token = "t"
        backfill.url = "http://{gate}"

        [spool]
        type = "disk"
        max_size = "64 MiB"

        [sinks.kafka]
        type = "kafka"
        bootstrap_servers = "{kafka}"
        topic = "picture-{id}"
        create = true
        partitions = 6
        replicas = 1

        [sinks.nats]
        type = "nats"
        servers = ["{nats}"]
        subject = "picture-{id}.{{result}}"
        stream = {{ name = "PICTURE-{id}", subjects = ["picture-{id}.>"], create = true, max_age = "1h", replicas = 1 }}

        [sinks.archive]
        type = "file"
        path = "archive/events.jsonl"
        required = false
        "#
    )
}
