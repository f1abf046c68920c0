//! Fetches the missed events of a declared feed from the list in its declaration.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::*;

/// Returns the declaration of the feed, for the simulator and the bridge, with the list of events at `address`.
fn declaration(address: &str, pages: &str) -> String {
    format!(
        r#"
secrets = {{ key = {{ value = "key-of-the-test" }} }}
events = "data"
rules = [{{ when = {{ "$.channel" = "orders" }}, is = "event" }}, {{ is = "ignore" }}]
event = {{ id = "n", time = {{ path = "ts", unit = "ms" }}, type = "$.channel", key = "customer" }}
[backfill]
url = "http://{address}/v1/orders?since={{from}}&until={{to}}"
headers = {{ Authorization = "Bearer {{secret.key}}" }}
unit = "ms"
list = "page.items"
frame = {{ channel = "orders", data = ["{{entry:json}}"] }}
pages = {pages}
"#
    )
}

const OFFSET: &str = r#"{ type = "offset", limit = 100 }"#;

/// Writes the declaration for the simulator, and returns the path of its file.
fn declaration_file(dir: &Scratch, pages: &str) -> String {
    let path = dir.join("simulated.toml");
    fs::write(&path, declaration("simulator.invalid", pages)).unwrap();
    path.display().to_string()
}

fn source_with(platform: &Platform, pages: &str) -> String {
    let declaration =
        declaration(platform.address(), pages).replace("[backfill]", "[sources.main.feed.backfill]");
    format!(
        r#"
[sources.main]
url = "{}"
backoff = {{ min = "20ms", max = "200ms" }}
backfill = {{ rate = 500, overlap = "5s", give_up_after = "1s" }}
[sources.main.feed]
{declaration}
"#,
        platform.url()
    )
}

const ORDERS: Feed = Feed {
    name: "declared-gaps",
    source: |platform| {
        source_with(platform, OFFSET).replace("give_up_after = \"1s\"", "give_up_after = \"1h\"")
    },
    person: "customer",
    subject: "gaps.{customer}",
};

#[test]
fn missed_events_of_declared_feeds_are_fetched_once_in_order() {
    let dir = Scratch::new(ORDERS.name).unwrap();
    let path = declaration_file(&dir, OFFSET);
    let args = ["--feed", &path, "--rest-order", "oldest"];
    assert_fetched_once_and_in_order(&ORDERS, &dir, &args);
}

/// Returns the ids of the events in a file, in the order of the lines.
fn ids_in(file: &Path) -> Vec<u64> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let events = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    events
        .filter(|event| event["type"] != "neurobridge.gap")
        .map(|event| event["id"].as_str().unwrap().parse().unwrap())
        .collect()
}

