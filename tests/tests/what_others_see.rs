//! Data that the bridge exposes: metrics that exist from the start, the page, and no personal data except in the sinks;
//! and the token, which only the platform receives, over TLS.

mod files;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::certificates::Certificates;
use neurobridge_tests::http::EventStream;
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::platform::{Platform, Sent};
use neurobridge_tests::ports::free_ports;
use nix::sys::signal::Signal;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);
const TOKEN: &str = "a-token-that-nobody-may-see";
const IMAGES: [&str; 4] = [
    "face_image",
    "full_image",
    "initial_face_image",
    "initial_full_image",
];
/// The metrics that users' dashboards depend on: a published name never changes.
const PUBLISHED: [&str; 34] = [
    "neurobridge_build_info",
    "neurobridge_event_age_seconds",
    "neurobridge_sink_client_replacements_total",
    "neurobridge_sink_connect_failures_total",
    "neurobridge_sink_dead_letters_total",
    "neurobridge_sink_delivery_latency_seconds",
    "neurobridge_sink_errors_total",
    "neurobridge_sink_events_total",
    "neurobridge_sink_inflight_events",
    "neurobridge_sink_lag_events",
    "neurobridge_sink_lag_seconds",
    "neurobridge_sink_resent_events_total",
    "neurobridge_sink_up",
    "neurobridge_source_blocked_seconds_total",
    "neurobridge_source_clock_skew_seconds",
    "neurobridge_source_connections_total",
    "neurobridge_source_disconnections_total",
    "neurobridge_source_events_total",
    "neurobridge_source_frames_total",
    "neurobridge_source_gap_seconds_total",
    "neurobridge_source_gaps_total",
    "neurobridge_source_id_conflicts_total",
    "neurobridge_source_last_event_timestamp_seconds",
    "neurobridge_source_open_connections",
    "neurobridge_source_ping_rtt_seconds",
    "neurobridge_source_platform_errors_total",
    "neurobridge_source_received_bytes_total",
    "neurobridge_spool_durable_sequence",
    "neurobridge_spool_limit_bytes",
    "neurobridge_spool_size_bytes",
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
];
/// Faults of the feed, one of each type that is logged.
const FAULTS: [&str; 16] = [
    "--fault",
    "error=token a-token-that-nobody-may-see is about to expire,after=10,times=1",
    "--fault",
    "refuse-token=a-token-that-nobody-may-see is unknown,times=1",
    "--fault",
    "bad-json,after=20,times=1",
    "--fault",
    "unknown-kind,after=30,times=1",
    "--fault",
    "binary,after=40,times=1",
    "--fault",
    "duplicate,after=50,times=1",
    "--fault",
    "same-id,after=60,times=1",
    "--fault",
    "close=1001,after=500,times=1",
];

fn stop(bridge: Bridge) -> String {
    let (status, log) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(status.success(), "{status}: {log}");
    log
}

#[test]
fn half_open_connections_block_no_request() {
    let dir = Scratch::new("half-open").unwrap();
    let platform = Platform::start(&dir, &["--rate", "100"]).unwrap();
    let config = format!("[sources.main]\nurl = \"{}\"\ntoken = \"t\"\n", platform.url());
    let bridge = Bridge::start(&dir, &config).unwrap();
    let mut listener = EventStream::open(bridge.address(), "/status/stream")
        .unwrap()
        .unwrap();
    listener.next_event().unwrap();
    let half_open: Vec<TcpStream> = (0..600)
        .map(|_| {
            let mut stream = TcpStream::connect(bridge.address()).unwrap();
            stream
                .write_all(b"GET /status HTTP/1.1\r\nHost: x\r\nX: ")
                .unwrap();
            stream
        })
        .collect();
    assert_eq!(bridge.get("/livez").unwrap(), "ok\n");
    bridge.status().unwrap();
    assert!(bridge.metric("neurobridge_http_open_connections", &[]).unwrap() <= 128.0);
    let refused = |reason: &str| {
        bridge
            .metric("neurobridge_http_refusals_total", &[reason])
            .unwrap()
    };
    assert!(refused("reason=\"connection_limit\"") >= 400.0);
    listener.next_event().unwrap();
    drop(half_open);
    let (status, log) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(status.success(), "{log}");
}

#[test]
fn request_for_another_host_is_refused() {
    let dir = Scratch::new("hosts").unwrap();
    let platform = Platform::start(&dir, &["--rate", "100"]).unwrap();
    let config = format!("[sources.main]\nurl = \"{}\"\ntoken = \"t\"\n", platform.url());
    let bridge = Bridge::start(&dir, &config).unwrap();
    for path in [
        "/",
        "/status",
        "/status/stream",
        "/metrics",
        "/readyz",
        "/nothing",
    ] {
        let mut stream = TcpStream::connect(bridge.address()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: rebound.example.com\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 421 ") && answer.contains("http.hosts"),
            "{path}: {answer}"
        );
    }
    let refused = bridge
        .metric("neurobridge_http_refusals_total", &["reason=\"unknown_host\""])
        .unwrap();
    assert_eq!(refused, 6.0);
    bridge.stop(Signal::SIGTERM, SOON).unwrap();
}

