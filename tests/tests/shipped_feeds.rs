//! The shipped declarations of feeds, each against a simulator that plays the same declaration.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::kafka::{admin::KafkaAdmin, records::read_topic};
use neurobridge_tests::nats::NatsOptions;
use neurobridge_tests::nats::client::read_stream;
use neurobridge_tests::paths::{Scratch, workspace_root};
use neurobridge_tests::platform::{DeclaredSent, Platform};
use neurobridge_tests::shared::{kafka_bootstrap, own_nats};
use nix::sys::signal::Signal;

/// The time limit of each wait: far longer than any wait of these tests takes on two busy cores.
const LIMIT: Duration = Duration::from_secs(300);
/// The number of events of each feed, unless `NEUROBRIDGE_TEST_FEED_EVENTS` sets another number.
const EVENTS: usize = 20_000;

fn events() -> usize {
    let named = std::env::var("NEUROBRIDGE_TEST_FEED_EVENTS");
    named.map_or(EVENTS, |named| named.parse().unwrap())
}

/// A feed: its declaration, the faults of its simulator, and the CloudEvents type of its events.
pub(crate) struct Feed {
    pub(crate) name: &'static str,
    faults: &'static [&'static str],
    kind: &'static str,
}

/// The connection of each feed is cut twice. A feed whose declaration has a refusal also refuses the second connection.
pub(crate) const FEEDS: [Feed; 6] = [
    Feed {
        name: "binance",
        faults: &["cut,after=6000,times=2"],
        kind: "com.binance.trade",
    },
    Feed {
        name: "bluesky-jetstream",
        faults: &["cut,after=6000,times=2"],
        kind: "network.bsky.commit",
    },
    Feed {
        name: "coinbase-exchange",
        faults: &["cut,after=6000,times=2", "refuse-token,connection=2"],
        kind: "com.coinbase.exchange.match",
    },
    Feed {
        name: "graphql-transport-ws",
        faults: &["cut,after=6000,times=2", "close=4400,after=3000,times=1"],
        kind: "graphql_transport_ws.unknown",
    },
    Feed {
        name: "okx",
        faults: &["cut,after=6000,times=2", "refuse-token,connection=2"],
        kind: "com.okx.trades",
    },
    Feed {
        name: "polygon",
        faults: &["cut,after=6000,times=2", "refuse-token,connection=2"],
        kind: "io.polygon.T",
    },
];

impl Feed {
    /// Returns the name of the source.
    pub(crate) fn source(&self) -> String {
        self.name.replace('-', "_")
    }

    /// Writes the declaration with the values of the secrets instead of the paths of secret files. Returns the path.
    pub(crate) fn declaration(&self, dir: &Scratch) -> PathBuf {
        let shipped = workspace_root().join(format!("config/feeds/{}.toml", self.name));
        let text = fs::read_to_string(shipped).unwrap();
        let lines = text.lines().map(|line| match line.split_once("{ file = \"") {
            Some((before, rest)) if line.starts_with("secrets") => {
                let (_, after) = rest.split_once('"').unwrap();
                format!("{before}{{ value = \"s3cret-key\"{after}")
            }
            _ => line.to_owned(),
        });
        let path = dir.join(format!("{}.toml", self.name));
        fs::write(&path, lines.collect::<Vec<_>>().join("\n")).unwrap();
        path
    }
}

/// Checks with [`assert_in_order`] that each event arrived once, and that none is missing.
fn assert_complete(feed: &str, sent: &[DeclaredSent], lanes: &[Vec<(String, String)>]) {
    let count = events();
    assert_eq!(sent.len(), count, "{feed}");
    assert_eq!(assert_in_order(feed, sent, lanes), count, "{feed}");
}

/// Checks that no event arrived twice, that each has its body, and that the events of each key are in order within a
/// lane. A lane is a destination that keeps the order: a partition, a stream or a file. Returns the number of events
/// that arrived.
pub(crate) fn assert_in_order(feed: &str, sent: &[DeclaredSent], lanes: &[Vec<(String, String)>]) -> usize {
    let by_id: HashMap<&str, &DeclaredSent> = sent.iter().map(|event| (event.id.as_str(), event)).collect();
    assert_eq!(by_id.len(), sent.len(), "{feed}: each event has its own id");
    let mut seen = HashSet::new();
    for lane in lanes {
        let mut last: HashMap<&Option<String>, u64> = HashMap::new();
        for (id, body) in lane {
            let event = by_id
                .get(id.as_str())
                .unwrap_or_else(|| panic!("{feed}: {id} was not sent"));
            assert_eq!(&event.body, body, "{feed}: {id}");
            assert!(seen.insert(id), "{feed}: {id} arrived twice");
            let before = last.insert(&event.key, event.number);
            assert!(
                before.is_none_or(|before| before < event.number),
                "{feed}: {id} is out of order"
            );
        }
    }
    seen.len()
}