#[test]
fn each_kind_of_paging_fetches_all_missed_events() {
    for (index, (pages, order)) in [
        (
            r#"{ type = "page", limit = 50, limit_parameter = "size" }"#,
            "newest",
        ),
        (r#"{ type = "next", path = "page.next" }"#, "oldest"),
        (
            r#"{ type = "next", path = "cursor", parameter = "after" }"#,
            "newest",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let dir = Scratch::new(&format!("declared-pages-{index}")).unwrap();
        let (path, record) = (declaration_file(&dir, pages), dir.join("recognised.jsonl"));
        let recognised_path = record.display().to_string();
        let args = [
            "--feed",
            &path,
            "--rate",
            RATE,
            "--recognised",
            &recognised_path,
            "--rest-order",
            order,
        ];
        let platform = Platform::start(&dir, &args).unwrap();
        // Only with a spool on disk, the deduplication window survives a crash.
        let config = source_with(&platform, pages) + "[spool]\ntype = \"disk\"\n";
        let mut bridge = Bridge::start(&dir, &config).unwrap();
        bridge
            .wait("events", SOON, |status| status.delivered("events") > 100)
            .unwrap();
        bridge.process().kill().unwrap();
        let until = recognised(&record) + 400;
        wait_until("events without a connection", SOON, || {
            recognised(&record) >= until
        })
        .unwrap();
        let bridge = Bridge::start(&dir, &config).unwrap();
        let gaps = wait_for_outcomes(&dir, 1);
        assert_eq!(gaps[0]["outcome"], "recovered", "{pages}: {gaps:#?}");

        let output = Command::new(neurobridge())
            .args([
                "backfill",
                "--source",
                "main",
                "--from",
                "1h",
                "--dry-run",
                "--json",
                "-c",
            ])
            .arg(dir.join("neurobridge.toml"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{pages}: {output:?}");
        let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(shown["outcome"], "complete");
        assert!(shown["events"].as_array().unwrap().len() > 400, "{pages}");
        assert_eq!(shown["events"][0]["type"], "main.orders");

        let file = bridge.data_dir().join("events.jsonl");
        let (status, log) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
        assert!(status.success(), "{pages}: {log}");
        let ids = ids_in(&file);
        let distinct: HashSet<u64> = ids.iter().copied().collect();
        assert_eq!(ids.len(), distinct.len(), "{pages}: an event is stored twice");
        assert_eq!(distinct, (1..=ids.len() as u64).collect(), "{pages}");
    }
}

#[test]
fn missing_events_of_a_declared_feed_lie_in_reported_gaps() {
    let dir = Scratch::new("declared-lost").unwrap();
    let (path, record) = (declaration_file(&dir, OFFSET), dir.join("recognised.jsonl"));
    let recognised_path = record.display().to_string();
    let args = [
        "--feed",
        &path,
        "--rate",
        RATE,
        "--recognised",
        &recognised_path,
        "--fault",
        "rest-http=503",
    ];
    let platform = Platform::start(&dir, &args).unwrap();
    // With a spool on disk, the report of a gap survives the next crash.
    let config = source_with(&platform, OFFSET) + "[spool]\ntype = \"disk\"\n";
    let mut bridge = Bridge::start(&dir, &config).unwrap();
    for outages in 1..=2 {
        bridge
            .wait("events", SOON, |status| status.delivered("events") > 100)
            .unwrap();
        bridge.process().kill().unwrap();
        let until = recognised(&record) + 300;
        wait_until("events without a connection", SOON, || {
            recognised(&record) >= until
        })
        .unwrap();
        bridge = Bridge::start(&dir, &config).unwrap();
        wait_for_outcomes(&dir, outages);
    }
    let gaps = wait_for_outcomes(&dir, 2);
    let file = bridge.data_dir().join("events.jsonl");
    let (status, log) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(status.success(), "{log}");
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(text.matches("\"neurobridge.gap\"").count(), 2, "{gaps:#?}");

    let ids: HashSet<u64> = ids_in(&file).into_iter().collect();
    let last = *ids.iter().max().unwrap();
    let recognised: BTreeMap<u64, Timestamp> = fs::read_to_string(&record)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|line| {
            let text = |key: &str| line[key].as_str().unwrap().to_owned();
            (text("id").parse().unwrap(), text("at").parse().unwrap())
        })
        .collect();
    let missing = recognised
        .iter()
        .filter(|(id, _)| **id < last && !ids.contains(id));
    let time = |gap: &Value, key: &str| gap[key].as_str().unwrap().parse::<Timestamp>().unwrap();
    // The times of recognition and of sending differ slightly.
    let near = SignedDuration::from_secs(1);
    let mut count = 0;
    for (id, at) in missing {
        let is_reported = gaps.iter().any(|gap| {
            gap["outcome"] == "unrecovered"
                && (time(gap, "began") - near..=time(gap, "ended") + near).contains(at)
        });
        assert!(
            is_reported,
            "missing event {id} of {at} lies in no reported gap: {gaps:#?}"
        );
        count += 1;
    }
    assert!(count > 500, "only {count} events are missing");
}