#[test]
fn every_series_exists_from_the_start() {
    let config = |url: &str, kafka: u16| {
        format!(
            "[sources.main]\nurl = \"{url}\"\ntoken = \"{TOKEN}\"\nping_interval = \"50ms\"\n\
             [sinks.events]\ntype = \"file\"\n\
             [sinks.kafka]\ntype = \"kafka\"\nbootstrap_servers = \"127.0.0.1:{kafka}\"\nrequired = false\n"
        )
    };
    // No server listens on these ports.
    let [nowhere, kafka] = free_ports().unwrap();
    let quiet_dir = Scratch::new("series-quiet").unwrap();
    let quiet = Bridge::start(&quiet_dir, &config(&format!("ws://127.0.0.1:{nowhere}/"), kafka)).unwrap();
    let from_the_start = quiet.series().unwrap();

    let dir = Scratch::new("series-busy").unwrap();
    let platform = Platform::start(&dir, &[&["--count", "2000"][..], &FAULTS].concat()).unwrap();
    let busy = Bridge::start(
        &dir,
        &("drain_timeout = \"1s\"\n".to_owned() + &config(&platform.url(), kafka)),
    )
    .unwrap();
    busy.wait("traffic", SOON, |status| status.delivered("events") == 2001)
        .unwrap();
    busy.wait("pongs", SOON, |_| {
        let pongs = busy.metric("neurobridge_source_ping_rtt_seconds_count", &[]);
        pongs.unwrap() > 0.0
    })
    .unwrap();
    let with_traffic = busy.series().unwrap();
    // The label with the hash of the configuration differs, because the two bridges have different configurations.
    let differences: Vec<_> = from_the_start
        .symmetric_difference(&with_traffic)
        .filter(|series| !series.starts_with("neurobridge_configuration_info{"))
        .collect();
    assert!(differences.is_empty(), "{differences:#?}");
    let families: BTreeSet<&str> = with_traffic
        .iter()
        .map(|series| series.split('{').next().unwrap())
        .collect();
    for name in PUBLISHED {
        let found = families.contains(name) || families.contains(format!("{name}_count").as_str());
        assert!(found, "{name} in {families:#?}");
    }
    assert_eq!(
        labels(&with_traffic),
        [
            "change", "hash", "kind", "le", "outcome", "part", "reason", "sink", "source", "step", "version",
        ]
        .map(str::to_owned)
        .into(),
        "a new label must not have values from the feed"
    );
}

fn labels(series: &BTreeSet<String>) -> BTreeSet<String> {
    let of_one = |series: &String| -> Vec<String> {
        let labels = series.split_once('{').map_or("", |(_, labels)| labels);
        labels
            .split("=\"")
            .filter_map(|part| part.rsplit(['{', ',', '"']).next())
            .filter(|name| !name.is_empty() && *name != "}")
            .map(str::to_owned)
            .collect()
    };
    series.iter().flat_map(of_one).collect()
}

#[test]
fn page_loads_nothing_from_other_hosts() {
    let dir = Scratch::new("page").unwrap();
    let platform = Platform::start(&dir, &["--count", "1"]).unwrap();
    let config = format!("[sources.main]\nurl = \"{}\"\ntoken = \"t\"\n", platform.url());
    let bridge = Bridge::start(&dir, &config).unwrap();
    let page = bridge.get("/").unwrap();
    assert!(page.starts_with("<!doctype html>") && page.contains("<title>neurobridge</title>"));
    let files = [
        "page.css",
        "page.js",
        "parts.js",
        "plots.js",
        "words.js",
        "cluster.js",
        "history.js",
        "timeline.js",
        "icon.svg",
    ];
    let all = files
        .map(|file| bridge.get(&format!("/{file}")).unwrap())
        .concat()
        + &page;
    // This XML namespace looks like a URL, but nothing is loaded from it.
    let all = all.replace("http://www.w3.org/2000/svg", "");
    for elsewhere in ["http:", "https:", "//cdn", "@import", "url("] {
        assert!(!all.contains(elsewhere), "{elsewhere}");
    }
    for inline in ["<style", "style=", "onclick", "<script>"] {
        assert!(
            !page.contains(inline),
            "{inline}: the security policy forbids inline content"
        );
    }
    assert!(
        all.contains("status/stream"),
        "the page must show the live status"
    );
    assert_eq!(
        neurobridge_tests::http::get_any(bridge.address(), "/nothing")
            .unwrap()
            .0,
        404
    );
    stop(bridge);
}