fn config(sources: &[(String, PathBuf, String)], bootstrap: &str, topic: &str, nats: &str) -> String {
    // After each reconnect the feed with `resume` sends the events of the last five seconds again. In this time all
    // feeds together send more events than the default deduplication window contains.
    let mut text = "drain_timeout = \"60s\"\n[deduplicate]\nmax_events = 262_144\n".to_owned();
    for (name, declaration, url) in sources {
        let feed = declaration.display();
        text.push_str(&format!(
            "[sources.{name}]\nurl = \"{url}\"\nfeed = \"{feed}\"\nbackoff = {{ min = \"10ms\", max = \"200ms\" }}\n"
        ));
    }
    text.push_str(&format!(
        r#"
        [spool]
        type = "disk"

        [sinks.kafka]
        type = "kafka"
        bootstrap_servers = "{bootstrap}"
        topic = "{topic}"

        [sinks.stream]
        type = "nats"
        servers = ["{nats}"]
        subject = "feeds.{{feed}}"
        stream = {{ name = "FEEDS", create = true, max_age = "1h", replicas = 1, duplicate_window = "100ms" }}
        "#
    ));
    text
}

#[test]
fn shipped_feeds_arrive_complete_and_in_order() {
    let Some(bootstrap) = kafka_bootstrap() else {
        return;
    };
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let dir = Scratch::new("shipped-feeds").unwrap();
    let topic = format!("shipped-feeds-{}", std::process::id());
    KafkaAdmin::new(&bootstrap)
        .unwrap()
        .create_topic(&topic, 3, &[])
        .unwrap();
    let count = events().to_string();
    let (mut platforms, mut sources) = (Vec::new(), Vec::new());
    for feed in &FEEDS {
        let folder = Scratch::new(feed.name).unwrap();
        let declaration = feed.declaration(&folder);
        let path = declaration.display().to_string();
        let mut args = vec!["--feed", &path, "--count", &count];
        args.extend(feed.faults.iter().flat_map(|rule| ["--fault", *rule]));
        let platform = Platform::start(&folder, &args).unwrap();
        sources.push((feed.source(), declaration, platform.url()));
        platforms.push((platform, folder));
    }
    let bridge = Bridge::start(&dir, &config(&sources, &bootstrap, &topic, &nats.url())).unwrap();
    let all = (FEEDS.len() * events()) as u64;
    bridge
        .wait("all events to be delivered", LIMIT, |status| {
            ["kafka", "stream"]
                .iter()
                .all(|sink| status.sink(sink).ledger.delivered >= all)
        })
        .unwrap();
    let (status, log) = bridge.stop(Signal::SIGTERM, LIMIT).unwrap();
    assert!(status.success(), "{status}: {log}");
    assert!(!log.contains("s3cret-key"), "{log}");
    for feed in &FEEDS {
        let source = format!("source=\"{}\"", feed.source());
        let refusals = log
            .lines()
            .filter(|line| line.contains(&source) && line.contains("the feed refused the connection"));
        let expected = feed
            .faults
            .iter()
            .filter(|rule| rule.starts_with("refuse"))
            .count();
        assert_eq!(refusals.count(), expected, "{source}: {log}");
    }

    let records = read_topic(&bootstrap, &topic, LIMIT).unwrap();
    let messages = read_stream(&nats.url(), "FEEDS", LIMIT).unwrap();
    for (feed, (platform, _folder)) in FEEDS.iter().zip(platforms) {
        let sent = platform.stop_declared().unwrap();
        let (name, kind) = (feed.source(), feed.kind);
        let source = format!("/feeds/{name}");
        let mut lanes = vec![Vec::new(); 3];
        for record in records
            .iter()
            .filter(|record| record.header("ce_source") == Some(&source))
        {
            assert_eq!(record.header("ce_type"), Some(kind));
            assert!(
                record.header("ce_time").is_some_and(|time| time.ends_with('Z')),
                "{name}"
            );
            let value = String::from_utf8(record.value.clone().unwrap()).unwrap();
            let id = record.header("ce_id").unwrap().to_owned();
            if lanes.iter().all(Vec::is_empty) {
                let event = sent.iter().find(|event| event.id == id).unwrap();
                let key = event.key.as_deref().map(str::as_bytes);
                assert_eq!(record.key.as_deref(), key, "{name}");
            }
            lanes[usize::try_from(record.partition).unwrap()].push((id, value));
        }
        assert_complete(feed.name, &sent, &lanes);
        let of_feed = messages
            .iter()
            .filter(|message| message.subject == format!("feeds.{name}"))
            .map(|message| {
                assert_eq!(message.header("ce-type"), Some(kind));
                let id = message.header("ce-id").unwrap().to_owned();
                (id, String::from_utf8(message.payload.clone()).unwrap())
            });
        assert_complete(feed.name, &sent, &[of_feed.collect()]);
    }
}

/// Returns the ids of all events that the simulator recognised, including those without a connected client.
fn recognised(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["id"].as_str().unwrap().to_owned()
        })
        .collect()
}

/// The events of the feed with `resume` are complete. Of the other feeds, only the events sent while no bridge ran may be
/// missing.
#[test]
fn killed_bridge_repeats_no_event_and_resumes_the_feed() {
    const COUNT: usize = 6000;
    const RESUMED: &str = "bluesky-jetstream";
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let dir = Scratch::new("killed-feeds").unwrap();
    let count = COUNT.to_string();
    let mut text = format!(
        "[spool]\ntype = \"disk\"\n[sinks.stream]\ntype = \"nats\"\nservers = [\"{}\"]\nsubject = \"feeds.{{feed}}\"\n\
         stream = {{ name = \"FEEDS\", create = true, max_age = \"1h\", replicas = 1, duplicate_window = \"100ms\" }}\n",
        nats.url()
    );
    let resumed = RESUMED.replace('-', "_");
    text.push_str(&format!(
        "[sinks.resumed]\ntype = \"file\"\nfilter = {{ feed = \"{resumed}\" }}\n"
    ));
    let mut platforms = Vec::new();
    for feed in &FEEDS {
        let folder = Scratch::new(feed.name).unwrap();
        let declaration = feed.declaration(&folder);
        let file = folder.join("recognised.ndjson");
        let path = declaration.display().to_string();
        let recognised = file.to_str().unwrap();
        let args = [
            "--feed",
            &path,
            "--rate",
            "200",
            "--count",
            &count,
            "--recognised",
            recognised,
        ];
        let platform = Platform::start(&folder, &args).unwrap();
        let (name, url) = (feed.source(), platform.url());
        text.push_str(&format!("[sources.{name}]\nurl = \"{url}\"\nfeed = \"{path}\"\n"));
        platforms.push((platform, file, folder));
    }
    for reached in [6000, 18_000] {
        let mut bridge = Bridge::start(&dir, &text).unwrap();
        bridge
            .wait("events in the stream", LIMIT, |status| {
                status.delivered("stream") >= reached
            })
            .unwrap();
        bridge.process().kill().unwrap();
    }
    let bridge = Bridge::start(&dir, &text).unwrap();
    bridge
        .wait("all events of the feed with resume", LIMIT, |status| {
            status.delivered("resumed") >= COUNT as u64
        })
        .unwrap();
    let unrecovered = |source: &str| {
        let labels = [
            format!("source=\"{source}\""),
            "outcome=\"unrecovered\"".to_owned(),
        ];
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        bridge.metric("neurobridge_source_gaps_total", &labels).unwrap()
    };
    assert!(unrecovered(&resumed) < 0.5 && unrecovered("okx") > 1.5);
    let (status, log) = bridge.stop(Signal::SIGTERM, LIMIT).unwrap();
    assert!(status.success(), "{status}: {log}");
    let messages = read_stream(&nats.url(), "FEEDS", LIMIT).unwrap();
    for (feed, (platform, file, _folder)) in FEEDS.iter().zip(platforms) {
        let sent = platform.stop_declared().unwrap();
        let subject = format!("feeds.{}", feed.source());
        let of_feed = messages.iter().filter(|message| message.subject == subject);
        let of_feed = of_feed.map(|message| {
            let id = message.header("ce-id").unwrap().to_owned();
            (id, String::from_utf8(message.payload.clone()).unwrap())
        });
        let arrived = assert_in_order(feed.name, &sent, &[of_feed.collect()]);
        let recognised = recognised(&file);
        if feed.name == RESUMED {
            assert_eq!((recognised.len(), arrived), (COUNT, COUNT), "{}", feed.name);
        } else {
            assert!((COUNT / 3..=COUNT).contains(&arrived), "{}: {arrived}", feed.name);
        }
    }
}