#[test]
fn pages_and_log_contain_no_personal_data() {
    for level in ["info", "trace"] {
        let dir = Scratch::new("personal").unwrap();
        let platform = Platform::start(
            &dir,
            &[&["--count", "1000", "--token", TOKEN][..], &FAULTS].concat(),
        )
        .unwrap();
        let config = format!(
            "[log]\nlevel = \"{level}\"\n[sources.main]\nurl = \"{}\"\nping_interval = \"100ms\"\n[sinks.events]\ntype = \"file\"\n",
            platform.url()
        );
        let token = [("NEUROBRIDGE__SOURCES__MAIN__TOKEN", TOKEN)];
        let bridge = Bridge::start_with(&dir, &config, &token).unwrap();
        bridge
            .wait("all", SOON, |status| status.delivered("events") == 1001)
            .unwrap();
        let mut shown: Vec<(String, String)> = ["/", "/status", "/metrics", "/livez", "/readyz"]
            .map(|path| (path.to_owned(), bridge.get(path).unwrap()))
            .into();
        let mut stream = EventStream::open(bridge.address(), "/status/stream")
            .unwrap()
            .unwrap();
        shown.push(("/status/stream".to_owned(), stream.next_event().unwrap()));
        let log = stop(bridge);
        // Error texts of the platform are shown without the token.
        let status = &shown[1].1;
        assert!(status.contains("is about to expire"), "{status}");
        assert!(
            log.contains("is unknown") && log.contains("is about to expire"),
            "{log}"
        );
        shown.push((format!("the log at {level}"), log));
        let secrets = personal(&platform.stop().unwrap());
        for (place, text) in shown {
            assert!(!text.contains(TOKEN), "the token is in {place}");
            if let Some(secret) = secrets.iter().find(|secret| text.contains(secret.as_str())) {
                let line = text.lines().find(|line| line.contains(secret.as_str()));
                panic!("{secret} is in {place}: {line:?}");
            }
        }
    }
}

/// Returns the values that identify a person: `pid` and pictures.
fn personal(sent: &[Sent]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for event in sent {
        found.extend(event.pid.clone());
        let entry: Value = serde_json::from_str(&event.data).unwrap();
        found.extend(
            IMAGES
                .iter()
                .filter_map(|name| entry[name].as_str().map(str::to_owned)),
        );
    }
    assert!(found.len() > 1000, "only {} values", found.len());
    found
}

#[test]
fn token_from_the_environment_is_unchanged() {
    for token in ["007", "true", "[x]", "1e3", " = \"'"] {
        let dir = Scratch::new("scalar").unwrap();
        let platform = Platform::start(&dir, &["--count", "10", "--token", token]).unwrap();
        let config = format!("[sources.main]\nurl = \"{}\"\n", platform.url());
        let variables = [("NEUROBRIDGE__SOURCES__MAIN__TOKEN", token)];
        let bridge = Bridge::start_with(&dir, &config, &variables).unwrap();
        bridge
            .wait(&format!("{token} to be accepted"), SOON, |status| {
                status.delivered("events") == 10
            })
            .unwrap();
        stop(bridge);
    }
}

#[test]
fn certificate_is_verified_by_the_configured_authority() {
    let dir = Scratch::new("wss").unwrap();
    let known = Certificates::generate(&dir.join("known")).unwrap();
    let stranger = Certificates::generate(&dir.join("stranger")).unwrap();
    let path = |path: &PathBuf| path.to_str().unwrap().to_owned();
    let (cert, key) = (path(&known.server_cert), path(&known.server_key));
    let platform = Platform::start(
        &dir,
        &[
            "--count",
            "100",
            "--token",
            TOKEN,
            "--tls-cert",
            &cert,
            "--tls-key",
            &key,
        ],
    )
    .unwrap();
    let config = |ca: &Path| {
        format!(
            "[sources.main]\nurl = \"{}\"\ntoken = \"{TOKEN}\"\n[sources.main.tls]\nca_file = {ca:?}\n[sinks.events]\ntype = \"file\"\n",
            platform.tls_url()
        )
    };
    let bridge = Bridge::start(&dir, &config(&stranger.ca)).unwrap();
    let refused = bridge
        .wait("the refusal", SOON, |status| {
            status.source("main").reason.is_some()
        })
        .unwrap();
    let reason = refused.source("main").reason.as_deref().unwrap();
    assert!(reason.contains("certificate"), "{reason}");
    let labels = &["outcome=\"tls_failed\""];
    let failed = bridge.metric("neurobridge_source_connections_total", labels);
    assert!(failed.unwrap() >= 1.0);
    assert_eq!(refused.delivered("events"), 0);
    stop(bridge);

    let bridge = Bridge::start(&dir, &config(&known.ca)).unwrap();
    bridge
        .wait("all events over TLS", SOON, |status| {
            status.delivered("events") == 100
        })
        .unwrap();
    stop(bridge);
}
